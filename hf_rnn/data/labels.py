"""One label map for every split: label strings of the data to ids, sets of ids or numbers, or to a fault.

The labels of train (integers by value, names by alphabet) or given class names make the map. Labels are compared
exactly: nothing is stripped or folded.
"""

from __future__ import annotations

import logging
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..utils.errors import UserError
from .row_errors import MOST_LISTED, WHITE_SPACE, Fault, Reason, label_fault, listed, shorten

logger = logging.getLogger(__name__)

# At most 18 digits: an id has no more, and Python refuses to parse thousands.
_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")
_MOST = float(np.finfo(np.float32).max)
_FLAGS = {"0": False, "0.0": False, "False": False, "1": True, "1.0": True, "True": True}


def is_integer(label: str) -> bool:
    """Return whether a label is an integer in canonical form: `7` and `-1` are, `07`, `+7`, `-0` and `7.0` are not."""
    return _INTEGER.fullmatch(label) is not None


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Sort labels: by value if all are integers, else by code points."""
    labels = list(labels)
    return sorted(labels, key=int) if all(map(is_integer, labels)) else sorted(labels)


def unknown_label(label: str, known: Collection[str], noun: str = "label") -> Fault:
    """Return the fault of a label that is not known; the known ones are listed if they are few."""
    names = listed(known) if len(known) <= MOST_LISTED else f"{len(known)} others"
    return Fault(Reason.UNKNOWN_LABEL, f"{noun} {label!r:.80}, known are {names}")


class RowLabels(ABC):
    """How the label of a row is written, read and stored; several columns are written as one string, with tabs.

    Attributes:
        names: The labels, or the numbers, by id.
        strata: The groups of rows that a held-out part keeps in proportion.
    """

    names: tuple[str, ...]
    strata: int = 1

    @property
    @abstractmethod
    def feature(self) -> Any:
        """The type of the column `label` in a data set."""

    @abstractmethod
    def read(self, written: str) -> Any:
        """Return the label that a string means, or a [`Fault`]."""

    def as_array(self, values: Sequence[Any], codes: np.ndarray) -> pa.Array:
        """Return the labels `values[code]` for each code as Arrow stores them."""
        kind = datasets.Features(label=self.feature).arrow_schema.field(0).type
        return pa.array(values, kind).take(pa.array(codes))

    def stratum(self, labels: pa.Array) -> np.ndarray:
        """Return the stratum of each label, from 0."""
        return np.zeros(len(labels), dtype=np.int64)


@dataclass(frozen=True)
class LabelMap(RowLabels):
    """Label strings to ids; `written` has the class name of each label, and is empty if the data carry the names."""

    names: tuple[str, ...]
    written: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> LabelMap:
        """Make the map from the rows by label of train; raise UserError for one label, and for too many."""
        rows = sum(counts.values())
        if len(counts) > 50 and len(counts) > rows / 2:
            found = f"found {len(counts)} in {rows} rows, such as {listed(sorted(counts, key=len)[:3])}"
            raise UserError(f"too many labels: {found}; are columns swapped? Set --text_column and --label_column")
        if len(counts) < 2:
            advice = "set --label_column, or give all names with --class_names"
            raise UserError(f"a classifier needs two labels: found {listed(counts)} only; {advice}")
        return cls(tuple(sort_labels(counts)))

    @classmethod
    def given(
        cls, class_names: Sequence[str], counts: Mapping[str, int], label_map: Mapping[str, str] | None = None
    ) -> LabelMap:
        """Make the map from given class names, the rows by label of the first split, and a map of labels to names.

        A label that equals a name means that class, unless `label_map` says otherwise. Without a `label_map`, if no
        label of the data equals a name and most rows carry integers, these index the names.
        """
        names = tuple(class_names)
        if len(set(names)) < len(names) or len(names) < 2 or any(name.strip() != name or not name for name in names):
            advice = "give two or more, all different, without white space at their ends"
            raise UserError(f"invalid class names: found {listed(names)}; {advice}")
        if unknown := [name for name in (label_map or {}).values() if name not in names]:
            raise UserError(f"label_map has unknown classes: found {listed(unknown)}; the classes are {listed(names)}")
        chosen = cls(names, {name: name for name in names} | dict(label_map) if label_map else {})
        if not counts or any(label in chosen.ids for label in counts):
            return chosen
        integers = sum(rows for label, rows in counts.items() if is_integer(label))
        if integers > sum(counts.values()) / 2 and label_map is None:
            logger.info("labels are integers, and mean %s", shorten([f"{i} = {name}" for i, name in enumerate(names)]))
            return cls(names, {str(index): name for index, name in enumerate(names)})
        advice = ""
        if label_map is not None:
            pairs = " ".join(f"{label}=NAME" for label in sort_labels(counts)[: len(names)][:MOST_LISTED])
            advice = f"; map them with --label_map {pairs:.150}"
        found = f"found labels {listed(sort_labels(counts))} and class names {listed(names)}"
        raise UserError(f"labels and class names have nothing in common: {found}{advice}")

    @property
    def strata(self) -> int:  # type: ignore[override]
        """The number of classes."""
        return len(self.names)

    @property
    def feature(self) -> datasets.ClassLabel:
        """A class id with its name."""
        return datasets.ClassLabel(names=list(self.names))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each label of the data."""
        ids = {name: index for index, name in enumerate(self.names)}
        return {label: ids[name] for label, name in self.written.items()} or ids

    def read(self, written: str) -> int | Fault:
        """Return the id of a label, or what is wrong with it."""
        if fault := label_fault(written):
            return fault
        if (number := self.ids.get(written)) is not None:
            return number
        return unknown_label(written, self.ids)

    def stratum(self, labels: pa.Array) -> np.ndarray:
        """Return the class ids."""
        return labels.to_numpy()


