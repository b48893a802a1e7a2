r"""Text files as lines, and delimited text (CSV, TSV) as rows: every line is a row, a part of one, or a refusal.

The csv readers of pyarrow, polars, pandas and Python turn `NA` into None, merge rows at a quote that is never closed,
split at a lone CR or shift columns, all silently. Here a line ends at LF or CRLF only, and fields are cut by RFC 4180
with these additions:

- A `"` inside an unquoted field is a character: `0,a 5" pipe is 3 inch`.
- A quoted field may hold line feeds, unless one of its lines reads as a row of its own. Then only the first line is
  refused, and the next ones are rows.
- With tabs a `"` is a character, except in fields that had to be quoted: those with `""`, a tab, a line feed or a
  lone CR. In strict text it is always a character, so every line is one row.
- A blank line is not a row, except in strict text and in a single column.

Files are read in blocks, in memory independent of their size. Libraries cut the blocks that hold none of these cases;
the others are cut line by line, with the same values for the good rows.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from ..utils.errors import UserError
from .row_errors import EXCERPT_CHARACTERS, BadRow, DataError, Fault, Reason

BLOCK_BYTES = 256 * 1024  # fits the second-level cache: a fifth faster than 1 MiB
MAX_LINE_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 20
_SEPARATORS = ",;\t|"
NO_SEPARATOR = "\0"  # separates nothing: a line with NUL is refused

_SIGNATURES = (
    (codecs.BOM_UTF16_LE, Reason.UTF16, "it starts with the byte order mark ff fe; save it as UTF-8"),
    (codecs.BOM_UTF16_BE, Reason.UTF16, "it starts with the byte order mark fe ff; save it as UTF-8"),
    (b"\x1f\x8b", Reason.COMPRESSED, "its first bytes are those of gzip; unpack it"),
    (b"PK\x03\x04", Reason.COMPRESSED, "its first bytes are those of zip; unpack it, or export a table with tabs"),
)


@dataclass(frozen=True)
class Batch:
    """Rows of a table in their order.

    Attributes:
        places: The place of each good row, ascending: its first line from 1 in text files, its row from 0 in others.
        rows: The good rows. Cells of delimited text are strings, others have the types of the file.
        bad: The refused rows; their `line` fits between `places`.
        offsets: The byte offset of each good row in an (unpacked) text file.
    """

    places: np.ndarray
    rows: pa.RecordBatch
    bad: list[BadRow]
    offsets: np.ndarray | None = None

    @property
    def size(self) -> int:
        """The number of rows that were read."""
        return len(self.places) + len(self.bad)

    def in_order(self, values: Iterable[Any]) -> list[Any]:
        """Return a value for each good row, with the refused rows in their places."""
        rows = [*zip(self.places.tolist(), values, strict=True), *((row.line, row) for row in self.bad)]
        return [value for _, value in sorted(rows, key=itemgetter(0))]


# ---- bytes and lines ----


def open_unpacked(path: str) -> BinaryIO:
    """Open a file for reading, and unpack gzip and zstd, known by their first bytes."""
    with open(path, "rb") as stream:
        magic = stream.read(4)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(path))
    if magic == b"\x28\xb5\x2f\xfd":
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(path), "zstd"))
    return open(path, "rb")


def blocks_of_lines(read: Callable[[int], bytes], max_line_bytes: int) -> Iterator[tuple[int, int, bytes, int]]:
    """Cut a stream, behind its byte order mark, into blocks of whole lines; each line ends with LF.

    Yields:
        (number and offset of the first line, block, 0), or, for a line certainly over the cap, its start and its
        length without its end in place of the last two. `read` returns nothing only at the end.
    """
    number, offset, rest = 1, 0, b""
    while data := read(BLOCK_BYTES):
        data = rest + data
        if not offset and data.startswith(codecs.BOM_UTF8):
            offset, data = len(codecs.BOM_UTF8), data[len(codecs.BOM_UTF8) :]
        cut = data.rfind(b"\n") + 1
        block, rest = data[:cut], data[cut:]
        if block:
            yield number, offset, block, 0
            number, offset = number + block.count(b"\n"), offset + cut
        if len(rest) > max_line_bytes + 1:  # one more for the CR of a CRLF
            start, length, last = rest[: 4 * EXCERPT_CHARACTERS], len(rest), rest[-1:]
            while (data := read(BLOCK_BYTES)) and b"\n" not in data:
                length, last = length + len(data), data[-1:]
            head, end, rest = data.partition(b"\n")
            length += len(head)
            yield number, offset, start, length - (end + (last + head)[-1:] == b"\n\r")
            number, offset = number + 1, offset + length + 1
    if rest:  # a CR at the end belongs to the line, so CRLF is added instead of LF
        yield number, offset, rest if rest.endswith(b"\n") else rest + b"\r\n", 0


def check_signature(name: str, head: bytes) -> None:
    """Raise DataError if the first bytes of a file are those of UTF-16 or of a compressed file."""
    for signature, reason, detail in _SIGNATURES:
        if head.startswith(signature):
            raise DataError.for_file(name, reason, detail)


def decode_line(line: bytes, offset: int, max_line_bytes: int, encoding: str = "utf-8") -> str | Fault:
    """Decode a line without its end, or return what is wrong with it; `offset` is its place in the file."""
    if len(line) > max_line_bytes:
        return _line_too_long(len(line), max_line_bytes)
    if b"\0" in line:
        hint = "If the file is UTF-16, save it as UTF-8" if line.count(0) > len(line) // 3 else ""
        return Fault(Reason.NUL, f"NUL at byte {line.index(0) + 1} of the line", hint)
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start
        found = f"byte 0x{line[at]:02x} at byte {at + 1} of the line (offset {offset + at})"
        found += "" if encoding == "utf-8" else f" is not {encoding}"
        return Fault(Reason.NOT_UTF8, found, "Save the file as UTF-8, or name its encoding with --encoding")


def _line_too_long(length: int, cap: int) -> Fault:
    return Fault(Reason.LINE_TOO_LONG, f"it has {length} bytes, the cap is {cap}", "Split or shorten the text")


def excerpt_of(line: bytes) -> str:
    r"""Return the start of a line for a message, undecodable bytes as `\xNN`."""
    return line[: 4 * EXCERPT_CHARACTERS].decode(errors="backslashreplace")[:EXCERPT_CHARACTERS].removesuffix("\r")


def read_texts(stream: BinaryIO, name: str, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[list[str | BadRow]]:
    """Read a stream to its end, one text per line; yield the lines that each read completes.

    Lines and their faults are those of strict text: empty and blank lines are texts too.

    Args:
        stream: Buffered, such as `sys.stdin.buffer`; bytes that have arrived are read without waiting for more.
        name: Name of the stream in messages.
        max_line_bytes: The cap on a line, without its end; longer ones are never held as a whole.

    Raises:
        DataError: If the first bytes are those of UTF-16 or of a compressed file.
    """
    text = TextFile(name, "utf-8", ())
    for block in blocks_of_lines(stream.read1, max_line_bytes):  # type: ignore[attr-defined] # of buffered ones
        if block[0] == 1:
            check_signature(name, block[2])
        lines = (line for _, _, line in text.lines(*block, max_line_bytes))
        yield [line if isinstance(line, BadRow) else line.removesuffix("\r") for line in lines]


Line = tuple[int, int, "str | BadRow"]  # number from 1, byte offset, text with a CR of its end


@dataclass(frozen=True)
class TextFile:
    """A text file in blocks of lines; `sample` are its first lines."""

    path: str
    encoding: str
    sample: tuple[str, ...]

    @classmethod
    def open(cls, path: str, head: bytes, encoding: str | None, strict: bool = False) -> TextFile:
        """Find the encoding by the first bytes; strict text is UTF-8, or UTF-16 with a mark."""
        try:
            encoding = codecs.lookup(encoding).name if encoding else _find_encoding(head, strict)
        except LookupError:
            raise UserError(f"unknown encoding {encoding!r:.80}: give one such as utf-8, cp1252 or utf-16") from None
        text = codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix("\ufeff")
        lines = text.split("\n")
        lines = lines[:-1] if len(lines) > 1 and (len(head) >= SAMPLE_BYTES or not lines[-1]) else lines
        return cls(path, encoding, tuple(line.removesuffix("\r") for line in lines))

    @property
    def line_encoding(self) -> str:
        """The encoding of the lines in blocks."""
        return "utf-8" if self.encoding.startswith(("utf-16", "utf-32")) else self.encoding

    def blocks(self) -> Iterator[tuple[int, int, bytes, int]]:
        """Yield the blocks of the file, as [`blocks_of_lines`]."""
        with open_unpacked(self.path) as stream:
            read: Callable[[int], bytes] = stream.read
            if self.line_encoding != self.encoding:  # line feeds are not single bytes
                text = io.TextIOWrapper(stream, self.encoding, newline="")
                read = lambda size: text.read(size).encode()  # noqa: E731
            yield from blocks_of_lines(read, MAX_LINE_BYTES)

    def lines(self, number: int, offset: int, block: bytes, length: int, cap: int | None = None) -> Iterator[Line]:
        """Yield the lines of a block; a line that cannot be a text is refused."""
        cap = MAX_LINE_BYTES if cap is None else cap
        if length:
            yield number, offset, BadRow(self.path, number, offset, _line_too_long(length, cap), excerpt_of(block))
            return
        for raw in block.split(b"\n")[:-1]:
            bare = raw.removesuffix(b"\r")
            text = decode_line(bare, offset, cap, self.line_encoding)
            if isinstance(text, str):
                yield number, offset, text + "\r" if len(bare) < len(raw) else text
            else:
                yield number, offset, BadRow(self.path, number, offset, text, excerpt_of(bare))
            number, offset = number + 1, offset + len(raw) + 1


def _find_encoding(head: bytes, strict: bool) -> str:
    """Return the encoding of a text by its first bytes."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    odd, even = head[1:4096:2].count(0), head[:4096:2].count(0)
    if strict or max(odd, even) > len(head[:4096]) // 8 > min(odd, even):
        return "utf-8" if strict else "utf-16-le" if odd > even else "utf-16-be"
    valid: Counter[bool] = Counter()
    for line in head.split(b"\n")[: -1 if len(head) >= SAMPLE_BYTES else None]:
        if not line.isascii():
            valid[isinstance(decode_line(line, 0, SAMPLE_BYTES), str)] += 1
    return "cp1252" if valid[False] > valid[True] else "utf-8"


