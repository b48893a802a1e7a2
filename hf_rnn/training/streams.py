"""A stream whose rows were counted before, so that the Trainer can tell its epochs, and go on in the right one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
from torch.utils.data import IterableDataset

SHUFFLED_ROWS = 10_000  # of a stream lie in memory, to be drawn from in random order


class CountedStream(IterableDataset):
    """Rows of a stream, with a length.

    Args:
        rows: The stream; it must give the same rows each time.
        count: How many they are.
        shuffle_seed: Draw the rows in another order in each epoch, from a buffer of `SHUFFLED_ROWS`; None keeps the
            stream's own order.
    """

    def __init__(self, rows: datasets.IterableDataset, count: int, shuffle_seed: int | None = None) -> None:
        self._rows = rows if shuffle_seed is None else rows.shuffle(seed=shuffle_seed, buffer_size=SHUFFLED_ROWS)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the rows."""
        self._rows.set_epoch(epoch)


def with_lengths(examples: Mapping[str, Any], label_counts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the splits, streams that are measured with their lengths; without, several processes count rows twice.

    Args:
        examples: Tables or streams by split. `train` stays as it is.
        label_counts: Rows by class, of each split.
    """
    return {
        split: CountedStream(rows, sum(label_counts[split]))
        if split != "train" and isinstance(rows, datasets.IterableDataset)
        else rows
        for split, rows in examples.items()
    }
