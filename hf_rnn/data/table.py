"""Tables: columns of cells with the place of each row, in memory or in a file that Arrow maps."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ..utils.errors import out_of_arrow
from ..utils.process import limit_mapped_files
from .charset import excerpt_of
from .errors import BadRow, Fault, Reason, file_error

PIECE_ROWS = 10_000  # rows that are Python objects at a time
_MOST_IN_MEMORY = 1 << 26  # bytes of a table; a larger one is in a file
_JSON = pa.json_(pa.string())  # the type of columns with values of several types

Column: TypeAlias = Any  # a column of Arrow, or a list of objects in memory


# ---- columns of Arrow ----


@cache
def _make_folder() -> tempfile.TemporaryDirectory[str]:
    """Return the folder for large tables, in the cache of `datasets`, until this process ends."""
    from datasets import config

    config.HF_DATASETS_CACHE.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(
        prefix="hf_rnn-", dir=config.HF_DATASETS_CACHE, ignore_cleanup_errors=True
    )


class RowStore:
    """Collect the pieces of a table: in memory, and beyond 64 MB in a file that Arrow maps.

    A further column, or a further type of one, changes the rows that are there too.

    Attributes:
        path: The file, if there is one.
    """

    def __init__(self, schema: pa.Schema | None = None) -> None:
        self.path: str | None = None
        self._schema = schema
        self._pieces: list[pa.Table] = []
        self._bytes = 0
        self._writer: pa.RecordBatchStreamWriter | None = None

    def add(self, piece: pa.Table) -> None:
        """Add rows after the others."""
        if self._schema is None:
            self._schema = piece.schema
        if piece.schema != self._schema:
            self._widen(piece.schema)
            piece = _convert(piece, self._schema)
        if self._writer is not None:
            self._writer.write_table(piece)
            return
        self._pieces.append(piece)
        self._bytes += piece.nbytes
        if self._bytes > _MOST_IN_MEMORY:
            self._move_to_file()

    def close(self) -> pa.Table:
        """Return the table."""
        if self._writer is not None:
            self._writer.close()
            return pa.ipc.open_stream(pa.memory_map(self.path)).read_all()
        if not self._pieces:
            return (self._schema or pa.schema([])).empty_table()
        return pa.concat_tables(self._pieces)

    def _move_to_file(self) -> None:
        with tempfile.NamedTemporaryFile(
            suffix=".arrow", dir=_make_folder().name, delete=False
        ) as file:
            self.path = file.name
        self._writer = pa.ipc.new_stream(self.path, self._schema)
        for piece in self._pieces:
            self._writer.write_table(piece)
        self._pieces = []
        pa.default_memory_pool().release_unused()
        limit_mapped_files()

    def _widen(self, other: pa.Schema) -> None:
        """Make the schema hold the rows of another one too."""
        schema = _unite(self._schema, other)
        if schema == self._schema:
            return
        earlier = self.close()
        self.__init__(schema)  # type: ignore[misc]
        for piece in split_rows(earlier):
            self.add(piece)


def split_rows(table: pa.Table, rows: int = PIECE_ROWS) -> Iterator[pa.Table]:
    """Yield a table in pieces of a number of rows."""
    for start in range(0, len(table), rows):
        yield table.slice(start, rows)


def select_rows(table: pa.Table, mask: np.ndarray) -> RowStore:
    """Return a store of the rows of a table where a mask, bool `(rows,)`, is true."""
    store = RowStore(table.schema)
    start = 0
    for piece in split_rows(table):
        store.add(piece.filter(pa.array(mask[start : start + len(piece)])))
        start += len(piece)
    return store


def _unite(first: pa.Schema, second: pa.Schema) -> pa.Schema:
    """Return the schema of the rows of two; a column of two types has JSON, unless one is null."""
    types = dict(zip(first.names, first.types, strict=True))
    for name, type_ in zip(second.names, second.types, strict=True):
        earlier = pa.field(name, types.get(name, pa.null()))
        try:
            types[name] = pa.unify_schemas(
                [pa.schema([earlier]), pa.schema([(name, type_)])]
            ).types[0]
        except pa.ArrowException:
            types[name] = _JSON
    return pa.schema(types.items())


def _convert(piece: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows in a schema that [`_unite`] made for them."""
    columns = []
    for name, type_ in zip(schema.names, schema.types, strict=True):
        if name not in piece.column_names:
            columns.append(pa.nulls(len(piece), type_))
        elif type_ == _JSON and piece.schema.field(name).type != _JSON:
            columns.append(_write_json(piece[name].to_pylist()))
        else:
            columns.append(piece[name].cast(type_))
    return pa.table(columns, schema)


def to_array(values: Sequence[Any]) -> pa.Array:
    """Return values of JSON as a column: with their type, or as JSON if they have several."""
    types = set(map(type, values))
    if bool not in types or types <= {bool, type(None)}:
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):
            pass
    return _write_json(values)


def _write_json(values: Iterable[Any]) -> pa.Array:
    texts = [None if value is None else json.dumps(value) for value in values]
    return pa.ExtensionArray.from_storage(_JSON, pa.array(texts, pa.string()))


