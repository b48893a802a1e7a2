"""Fine-tune a checkpoint of transformers into a teacher for `hf-rnn distill`, by the Trainer.

    python scripts/finetune_teacher.py --model microsoft/MiniLM-L12-H384-uncased --data_dir DIR
    --output_dir teacher hf-rnn distill --teacher teacher --data_dir DIR --output_dir out

The result is an ordinary folder of transformers with the label names of the data. The epoch with
the best macro-recall on the validation split is kept.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def load_checkpoint(name: str, class_names: list[str]) -> tuple[Any, Any]:
    """Load a checkpoint with a layer for these classes, and its tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(
        name,
        num_labels=len(class_names),
        id2label=dict(enumerate(class_names)),
        label2id={label: index for index, label in enumerate(class_names)},
        problem_type="single_label_classification",
        ignore_mismatched_sizes=True,  # replaces the layer of another task
        trust_remote_code=False,
    )
    if tokenizer.pad_token is None:  # generative models
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def main() -> None:
    """Fine-tune, and print the scores on the validation and test splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="checkpoint to start from: a folder, or an id on the Hub"
    )
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="folder with train.tsv and dev.tsv"
    )
    parser.add_argument(
        "--max_bad_rows", default="0", help="bad rows to skip: a count, or a share such as 0.1%%"
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="new or empty folder for the teacher"
    )
    parser.add_argument("--epochs", type=float, default=3.0, help="default: %(default)s")
    parser.add_argument("--batch_size", type=int, default=32, help="default: %(default)s")
    parser.add_argument(
        "--learning_rate", type=float, default=5e-5, help="maximum (default: %(default)s)"
    )
    parser.add_argument(
        "--max_length", type=int, default=128, help="tokens per text (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=42, help="draws layer and order (default: %(default)s)"
    )
    parser.add_argument("--bf16", action="store_true", help="multiply in bfloat16")
    parser.add_argument("--use_cpu", action="store_true", help="do not use an accelerator")
    flags = parser.parse_args()

    from transformers import set_seed

    from hf_rnn import load_tsv

    if flags.output_dir.exists() and any(flags.output_dir.iterdir()):
        parser.error(f"--output_dir {flags.output_dir} is not empty: give a new one")
    texts = load_tsv(flags.data_dir, max_bad_rows=flags.max_bad_rows)
    set_seed(flags.seed)
    try:
        model, tokenizer = load_checkpoint(flags.model, texts["train"].features["label"].names)
    except Exception as error:  # transformers raises any type
        parser.error(f"--model {flags.model} cannot be loaded: {error!s:.500}")
    positions = getattr(model.config, "max_position_embeddings", flags.max_length)
    tokenizer.model_max_length = min(flags.max_length, tokenizer.model_max_length, positions)
    scores = fine_tune(flags, model, tokenizer, texts)
    if not all(weight.isfinite().all() for weight in model.parameters()):
        parser.error(f"training diverged: use a --learning_rate below {flags.learning_rate:g}")
    model.save_pretrained(flags.output_dir)
    tokenizer.save_pretrained(flags.output_dir)
    print(json.dumps({"teacher": str(flags.output_dir), **scores}))


def fine_tune(flags: argparse.Namespace, model: Any, tokenizer: Any, texts: Any) -> dict[str, Any]:
    """Train a model on the split `train` and return the scores of its best epoch on the others."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from hf_rnn import classification_metrics, encode

    names = texts["train"].features["label"].names
    examples = {split: encode(rows, tokenizer) for split, rows in texts.items()}

    def compute_metrics(predicted: Any) -> dict[str, float]:
        scores = classification_metrics(
            predicted.predictions.argmax(axis=-1), predicted.label_ids, names
        )
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    # the Trainer prints its log; standard output is for the result
    with (
        tempfile.TemporaryDirectory(prefix="teacher-") as scratch,
        contextlib.redirect_stdout(sys.stderr),
    ):
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                num_train_epochs=flags.epochs,
                per_device_train_batch_size=flags.batch_size,
                per_device_eval_batch_size=256,
                learning_rate=flags.learning_rate,
                warmup_steps=0.1,  # a share of the steps
                weight_decay=0.01,
                eval_strategy="epoch",
                save_strategy="epoch",
                logging_strategy="epoch",
                save_total_limit=1,
                load_best_model_at_end=True,
                metric_for_best_model="macro_recall",
                seed=flags.seed,
                report_to=[],
                # bf16 on a CPU needs it
                use_cpu=flags.use_cpu or not torch.accelerator.is_available(),
                bf16=flags.bf16,
                dataloader_pin_memory=torch.accelerator.is_available() and not flags.use_cpu,
            ),
            train_dataset=examples["train"],
            eval_dataset=examples["validation"],
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=compute_metrics,
        )
        trainer.train()
        splits = [split for split in ("validation", "test") if split in examples]
        return {
            split: trainer.evaluate(examples[split], metric_key_prefix=split) for split in splits
        }


if __name__ == "__main__":
    main()
