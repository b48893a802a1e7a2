"""Exact and near duplicates among the texts of several splits.

Two texts are exact duplicates if their normalised forms are equal. They are near duplicates if the sets of word
3-grams of these forms have a Jaccard similarity of at least 0.8. All are found; nothing is estimated.

Near duplicates come from prefix filtering with a positional filter (Bayardo, Ma and Srikant 2007, "Scaling up all
pairs similarity search"; Xiao et al. 2008, "Efficient similarity joins for near duplicate detection"): with the
3-grams of every text in one order, rarest first, two similar sets share a 3-gram among the first of each. Libraries
estimate (MinHash of `datasketch` 2.0 missed 309 of 4,686 near pairs among 100,000 tweet-like texts) or list all pairs,
half a million for a thousand copies of one template. Here a search ends with its first hit.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FIRST_BLOCK = 16  # candidates per shared 3-gram to compare first; then four times as many, and so on


def normalize_text(text: str) -> str:
    """Return the form of a text whose equality makes exact duplicates.

    Case, width and composition of characters are ignored (compatibility caseless matching, The Unicode Standard,
    section 3.13, D146), and so is white space, except that it separates words. Punctuation, links, handles and digits
    count.
    """
    if text.isascii():
        folded = text.lower()  # a faster way to the same result
    else:
        folded = unicodedata.normalize("NFD", text).casefold()
        folded = unicodedata.normalize("NFKD", folded).casefold()
        folded = unicodedata.normalize("NFKD", folded)
    return " ".join(folded.split())


def jaccard(a: str, b: str) -> float:
    """Return the Jaccard similarity of the word 3-grams of two normalised texts; 0 for fewer than three words."""
    first, second = (set(zip(words, words[1:], words[2:], strict=False)) for words in (a.split(), b.split()))
    return len(first & second) / len(first | second) if first and second else 0.0


def group_repeats(texts: Sequence[str]) -> np.ndarray:
    """Return the group of each text: exact and near duplicates, and the duplicates of these, are one group."""
    normalized = pa.array(map(normalize_text, texts), pa.string()).dictionary_encode()
    count = len(normalized.dictionary)
    index = _NearIndex(normalized.dictionary.to_pylist(), [_Split([(text, 0) for text in range(count)])])
    groups = np.arange(count)
    members: dict[int, Any] = {}
    for text in range(count):
        while (twin := index.search(text, 0, text, groups=groups)) is not None:
            small, large = sorted((groups[text], groups[twin]), key=lambda group: len(members.get(group, [group])))
            moved = members.pop(small, [small])
            members.setdefault(large, [large]).extend(moved)
            groups[moved] = large
    return groups[normalized.indices.to_numpy()]


class Twin(NamedTuple):
    """A row, the row of the source split that it repeats, and whether it repeats it exactly."""

    row: int
    twin: int
    exact: bool


class RepeatFinder:
    """Finds rows that repeat others: `texts` are distinct and normalised; numbers of texts and labels are by split."""

    def __init__(
        self, texts: Sequence[str], numbers: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
    ) -> None:
        self._texts = texts
        self._splits = [_Split(list(zip(*columns, strict=True))) for columns in zip(numbers, labels, strict=True)]
        self._index: _NearIndex | None = None

    def find(self, source: int, split: int) -> Iterator[Twin]:
        """Yield each row of a split that repeats a row of the source, exactly if it can be, with one twin.

        If both are one split, a row must repeat an earlier one. A twin with another label is preferred.
        """
        known, found = self._splits[source], self._splits[split]
        near: dict[tuple[int, int], int | None] = {}
        for row, item in enumerate(found.rows):
            text, label = item
            first = known.first.get(text)
            if first is not None and (source != split or first < row):
                others = (other for other in known.several.get(text, ()) if known.rows[other][1] != label)
                yield Twin(row, next(others, first), exact=True)
                continue
            if item not in near:
                near[item] = self._find_near(item, source, split)
            if (twin := near[item]) is not None:
                yield Twin(row, twin, exact=False)

    def _find_near(self, item: tuple[int, int], source: int, split: int) -> int | None:
        """Return the first row of a near twin of an item."""
        index = self._index = self._index or _NearIndex(self._texts, self._splits)
        number, (first, last) = index.numbers[split][item], index.bounds[source]
        twin = index.search(number, first, number if source == split else last)
        if twin is None:
            return None
        if index.labels[twin] == item[1]:
            other = index.search(number, first, last, other_label=True)
            twin = twin if other is None else other
        return index.first_rows[twin]


class _Split:
    """Text and label of each row of a split, and the first row of each text and of each pair (`items`), ascending.

    `several` has the first row of each label, for texts with several labels.
    """

    def __init__(self, rows: list[tuple[int, int]]) -> None:
        self.rows = rows
        self.first: dict[int, int] = {}
        self.items: dict[tuple[int, int], int] = {}
        self.several: dict[int, list[int]] = {}
        for row, item in enumerate(rows):
            if self.items.setdefault(item, row) == row and (first := self.first.setdefault(item[0], row)) != row:
                self.several.setdefault(item[0], [first]).append(row)


def _number(values: Any) -> np.ndarray:
    """Return a number for each value, from 0 without gaps, equal numbers for equal values."""
    return pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)


def _find_triples(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct 3-grams of each text as numbers, rarest first, and the bounds of each text (U + 1)."""
    lists = pc.split_pattern(pa.array(texts, pa.large_string()), " ")
    owners = np.repeat(np.arange(len(texts)), pc.list_value_length(lists))
    words = _number(lists.flatten())
    if len(words) < 3:
        return np.zeros(0, dtype=np.int64), np.zeros(len(texts) + 1, dtype=np.int64)
    pairs = _number(words[:-1] * len(words) + words[1:])  # three words at once would overflow 64 bits
    whole = owners[:-2] == owners[2:]
    triples, owners = _number((pairs[:-1] * len(words) + words[2:])[whole]), owners[:-2][whole]
    count = int(triples.max(initial=-1)) + 1
    keys = np.sort(owners * count + triples)
    owners, triples = np.divmod(keys[np.diff(keys, prepend=-1) > 0], max(count, 1))
    ranks = np.empty(count, dtype=np.int64)
    ranks[np.argsort(np.bincount(triples, minlength=count), kind="stable")] = np.arange(count)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(texts)))])
    return np.sort(owners * count + ranks[triples]) - owners * count, bounds


