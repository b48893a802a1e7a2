r"""One reader of tables: CSV and TSV with a header, JSON lines, Parquet, Arrow, Excel, each also as `.gz` or `.zst`.

Separator and encoding are found in the first megabyte. Memory is independent of the size of the file, except for
Excel, for JSON that is one list, and for compressed Parquet or Arrow files.

No row is lost: a row is delivered, or it is a [`BadRow`] with its line and reason. The csv readers of pyarrow, polars,
pandas and Python merge rows at a quote that is never closed, so delimited text is cut here, by the rules of RFC 4180
with these additions:

- A `"` inside an unquoted field is a character: `0,a 5" pipe is 3 inch`.
- A quoted field may hold line feeds, unless one of its lines reads as a row of its own. Then only the first line is
  refused, and the next ones are rows.
- With tabs a `"` is a character, except in fields that had to be quoted: those with `""`, a tab or a line feed.
- A blank line is not a row, except in a table of one column.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..utils.errors import UserError, install_hint, reason_of
from .labels import listed
from .row_errors import EXCERPT_CHARACTERS, BadRow, DataError, Fault, Reason
from .tsv_reader import MAX_LINE_BYTES, blocks_of_lines, excerpt_of, line_too_long

BATCH_ROWS = 10_000
_BATCH_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 20
_SEPARATORS = ",;\t|"
_ONE_COLUMN = "\0"  # separates nothing: a line with NUL is refused

_KINDS = {
    "delimited": ("csv", "tsv", "tab", "psv"),
    "json": ("jsonl", "ndjson", "json"),
    "parquet": ("parquet", "pq"),
    "arrow": ("arrow", "feather", "ipc"),
    "excel": ("xlsx", "xlsm"),
}
TABLE_SUFFIXES = tuple(f".{suffix}" for suffixes in _KINDS.values() for suffix in suffixes)

_LIBRARY_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException, KeyError, ValueError)


@dataclass(frozen=True)
class Batch:
    """Rows of a table in their order.

    Attributes:
        places: The place of each good row, ascending: its first line from 1 in text files, its row from 0 in others.
        rows: The good rows. Cells of delimited text are strings, others have the types of the file.
        bad: The refused rows; their `line` fits between `places`.
    """

    places: np.ndarray
    rows: pa.RecordBatch
    bad: list[BadRow]

    @property
    def size(self) -> int:
        """The number of rows that were read."""
        return len(self.places) + len(self.bad)


@dataclass(frozen=True)
class Table:
    """A table in a file, which is read again for each iteration.

    Attributes:
        path: The file.
        kind: `delimited`, `json`, `parquet`, `arrow` or `excel`.
        columns: The names of the columns, in order. Later JSON lines may have further ones.
        separator: The separator of delimited text, None for other files.
        encoding: The encoding of a text file, None for others.
    """

    path: str
    kind: str
    columns: list[str]
    separator: str | None = None
    encoding: str | None = None
    _read: Callable[[], Iterator[Batch]] = field(default=lambda: iter(()), repr=False, compare=False)

    def __iter__(self) -> Iterator[Batch]:
        """Read the table once; raise [`DataError`] for a file that is damaged as a whole."""
        try:
            yield from self._read()
        except UserError:
            raise
        except _LIBRARY_ERRORS as error:
            raise DataError.for_file(self.path, Reason.UNREADABLE, f"it is damaged: {reason_of(error):.300}") from None


def is_table(path: str | Path) -> bool:
    """Return whether the name of a file is that of a table, such as `texts.csv` or `texts.jsonl.gz`."""
    return _kind_of_name(str(path)) is not None


def _kind_of_name(path: str) -> str | None:
    name = path.lower()
    for packed in (".gz", ".zst", ".zstd"):
        name = name.removesuffix(packed)
    suffix = name.rpartition(".")[2] if "." in name else ""
    return next((kind for kind, suffixes in _KINDS.items() if suffix in suffixes), None)


def read_table(
    path: str | Path, *, separator: str | None = None, encoding: str | None = None, header: bool = True
) -> Table:
    r"""Open a table, and find its kind, columns, separator and encoding.

    The kind follows from the name (`.csv .tsv .jsonl .json .parquet .arrow .feather .xlsx`, then `.gz` or `.zst`), of
    other names from the first bytes; files that are compressed are known by these, too.

    Args:
        path: A file.
        separator: The separator of delimited text, a character; `\t` and `tab` are a tab. By default comma, semicolon, tab or bar,
            whichever cuts most lines into as many fields as the header.
        encoding: The encoding of a text file, as Python names it. By default UTF-8, with or without a mark, UTF-16, or cp1252 if
            lines of the first megabyte are not UTF-8, and more of them than lines that need it.
        header: Whether the first line of delimited text names the columns; otherwise they are `0`, `1`, ...

    Returns:
        A [`Table`]. Iterate over it for its batches, as often as needed:

            for batch in read_table("tweets.csv"):
                texts = batch.rows["text"].to_pylist()

    Raises:
        DataError: For an empty or unreadable file.
        UserError: For a missing file, an unknown encoding, or Excel without its extra.
    """
    name = str(path)
    try:
        with open_unpacked(name) as stream:
            head = stream.read(_SAMPLE_BYTES)
    except FileNotFoundError:
        raise UserError(f"there is no file {name}: give a table such as texts.csv") from None
    except _LIBRARY_ERRORS as error:
        raise DataError.for_file(name, Reason.UNREADABLE, reason_of(error)) from None
    if not head.strip():
        raise DataError.for_file(name, Reason.EMPTY_FILE, "found no row")
    kind = _kind_of_name(name) or _kind_of_bytes(head)
    try:
        if kind in ("parquet", "arrow", "excel"):
            return {"parquet": _open_parquet, "arrow": _open_arrow, "excel": _open_excel}[kind](name)
        text = _TextFile.open(name, head, encoding)
        return _open_json(text) if kind == "json" else _open_delimited(text, separator, header)
    except UserError:
        raise
    except _LIBRARY_ERRORS as error:
        raise DataError.for_file(name, Reason.UNREADABLE, f"it is not {kind}: {reason_of(error):.300}") from None


def _kind_of_bytes(head: bytes) -> str:
    for start, kind in ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"PK\x03\x04", "excel"), (b"{", "json")):
        if head.startswith(start):
            return kind
    return "delimited"


def open_unpacked(path: str) -> BinaryIO:
    """Open a file for reading, and unpack gzip and zstd, known by their first bytes."""
    with open(path, "rb") as stream:
        magic = stream.read(4)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(path))
    if magic == b"\x28\xb5\x2f\xfd":
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(path), "zstd"))
    return open(path, "rb")


def find_column(columns: Sequence[str], wanted: str | None, guesses: Iterable[str], path: str, flag: str) -> str:
    """Return the name of a column of a table: `wanted`, or the first of `guesses` that is there, in any case.

    A dot in `wanted` leads into nested records. Raises a [`DataError`] that lists the columns and names the `flag`.
    """
    if wanted is not None and (wanted in columns or wanted.partition(".")[0] in columns):
        if columns.count(wanted) > 1:
            raise DataError.for_file(path, Reason.MISSING_COLUMN, f"two columns are named {wanted!r:.80}; rename one")
        return wanted
    folded = {name.strip().casefold(): name for name in reversed(columns)}
    found = next((folded[guess] for guess in guesses if guess in folded), None) if wanted is None else None
    if found is not None and columns.count(found) == 1:
        return found
    missing = f"no column {wanted!r:.80}" if wanted is not None else f"no column {next(iter(guesses), flag)!r}"
    raise DataError.for_file(
        path, Reason.MISSING_COLUMN, f"{missing}: found {listed(columns)}; name one of them with --{flag}"
    )


def take_column(rows: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column of a batch; dots lead into nested records, and a column that the batch lacks is null."""
    names = rows.schema.names
    if name in names:
        return rows.column(names.index(name))
    root, _, rest = name.partition(".")
    if not rest or root not in names or not pa.types.is_struct(rows.schema.field(root).type):
        return pa.nulls(len(rows))
    fields = rows.column(names.index(root)).flatten()
    inner = pa.RecordBatch.from_arrays(fields, [part.name for part in rows.schema.field(root).type])
    return take_column(inner, rest)


