r"""The strict reader of TSV lines: bytes to Arrow columns of texts and labels, every line counted.

The csv readers of the stack turn `NA` into None, merge rows at quotes, split at a lone CR and shift columns, all
silently. Here a line ends at LF or CRLF only, TAB separates fields, and every other character is itself.

Files are read in blocks, in memory independent of their size. Array operations read a block without bad rows; a block
with one is read line by line, with the same values for the good rows.
"""

from __future__ import annotations

import gzip
import os
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.errors import UserError, reason_of
from .labels import RowLabels, listed
from .row_errors import EXCERPT_CHARACTERS, WHITE_SPACE, BadRow, DataError, Fault, Reason, text_fault

BLOCK_BYTES = 256 * 1024  # fits the second-level cache: a fifth faster than 1 MiB
MAX_LINE_BYTES = 1 << 20

_TAB, _LF, _CR = b"\t\n\r"

# First and last bytes of texts of only white space.
_BLANK_FIRST = np.isin(np.arange(256), [character.encode()[0] for character in WHITE_SPACE])
_BLANK_LAST = np.isin(np.arange(256), [character.encode()[-1] for character in WHITE_SPACE])

# A first line with one of each, in any case, names the columns.
_TEXT_HEADERS = {"text", "tweet", "sentence", "review", "content", "comment", "message"}
_LABEL_HEADERS = {"label", "labels", "sentiment", "class", "category", "target", "emotion", "polarity"}

_SIGNATURES = (
    (b"\xff\xfe", Reason.UTF16, "it starts with the byte order mark ff fe; save it as UTF-8"),
    (b"\xfe\xff", Reason.UTF16, "it starts with the byte order mark fe ff; save it as UTF-8"),
    (b"\x1f\x8b", Reason.COMPRESSED, "its first bytes are those of gzip; unpack it"),
    (b"PK\x03\x04", Reason.COMPRESSED, "its first bytes are those of zip; unpack it, or export a table with tabs"),
)


@dataclass(frozen=True)
class Layout:
    """Fields per line of a file, and the numbers of its text and label columns; longer lines are refused."""

    fields: int
    text: int
    labels: tuple[int, ...]
    pair: int | None = None  # the column of the second text
    max_line_bytes: int = MAX_LINE_BYTES

    @property
    def texts(self) -> list[int]:
        """The numbers of the text columns."""
        return [self.text] if self.pair is None else [self.text, self.pair]


@dataclass(frozen=True)
class Rows:
    """The good rows of some lines: texts, and labels as of `RowLabels.as_array`.

    `lines` includes the refused ones; `pairs` are the second texts, if there are any.
    """

    texts: pa.Array
    labels: pa.Array
    lines: int
    pairs: pa.Array | None = None

    def filter(self, mask: np.ndarray) -> Rows:
        """Return the rows where a boolean mask is True, with 0 lines."""
        keep = pa.array(mask)
        pairs = None if self.pairs is None else self.pairs.filter(keep)
        return Rows(self.texts.filter(keep), self.labels.filter(keep), 0, pairs)

    def text_lists(self) -> list[list[str]]:
        """Return the texts, and the second texts if there are any."""
        return [column.to_pylist() for column in (self.texts, self.pairs) if column is not None]

    def columns(self) -> dict[str, pa.Array]:
        """Return the columns of a data set."""
        pairs = {} if self.pairs is None else {"text_pair": self.pairs}
        return {"text": self.texts, **pairs, "label": self.labels}


