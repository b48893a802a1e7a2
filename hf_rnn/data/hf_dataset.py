"""One split of any data set that the `datasets` library loads, read under the same contract as a TSV file.

It delivers the same [`~hf_rnn.data.tsv_reader.Rows`]; text and labels are checked by the same rules, while what
belongs to the lines of a file (field counts, encodings, the cap) has no meaning here. Columns are taken as Arrow
data, never row by row.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.errors import UserError, reason_of
from .row_errors import EXCERPT_CHARACTERS, WHITE_SPACE, BadRow, DataError, Fault, Reason, label_fault, text_fault
from .tsv_reader import LabelResolver, Rows

BATCH_ROWS = 10_000
_LABELS = ("string", "int", "bool")  # parts of the names of types
UNLABELLED = -1  # what data sets write where a row of a ClassLabel column has no label


@dataclass(frozen=True)
class LibrarySplit:
    """One split of a data set.

    Attributes:
        path: How messages name it, as `name[split]`.
        dataset: The map-style data set.
        text_column: Name of a string column.
        label_column: Name of a ClassLabel, string, integer or bool column.
    """

    path: str
    dataset: datasets.Dataset
    text_column: str
    label_column: str

    def __post_init__(self) -> None:
        features = self.dataset.features
        if self.text_column == self.label_column:
            raise UserError(f"text and label are both column {self.text_column!r}: they must be two columns")
        for column in (self.text_column, self.label_column):
            if column not in features:
                near = difflib.get_close_matches(str(column), features, n=1)
                detail = f"it has no column {column!r}; there are {', '.join(map(repr, features))}"
                detail += f"; the nearest is {near[0]!r}" if near else ""
                raise self._misfit(detail, _of_separators(features))
        if getattr(features[self.text_column], "dtype", None) not in ("string", "large_string", "string_view"):
            raise self._misfit(f"column {self.text_column!r} holds no strings but {features[self.text_column]}")
        label, kind = features[self.label_column], getattr(features[self.label_column], "dtype", "")
        if not isinstance(label, datasets.ClassLabel) and not any(each in kind for each in _LABELS):
            raise self._misfit(
                f"column {self.label_column!r} holds {label}: labels are ClassLabel, strings, integers or bools"
            )

    def _misfit(self, detail: str, remedy: str = "Set --text_column and --label_column") -> DataError:
        return DataError.of_file(self.path, Fault(Reason.MISSING_COLUMN, detail, remedy))

    @property
    def class_names(self) -> list[str] | None:
        """The names of a ClassLabel column, in the data set's own order; None for other columns."""
        label = self.dataset.features[self.label_column]
        return label.names if isinstance(label, datasets.ClassLabel) else None

    @property
    def layout(self) -> tuple[str, str]:
        """What besides the bytes decides which rows come out."""
        return self.text_column, self.label_column

    @property
    def header_label(self) -> None:
        """None: there is no header."""

    def first_row(self) -> None:
        """Return None: there is no header that could be left undeclared."""

    def rows(
        self,
        labels: LabelResolver | None,
        on_bad_row: Callable[[BadRow], None],
        on_bytes: Callable[[bytes], object] = lambda block: None,
        with_texts: bool = True,
    ) -> Iterator[Rows]:
        """Read the split; see [`~hf_rnn.data.tsv_file.TsvFile.rows`]. A row's number, from 0, is its line."""
        on_bytes(self.dataset._fingerprint.encode())
        start = 0
        columns = self.dataset.select_columns([self.text_column, self.label_column]).with_format("arrow")
        for batch in columns.iter(batch_size=BATCH_ROWS):
            yield self._read(batch, start, labels, on_bad_row)
            start += len(batch)

    def _read(
        self, batch: pa.Table, start: int, labels: LabelResolver | None, on_bad_row: Callable[[BadRow], None]
    ) -> Rows:
        texts = batch[self.text_column].cast(pa.string()).combine_chunks()
        trimmed = pc.binary_length(pc.utf8_trim(texts, characters=WHITE_SPACE))
        doubtful = pc.or_(
            pc.fill_null(pc.equal(trimmed, 0), True), pc.fill_null(pc.match_substring(texts, "\0"), True)
        )
        bad = doubtful.to_numpy(zero_copy_only=False).copy()

        coded = batch[self.label_column].combine_chunks().dictionary_encode()
        names = [self._label(value) for value in coded.dictionary.to_pylist()]
        resolved = [name if isinstance(name, Fault) else self._resolve(name, labels) for name in names]
        resolved.append(Fault(Reason.EMPTY_LABEL, "its label is missing"))
        codes = pc.fill_null(coded.indices, len(names)).to_numpy()
        bad |= np.array([isinstance(label, Fault) for label in resolved])[codes]
        for row in np.flatnonzero(bad):
            text, label = texts[int(row)].as_py() or "", resolved[codes[row]]
            fault = text_fault(text) or label
            assert isinstance(fault, Fault)
            on_bad_row(BadRow(self.path, start + int(row), None, fault, text[:EXCERPT_CHARACTERS]))
        if bad.any():
            texts, codes = texts.filter(pa.array(~bad)), codes[~bad]
        if labels is None:
            strings = pa.array([None if isinstance(name, Fault) else name for name in resolved], pa.string())
            kept = pa.array(strings.to_numpy(zero_copy_only=False)[codes], pa.string()).dictionary_encode()
        else:
            ids = np.array([-1 if isinstance(label, Fault) else label for label in resolved], dtype=np.int64)
            kept = pa.array(ids[codes])
        return Rows(texts, kept, len(batch))

    def _label(self, value: str | int) -> str | Fault:
        """Return a label as the string it would be in a TSV file."""
        names = self.class_names
        if names is None:
            return str(value)
        if isinstance(value, int) and 0 <= value < len(names):
            return str(names[value])
        remedy = "-1 marks a row without a label" if value == UNLABELLED else ""
        return Fault(Reason.LABEL_OUT_OF_RANGE, f"label {value}, known are 0 to {len(names) - 1}", remedy)

    def _resolve(self, label: str, labels: LabelResolver | None) -> int | str | Fault:
        return label_fault(label) or (label if labels is None else labels.resolve(label))