# --- text files -----------------------------------------------------------------------------------------------------


class _Recoded(RawIOBase):
    """A stream of UTF-8 out of one in UTF-16, whose line feeds are not single bytes."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)()

    def read(self, size: int = -1) -> bytes:
        """Return about `size` bytes; empty only at the end."""
        while data := self._stream.read(size):
            if text := self._decoder.decode(data):
                return text.encode()
        return self._decoder.decode(b"", final=True).encode()


@dataclass(frozen=True)
class _TextFile:
    """A text file, cut into lines at LF; `sample` are its first whole lines."""

    path: str
    encoding: str
    sample: tuple[str, ...]

    @classmethod
    def open(cls, path: str, head: bytes, encoding: str | None) -> _TextFile:
        try:
            encoding = codecs.lookup(encoding).name if encoding else _find_encoding(head)
        except LookupError:
            raise UserError(f"unknown encoding {encoding!r}: give one such as utf-8, cp1252 or utf-16") from None
        text = codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix("\ufeff")
        lines = text.split("\n")
        lines = lines[:-1] if len(head) >= _SAMPLE_BYTES or not lines[-1] else lines
        return cls(path, encoding, tuple(line.removesuffix("\r") for line in lines))

    def lines(self) -> Iterator[tuple[int, int, str | BadRow]]:
        """Yield number, byte offset and characters of each line, with a CR at its end, or why it is refused."""
        number, encoding = 1, self.encoding
        with open_unpacked(self.path) as stream:
            source: Any = stream
            if encoding.startswith(("utf-16", "utf-32")):
                source, encoding = _Recoded(stream, encoding), "utf-8"
            head = source.read(3).removeprefix(codecs.BOM_UTF8)
            offset = 0
            source = _Joined(head, source)
            for block, length, size in blocks_of_lines(source, MAX_LINE_BYTES):
                if length:
                    fault = line_too_long(length, MAX_LINE_BYTES)
                    yield number, offset, BadRow(self.path, number, offset, fault, excerpt_of(block))
                    number, offset = number + 1, offset + size
                    continue
                for raw in block.split(b"\n")[:-1]:
                    yield number, offset, self._decode(raw, number, offset, encoding)
                    number, offset = number + 1, offset + len(raw) + 1

    def _decode(self, raw: bytes, number: int, offset: int, encoding: str) -> str | BadRow:
        try:
            text = raw.decode(encoding)
            if len(raw) > MAX_LINE_BYTES + raw.endswith(b"\r"):
                return BadRow(
                    self.path, number, offset, line_too_long(len(raw), MAX_LINE_BYTES), text[:EXCERPT_CHARACTERS]
                )
        except UnicodeDecodeError as error:
            detail = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line is not {encoding}"
            fault = Fault(Reason.NOT_UTF8, detail, "Save the file as UTF-8, or name its encoding with --encoding")
        else:
            if "\0" not in text:
                return text
            fault = Fault(Reason.NUL, f"NUL is character {text.index(chr(0)) + 1} of the line")
        return BadRow(self.path, number, offset, fault, excerpt_of(raw).removesuffix("\r"))

    def refuse(self, number: int, offset: int, fault: Fault, text: str) -> BadRow:
        """Make the record of a refused row."""
        return BadRow(self.path, number, offset, fault, text.removesuffix("\r")[:EXCERPT_CHARACTERS])


class _Joined(RawIOBase):
    """A stream behind bytes that were read from it already."""

    def __init__(self, head: bytes, stream: Any) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int = -1) -> bytes:
        """Return some bytes; empty only at the end."""
        head, self._head = self._head, b""
        return head or self._stream.read(size)


def _find_encoding(head: bytes) -> str:
    """Return the encoding of a text by its first bytes."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    odd, even = head[1:4096:2].count(0), head[:4096:2].count(0)
    if max(odd, even) > len(head[:4096]) // 8 and min(odd, even) < max(odd, even) // 8:
        return "utf-16-le" if odd > even else "utf-16-be"
    valid: Counter[bool] = Counter()
    for line in head.split(b"\n")[:-1] if len(head) >= _SAMPLE_BYTES else head.split(b"\n"):
        if not line.isascii():
            valid[_decodes(line, "utf-8")] += 1
    return "cp1252" if valid[False] > valid[True] else "utf-8"


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _deliver(rows: Iterable[tuple[int, int, Any]], build: Callable[[list[Any]], pa.RecordBatch]) -> Iterator[Batch]:
    """Collect rows or refusals with number and offset to batches of bounded size."""
    places: list[int] = []
    good: list[Any] = []
    bad: list[BadRow] = []
    start = 0
    for number, offset, row in rows:
        if len(good) + len(bad) >= BATCH_ROWS or (offset - start > _BATCH_BYTES and (good or bad)):
            yield Batch(np.array(places, dtype=np.int64), build(good), bad)
            places, good, bad, start = [], [], [], offset
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            places.append(number)
            good.append(row)
    if good or bad:
        yield Batch(np.array(places, dtype=np.int64), build(good), bad)


