"""Files of rows: whatever the format, each row comes once, with its place and its cells or the fault that rejects it.

Delimited text is read by Python's `csv` in strict mode, which knows the line of each row and reports a misplaced
quote; `pyarrow.csv` and pandas know neither, and end a row at a lone CR. JSON is read by `json`, as `pyarrow.json`
makes times of texts and stops at the first bad line. Parquet and Arrow are read by pyarrow, Excel by pandas.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from html import unescape
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ..utils.errors import UserError, install_hint, reason_of
from .errors import BadRow, DataError, Fault, Reason, listed, name_file
from .lines import (
    FORMATS,
    SAMPLE_BYTES,
    excerpt_of,
    find_byte_fault,
    find_encoding,
    is_table,
    open_text,
    open_unpacked,
    suffix_of,
)

# Names of columns of texts and of labels, in any case; the first that a table has is taken.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "text": (
        *("text", "tweet", "sentence", "review", "content", "comment", "message"),
        *("nachricht", "kommentar", "bewertung", "satz", "inhalt"),
    ),
    "label": (
        *("label", "labels", "sentiment", "class", "category", "target", "emotion", "polarity"),
        *("kategorie", "klasse", "stimmung", "gefühl", "bewertung"),
    ),
}
BATCH_ROWS = 10_000

_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"PK\x03\x04": "excel", b"{": "json"}
_SEPARATORS = ",;\t|"
_LONGEST_CELL = 1 << 28  # bounds the memory that an unclosed quote takes
_LONE_CR = "\udc0d"  # replaces a lone CR, which `csv` refuses outside quotes; decoding never makes it
_FORMULA = re.compile(rb'<c r="([A-Z]+)([0-9]+)"[^>]*><f>([^<]*)</f>')


class Row(NamedTuple):
    """A row of a table, good or rejected."""

    place: int  # its first line, from 1, or its number in another file: from 1 in Excel, else from 0
    cells: Sequence[Any]  # in the order of the columns that were asked for; with a fault, first what was read of it
    fault: Fault | None = None  # why it is rejected


@dataclass(frozen=True)
class Table:
    """Rows in a file, a data set or memory, which can be read several times."""

    path: str  # the file, or the name of a data set in messages
    columns: list[str]  # names in order; those without a name are `column_1` and so on
    # yields the rows with the cells of some columns; dots in a name lead into nested records
    read_rows: Callable[[Sequence[str]], Iterable[Row]] = field(repr=False, compare=False)
    unit: str = "line"  # counted by `place`; or `row`
    has_names: bool = True  # whether the columns have names, and not only numbers
    separator: str | None = None  # between fields of delimited text
    encoding: str | None = None  # that of a text file, `utf-8-sig` if it starts with a mark
    class_names: Mapping[str, list[str]] = field(default_factory=dict)  # names of ClassLabel, by column
    read_arrow: Callable[[], pa.Table] | None = field(default=None, repr=False, compare=False)  # with the file's types

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Read the rows once; raise a [`DataError`] for a file that is damaged as a whole."""
        with name_file(self.path):
            yield from self.read_rows(columns)

    def reject(self, row: Row, fault: Fault) -> BadRow:
        """Return the record of a row with a fault."""
        return BadRow(self.path, row.place, fault, excerpt_of(write_value(row.cells[0]) or ""), self.unit)


