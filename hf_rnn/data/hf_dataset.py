"""One split of a data set of the `datasets` library, read under the same contract as a TSV file.

It delivers the same [`~hf_rnn.data.tsv_reader.Rows`], with the same checks of text and label. Columns are read as
Arrow data, never row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.errors import UserError, reason_of
from .labels import RowLabels
from .row_errors import EXCERPT_CHARACTERS, WHITE_SPACE, BadRow, DataError, Fault, Reason, text_fault
from .tsv_reader import Rows

BATCH_ROWS = 10_000
UNLABELLED = -1  # published data sets mark rows without a label so, in ClassLabel columns


@dataclass(frozen=True)
class LibrarySplit:
    """One split of a map-style data set, with a string column and one of ClassLabel, strings, integers or bools.

    `path` is its name in messages: `name[split]`. With a `separator`, labels are sets or numbers: each is written as
    in TSV, a list with the separator between its items.
    """

    path: str
    dataset: datasets.Dataset
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    separator: str | None = None

    def __post_init__(self) -> None:
        features = self.dataset.features
        columns = [*self.text_columns, *self.label_names]
        if len(set(columns)) < len(columns):
            twice = next(column for column in columns if columns.count(column) > 1)
            raise UserError(f"text and label must be two columns: found {twice!r} for both")
        for column in columns:
            if column not in features:
                raise self._misfit(f"no column {column!r}: found {', '.join(map(repr, features))}")
        for column in self.text_columns:
            if getattr(features[column], "dtype", None) not in ("string", "large_string", "string_view"):
                raise self._misfit(f"column {column!r} must hold strings: found {features[column]}")
        if self.separator is not None:
            return
        label, kind = features[self.label_column], getattr(features[self.label_column], "dtype", "")
        if not isinstance(label, datasets.ClassLabel) and not any(part in kind for part in ("string", "int", "bool")):
            allowed = "ClassLabel, strings, integers or bools"
            raise self._misfit(f"column {self.label_column!r} must hold {allowed}: found {label}")

    def _misfit(self, detail: str) -> DataError:
        advice, names = "set --text_column and --label_column", list(self.dataset.features)
        if len(names) == 2:
            advice += f", such as --text_column {names[0]} --label_column {names[1]}"
        return DataError.for_file(self.path, Reason.MISSING_COLUMN, f"{detail}; {advice}")

    @property
    def label_column(self) -> str:
        """The only label column."""
        return self.label_names[0]

    @property
    def class_names(self) -> list[str] | None:
        """The names of a ClassLabel column, in the data set's own order; None for other columns."""
        label = _item(self.dataset.features[self.label_column])
        return label.names if isinstance(label, datasets.ClassLabel) and len(self.label_names) == 1 else None

    @property
    def layout(self) -> tuple[str, ...]:
        """The columns, which the fingerprint of the rows depends on."""
        return *self.text_columns, *self.label_names

    @property
    def header_label(self) -> None:
        """None: there is never a header."""

    def rows(
        self,
        labels: RowLabels,
        on_bad_row: Callable[[BadRow], None],
        on_bytes: Callable[[bytes], object] = lambda block: None,
    ) -> Iterator[Rows]:
        """Read the split; see [`~hf_rnn.data.tsv_reader.TsvFile.rows`]. Bad rows are numbered from 0."""
        on_bytes(self.dataset._fingerprint.encode())
        start = 0
        columns = self.dataset.select_columns(list(self.layout)).with_format("arrow")
        for batch in columns.iter(batch_size=BATCH_ROWS):
            yield self._read(batch, start, labels, on_bad_row)
            start += len(batch)

    def _read(self, batch: pa.Table, start: int, labels: RowLabels, on_bad_row: Callable[[BadRow], None]) -> Rows:
        texts = [batch[column].cast(pa.string()).combine_chunks() for column in self.text_columns]
        bad = np.zeros(len(batch), dtype=bool)
        for column in texts:
            trimmed = pc.binary_length(pc.utf8_trim(column, characters=WHITE_SPACE))
            nul = pc.fill_null(pc.match_substring(column, "\0"), True)
            bad |= pc.or_(pc.fill_null(pc.equal(trimmed, 0), True), nul).to_numpy(zero_copy_only=False)

        if self.separator is None:
            coded = batch[self.label_column].combine_chunks().dictionary_encode()
            resolved = [self._resolve(value, labels) for value in coded.dictionary.to_pylist()]
        else:
            rows = zip(*(batch[column].to_pylist() for column in self.label_names), strict=True)
            coded = pa.array([self._write(row) for row in rows], pa.string()).dictionary_encode()
            resolved = [labels.read(value) for value in coded.dictionary.to_pylist()]
        codes = pc.fill_null(coded.indices, len(resolved)).to_numpy()
        resolved.append(Fault(Reason.EMPTY_LABEL, "its label is missing"))
        bad |= np.array([isinstance(label, Fault) for label in resolved])[codes]
        for row in np.flatnonzero(bad):
            found = [column[int(row)].as_py() or "" for column in texts]
            fault = next(filter(None, map(text_fault, found)), None) or resolved[codes[row]]
            assert isinstance(fault, Fault)
            on_bad_row(BadRow(self.path, start + int(row), None, fault, found[0][:EXCERPT_CHARACTERS]))
        keep, codes = pa.array(~bad), codes[~bad]
        kept = [column.filter(keep) for column in texts]
        good = np.array([not isinstance(label, Fault) for label in resolved])
        values = [label for label in resolved if not isinstance(label, Fault)]
        return Rows(kept[0], labels.as_array(values, (np.cumsum(good) - 1)[codes]), len(batch), *kept[1:])

    def _write(self, row: Sequence[Any]) -> str | None:
        """Return the fields of a row as TSV would write them; None if one is missing."""
        written = []
        for column, value in zip(self.label_names, row, strict=True):
            item = _item(self.dataset.features[column])
            items = value if isinstance(value, list) else [value]
            if value is None or any(each is None for each in items):
                return None
            if isinstance(item, datasets.ClassLabel):
                items = [item.names[each] if 0 <= each < len(item.names) else each for each in items]
            texts = [str(each) for each in items]
            if isinstance(value, list) and (cut := [text for text in texts if str(self.separator) in text]):
                raise UserError(f"the label {cut[0]!r:.80} contains {self.separator!r}: set another label_separator")
            written.append(str(self.separator).join(texts))
        return "\t".join(written)

    def _resolve(self, value: str | int, labels: RowLabels) -> Any:
        """Return what `labels` read of a label as TSV would write it, or what is wrong with it."""
        label, names = str(value), self.class_names
        if names is not None:
            if not isinstance(value, int) or not 0 <= value < len(names):
                remedy = "-1 marks a row without a label" if value == UNLABELLED else ""
                return Fault(Reason.LABEL_OUT_OF_RANGE, f"label {value}, known are 0 to {len(names) - 1}", remedy)
            label = str(names[value])
        return labels.read(label)


