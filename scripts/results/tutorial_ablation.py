"""The source tutorial's loop as written, then recipe `tutorial`, one change at a time.

    python scripts/results/tutorial_ablation.py --data_dir PATH/semeval2016 --seeds 3

Prints a Markdown table: accuracy and macro-recall on the validation split after the last epoch, mean and range over
seeds. The loop is in plain torch and reads the last place, padding or not; its first loss is that of the source.
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
    "recipe `tutorial`: the last token is read, not padding": {},
    "recipe and shuffled batches of similar length": {"train_sampling_strategy": "group_by_length"},
    "recipe and batches in random order": {"train_sampling_strategy": "random"},
    "recipe and learning rate 0.03": {"learning_rate": 0.03},
    "recipe and gradients clipped at 1": {"max_grad_norm": 1.0},
    "recipe and batch 64": {"per_device_train_batch_size": 64},
    "recipe and rate 0.03, random order": {"learning_rate": 0.03, "train_sampling_strategy": "random"},
    "recipe and a GRU": {"cell_type": "gru"},
    "recipe and an LSTM": {"cell_type": "lstm"},
}
WRITTEN: dict[str, dict[str, Any]] = {
    "the source as written: sorted, the last place is read": {},
    "as written, shuffled batches of similar length": {"shuffled": True},
}


def train_as_written(data_dir: Path, seed: int, max_bad_rows: str, shuffled: bool = False) -> dict[str, float]:
    """Train the source's loop in plain torch: padded batches, `output[-1]`, SGD at 0.3, no mask, no padding_idx."""
    import torch
    from hf_rnn.data.samplers import LengthBucketedBatchSampler, SortedBatchSampler
    from torch import nn

    from hf_rnn import classification_metrics, encode, load_tsv, train_tokenizer

    texts = load_tsv(data_dir, max_bad_rows=max_bad_rows)
    tokenizer = train_tokenizer(texts["train"]["text"], min_frequency=3)
    classes = texts["train"].features["label"].names
    labels = texts["train"]["label"][:]
    ranks = sorted(range(len(classes)), key=labels.count, reverse=True)  # torchtext numbers classes by frequency
    rows = {
        split: [
            (torch.tensor(row["input_ids"]), ranks.index(row["labels"])) for row in encode(texts[split], tokenizer)
        ]
        for split in ("train", "validation")
    }
    torch.manual_seed(seed)
    # three rows more than words: the source's dictionary grew by three unknown words, all with the id of <unk>
    embedding = nn.Embedding(len(tokenizer) + 3, 300, sparse=True)
    rnn = nn.RNN(300, 50, num_layers=2)
    linear = nn.Linear(50, len(classes))
    optimizer = torch.optim.SGD(nn.ModuleList([embedding, rnn, linear]).parameters(), lr=0.3)

    def forward(batch: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = nn.utils.rnn.pad_sequence([ids for ids, _ in batch], padding_value=tokenizer.pad_token_id)  # time first
        output, _ = rnn(embedding(ids))
        return linear(torch.relu(output[-1])), torch.tensor([label for _, label in batch])

    lengths = {split: [len(ids) for ids, _ in part] for split, part in rows.items()}
    batches = (LengthBucketedBatchSampler if shuffled else SortedBatchSampler)(lengths["train"], 4)
    first_loss = None
    for epoch in range(5):
        batches.set_epoch(epoch)
        for indices in batches:
            logits, targets = forward([rows["train"][index] for index in indices])
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(logits, targets)
            first_loss = loss.item() if first_loss is None else first_loss
            loss.backward()
            optimizer.step()
    predicted = torch.empty(len(rows["validation"]), dtype=torch.long)
    with torch.no_grad():
        for indices in SortedBatchSampler(lengths["validation"], 64):
            predicted[indices] = forward([rows["validation"][index] for index in indices])[0].argmax(-1)
    names = [classes[rank] for rank in ranks]
    metrics = classification_metrics(predicted.numpy(), [label for _, label in rows["validation"]], names)
    return {**metrics, "first_loss": first_loss}


def train_variant(data_dir: Path, seed: int, **changes: Any) -> dict[str, float]:
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
    parser.add_argument("--seeds", type=positive, default=3, help="runs per variant, with consecutive seeds")
    parser.add_argument("--first_seed", type=positive, default=123)
    parser.add_argument("--json", type=Path, help="also write the numbers of every run to this file")
    flags = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, float]]] = {}
    print("| settings | accuracy | macro-recall |\n|---|---|---|", flush=True)
    for name, changes in {**WRITTEN, **VARIANTS}.items():
        runs[name] = []
        train_one = train_as_written if name in WRITTEN else train_variant
        for seed in range(flags.first_seed, flags.first_seed + flags.seeds):
            runs[name].append(train_one(flags.data_dir, seed, max_bad_rows=flags.max_bad_rows, **changes))
            numbers = {
                metric: runs[name][-1][metric] for metric in ("accuracy", "first_loss") if metric in runs[name][-1]
            }
            print(f"{name}, seed {seed}: {numbers}", file=sys.stderr)
        columns = [describe([one[metric] for one in runs[name]]) for metric in ("accuracy", "macro_recall")]
        print(f"| {name} | {' | '.join(columns)} |", flush=True)
        if flags.json:
            flags.json.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main, "stopped: the rows above are complete")
