"""Recipe `tutorial`, one change at a time: why its network stays at the majority class.

    python scripts/results/tutorial_ablation.py --data_dir PATH/semeval2016 --seeds 3

Prints a Markdown table: accuracy and macro-recall on the validation split after the last epoch, mean and range over
seeds. The first row is the tutorial as written, in plain torch, which reads the last place, padding or not.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import Parser, positive, run

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
    """Train the tutorial's loop in plain torch: padded batches, `output[-1]`, SGD at 0.3, no mask."""
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
    """Train recipe `tutorial` with a change, for all epochs."""
    from hf_rnn import train

    with tempfile.TemporaryDirectory() as folder:
        settings = {**FIXED, "data_dir": str(data_dir), "output_dir": folder, "seed": seed, **changes}
        return train(**settings).metrics["validation"]


def describe(values: list[float]) -> str:
    """Return mean and range."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Train all variants and print a row for each."""
    parser = Parser(__doc__)
    parser.add_data_dir(required=True)
    parser.add_argument("--seeds", type=positive, default=3, help="runs per variant, seeds 123, 124, ...")
    parser.add_argument("--json", type=Path, help="also write the numbers of every run to this file")
    flags = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, float]]] = {}
    print("| settings | accuracy | macro-recall |\n|---|---|---|", flush=True)
    for name, changes in {"as written: the last place is read": None, **VARIANTS}.items():
        runs[name] = []
        for seed in range(123, 123 + flags.seeds):
            if changes is None:
                runs[name].append(train_as_written(flags.data_dir, seed, flags.max_bad_rows))
            else:
                changed = {"max_bad_rows": flags.max_bad_rows, **changes}
                runs[name].append(train_variant(flags.data_dir, seed, changed))
            print(f"{name}, seed {seed}: {runs[name][-1]['accuracy']:.4f}", file=sys.stderr)
        columns = [describe([one[metric] for one in runs[name]]) for metric in ("accuracy", "macro_recall")]
        print(f"| {name} | {' | '.join(columns)} |", flush=True)
        if flags.json:
            flags.json.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main, "stopped: the rows above are complete")