def blocks_of_lines(stream: BinaryIO | RawIOBase, max_line_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Cut a stream into blocks of whole lines, each ended by LF.

    Yields:
        (block, 0, its bytes), or, for a line certainly over the cap, (its start, its length without its end, its
        bytes).
    """
    pieces: list[bytes] = []
    pending = 0  # bytes in `pieces`, the start of a line
    skipped = 0  # bytes so far of a line over the cap; `pieces` holds its start
    before = b""  # the last of these bytes
    while data := stream.read(BLOCK_BYTES):
        if skipped:
            cut = data.find(b"\n")
            if cut < 0:
                skipped, before = skipped + len(data), data[-1:]
                continue
            before = data[cut - 1 : cut] if cut else before
            yield pieces.pop(), skipped + cut - (before == b"\r"), skipped + cut + 1
            data, skipped, pending = data[cut + 1 :], 0, 0
        cut = data.rfind(b"\n") + 1
        if cut:
            pieces.append(data[:cut])
            block = b"".join(pieces)
            yield block, 0, len(block)
            pieces, pending = [], 0
        if cut < len(data):
            pieces.append(data[cut:])
            pending += len(data) - cut
        if pending > max_line_bytes + 1:  # one more for the CR of a CRLF
            pieces, skipped, before = [b"".join(pieces)[: 4 * EXCERPT_CHARACTERS]], pending, data[-1:]
    if skipped:
        yield pieces.pop(), skipped, skipped
    elif pieces:
        # A last line without LF: a CR at its end belongs to the line, so CRLF is added instead of LF.
        yield b"".join(pieces) + b"\r\n", 0, pending


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading; unpack `.gz`."""
    return cast(BinaryIO, gzip.open(path)) if path.endswith(".gz") else open(path, "rb")


def check_signature(name: str, head: bytes) -> None:
    """Raise DataError if the first bytes of a file are those of UTF-16 or of a compressed file."""
    for signature, reason, detail in _SIGNATURES:
        if head.startswith(signature):
            raise DataError.for_file(name, reason, detail)


def decode_line(line: bytes, offset: int, max_line_bytes: int) -> str | Fault:
    """Decode a line without its end, or return what is wrong with it; `offset` is its place in the file."""
    if len(line) > max_line_bytes:
        return line_too_long(len(line), max_line_bytes)
    if b"\0" in line:
        return Fault(Reason.NUL, f"NUL at byte {line.index(0) + 1} of the line")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        at = error.start
        found = f"byte 0x{line[at]:02x} at byte {at + 1} of the line (offset {offset + at})"
        return Fault(Reason.NOT_UTF8, found, "Save the file as UTF-8")


def line_too_long(length: int, cap: int) -> Fault:
    """Return the fault of a line over the cap."""
    return Fault(Reason.LINE_TOO_LONG, f"it has {length} bytes, the cap is {cap}", "Split or shorten the text")


def excerpt_of(line: bytes) -> str:
    r"""Return the start of a line for a message, undecodable bytes as `\xNN`."""
    return line[: 4 * EXCERPT_CHARACTERS].decode(errors="backslashreplace")[:EXCERPT_CHARACTERS]


@dataclass
class RowReader:
    """Turn the blocks of one file into rows; `line` and `offset` are those of the next line.

    Other attributes are the arguments of [`TsvFile.rows`].
    """

    path: str
    layout: Layout
    line: int
    offset: int
    labels: RowLabels
    on_bad_row: Callable[[BadRow], None]

    def skip_long_line(self, start: bytes, length: int, size: int) -> Rows:
        """Refuse a line over the cap; only its start is held."""
        self._reject(start, line_too_long(length, self.layout.max_line_bytes))
        self._advance(1, size)
        return self._build_rows([], 1)

    def read(self, block: bytes) -> Rows:
        """Read whole lines, each ended by LF."""
        rows = self._read_arrays(block)
        if rows is None:
            return self._read_lines(block)
        self._advance(rows.lines, len(block))
        return rows

    def _advance(self, lines: int, size: int) -> None:
        self.line += lines
        self.offset += size

    def _read_arrays(self, block: bytes) -> Rows | None:
        """Return a block's rows, or None if a line is bad."""
        layout, data = self.layout, np.frombuffer(block, dtype=np.uint8)
        # One search finds tabs and line ends, bytes 9 and 10.
        found = np.flatnonzero(data - np.uint8(_TAB) <= _LF - _TAB)
        if b"\0" in block or len(found) % layout.fields:
            return None
        separators = found.reshape(-1, layout.fields)
        kinds = data[separators]
        if (kinds[:, -1] != _LF).any() or (kinds[:, :-1] != _TAB).any():
            return None
        ends = separators[:, -1].copy()
        starts = np.empty_like(ends)
        starts[0] = 0
        np.add(ends[:-1], 1, out=starts[1:])
        ends -= data[ends - 1] == _CR  # a line holds at least a tab, so a byte precedes its end
        if np.max(ends - starts) > layout.max_line_bytes:
            return None

        buffer = pa.py_buffer(block)

        def cut(column: int) -> tuple[np.ndarray, pa.StringArray]:
            # The offsets of field, gap, field, ... make a string array over the block, without a copy.
            offsets = np.empty((len(starts), 2), dtype=np.int32)
            offsets[:, 0] = separators[:, column - 1] + 1 if column else starts
            offsets[:, 1] = ends if column == layout.fields - 1 else separators[:, column]
            return offsets, pa.StringArray.from_buffers(offsets.size - 1, pa.py_buffer(offsets), buffer)

        if not block.isascii() and not _is_utf8(buffer):
            return None
        places = pa.array(np.arange(0, 2 * len(starts), 2))
        texts = []
        for column in layout.texts:
            offsets, fields = cut(column)
            if (offsets[:, 0] == offsets[:, 1]).any():
                return None
            suspects = np.flatnonzero(_BLANK_FIRST[data[offsets[:, 0]]] & _BLANK_LAST[data[offsets[:, 1] - 1]])
            if len(suspects):
                trimmed = pc.utf8_trim(fields.take(pa.array(2 * suspects)), characters=WHITE_SPACE)
                if (pc.binary_length(trimmed).to_numpy() == 0).any():
                    return None
            texts.append(fields.take(places))
        written = [cut(column)[1].take(places) for column in layout.labels]
        labels = (written[0] if len(written) == 1 else pc.binary_join_element_wise(*written, "\t")).dictionary_encode()
        read = [self.labels.read(label) for label in labels.dictionary.to_pylist()]
        if any(isinstance(label, Fault) for label in read):
            return None
        return Rows(texts[0], self.labels.as_array(read, labels.indices.to_numpy()), len(starts), *texts[1:])

    def _read_lines(self, block: bytes) -> Rows:
        """Read the lines one by one; report the bad ones and return the others."""
        rows, lines = [], block.split(b"\n")[:-1]
        for line in lines:
            row = self._parse(line.removesuffix(b"\r"))
            if isinstance(row, Fault):
                self._reject(line, row)
            else:
                rows.append(row)
            self._advance(1, len(line) + 1)
        return self._build_rows(rows, len(lines))

    def _parse(self, line: bytes) -> tuple[list[str], Any] | Fault:
        """Return texts and label of a line, or what is wrong with it."""
        decoded = decode_line(line, self.offset, self.layout.max_line_bytes)
        if isinstance(decoded, Fault):
            return decoded
        fields = decoded.split("\t")
        if len(fields) != self.layout.fields:
            return _wrong_number(line, len(fields), self.layout.fields)
        texts = [fields[column] for column in self.layout.texts]
        if fault := next(filter(None, map(text_fault, texts)), None):
            return fault
        label = self.labels.read("\t".join(fields[column] for column in self.layout.labels))
        return label if isinstance(label, Fault) else (texts, label)

    def _reject(self, line: bytes, fault: Fault) -> None:
        start, fields = line, line.split(b"\t")
        if fault.reason is Reason.LINE_TOO_LONG:
            start = line[: self.layout.max_line_bytes]  # the same excerpt however blocks are cut
        elif len(fields) == self.layout.fields and fields[self.layout.text]:
            start = fields[self.layout.text]
        self.on_bad_row(BadRow(self.path, self.line, self.offset, fault, excerpt_of(start).removesuffix("\r")))

    def _build_rows(self, rows: list[tuple[list[str], Any]], lines: int) -> Rows:
        texts = [pa.array([texts[n] for texts, _ in rows], pa.string()) for n in range(len(self.layout.texts))]
        labels = [label for _, label in rows]
        return Rows(texts[0], self.labels.as_array(labels, np.arange(len(labels))), lines, *texts[1:])


def _is_utf8(buffer: pa.Buffer) -> bool:
    whole = np.array([0, buffer.size], dtype=np.int32)
    try:
        pa.StringArray.from_buffers(1, pa.py_buffer(whole), buffer).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _wrong_number(line: bytes, found: int, expected: int) -> Fault:
    detail = f"found {found} of {expected}"
    if found < expected:
        return Fault(Reason.TOO_FEW_FIELDS, detail if line else "the line is empty", "Put one tab between columns")
    if b"\r" in line:
        return Fault(Reason.TOO_MANY_FIELDS, f"{detail}, and a lone CR, which ends no line", "End lines with LF")
    remedy = "A text cannot hold a tab; if the file has more columns, set --text_column and --label_column, from 0"
    return Fault(Reason.TOO_MANY_FIELDS, detail, remedy)


@dataclass(frozen=True)
class TsvFormat:
    """The declared columns of TSV files; see [`~hf_rnn.load_tsv`]."""

    text_column: int | str | None = None
    label_column: int | str | None = None
    header: bool = False
    max_line_bytes: int = MAX_LINE_BYTES
    label_columns: tuple[int | str, ...] = ()
    pair_column: int | str | None = None

    def __post_init__(self) -> None:
        for column in (self.text_column, self.label_column, *self.label_columns, self.pair_column):
            if isinstance(column, str) and not self.header:
                raise UserError(f"column {column!r} is a name, without a header: add --header, or give its number")

    def find_layout(self, path: str, first_line: bytes) -> Layout:
        """Return the layout of a file: two fields a line without declarations, else as many as the first has."""
        text: int | str | None = 0 if self.text_column is None else self.text_column
        label: int | str | None = self.label_column
        if label is None:
            label = 2 if self.pair_column == 1 else 1
        several = bool(self.label_columns) or self.pair_column is not None
        declared = self.text_column is not None or self.label_column is not None or several
        if not self.header and not declared:
            return Layout(2, 0, (1,), None, self.max_line_bytes)
        names = first_line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="backslashreplace").split("\t")
        if not declared or (several and self.header):
            folded = {name.strip().casefold(): name for name in reversed(names)}
            named = [wanted if wanted in names else folded.get(wanted) for wanted in ("text", "label")]
            if several:
                text = named[0] if self.text_column is None and named[0] is not None else text
                label = named[1] if self.label_column is None and named[1] is not None else label
            elif None not in named:
                text, label = named
            elif len(names) > 2:
                detail = f"found columns {listed(names)}; name two of them with --text_column and --label_column"
                raise DataError.for_file(path, Reason.MISSING_COLUMN, detail)
        first = self._find_column(path, text, names)
        labels = tuple(self._find_column(path, column, names) for column in self.label_columns or (label,))
        pair = None if self.pair_column is None else self._find_column(path, self.pair_column, names)
        used = [first, *labels] if pair is None else [first, pair, *labels]
        if len(set(used)) < len(used):
            both = "two columns" if len(used) == 2 else "different columns"
            twice = next(column for column in used if used.count(column) > 1)
            raise UserError(f"{path}: text and label must be {both}: found {twice} for both")
        return Layout(len(names), first, labels, pair, self.max_line_bytes)

    def _find_column(self, path: str, column: int | str | None, names: list[str]) -> int:
        if isinstance(column, int) and 0 <= column < len(names):
            return column
        if isinstance(column, str) and names.count(column) == 1:
            return names.index(column)
        there = listed(names) if self.header else f"{len(names)} columns, counted from 0"
        twice = " (twice)" if column in names else ""
        advice = "set --text_column and --label_column by number, or by name with --header"
        found = f"column {column!r:.80}{twice}: found {there}; {advice}"
        raise DataError.for_file(path, Reason.MISSING_COLUMN, found)


