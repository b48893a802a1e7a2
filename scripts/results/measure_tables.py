"""What the smaller tables of `FastRnn` cost: size, scores and answers beside those of the plain model.

    python scripts/measure_tables.py --model out/tweets --data_dir data/tweets
    python scripts/measure_tables.py --model DIR --data_dir DIR --split validation

A line for the model itself, run by torch, and one for each kind of table: its megabytes, accuracy and macro-recall on
the labelled rows, the share of the rows that get the model's own answer, and the largest difference of a logit.
"""

from pathlib import Path

import command_line


def main() -> None:
    """Run the model and its tables, and print a Markdown table."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("--model", required=True, help="finished folder, or repo id")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of labelled texts")
    parser.add_max_bad_rows()
    parser.add_argument("--split", default="validation", help="train, validation, dev or test (default: %(default)s)")
    flags = parser.parse_args()

    import torch

    from hf_rnn import FastRnn, classification_metrics, load_tsv
    from hf_rnn.hub.loading import check_sorts, load_model, quiet
    from hf_rnn.inference.fused import TABLE_DTYPES
    from hf_rnn.inference.reference import compute_logits
    from hf_rnn.utils.errors import UserError

    torch.set_num_threads(1)
    quiet()
    try:
        model, tokenizer = load_model(flags.model)
        names = [model.config.id2label[number] for number in range(model.config.num_labels)]
        options = {"class_names": names, "splits": (flags.split,), "max_bad_rows": flags.max_bad_rows}
        (rows,) = load_tsv(flags.data_dir, **options).values()
        check_sorts(flags.model, model.config)
        runners = {dtype: FastRnn(model, tokenizer, dtype, memory_limit=1 << 50) for dtype in TABLE_DTYPES}
    except (UserError, OSError) as error:
        parser.refuse(error)
    ids = runners["float32"].tokenize(list(rows["text"]))
    expected = compute_logits(model, tokenizer, ids, batch_size=256)
    print("| table | MB | accuracy | macro-recall | same answer | largest difference of a logit |")
    print("|---|---|---|---|---|---|")
    for name, size, logits in (
        ("none: the plain model", "", expected),
        *((dtype, f"{fast.memory / 1e6:.1f}", fast.logits(ids)) for dtype, fast in runners.items()),
    ):
        scores = classification_metrics(logits.argmax(dim=1), rows["label"], names)
        same = (logits.argmax(dim=1) == expected.argmax(dim=1)).double().mean().item()
        cells = [name, size, *(f"{scores[score]:.4f}" for score in ("accuracy", "macro_recall"))]
        print(f"| {' | '.join(cells)} | {same:.2%} | {(logits - expected).abs().max().item():.1e} |")


if __name__ == "__main__":
    command_line.run(main)
