"""Batches of texts of like length: little padding, a new order each epoch, and the same order again on demand.

Two torch batch samplers, for batches of so many texts and of so many tokens, and the share of padding that an order
costs. Nothing here knows what a token is, nor a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler

from ..utils.errors import UserError


def padding_share(lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> float:
    """Return the share of padding in batches that are each padded to their longest text.

    Args:
        lengths: Tokens by index.
        batches: Indices by batch.

    Returns:
        Padding tokens by all tokens, from 0 (none) towards 1; 0 when there are no tokens.
    """
    rows = [[lengths[index] for index in batch] for batch in batches]
    padded = sum(len(row) * max(row) for row in rows if row)
    return 1 - sum(map(sum, rows)) / padded if padded else 0.0


class _EpochBatchSampler(Sampler[list[int]]):
    """What the two samplers share: an order that follows from the arguments and the epoch alone."""

    def __init__(self, lengths: np.ndarray, seed: int, **sizes: int) -> None:
        for name, value, least in (*((name, value, 1) for name, value in sizes.items()), ("seed", seed, 0)):
            if value < least:
                raise UserError(f"{name} is {value}: give {least} or more")
        self.lengths = lengths
        self.seed = seed
        self.epoch = 0

    @property
    def sampler(self) -> _EpochBatchSampler:
        """The sampler itself: where accelerate looks for `set_epoch` once it has split the batches over processes."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order the next iteration yields."""
        self.epoch = epoch

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])


class LengthBucketedBatchSampler(_EpochBatchSampler):
    """Yields lists of indices of texts of like length, each index once an epoch.

    The indices are shuffled, cut into pools of `pool_batches` batches, sorted by length inside a pool, cut into
    batches, and the batches are shuffled. The order depends on the arguments and the epoch alone, on no state and no
    global random generator, so a run that stops inside an epoch goes on with the batches it has not seen.

    What does not fill a batch is drawn at random, not from the longest texts, and comes last: accelerate loses rows
    when a short batch stands anywhere else and several processes share the batches.

    Args:
        lengths: Tokens by index.
        batch_size: Texts in a batch.
        seed: Makes one sequence of orders; together with the epoch it makes one order.
        pool_batches: Batches in a pool: 1 is a random order, more is less padding and less mixing. On 6,000 tweets
            (18.8 tokens on average, 32 at most) in batches of 32 the share of padding is .317 for a random order and
            .108, .059, .015 and .008 for pools of 5, 10, 50 and 100 batches.
        drop_last: Leave out what does not fill a batch.

    Raises:
        UserError: For a batch or pool size under 1, or a negative seed.

    Example:
        >>> sampler = LengthBucketedBatchSampler([len(ids) for ids in train["input_ids"]], batch_size=32)
        >>> loader = DataLoader(train, batch_sampler=sampler, collate_fn=DataCollatorWithPadding(tokenizer))
        >>> sampler.set_epoch(1)
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
        super().__init__(np.asarray(lengths, dtype=np.int64), seed, batch_size=batch_size, pool_batches=pool_batches)
        self.batch_size = batch_size
        self.pool_batches = pool_batches
        self.drop_last = drop_last

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


class TokenBudgetBatchSampler(_EpochBatchSampler):
    """Yields lists of indices of texts of like length whose tokens fit a budget, each index once an epoch.

    The tokens of a batch are its rows times its longest text, padding counted, and an empty text counts as one token.
    A text with more tokens than the budget is a batch of its own.

    The indices are sorted by length, equally long texts at random, and cut from the longest on: so many rows a batch
    as the budget holds texts of the longest of them. Then the rows of each `mixed_batches` neighbouring batches are
    dealt anew, and all batches are shuffled. How many rows each batch has follows from the lengths alone, so that all
    epochs have as many batches. As in [`LengthBucketedBatchSampler`], the order depends on the arguments and the epoch
    alone, and a run that stops inside an epoch goes on with the batches it has not seen.

    Args:
        lengths: Tokens by index.
        tokens_per_batch: The most tokens in a batch.
        seed: Makes one sequence of orders; together with the epoch it makes one order.
        mixed_batches: Neighbouring batches whose rows are dealt anew each epoch. 1 is the least padding, and only
            texts equally long change their batch; more is more mixing and more padding. On 6,000 tweets (18.8 tokens
            on average, 32 at most) with 640 tokens a batch, 1, 2, 4, 8 and 16 make 180, 181, 182, 186 and 189 batches
            whose share of padding is .005, .007, .015, .031 and .044.
        processes: How many share the batches: there are a multiple of so many, for which the largest are halved.

    Raises:
        UserError: For a size under 1, a negative seed, or batches of one text each that processes cannot share evenly.

    Example:
        >>> sampler = TokenBudgetBatchSampler([len(ids) for ids in train["input_ids"]], tokens_per_batch=1024)
        >>> loader = DataLoader(train, batch_sampler=sampler, collate_fn=DataCollatorWithPadding(tokenizer))
        >>> sampler.set_epoch(1)
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
        super().__init__(
            np.maximum(np.asarray(lengths, dtype=np.int64), 1),
            seed,
            tokens_per_batch=tokens_per_batch,
            mixed_batches=mixed_batches,
            processes=processes,
        )
        self.tokens_per_batch = tokens_per_batch
        self.mixed_batches = mixed_batches
        self.processes = processes
        self._sizes, self._groups = self._cut()

    def _cut(self) -> tuple[list[int], list[int]]:
        """Rows of each batch, longest texts first, and the places between which rows are dealt anew."""
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
                raise UserError(
                    f"tokens_per_batch {self.tokens_per_batch} makes {len(sizes)} batches of one text each, which "
                    f"{self.processes} processes cannot share evenly: give more tokens or start fewer processes"
                )
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
