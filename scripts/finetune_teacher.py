"""Fine-tune any checkpoint of transformers into a teacher for `hf-rnn distill`, with the plain Trainer.

    python scripts/finetune_teacher.py --model microsoft/MiniLM-L12-H384-uncased --data_dir DIR --output_dir teacher
    hf-rnn distill --teacher teacher --data_dir DIR --output_dir out

The texts are read by the package's loader, so that the teacher's labels have the data's names. What is left is an
ordinary transformers folder. The epoch with the best macro-recall on the validation split is kept.

With --folds 3 there are three of them, teacher/fold-1 and so on, each fine-tuned without a third of the training
texts, and `hf-rnn distill --teacher teacher` asks of a training text the one that has not seen it. One that has seen a
text says little more than its label. What was stopped between two of them goes on with --resume.
"""

import argparse
import contextlib
import hashlib
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import command_line


def number(text: str) -> float:
    """Read a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be greater than 0, found {text}")
    return value


def whole_number(text: str) -> int:
    """Read a number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, found {text}")
    return value


def seed(text: str) -> int:
    """Read a number that seeds every generator."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, found {text}")
    return value


def parse_flags() -> argparse.Namespace:
    """Read the flags."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("--model", required=True, help="checkpoint to start from: a folder, or an id on the Hub")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.tsv, and dev.tsv if there is")
    parser.add_max_bad_rows()
    parser.add_argument("--output_dir", type=Path, required=True, help="where the teacher goes: a new or empty folder")
    parser.add_argument("--epochs", type=number, default=3.0, help="times the texts are read (default 3)")
    parser.add_argument("--batch_size", type=whole_number, default=32, help="texts a step (default 32)")
    parser.add_argument("--learning_rate", type=number, default=5e-5, help="at its highest (default 5e-5)")
    parser.add_argument("--max_length", type=whole_number, default=128, help="tokens read of a text (default 128)")
    parser.add_argument("--folds", type=whole_number, default=1, help="teachers, each without a part of the texts")
    parser.add_argument("--seed", type=seed, default=42, help="of the new layer and of the order (default 42)")
    parser.add_argument("--bf16", action="store_true", help="multiply in bfloat16, where the machine does it faster")
    parser.add_argument("--resume", action="store_true", help="go on with --folds that were stopped")
    parser.add_argument("--use_cpu", action="store_true", help="leave an accelerator alone")
    flags = parser.parse_args()
    flags.refuse = parser.refuse
    return flags


