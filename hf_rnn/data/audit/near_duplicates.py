"""Which texts share nearly all their word triples: the Jaccard similarity of the sets of word 3-grams is 0.8 or more.

The answer is exact, for any text. Candidates come from prefix filtering (Bayardo, Ma and Srikant 2007, "Scaling up
all pairs similarity search"; Xiao et al. 2008, "Efficient similarity joins for near duplicate detection"): with the
triples of every text in one order, rarest first, two sets that are near share a triple among the first of each, and
enough may come after it (their positional filter). Most candidates are dismissed by a bitmap filter (Sandes, Teodoro
and Melo 2020, "Bitmap filter: speeding up exact set similarity joins with bitwise operations"), the others are
compared.

Why no library: MinHash LSH estimates (of 4,686 near pairs among 100,000 tweet-like texts `datasketch` 2.0 missed 309),
and the exact joins that were tried list all pairs, half a million for a thousand copies of one template. Here a search
ends with its first hit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FIRST_BLOCK = 16  # candidates of each shared triple to look at first; then four times as many, and so on


def jaccard(a: str, b: str) -> float:
    """Return the similarity of two normalised texts, from 0 to 1: of their triples, those in both over those in any.

    A text of fewer than three words has no triple and is near to none.
    """
    first, second = _triples(a), _triples(b)
    return len(first & second) / len(first | second) if first and second else 0.0


def _triples(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(words, words[1:], words[2:], strict=False))


class TripleSets:
    """The sets of word triples of texts, as numbers.

    Letters: U texts, N triples of all of them.

    Args:
        texts: Normalised texts, in which words are separated by one space.

    Attributes:
        triples: For each text in turn its triples, rarest first; equal numbers are equal triples. Shape (N,).
        bounds: Where the triples of a text start, and those of the next one; shape (U + 1,).
        sizes: Triples of each text, shape (U,). A text of fewer than three words has none.
        signatures: A 64-bit set for each text, shape (U,): each triple flips one bit, so that two sets differ in at
            least as many triples as their signatures do in bits.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        triples, owners = _number_triples(texts)
        count = int(triples.max(initial=-1)) + 1
        keys = np.sort(owners * count + triples)
        owners, triples = np.divmod(keys[np.diff(keys, prepend=-1) > 0], max(count, 1))  # a set holds a triple once
        ranks = np.empty(count, dtype=np.int64)
        ranks[np.argsort(np.bincount(triples, minlength=count), kind="stable")] = np.arange(count)
        self.triples = np.sort(owners * count + ranks[triples]) - owners * count
        self.sizes = np.bincount(owners, minlength=len(texts))
        self.bounds = np.concatenate([[0], np.cumsum(self.sizes)])
        self.signatures = np.zeros(len(texts), dtype=np.uint64)
        if filled := np.flatnonzero(self.sizes).tolist():
            flips = np.uint64(1) << (self.triples % 64).astype(np.uint64)
            self.signatures[filled] = np.bitwise_xor.reduceat(flips, self.bounds[filled])


