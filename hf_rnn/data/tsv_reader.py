r"""The strict reader of TSV lines: bytes to Arrow columns of texts and labels, with every line accounted for.

The csv readers of the stack turn `NA` into None, merge rows at quotes, split at a lone CR and shift columns, all
without a word. Here a line ends at LF or CRLF and nowhere else, fields are separated by TAB, and every other
character is itself.

Files are read in blocks, in memory that does not depend on their size. A block whose lines all pass checks made on the
whole of it becomes columns by array operations. Lines that a check finds odd are looked at one by one, and the others
tried again. The fast way may only ever accept what the careful one accepts, with the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import RawIOBase
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .file_encoding import not_utf8
from .row_errors import EXCERPT_CHARACTERS, WHITE_SPACE, BadRow, Fault, Reason, label_fault, text_fault
from .tsv_schema import Layout, looks_like_header

BLOCK_BYTES = 256 * 1024  # fits the second-level cache: a fifth faster than 1 MiB
CAREFUL_LINES = 32  # for so few lines array operations cost more than they save
ODD_SHARE = 1 / 16  # with more odd lines than this the whole block is looked at line by line

_TAB, _LF, _CR = b"\t\n\r"

# Bytes that a text of only white space can start with, and end with.
_BLANK_FIRST = np.isin(np.arange(256), [character.encode()[0] for character in WHITE_SPACE])
_BLANK_LAST = np.isin(np.arange(256), [character.encode()[-1] for character in WHITE_SPACE])


class LabelResolver(Protocol):
    """What the reader needs of a label map."""

    @property
    def integers(self) -> bool:
        """Whether the labels in the data are integers."""

    def resolve(self, label: str) -> int | Fault:
        """Return a label's id, or what is wrong with it."""


@dataclass(frozen=True)
class Rows:
    """The good rows of some consecutive lines.

    Attributes:
        texts: Arrow strings, exactly as in the file; may be None where none were asked for.
        labels: Label ids (int64), or, without a label map, the labels themselves (dictionary of strings).
        lines: Lines that were read, the rejected ones included.
    """

    texts: pa.Array
    labels: pa.Array
    lines: int

    def filter(self, mask: np.ndarray) -> Rows:
        """Return the rows where a boolean mask is True; the lines they came from are counted once, with the others."""
        keep = pa.array(mask)
        return Rows(self.texts.filter(keep), self.labels.filter(keep), 0)


