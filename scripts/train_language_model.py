"""Train a recurrent language model of characters on a text file, and let it write.

Examples:
    python scripts/train_language_model.py --data_dir input.txt --output_dir out/lm
    python scripts/train_language_model.py --data_dir FOLDER --output_dir out/lm --hidden_size 128 --prompt "Once"

FOLDER has train.txt, and dev.txt if you like; else the last tenth of the text is for validation. `hf-rnn train --task
causal-lm` does more, such as checkpoints that resume within an epoch; copy this to change it.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path


def make_parser() -> ArgumentParser:
    """Declare the flags."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="text file, or folder with train.txt")
    parser.add_argument("--output_dir", type=Path, required=True, help="new folder for the model")
    parser.add_argument("--cell_type", choices=["rnn_tanh", "gru", "lstm", "min_gru"], default="lstm")
    parser.add_argument("--hidden_size", type=int, default=512, help="(default: %(default)s)")
    parser.add_argument("--num_train_epochs", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="blocks of a step (default: %(default)s)")
    parser.add_argument("--block_size", type=int, default=256, help="tokens of a block (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="(default: %(default)s)")
    parser.add_argument("--prompt", default="\n", help="to continue at the end")
    return parser


def main() -> None:
    """Train, measure, save, write."""
    parser = make_parser()
    args = parser.parse_args()
    if args.output_dir.exists() and any(args.output_dir.iterdir()):
        parser.error(f"--output_dir {args.output_dir} is not empty: give a new one")

    import torch
    from transformers import DataCollatorForTokenClassification, pipeline, set_seed

    import hf_rnn
    from hf_rnn.data.continuous_text import encode_blocks, load_text
    from hf_rnn.evaluation.language_model import sum_losses, text_metrics

    try:
        texts = load_text(args.data_dir)
    except ValueError as error:  # names file and line
        parser.error(str(error))
    lines = texts["train"]["text"]
    tokenizer = hf_rnn.train_tokenizer(lines, min_frequency=1, lowercase=False, tokenizer="char", exact=True)
    data = encode_blocks(texts, tokenizer, args.block_size)
    collate = DataCollatorForTokenClassification(tokenizer)
    blocks = data["train"].remove_columns("characters")
    set_seed(42)
    settings = {"cell_type": args.cell_type, "hidden_size": args.hidden_size, "bidirectional": False}
    settings |= {"embedding_size": 64, "embedding_initializer_range": 0.1, "classifier_dropout": 0.25}
    settings |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    model = hf_rnn.RnnForCausalLM(hf_rnn.RnnConfig(**settings))
    batches = torch.utils.data.DataLoader(blocks, args.batch_size, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.99))
    steps = args.num_train_epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    for epoch in range(args.num_train_epochs):
        model.train()
        for batch in batches:
            output = model(**batch)
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        scores = text_metrics(sum_losses(model.eval(), data["validation"]))
        print(f"epoch {epoch + 1}", {name: round(value, 4) for name, value in scores.items()}, flush=True)
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    write = pipeline("text-generation", str(args.output_dir))
    print(write(args.prompt, do_sample=True, temperature=0.8, max_new_tokens=200)[0]["generated_text"])


if __name__ == "__main__":
    main()
