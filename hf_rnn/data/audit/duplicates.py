"""Which rows repeat which: exactly, by equal normalised texts, or nearly, by their word triples."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .near_duplicates import NearIndex, TripleSets


class Twin(NamedTuple):
    """A row, the row that it repeats in the source split, and whether exactly."""

    row: int
    twin: int
    exact: bool


class RepeatFinder:
    """Finds rows that repeat rows.

    Args:
        texts: The different normalised texts of all splits, by number.
        numbers: For each split the number of each row's text; equal numbers are equal texts.
        labels: For each split the label id of each row.
    """

    def __init__(
        self, texts: Sequence[str], numbers: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
    ) -> None:
        self._texts = texts
        self._rows = [list(zip(*columns, strict=True)) for columns in zip(numbers, labels, strict=True)]
        self._occurrences = [_Occurrences.of(rows) for rows in self._rows]

    def find(self, source: int, split: int) -> Iterator[Twin]:
        """Yield each row of a split that repeats a row of the source, with one twin; as exact if it has an exact one.

        A twin with another label is preferred. Which one of several is yielded is the same in each run.

        Args:
            source: Number of the split where the twin stands.
            split: Number of the split whose rows are yielded, `source` or one after it. If it is `source`, a row is
                yielded when it repeats an earlier one.
        """
        known = self._occurrences[source]
        near: dict[tuple[int, int], int | None] = {}
        for row, (text, label) in enumerate(self._rows[split]):
            first = known.first.get(text)
            if first is not None and (source != split or first < row):
                yield Twin(row, known.of_other_label(text, label, first), exact=True)
                continue
            if (text, label) not in near:
                near[text, label] = self._near_twin(_Item(text, label, row), source, split)
            if (twin := near[text, label]) is not None:
                yield Twin(row, twin, exact=False)

    def _near_twin(self, item: _Item, source: int, split: int) -> int | None:
        """Return the row of a near twin of the first row of an item."""
        items = self._by_row
        number, (first, last) = items.number(item, split), items.bounds[source]
        twin = items.near.search(number, (first, number if source == split else last))
        if twin is None:
            return None
        if items[twin].label == item.label:  # is there one with another?
            by_label = self._by_label
            (first, last), (same, after) = by_label.bounds[source], by_label.of_label(source, item.label)
            other = by_label.near.search(by_label.number(item, split), (first, same), (after, last))
            if other is not None:
                return by_label[other].row
        return items[twin].row

    @cached_property
    def _sets(self) -> TripleSets:
        return TripleSets(self._texts)

    @cached_property
    def _by_row(self) -> _Items:
        return _Items(self._sets, self._occurrences, key=lambda item: (item.row,))

    @cached_property
    def _by_label(self) -> _Items:
        return _Items(self._sets, self._occurrences, key=lambda item: (item.label, item.row))


class _Item(NamedTuple):
    """A text under one label in one split, and the first row that holds it."""

    text: int
    label: int
    row: int


@dataclass(frozen=True)
class _Occurrences:
    """Where the texts of one split stand.

    Attributes:
        first: The first row of each text.
        items: Every text under every label that it has.
        labels: For texts that have several, the first row by label.
    """

    first: dict[int, int]
    items: list[_Item]
    labels: dict[int, dict[int, int]]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int]]) -> _Occurrences:
        first: dict[int, int] = {}
        firsts: dict[tuple[int, int], int] = {}
        labels: dict[int, dict[int, int]] = {}
        for row, (text, label) in enumerate(rows):
            if firsts.setdefault((text, label), row) == row and (origin := first.setdefault(text, row)) != row:
                labels.setdefault(text, {rows[origin][1]: origin})[label] = row
        return cls(first, [_Item(text, label, row) for (text, label), row in firsts.items()], labels)

    def of_other_label(self, text: int, label: int, default: int) -> int:
        """Return the first row where a text has another label than this, the default if it has one label only."""
        rows = self.labels.get(text, {})
        return min((row for other, row in rows.items() if other != label), default=default)


class _Items:
    """The items of all splits, split by split and in one order within each, with an index of near duplicates.

    Attributes:
        bounds: For each split, its first item and the one after its last.
        near: The index, over the items by number.
    """

    def __init__(
        self, sets: TripleSets, occurrences: Sequence[_Occurrences], key: Callable[[_Item], tuple[int, ...]]
    ) -> None:
        self._items: list[_Item] = []
        self.bounds: list[tuple[int, int]] = []
        self._numbers: list[dict[_Item, int]] = []
        for each in occurrences:
            start = len(self._items)
            self._items += sorted(each.items, key=key)
            self.bounds.append((start, len(self._items)))
            self._numbers.append({item: start + index for index, item in enumerate(self._items[start:])})
        self.near = NearIndex(sets, np.array([item.text for item in self._items], dtype=np.int64))

    def __getitem__(self, number: int) -> _Item:
        return self._items[number]

    def number(self, item: _Item, split: int) -> int:
        """Return the number of an item that is in the split."""
        return self._numbers[split][item]

    def of_label(self, split: int, label: int) -> tuple[int, int]:
        """Return the first item of a label in a split and the one after the last; the order must be by label."""
        first, last = self.bounds[split]
        start = bisect_left(self._items, label, first, last, key=lambda item: item.label)
        return start, bisect_right(self._items, label, start, last, key=lambda item: item.label)
