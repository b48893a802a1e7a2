"""N-grams of tokens as hashes, and the table that has a row per n-gram: the arithmetic in NumPy.

The table is that of `models/ngrams_rnn.py`, which describes it. Legend: N texts, K n-grams, R rows,
C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

# as in models/ngrams_rnn.py, which needs torch
NGRAMS = 3
PRIME = 2**31 - 1
FACTOR = 1_000_003
BUCKET_FACTOR = 1_540_483_477
STEP_FACTOR = 461_845_907
CHECK_FACTOR = 1_812_433_253
ROWS_PER_BUCKET = 4

_FULL = 0.9  # share of the rows that n-grams take
_TRIALS = 64  # shifts that are tried at once
_MOST_SHIFT = 2**15


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of texts, an entry per place: three arrays of the same length."""

    hashes: np.ndarray  # int64
    places: np.ndarray  # where the first token is, in all texts one after another
    sizes: np.ndarray  # number of tokens


def flatten(texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of texts one after another, and the number of tokens of each text."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return np.fromiter(chain.from_iterable(texts), np.int64, int(lengths.sum())), lengths


def hash_ngrams(ids: np.ndarray, lengths: np.ndarray) -> Ngrams:
    """Return the n-grams of one to three tokens of texts, at all places; see [`flatten`]."""
    ids = ids.astype(np.int64, copy=False)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(ids))
    hashes = np.zeros_like(ids)
    by_size = [(ids[:0], ids[:0], ids[:0])]
    for further in range(min(NGRAMS, len(ids))):
        hashes = (hashes[: len(ids) - further] * FACTOR + ids[further:] + 1) % PRIME
        inside = np.flatnonzero(left[: len(hashes)] > further)
        by_size.append((hashes[inside], inside, np.full(len(inside), further + 1)))
    return Ngrams(*map(np.concatenate, zip(*by_size, strict=True)))


def distinct_ngrams(ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of the distinct n-grams of texts, and the number of the text of each."""
    ngrams = hash_ngrams(ids, lengths)
    numbers = np.repeat(np.arange(len(lengths)), lengths)[ngrams.places]
    pairs = sort_distinct(numbers * (PRIME + 1) + ngrams.hashes)
    return pairs % (PRIME + 1), pairs // (PRIME + 1)


def sort_distinct(values: np.ndarray) -> np.ndarray:
    """Return distinct values in order: `numpy.unique`, which takes ten times as long for many."""
    ordered = np.sort(values)
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


@dataclass(frozen=True)
class NgramTable:
    """A row of weights per n-gram; the fields are the weights of a model, by name."""

    weight: np.ndarray  # (R, C), int8
    check: np.ndarray  # (R), int16
    shift: np.ndarray  # (R / 4), int16
    scale: np.ndarray  # (C), float32

    def __post_init__(self) -> None:
        """Raise a ValueError for what no table has, wherever it was read."""
        rows = len(self.weight)
        labels = len(self.scale)
        layout = {
            "weight": (np.int8, (rows, labels)),
            "check": (np.int16, (rows,)),
            "shift": (np.int16, (-(-rows // ROWS_PER_BUCKET),)),
            "scale": (np.float32, (labels,)),
        }
        for name, (dtype, shape) in layout.items():
            values = getattr(self, name)
            if values.dtype != dtype or values.shape != shape:
                wanted = f"{np.dtype(dtype)} of shape {shape}"
                found = f"{values.dtype} of shape {values.shape}"
                raise ValueError(f"ngrams.{name} must be {wanted}: found {found}")
        if not rows or self.shift.min() < 0 or not np.isfinite(self.scale).all():
            raise ValueError("ngrams must have rows, no negative shift, and finite scales")

    @classmethod
    def build(cls, hashes: np.ndarray, weights: np.ndarray) -> NgramTable:
        """Return the table of distinct hashes `(K)` and their weights `(K, C)`."""
        rows = max(1, int(np.ceil(len(hashes) / _FULL)))
        placed = _place(hashes, rows)
        while placed is None:
            rows += 1 + rows // 50
            placed = _place(hashes, rows)
        places, shift = placed

        scale = np.maximum(np.abs(weights).max(axis=0, initial=0) / 127, 1e-30).astype(np.float32)
        weight = np.zeros((rows, weights.shape[1]), np.int8)
        weight[places] = np.rint(weights / scale)
        check = np.zeros(rows, np.int16)
        check[places] = _take_check(hashes)
        return cls(weight, check, shift, scale)

    def find_rows(self, hashes: np.ndarray) -> np.ndarray:
        """Return the row of each hash, -1 where the table does not have it."""
        shift = self.shift[hashes * BUCKET_FACTOR % PRIME % len(self.shift)].astype(np.int64)
        rows = (hashes + shift * _step(hashes)) % len(self.weight)
        is_known = _take_check(hashes) == self.check[rows]
        return np.where(is_known, rows, -1)

    def score(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the scores `(N, C)` of texts, as `NgramScores` of the model does."""
        ids, lengths = flatten(texts)
        hashes, numbers = distinct_ngrams(ids, lengths)
        rows = self.find_rows(hashes)
        is_known = rows >= 0
        sums = np.zeros((len(texts), self.weight.shape[1]), np.float32)
        np.add.at(sums, numbers[is_known], self.weight[rows[is_known]])
        roots = np.sqrt(np.maximum(lengths, 1), dtype=np.float32)
        return sums * self.scale / roots[:, None]


def _step(hashes: np.ndarray) -> np.ndarray:
    return 1 + hashes * STEP_FACTOR % PRIME


def _take_check(hashes: np.ndarray) -> np.ndarray:
    return hashes * CHECK_FACTOR % PRIME % 2**16 - 2**15


def _place(hashes: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a row of its own for each hash, and the shift of each bucket; None if that fails."""
    buckets = -(-rows // ROWS_PER_BUCKET)
    bucket = hashes * BUCKET_FACTOR % PRIME % buckets
    step = _step(hashes) % rows
    by_bucket = np.argsort(bucket, kind="stable")
    sizes = np.bincount(bucket, minlength=buckets)
    ends = np.cumsum(sizes)
    is_used = np.zeros(rows, bool)
    places = np.empty(len(hashes), np.int64)
    shift = np.zeros(buckets, np.int16)
    for number in np.argsort(-sizes, kind="stable"):
        if not sizes[number]:
            break
        members = by_bucket[ends[number] - sizes[number] : ends[number]]
        trial = _find_shift(hashes[members], step[members], is_used)
        if trial is None:
            return None
        shift[number] = trial
        places[members] = (hashes[members] + trial * step[members]) % rows
        is_used[places[members]] = True
    return places, shift


def _find_shift(hashes: np.ndarray, step: np.ndarray, is_used: np.ndarray) -> int | None:
    """Return the first shift that puts hashes on unused rows of their own; None without one."""
    for first in range(0, _MOST_SHIFT, _TRIALS):
        trials = np.arange(first, first + _TRIALS)[:, None]
        rows = (hashes + trials * step) % len(is_used)
        is_free = ~is_used[rows].any(axis=1)
        if len(hashes) > 1:
            ordered = np.sort(rows, axis=1)
            is_free &= (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
        if is_free.any():
            return first + int(is_free.argmax())
    return None
