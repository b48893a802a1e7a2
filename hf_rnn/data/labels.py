"""Labels of rows: one class, a set of labels, or numbers.

Each class here reads labels as they are written, the same way for all splits, and has `names` (by
id), `feature` (the type of the column `label`) and `read`. Labels are compared exactly: nothing is
stripped or folded. Several columns are written as one string, with tabs.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import datasets
import numpy as np

from ..utils.errors import DataError, SettingError
from .errors import MOST_LISTED, Fault, Reason, label_fault, listed, shorten

logger = logging.getLogger(__name__)

RowLabels: TypeAlias = "LabelMap | LabelSets | Numbers"

# In canonical form, `7` and `-1`, not `07`, `+7`, `-0` or `7.0`; at most 18 digits, as Python
# refuses thousands.
_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")
_DECIMAL = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?")
_LARGEST = float(np.finfo(np.float32).max)
_FLAGS = {"0": False, "0.0": False, "False": False, "1": True, "1.0": True, "True": True}


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Sort labels: by value if all are integers, else by code points."""
    labels = list(labels)
    return sorted(labels, key=int) if all(map(_INTEGER.fullmatch, labels)) else sorted(labels)


def unknown_label(label: str, allowed: Collection[str], noun: str = "label") -> Fault:
    """Return the fault of a label that is not allowed; allowed ones are listed if they are few."""
    names = listed(allowed) if len(allowed) <= MOST_LISTED else f"{len(allowed)} others"
    return Fault(Reason.UNKNOWN_LABEL, f"{noun} {label!r:.80}, known are {names}")


def _number(names: Sequence[str], label_map: Mapping[str, str] | None = None) -> dict[str, int]:
    """Return the ids of names, and of the labels that a map translates to names."""
    ids = {name: number for number, name in enumerate(names)}
    return ids | {label: ids[name] for label, name in (label_map or {}).items()}


# ---- one class ----


@dataclass(frozen=True)
class LabelMap:
    """Classes by id, and the id of each label of the data."""

    names: tuple[str, ...]
    ids: Mapping[str, int]

    @classmethod
    def from_labels(cls, labels: Iterable[str]) -> LabelMap:
        """Make the map of labels that are the names of their classes."""
        names = tuple(labels)
        return cls(names, _number(names))

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> LabelMap:
        """Make the map from the rows of train by label; refuse a single one, and too many."""
        rows = sum(counts.values())
        if len(counts) > 50 and len(counts) > rows / 2:
            some = listed(sorted(counts, key=len)[:3])
            advice = "are columns swapped? Set --text_column and --label_column"
            if all(map(_DECIMAL.fullmatch, counts)):
                advice = "to predict a number, set --task regression"
            found = f"found {len(counts)} in {rows} rows, such as {some}"
            raise DataError(f"too many labels: {found}; {advice}")
        if len(counts) < 2:
            advice = "set --label_column, or give all names with --class_names"
            raise DataError(f"a classifier needs two labels: found {listed(counts)} only; {advice}")
        return cls.from_labels(sort_labels(counts))

    @classmethod
    def from_names(
        cls,
        class_names: Sequence[str],
        counts: Mapping[str, int],
        label_map: Mapping[str, str] | None = None,
    ) -> LabelMap:
        """Make the map from class names, the rows of the first split by label, and a map to names.

        A label that equals a name means that class, unless `label_map` says otherwise. Without a
        `label_map`, if no label of the data equals a name and most rows carry integers, these index
        the names.
        """
        names = tuple(class_names)
        _check_names(names, label_map or {})
        labels = cls(names, _number(names, label_map))
        if not counts or not labels.ids.keys().isdisjoint(counts):
            return labels
        integers = sum(rows for label, rows in counts.items() if _INTEGER.fullmatch(label))
        if label_map is not None or integers <= sum(counts.values()) / 2:
            raise _nothing_in_common(names, sort_labels(counts), label_map is not None)
        pairs = [f"{number} = {name}" for number, name in enumerate(names)]
        logger.info("labels are integers, and mean %s", shorten(pairs))
        return cls(names, {str(number): number for number in range(len(names))})

    @property
    def feature(self) -> datasets.ClassLabel:
        """A class id with its name."""
        return datasets.ClassLabel(names=list(self.names))

    def read(self, written: str) -> int | Fault:
        """Return the id of a label, or what is wrong with it."""
        if written in self.ids:
            return self.ids[written]
        return label_fault(written) or unknown_label(written, self.ids)


def _check_names(names: Sequence[str], label_map: Mapping[str, str]) -> None:
    """Refuse class names that cannot be those of classes, and a map to other names."""
    is_odd = any(name.strip() != name or not name for name in names)
    if is_odd or len(set(names)) < len(names) or len(names) < 2:
        advice = "give two or more, all different, without white space at their ends"
        raise SettingError(f"invalid class names: found {listed(names)}; {advice}")
    unknown = [name for name in label_map.values() if name not in names]
    if unknown:
        found = f"found {listed(unknown)}; the classes are {listed(names)}"
        raise SettingError(f"label_map has unknown classes: {found}")


def _nothing_in_common(names: Sequence[str], labels: Sequence[str], has_map: bool) -> DataError:
    """Return the error for labels that name no class."""
    both = f"found labels {listed(labels)} and class names {listed(names)}"
    if has_map:
        pairs = " ".join(f"{label}=NAME" for label in labels[: len(names)][:MOST_LISTED])
        both += f"; map them with --label_map {pairs:.150}"
    return DataError(f"labels and class names have nothing in common: {both}")


