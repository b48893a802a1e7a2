"""Peers of the part `train` of benchmark.py: texts, plain networks, and loops over them in plain torch.

`check_same_network` compares loss and every gradient of one batch, from the same weights. Its texts have one length,
because the plain networks read padding as text. Gradients are compared in float64: in float32, rounding decides
between two states of a maximum that are nearly equal.
"""

import copy
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EPOCHS, TUTORIAL_BATCH, TUTORIAL_RATE = 5, 4, 0.3  # from the tutorial
BF16_TOLERANCE = 0.02  # for losses


class Texts:
    """Rows of token ids to train on and to score.

    Args:
        folder: Folder of `train.tsv` and `dev.tsv`; None invents texts like tweets.
        rows: Limit per split; 0 is all.
    """

    def __init__(self, folder: Path | None, rows: int = 0) -> None:
        import torch
        from datasets import disable_progress_bars

        from hf_rnn import encode, load_tsv, train_tokenizer

        disable_progress_bars()
        splits = load_tsv(folder) if folder else invent_splits()
        self.tokenizer = train_tokenizer(splits["train"]["text"], min_frequency=3)
        self.classes = len(splits["train"].features["label"].names)
        encoded = {name: encode(splits[name], self.tokenizer) for name in ("train", "validation")}
        if rows:
            encoded = {name: split.select(range(min(rows, len(split)))) for name, split in encoded.items()}
        self.train = encoded["train"]
        self.rows, self.validation = (
            [(torch.tensor(row["input_ids"]), row["labels"]) for row in encoded[name]]
            for name in ("train", "validation")
        )
        self.lengths = [len(ids) for ids, _ in self.rows]
        labels = [label for _, label in self.validation]
        self.majority = max(labels.count(label) for label in set(labels)) / len(labels)

    def select_one_length(self, count: int) -> list[tuple[Any, int]]:
        """Return up to `count` rows of the most frequent length."""
        common = max(set(self.lengths), key=self.lengths.count)
        return [row for row in self.rows if len(row[0]) == common][:count]

    def pad(self, rows: list[tuple[Any, int]]) -> tuple[Any, Any]:
        """Return ids `(B, T)` and labels `(B,)` of rows."""
        import torch

        ids = [ids for ids, _ in rows]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        return padded, torch.tensor([label for _, label in rows])

    def accuracy(self, predict: Callable[[Any], Any], batch_size: int) -> float:
        """Return the accuracy on the validation rows, sorted by length."""
        import torch

        rows, right = sorted(self.validation, key=lambda row: len(row[0])), 0
        for start in range(0, len(rows), batch_size):
            ids, labels = self.pad(rows[start : start + batch_size])
            with torch.no_grad():
                right += int((predict(ids).argmax(dim=-1) == labels).sum())
        return right / len(rows)


def invent_splits() -> dict[str, Any]:
    """Invent 6,000 texts to train on and 2,000 to score: 19 tokens on average, one word usually names the label."""
    from datasets import ClassLabel, Dataset, Features, Value

    generator = random.Random(0)
    weights = [1 / (rank + 2) ** 1.1 for rank in range(20_000)]
    names = ["negative", "neutral", "positive"]
    splits = {}
    for split, count in {"train": 6000, "validation": 2000}.items():
        rows: dict[str, list[Any]] = {"text": [], "label": generator.choices(range(3), weights=(1, 3, 2), k=count)}
        for label in rows["label"]:
            length = min(32, max(5, round(generator.gauss(19, 5))))
            words = [f"w{rank}" for rank in generator.choices(range(20_000), weights=weights, k=length)]
            if generator.random() < 0.8:
                words[generator.randrange(length)] = f"{names[label]}{generator.randrange(20)}"
            rows["text"].append(" ".join(words))
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        splits[split] = Dataset.from_dict(rows, features=features)
    return splits


def make_plain(texts: Texts, kind: str, hidden: int, layers: int, both: bool, sparse: bool) -> Any:
    """Return a usual classifier that reads padding as text and pools by the last place, or by mean and maximum."""
    import torch
    from torch import nn

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pad = texts.tokenizer.pad_token_id
            self.embedding = nn.Embedding(len(texts.tokenizer), 300, padding_idx=pad, sparse=sparse)
            self.rnn = getattr(nn, kind)(300, hidden, num_layers=layers, bidirectional=both)
            self.linear = nn.Linear(hidden * (4 if both else 1), texts.classes)

        def forward(self, ids: Any) -> Any:
            states, _ = self.rnn(self.embedding(ids.t()))
            if not both:
                return self.linear(torch.relu(states[-1]))
            return self.linear(torch.cat([states.mean(dim=0), states.amax(dim=0)], dim=-1))

    return Plain()


