"""One split of a data set of the `datasets` library, read under the same contract as a TSV file.

It delivers the same [`~hf_rnn.data.tsv_reader.Rows`], with the same checks of text and label. Columns are read as
Arrow data, never row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.errors import UserError, reason_of
from .labels import LabelMap
from .row_errors import EXCERPT_CHARACTERS, WHITE_SPACE, BadRow, DataError, Fault, Reason, label_fault, text_fault
from .tsv_reader import Rows

BATCH_ROWS = 10_000
UNLABELLED = -1  # published data sets mark rows without a label so, in ClassLabel columns


@dataclass(frozen=True)
class LibrarySplit:
    """One split of a map-style data set, with a string column and one of ClassLabel, strings, integers or bools.

    `path` is its name in messages: `name[split]`.
    """

    path: str
    dataset: datasets.Dataset
    text_column: str
    label_column: str

    def __post_init__(self) -> None:
        features = self.dataset.features
        if self.text_column == self.label_column:
            raise UserError(f"text and label must be two columns: found {self.text_column!r} for both")
        for column in (self.text_column, self.label_column):
            if column not in features:
                raise self._misfit(f"no column {column!r}: found {', '.join(map(repr, features))}")
        if getattr(features[self.text_column], "dtype", None) not in ("string", "large_string", "string_view"):
            raise self._misfit(f"column {self.text_column!r} must hold strings: found {features[self.text_column]}")
        label, kind = features[self.label_column], getattr(features[self.label_column], "dtype", "")
        if not isinstance(label, datasets.ClassLabel) and not any(part in kind for part in ("string", "int", "bool")):
            allowed = "ClassLabel, strings, integers or bools"
            raise self._misfit(f"column {self.label_column!r} must hold {allowed}: found {label}")

    def _misfit(self, detail: str) -> DataError:
        return DataError.for_file(self.path, Reason.MISSING_COLUMN, f"{detail}; set --text_column and --label_column")

    @property
    def class_names(self) -> list[str] | None:
        """The names of a ClassLabel column, in the data set's own order; None for other columns."""
        label = self.dataset.features[self.label_column]
        return label.names if isinstance(label, datasets.ClassLabel) else None

    @property
    def layout(self) -> tuple[str, str]:
        """The columns, which the fingerprint of the rows depends on."""
        return self.text_column, self.label_column

    @property
    def header_label(self) -> None:
        """None: there is never a header."""

    def rows(
        self,
        labels: LabelMap | None,
        on_bad_row: Callable[[BadRow], None],
        on_bytes: Callable[[bytes], object] = lambda block: None,
        keep_texts: bool = True,
    ) -> Iterator[Rows]:
        """Read the split; see [`~hf_rnn.data.tsv_reader.TsvFile.rows`]. Bad rows are numbered from 0."""
        on_bytes(self.dataset._fingerprint.encode())
        start = 0
        columns = self.dataset.select_columns([self.text_column, self.label_column]).with_format("arrow")
        for batch in columns.iter(batch_size=BATCH_ROWS):
            yield self._read(batch, start, labels, on_bad_row)
            start += len(batch)

    def _read(
        self, batch: pa.Table, start: int, labels: LabelMap | None, on_bad_row: Callable[[BadRow], None]
    ) -> Rows:
        texts = batch[self.text_column].cast(pa.string()).combine_chunks()
        trimmed = pc.binary_length(pc.utf8_trim(texts, characters=WHITE_SPACE))
        suspect = pc.or_(pc.fill_null(pc.equal(trimmed, 0), True), pc.fill_null(pc.match_substring(texts, "\0"), True))
        bad = suspect.to_numpy(zero_copy_only=False).copy()

        coded = batch[self.label_column].combine_chunks().dictionary_encode()
        resolved = [self._resolve(value, labels) for value in coded.dictionary.to_pylist()]
        codes = pc.fill_null(coded.indices, len(resolved)).to_numpy()
        resolved.append(Fault(Reason.EMPTY_LABEL, "its label is missing"))
        bad |= np.array([isinstance(label, Fault) for label in resolved])[codes]
        for row in np.flatnonzero(bad):
            text, label = texts[int(row)].as_py() or "", resolved[codes[row]]
            fault = text_fault(text) or label
            assert isinstance(fault, Fault)
            on_bad_row(BadRow(self.path, start + int(row), None, fault, text[:EXCERPT_CHARACTERS]))
        texts, codes = texts.filter(pa.array(~bad)), codes[~bad]
        known = [None if isinstance(label, Fault) else label for label in resolved]
        kept = pa.array(known, pa.string() if labels is None else pa.int64()).take(pa.array(codes))
        return Rows(texts, kept.dictionary_encode() if labels is None else kept, len(batch))

    def _resolve(self, value: str | int, labels: LabelMap | None) -> int | str | Fault:
        """Return a label's id, or, without a label map, the label as TSV would write it; or what is wrong with it."""
        label, names = str(value), self.class_names
        if names is not None:
            if not isinstance(value, int) or not 0 <= value < len(names):
                remedy = "-1 marks a row without a label" if value == UNLABELLED else ""
                return Fault(Reason.LABEL_OUT_OF_RANGE, f"label {value}, known are 0 to {len(names) - 1}", remedy)
            label = str(names[value])
        return label_fault(label) or (label if labels is None else labels.resolve(label))


def to_dataset(rows: Any, text_column: str, label_column: str, where: str) -> datasets.Dataset:
    """Return rows in memory as a data set.

    Rows are a `Dataset`, a table or frame of Arrow, pandas or polars, or a list of dicts or of pairs (text, label).
    `where` names them in messages.
    """
    if isinstance(rows, datasets.Dataset):
        return rows
    try:
        if hasattr(rows, "__arrow_c_stream__"):
            table = pa.table(rows)
        elif (items := list(rows)) and all(isinstance(row, Mapping) for row in items):
            table = pa.Table.from_pylist(items)
        else:
            table = pa.table({text_column: [text for text, _ in items], label_column: [label for _, label in items]})
    except (pa.ArrowException, TypeError, ValueError) as error:
        found = f"found {type(rows).__name__} ({reason_of(error):.200})"
        raise UserError(f"{where} must be a Dataset, a frame, or a list of dicts or pairs: {found}") from error
    known = table.column_names
    roots = {column if column in known else column.split(".")[0] for column in (text_column, label_column)}
    if roots <= set(known):
        table = table.select(sorted(roots))
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # categories, which the datasets library refuses
            kind = pa.string() if "string" in str(field.type.value_type) else field.type.value_type
            parts = [part.dictionary.cast(kind).take(part.indices) for part in table.column(index).chunks]
            table = table.set_column(index, field.name, pa.chunked_array(parts, kind))
    return datasets.Dataset(table)