def blocks_of_lines(stream: RawIOBase, max_line_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Cut a stream into blocks of whole lines, each ended by LF.

    Args:
        stream: Is read to its end.
        max_line_bytes: The cap.

    Yields:
        (block, 0, its bytes), or, for a line over the cap for sure, (start of it, its length without its end, its
        bytes).
    """
    pieces: list[bytes] = []
    pending = 0  # bytes in `pieces`, the start of a line
    skipped = 0  # bytes so far of a line over the cap, of which `pieces` keeps the start
    before = b""  # the last byte of these
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
        # The end of a last line without LF. Its CR, if it has one, ends no line, so it gets a CRLF to lose instead.
        yield b"".join(pieces) + b"\r\n", 0, pending


def decode_line(line: bytes, offset: int) -> str | Fault:
    """Decode a line without its end, or tell what is wrong with it; `offset` is where it starts in the file."""
    if b"\0" in line:
        return Fault(Reason.NUL, f"NUL at byte {line.index(0) + 1} of the line")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return not_utf8(line, error, offset)


def excerpt_of(line: bytes) -> str:
    r"""Return the start of a line for a message, bytes that do not decode as `\xNN`."""
    return line[: 4 * EXCERPT_CHARACTERS].decode(errors="backslashreplace")[:EXCERPT_CHARACTERS]


class RowReader:
    """Turns the blocks of one file into rows; keeps count of lines and bytes.

    Args:
        path: The file's name, for messages.
        layout: Its fields.
        line: Number of its first line that is read.
        offset: Offset of that line.
        labels: Turns labels into ids; None to get the labels themselves.
        on_bad_row: Is called with each bad row; may raise.
        with_texts: Whether the texts are wanted.
    """

    def __init__(
        self,
        path: str,
        layout: Layout,
        line: int,
        offset: int,
        labels: LabelResolver | None,
        on_bad_row: Callable[[BadRow], None],
        with_texts: bool = True,
    ) -> None:
        self.path, self.layout, self.labels, self.on_bad_row = path, layout, labels, on_bad_row
        self.line, self.offset, self.with_texts = line, offset, with_texts

    def too_long(self, start: bytes, length: int, size: int) -> Rows:
        """Reject a line over the cap, of which only the start was kept."""
        self._reject(start, self._over_cap(length))
        self._advance(1, size)
        return self._as_rows([], [], 1)

    def read(self, block: bytes) -> Iterator[Rows]:
        """Read whole lines, each ended by LF."""
        result = self._fast(block)
        if isinstance(result, Rows):
            self._advance(result.lines, len(block))
            yield result
            return
        if result.mean() > ODD_SHARE or len(result) <= CAREFUL_LINES:
            yield self._careful(block)
            return
        ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == _LF)
        first, start = 0, 0
        for last in (
            *np.flatnonzero(np.diff(result)),
            len(result) - 1,
        ):  # of a run of lines that are all odd or all not
            part = block[start : ends[last] + 1]
            if result[last] or last - first < CAREFUL_LINES:
                yield self._careful(part)
            else:
                yield from self.read(part)
            first, start = last + 1, ends[last] + 1

    def _advance(self, lines: int, size: int) -> None:
        self.line += lines
        self.offset += size

    def _fast(self, block: bytes) -> Rows | np.ndarray:
        """Return a block's rows, or a mask of the lines that one of the checks finds odd."""
        layout, data = self.layout, np.frombuffer(block, dtype=np.uint8)
        if b"\0" in block:
            ends = np.flatnonzero(data == _LF)
            odd = np.zeros(len(ends), dtype=bool)
            odd[np.searchsorted(ends, np.flatnonzero(data == 0))] = True
            return odd
        # One search finds tabs and line ends, bytes 9 and 10; their order tells whether all fields are there.
        found = np.flatnonzero(data - np.uint8(_TAB) <= _LF - _TAB)
        kinds = data[found]
        if len(found) % layout.fields or not _is_even(kinds.reshape(-1, layout.fields)):
            return np.diff(np.flatnonzero(kinds == _LF), prepend=-1) != layout.fields
        separators = found.reshape(-1, layout.fields)
        ends = separators[:, -1].copy()
        starts = np.empty_like(ends)
        starts[0] = 0
        np.add(ends[:-1], 1, out=starts[1:])
        ends -= data[ends - 1] == _CR  # a line holds a tab at least, so there is a byte before its end
        lengths: Any = ends - starts  # NumPy 2.5 types its methods otherwise than NumPy 2.4
        if lengths.max() > layout.max_line_bytes:
            return lengths > layout.max_line_bytes

        # The offsets of text, gap, label, gap, text, ... make one string array over the block itself, without a copy.
        first, second = sorted((layout.text, layout.label))
        offsets = np.empty((len(starts), 4), dtype=np.int32)
        for place, column in ((0, first), (2, second)):
            offsets[:, place] = separators[:, column - 1] + 1 if column else starts
            offsets[:, place + 1] = ends if column == layout.fields - 1 else separators[:, column]
        text, label = (0, 2) if layout.text < layout.label else (2, 0)
        empty = offsets[:, text] == offsets[:, text + 1]
        if empty.any():
            return empty
        buffer = pa.py_buffer(block)
        if not block.isascii() and not _is_utf8(buffer):
            return np.array(
                [not line.isascii() and not _is_utf8(pa.py_buffer(line)) for line in block.split(b"\n")[:-1]]
            )
        fields = pa.StringArray.from_buffers(offsets.size - 1, pa.py_buffer(offsets), buffer)
        suspects = np.flatnonzero(_BLANK_FIRST[data[offsets[:, text]]] & _BLANK_LAST[data[offsets[:, text + 1] - 1]])
        if len(suspects):
            trimmed = pc.utf8_trim(fields.take(pa.array(4 * suspects + text)), characters=WHITE_SPACE)
            blank = suspects[pc.binary_length(trimmed).to_numpy() == 0]
            if len(blank):
                return np.isin(np.arange(len(starts)), blank)
        labels = fields.take(pa.array(np.arange(label, offsets.size, 4))).dictionary_encode()
        resolved = [self._resolve(label) for label in labels.dictionary.to_pylist()]
        faulty = np.array([isinstance(label, Fault) for label in resolved])
        if faulty.any():
            return faulty[labels.indices.to_numpy()]
        if self.labels is not None:
            labels = pa.array(np.array(resolved, dtype=np.int64)[labels.indices.to_numpy()])
        texts = fields.take(pa.array(np.arange(text, offsets.size, 4))) if self.with_texts else None
        return Rows(texts, labels, len(starts))

    def _careful(self, block: bytes) -> Rows:
        """Look at the lines one by one; hand over the bad ones and return the others."""
        texts: list[str] = []
        labels: list[int | str] = []
        lines = block.split(b"\n")[:-1]
        for line in lines:
            row = self._row(line.removesuffix(b"\r"))
            if isinstance(row, Fault):
                self._reject(line, row)
            else:
                texts.append(row[0])
                labels.append(row[1])
            self._advance(1, len(line) + 1)
        return self._as_rows(texts, labels, len(lines))

    def _row(self, line: bytes) -> tuple[str, int | str] | Fault:
        """Return text and label of a line, or what is wrong with it."""
        if len(line) > self.layout.max_line_bytes:
            return self._over_cap(len(line))
        decoded = decode_line(line, self.offset)
        if isinstance(decoded, Fault):
            return decoded
        fields = decoded.split("\t")
        if len(fields) != self.layout.fields:
            return _miscounted(line, len(fields), self.layout.fields)
        text, label = fields[self.layout.text], fields[self.layout.label]
        if fault := text_fault(text):
            return fault
        resolved = self._resolve(label)
        if not isinstance(resolved, Fault):
            return text, resolved
        known = self.labels
        if known and self.line == 1 and not label_fault(label) and looks_like_header(text, label, known.integers):
            detail = f"the first line holds {text[:EXCERPT_CHARACTERS]!r} and {label[:EXCERPT_CHARACTERS]!r}"
            return Fault(Reason.UNDECLARED_HEADER, detail, "If these name the columns, declare it: --header")
        return resolved

    def _resolve(self, label: str) -> int | str | Fault:
        return label_fault(label) or (label if self.labels is None else self.labels.resolve(label))

    def _over_cap(self, length: int) -> Fault:
        detail = f"it has {length} bytes, the cap is {self.layout.max_line_bytes}"
        remedy = "If it is one text for sure, cut it, or in Python raise max_line_bytes"
        return Fault(Reason.LINE_TOO_LONG, detail, remedy)

    def _reject(self, line: bytes, fault: Fault) -> None:
        start, fields = line, line.split(b"\t")
        if fault.reason is Reason.LINE_TOO_LONG:
            start = line[: self.layout.max_line_bytes]  # as much as is kept of it wherever blocks are cut
        elif len(fields) == self.layout.fields and fields[self.layout.text]:
            start = fields[self.layout.text]
        self.on_bad_row(BadRow(self.path, self.line, self.offset, fault, excerpt_of(start).removesuffix("\r")))

    def _as_rows(self, texts: list[str], labels: list[int | str], lines: int) -> Rows:
        if self.labels is None:
            return Rows(pa.array(texts, pa.string()), pa.array(labels, pa.string()).dictionary_encode(), lines)
        return Rows(pa.array(texts, pa.string()), pa.array(labels, pa.int64()), lines)


def _is_even(kinds: np.ndarray) -> bool:
    """Whether separators, one line a row, are tabs up to the last one, which is a line end."""
    return bool((kinds[:, -1] == _LF).all() and (kinds[:, :-1] == _TAB).all())


def _is_utf8(buffer: pa.Buffer) -> bool:
    whole = np.array([0, buffer.size], dtype=np.int32)
    try:
        pa.StringArray.from_buffers(1, pa.py_buffer(whole), buffer).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _miscounted(line: bytes, found: int, expected: int) -> Fault:
    detail = f"it has {found} of {expected}"
    if found < expected:
        if not line:
            return Fault(Reason.TOO_FEW_FIELDS, "the line is empty", "Delete it")
        return Fault(Reason.TOO_FEW_FIELDS, detail, "Separate text and label by one tab")
    if b"\r" in line:
        return Fault(Reason.TOO_MANY_FIELDS, f"{detail}, and a lone CR, which ends no line", "End lines with LF")
    return Fault(
        Reason.TOO_MANY_FIELDS,
        detail,
        "A text cannot hold a tab; if the file has more columns, set --text_column and --label_column, from 0",
    )