def _number_triples(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the triples of all texts as numbers, from 0 without gaps, and the text that each stands in."""
    lists = pc.split_pattern(pa.array(texts, pa.large_string()), " ")
    owners = np.repeat(np.arange(len(texts)), pc.list_value_length(lists))
    words = _number(lists.flatten())
    if len(words) < 3:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    # three numbers at once would overflow 64 bits
    pairs = _number(words[:-1] * len(words) + words[1:])
    whole = owners[:-2] == owners[2:]
    return _number((pairs[:-1] * len(words) + words[2:])[whole]), owners[:-2][whole]


def _number(values: Any) -> np.ndarray:
    """Return a number for each value, from 0 without gaps, equal ones for equal values."""
    return pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)


class NearIndex:
    """Finds near duplicates among items, each of which has a text; items may share one.

    Every condition is that for a similarity of 4/5, in whole numbers, so that no rounding decides.

    Args:
        sets: Of the texts.
        texts: The text of each item, by its number in `sets`; shape (items,).
    """

    def __init__(self, sets: TripleSets, texts: np.ndarray) -> None:
        self._sets, self._texts = sets, texts
        self._sizes, self._signatures = sets.sizes[texts], sets.signatures[texts]
        self._ones = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16).sum(axis=1)
        # A set of n triples that is near to another shares at least 4n/5 with it, so that the n // 5 + 1 first of
        # both have one in common.
        lengths = np.where(self._sizes > 0, self._sizes // 5 + 1, 0)
        items = np.repeat(np.arange(len(texts)), lengths)
        places = np.arange(len(items)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        triples = sets.triples[sets.bounds[texts[items]] + places]
        shared = np.bincount(triples)[triples] > 1 if len(triples) else np.zeros(0, dtype=bool)
        triples, items, places = _number(triples[shared]), items[shared], places[shared]
        # for each item its shared triples, and the place of each in the item's set
        self._triples, self._places = triples.tolist(), places.tolist()
        self._own = np.searchsorted(items, np.arange(len(texts) + 1)).tolist()
        # for each triple the items that have it, in groups of one size and place, and within these in ascending order
        order = np.lexsort((items, places, self._sizes[items], triples))
        self._items = items[order]
        keys = np.stack([triples, self._sizes[items], places])[:, order]
        starts = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1 if len(order) else order
        starts = np.concatenate([[0], starts])[: len(order)]
        self._group_bounds = [*starts.tolist(), len(order)]
        self._group_sizes, self._group_places = keys[1:, starts].tolist()
        self._groups = np.searchsorted(keys[0, starts], np.arange(triples.max(initial=-1) + 2)).tolist()

    def search(self, item: int, *ranges: tuple[int, int]) -> int | None:
        """Return an item that is near to this one and has another text, None if there is none.

        Args:
            item: Whose text is compared.
            ranges: Where to look: first item, and the one after the last.
        """
        candidates = [
            part
            for among in self._holders(item)
            for bounds in ranges
            if len(part := among[slice(*among.searchsorted(bounds))])
        ]
        block = _FIRST_BLOCK
        while candidates:
            for other in self._promising(item, np.concatenate([part[:block] for part in candidates])):
                if self._near(item, other):
                    return other
            candidates = [part[block:] for part in candidates if len(part) > block]
            block *= 4
        return None

    def _holders(self, item: int) -> Iterator[np.ndarray]:
        """Yield the items that share one of the first triples, where that may be the first of enough.

        Of sets of a and b triples, the first one in common being at places p and q, at most min(a - p, b - q) are in
        common, and 4 (a + b) / 9 must be.
        """
        size = int(self._sizes[item])
        for own in range(self._own[item], self._own[item + 1]):
            triple, left = self._triples[own], size - self._places[own]
            for group in range(self._groups[triple], self._groups[triple + 1]):
                other = self._group_sizes[group]
                if 9 * min(left, other - self._group_places[group]) >= 4 * (size + other):
                    yield self._items[self._group_bounds[group] : self._group_bounds[group + 1]]

    def _promising(self, item: int, others: np.ndarray) -> list[int]:
        """Dismiss what cannot be near: sets of too different a size, or whose signatures differ in too many bits.

        With i triples in common, i / (a + b - i) >= 4/5 means that the sets differ in a + b - 2i <= (a + b) / 9.
        """
        size, sizes = self._sizes[item], self._sizes[others]
        flipped = (self._signatures[others] ^ self._signatures[item]).view(np.uint16)
        bits = self._ones[flipped].reshape(-1, 4).sum(axis=1)
        fitting = (5 * np.minimum(size, sizes) >= 4 * np.maximum(size, sizes)) & (9 * bits <= size + sizes)
        return others[fitting & (self._texts[others] != self._texts[item])].tolist()

    def _near(self, item: int, other: int) -> bool:
        first, second = (self._sets_of(each) for each in (item, other))
        common = len(set(first).intersection(second))
        return 5 * common >= 4 * (len(first) + len(second) - common)

    def _sets_of(self, item: int) -> list[int]:
        text = self._texts[item]
        return self._sets.triples[self._sets.bounds[text] : self._sets.bounds[text + 1]].tolist()
