"""Files of rows: in any format each row comes once, with place and cells, or as a rejected row.

Files are read in pieces, which a `RowStore` collects, so a table can be larger than the memory.
Delimited text is read by Python's `csv` in strict mode, which knows the line of each row and
reports a misplaced quote; `pyarrow.csv` and pandas know neither, and end a row at a lone CR. JSON
is read by `json`, as `pyarrow.json` makes times of texts and stops at the first bad line. Parquet
and Arrow are read by pyarrow, Excel by pandas.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from ..utils.errors import SettingError, UserError, install_hint, reason_of
from .charset import excerpt_of, find_byte_fault, find_encoding
from .errors import BadRow, Fault, Reason, explain_file, file_error, row_error
from .lines import FORMATS, SAMPLE_BYTES, make_bar, open_text, open_unpacked, suffix_of
from .table import PIECE_ROWS, RowStore, Table, gather, name_columns, to_array

_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"PK\x03\x04": "excel", b"{": "json"}
_SEPARATORS = ",;\t|"
_LONGEST_CELL = 1 << 28  # bounds the memory that an unclosed quote takes
_BLOCK_CHARACTERS = 1 << 20  # the length of lines that are read at a time
_CR = re.compile(r"\r(?!\n|\Z)")  # one that ends no line
_LONE_CR = "\udc0d"  # in its place; decoding never makes it
_PLACE = "\0place"  # a column for the place of each row while a file is read
_DECODER = json.JSONDecoder()
_ANSWER = re.compile(r'\{"(answer|undo)": "(\w+)"')  # see desk/answers.py
_KEY = re.compile(r'"\s*:')
_EXCEL_SEPARATOR = re.compile("sep=(.)")  # Excel's first line for itself


@dataclass(frozen=True)
class Layout:
    r"""How delimited text is cut into rows and fields.

    Attributes:
        separator: A character; `\t` and `tab` are a tab. None finds comma, semicolon, tab or bar:
            the one that cuts most lines into as many fields as the header.
        header: Whether the first line names the columns, or a function that says so for its fields
            between tabs. Columns without names are `0`, `1`, ..., and their fields end at tabs.
        fields: The number of fields of a line without a header; None is that of the first line.
        quoting: `csv` if a `"` at the start of a field encloses it, `none` if it is a letter. None
            encloses fields if columns have names.
    """

    separator: str | None = None
    header: bool | Callable[[set[str]], bool] = True
    fields: int | None = None
    quoting: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.quoting not in (None, "csv", "none"):
            raise SettingError(f"unknown quoting {self.quoting!r:.80}: give csv or none")
        if self.separator in ("\\t", "tab"):
            object.__setattr__(self, "separator", "\t")
        if self.separator is not None and (len(self.separator) != 1 or self.separator in '"\r\n'):
            found = f"found {self.separator!r:.80}; give , ; | or tab"
            raise SettingError(f"the separator must be one character: {found}")

    @property
    def has_quotes(self) -> bool:
        """Whether a `"` encloses a field."""
        return bool(self.header) if self.quoting is None else self.quoting == "csv"


def read_table(path: str | Path, *, encoding: str | None = None, **layout: Any) -> Table:
    """Read a table; its suffix, or if that is unknown its first bytes, are those of a format.

    Args:
        path: A file: `.csv .tsv .jsonl .json .parquet .arrow .feather .xlsx`, then possibly `.gz
            .bz2 .zst`.
        encoding: The encoding of a text file, as Python names it; see
            [`~hf_rnn.data.charset.find_encoding`].
        layout: The fields of [`Layout`], for delimited text.

    Raises:
        DataError: For an empty or unreadable file, and for two columns of one name.
        UserError: For a missing file, an unknown encoding, or Excel without its extra.
    """
    name = str(path)
    head = _read_head(name)
    format_ = _find_format(name, head)
    cut = Layout(**layout)
    with explain_file(name, suffix_of(path)[1:]):
        if format_ == "excel":
            return _read_excel(name)
        if format_ == "parquet":
            return _read_parquet(name)
        if format_ == "arrow":
            return _read_arrow(name, head)
        if format_ == "json":
            return _read_json(name, find_encoding(name, head, encoding))
        if callable(cut.header):
            cut = replace(cut, header=cut.header(_first_fields(name, head, encoding)))
        encoding = find_encoding(name, head, encoding, guess=bool(cut.header))
        lines = head.decode(encoding, "replace").split("\n")
        if len(head) >= SAMPLE_BYTES and len(lines) > 1:
            del lines[-1]  # it is cut off
        return _read_delimited(name, lines[:1000], encoding, cut)


def read_lines(path: str, encoding: str | None = None) -> Table:
    """Read a text file as a table of the column `text`, with a row for each line."""
    encoding = find_encoding(path, _read_head(path), encoding, guess=False)
    with explain_file(path), open_text(path, encoding) as stream:
        table = _collect(path, _split(stream, "\n"), ["text"], "\n", encoding)
    return replace(table, has_names=False, separator=None)


def _read_head(path: str) -> bytes:
    """Return the first bytes of a file."""
    if not os.path.exists(path):
        advice = "give a table such as texts.csv, or a folder with train.tsv"
        raise UserError(f"{path} does not exist: {advice}")
    with explain_file(path), open_unpacked(path) as stream:
        head = stream.read(SAMPLE_BYTES)
    if not head.strip():
        raise file_error(path, Reason.EMPTY_FILE, "found no row")
    return head


def _find_format(path: str, head: bytes) -> str:
    """Return a key of `FORMATS` by the suffix of a file, or else by its first bytes."""
    suffix = suffix_of(path)[1:]
    for name, suffixes in FORMATS.items():
        if suffix in suffixes:
            return name
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    return "delimited"


def _first_fields(path: str, head: bytes, encoding: str | None) -> set[str]:
    """Return the fields between tabs of the first line that is not blank, in lower case."""
    text = head.decode(find_encoding(path, head, encoding, guess=False), "replace")
    first = re.search(r".*\S.*", text.replace("\r", "\n"))
    names = first[0] if first else ""
    return {name.strip(' "') for name in names.casefold().split("\t")}


class _Builder:
    """Build a table from pieces of rows; `names` are columns of texts that it has at least."""

    def __init__(self, path: str, unit: str, names: Sequence[str] = ()) -> None:
        self.path = path
        self.unit = unit
        self._empty = pa.schema([*((name, pa.string()) for name in names), (_PLACE, pa.uint32())])
        self._store = RowStore()
        self._rejected: dict[int, BadRow] = {}
        self._rows = 0

    def reject(self, number: int, place: int, fault: Fault, line: str) -> None:
        """Reject a row of the next piece, whose cells are None there."""
        row = BadRow(self.path, place, fault, excerpt_of(line), self.unit)
        self._rejected[self._rows + number] = row

    def add(self, columns: Mapping[str, pa.Array], places: Sequence[int]) -> None:
        """Add a piece."""
        self._store.add(pa.table({**columns, _PLACE: pa.array(places, pa.uint32())}))
        self._rows += len(places)

    def close(self, encoding: str) -> Table:
        """Return the table."""
        rows = self._store.close() or self._empty.empty_table()
        columns = dict(zip(rows.column_names, rows.columns, strict=True))
        places = columns.pop(_PLACE).to_numpy()
        return Table(self.path, columns, places, self._rejected, self.unit, encoding=encoding)


# ---- delimited text ----


@dataclass
class _Piece:
    """Some rows of delimited text.

    Attributes:
        places: The first line of each row.
        rows: The fields of each row.
        fault: Why the last row is rejected.
    """

    places: Sequence[int]
    rows: list[list[str]]
    fault: Fault | None = None


def _read_delimited(path: str, lines: Sequence[str], encoding: str, cut: Layout) -> Table:
    separator = "\t"
    skipped = 0  # lines before the header
    if cut.header:
        declared = _EXCEL_SEPARATOR.fullmatch(lines[0].rstrip("\r"))
        skipped = int(declared is not None)
        separator = cut.separator or (declared[1] if declared else "")
        separator = separator or _find_separator(lines, "\t" if ".tsv" in path else "")
    with open_text(path, encoding) as stream:
        if skipped:
            stream.readline()
        if cut.has_quotes:
            pieces = _split_quoted(path, stream, separator, skipped)
        else:
            pieces = _split(stream, separator, bool(cut.header), skipped)
        first = next(pieces, _Piece([1], [[""]]))  # one row
        if cut.header:
            line = separator.join(first.rows[0]).replace(_LONE_CR, "\r")
            fault = first.fault or find_byte_fault(line, encoding)
            if fault is not None:
                raise row_error(BadRow(path, first.places[0], fault, excerpt_of(line)))
            names = [name.replace(_LONE_CR, "\r") for name in first.rows[0]]
        else:
            size = cut.fields or separator.join(first.rows[0]).count(separator) + 1
            names = list(map(str, range(size)))
            pieces = chain([first], pieces)
        table = _collect(path, pieces, names, separator, encoding)
    return replace(table, has_names=bool(cut.header))


def _find_separator(lines: Sequence[str], preferred: str) -> str:
    """Return the separator that cuts most lines into as many fields, two or more, as the first."""
    lines = [line.replace("\r", "") + "\n" for line in lines]
    best = preferred or ","
    most = 0.0
    for separator in preferred + _SEPARATORS:
        rows = [row for row in csv.reader(lines, delimiter=separator) if row]
        if not rows or len(rows[0]) < 2:
            continue
        agree = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        if agree > most:
            best = separator
            most = agree
    return best


def _collect(
    path: str, pieces: Iterable[_Piece], names: Sequence[str], separator: str, encoding: str
) -> Table:
    """Make a table of pieces; reject rows with a fault, or without a field for each name."""
    names = name_columns(path, names)
    builder = _Builder(path, "line", names)
    for piece in pieces:
        try:
            columns = _take_columns(piece, names)
        except ValueError:  # an odd row, or a surrogate, which Arrow refuses
            _reject_rows(builder, piece, len(names), separator, encoding)
            columns = _take_columns(replace(piece, fault=None), names)
        builder.add(columns, piece.places)
    return replace(builder.close(encoding), separator=separator)


def _take_columns(piece: _Piece, names: Sequence[str]) -> dict[str, pa.Array]:
    """Return the columns of a piece; raise a ValueError if a row has a fault."""
    if piece.fault is not None or set(map(len, piece.rows)) != {len(names)}:
        raise ValueError
    columns = {}
    for column, name in enumerate(names):
        columns[name] = pa.array([row[column] for row in piece.rows], pa.string())
    return columns


def _reject_rows(
    builder: _Builder, piece: _Piece, size: int, separator: str, encoding: str
) -> None:
    """Reject the rows with a fault, whose fields become None, and show lone CR in the others."""
    for number, row in enumerate(piece.rows):
        line = separator.join(row).replace(_LONE_CR, "\r")
        fault = find_byte_fault(line, encoding) or _count_fields(row, size, line)
        if number == len(piece.rows) - 1:
            fault = piece.fault or fault
        if fault is not None:
            builder.reject(number, piece.places[number], fault, line)
            piece.rows[number] = [None] * size  # type: ignore[list-item]
        else:
            piece.rows[number] = [cell.replace(_LONE_CR, "\r") for cell in row]


def _count_fields(row: Sequence[str], size: int, line: str) -> Fault | None:
    """Return the fault of a row with another number of fields."""
    if len(row) == size:
        return None
    reason = Reason.TOO_FEW_FIELDS if len(row) < size else Reason.TOO_MANY_FIELDS
    detail = f"found {len(row)} of {size}"
    if not line:
        detail = "the line is empty"
    elif "\r" in line:
        detail += ", and a lone CR, which ends no line"
    return Fault(reason, detail)


def _split(
    stream: TextIO, separator: str, skips_blank: bool = False, skipped: int = 0
) -> Iterator[_Piece]:
    """Yield lines as they are: each ends at LF or CRLF, a field at the separator."""
    place = skipped + 1
    size = 1  # the first piece may be a header
    while chunk := list(islice(stream, size)):
        lines = [line.removesuffix("\n").removesuffix("\r") for line in chunk]
        places: Sequence[int] = range(place, place + len(lines))
        place += len(lines)
        if skips_blank and "" in lines:
            places = list(compress(places, lines))
            lines = list(filter(None, lines))
        if lines:
            size = PIECE_ROWS
            yield _Piece(places, [line.split(separator) for line in lines])


def _hide_cr(stream: TextIO) -> Iterator[list[str]]:
    """Yield lists of lines for `csv`, which refuses a CR that ends no line, as pandas writes it."""
    while chunk := stream.readlines(_BLOCK_CHARACTERS):
        text = "".join(chunk)
        if text.count("\r") != text.count("\r\n"):
            chunk = [_CR.sub(_LONE_CR, line) for line in chunk]
        yield chunk


def _split_quoted(path: str, stream: TextIO, separator: str, skipped: int) -> Iterator[_Piece]:
    """Yield the rows of text with quoted fields; a blank line is not a row."""
    csv.field_size_limit(_LONGEST_CELL)
    lines = chain.from_iterable(_hide_cr(stream))
    reader = csv.reader(lines, delimiter=separator, strict=True)
    size = 1  # the first piece may be a header
    while chunk := _take_piece(path, reader, size, skipped):
        if [] in chunk.rows:
            chunk.places = list(compress(chunk.places, chunk.rows))
            chunk.rows = list(filter(None, chunk.rows))
        if chunk.rows:
            size = PIECE_ROWS
            yield chunk


def _take_piece(path: str, reader: Any, size: int, skipped: int) -> _Piece | None:
    """Return up to `size` further rows of a reader; a fault ends them."""
    start = reader.line_num
    rows: list[list[str]] = []
    detail = ""
    try:
        rows.extend(islice(reader, size))
    except csv.Error as error:  # the rows before it are there
        detail = reason_of(error).partition(" - ")[0]
        rows.append([""])
    if not rows:
        return None
    piece = _Piece(_number_rows(rows, start + skipped, reader.line_num + skipped), rows)
    if detail:
        last = reader.line_num + skipped
        piece.fault = Fault(Reason.MISPLACED_QUOTE, f"{detail} in line {last}")
        if last > piece.places[-1] or "end of data" in detail:  # where this row ends is unknown
            raise row_error(BadRow(path, piece.places[-1], piece.fault, ""))
    return piece


def _number_rows(rows: Sequence[Sequence[str]], start: int, end: int) -> Sequence[int]:
    """Return the first line of each row, after `start` lines; some rows may have several."""
    if end - start == len(rows):
        return range(start + 1, end + 1)
    places = [start + 1]
    for row in rows:
        places.append(places[-1] + 1 + sum(cell.count("\n") for cell in row))
    return places[:-1]


# ---- JSON ----


def _read_json(path: str, encoding: str) -> Table:
    """Read JSON lines, or one list of records."""
    is_list = _is_list(path, encoding)
    builder = _Builder(path, "row" if is_list else "line")
    lines = _settle(_number_lines(path, encoding, is_list))
    while chunk := list(islice(lines, PIECE_ROWS)):
        records = []
        for number, (place, line) in enumerate(chunk):
            record = _parse_record(line, encoding)
            if isinstance(record, Fault):
                builder.reject(number, place, record, line)
                record = {}
            records.append(record)
        columns = {name: to_array(column) for name, column in gather(records).items()}
        builder.add(columns, [place for place, _ in chunk])
    return builder.close(encoding)


def _number_lines(path: str, encoding: str, is_list: bool) -> Iterator[tuple[int, str]]:
    """Yield place and text of each record."""
    with open_text(path, encoding) as stream:
        lines = enumerate(stream, 1)
        if is_list:
            records = json.load(stream, object_pairs_hook=_refuse_repeats)
            lines = enumerate(map(json.dumps, records))
        for place, line in lines:
            if not line.isspace():
                yield place, line.rstrip("\r\n")


def _settle(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield lines; of answers of `hf-rnn label` those that are not taken back, nor skipped."""
    standing: dict[str | int, tuple[int, str]] = {}
    for place, line in lines:
        match = _ANSWER.match(line)
        if not match and not standing:
            yield place, line
            continue
        key = match[2] if match else place
        standing.pop(key, None)
        if not match or match[1] == "answer":
            standing[key] = (place, line)
    yield from (answer for answer in standing.values() if '"label": null' not in answer[1])


def _is_list(path: str, encoding: str) -> bool:
    """Return whether a file is one list, and not lines of JSON that start with a list."""
    with open_text(path, encoding, show=False) as stream:
        lines = filter(str.strip, stream)
        first = next(lines, "")
        if not first.lstrip().startswith("["):
            return False
        try:
            json.loads(first)
        except (ValueError, RecursionError):
            return True
        return next(lines, None) is None


def _parse_record(line: str, encoding: str) -> dict[str, Any] | Fault:
    """Return the record of a line of JSON, or what is wrong with it."""
    fault = None if line.isascii() else find_byte_fault(line, encoding)
    if fault is not None:
        return fault
    try:
        record = _parse_json(line)
        if not isinstance(record, dict):
            return Fault(Reason.NOT_JSON, f"found {type(record).__name__}")
        if line.count(":") > len(record) < len(_KEY.findall(line)):
            json.loads(line, object_pairs_hook=_refuse_repeats)
        if "\\ud" in line or "\\uD" in line:  # half of a surrogate pair, escaped
            json.dumps(record, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return Fault(Reason.NOT_JSON, reason_of(error))
    return record


def _parse_json(line: str) -> Any:
    """Return the value of a line, twice as fast as `json.loads` if white space is only inside."""
    try:
        value, end = _DECODER.scan_once(line, 0)  # type: ignore[attr-defined]
    except StopIteration:
        end = -1
    return value if end == len(line) else _DECODER.decode(line)


def _refuse_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a record; raise a ValueError for a key that it has twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r:.80} is there twice")
    return record


# ---- Parquet, Arrow, Excel ----


def _map_file(path: str) -> pa.NativeFile:
    """Open a file: mapped into memory, or unpacked there."""
    source = pa.memory_map(path)
    with open_unpacked(path) as stream:
        head = stream.read(6)
        if source.read(6) != head:
            source = pa.BufferReader(head + stream.read())
    source.seek(0)
    return source


def _read_parquet(path: str) -> Table:
    import pyarrow.parquet as pq  # not at the top: it imports file systems of clouds

    file = pq.ParquetFile(_map_file(path))
    store = RowStore(file.schema_arrow)
    with make_bar(path, file.metadata.num_rows, " rows") as bar:
        for batch in file.iter_batches(PIECE_ROWS):
            store.add(pa.Table.from_batches([batch]))
            bar.update(len(batch))
    return Table.from_arrow(path, store.close())


def _read_arrow(path: str, head: bytes) -> Table:
    """Read a file of Arrow, also a compressed one, which is larger in memory."""
    if head.startswith(b"ARROW1"):
        file = pa.ipc.open_file(_map_file(path))
        batches = map(file.get_batch, range(file.num_record_batches))
    else:
        file = pa.ipc.open_stream(_map_file(path))
        batches = iter(file)
    store = RowStore(file.schema)
    for batch in batches:
        store.add(pa.Table.from_batches([batch]))
    return Table.from_arrow(path, store.close())


def _read_excel(path: str) -> Table:
    """Read the first sheet of a workbook."""
    try:
        import pandas as pd
        import python_calamine  # noqa: F401 - the engine of pandas
    except ImportError:
        advice = f"{install_hint('excel')}, or save it as CSV"
        raise UserError(f"{path} needs python-calamine: {advice}") from None
    with open_unpacked(path) as stream:
        content = io.BytesIO(stream.read())
    sheet = pd.read_excel(content, header=None, dtype=object, na_filter=False, engine="calamine")
    names, *rows = sheet.values.tolist() or [None]
    if names is None:
        raise file_error(path, Reason.EMPTY_FILE, "its first sheet has no header")
    places = [place for place, row in enumerate(rows, 2) if row.count("") < len(row)]
    columns = []
    for column in range(len(names)):
        cells = (rows[place - 2][column] for place in places)
        columns.append([None if cell == "" else cell for cell in cells])
    return Table(path, dict(zip(name_columns(path, names), columns, strict=True)), places)
