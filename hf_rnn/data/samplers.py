"""The order of training rows: batches of similar lengths, or streams with a length; each epoch has a new order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets
from torch.utils.data import IterableDataset

SHUFFLED_ROWS = 10_000  # rows of a stream in memory; the next one is drawn from these


class CountedStream(IterableDataset):
    """A stream with its number of rows: the Trainer needs it to count epochs and to resume in the right one.

    Several files are read in turn, a row of each. With `shuffle_seed` rows are drawn in a new order in each epoch,
    from buffers of `SHUFFLED_ROWS` in all.

    Args:
        rows: The rows, with a shard per file.
        count: The number of rows.
        shuffle_seed: Chooses a sequence of orders, one per epoch; None keeps the order of the files.
    """

    def __init__(self, rows: datasets.IterableDataset, count: int, shuffle_seed: int | None = None) -> None:
        self._count, files = count, rows.num_shards
        self._files = [rows.shard(files, number) for number in range(files)] if files > 1 else [rows]
        if shuffle_seed is not None:
            size = max(1, SHUFFLED_ROWS // files)
            self._files = [
                part.shuffle(seed=shuffle_seed + number, buffer_size=size) for number, part in enumerate(self._files)
            ]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from _in_turn(self._files)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the rows."""
        for part in self._files:
            part.set_epoch(epoch)


def _in_turn(parts: Iterable[Iterable[Any]]) -> Iterator[Any]:
    """Yield an element of each part in turn, until all have ended."""
    running = [*map(iter, parts)]
    while running:
        for part in [*running]:
            try:
                yield next(part)
            except StopIteration:
                running.remove(part)


def with_lengths(examples: Mapping[str, Any], label_counts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the splits, evaluated streams as [`CountedStream`]; without, several processes count rows twice."""
    return {
        split: CountedStream(rows, sum(label_counts[split]))
        if split != "train" and isinstance(rows, datasets.IterableDataset)
        else rows
        for split, rows in examples.items()
    }