# --- delimited text -------------------------------------------------------------------------------------------------


def _open_delimited(text: _TextFile, separator: str | None, header: bool) -> Table:
    if separator is not None:
        separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
        if len(separator) != 1 or separator in '"\r\n':
            raise UserError(f"the separator must be one character: found {separator!r:.80}; give , ; | or tab")
    found = separator or _find_separator(text.sample, text.path)
    cutter = _Cutter(text, found, header)
    for _, _, row in cutter.rows(with_header=True):
        if isinstance(row, BadRow):
            raise DataError.for_row(row)
        names = row if header else [str(number) for number in range(len(row))]
        break
    else:
        raise DataError.for_file(text.path, Reason.EMPTY_FILE, "found no row")
    cutter.learn(names)

    def build(rows: list[list[str]]) -> pa.RecordBatch:
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        return pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in columns], names)

    shown = "," if found == _ONE_COLUMN else found
    return Table(text.path, "delimited", names, shown, text.encoding, lambda: _deliver(cutter.rows(), build))


def _find_separator(lines: Sequence[str], path: str) -> str:
    """Return the separator that cuts most lines into as many fields as the first, which has more than one."""
    preferred = "\t" if ".tsv" in path.lower() else ""
    best, most = _ONE_COLUMN, 0.0
    filled = [line for line in lines[:1000] if line]
    for separator in preferred + _SEPARATORS:
        cut = [_cut(line, separator) for line in filled]
        if not cut or not isinstance(cut[0], list) or len(cut[0]) < 2:
            continue
        agree = sum(isinstance(row, list) and len(row) == len(cut[0]) for row in cut) / len(cut)
        if agree > most:
            best, most = separator, agree
    return best