def read_table(
    path: str | Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    header: bool | None = True,
    fields: int | None = None,
    quoting: str | None = None,
) -> Table:
    r"""Open a table, and find its format by the suffix, or with an unknown suffix by the first bytes.

    Args:
        path: A file: `.csv .tsv .jsonl .json .parquet .arrow .feather .xlsx`, then possibly `.gz .bz2 .zst`.
        separator: The separator of delimited text, a character; `\t` and `tab` are a tab. By default comma, semicolon,
            tab or bar: the one that cuts most lines into as many fields as the header.
        encoding: The encoding of a text file, as Python names it. By default UTF-8, with or without a mark, UTF-16, or
            cp1252 if most lines of the first megabyte with other characters than ASCII are not UTF-8.
        header: Whether the first line of delimited text names the columns. With None it does if it has usual names
            such as `text` and `label`. Columns without names are `0`, `1`, ..., and their fields end at tabs.
        fields: The number of fields of a line without a header; by default that of the first line.
        quoting: `csv` if a `"` at the start of a field encloses it, `none` if it is a letter. By default it encloses
            fields if columns have names.

    Raises:
        DataError: For an empty or unreadable file, and for two columns of one name.
        UserError: For a missing file, an unknown encoding, or Excel without its extra.
    """
    name, suffix = str(path), suffix_of(path)[1:]
    head = _read_head(name)
    formats = [name for name, suffixes in FORMATS.items() if suffix in suffixes]
    formats += [name for magic, name in _MAGIC.items() if head.startswith(magic)]
    with name_file(name, suffix):
        if not formats or formats[0] == "delimited":
            if header is None:  # if the first line names a column of texts and one of labels
                content = head.decode(find_encoding(head, encoding, guess=False), "replace")
                first = next(filter(str.strip, re.split("[\r\n]+", content)), "")
                names = {name.strip(' "') for name in first.casefold().split("\t")}
                header = not any(map(names.isdisjoint, USUAL_NAMES.values()))
            encoding = find_encoding(head, encoding, guess=header)
            table = _open_delimited(name, head, separator, encoding, header, fields, quoting)
        elif formats[0] == "json":
            table = _open_json(name, find_encoding(head, encoding), suffix)
        else:
            table = _open_excel(name) if formats[0] == "excel" else _open_arrow(name, head, formats[0] == "parquet")
    repeated = next((column for column, times in Counter(table.columns).items() if times > 1), None)
    if repeated is not None:
        raise DataError.for_file(name, Reason.MISSING_COLUMN, f"two columns are named {repeated!r:.80}: rename one")
    return table


def open_lines(path: str, encoding: str | None = None) -> Table:
    """Open a text file as a table of the column `text`, with a row for each line."""
    encoding = find_encoding(_read_head(path), encoding, guess=False)
    return Table(path, ["text"], lambda _: _split(path, encoding, "\n"), has_names=False, encoding=encoding)


def _read_head(path: str) -> bytes:
    """Return the first bytes of a file."""
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist: give a table such as texts.csv, or a folder with train.tsv")
    with name_file(path), open_unpacked(path) as stream:
        head = stream.read(SAMPLE_BYTES)
    if not head.strip():
        raise DataError.for_file(path, Reason.EMPTY_FILE, "found no row")
    return head


# ---- delimited text ----


def _open_delimited(
    path: str, head: bytes, separator: str | None, encoding: str, header: bool, fields: int | None, quoting: str | None
) -> Table:
    if quoting not in (None, "csv", "none"):
        raise UserError(f"unknown quoting {quoting!r:.80}: give csv or none")
    content, is_quoted = head.decode(encoding, "replace"), header if quoting is None else quoting == "csv"
    line_end = "\n" if "\n" in content or not header else "\r"
    separator = {"\\t": "\t", "tab": "\t"}.get(str(separator), separator) if header else "\t"
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise UserError(f"the separator must be one character: found {separator!r:.80}; give , ; | or tab")
    csv.field_size_limit(_LONGEST_CELL)
    if separator is None:
        lines = content.split(line_end)[: -1 if len(head) >= SAMPLE_BYTES else None]
        separator = _find_separator(lines[:1000], "\t" if ".tsv" in path else "")

    def split(size: int) -> Iterator[Row]:
        """Yield all rows, that of the names included, and reject those without `size` cells, unless it is 0."""
        if is_quoted:
            return _split_quoted(path, encoding, separator, size, line_end)
        return _split(path, encoding, separator, size, skips_blank=header)

    first = next(split(0), Row(1, [""]))
    if header and first.fault is not None:
        raise DataError.for_row(BadRow(path, first.place, first.fault, excerpt_of(first.cells[0])))
    size = len(first.cells) if first.fault is None else first.cells[0].count(separator) + 1
    names = _name_columns(first.cells) if header else list(map(str, range(fields or size)))

    def read_rows(columns: Sequence[str]) -> Iterator[Row]:
        return _choose_cells(islice(split(len(names)), int(header), None), names, columns)

    return Table(path, names, read_rows, has_names=header, separator=separator, encoding=encoding)


def _find_separator(lines: Sequence[str], preferred: str) -> str:
    """Return the separator that cuts most lines into as many fields as the first, if these are several."""
    best, most = preferred or ",", 0.0
    for separator in preferred + _SEPARATORS:
        rows = list(filter(None, csv.reader((line.replace("\r", "") + "\n" for line in lines), delimiter=separator)))
        if rows and len(rows[0]) > 1:
            agree = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
            best, most = (separator, agree) if agree > most else (best, most)
    return best


