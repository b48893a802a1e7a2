"""The order of training rows: batches of similar lengths, or streams with a length; each epoch has a new order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import datasets
import numpy as np
from torch.utils.data import IterableDataset, Sampler

from ..utils.errors import UserError

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

    def __init__(self, lengths: Sequence[int], seed: int) -> None:
        self.lengths, self.seed, self.epoch = np.asarray(lengths, dtype=np.int64), seed, 0

    @property
    def sampler(self) -> _EpochBatchSampler:
        """The sampler itself: accelerate looks here for `set_epoch` after it has split batches over processes."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, for the next iteration."""
        self.epoch = epoch

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])


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
        super().__init__(lengths, seed)
        self.batch_size, self.pool_batches, self.drop_last = batch_size, pool_batches, drop_last

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        generator = self._generator()
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
        super().__init__(lengths, 0)
        self.batch_size, self.drop_last = batch_size, drop_last

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.argsort(self.lengths, kind="stable").tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size][::-1]


class TokenBudgetBatchSampler(_EpochBatchSampler):
    """Yield lists of indices of texts of similar length, within a budget of tokens, each index once per epoch.

    The tokens of a batch are its rows times its longest text; an empty text counts as one token. A text with more
    tokens than the budget is a batch of its own. The indices are sorted by length, equal lengths at random, and cut
    from the longest on into batches that fit the budget. Then the rows of each `mixed_batches` neighbouring batches
    are dealt again, and all batches are shuffled. The sizes of the batches depend on the lengths alone, so all epochs
    have equally many.

    Args:
        lengths: Tokens by index.
        tokens_per_batch: The most tokens per batch.
        seed: Chooses a sequence of orders, one per epoch.
        mixed_batches: More mean more mixing and padding: for tweets a share of .005 with 1, .015 with 4, .044 with 16.
        processes: The largest batches are halved until this number of processes divides the number of batches.

    Raises:
        UserError: For batches of one text each that the processes cannot share evenly.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        tokens_per_batch: int,
        *,
        seed: int = 0,
        mixed_batches: int = 4,
        processes: int = 1,
    ) -> None:
        super().__init__(np.maximum(lengths, 1), seed)
        self.tokens_per_batch, self.mixed_batches, self.processes = tokens_per_batch, mixed_batches, processes
        self._sizes, self._groups = self._cut()

    def _cut(self) -> tuple[list[int], list[int]]:
        """Return the rows of each batch, longest texts first, and the limits between which rows are dealt again."""
        longest_first = np.sort(self.lengths)[::-1].tolist()
        sizes, groups = [], [0]
        while groups[-1] < len(longest_first):
            most = max(1, self.tokens_per_batch // longest_first[groups[-1]])
            rows = min(most * self.mixed_batches, len(longest_first) - groups[-1])
            batches = -(-rows // most)
            sizes += [rows // batches + (number < rows % batches) for number in range(batches)]
            groups.append(groups[-1] + rows)
        while len(sizes) % self.processes:
            place = max(range(len(sizes)), key=sizes.__getitem__)
            if sizes[place] == 1:
                found = f"{len(sizes)} batches of one text each for {self.processes} processes"
                raise UserError(f"tokens_per_batch {self.tokens_per_batch} makes {found}: raise it")
            sizes[place : place + 1] = [-(-sizes[place] // 2), sizes[place] // 2]
        return sizes, groups

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[list[int]]:
        generator = self._generator()
        order = generator.permutation(len(self.lengths))
        order = order[np.argsort(-self.lengths[order], kind="stable")]
        for first, last in pairwise(self._groups):
            generator.shuffle(order[first:last])  # a view of `order`
        batches = np.split(order, np.cumsum(self._sizes)[:-1])
        for number in generator.permutation(len(self)):
            yield batches[number].tolist()


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