def _cut(row: str, separator: str) -> list[str] | bool:
    """Return the fields of a row; True if its last quoted field is still open, False for a misplaced quote."""
    if '"' not in row:
        return row.split(separator)
    fields, at = [], 0
    while True:
        quoted, end = row.startswith('"', at), -1
        if quoted:
            end = row.find('"', at + 1)
            while end >= 0 and row.startswith('"', end + 1):
                end = row.find('"', end + 2)
        after = end + 1
        if end >= 0 and (after == len(row) or row[after] == separator):
            written = row[at + 1 : end]
            needed = separator != "\t" or '""' in written or "\t" in written or "\n" in written
            fields.append(written.replace('""', '"') if needed else row[at:after])
        elif quoted and separator != "\t":
            return end < 0
        else:
            after = row.find(separator, at)
            after = len(row) if after < 0 else after
            if "\n" in row[at:after]:
                return quoted and end < 0
            fields.append(row[at:after])
        if after == len(row):
            return fields
        at = after + 1


class _Cutter:
    """Cuts the lines of a file into rows of a fixed number of fields."""

    def __init__(self, text: _TextFile, separator: str, header: bool) -> None:
        self._text, self._separator, self._header = text, separator, header
        self._fields = 0
        self._frequent: list[set[str]] = []  # values of each column that come again
        self._numeric: list[bool] = []

    def learn(self, names: Sequence[str]) -> None:
        """Note the number of fields, and the values that show where a row begins."""
        self._fields = len(names)
        cut = [_cut(line, self._separator) for line in self._text.sample[self._header :][:10_000]]
        rows = [row for row in cut if isinstance(row, list) and len(row) == len(names)]
        for column in zip(*rows, strict=True) if rows else [()] * len(names):
            values = Counter(column)
            few = 2 * len(values) <= max(len(rows), 4)
            self._frequent.append({value for value in values if few and 0 < len(value) <= 40})
            self._numeric.append(bool(values) and all(map(_is_number, values)))

    def rows(self, with_header: bool = False) -> Iterator[tuple[int, int, list[str] | BadRow]]:
        """Yield line, offset and fields of each row, or why it is refused."""
        source = self._text.lines()
        waiting: deque[tuple[int, int, str | BadRow]] = deque()  # lines that were read ahead
        separator, fields, skip = self._separator, self._fields, self._header and not with_header
        while line := waiting.popleft() if waiting else next(source, None):
            number, offset, text = line
            if isinstance(text, BadRow):
                yield number, offset, text
                continue
            row = text.removesuffix("\r")
            if not row and fields != 1:
                continue
            cut = row.split(separator) if '"' not in row else _cut(row, separator)
            if cut is True or (separator == "\t" and '"' in row and _may_continue(cut, fields)):
                cut = self._join(text, waiting, source) or (cut if isinstance(cut, list) else False)
            if skip:
                skip = False
            elif not isinstance(cut, list):
                detail = "a quoted field does not end before a separator or the end of the line"
                fault = Fault(Reason.MISPLACED_QUOTE, detail, 'Write " as "" in a quoted field')
                yield number, offset, self._text.refuse(number, offset, fault, row)
            elif fields and len(cut) != fields:
                reason = Reason.TOO_FEW_FIELDS if len(cut) < fields else Reason.TOO_MANY_FIELDS
                fault = Fault(reason, f"found {len(cut)} of {fields}", "Quote texts that hold the separator")
                yield number, offset, self._text.refuse(number, offset, fault, row)
            else:
                yield number, offset, cut

    def _join(
        self, first: str, waiting: deque[tuple[int, int, str | BadRow]], source: Iterator[Any]
    ) -> list[str] | bool:
        """Return the fields of a row of several lines and consume these; False without any change if it is not one."""
        ahead, lines, size = list(waiting), [first], len(first)
        while size <= MAX_LINE_BYTES:
            if len(lines) > len(ahead):
                if (line := next(source, None)) is None:
                    break
                ahead.append(line)
                waiting.append(line)
            text = ahead[len(lines) - 1][2]
            if isinstance(text, BadRow):
                break
            lines.append(text)
            size += len(text) + 1
            if '"' not in text:
                continue
            cut = _cut("\n".join(lines).removesuffix("\r"), self._separator)
            if cut is False:
                break
            if isinstance(cut, list):
                if (self._fields and len(cut) != self._fields) or self._hides_rows(cut, lines):
                    break
                for _ in lines[1:]:
                    waiting.popleft()
                return cut
        return False

    def _hides_rows(self, cut: list[str], lines: list[str]) -> bool:
        """Return whether a line of a joined row reads as a row: with all fields, and a value that its column has."""
        first = next((place for place, value in enumerate(cut) if "\n" in value), 0)
        last = max((place for place, value in enumerate(cut) if "\n" in value), default=len(cut))
        for number, line in enumerate(lines):
            fields = line.removesuffix("\r").split(self._separator)
            if len(fields) != len(self._frequent):
                continue
            # the first line has the fields before the text of several lines in any case, the last one those after it
            places = range(first + 1 if number == 0 else 0, last if number == len(lines) - 1 else len(fields))
            for place in places:
                value = fields[place]
                if value in self._frequent[place] or (self._numeric[place] and _is_number(value)):
                    return True
        return False


