"""Data sets of the `datasets` library, and rows in memory, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import datasets
import pyarrow as pa

from ..utils.errors import UserError, reason_of
from .tables import BATCH_ROWS, Batch, Table, number_rows


def as_table(name: str, rows: datasets.Dataset) -> Table:
    """Return a data set as a table, whose columns of ClassLabel have names; `name` is that in messages."""
    names = {}
    for column, feature in rows.features.items():
        item = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature
        if isinstance(item, datasets.ClassLabel):
            names[column] = item.names
    return Table(name, "dataset", list(rows.features), class_names=names, _read=partial(_read, rows))


def _read(rows: datasets.Dataset, columns: Sequence[str] | None) -> Iterator[Batch]:
    """Read columns as Arrow data, never row by row."""
    chosen = rows if columns is None else rows.select_columns(list(columns))
    tables = chosen.with_format("arrow").iter(batch_size=BATCH_ROWS)
    yield from number_rows(batch for table in tables for batch in table.combine_chunks().to_batches())


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
