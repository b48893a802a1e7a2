"""Train a recurrent language model of characters on a text file, and let it write.

Examples:
    python scripts/train_language_model.py --data_dir input.txt --output_dir out/lm
    python scripts/train_language_model.py --data_dir FOLDER --output_dir out/lm --hidden_size 128
    --prompt "Once"

FOLDER has train.txt, and dev.txt if you like; else the last tenth of the text is for validation.
`hf-rnn train --task causal-lm` does more, such as checkpoints that resume; copy this to change it.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path


def main() -> None:
    """Train, measure, save, write."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="text file, or folder with train.txt"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="new folder for the model")
    parser.add_argument(
        "--cell_type", choices=["rnn_tanh", "gru", "lstm", "min_gru"], default="lstm"
    )
    parser.add_argument("--hidden_size", type=int, default=512, help="(default: %(default)s)")
    parser.add_argument("--num_train_epochs", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument(
        "--batch_size", type=int, default=32, help="blocks of a step (default: %(default)s)"
    )
    parser.add_argument(
        "--block_size", type=int, default=256, help="tokens of a block (default: %(default)s)"
    )
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="(default: %(default)s)")
    parser.add_argument("--prompt", default="\n", help="to continue at the end")
    args = parser.parse_args()
    if args.output_dir.exists() and any(args.output_dir.iterdir()):
        parser.error(f"--output_dir {args.output_dir} is not empty: give a new one")

    import math

    from datasets import Dataset
    from transformers import Trainer, TrainingArguments, default_data_collator, pipeline, set_seed

    import hf_rnn

    texts = read_texts(args.data_dir)
    lines = texts["train"].splitlines(keepends=True)
    tokenizer = hf_rnn.train_tokenizer(
        lines, min_frequency=1, lowercase=False, tokenizer="char", exact=True
    )
    data = {}
    for split, text in texts.items():
        ids = tokenizer(text)["input_ids"]
        # the rest of the text is left out
        starts = range(0, len(ids) - args.block_size + 1, args.block_size)
        blocks = [ids[start : start + args.block_size] for start in starts]
        if not blocks:
            parser.error(
                f"the {split} text has less than --block_size {args.block_size} characters: "
                "give more text"
            )
        data[split] = Dataset.from_dict({"input_ids": blocks, "labels": blocks})
    set_seed(42)
    settings = {
        "cell_type": args.cell_type,
        "hidden_size": args.hidden_size,
        "bidirectional": False,
    }
    settings |= {
        "embedding_size": 64,
        "embedding_initializer_range": 0.1,
        "classifier_dropout": 0.25,
    }
    settings |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    trainer = Trainer(
        hf_rnn.RnnForCausalLM(hf_rnn.RnnConfig(**settings)),
        TrainingArguments(
            str(args.output_dir / "checkpoints"),
            num_train_epochs=args.num_train_epochs,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            adam_beta2=0.99,
            eval_strategy="epoch",
            logging_strategy="epoch",
            save_strategy="no",
            dataloader_pin_memory=False,
        ),
        default_data_collator,
        data["train"],
        data["validation"],
    )
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    print(f"validation: {loss:.3f} nats per character, perplexity {math.exp(loss):.2f}")
    trainer.model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    write = pipeline("text-generation", str(args.output_dir))
    print(
        write(args.prompt, do_sample=True, temperature=0.8, max_new_tokens=200)[0]["generated_text"]
    )


def read_texts(path: Path) -> dict[str, str]:
    """Return the texts to train on and to validate with."""
    if path.is_dir() and (path / "dev.txt").exists():
        files = {"train": "train.txt", "validation": "dev.txt"}
        return {split: (path / name).read_text("utf-8") for split, name in files.items()}
    text = (path / "train.txt" if path.is_dir() else path).read_text("utf-8")
    border = len(text) * 9 // 10
    return {"train": text[:border], "validation": text[border:]}


if __name__ == "__main__":
    main()