# ---- sets of labels, and numbers ----


@dataclass(frozen=True)
class LabelSets:
    """Sets of labels: a column of labels between separators, or a column of 0 and 1 for each label.

    An empty field is the empty set. White space beside a separator is ignored. Labels are stored as
    lists of ids.
    """

    names: tuple[str, ...]
    separator: str  # between the labels in one column
    ids: Mapping[str, int]
    columns: tuple[int, ...] = ()  # the label of each column; empty for one column of labels

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[str],
        columns: Sequence[str],
        names: Sequence[str] | None,
        label_map: Mapping[str, str] | None,
        separator: str | None,
    ) -> LabelSets:
        """Make the map from the distinct labels of the first split as written, or from class names.

        Without a `separator`, each column is a label. Raises a [`UserError`] for rows without any
        label, and for more than 1,000 different ones.
        """
        if separator is None:
            return cls(tuple(names or columns), "", {}, match_columns(columns, names or columns))
        if names is not None:
            if len(names) > 1:
                _check_names(names, label_map or {})
            return cls(tuple(names), separator, _number(names, label_map))
        labels = {label.strip() for label in separator.join(rows).split(separator)} - {""}
        if not labels:
            raise DataError("no row of train has a label: set --label_column or --label_separator")
        if len(labels) > 1000:
            some = listed(sorted(labels, key=len)[:3])
            found = f"found {len(labels)}, such as {some}"
            raise DataError(f"too many labels: {found}; set --label_separator")
        names = sort_labels(labels)
        return cls(tuple(names), separator, _number(names))

    @property
    def feature(self) -> datasets.List:
        """A list of class ids with their names."""
        return datasets.List(datasets.ClassLabel(names=list(self.names)))

    def read(self, written: str) -> tuple[int, ...] | Fault:
        """Return the ids of a row's labels in their order, or the fault."""
        if self.columns:
            return self._read_flags(written)
        labels = [label.strip() for label in written.split(self.separator)]
        if labels == [""]:
            return ()
        if "" in labels:
            return Fault(Reason.EMPTY_LABEL, f"the labels are {written!r:.80}")
        for label in labels:
            if label not in self.ids:
                return label_fault(label) or unknown_label(label, self.ids)
        return tuple(sorted({self.ids[label] for label in labels}))

    def _read_flags(self, written: str) -> tuple[int, ...] | Fault:
        """Return the labels whose column has 1."""
        cells = written.split("\t", len(self.columns) - 1)
        ids = []
        for number, cell in zip(self.columns, cells, strict=True):
            if cell not in _FLAGS:
                detail = f"{cell!r:.80} in column {self.names[number]!r:.80} is neither 0 nor 1"
                return Fault(Reason.UNKNOWN_LABEL, detail)
            if _FLAGS[cell]:
                ids.append(number)
        return tuple(sorted(ids))


def match_columns(columns: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Return the id of each column: by its name, or by its place if columns are numbered."""
    if set(columns) == set(names):
        return tuple(map(list(names).index, columns))
    if len(columns) != len(names) or not all(column.isdecimal() for column in columns):
        both = f"label_columns are {listed(columns)}, and the names are {listed(names)}"
        raise SettingError(f"{both}: give one column for each name")
    return tuple(range(len(names)))


@dataclass(frozen=True)
class Numbers:
    """One or several numbers per row, each in a column; they are stored as a struct of float64."""

    names: tuple[str, ...]
    columns: tuple[int, ...]  # id of each column

    @classmethod
    def from_rows(
        cls, rows: Iterable[str], columns: Sequence[str], names: Sequence[str] | None, *_: object
    ) -> Numbers:
        """Take the names of the columns, or class names; a single column without one is `value`."""
        if names is None:
            # one may hold lists
            size = 1 + next(iter(rows), "").count("\t") if len(columns) == 1 else len(columns)
            names = list(columns) * (size // len(columns))
            if all(name.isdecimal() for name in names) or set(names) == {"label"}:
                names = ["value"] if size == 1 else [f"value_{number}" for number in range(size)]
        ids = tuple(range(len(names)))
        if len(columns) > 1:
            ids = match_columns(columns, names)
        return cls(tuple(names), ids)

    @property
    def feature(self) -> dict[str, datasets.Value]:
        """A number for each name."""
        return {name: datasets.Value("float64") for name in self.names}

    def read(self, written: str) -> dict[str, float] | Fault:
        """Return the numbers of a row by name, or the fault."""
        numbers = {}
        cells = written.split("\t")
        if len(cells) != len(self.names):
            detail = f"found {len(cells)} numbers, expected {len(self.names)}"
            return Fault(Reason.NOT_A_NUMBER, detail)
        for column, cell in zip(self.columns, cells, strict=True):
            name = self.names[column]
            detail = f"found {cell!r:.80}"
            if len(self.names) > 1:
                detail += f" in column {name!r:.80}"
            try:
                number = float(cell) if "_" not in cell else math.nan
            except ValueError:
                return Fault(Reason.NOT_A_NUMBER, detail)
            if not abs(number) <= _LARGEST:
                return Fault(Reason.NOT_FINITE, detail)
            numbers[name] = number
        return numbers