def _may_continue(cut: list[str] | bool, fields: int) -> bool:
    """Return whether the last field of a line with tabs can be the start of a quoted one of several lines."""
    return (
        isinstance(cut, list)
        and len(cut) <= (fields or len(cut))
        and cut[-1].startswith('"')
        and cut[-1].count('"') % 2 == 1
    )


def _is_number(value: str) -> bool:
    return value.removeprefix("-").replace(".", "", 1).isdecimal()


# --- records --------------------------------------------------------------------------------------------------------


def _open_json(text: _TextFile) -> Table:
    starts = next((line for line in text.sample if line.strip()), "").lstrip()
    read = (lambda: _read_list(text)) if starts.startswith("[") else (lambda: _deliver(_records(text), _as_batch))
    first = next((batch for batch in read() if batch.rows.num_columns), None)
    names = first.rows.schema.names if first is not None else []
    return Table(text.path, "json", names, None, text.encoding, read)


def _records(text: _TextFile) -> Iterator[tuple[int, int, dict[str, Any] | BadRow]]:
    """Yield line, offset and record of each line that is not blank, or why it is refused."""
    for number, offset, line in text.lines():
        if isinstance(line, BadRow):
            yield number, offset, line
        elif line.strip():
            try:
                record = json.loads(line)
                detail = "" if isinstance(record, dict) else f"found {type(record).__name__}"
            except (ValueError, RecursionError) as error:
                detail = reason_of(error)
            if detail:
                fault = Fault(Reason.NOT_JSON, detail, 'Write one record such as {"text": "..."} per line')
                yield number, offset, text.refuse(number, offset, fault, line)
            else:
                yield number, offset, record