def _name_columns(names: Iterable[object]) -> list[str]:
    """Return names of columns; those without a name have their number."""
    return [str(name) if str(name).strip() else f"column_{place}" for place, name in enumerate(names, 1)]


def _choose_cells(rows: Iterable[Row], names: list[str], columns: Sequence[str]) -> Iterator[Row]:
    """Yield rows with the cells of some columns."""
    if list(columns) == names:
        return iter(rows)
    take = itemgetter(*map(names.index, columns), 0)
    return (row if row.fault else Row(row.place, take(row.cells)[:-1]) for row in rows)


def _split(path: str, encoding: str, separator: str, size: int = 0, skips_blank: bool = False) -> Iterator[Row]:
    """Yield lines as they are: each ends at LF or CRLF, a field at the separator."""
    with open_text(path, encoding) as stream:
        for place, line in enumerate(stream, 1):
            line = line.removesuffix("\n").removesuffix("\r")
            cells, fault = line.split(separator), None
            if len(cells) != size or not line.isascii():
                fault = _find_fault(line, len(cells), size, encoding, "A text cannot hold the separator")
            if line or not skips_blank:
                yield Row(place, [line] if fault else cells, fault)


def _split_quoted(path: str, encoding: str, separator: str, size: int, line_end: str) -> Iterator[Row]:
    """Yield the rows of text with quoted fields; a blank line is not a row."""
    last_odd = 0  # the last line with a lone CR or another character than ASCII

    def hide_cr(lines: Iterable[str]) -> Iterator[str]:
        """Hide each CR that ends no line; pandas and `csv` write it without quotes."""
        nonlocal last_odd
        for number, line in enumerate(lines, 1):
            text = line.removesuffix("\n").removesuffix("\r")
            if "\r" in text or not text.isascii():
                last_odd, line = number, text.replace("\r", _LONE_CR) + line[len(text) :]
            yield line

    with open_text(path, encoding, line_end) as stream:
        reader = csv.reader(hide_cr(stream), delimiter=separator, strict=True)
        while True:
            place, fault = reader.line_num + 1, None
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                detail = f"{reason_of(error).partition(' - ')[0]} in line {reader.line_num}"
                advice = 'Quote texts that hold ", write " as "" in them, and close each quote, or set --quoting none'
                cells, fault = [""], Fault(Reason.MISPLACED_QUOTE, detail, advice)
                if reader.line_num > place or "end of data" in detail:  # nobody can say where this row ends
                    raise DataError.for_row(BadRow(path, place, fault, "")) from None
            if last_odd >= place:
                cells = [cell.replace(_LONE_CR, "\r") for cell in cells]
            if cells and fault is None and (last_odd >= place or len(cells) != size):
                text = separator.join(cells)
                fault = _find_fault(text, len(cells), size, encoding, "Quote texts that hold the separator")
            if cells:
                yield Row(place, [separator.join(cells)] if fault else cells, fault)


def _find_fault(text: str, fields: int, size: int, encoding: str, advice: str) -> Fault | None:
    """Return what is wrong with the bytes of a row, or with the number of its fields."""
    if (fault := find_byte_fault(text, encoding)) or fields == (size or fields):
        return fault
    detail = f"found {fields} of {size}" + ", and a lone CR, which ends no line" * ("\r" in text)
    if fields > size:
        return Fault(Reason.TOO_MANY_FIELDS, detail, advice)
    return Fault(Reason.TOO_FEW_FIELDS, detail if text else "the line is empty")


# ---- JSON ----


def _open_json(path: str, encoding: str, suffix: str) -> Table:
    """Open JSON lines, one list of records or columns; read it once for the names of its columns."""
    records = _load_records(path, encoding, suffix)

    def read_records() -> Iterator[Row]:
        """Yield each record as the only cell of a row."""
        with open_text(path, encoding) as stream:
            for place, line in enumerate(stream, 1) if records is None else enumerate(map(json.dumps, records)):
                if not line.strip():
                    continue
                line = line.rstrip("\r\n")
                fault = None if line.isascii() else find_byte_fault(line, encoding)
                try:
                    record = json.loads(line)
                    if "\\ud" in line.lower():  # half of a surrogate pair, escaped
                        json.dumps(record, ensure_ascii=False).encode()
                    detail = "" if isinstance(record, dict) else f"found {type(record).__name__}"
                except (ValueError, RecursionError) as error:
                    detail = reason_of(error)
                if detail and fault is None:
                    fault = Fault(Reason.NOT_JSON, detail, 'Write a record such as {"text": "..."}')
                yield Row(place, [line if fault else record], fault)

    def read_rows(columns: Sequence[str]) -> Iterator[Row]:
        for row in read_records():
            yield row if row.fault else Row(row.place, [look_up(row.cells[0], name) for name in columns])

    names = dict.fromkeys(name for row in read_records() if row.fault is None for name in row.cells[0])
    return Table(path, list(names), read_rows, "line" if records is None else "row", encoding=encoding)