def _item(feature: Any) -> Any:
    """Return the type of a list's items, or of a single value."""
    return feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature


def to_dataset(rows: Any, columns: Sequence[str], where: str) -> datasets.Dataset:
    """Return rows in memory as a data set.

    Rows are a `Dataset`, a table or frame of Arrow, pandas or polars, or a list of dicts or of tuples with an item for
    each of `columns`, such as (text, label). `where` names them in messages.
    """
    if isinstance(rows, datasets.Dataset):
        return rows
    try:
        if hasattr(rows, "__arrow_c_stream__"):
            table = pa.table(rows)
        elif (items := list(rows)) and all(isinstance(row, Mapping) for row in items):
            table = pa.Table.from_pylist(items)
        else:
            table = pa.table(dict(zip(columns, map(list, zip(*items, strict=True)), strict=True)))
    except (pa.ArrowException, TypeError, ValueError) as error:
        found = f"found {type(rows).__name__} ({reason_of(error):.200})"
        raise UserError(f"{where} must be a Dataset, a frame, or a list of dicts or pairs: {found}") from error
    known = table.column_names
    roots = {column if column in known else column.split(".")[0] for column in columns}
    if roots <= set(known):
        table = table.select(sorted(roots))
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # categories, which the datasets library refuses
            kind = pa.string() if "string" in str(field.type.value_type) else field.type.value_type
            parts = [part.dictionary.cast(kind).take(part.indices) for part in table.column(index).chunks]
            table = table.set_column(index, field.name, pa.chunked_array(parts, kind))
    return datasets.Dataset(table)