def _read_list(text: _TextFile) -> Iterator[Batch]:
    """Read a file that is one JSON list of records."""
    with open_unpacked(text.path) as stream:
        records = json.loads(stream.read().decode(text.encoding).removeprefix("\ufeff"))
    for start in range(0, len(records), BATCH_ROWS):
        rows, places, bad = [], [], []
        for place, record in enumerate(records[start : start + BATCH_ROWS], start):
            if isinstance(record, dict):
                rows.append(record)
                places.append(place)
            else:
                fault = Fault(Reason.NOT_JSON, f"found {type(record).__name__}")
                bad.append(BadRow(text.path, place, None, fault, str(record)[:EXCERPT_CHARACTERS]))
        yield Batch(np.array(places, dtype=np.int64), _as_batch(rows), bad)


def _as_batch(records: list[dict[str, Any]]) -> pa.RecordBatch:
    """Return records as columns, in the order of their first appearance; absent values are null."""
    names = list(dict.fromkeys(name for record in records for name in record))
    return pa.RecordBatch.from_arrays([_as_array([row.get(name) for row in records]) for name in names], names)


def _as_array(values: list[Any]) -> pa.Array:
    """Return values as Arrow has them; values of several types become strings."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([value if value is None or isinstance(value, str) else str(value) for value in values])


# --- binary files ---------------------------------------------------------------------------------------------------


def _open_seekable(path: str) -> pa.NativeFile:
    with open_unpacked(path) as stream:
        if isinstance(stream, io.BufferedReader) and not isinstance(stream.raw, pa.NativeFile):
            return pa.memory_map(path)
        return pa.BufferReader(stream.read())


def _number(batches: Iterable[pa.RecordBatch]) -> Iterator[Batch]:
    """Give the rows of batches their numbers."""
    start = 0
    for rows in batches:
        for first in range(0, len(rows), BATCH_ROWS):
            piece = rows.slice(first, BATCH_ROWS)
            yield Batch(np.arange(start, start + len(piece)), piece, [])
            start += len(piece)


def _open_parquet(path: str) -> Table:
    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(_open_seekable(path)) as file:
            yield from file.iter_batches(BATCH_ROWS)

    names = pq.ParquetFile(_open_seekable(path)).schema_arrow.names
    return Table(path, "parquet", names, _read=lambda: _number(batches()))


def _open_arrow(path: str) -> Table:
    def batches() -> Iterator[pa.RecordBatch]:
        source = _open_seekable(path)
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            yield from map(file.get_batch, range(file.num_record_batches))
        else:
            source.seek(0)
            yield from pa.ipc.open_stream(source)

    first = next(batches(), None)
    if first is None:
        raise DataError.for_file(path, Reason.EMPTY_FILE, "found no row")
    return Table(path, "arrow", first.schema.names, _read=lambda: _number(batches()))


def _open_excel(path: str) -> Table:
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise UserError(f"{path} needs openpyxl: {install_hint('excel')}, or save it as CSV") from None

    def rows() -> Iterator[tuple[Any, ...]]:
        with open_unpacked(path) as stream:
            book = load_workbook(io.BytesIO(stream.read()), read_only=True, data_only=True)
        yield from book.worksheets[0].iter_rows(values_only=True)

    def build(cells: list[Sequence[Any]]) -> pa.RecordBatch:
        columns = zip(*cells, strict=True) if cells else [()] * len(names)
        return pa.RecordBatch.from_arrays([_as_array(list(column)) for column in columns], names)

    def numbered() -> Iterator[tuple[int, int, Any]]:
        for number, row in enumerate(rows(), 1):
            filled = max((place for place, cell in enumerate(row, 1) if cell is not None), default=0)
            if number > 1 and filled > len(names):
                fault = Fault(Reason.TOO_MANY_FIELDS, f"found {filled} of {len(names)}", "Name all columns in row 1")
                yield number, 0, BadRow(path, number, None, fault, str(row[0])[:EXCERPT_CHARACTERS])
            elif number > 1 and filled:
                yield number, 0, [*row, *[None] * len(names)][: len(names)]

    first = next(rows(), ())
    names = ["" if cell is None else str(cell) for cell in first]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError.for_file(path, Reason.EMPTY_FILE, "its first sheet has no header")
    return Table(path, "excel", names, _read=lambda: _deliver(numbered(), build))