class _NearIndex:
    """Finds near duplicates among items, the pairs of text and label of each split.

    All conditions are those of a similarity of 4/5 in whole numbers, so that no rounding decides. `numbers` and
    `bounds` are by split; `labels` and `first_rows` by item.
    """

    def __init__(self, texts: Sequence[str], splits: Sequence[_Split]) -> None:
        items = [item for split in splits for item in split.items]
        ends = np.cumsum([len(split.items) for split in splits]).tolist()
        self.bounds = list(zip([0, *ends], ends, strict=False))
        self.numbers = [
            dict(zip(split.items, range(start, end), strict=True))
            for split, (start, end) in zip(splits, self.bounds, strict=True)
        ]
        self.first_rows = [row for split in splits for row in split.items.values()]
        self.labels = [label for _, label in items]
        self._texts = np.array([text for text, _ in items], dtype=np.int64)
        self._triples, self._triple_bounds = _find_triples(texts)
        sizes = self._sizes = np.diff(self._triple_bounds)[self._texts]
        # A set of n 3-grams shares at least 4n/5 with a near one: the first n // 5 + 1 of both have one in common.
        lengths = np.where(sizes > 0, sizes // 5 + 1, 0)
        owners = np.repeat(np.arange(len(items)), lengths)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        triples = self._triples[self._triple_bounds[self._texts[owners]] + places]
        shared = np.bincount(triples, minlength=1)[triples] > 1
        triples, owners, places = _number(triples[shared]), owners[shared], places[shared]
        # For each item its shared 3-grams and their places in its set.
        self._own = list(zip(triples.tolist(), places.tolist(), strict=True))
        self._own_bounds = np.searchsorted(owners, np.arange(len(items) + 1)).tolist()
        # For each 3-gram the items that have it, in groups of equal size, place and label, ascending in each group.
        keys = np.stack([triples, sizes[owners], places, np.array(self.labels, dtype=np.int64)[owners]])
        order = np.lexsort((owners, *keys[::-1]))
        keys, self._holders = keys[:, order], owners[order]
        starts = np.flatnonzero(np.diff(keys, axis=1, prepend=-1).any(axis=0))
        ends = [*starts[1:].tolist(), len(order)]
        self._groups = list(zip(starts.tolist(), ends, *keys[1:, starts].tolist(), strict=False))
        self._group_bounds = np.searchsorted(keys[0, starts], np.arange(triples.max(initial=-1) + 2)).tolist()

    def search(
        self, item: int, first: int, last: int, other_label: bool = False, groups: np.ndarray | None = None
    ) -> int | None:
        """Return an item from `first` to before `last` that is near to this one and has another text.

        With `groups`, the group of each item, it belongs to another group.
        """
        candidates = [
            part
            for group in self._candidates(item, other_label)
            if len(part := group[slice(*group.searchsorted((first, last)))])
        ]
        own, block = set(self._triples_of(item)), _FIRST_BLOCK
        while candidates:
            others = np.concatenate([part[:block] for part in candidates])
            differs = self._texts if groups is None else groups
            for other in others[differs[others] != differs[item]].tolist():
                triples = self._triples_of(other)
                common = len(own.intersection(triples))
                if 5 * common >= 4 * (len(own) + len(triples) - common):
                    return other
            candidates = [part[block:] for part in candidates if len(part) > block]
            block *= 4
        return None

    def _candidates(self, item: int, other_label: bool) -> Iterator[np.ndarray]:
        """Yield groups of items that share a 3-gram among the first ones, early enough to be near.

        Sets of a and b 3-grams whose first common one is at places p and q share at most min(a - p, b - q). Near sets
        share at least 4 (a + b) / 9.
        """
        size, label = int(self._sizes[item]), self.labels[item]
        for triple, place in self._own[self._own_bounds[item] : self._own_bounds[item + 1]]:
            groups = self._groups[self._group_bounds[triple] : self._group_bounds[triple + 1]]
            for start, end, other_size, other_place, group_label in groups:
                if other_label and group_label == label:
                    continue
                if 9 * min(size - place, other_size - other_place) >= 4 * (size + other_size):
                    yield self._holders[start:end]

    def _triples_of(self, item: int) -> list[int]:
        text = self._texts[item]
        return self._triples[self._triple_bounds[text] : self._triple_bounds[text + 1]].tolist()
