"""Rows of any table under one check: a text and a label are delivered, or rejected with place and reason.

Files, data sets and rows in memory yield Arrow batches with their places (`tables.py`, `loading.py`). This module
finds their columns, writes labels as text, and reads these under one label map for all splits: as an id, a set of ids,
or numbers. Labels are compared exactly: nothing is stripped or folded.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.errors import UserError
from .delimited import LABEL_NAMES, TEXT_NAMES, Batch
from .lines import is_table, suffix_of
from .row_errors import (
    EXCERPT_CHARACTERS,
    MOST_LISTED,
    WHITE_SPACE,
    BadRow,
    DataError,
    Fault,
    Reason,
    label_fault,
    listed,
    name_file,
    shorten,
    text_fault,
)
from .tables import Table, find_column, is_fasttext, open_fasttext, read_table, take_column, write_value

logger = logging.getLogger(__name__)

Column = int | str

# At most 18 digits: an id has no more, and Python refuses to parse thousands.
_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")
_STRINGS = ("string", "large_string", "string_view", "null")


@dataclass(frozen=True)
class RowOptions:
    r"""Columns of texts and labels in a table, and the meaning of the labels.

    Attributes:
        text_column: Column of the text, by name or by number from 0. By default `text` or a similar name such as
            `tweet`; without names 0.
        label_column: Column of the label. By default `label` or a similar name such as `sentiment`, or the other one
            of two columns; without names 1.
        label_columns: Several columns of labels in place of `label_column`, for a `scheme` that reads them.
        text_pair_column: Column of a second text; it becomes the column `text_pair`.
        separator: The separator of delimited text; see [`~hf_rnn.data.tables.read_table`], also for the next two.
        encoding: The encoding of text files.
        quoting: `csv` if a `"` encloses fields of delimited text, `none` if it is a letter.
        class_names: Names by id; the data may carry them or their indices. By default the labels of train, sorted.
        label_map: Labels of the data to `class_names`. With one, even an empty one, integers do not index the names.
        scheme: Makes labels of another kind than one class of the written labels, these options and the names of the
            columns, such as `LabelSets.from_rows` of the tasks.
        label_separator: Written between the items of a list, for a `scheme`.
        recorded: Names of columns that a model was trained on, by `text` and `label`; preferred to other guesses.
    """

    text_column: Column | None = None
    label_column: Column | None = None
    label_columns: Sequence[Column] = ()
    text_pair_column: Column | None = None
    separator: str | None = None
    encoding: str | None = None
    quoting: str | None = None
    class_names: Sequence[str] | None = None
    label_map: Mapping[str, str] | None = None
    scheme: Callable[..., RowLabels] | None = None
    label_separator: str = "\t"
    recorded: Mapping[str, str | None] = field(default_factory=dict)

    def open_file(self, path: str) -> Table:
        """Open a file. A TSV file without names of columns is plain text: a `"` is a letter."""
        declared = (self.text_column, self.text_pair_column, self.label_column, *self.label_columns)
        columns = [column for column in declared if column is not None]
        if is_fasttext(path):
            return open_fasttext(path, self.encoding, None if self.scheme is None else self.label_separator)
        is_named = self.separator is not None or (is_table(path) and suffix_of(path) != ".tsv")
        return read_table(
            path,
            separator=self.separator,
            encoding=self.encoding,
            header=True if is_named or any(isinstance(column, str) for column in columns) else None,
            fields=None if columns else 2,
            quoting=self.quoting,
        )

    def locate(self, table: Table) -> RowSource:
        """Find the columns in a table; raise a [`DataError`] that lists those that there are."""
        labels = [self._find(table, column, "label_columns") for column in self.label_columns]
        flags = ("text_column", "text_pair_column", "label_column")
        columns = [(getattr(self, flag), flag) for flag in flags]
        text, pair, label = (None if name is None else self._find(table, name, flag) for name, flag in columns)
        if text is None and table.is_unnamed:
            text = next((name for name in table.columns if name not in (pair, label, *labels)), table.columns[0])
        elif text is None:
            text = find_column(table.columns, None, self._guesses("text", TEXT_NAMES), table.path, "text_column")
        if not labels:
            labels = [label or self._guess_label(table, [text, pair])]
        texts = (text,) if pair is None else (text, pair)
        return RowSource(table, texts, tuple(labels), None if self.scheme is None else self.label_separator)

    def _find(self, table: Table, column: Column, flag: str) -> str:
        if isinstance(column, str):
            return find_column(table.columns, column, (), table.path, flag)
        if 0 <= column < len(table.columns):
            return table.columns[column]
        there = f"{len(table.columns)} columns, counted from 0" if table.is_unnamed else listed(table.columns)
        message = f"no column {column}: found {there}; name one with --{flag}"
        raise DataError.for_file(table.path, Reason.MISSING_COLUMN, message)

    def _guess_label(self, table: Table, others: Sequence[str | None]) -> str:
        rest = [name for name in table.columns if name not in others]
        if table.is_unnamed and rest:
            return next((name for name in rest if name != table.columns[0]), rest[0])
        guesses = self._guesses("label", LABEL_NAMES)
        return rest[0] if len(rest) == 1 else find_column(rest, None, guesses, table.path, "label_column")

    def _guesses(self, use: str, names: Sequence[str]) -> list[str]:
        return [*filter(None, [self.recorded.get(use)]), *names]

    def describe(self, source: RowSource) -> dict[str, str]:
        """Return the columns that were chosen as `text`, `text_pair` and `label`, and log those that are a guess."""
        columns = dict(zip(("text", "text_pair"), source.texts, strict=False)) | {"label": ", ".join(source.labels)}
        parts = []
        for use, name in columns.items():
            is_set = getattr(self, f"{use}_column") is not None or (use == "label" and self.label_columns)
            is_guess = not (is_set or self.recorded.get(use) == name or use == name.casefold())
            guess = f" (a guess: --{use}_column NAME sets it)" if is_guess else ""
            parts.append(f"{use.replace('_', ' ')} from column {name!r:.80}{guess}")
        if not source.table.is_unnamed and source.table.kind not in ("lines", "folder"):
            logger.info("%s: %s", source.path, ", ".join(parts))
        return columns


# ---- rows ----


@dataclass(frozen=True)
class Taken:
    """Texts and labels of some rows, before their check.

    Attributes:
        texts: The texts, and the second texts if there are any.
        written: The labels as text, several with tabs between them; null if missing.
        faulty: True for texts that are missing, blank, or have a NUL.
        trimmed: The number of labels that lost white space at their ends.
    """

    batch: Batch
    texts: list[pa.Array]
    written: pa.DictionaryArray
    faulty: np.ndarray
    trimmed: int

    def count_labels(self) -> Counter[str]:
        """Return the rows without a faulty text by label; missing labels do not count."""
        counts = self.written.filter(pa.array(~self.faulty)).drop_null().value_counts().to_pylist()
        return Counter({count["values"]: count["counts"] for count in counts})


@dataclass(frozen=True)
class RowSource:
    """A table with its columns of texts and labels; with a `separator`, labels are lists, sets or numbers."""

    table: Table
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    separator: str | None = None

    @property
    def path(self) -> str:
        """The file, or the name of the data set in messages."""
        return self.table.path

    @property
    def class_names(self) -> list[str] | None:
        """The names of a column of ClassLabel, in its own order; None for other columns."""
        return self.table.class_names.get(self.labels[0]) if len(self.labels) == 1 else None

    def take(self) -> Iterator[Taken]:
        """Read texts and labels of the table once, unchecked."""
        with name_file(self.path):
            for batch in self.table.batches((*self.texts, *self.labels), self.texts):
                yield self._take(batch)

    def _take(self, batch: Batch) -> Taken:
        texts = [self._take_text(batch.rows, name) for name in self.texts]
        faulty = np.zeros(len(batch.rows), dtype=bool)
        for column in texts:
            blank = pc.equal(pc.binary_length(pc.utf8_trim(column, characters=WHITE_SPACE)), 0)
            wrong = pc.fill_null(pc.or_(blank, pc.match_substring(column, "\0")), True)
            faulty |= wrong.to_numpy(zero_copy_only=False)
        columns = [self._write_label(take_column(batch.rows, name), name) for name in self.labels]
        written = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "\t")
        trimmed = pc.utf8_trim(written, characters=WHITE_SPACE) if self.separator is None else written
        changed = pc.sum(pc.not_equal(written, trimmed)).as_py() or 0
        return Taken(batch, texts, trimmed.dictionary_encode(), faulty, changed)

    def check(
        self, taken: Taken, labels: RowLabels, on_bad_row: Callable[[BadRow], None]
    ) -> tuple[pa.RecordBatch, np.ndarray]:
        """Return the good rows and their places; report the others in their order.

        This is the check of texts and labels of all tasks. The columns are `text`, `text_pair` if any, and `label`.
        """
        batch, texts, written, places = taken.batch, taken.texts, taken.written, taken.batch.places
        meanings = [labels.read(label) for label in written.dictionary.to_pylist()]
        meanings.append(Fault(Reason.EMPTY_LABEL, "its label is missing, or not finite"))
        codes = pc.fill_null(written.indices, len(meanings) - 1).to_numpy(zero_copy_only=False)
        good_labels = np.array([not isinstance(meaning, Fault) for meaning in meanings])
        bad = taken.faulty | ~good_labels[codes]
        rejected = list(batch.bad)
        for row in np.flatnonzero(bad).tolist():
            cells = [column[row].as_py() or "" for column in texts]
            fault = next(filter(None, map(text_fault, cells)), None) or meanings[codes[row]]
            rejected.append(BadRow(self.path, int(places[row]), fault, cells[0][:EXCERPT_CHARACTERS], self.table.unit))
        for bad_row in sorted(rejected, key=lambda row: row.line):
            on_bad_row(bad_row)
        if bad.any():
            texts, codes, places = [column.filter(pa.array(~bad)) for column in texts], codes[~bad], places[~bad]
        values = [meaning for meaning in meanings if not isinstance(meaning, Fault)]
        ids = labels.as_array(values, (np.cumsum(good_labels) - 1)[codes])
        return pa.RecordBatch.from_arrays([*texts, ids], [*("text", "text_pair")[: len(texts)], "label"]), places

    def _take_text(self, rows: pa.RecordBatch, name: str) -> pa.Array:
        column = take_column(rows, name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if str(kind) not in _STRINGS:
            raise self._misfit(f"column {name!r:.80} must hold strings: found {kind}")
        return column.cast(pa.string())

    def _write_label(self, column: pa.Array, name: str) -> pa.Array:
        """Return labels as strings."""
        kind, names = column.type, self.table.class_names.get(name)
        if str(kind) in _STRINGS:
            return column.cast(pa.string())
        if pa.types.is_nested(kind) or "binary" in str(kind):
            if self.separator is None or not hasattr(kind, "value_field"):
                allowed = "ClassLabel, strings, integers or bools"
                raise self._misfit(f"column {name!r:.80} must hold {allowed}: found {kind}")
            return pa.array([self._join(items, names) for items in column.to_pylist()], pa.string())
        coded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
        values = [_write_label(value, names) for value in coded.dictionary.to_pylist()]
        return pa.array(values, pa.string()).take(coded.indices)

    def _join(self, items: Sequence[Any] | None, names: list[str] | None) -> str | None:
        """Return the items of a list with separators between them."""
        texts = [_write_label(item, names) for item in items or ()]
        if items is None or None in texts:
            return None
        if cut := [text for text in texts if str(self.separator) in str(text)]:
            raise UserError(f"the label {cut[0]!r:.80} contains {self.separator!r}: set another label_separator")
        return str(self.separator).join(map(str, texts))

    def _misfit(self, detail: str) -> DataError:
        return DataError.for_file(self.path, Reason.MISSING_COLUMN, f"{detail}; set --text_column and --label_column")


def _write_label(value: object, names: list[str] | None) -> str | None:
    """Return a label as text; a number for which ClassLabel has no name becomes a text that no class has."""
    if names is None or value is None:
        return write_value(value)
    number = int(value)  # type: ignore[call-overload] # ClassLabel is of integers
    return names[number] if 0 <= number < len(names) else "-1" if number == -1 else f"#{number}"


# ---- labels ----


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
    """Label strings to ids; `written` maps labels of the data to class names, and is empty if they are the same."""

    names: tuple[str, ...]
    written: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> LabelMap:
        """Make the map from the rows by label of train; raise UserError for one label, and for too many."""
        rows = sum(counts.values())
        if len(counts) > 50 and len(counts) > rows / 2:
            some = f"found {len(counts)} in {rows} rows, such as {listed(sorted(counts, key=len)[:3])}"
            raise UserError(f"too many labels: {some}; are columns swapped? Set --text_column and --label_column")
        if len(counts) < 2:
            advice = "set --label_column, or give all names with --class_names"
            raise UserError(f"a classifier needs two labels: found {listed(counts)} only; {advice}")
        return cls(tuple(sort_labels(counts)))

    @classmethod
    def from_names(
        cls, class_names: Sequence[str], counts: Mapping[str, int], label_map: Mapping[str, str] | None = None
    ) -> LabelMap:
        """Make the map from class names, the rows by label of the first split, and a map of labels to names.

        A label that equals a name means that class, unless `label_map` says otherwise. Without a `label_map`, if no
        label of the data equals a name and most rows carry integers, these index the names.
        """
        names = tuple(class_names)
        if len(set(names)) < len(names) or len(names) < 2 or any(name.strip() != name or not name for name in names):
            advice = "give two or more, all different, without white space at their ends"
            raise UserError(f"invalid class names: found {listed(names)}; {advice}")
        if unknown := [name for name in (label_map or {}).values() if name not in names]:
            raise UserError(f"label_map has unknown classes: found {listed(unknown)}; the classes are {listed(names)}")
        labels = cls(names, {name: name for name in names} | dict(label_map) if label_map else {})
        if not counts or any(label in labels.ids for label in counts):
            return labels
        integers = sum(rows for label, rows in counts.items() if is_integer(label))
        if integers > sum(counts.values()) / 2 and label_map is None:
            logger.info("labels are integers, and mean %s", shorten([f"{i} = {name}" for i, name in enumerate(names)]))
            return cls(names, {str(index): name for index, name in enumerate(names)})
        both = f"found labels {listed(sort_labels(counts))} and class names {listed(names)}"
        if label_map is not None:
            pairs = " ".join(f"{label}=NAME" for label in sort_labels(counts)[: len(names)][:MOST_LISTED])
            both += f"; map them with --label_map {pairs:.150}"
        raise UserError(f"labels and class names have nothing in common: {both}")

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
        number = self.ids.get(written)
        return unknown_label(written, self.ids) if number is None else number

    def stratum(self, labels: pa.Array) -> np.ndarray:
        """Return the class ids."""
        return labels.to_numpy()