def gather(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of records: the values of each name, None for a missing one."""
    columns = {}
    for name in dict.fromkeys(chain.from_iterable(records)):
        columns[name] = [record.get(name) for record in records]
    return columns


def list_cells(column: Column) -> list[Any]:
    """Return the cells of a column as Python objects."""
    if getattr(column, "type", None) == _JSON:
        return [cell if cell is None else json.loads(cell) for cell in column.to_pylist()]
    return out_of_arrow(column) if hasattr(column, "to_pylist") else list(column)


def convert_cells(column: Column, function: Callable[[Any], str | None]) -> pa.ChunkedArray:
    """Return a column of texts that a function makes of the cells of another one."""
    pieces = []
    for start in range(0, len(column), PIECE_ROWS):
        cells = list_cells(column[start : start + PIECE_ROWS])
        pieces.append(pa.array(map(function, cells), pa.string()))
    return pa.chunked_array(pieces, pa.string())


# ---- tables ----


@dataclass(frozen=True)
class Table:
    """All rows of a file, a data set or memory, by column."""

    path: str  # the file, or the name of a data set in messages
    columns: Mapping[str, Column]  # by name; None in rejected rows
    # the first line of each row, from 1, or its number: from 1 in Excel, else from 0
    places: Sequence[int] | np.ndarray
    rejected: Mapping[int, BadRow] = field(default_factory=dict)  # by the number of the row
    unit: str = "row"  # counted by `places`; or `line`
    has_names: bool = True  # whether the columns have names, and not only numbers
    separator: str | None = None  # between fields of delimited text
    encoding: str | None = None  # that of a text file, `utf-8-sig` if it starts with a mark
    # names of ClassLabel, by column
    class_names: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def from_arrow(cls, path: str, rows: pa.Table) -> Table:
        """Make a table of one of Arrow."""
        rows.validate(full=True)  # a file may hold texts that are not UTF-8
        columns = dict(zip(name_columns(path, rows.column_names), rows.columns, strict=True))
        return cls(path, columns, range(len(rows)))

    def column(self, name: str) -> Column:
        """Return a column; dots lead into nested records, and a missing column has cells None."""
        if name in self.columns:
            return self.columns[name]
        root = name.partition(".")[0]
        if root not in self.columns:
            return [None] * len(self.places)
        return [_look_into({root: cell}, name) for cell in list_cells(self.columns[root])]

    def cells(self, name: str) -> list[Any]:
        """Return the cells of a column as Python objects; see [`Table.column`]."""
        return list_cells(self.column(name))

    def has_texts(self, name: str) -> bool:
        """Return whether a cell of a column is a text."""
        column = self.column(name)
        if _is_text(column):
            return len(column) > column.null_count
        may_have_texts = not hasattr(column, "type") or column.type == _JSON
        return may_have_texts and any(isinstance(cell, str) for cell in list_cells(column))

    def texts(self, name: str) -> tuple[pa.ChunkedArray, dict[int, BadRow]]:
        """Return the cells of a column as texts, and all rows without a text by their number.

        A missing cell is null, as are those of rejected rows.
        """
        column = self.column(name)
        if _is_text(column):
            if column.type == pa.string():
                return column, dict(self.rejected)
            return convert_cells(column, write_value), dict(self.rejected)
        texts = convert_cells(column, write_value)
        fault = Fault(Reason.NOT_A_TEXT, "it is a list or a record")
        wrong = {
            number: self.reject(number, fault, texts[number].as_py())
            for number, cell in enumerate(list_cells(column))
            if isinstance(cell, list | dict | bytes)
        }
        return texts, wrong | dict(self.rejected)

    def slice(self, start: int, rows: int) -> Table:
        """Return some rows that follow each other."""
        stop = start + rows
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        rejected = {
            number - start: row for number, row in self.rejected.items() if start <= number < stop
        }
        return replace(self, columns=columns, places=self.places[start:stop], rejected=rejected)

    def to_arrow(self) -> pa.Table:
        """Return all columns; each has one type in the whole file, or else texts."""
        arrays = []
        for column in self.columns.values():
            is_arrow = hasattr(column, "type")
            if is_arrow and column.type != _JSON:
                arrays.append(column)
                continue
            try:
                arrays.append(pa.array(list_cells(column)))
            except (pa.ArrowException, OverflowError):
                arrays.append(convert_cells(column, write_value))
        return pa.table(arrays, list(self.columns))

    def reject(self, number: int, fault: Fault, text: str | None) -> BadRow:
        """Return the record of a row with a fault that starts with a text."""
        return BadRow(self.path, int(self.places[number]), fault, excerpt_of(text or ""), self.unit)


def _is_text(column: Column) -> bool:
    """Return whether a column of Arrow has texts only."""
    type_ = getattr(column, "type", None)
    if isinstance(type_, pa.DictionaryType):
        type_ = type_.value_type
    return type_ in (pa.string(), pa.large_string(), pa.string_view())


def name_columns(path: str, names: Iterable[object]) -> list[str]:
    """Return the names of columns, all different; those without a name have their number."""
    texts = []
    for place, name in enumerate(map(str, names), 1):
        text = name if name.strip() else f"column_{place}"
        if text in texts:
            detail = f"two columns are named {text!r:.80}: rename one"
            raise file_error(path, Reason.MISSING_COLUMN, detail)
        texts.append(text)
    return texts


# ---- cells ----


def _look_into(record: Mapping[str, Any], name: str) -> Any:
    """Return a value of a record; dots lead into nested ones."""
    if name in record or "." not in name:
        return record.get(name)
    root, _, rest = name.partition(".")
    return _look_into(record[root], rest) if isinstance(record.get(root), dict) else None


def write_value(value: object) -> str | None:
    """Return a value as a string, None for NaN and infinity; the number 1.0 is 1."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        if value.is_integer():
            value = int(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