def load_checkpoint(name: str, class_names: list[str]) -> tuple[Any, Any]:
    """Load a checkpoint with a new layer for these classes, and its tokenizer.

    Where it sorts texts into classes of the same names already, its layer is kept, in the order of these.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    if not Path(name).exists() and (name.count("/") > 1 or name.startswith(("/", "."))):
        raise OSError(f"there is no folder {name}")
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    before = AutoConfig.from_pretrained(name, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(
        name,
        num_labels=len(class_names),
        id2label=dict(enumerate(class_names)),
        label2id={label: index for index, label in enumerate(class_names)},
        problem_type="single_label_classification",
        ignore_mismatched_sizes=True,  # the layer of another task is replaced
        trust_remote_code=False,
    )
    if before.num_labels == len(class_names) and "ForSequenceClassification" in str(before.architectures):
        _adapt_layer(model, before, class_names)
    if tokenizer.pad_token is None:  # as generative models have it; the classifier reads the last real token
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError("its tokenizer has no token to pad with")
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _adapt_layer(model: Any, before: Any, class_names: list[str]) -> None:
    """Order the last layer of a classifier of as many classes by name, or start it anew where the names are others."""
    import torch

    inside = f"{model.base_model_prefix}."
    layers = [part for name, part in model.named_modules() if not name.startswith(inside)]
    last = [part for part in layers if isinstance(part, torch.nn.Linear) and part.out_features == len(class_names)]
    if not last:
        raise ValueError(f"it has no last layer of {len(class_names)} outputs")
    own = {label: number for number, label in before.id2label.items()}
    with torch.no_grad():
        for weight in last[-1].parameters():
            if own.keys() == set(class_names):
                weight.copy_(weight[[own[label] for label in class_names]])
            elif weight.dim() == 1:
                weight.zero_()
            else:
                weight.normal_(std=getattr(before, "initializer_range", 0.02))


def main() -> None:
    """Fine-tune, and print the scores on the validation split and on the test split if there is one."""
    flags = parse_flags()

    from transformers import set_seed

    from hf_rnn import load_tsv
    from hf_rnn.hub.model_folder import FinishedFolder
    from hf_rnn.training.distillation.cross_fitting import UNFINISHED_FILE, fold_folder, fold_of, write_folds
    from hf_rnn.training.distillation.teacher import check_tokenizer
    from hf_rnn.training.output_dir import make_writable
    from hf_rnn.utils.atomic_write import write_whole
    from hf_rnn.utils.errors import UserError

    check_output_dir(flags)
    try:
        texts = load_tsv(flags.data_dir, max_bad_rows=flags.max_bad_rows)
    except (UserError, OSError) as error:
        flags.refuse(str(error))
    folds = [fold_of(text, flags.folds) for text in texts["train"]["text"]]
    for fold in range(flags.folds):
        if fold not in folds:
            flags.refuse(f"--folds {flags.folds} are too many for {len(folds)} texts: fold {fold + 1} has none")
    told = take_up(flags, texts) if flags.resume else []
    for fold in range(len(told), flags.folds):
        set_seed(flags.seed)  # of the new layer
        try:
            model, tokenizer = load_checkpoint(flags.model, texts["train"].features["label"].names)
        except Exception as error:  # files that others wrote make the library raise anything
            flags.refuse(f"--model {flags.model} cannot be loaded: {' '.join(str(error).split()):.500}")
        try:
            make_writable(FinishedFolder(flags.output_dir))  # before hours of training
            tokenizer.model_max_length = check_tokenizer(flags.model, model.config, tokenizer, flags.max_length)
        except UserError as error:
            flags.refuse(str(error))
        seen = [row for row, its_fold in enumerate(folds) if its_fold != fold or flags.folds == 1]
        scores = fine_tune(flags, model, tokenizer, {**texts, "train": texts["train"].select(seen)})
        if not all(weight.isfinite().all() for weight in model.parameters()):
            flags.refuse(f"the training diverged: take a smaller --learning_rate than {flags.learning_rate:g}")
        folder = flags.output_dir if flags.folds == 1 else fold_folder(flags.output_dir, fold)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        told.append({"teacher": str(folder), **scores})
        if flags.folds > 1:
            note = {"made_from": describe(flags, texts), "folds": told}
            write_whole(flags.output_dir / UNFINISHED_FILE, json.dumps(note).encode())
    if flags.folds == 1:
        print(json.dumps(told[0]))
    else:
        write_folds(flags.output_dir, flags.folds)
        (flags.output_dir / UNFINISHED_FILE).unlink()
        print(json.dumps({"teacher": str(flags.output_dir), "folds": told}))


def check_output_dir(flags: argparse.Namespace) -> None:
    """Refuse a folder that holds anything, and with --resume one that holds nothing to go on with."""
    from hf_rnn.training.distillation.cross_fitting import UNFINISHED_FILE

    folder, begun = flags.output_dir, (flags.output_dir / UNFINISHED_FILE).is_file()
    if flags.resume and not begun:
        flags.refuse(f"--output_dir {folder} has no {UNFINISHED_FILE}, so that there is nothing to resume")
    if not flags.resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        advice = ", or add --resume" if begun else ""
        flags.refuse(f"--output_dir {folder} is there already and not empty: take another{advice}")


def describe(flags: argparse.Namespace, texts: Any) -> dict[str, Any]:
    """Return what decides the teachers: the flags, the texts and their labels."""
    elsewhere = ("refuse", "resume", "output_dir", "data_dir", "use_cpu", "max_bad_rows")
    settings = {name: value for name, value in vars(flags).items() if name not in elsewhere}
    rows = hashlib.sha256()
    for split, table in texts.items():
        rows.update(json.dumps([split, table["text"][:], table["label"][:]]).encode())
    return {**settings, "texts": rows.hexdigest(), "labels": texts["train"].features["label"].names}


def take_up(flags: argparse.Namespace, texts: Any) -> list[dict[str, Any]]:
    """Return what is told of the teachers that are done, or refuse where settings or texts are not the same."""
    from hf_rnn.training.distillation.cross_fitting import UNFINISHED_FILE, fold_folder

    path = flags.output_dir / UNFINISHED_FILE
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        then, told = dict(note["made_from"]), list(note["folds"])
    except (OSError, ValueError, KeyError, TypeError):
        flags.refuse(f"{path} cannot be read: take another --output_dir, without --resume")
    now = describe(flags, texts)
    changed = ", ".join(name for name in now if now[name] != then.get(name))
    if changed:
        flags.refuse(f"--resume goes on with the same settings and texts only; changed: {changed}")
    for fold in range(len(told)):
        folder = fold_folder(flags.output_dir, fold)
        if not all(any(folder.glob(name)) for name in ("config.json", "*.safetensors", "tokenizer*.json")):
            flags.refuse(f"{path} says that {folder} is done, and it is not there whole: take another --output_dir")
    return told


def fine_tune(flags: argparse.Namespace, model: Any, tokenizer: Any, texts: Any) -> dict[str, Any]:
    """Train a model on the split `train`, and return the scores of its best epoch on the others."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from hf_rnn import classification_metrics, encode

    names = texts["train"].features["label"].names
    examples = {split: encode(rows, tokenizer) for split, rows in texts.items()}

    def measure(predicted: Any) -> dict[str, float]:
        scores = classification_metrics(predicted.predictions.argmax(axis=-1), predicted.label_ids, names)
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    # the Trainer prints what it logs; standard output is for the result
    with tempfile.TemporaryDirectory(prefix="teacher-") as room, contextlib.redirect_stdout(sys.stderr):
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=room,
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
                use_cpu=flags.use_cpu or not torch.accelerator.is_available(),  # bf16 wants to be told
                bf16=flags.bf16,
                dataloader_pin_memory=torch.accelerator.is_available() and not flags.use_cpu,
            ),
            train_dataset=examples["train"],
            eval_dataset=examples["validation"],
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=measure,
        )
        trainer.train()
        return {
            split: trainer.evaluate(examples[split], metric_key_prefix=split)
            for split in ("validation", "test")
            if split in examples
        }


if __name__ == "__main__":
    command_line.run(main, "stopped: --resume goes on where --folds had a teacher done")
