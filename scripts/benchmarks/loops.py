"""The peers of the part `train` of benchmark.py: texts, and loops over them as people write them in plain torch."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EPOCHS, TUTORIAL_BATCH, TUTORIAL_RATE = 5, 4, 0.3  # the tutorial's own


class Texts:
    """Rows of token ids to train on and to score, padded by hand where a peer asks.

    Args:
        folder: With `train.tsv` and `dev.tsv`; when absent, texts like tweets are invented.
        rows: Texts to train on, at most; 0 means all.
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
        self.train, self.validation = encoded["train"], encoded["validation"]
        self.rows = [(torch.tensor(row["input_ids"]), row["labels"]) for row in self.train]
        self.lengths = [len(ids) for ids, _ in self.rows]
        labels = self.validation["labels"][:]
        self.majority = max(labels.count(label) for label in set(labels)) / len(labels)

    def of_one_length(self, count: int) -> list[int]:
        """Up to `count` rows that are all of the commonest length."""
        common = max(set(self.lengths), key=self.lengths.count)
        return [index for index, length in enumerate(self.lengths) if length == common][:count]

    def pad(self, indices: list[int]) -> tuple[Any, Any]:
        """Ids `(B, T)` and labels `(B,)` of some rows."""
        import torch

        ids = [self.rows[index][0] for index in indices]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        return padded, torch.tensor([self.rows[index][1] for index in indices])

    def accuracy(self, predict: Callable[[Any], Any], batch_size: int) -> float:
        """Share of the validation rows, sorted by length, that are right."""
        import torch

        rows = sorted(
            ((torch.tensor(row["input_ids"]), row["labels"]) for row in self.validation), key=lambda r: len(r[0])
        )
        right = 0
        for start in range(0, len(rows), batch_size):
            ids = [ids for ids, _ in rows[start : start + batch_size]]
            padded = torch.nn.utils.rnn.pad_sequence(ids, True, padding_value=self.tokenizer.pad_token_id)
            labels = torch.tensor([label for _, label in rows[start : start + batch_size]])
            with torch.no_grad():
                right += int((predict(padded).argmax(dim=-1) == labels).sum())
        return right / len(rows)


def invent_splits() -> dict[str, Any]:
    """Invent 6,000 texts to train on and 2,000 to score.

    As long as tweets (19 tokens, 5 to 32), with as many distinct tokens in a batch (0.4 of all in 64 texts, 0.25 in
    256); half of them are of one class, and a word in most of them tells it.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    chance = random.Random(0)
    weights = [1 / (rank + 2) ** 1.1 for rank in range(20_000)]
    names = ["negative", "neutral", "positive"]
    splits = {}
    for split, count in {"train": 6000, "validation": 2000}.items():
        rows: dict[str, list[Any]] = {"text": [], "label": chance.choices(range(3), weights=(1, 3, 2), k=count)}
        for label in rows["label"]:
            length = min(32, max(5, round(chance.gauss(19, 5))))
            words = [f"w{rank}" for rank in chance.choices(range(20_000), weights=weights, k=length)]
            if chance.random() < 0.8:
                words[chance.randrange(length)] = f"{names[label]}{chance.randrange(20)}"
            rows["text"].append(" ".join(words))
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        splits[split] = Dataset.from_dict(rows, features=features)
    return splits


def make_plain(texts: Texts, kind: str, hidden: int, layers: int, both: bool, sparse: bool) -> Any:
    """A classifier as people write it: padding is read as text, the last place or the mean and maximum is taken."""
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


def tutorial_epochs(texts: Texts, model: Any, threads: int) -> Iterator[None]:
    """The tutorial's loop: SGD at 0.3, batches of 4 sorted by length, loss and accuracy read off each."""
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
            ids, labels = texts.pad(indices)
            logits = model(ids)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            right += int((logits.argmax(dim=-1) == labels).sum())
        torch.set_num_threads(every)
        yield


def best_threads(texts: Texts, model: Any, batch_size: int) -> int:
    """Of one thread and all that there are, the number that takes a step sooner: more does not help small batches."""
    import torch

    every = torch.get_num_threads()
    if every == 1:
        return 1
    ids, labels = texts.pad(list(range(batch_size)))
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


def plain_epochs(texts: Texts, model: Any, batch_size: int) -> Iterator[None]:
    """A loop with AdamW over batches in random order."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0, fused=True)
    while True:
        order = torch.randperm(len(texts.rows)).tolist()
        for start in range(0, len(order), batch_size):
            ids, labels = texts.pad(order[start : start + batch_size])
            loss = torch.nn.functional.cross_entropy(model(ids), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield
