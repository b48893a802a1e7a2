"""Files of rows: whatever the format, each row comes once, with its place and its cells, or as a rejected row.

Delimited text is read by Python's `csv` in strict mode, which knows the line of each row and
reports a misplaced quote; `pyarrow.csv` and pandas know neither, and end a row at a lone CR. JSON
is read by `json`, as `pyarrow.json` makes times of texts and stops at the first bad line. Parquet
and Arrow are read by pyarrow, Excel by pandas.
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
from dataclasses import dataclass, field, replace
from functools import reduce
from html import unescape
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from ..utils.errors import UserError, install_hint, out_of_arrow, reason_of
from .errors import BadRow, Fault, Reason, explain_file, file_error, listed, row_error
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

_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"PK\x03\x04": "excel", b"{": "json"}
_SEPARATORS = ",;\t|"
_LONGEST_CELL = 1 << 28  # bounds the memory that an unclosed quote takes
# replaces a lone CR, which `csv` refuses outside quotes; decoding never makes it
_LONE_CR = "\udc0d"
_FORMULA = re.compile(rb'<c r="([A-Z]+)([0-9]+)"[^>]*><f>([^<]*)</f>')

# the first line of a row, its fields, and why it is rejected; its one field is then what was read
# of it
_Fields: TypeAlias = tuple[int, list[str], Fault | None]


@dataclass(frozen=True)
class Table:
    """All rows of a file, a data set or memory, by column."""

    path: str  # the file, or the name of a data set in messages
    # cells by name, in lists or arrays of Arrow; None in rejected rows
    columns: dict[str, Sequence[Any]]
    # the first line of each row, from 1, or its number: from 1 in Excel, else from 0
    places: Sequence[int]
    # by the number of the row in a column
    rejected: dict[int, BadRow] = field(default_factory=dict)
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
        return cls(path, _name_columns(path, rows.column_names, rows.columns), range(len(rows)))

    def cells(self, name: str) -> Sequence[Any]:
        """Return the cells of a column; dots lead into nested records, and the cells of a missing column are None."""
        root = name if name in self.columns else name.partition(".")[0]
        if root not in self.columns:
            return [None] * len(self.places)
        cells = out_of_arrow(self.columns[root])
        return cells if root == name else [look_up({root: cell}, name) for cell in cells]

    def texts(self, name: str) -> tuple[list[str], dict[int, BadRow]]:
        """Return the cells of a column as texts, "" for a missing one, and all rows without a text by their number."""
        cells, fault = self.cells(name), Fault(Reason.NOT_A_TEXT, "it is a list or a record")
        texts = [cell if type(cell) is str else write_value(cell) or "" for cell in cells]
        wrong = [
            n
            for n, cell in enumerate(cells)
            if type(cell) is not str and isinstance(cell, list | dict | bytes)
        ]
        return texts, {
            number: self.reject(number, fault, texts[number]) for number in wrong
        } | self.rejected

    def to_arrow(self) -> pa.Table:
        """Return all columns; each has one type in the whole file, and texts if its values have several."""
        arrays = []
        for column in self.columns.values():
            try:
                is_array = isinstance(column, pa.ChunkedArray)
                arrays.append(
                    column
                    if is_array
                    else pa.array(column, pa.string() if self.separator else None)
                )
            except (pa.ArrowException, OverflowError):
                arrays.append(pa.array(map(write_value, column), pa.string()))
        return pa.table(arrays, list(self.columns))

    def reject(self, number: int, fault: Fault, text: str) -> BadRow:
        """Return the record of a row with a fault that starts with a text."""
        return BadRow(self.path, self.places[number], fault, excerpt_of(text), self.unit)


def read_table(
    path: str | Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    header: bool | Callable[[set[str]], bool] = True,
    fields: int | None = None,
    quoting: str | None = None,
) -> Table:
    r"""Read a table, and find its format by the suffix, or with an unknown suffix by the first bytes.

    Args:
        path: A file: `.csv .tsv .jsonl .json .parquet .arrow .feather .xlsx`, then possibly `.gz
            .bz2 .zst`.
        separator: The separator of delimited text, a character; `\t` and `tab` are a tab. By
            default comma, semicolon, tab or bar: the one that cuts most lines into as many fields
            as the header.
        encoding: The encoding of a text file, as Python names it. By default UTF-8, with or without
            a mark, UTF-16, or cp1252 if most lines of the first megabyte with other characters than
            ASCII are not UTF-8.
        header: Whether the first line of delimited text names the columns, or a function that says
            so for its fields between tabs in lower case. Columns without names are `0`, `1`, ...,
            and their fields end at tabs.
        fields: The number of fields of a line without a header; by default that of the first line.
        quoting: `csv` if a `"` at the start of a field encloses it, `none` if it is a letter. By
            default it encloses fields if columns have names.

    Raises:
        DataError: For an empty or unreadable file, and for two columns of one name.
        UserError: For a missing file, an unknown encoding, or Excel without its extra.
    """
    name, suffix = str(path), suffix_of(path)[1:]
    head = _read_head(name)
    formats = [name for name, suffixes in FORMATS.items() if suffix in suffixes]
    formats += [name for magic, name in _MAGIC.items() if head.startswith(magic)]
    with explain_file(name, suffix):
        if not formats or formats[0] == "delimited":
            if callable(header):
                content = head.decode(find_encoding(head, encoding, guess=False), "replace")
                first = next(filter(str.strip, re.split("[\r\n]+", content)), "")
                header = header({name.strip(' "') for name in first.casefold().split("\t")})
            encoding = find_encoding(head, encoding, guess=header)
            return _read_delimited(name, head, separator, encoding, header, fields, quoting)
        if formats[0] == "json":
            return _read_json(name, find_encoding(head, encoding))
        return (
            _read_excel(name)
            if formats[0] == "excel"
            else _read_arrow(name, head, formats[0] == "parquet")
        )


def read_lines(path: str, encoding: str | None = None) -> Table:
    """Read a text file as a table of the column `text`, with a row for each line."""
    encoding = find_encoding(_read_head(path), encoding, guess=False)
    with explain_file(path):
        table = _collect(path, _split(path, encoding, "\n"), ["text"], "\n", encoding)
    return replace(table, has_names=False, separator=None)


def _read_head(path: str) -> bytes:
    """Return the first bytes of a file."""
    if not os.path.exists(path):
        raise UserError(
            f"{path} does not exist: give a table such as texts.csv, or a folder with train.tsv"
        )
    with explain_file(path), open_unpacked(path) as stream:
        head = stream.read(SAMPLE_BYTES)
    if not head.strip():
        raise file_error(path, Reason.EMPTY_FILE, "found no row")
    return head


def _name_columns(
    path: str, names: Iterable[object], columns: Iterable[Sequence[Any]]
) -> dict[str, Sequence[Any]]:
    """Return columns by name; those without a name have their number."""
    texts = [
        str(name) if str(name).strip() else f"column_{place}" for place, name in enumerate(names, 1)
    ]
    repeated = next((name for name, times in Counter(texts).items() if times > 1), None)
    if repeated is not None:
        raise file_error(
            path, Reason.MISSING_COLUMN, f"two columns are named {repeated!r:.80}: rename one"
        )
    return dict(zip(texts, columns, strict=True))


# ---- delimited text ----


def _read_delimited(
    path: str,
    head: bytes,
    separator: str | None,
    encoding: str,
    header: bool,
    fields: int | None,
    quoting: str | None,
) -> Table:
    if quoting not in (None, "csv", "none"):
        raise UserError(f"unknown quoting {quoting!r:.80}: give csv or none")
    separator = {"\\t": "\t", "tab": "\t"}.get(str(separator), separator) if header else "\t"
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise UserError(
            f"the separator must be one character: found {separator!r:.80}; give , ; | or tab"
        )
    csv.field_size_limit(_LONGEST_CELL)
    if separator is None:
        lines = head.decode(encoding, "replace").split("\n")[
            : -1 if len(head) >= SAMPLE_BYTES else None
        ]
        separator = _find_separator(lines[:1000], "\t" if ".tsv" in path else "")
    if header if quoting is None else quoting == "csv":
        rows = _split_quoted(path, encoding, separator)
    else:
        rows = _split(path, encoding, separator, skips_blank=header)
    place, first, fault = next(rows, (1, [""], None))
    if header and fault is not None:
        raise row_error(BadRow(path, place, fault, excerpt_of(first[0])))
    size = len(first) if fault is None else first[0].count(separator) + 1
    names = first if header else list(map(str, range(fields or size)))
    table = _collect(
        path, rows if header else chain([(place, first, fault)], rows), names, separator, encoding
    )
    return replace(table, has_names=header)


def _find_separator(lines: Sequence[str], preferred: str) -> str:
    """Return the separator that cuts most lines into as many fields as the first, if these are several."""
    best, most = preferred or ",", 0.0
    for separator in preferred + _SEPARATORS:
        rows = list(
            filter(
                None,
                csv.reader((line.replace("\r", "") + "\n" for line in lines), delimiter=separator),
            )
        )
        if rows and len(rows[0]) > 1:
            agree = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
            best, most = (separator, agree) if agree > most else (best, most)
    return best


def _collect(
    path: str, rows: Iterable[_Fields], names: Sequence[str], separator: str, encoding: str
) -> Table:
    """Make a table of rows; reject those with a fault, or without a field for each name."""
    size, places, cells, rejected = len(names), list[int](), list[str | None](), dict[int, BadRow]()
    for place, fields, fault in rows:
        if fault is None and len(fields) == size:
            cells += fields
        else:
            line = separator.join(fields)
            if fault is None:
                detail = (
                    f"found {len(fields)} of {size}"
                    + ", and a lone CR, which ends no line" * ("\r" in line)
                )
                reason = Reason.TOO_FEW_FIELDS if len(fields) < size else Reason.TOO_MANY_FIELDS
                fault = Fault(reason, detail if line else "the line is empty")
            rejected[len(places)] = BadRow(path, place, fault, excerpt_of(line))
            cells += [None] * size
        places.append(place)
    columns = _name_columns(path, names, (cells[start::size] for start in range(size)))
    return Table(path, columns, places, rejected, "line", separator=separator, encoding=encoding)


def _split(
    path: str, encoding: str, separator: str, skips_blank: bool = False
) -> Iterator[_Fields]:
    """Yield lines as they are: each ends at LF or CRLF, a field at the separator."""
    with open_text(path, encoding) as stream:
        for place, line in enumerate(stream, 1):
            line = line.removesuffix("\n").removesuffix("\r")
            if not line.isascii() and (fault := find_byte_fault(line, encoding)):
                yield place, [line], fault
            elif line or not skips_blank:
                yield place, line.split(separator), None


def _split_quoted(path: str, encoding: str, separator: str) -> Iterator[_Fields]:
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

    with open_text(path, encoding) as stream:
        reader = csv.reader(hide_cr(stream), delimiter=separator, strict=True)
        while True:
            place, fault = reader.line_num + 1, None
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                detail = f"{reason_of(error).partition(' - ')[0]} in line {reader.line_num}"
                fields, fault = [""], Fault(Reason.MISPLACED_QUOTE, detail)
                # nobody can say where this row ends
                if reader.line_num > place or "end of data" in detail:
                    raise row_error(BadRow(path, place, fault, "")) from None
            if last_odd >= place and fault is None:
                fields = [cell.replace(_LONE_CR, "\r") for cell in fields]
                fault = find_byte_fault(separator.join(fields), encoding)
            if fields:
                yield place, [separator.join(fields)] if fault else fields, fault


# ---- JSON, Parquet, Arrow, Excel ----


def _read_json(path: str, encoding: str) -> Table:
    """Read JSON lines, or one list of records."""
    records, places, rejected = list[dict[str, Any]](), list[int](), dict[int, BadRow]()
    with open_text(path, encoding) as stream:
        is_list = next(filter(str.strip, stream), "").lstrip().startswith("[")
    unit = "row" if is_list else "line"
    with open_text(path, encoding) as stream:
        for place, line in (
            enumerate(map(json.dumps, json.load(stream))) if is_list else enumerate(stream, 1)
        ):
            line = line.rstrip("\r\n")
            if not line.strip():
                continue
            fault = None if line.isascii() else find_byte_fault(line, encoding)
            try:
                record = json.loads(line)
                if "\\ud" in line.lower():  # half of a surrogate pair, escaped
                    json.dumps(record, ensure_ascii=False).encode()
                detail = "" if isinstance(record, dict) else f"found {type(record).__name__}"
            except (ValueError, RecursionError) as error:
                detail = reason_of(error)
            if fault or detail:
                fault = fault or Fault(Reason.NOT_JSON, detail)
                rejected[len(places)] = BadRow(path, place, fault, excerpt_of(line), unit)
            places.append(place)
            records.append({} if fault else record)
    return Table(path, gather(records), places, rejected, unit, encoding=encoding)


def gather(records: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    """Return the columns of records: the values of each name, None for a missing one."""
    names = dict.fromkeys(chain.from_iterable(records))
    return {name: [record.get(name) for record in records] for name in names}


def look_up(record: Mapping[str, Any], name: str) -> Any:
    """Return a value of a record; dots lead into nested ones."""
    if name in record or "." not in name:
        return record.get(name)
    root, _, rest = name.partition(".")
    return look_up(record[root], rest) if isinstance(record.get(root), dict) else None


def _read_arrow(path: str, head: bytes, is_parquet: bool) -> Table:
    """Read a file of Parquet or Arrow, mapped into memory if it is not packed."""
    source = pa.memory_map(path)
    if source.read(6) != head[:6]:
        with open_unpacked(path) as stream:
            source = pa.BufferReader(stream.read())
    source.seek(0)
    if is_parquet:
        import pyarrow.parquet as pq  # not at the top: it imports file systems of clouds

        return Table.from_arrow(path, pq.ParquetFile(source).read())
    open_file = pa.ipc.open_file if head.startswith(b"ARROW1") else pa.ipc.open_stream
    return Table.from_arrow(path, open_file(source).read_all())


def _read_excel(path: str) -> Table:
    """Read the first sheet of a workbook; a formula that no program has computed is its text.

    The libraries that write such files, pandas among them, have a text such as `=1+1` as a formula
    with the value 0.
    """
    try:
        import pandas as pd
        import python_calamine  # noqa: F401 - the engine of pandas
    except ImportError:
        raise UserError(
            f"{path} needs python-calamine: {install_hint('excel')}, or save it as CSV"
        ) from None
    with open_unpacked(path) as stream:
        content = io.BytesIO(stream.read())
    sheet = pd.read_excel(
        content, header=None, dtype=object, na_filter=False, engine="calamine"
    ).values.tolist()
    if not sheet:
        raise file_error(path, Reason.EMPTY_FILE, "its first sheet has no header")
    book = zipfile.ZipFile(content) if zipfile.is_zipfile(content) else None
    if (
        book
        and "xl/workbook.xml" in book.namelist()
        and b'fullCalcOnLoad="1"' in book.read("xl/workbook.xml")
    ):
        for letters, row, formula in _FORMULA.findall(book.read("xl/worksheets/sheet1.xml")):
            column = reduce(lambda number, letter: 26 * number + letter - 64, letters, 0)  # A is 65
            sheet[int(row) - 1][column - 1] = f"={unescape(formula.decode())}"
    names, *rows = sheet
    places = [place for place, row in enumerate(rows, 2) if row.count("") < len(row)]
    columns = [[sheet[place - 1][column] for place in places] for column in range(len(names))]
    cells = [[None if cell == "" else cell for cell in column] for column in columns]
    return Table(path, _name_columns(path, names, cells), places)


# ---- cells ----


def find_column(
    columns: Iterable[str], name: str | int | None, guesses: Iterable[str], path: str, flag: str
) -> str:
    """Return the name of a column of a table: that of a name or number, or the first of `guesses`, in any case.

    A dot in a name leads into nested records. Raises a [`DataError`] that lists the columns and
    names the `flag`.
    """
    columns, guesses = list(columns), list(guesses)
    if isinstance(name, int):
        name = columns[name] if 0 <= name < len(columns) else str(name)
    if name is not None:
        chosen = name if name in columns or name.partition(".")[0] in columns else None
    else:
        folded = {column.strip().casefold(): column for column in reversed(columns)}
        chosen = next(
            filter(None, (folded.get(guess.strip().casefold()) for guess in guesses)), None
        )
    if chosen is None:
        message = f"no column {name or next(iter(guesses), flag)!r:.80}: found {listed(columns)}"
        raise file_error(path, Reason.MISSING_COLUMN, f"{message}; name one of them with --{flag}")
    return chosen


def write_value(value: object) -> str | None:
    """Return a value as a string, None for NaN and infinity; 1.0 is 1."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = int(value) if value.is_integer() else value
    if value is None or isinstance(value, str):
        return value
    return (
        json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, list | dict)
        else str(value)
    )


def read_column(
    path: str | Path, column: str | None = None, *, encoding: str | None = None
) -> Iterator[str | BadRow]:
    """Yield the texts of a table's column, or the lines of another file, in their order. A missing text is "".

    Without a `column`, or if the table lacks it, the column is found by a usual name, such as
    `text`.
    """
    if not is_table(path):
        encoding = find_encoding(_read_head(str(path)), encoding, guess=False)
        with explain_file(path):
            for place, (line,), fault in _split(str(path), encoding, "\n"):
                yield BadRow(str(path), place, fault, excerpt_of(line)) if fault else line
        return
    table = read_table(path, encoding=encoding)
    is_there = column is not None and (column in table.columns or "." in column)
    name = find_column(
        table.columns, column if is_there else None, USUAL_NAMES["text"], str(path), "text_column"
    )
    texts, bad = table.texts(name)
    yield from (bad.get(number, text) for number, text in enumerate(texts)) if bad else texts