@dataclass(frozen=True)
class TsvFile:
    """One file with a known layout; small and picklable.

    Attributes:
        start: Offset of the first row, after a byte order mark and a header.
        first_line: Line number of the first row, from 1.
        stamp: Size and time of change when the layout was read.
        header_label: The declared header's field in the label column.
        label_names: Names of the label columns: in the header, or their numbers.
    """

    path: str
    layout: Layout
    start: int
    first_line: int
    stamp: tuple[int, int]
    header_label: str | None = None
    label_names: tuple[str, ...] = ()

    @property
    def text_columns(self) -> list[int]:
        """The numbers of the text columns."""
        return self.layout.texts

    @classmethod
    def open(cls, path: str | Path, declared: TsvFormat) -> TsvFile:
        """Read and check a file's start."""
        name = str(path)
        try:
            with open_binary(name) as stream:
                status = os.fstat(stream.fileno())
                head = stream.read(4)
                start = len(BOM_UTF8) if head.startswith(BOM_UTF8) else 0
                stream.seek(start)
                first = stream.readline(-1 if declared.header else declared.max_line_bytes)
                start += len(first) if declared.header else 0
                stream.seek(start)
                is_empty = not stream.read(1)
        except (OSError, EOFError, zlib.error) as error:
            detail = getattr(error, "strerror", None) or reason_of(error)
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {detail}"
            raise UserError(f"{name} {reason}; give a folder with train.tsv in it, or a TSV file") from None
        check_signature(name, head)
        layout = declared.find_layout(name, first)
        if is_empty:
            raise DataError.for_file(name, Reason.EMPTY_FILE, "found no row")
        fields = first.rstrip(b"\r\n").split(b"\t")
        columns = layout.text, *layout.labels
        text, label, *more = (excerpt_of(b"".join(fields[column : column + 1])) for column in columns)
        if not declared.header and text.casefold() in _TEXT_HEADERS and label.casefold() in _LABEL_HEADERS:
            detail = f"found {text!r} and {label!r} in the first line; if it names the columns, add --header"
            raise DataError.for_file(name, Reason.UNDECLARED_HEADER, detail)
        stamp = status.st_size, status.st_mtime_ns
        names = (label, *more) if declared.header else tuple(map(str, layout.labels))
        written = "\t".join((label, *more)) if declared.header else None
        return cls(name, layout, start, 1 + declared.header, stamp, written, names)

    def rows(
        self,
        labels: RowLabels,
        on_bad_row: Callable[[BadRow], None],
        on_bytes: Callable[[bytes], object] = lambda block: None,
    ) -> Iterator[Rows]:
        """Read the file from its first row to its end.

        Args:
            labels: Reads labels.
            on_bad_row: Called with each bad row, in the order of lines; may raise to stop.
            on_bytes: Called with all bytes that are read, in order (for a hash).
        """
        reader = RowReader(self.path, self.layout, self.first_line, self.start, labels, on_bad_row)
        try:
            stream = open_binary(self.path)
        except OSError as error:
            detail = f"it can no longer be read ({error.strerror})"
            raise DataError.for_file(self.path, Reason.FILE_CHANGED, detail) from None
        with stream:
            self._check_unchanged(stream)
            stream.seek(self.start)
            try:
                for block, length, size in blocks_of_lines(stream, self.layout.max_line_bytes):
                    on_bytes(block)
                    if length:
                        on_bytes(b"%d" % length)
                        yield reader.skip_long_line(block, length, size)
                    else:
                        yield reader.read(block)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError.for_file(self.path, Reason.COMPRESSED, f"it is damaged: {reason_of(error)}") from None
            self._check_unchanged(stream)

    def _check_unchanged(self, stream: BinaryIO) -> None:
        status = os.fstat(stream.fileno())
        if (status.st_size, status.st_mtime_ns) != self.stamp:
            detail = f"it had {self.stamp[0]} bytes, found {status.st_size} and a later change; load it again"
            raise DataError.for_file(self.path, Reason.FILE_CHANGED, detail)
