"""Labels of other kinds than one class per row: sets of labels, and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..utils.errors import UserError
from .labels import LabelMap, RowLabels, listed, sort_labels
from .row_errors import WHITE_SPACE, Fault, Reason

_MOST = float(np.finfo(np.float32).max)
_FLAGS = {"0": False, "0.0": False, "False": False, "1": True, "1.0": True, "True": True}


@dataclass(frozen=True)
class LabelSets(RowLabels):
    """Sets of labels, each row's in one column between separators, or in one column of 0 and 1 per label.

    An empty field is the empty set. White space beside a separator is ignored. Labels are stored as lists of ids.
    """

    names: tuple[str, ...]
    separator: str | None  # None for one column per label
    written: tuple[tuple[str, str], ...] = ()  # label of the data, and name
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
        return cls(tuple(names), separator, tuple((label_map or {}).items()))

    @property
    def feature(self) -> Any:
        """A list of class ids with their names."""
        return datasets.List(datasets.ClassLabel(names=list(self.names)))

    def read(self, written: str) -> tuple[int, ...] | Fault:
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
            hint = LabelMap(self.names, self.written).resolve(unknown[0])
            return hint if isinstance(hint, Fault) else Fault(Reason.UNKNOWN_LABEL, f"label {unknown[0]!r:.80}")
        return tuple(sorted({self._ids[label] for label in labels}))

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids = {name: number for number, name in enumerate(self.names)}
        return ids | {label: ids[name] for label, name in self.written}

    def as_array(self, values: Sequence[tuple[int, ...]], codes: np.ndarray) -> pa.Array:
        """Return lists of int64."""
        return pa.array(values, pa.list_(pa.int64())).take(pa.array(codes))


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

    def read(self, written: str) -> tuple[float, ...] | Fault:
        """Return the numbers of a row in the order of the names, or the fault."""
        numbers, parts = [], written.split("\t")
        if len(parts) != len(self.names):
            return Fault(Reason.NOT_A_NUMBER, f"found {len(parts)} numbers, expected {len(self.names)}")
        for column, part in zip(self.columns, parts, strict=True):
            place = f" in column {self.names[column]!r:.80}" if len(self.names) > 1 else ""
            try:
                number = float(part) if "_" not in part else math.nan
            except ValueError:
                hint = "If the first line names the columns, add --header; a decimal point is a point"
                return Fault(Reason.NOT_A_NUMBER, f"found {part!r:.80}{place}", hint)
            if not abs(number) <= _MOST:
                return Fault(Reason.NOT_FINITE, f"found {part!r:.80}{place}")
            numbers.append(number)
        return tuple(number for _, number in sorted(zip(self.columns, numbers, strict=True)))

    def as_array(self, values: Sequence[tuple[float, ...]], codes: np.ndarray) -> pa.Array:
        """Return structs of float64."""
        table = np.array(values, dtype=np.float64).reshape(len(values), len(self.names))[codes]
        return pa.StructArray.from_arrays([pa.array(column) for column in table.T], list(self.names))