def to_dataset(rows: Any, text_column: str, label_column: str, where: str) -> datasets.Dataset:
    """Return rows in memory as a data set.

    Args:
        rows: A `Dataset`, a table or frame of Arrow, pandas or polars, or a list of dicts or of pairs (text, label).
        text_column: Name of the column of texts, which pairs get.
        label_column: Name of the column of labels.
        where: What the rows are called in messages.

    Raises:
        UserError: For anything else.
    """
    if isinstance(rows, datasets.Dataset):
        return rows
    try:
        if hasattr(rows, "__arrow_c_stream__"):
            table = pa.table(rows)
        elif (listed := list(rows)) and all(isinstance(row, Mapping) for row in listed):
            table = pa.Table.from_pylist(listed)
        else:
            table = pa.table({text_column: [text for text, _ in listed], label_column: [label for _, label in listed]})
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"{where} must be a Dataset, a frame of pandas or polars, or a list of dicts or pairs (text, label), "
            f"found {type(rows).__name__}: {reason_of(error):.200}"
        ) from error
    names, asked = table.column_names, (text_column, label_column)
    roots = {column if column in names else column.split(".")[0] for column in asked}
    if roots <= set(names):
        table = table.select(sorted(roots))
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # categories, which the datasets library does not take
            kind = pa.string() if "string" in str(field.type.value_type) else field.type.value_type
            parts = [part.dictionary.cast(kind).take(part.indices) for part in table.column(index).chunks]
            table = table.set_column(index, field.name, pa.chunked_array(parts, kind))
    return datasets.Dataset(table)


def _of_separators(columns: Iterable[str]) -> str:
    """What to do about columns that are not there, which of a CSV file may be those of another kind of file."""
    names = list(columns)
    separator = next((sign for sign in (";", "\t") if len(names) == 1 and sign in names[0]), None)
    if separator is not None:
        return f"Fields of a CSV file stand apart by commas, not {separator!r}: save it so, or with tabs as train.tsv"
    return (
        "Set --text_column and --label_column; a CSV file that begins with a row needs a line before that names them"
    )
