"""The order of training rows: batches of similar lengths, or streams with a length; each epoch has a new order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils.data import IterableDataset, Sampler

SHUFFLED_ROWS = 10_000  # rows of a stream in memory; the next one is drawn from these


def padding_share(lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> float:
    """Return padding divided by all tokens, if each batch of indices is padded to its longest text; 0 without tokens.

    Args:
        lengths: Tokens by index.
        batches: Indices by batch.
    """
    rows = [[lengths[index] for index in batch] for batch in batches]
    padded = sum(len(row) * max(row) for row in rows if row)
    return 1 - sum(map(sum, rows)) / padded if padded else 0.0


class _EpochBatchSampler(Sampler[list[int]]):
    """A batch sampler with an order that depends on its arguments and the epoch only.

    A run that stops inside an epoch can resume with the batches that it has not seen.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, drop_last: bool) -> None:
        self.lengths, self.batch_size, self.drop_last = np.asarray(lengths, dtype=np.int64), batch_size, drop_last
        self.epoch = 0

    @property
    def sampler(self) -> _EpochBatchSampler:
        """The sampler itself: accelerate looks here for `set_epoch` after it has split batches over processes."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, for the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + (rest > 0 and not self.drop_last)


class LengthBucketedBatchSampler(_EpochBatchSampler):
    """Yield lists of indices of texts of similar length, each index once per epoch.

    The indices are shuffled, cut into pools of `pool_batches` batches, sorted by length inside a pool, cut into
    batches, and the batches are shuffled. The rows that do not fill a batch are drawn at random and come last:
    accelerate loses rows if a short batch comes earlier and several processes share the batches.

    Args:
        lengths: Tokens by index.
        batch_size: Texts per batch.
        seed: Chooses a sequence of orders, one per epoch.
        pool_batches: More mean less padding and less mixing: for tweets a share of .317 with 1, .015 with 50.
        drop_last: Leave out the rows that do not fill a batch.

    Example:
        >>> sampler = LengthBucketedBatchSampler([len(ids) for ids in train["input_ids"]], batch_size=32)
        >>> loader = DataLoader(train, batch_sampler=sampler, collate_fn=DataCollatorWithPadding(tokenizer))
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        pool_batches: int = 50,
        drop_last: bool = False,
    ) -> None:
        super().__init__(lengths, batch_size, drop_last)
        self.seed, self.pool_batches = seed, pool_batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        filled = len(order) - len(order) % self.batch_size
        pool_size = self.pool_batches * self.batch_size
        for start in range(0, filled, pool_size):
            pool = order[start : min(start + pool_size, filled)]
            pool[:] = pool[np.argsort(self.lengths[pool], kind="stable")]  # `pool` is a view of `order`
        for batch in generator.permutation(order[:filled].reshape(-1, self.batch_size)):
            yield batch.tolist()
        if filled < len(order) and not self.drop_last:
            yield order[filled:].tolist()


class SortedBatchSampler(_EpochBatchSampler):
    """Yield lists of indices sorted by length over all texts, in the same order in each epoch.

    This is the order of the source tutorial, torchtext's `BucketIterator(sort=True, sort_within_batch=True)`: the
    shortest texts come first, and each batch is reversed. Training ends with the longest texts. Prefer
    [`LengthBucketedBatchSampler`], which shuffles.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, drop_last: bool = False) -> None:
        super().__init__(lengths, batch_size, drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.argsort(self.lengths, kind="stable").tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size][::-1]


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