def _load_records(path: str, encoding: str, suffix: str) -> list[Any] | None:
    """Return the records of a JSON file that is one list, or columns with a list for each; None for JSON lines."""
    with open_text(path, encoding) as stream:
        lines = filter(str.strip, stream)
        first, has_more = next(lines, "").strip(), next(lines, None) is not None
        is_list = first.startswith("[")
        if not is_list and (suffix in ("jsonl", "ndjson") or (has_more and first.endswith("}"))):
            return None
    with open_text(path, encoding) as stream:
        try:
            content = json.load(stream)
        except ValueError:
            if is_list:
                raise
            return None
    if is_list:
        return content
    columns = list(content.values())
    if not columns or not all(isinstance(column, list) for column in columns):
        return None
    if len(set(map(len, columns))) > 1:
        raise DataError.for_file(path, Reason.UNREADABLE, f"its columns differ in length: {list(map(len, columns))}")
    return [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)]


def look_up(record: Mapping[str, Any], name: str) -> Any:
    """Return a value of a record; dots lead into nested ones."""
    if name in record or "." not in name:
        return record.get(name)
    root, _, rest = name.partition(".")
    return look_up(record[root], rest) if isinstance(record.get(root), dict) else None


# ---- Parquet, Arrow, Excel ----


def _open_arrow(path: str, head: bytes, is_parquet: bool) -> Table:
    """Open a file of Parquet or Arrow, mapped into memory if it is not packed."""
    source = pa.memory_map(path)
    if source.read(6) != head[:6]:
        with open_unpacked(path) as stream:
            source = pa.BufferReader(stream.read())
    source.seek(0)
    if not is_parquet:
        open_file = pa.ipc.open_file if head.startswith(b"ARROW1") else pa.ipc.open_stream
        whole = open_file(source).read_all()
        read_rows = lambda columns: number_rows([whole], columns)  # noqa: E731
        return Table(path, whole.schema.names, read_rows, "row", read_arrow=lambda: whole)
    import pyarrow.parquet as pq  # not at the top: it imports file systems of clouds

    file = pq.ParquetFile(source)
    read_rows = lambda columns: number_rows(file.iter_batches(BATCH_ROWS, columns=list(columns)), columns)  # noqa: E731
    return Table(path, file.schema_arrow.names, read_rows, "row", read_arrow=file.read)


