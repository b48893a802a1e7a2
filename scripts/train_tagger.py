"""Train a recurrent tagger of words with the Hugging Face Trainer, and nothing but public names.

Example:
    python scripts/train_tagger.py --data_dir FOLDER --output_dir out/tagger --text "Anna lives in
    Rome"

FOLDER has train.conll, dev.conll, test.conll with lines `token<TAB>tag` and an empty line after
each sentence. `hf-rnn train --task token-classification` does more; copy this to change it.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path


def main() -> None:
    """Train, measure, save, predict."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of CoNLL files")
    parser.add_argument("--output_dir", type=Path, required=True, help="new folder for the model")
    parser.add_argument(
        "--cell_type", choices=["rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru"], default="lstm"
    )
    parser.add_argument("--num_train_epochs", type=float, default=10, help="(default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="(default: %(default)s)")
    parser.add_argument("--text", default="Anna lives in Rome.", help="to tag at the end")
    args = parser.parse_args()
    if args.output_dir.exists() and any(args.output_dir.iterdir()):
        parser.error(f"--output_dir {args.output_dir} is not empty: give a new one")

    from transformers import (
        DataCollatorForTokenClassification,
        EvalPrediction,
        Trainer,
        TrainingArguments,
        pipeline,
        set_seed,
    )

    import hf_rnn
    from hf_rnn.evaluation.scores import tagging_metrics

    try:
        sentences = hf_rnn.load_conll(args.data_dir)
    except ValueError as error:  # names file and line
        parser.error(str(error))
    words = (" ".join(tokens) for tokens in sentences["train"]["tokens"])
    tokenizer = hf_rnn.train_tokenizer(words, min_frequency=2, tokenizer="bpe", normalizer="cased")
    data = {split: hf_rnn.encode_tagged(rows, tokenizer) for split, rows in sentences.items()}
    names = sentences["train"].features["ner_tags"].feature.names
    set_seed(42)
    settings = {
        "vocab_size": len(tokenizer),
        "cell_type": args.cell_type,
        "id2label": dict(enumerate(names)),
    }
    config = hf_rnn.RnnConfig(
        **settings,
        embedding_size=100,
        hidden_dropout=0.5,
        classifier_dropout=0.5,
        crf=True,
        word_forms=8192,
    )
    model = hf_rnn.RnnForTokenClassification(config)
    assert model.words is not None
    # letters and shapes of the tokens
    model.words.read(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))

    def compute_metrics(result: EvalPrediction) -> dict[str, float]:
        """Return scores of whole entities, if the tags are spans such as B-person."""
        rows = zip(result.predictions.argmax(axis=-1), result.label_ids, strict=True)
        pairs = ((row[labels != -100], labels[labels != -100]) for row, labels in rows)
        predictions, references = zip(*pairs, strict=True)
        scores = tagging_metrics(predictions, references, names)
        return {name: value for name, value in scores.items() if isinstance(value, float)}

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(args.output_dir / "checkpoints"),
            num_train_epochs=args.num_train_epochs,
            learning_rate=args.learning_rate,
            per_device_train_batch_size=8,
            per_device_eval_batch_size=256,
            train_sampling_strategy="group_by_length",  # less padding
            logging_strategy="epoch",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="f1",
            dataloader_pin_memory=False,  # no gain with batches this small
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    metrics = [
        trainer.evaluate(data[split], metric_key_prefix=split) for split in data if split != "train"
    ]
    if trainer.is_world_process_zero():  # with torchrun there are several
        print(*metrics, sep="\n")
        trainer.model.save_pretrained(args.output_dir)
        tokenizer.save_pretrained(args.output_dir)
        tag = pipeline(
            "token-classification", model=str(args.output_dir), aggregation_strategy="simple"
        )
        print(args.text, tag(args.text))


if __name__ == "__main__":
    main()
