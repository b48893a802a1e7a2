"""Why the tutorial's network stays at the majority class: its own settings, changed one at a time.

    python scripts/tutorial_ablation.py --data_dir PATH/semeval2016 --seeds 3

For each variant and seed it trains recipe `tutorial` with that one change and prints a Markdown table: accuracy and
macro-recall on the validation split after the last epoch, as the tutorial reports them (mean over seeds, range). The
first line is the tutorial as written, in plain torch: the output at the last place is taken, padding or not.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import command_line

# as in the tutorial: all epochs, the last one counts
FIXED = {"recipe": "tutorial", "load_best_model_at_end": False, "save_strategy": "no", "disable_tqdm": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe `tutorial`: the true last token is read": {},
    "recipe and learning rate 0.03": {"learning_rate": 0.03},
    "recipe and gradients clipped at 1": {"max_grad_norm": 1.0},
    "recipe and batches in random order": {"train_sampling_strategy": "random"},
    "recipe and batch 64": {"per_device_train_batch_size": 64},
    "recipe and rate 0.03, random order": {"learning_rate": 0.03, "train_sampling_strategy": "random"},
    "recipe and a GRU": {"cell_type": "gru"},
    "recipe and an LSTM": {"cell_type": "lstm"},
}


def train_as_written(data_dir: Path, seed: int, max_bad_rows: str) -> dict[str, float]:
    """The tutorial's loop in plain torch: padded batches, `output[-1]`, SGD 0.3, no mask anywhere."""
    import torch
    from torch import nn

    from hf_rnn import classification_metrics, encode, load_tsv, train_tokenizer
    from hf_rnn.data.samplers import LengthBucketedBatchSampler

    texts = load_tsv(data_dir, max_bad_rows=max_bad_rows)
    tokenizer = train_tokenizer(texts["train"]["text"], min_frequency=3)
    rows = {
        split: [(torch.tensor(row["input_ids"]), row["labels"]) for row in encode(texts[split], tokenizer)]
        for split in ("train", "validation")
    }
    classes = texts["train"].features["label"].names
    torch.manual_seed(seed)
    embedding = nn.Embedding(len(tokenizer), 300, padding_idx=tokenizer.pad_token_id, sparse=True)
    rnn = nn.RNN(300, 50, num_layers=2)
    linear = nn.Linear(50, len(classes))
    parts = nn.ModuleList([embedding, rnn, linear])
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.3)

    def forward(batch: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = nn.utils.rnn.pad_sequence([ids for ids, _ in batch], padding_value=tokenizer.pad_token_id)  # time first
        output, _ = rnn(embedding(ids))
        return linear(torch.relu(output[-1])), torch.tensor([label for _, label in batch])

    batches = LengthBucketedBatchSampler([len(ids) for ids, _ in rows["train"]], 4, seed=seed)
    for epoch in range(5):
        batches.set_epoch(epoch)
        for indices in batches:
            logits, labels = forward([rows["train"][index] for index in indices])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
    with torch.no_grad():
        ordered = sorted(rows["validation"], key=lambda row: len(row[0]))
        predicted = [forward(ordered[start : start + 4])[0].argmax(-1) for start in range(0, len(ordered), 4)]
    return classification_metrics(torch.cat(predicted).numpy(), [label for _, label in ordered], classes)


def train_variant(data_dir: Path, seed: int, changes: dict[str, Any]) -> dict[str, float]:
    """Recipe `tutorial` with a change."""
    from hf_rnn import train

    with tempfile.TemporaryDirectory() as folder:
        settings = {**FIXED, "data_dir": str(data_dir), "output_dir": folder, "seed": seed, **changes}
        return train(**settings).metrics["validation"]


def describe(values: list[float]) -> str:
    """Mean and range."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Train all variants and print the table."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant, seeds 123, 124, ...")
    parser.add_argument("--json", type=Path, help="also write every run's numbers to this file")
    parser.add_max_bad_rows()
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds must be at least 1, found {arguments.seeds}")
    parser.check_writable(arguments.json)
    if not (arguments.data_dir / "train.tsv").is_file():
        parser.error(f"there is no {arguments.data_dir / 'train.tsv'}: give a folder with train.tsv and dev.tsv")

    import torch

    from hf_rnn.utils.errors import UserError

    torch.set_num_threads(1)
    try:
        measure(arguments)
    except UserError as error:  # says which file and line
        parser.refuse(error)


def measure(arguments: argparse.Namespace) -> None:
    """Train all variants, print a line of the table each."""
    runs: dict[str, list[dict[str, float]]] = {}
    for name, changes in {"as written: the last place is read": None, **VARIANTS}.items():
        runs[name] = []
        for seed in range(123, 123 + arguments.seeds):
            if changes is None:
                runs[name].append(train_as_written(arguments.data_dir, seed, arguments.max_bad_rows))
            else:
                changed = {"max_bad_rows": arguments.max_bad_rows, **changes}
                runs[name].append(train_variant(arguments.data_dir, seed, changed))
            print(f"{name}, seed {seed}: {runs[name][-1]['accuracy']:.4f}", file=sys.stderr)
        columns = [describe([run[metric] for run in runs[name]]) for metric in ("accuracy", "macro_recall")]
        if len(runs) == 1:  # the data could be read
            print("| settings | accuracy | macro-recall |\n|---|---|---|")
        print(f"| {name} | {' | '.join(columns)} |", flush=True)
        if arguments.json:  # after each variant: what is measured is not lost with a later one
            arguments.json.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main, "stopped: what was printed until then holds")