# ---- rows ----


def find_separator(lines: Sequence[str], suffix: str) -> str:
    """Return the separator that cuts most lines into as many fields as the first, which has more than one."""
    preferred = "\t" if suffix == ".tsv" else ""
    best, most = NO_SEPARATOR, 0.0
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
            needed = separator != "\t" or '""' in written or not {"\t", "\n", "\r"}.isdisjoint(written)
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


def _is_number(value: str) -> bool:
    return value.removeprefix("-").replace(".", "", 1).isdecimal()


class DelimitedText:
    """Rows of a fixed number of fields in a text file.

    Attributes:
        text: The file.
        separator: The character between fields.
        names: The names of the columns: those of the first row, or numbers from 0.
        header: Whether the first row has the names.
        strict: Whether a `"` is always a character, and every line a row: if the number of `fields` is given, or 0 for
            that of the first line.
    """

    def __init__(self, text: TextFile, separator: str, header: bool = True, fields: int | None = None) -> None:
        self.text, self.separator, self.header, self.strict = text, separator, header, fields is not None
        self.names: list[str] = [str(number) for number in range(fields or 0)]
        if not fields:
            first = next((row for _, _, row in _Walk(self).rows()), None)
            if first is None:
                raise DataError.for_file(text.path, Reason.EMPTY_FILE, "found no row")
            if isinstance(first, BadRow):
                raise DataError.for_row(first)
            fields = len(first)
            self.names = list(first) if header else [str(number) for number in range(fields)]
        # the values that show where a row begins: frequent ones and numbers
        self._frequent: list[set[str]] = []
        self._numeric: list[bool] = []
        cut = [_cut(line, separator) for line in text.sample[header:][: 0 if self.strict else 10_000]]
        rows = [row for row in cut if isinstance(row, list) and len(row) == fields]
        for column in zip(*rows, strict=True) if rows else [()] * fields:
            values = Counter(column)
            few = 2 * len(values) <= max(len(rows), 4)
            self._frequent.append({value for value in values if few and 0 < len(value) <= 40})
            self._numeric.append(bool(values) and all(map(_is_number, values)))

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Read the file; `columns` are the names of those to deliver."""
        wanted = [self.names.index(name) for name in (self.names if columns is None else columns)]
        return _Walk(self).batches(wanted)

    def reads_as_row(self, line: str, places: range) -> bool:
        """Return whether a line has all fields, and at one of the places a value that its column has."""
        fields = line.removesuffix("\r").split(self.separator)
        return len(fields) == len(self.names) and any(
            fields[place] in self._frequent[place] or (self._numeric[place] and _is_number(fields[place]))
            for place in places
        )


class _Walk:
    """One way through a file."""

    def __init__(self, source: DelimitedText) -> None:
        self._source, self._separator, self._text = source, source.separator, source.text
        self._fields = len(source.names)
        self._blocks = self._text.blocks()
        self._waiting: deque[Line] = deque()  # lines that were read and not cut yet
        self._skip_header = source.header and self._fields > 0

    def _fetch(self) -> bool:
        """Append the lines of the next block to those that wait."""
        if (block := next(self._blocks, None)) is None:
            return False
        self._waiting.extend(self._text.lines(*block))
        return True

    def batches(self, wanted: Sequence[int]) -> Iterator[Batch]:
        names = [self._source.names[place] for place in wanted]
        for number, offset, data, length in self._blocks:
            if self._skip_header and not length:
                end = data.index(b"\n") + 1
                if b'"' not in (header := data[:end]) and header.strip():
                    number, offset, data, self._skip_header = number + 1, offset + end, data[end:], False
                    if not data:
                        continue
            if not length and not self._skip_header and (fast := self._cut_block(data, wanted)) is not None:
                starts, arrays = fast
                places = np.arange(number, number + len(starts))
                yield Batch(places, pa.RecordBatch.from_arrays(arrays, names), [], starts + offset)
                continue
            self._waiting.extend(self._text.lines(number, offset, data, length))
            rows: list[tuple[int, int, Any]] = []
            for row in self.rows():
                if rows and row[1] - rows[0][1] > BLOCK_BYTES:
                    yield self._build(rows, wanted)
                    rows = []
                rows.append(row)
            if rows:
                yield self._build(rows, wanted)

    def _build(self, rows: Sequence[tuple[int, int, Any]], wanted: Sequence[int]) -> Batch:
        good = [row for row in rows if not isinstance(row[2], BadRow)]
        bad = [row[2] for row in rows if isinstance(row[2], BadRow)]
        arrays = [pa.array([row[2][place] for row in good], pa.string()) for place in wanted]
        places, offsets = (np.array([row[which] for row in good], dtype=np.int64) for which in (0, 1))
        names = [self._source.names[place] for place in wanted]
        return Batch(places, pa.RecordBatch.from_arrays(arrays, names), bad, offsets)

    def _cut_block(self, block: bytes, wanted: Sequence[int]) -> tuple[np.ndarray, list[pa.Array]] | None:
        """Return starts and columns of rows of one line each, cut by a library; None if a row is not as simple."""
        quoted = not self._source.strict and b'"' in block
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            return None
        if b"\0" in block or block.startswith(codecs.BOM_UTF8):
            return None
        if not self._separator.isascii():
            return None
        ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1])
        # arrow_csv makes a row of a blank line
        if np.max(ends - starts) > MAX_LINE_BYTES or (np.min(ends - starts) < 2 and self._fields > 1):
            return None
        try:
            if self._text.line_encoding != "utf-8":
                block = block.decode(self._text.line_encoding).encode()
            if quoted and self._separator in (NO_SEPARATOR, "\t"):
                return None
            if self._separator == NO_SEPARATOR:
                lines = block.decode().split("\n")[:-1]
                columns: list[Any] = [[line.removesuffix("\r") for line in lines]]
            elif not quoted:
                names = [str(number) for number in range(self._fields)]
                table = arrow_csv.read_csv(
                    pa.BufferReader(block),
                    arrow_csv.ReadOptions(use_threads=False, block_size=2 * len(block), column_names=names),
                    arrow_csv.ParseOptions(delimiter=self._separator, quote_char=False, ignore_empty_lines=False),
                    arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
                )
                columns = [column.combine_chunks() for column in table.columns]
            else:
                rows = list(
                    csv.reader(io.StringIO(block.decode(), newline=""), delimiter=self._separator, strict=True)
                )
                columns = list(zip(*rows, strict=True))
        except (ValueError, csv.Error):
            return None
        if len(columns) != self._fields or len(columns[0]) != len(starts):
            return None
        return starts, [pa.array(columns[place], pa.string()) for place in wanted]

    def rows(self) -> Iterator[tuple[int, int, Any]]:
        """Yield line, offset and fields of each row that waits, or why it is refused; fetch lines only to end one."""
        source, separator, fields = self._source, self._separator, self._fields
        if not self._waiting and not fields:
            self._fetch()
        while self._waiting:
            number, offset, text = self._waiting.popleft()
            if isinstance(text, BadRow):
                yield number, offset, text
                continue
            row = text.removesuffix("\r")
            if not row and (fields != 1 or self._skip_header) and not source.strict:
                if not self._waiting and not fields:
                    self._fetch()
                continue
            cut = row.split(separator) if source.strict or '"' not in row else _cut(row, separator)
            if not source.strict and (cut is True or (separator == "\t" and self._may_continue(cut))):
                cut = self._join(text) or (cut if isinstance(cut, list) else False)
            if self._skip_header:
                self._skip_header = False
                continue
            fault = self._find_fault(cut, text)
            refused = fault and BadRow(self._text.path, number, offset, fault, row[:EXCERPT_CHARACTERS])
            yield number, offset, refused or cut

    def _may_continue(self, cut: list[str] | bool) -> bool:
        """Return whether the last field of a line with tabs can be the start of a quoted one of several lines."""
        if not isinstance(cut, list) or len(cut) > (self._fields or len(cut)):
            return False
        return cut[-1].startswith('"') and cut[-1].count('"') % 2 == 1

    def _find_fault(self, cut: list[str] | bool, text: str) -> Fault | None:
        if not isinstance(cut, list):
            detail = "a quoted field does not end before a separator or the end of the line"
            return Fault(Reason.MISPLACED_QUOTE, detail, 'Write " as "" in a quoted field')
        if not self._fields or len(cut) == self._fields:
            return None
        detail, strict = f"found {len(cut)} of {self._fields}", self._source.strict
        if len(cut) < self._fields:
            advice = "Put one tab between columns" if strict else "Quote texts that hold line feeds"
            return Fault(Reason.TOO_FEW_FIELDS, detail if text else "the line is empty", advice)
        if "\r" in text.removesuffix("\r"):
            return Fault(Reason.TOO_MANY_FIELDS, f"{detail}, and a lone CR, which ends no line", "End lines with LF")
        tabs = "A text cannot hold a tab; if the file has more columns, set --text_column and --label_column, from 0"
        return Fault(Reason.TOO_MANY_FIELDS, detail, tabs if strict else "Quote texts that hold the separator")

    def _join(self, first: str) -> list[str] | bool:
        """Return the fields of a row of several lines and consume these; False without any change if it is not one."""
        lines, size = [first], len(first)
        joined: list[str] | bool = False
        used = 0
        while size <= MAX_LINE_BYTES:
            if len(lines) > len(self._waiting) and not self._fetch():
                break
            text = self._waiting[len(lines) - 1][2]
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
                joined, used = cut, len(lines) - 1
                if self._separator != "\t" or not self._may_continue(cut):
                    break
        for _ in range(used):
            self._waiting.popleft()
        return joined

    def _hides_rows(self, cut: list[str], lines: list[str]) -> bool:
        """Return whether a line of a joined row reads as a row of its own.

        The first line has the fields before the text of several lines in any case, and the last line those after it.
        """
        if not self._fields:
            return False
        broken = [place for place, value in enumerate(cut) if "\n" in value]
        reads = self._source.reads_as_row
        return (
            reads(lines[0], range(broken[0] + 1, len(cut)))
            or reads(lines[-1], range(broken[-1]))
            or any(reads(line, range(len(cut))) for line in lines[1:-1])
        )