def run_tutorial_epochs(texts: Texts, model: Any, threads: int) -> Iterator[None]:
    """Train an epoch per step of this iterator: SGD at 0.3, sorted batches of 4, loss and accuracy read each time."""
    import torch

    from hf_rnn.data.samplers import LengthBucketedBatchSampler

    optimizer = torch.optim.SGD(model.parameters(), lr=TUTORIAL_RATE)
    batches = LengthBucketedBatchSampler(texts.lengths, TUTORIAL_BATCH, seed=123)
    every = torch.get_num_threads()
    for epoch in range(EPOCHS):
        torch.set_num_threads(threads)
        batches.set_epoch(epoch)
        loss_sum, right = 0.0, 0
        for indices in batches:
            ids, labels = texts.pad([texts.rows[index] for index in indices])
            logits = model(ids)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            right += int((logits.argmax(dim=-1) == labels).sum())
        torch.set_num_threads(every)
        yield


def run_plain_epochs(texts: Texts, model: Any, batch_size: int) -> Iterator[None]:
    """Train an epoch per step of this iterator: AdamW, batches in random order."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0, fused=True)
    while True:
        order = torch.randperm(len(texts.rows)).tolist()
        for start in range(0, len(order), batch_size):
            ids, labels = texts.pad([texts.rows[index] for index in order[start : start + batch_size]])
            loss = torch.nn.functional.cross_entropy(model(ids), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield


def find_best_threads(texts: Texts, model: Any, batch_size: int) -> int:
    """Return 1 or the current number of threads, whichever makes a step faster."""
    import torch

    every = torch.get_num_threads()
    if every == 1:
        return 1
    ids, labels = texts.pad(texts.rows[:batch_size])
    seconds: dict[int, list[float]] = {1: [], every: []}
    for _ in range(50):
        for threads, taken in seconds.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            torch.nn.functional.cross_entropy(model(ids), labels).backward()
            taken.append(time.perf_counter() - start)
            model.zero_grad()
    torch.set_num_threads(every)
    return min(seconds, key=lambda threads: statistics.median(seconds[threads]))


def check_same_network(texts: Texts, plain: Any, model: Any, batch_size: int, bf16: bool = False) -> None:
    """Compare a plain network with ours, on copies.

    Args:
        texts: Source of the batch.
        plain: From `make_plain`.
        model: `RnnForSequenceClassification` of the same sizes; a copy of it gets the weights of `plain`.
        batch_size: Texts in the batch, at most.
        bf16: Compute ours in bfloat16 and compare only the losses.

    Raises:
        AssertionError: If a loss or a gradient differs.
    """
    import torch

    plain, model = copy.deepcopy(plain).train(), copy.deepcopy(model).train()
    pairs = list(pair_weights(plain, model))
    assert len(pairs) == len(list(plain.parameters())) == len(list(model.parameters())), "a weight has no partner"
    with torch.no_grad():
        for _, theirs, ours in pairs:
            ours.copy_(theirs)
    ids, labels = texts.pad(texts.select_one_length(batch_size))

    def losses() -> tuple[Any, Any]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        return loss.float(), torch.nn.functional.cross_entropy(plain(ids), labels).float()

    torch.testing.assert_close(*losses(), atol=BF16_TOLERANCE if bf16 else 1e-5, rtol=0)
    if bf16:
        return
    plain.double(), model.double()
    for loss in losses():
        loss.backward()
    for name, theirs, ours in pairs:
        expected = theirs.grad.to_dense() if theirs.grad.is_sparse else theirs.grad
        torch.testing.assert_close(ours.grad, expected, atol=1e-9, rtol=1e-6, msg=f"the gradients of {name} differ")


def pair_weights(plain: Any, model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each weight of a plain network, the weight, and its counterpart in our model."""
    yield "embedding.weight", plain.embedding.weight, model.rnn.embedding.weight
    for number, layer in enumerate(model.rnn.layers):
        for direction, suffix in zip(layer.directions, ("", "_reverse"), strict=False):
            for name, ours in direction.cell.named_parameters():
                theirs = name.replace("_l0", f"_l{number}") + suffix
                yield f"rnn.{theirs}", getattr(plain.rnn, theirs), ours
    for name, ours in model.classifier.named_parameters():
        yield f"linear.{name}", getattr(plain.linear, name), ours
