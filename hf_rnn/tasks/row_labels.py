"""Labels of rows of other kinds than one class: sets of labels, and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import datasets
import numpy as np

from ..data.row_errors import WHITE_SPACE, Fault, Reason, label_fault, listed
from ..data.rows import LabelMap, RowLabels, RowOptions, sort_labels, unknown_label
from ..utils.errors import UserError

_LARGEST = float(np.finfo(np.float32).max)
_FLAGS = {"0": False, "0.0": False, "False": False, "1": True, "1.0": True, "True": True}


@dataclass(frozen=True)
class LabelSets(RowLabels):
    """Sets of labels: one column of labels between separators, or one column of 0 and 1 for each label.

    An empty field is the empty set. White space beside a separator is ignored. Labels are stored as lists of ids.
    """

    names: tuple[str, ...]
    separator: str | None  # None for one column per label
    written: Mapping[str, str] = field(default_factory=dict)  # name of a label of the data
    columns: tuple[int, ...] = ()  # id of each column

    @classmethod
    def from_rows(
        cls, rows: Iterator[str], options: RowOptions, columns: Sequence[str], *, separator: str | None
    ) -> LabelSets:
        """Make the map from the distinct labels of the first split as they are written, or from class names.

        Raises:
            UserError: For rows without any label, and for more than 1,000 different ones.
        """
        names, label_map = options.class_names, options.label_map
        if separator is None:
            return cls(tuple(names or columns), None, columns=match_columns(columns, names or columns))
        if names is not None:
            names = LabelMap.from_names(names, {}, label_map).names if len(names) > 1 else names
            return cls(tuple(names), separator, label_map or {})
        labels = {label for row in rows for label in _split(row, separator) if label}
        if not labels:
            raise UserError("no row of train has a label: set --label_column or --label_separator")
        if len(labels) > 1000:
            some = listed(sorted(labels, key=len)[:3])
            raise UserError(f"too many labels: found {len(labels)}, such as {some}; set --label_separator")
        return cls(tuple(sort_labels(labels)), separator)

    @property
    def feature(self) -> Any:
        """A list of class ids with their names."""
        return datasets.List(datasets.ClassLabel(names=list(self.names)))

    def read(self, written: str) -> tuple[int, ...] | Fault:
        """Return the ids of a row's labels in their order, or the fault."""
        if self.separator is None:
            ids, advice = set(), "Write 1 for each label that a row has, and 0 for the others"
            for number, cell in zip(self.columns, written.split("\t"), strict=True):
                if (flag := _FLAGS.get(cell)) is None:
                    detail = f"{cell!r:.80} in column {self.names[number]!r:.80}"
                    return Fault(Reason.UNKNOWN_LABEL, detail, advice)
                ids |= {number} if flag else set()
            return tuple(sorted(ids))
        labels = _split(written, self.separator)
        if labels == [""]:
            return ()
        if "" in labels:
            return Fault(Reason.EMPTY_LABEL, f"the labels are {written!r:.80}", "Leave out the additional separator")
        if unknown := [label for label in labels if label not in self._ids]:
            return label_fault(unknown[0]) or unknown_label(unknown[0], self._ids)
        return tuple(sorted({self._ids[label] for label in labels}))

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids = {name: number for number, name in enumerate(self.names)}
        return ids | {label: ids[name] for label, name in self.written.items()}


def match_columns(columns: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Return the id of each column: by its name, or by its place if columns are numbered."""
    if set(columns) == set(names):
        return tuple(map(list(names).index, columns))
    if len(columns) != len(names) or not all(column.isdecimal() for column in columns):
        both = f"label_columns are {listed(columns)}, and the names are {listed(names)}"
        raise UserError(f"{both}: give one column for each name")
    return tuple(range(len(names)))


def _split(written: str, separator: str) -> list[str]:
    return [label.strip(WHITE_SPACE) for label in written.split(separator)]


@dataclass(frozen=True)
class Numbers(RowLabels):
    """One or several numbers per row, each in a column; they are stored as a struct of float64."""

    names: tuple[str, ...]
    columns: tuple[int, ...]  # id of each column

    @classmethod
    def from_rows(cls, rows: Iterator[str], options: RowOptions, columns: Sequence[str]) -> Numbers:
        """Take the names of the columns, or `class_names`; a single column without a name of its own is `value`."""
        names = list(columns)
        if len(names) == 1:  # a list in one column
            names *= 1 + next(rows, "").count("\t")
        if options.class_names is not None:
            names = list(options.class_names)
        elif all(name.isdecimal() for name in names) or set(names) == {"label"}:
            names = ["value"] if len(names) == 1 else [f"value_{number}" for number in range(len(names))]
        return cls(tuple(names), tuple(range(len(names))) if len(columns) == 1 else match_columns(columns, names))

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
            detail = f"found {part!r:.80}" + (f" in column {self.names[column]!r:.80}" if len(self.names) > 1 else "")
            try:
                number = float(part) if "_" not in part else math.nan
            except ValueError:
                hint = "If the first line names the columns, give --label_column NAME; a decimal point is a point"
                return Fault(Reason.NOT_A_NUMBER, detail, hint)
            if not abs(number) <= _LARGEST:
                return Fault(Reason.NOT_FINITE, detail)
            numbers[self.names[column]] = number
        return numbers