@dataclass(frozen=True)
class LabelSets(RowLabels):
    """Sets of labels, each row's in one column between separators, or in one column of 0 and 1 per label.

    An empty field is the empty set. White space beside a separator is ignored. Labels are stored as lists of ids.
    """

    names: tuple[str, ...]
    separator: str | None  # None for one column per label
    written: Mapping[str, str] = field(default_factory=dict)  # name of a label of the data
    columns: tuple[int, ...] = ()  # id of each column

    @classmethod
    def from_rows(
        cls,
        rows: Iterator[str],
        class_names: Sequence[str] | None,
        label_map: Mapping[str, str] | None,
        columns: Sequence[str],
        *,
        separator: str | None,
    ) -> LabelSets:
        """Make the map from the distinct labels of the first split as they are written, or from given names.

        Raises:
            UserError: For rows without any label, and for more than 1,000 different ones.
        """
        if separator is None:
            return cls(tuple(class_names or columns), None, columns=match_columns(columns, class_names or columns))
        found = {label for row in rows for label in _split(row, separator) if label}
        if class_names is None:
            if not found:
                raise UserError("no row of train has a label: set --label_column or --label_separator")
            if len(found) > 1000:
                some = listed(sorted(found, key=len)[:3])
                raise UserError(f"too many labels: found {len(found)}, such as {some}; set --label_separator")
            return cls(tuple(sort_labels(found)), separator)
        names = LabelMap.given(class_names, {}, label_map).names if len(class_names) > 1 else class_names
        return cls(tuple(names), separator, label_map or {})

    @property
    def feature(self) -> Any:
        """A list of class ids with their names."""
        return datasets.List(datasets.ClassLabel(names=list(self.names)))

    def read(self, written: str) -> Any:
        """Return the ids of a row's labels in their order, or the fault."""
        if self.separator is None:
            flags = [_FLAGS.get(flag) for flag in written.split("\t")]
            if None in flags:
                place = flags.index(None)
                found = f"{written.split(chr(9))[place]!r:.80} in column {self.names[self.columns[place]]!r:.80}"
                return Fault(
                    Reason.UNKNOWN_LABEL, found, "Write 1 for each label that a row has, and 0 for the others"
                )
            return tuple(sorted(number for number, flag in zip(self.columns, flags, strict=True) if flag))
        labels = _split(written, self.separator)
        if labels == [""]:
            return ()
        if "" in labels:
            return Fault(Reason.EMPTY_LABEL, f"the labels are {written!r:.80}", "Leave out the additional separator")
        if unknown := [label for label in labels if label not in self._ids]:
            return LabelMap(tuple(self._ids)).read(unknown[0])
        return tuple(sorted({self._ids[label] for label in labels}))

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids = {name: number for number, name in enumerate(self.names)}
        return ids | {label: ids[name] for label, name in self.written.items()}


def match_columns(columns: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Return the id of each column: by its name, or by its place if columns are numbered.

    Raises:
        UserError: For other names, or another number of them.
    """
    if set(columns) == set(names):
        return tuple(map(list(names).index, columns))
    if len(columns) != len(names) or not all(column.isdecimal() for column in columns):
        found = f"label_columns are {listed(columns)}, and the names are {listed(names)}"
        raise UserError(f"{found}: give one column for each name")
    return tuple(range(len(names)))


def _split(written: str, separator: str) -> list[str]:
    return [label.strip(WHITE_SPACE) for label in written.split(separator)]


@dataclass(frozen=True)
class Numbers(RowLabels):
    """One or several numbers per row, each in a column; they are stored as a struct of float64."""

    names: tuple[str, ...]
    columns: tuple[int, ...]  # id of each column

    @classmethod
    def from_rows(
        cls,
        rows: Iterator[str],
        class_names: Sequence[str] | None,
        label_map: Mapping[str, str] | None,
        columns: Sequence[str],
    ) -> Numbers:
        """Take the names of the columns, or given ones; a single column without a name of its own is `value`."""
        names = list(columns)
        if len(names) == 1:  # a list in one column
            names *= 1 + next(rows, "").count("\t")
        if class_names is not None:
            names = list(class_names)
        elif all(name.isdecimal() for name in names) or set(names) == {"label"}:
            names = ["value"] if len(names) == 1 else [f"value_{number}" for number in range(len(names))]
        places = tuple(range(len(names))) if len(columns) == 1 else match_columns(columns, names)
        return cls(tuple(names), places)

    @property
    def feature(self) -> Any:
        """A number for each name."""
        return {name: datasets.Value("float64") for name in self.names}

    def read(self, written: str) -> dict[str, float] | Fault:
        """Return the numbers of a row by name, or the fault."""
        numbers, parts = {}, written.split("\t")
        if len(parts) != len(self.names):
            return Fault(Reason.NOT_A_NUMBER, f"found {len(parts)} numbers, expected {len(self.names)}")
        for column, part in zip(self.columns, parts, strict=True):
            place = f" in column {self.names[column]!r:.80}" if len(self.names) > 1 else ""
            try:
                number = float(part) if "_" not in part else math.nan
            except ValueError:
                hint = "If the first line names the columns, give --label_column NAME; a decimal point is a point"
                return Fault(Reason.NOT_A_NUMBER, f"found {part!r:.80}{place}", hint)
            if not abs(number) <= _MOST:
                return Fault(Reason.NOT_FINITE, f"found {part!r:.80}{place}")
            numbers[self.names[column]] = number
        return numbers
