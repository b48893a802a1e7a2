"""Train a recurrent sentiment classifier with the Hugging Face Trainer, by public names only.

Examples:
    python scripts/train_sentiment.py --output_dir out/sentiment
    python scripts/train_sentiment.py --output_dir out/gru --data_dir FOLDER --cell_type gru --text
    "what a day"

FOLDER has train.tsv, dev.tsv, test.tsv with lines `text<TAB>label`. `hf-rnn train` does more; copy
this to change it.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "tweets"


def main() -> None:
    """Train, measure, save, predict."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data_dir", type=Path, default=SAMPLE, help="folder of TSV files (default: the sample)"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="new folder for the model")
    parser.add_argument(
        "--cell_type", choices=["rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru"], default="lstm"
    )
    parser.add_argument("--num_train_epochs", type=float, default=10, help="(default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="(default: %(default)s)")
    parser.add_argument(
        "--text", default="best concert of my life, thank you!", help="to classify at the end"
    )
    args = parser.parse_args()
    if args.output_dir.exists() and any(args.output_dir.iterdir()):
        parser.error(f"--output_dir {args.output_dir} is not empty: give a new one")

    from transformers import EvalPrediction, Trainer, TrainingArguments, pipeline, set_seed

    import hf_rnn

    try:
        texts = hf_rnn.load_tsv(args.data_dir)
    except ValueError as error:  # names file and line
        parser.error(str(error))
    tokenizer = hf_rnn.train_tokenizer(texts["train"]["text"], min_frequency=2, normalizer="tweet")
    data = hf_rnn.encode(texts, tokenizer)
    names = texts["train"].features["label"].names
    set_seed(42)
    settings = {
        "vocab_size": len(tokenizer),
        "cell_type": args.cell_type,
        "id2label": dict(enumerate(names)),
    }
    config = hf_rnn.RnnConfig(**settings, hidden_size=64, embedding_dropout=0.5, word_dropout=0.1)

    def compute_metrics(result: EvalPrediction) -> dict[str, float]:
        scores = hf_rnn.classification_metrics(
            result.predictions.argmax(axis=-1), result.label_ids, names
        )
        return {name: scores[name] for name in ("accuracy", "macro_f1", "macro_recall")}

    trainer = Trainer(
        model=hf_rnn.RnnForSequenceClassification(config),
        args=TrainingArguments(
            output_dir=str(args.output_dir / "checkpoints"),
            num_train_epochs=args.num_train_epochs,
            learning_rate=args.learning_rate,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=256,
            train_sampling_strategy="group_by_length",  # less padding
            logging_strategy="epoch",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="macro_recall",
            dataloader_pin_memory=False,  # no gain with batches this small
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
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
        print(args.text, pipeline("text-classification", model=str(args.output_dir))(args.text))


if __name__ == "__main__":
    main()
