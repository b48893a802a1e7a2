"""Cost of the smaller tables of `FastRnn`: size, scores and answers beside those of the plain model.

    python scripts/results/measure_tables.py --model out/tweets --data_dir data/tweets

Prints a row for the plain model and one for each table: its megabytes, accuracy and macro-recall, the share of rows
with the plain model's answer, and the largest difference of a logit.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import Parser, run


def main() -> None:
    """Run the model and its tables, and print a Markdown table."""
    parser = Parser(__doc__)
    parser.add_argument("--model", required=True, help="finished folder, or repo id")
    parser.add_data_dir(required=True)
    parser.add_argument("--split", default="validation", help="train, validation, dev or test (default: %(default)s)")
    flags = parser.parse_args()

    import torch

    from hf_rnn import FastRnn, classification_metrics, load_tsv
    from hf_rnn.hub.loading import load_model
    from hf_rnn.inference.fused import TABLE_DTYPES
    from hf_rnn.inference.reference import compute_logits

    torch.set_num_threads(1)
    model, tokenizer = load_model(flags.model)
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    options = {"class_names": names, "splits": (flags.split,), "max_bad_rows": flags.max_bad_rows}
    (rows,) = load_tsv(flags.data_dir, **options).values()
    runners = {dtype: FastRnn(model, tokenizer, dtype, memory_limit=1 << 50) for dtype in TABLE_DTYPES}
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
    run(main)