def number_rows(batches: Iterable[pa.RecordBatch | pa.Table], columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of batches of Arrow, numbered from 0."""
    start = 0
    for whole in batches:
        for batch in (whole.slice(first, BATCH_ROWS) for first in range(0, len(whole), BATCH_ROWS)):
            cells = zip(*(take_cells(batch, name) for name in columns), strict=True)
            yield from map(Row, range(start, start + len(batch)), cells)
            start += len(batch)


def take_cells(rows: pa.RecordBatch | pa.Table, name: str) -> list[Any]:
    """Return the cells of a column; dots lead into nested records, and the cells of a missing column are None."""
    names = rows.schema.names
    root = name if name in names else name.partition(".")[0]
    if root not in names:
        return [None] * len(rows)
    cells = rows.column(names.index(root)).to_pylist()
    return cells if root == name else [look_up({root: cell}, name) for cell in cells]


def _open_excel(path: str) -> Table:
    """Open the first sheet of a workbook; a formula that no program has computed is its text.

    The libraries that write such files, pandas among them, have a text such as `=1+1` as a formula with the value 0.
    """
    try:
        import pandas as pd
        import python_calamine  # noqa: F401 - the engine of pandas
    except ImportError:
        raise UserError(f"{path} needs python-calamine: {install_hint('excel')}, or save it as CSV") from None
    with open_unpacked(path) as stream:
        content = io.BytesIO(stream.read())
    sheet = pd.read_excel(content, header=None, dtype=object, na_filter=False, engine="calamine").values.tolist()
    if not sheet:
        raise DataError.for_file(path, Reason.EMPTY_FILE, "its first sheet has no header")
    book = zipfile.ZipFile(content) if zipfile.is_zipfile(content) else None
    if book and "xl/workbook.xml" in book.namelist() and b'fullCalcOnLoad="1"' in book.read("xl/workbook.xml"):
        for letters, row, formula in _FORMULA.findall(book.read("xl/worksheets/sheet1.xml")):
            column = reduce(lambda number, letter: 26 * number + letter - 64, letters, 0)  # A is 65
            sheet[int(row) - 1][column - 1] = f"={unescape(formula.decode())}"
    names = _name_columns(sheet[0])
    rows = [Row(place, [None if cell == "" else cell for cell in cells]) for place, cells in enumerate(sheet[1:], 2)]
    rows = [row for row in rows if row.cells.count(None) < len(names)]
    return Table(path, names, lambda columns: _choose_cells(rows, names, columns), "row")


# ---- cells ----


def find_column(columns: Sequence[str], name: str | int | None, guesses: Iterable[str], path: str, flag: str) -> str:
    """Return the name of a column of a table: that of a name or number, or the first of `guesses`, in any case.

    A dot in a name leads into nested records. Raises a [`DataError`] that lists the columns and names the `flag`.
    """
    guesses = list(guesses)
    if isinstance(name, int):
        name = columns[name] if 0 <= name < len(columns) else str(name)
    if name is not None:
        chosen = name if name in columns or name.partition(".")[0] in columns else None
    else:
        folded = {column.strip().casefold(): column for column in reversed(columns)}
        chosen = next(filter(None, (folded.get(guess.strip().casefold()) for guess in guesses)), None)
    if chosen is None:
        message = f"no column {name or next(iter(guesses), flag)!r:.80}: found {listed(columns)}"
        raise DataError.for_file(path, Reason.MISSING_COLUMN, f"{message}; name one of them with --{flag}")
    return chosen


def write_value(value: object) -> str | None:
    """Return a value as a string, None for NaN and infinity; 1.0 is 1."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = int(value) if value.is_integer() else value
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def cell_fault(cell: object) -> Fault | None:
    """Return the fault of a cell that cannot be a text."""
    return Fault(Reason.NOT_A_TEXT, "it is a list or a record") if isinstance(cell, list | dict | bytes) else None


def read_column(path: str | Path, column: str | None = None, *, encoding: str | None = None) -> Iterator[str | BadRow]:
    """Yield the texts of a table's column, or the lines of another file, in their order. A missing text is "".

    Without a `column`, or if the table lacks it, the column is found by a usual name, such as `text`.
    """
    if is_table(path):
        table = read_table(path, encoding=encoding)
        is_there = column is not None and (column in table.columns or "." in column)
        name = find_column(table.columns, column if is_there else None, USUAL_NAMES["text"], str(path), "text_column")
    else:
        table, name = open_lines(str(path), encoding), "text"
    for row in table.rows([name]):
        fault = row.fault or cell_fault(row.cells[0])
        yield table.reject(row, fault) if fault else write_value(row.cells[0]) or ""


def read_whole(table: Table, texts: Sequence[str] = ()) -> tuple[pa.Table, list[int], dict[int, BadRow]]:
    """Read all columns of a table: return its rows, the place of each, and the rejected ones by their number.

    Rejected rows are null; a cell of the columns `texts` that cannot be a text rejects its row too. A column has one
    type in the whole file, and texts if its values have several.
    """
    if table.read_arrow is not None:
        with name_file(table.path):
            rows = table.read_arrow()
        return rows, list(range(len(rows))), {}
    places, rejected, size = list[int](), dict[int, BadRow](), len(table.columns)
    columns: list[list[Any]] = [[] for _ in table.columns]
    for row in table.rows([*table.columns, *texts]):
        fault = row.fault or next(filter(None, map(cell_fault, row.cells[size:])), None)
        if fault is not None:
            rejected[len(places)] = table.reject(row._replace(cells=row.cells[-1:]), fault)
        places.append(row.place)
        for column, cell in zip(columns, row.cells if fault is None else [None] * size, strict=False):
            column.append(cell)
    arrays = []
    for column in columns:
        try:
            arrays.append(pa.array(column, pa.string() if table.separator else None))
        except (pa.ArrowException, OverflowError):  # values of several types
            arrays.append(pa.array(map(write_value, column), pa.string()))
    return pa.table(arrays, table.columns), places, rejected
