"""Rows of any table under one check: a text and a label are delivered, or rejected with place and reason.

Files, data sets and rows in memory yield Arrow batches with their places (`tables.py`, `loading.py`). This module
finds their columns, writes labels as text, and reads these under one map for all splits (`labels.py`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.errors import UserError
from .delimited import LABEL_NAMES, TEXT_NAMES, Batch
from .labels import RowLabels
from .lines import is_table, suffix_of
from .row_errors import (
    EXCERPT_CHARACTERS,
    WHITE_SPACE,
    BadRow,
    DataError,
    Fault,
    Reason,
    listed,
    name_file,
    text_fault,
)
from .tables import Table, find_column, is_fasttext, open_fasttext, read_table, take_column, write_value

logger = logging.getLogger(__name__)

Column = int | str

_STRINGS = ("string", "large_string", "string_view", "null")


@dataclass(frozen=True)
class RowOptions:
    r"""Columns of texts and labels in a table, and the meaning of the labels.

    Attributes:
        text_column: Column of the text, by name or by number from 0. By default `text` or a similar name such as
            `tweet`. If columns have no names, it is 0.
        label_column: Column of the label. By default `label` or a similar name such as `sentiment`, or the other one
            of two columns. If columns have no names, it is 1.
        label_columns: Several columns of labels in place of `label_column`, for a `scheme` that reads them.
        text_pair_column: Column of a second text; it becomes the column `text_pair`.
        separator: The separator of delimited text; see [`~hf_rnn.data.tables.read_table`], also for the next two.
        encoding: The encoding of text files.
        quoting: `csv` if a `"` encloses fields of delimited text, `none` if it is a letter.
        class_names: Names by id. The labels of the data are these or their indices. By default the labels of train,
            sorted.
        label_map: Translates labels of the data to `class_names`. If it is set, integers do not index these.
        scheme: Makes labels of another kind than one class: `LabelSets.from_rows` or `Numbers.from_rows`.
        label_separator: Between the labels of a text, for a `scheme`; a tab between numbers.
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
        """Return the columns chosen as `text`, `text_pair` and `label`; log them, and which of them are a guess."""
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
        table: The source of the rows.
        texts: The texts, and the second texts if there are any.
        written: The labels as text, several with tabs between them; null if missing.
        faulty: True for texts that are missing, blank, or have a NUL.
        trimmed: The number of labels that lost white space at their ends.
    """

    table: Table
    batch: Batch
    texts: list[pa.Array]
    written: pa.DictionaryArray
    faulty: np.ndarray
    trimmed: int

    def count_labels(self) -> Counter[str]:
        """Return the rows without a faulty text by label; missing labels do not count."""
        counts = self.written.filter(pa.array(~self.faulty)).drop_null().value_counts().to_pylist()
        return Counter({count["values"]: count["counts"] for count in counts})

    def check(self, labels: RowLabels) -> tuple[pa.RecordBatch, np.ndarray, list[BadRow]]:
        """Return the good rows, their places, and the rejected rows in their order.

        This is the check of texts and labels of all tasks. The columns are `text`, `text_pair` if any, and `label`.
        """
        texts, written, places = self.texts, self.written, self.batch.places
        meanings = [labels.read(label) for label in written.dictionary.to_pylist()]
        meanings.append(Fault(Reason.EMPTY_LABEL, "its label is missing, or not finite"))
        codes = pc.fill_null(written.indices, len(meanings) - 1).to_numpy(zero_copy_only=False)
        good_labels = np.array([not isinstance(meaning, Fault) for meaning in meanings])
        bad = self.faulty | ~good_labels[codes]
        rejected, table = list(self.batch.bad), self.table
        for row in np.flatnonzero(bad).tolist():
            cells = [column[row].as_py() or "" for column in texts]
            fault = next(filter(None, map(text_fault, cells)), None) or meanings[codes[row]]
            rejected.append(BadRow(table.path, int(places[row]), fault, cells[0][:EXCERPT_CHARACTERS], table.unit))
        if bad.any():
            texts, codes, places = [column.filter(pa.array(~bad)) for column in texts], codes[~bad], places[~bad]
        values = [meaning for meaning in meanings if not isinstance(meaning, Fault)]
        kind = datasets.Features(label=labels.feature).arrow_schema.field(0).type
        ids = pa.array(values, kind).take(pa.array((np.cumsum(good_labels) - 1)[codes]))
        rows = pa.RecordBatch.from_arrays([*texts, ids], [*("text", "text_pair")[: len(texts)], "label"])
        return rows, places, sorted(rejected, key=lambda row: row.line)


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
        rows = zip(*(column.to_pylist() for column in texts), strict=True)
        faulty = np.array([any(text_fault(text or "") for text in row) for row in rows], dtype=bool)
        columns = [self._write_label(take_column(batch.rows, name), name) for name in self.labels]
        written = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "\t")
        trimmed = pc.utf8_trim(written, characters=WHITE_SPACE) if self.separator is None else written
        changed = pc.sum(pc.not_equal(written, trimmed)).as_py() or 0
        return Taken(self.table, batch, texts, trimmed.dictionary_encode(), faulty, changed)

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
