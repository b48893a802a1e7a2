"""Bytes that arrive → one text a line, or why a line is none, in order; memory does not depend on the input.

What a line is, and what is wrong with one, is what the TSV reader of `hf_rnn.data` says, save that an empty line and
one of white space are texts here. Nothing is known of models, nor of what answers look like.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from io import RawIOBase
from typing import BinaryIO

from .file_encoding import MAGIC_BYTES, sniff
from .row_errors import BadRow, DataError, Fault, Reason
from .tsv_reader import blocks_of_lines, decode_line, excerpt_of
from .tsv_schema import MAX_LINE_BYTES


def read_texts(stream: BinaryIO, name: str, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[list[str | BadRow]]:
    r"""Read a stream to its end, one text a line.

    A line ends at LF or CRLF, the last one also at the end of the stream; a lone CR, U+2028 and NEL are characters. A
    byte order mark at the start is skipped. A line over the cap is passed over without being held as a whole.

    Args:
        stream: Buffered, such as `sys.stdin.buffer`; what has arrived is read without waiting for more.
        name: Of the stream, for messages.
        max_line_bytes: The cap on a line, without its end.

    Yields:
        For the lines that each read completes, in order: the text, or the line that is refused (not UTF-8, a NUL, over
        the cap), with its number from 1 and its place.

    Raises:
        DataError: When the stream's first bytes are those of UTF-16 or of a compressed file.
    """
    arriving = _Arriving(stream, name)
    number, offset = 1, arriving.start
    for block, length, size in blocks_of_lines(arriving, max_line_bytes):
        lines: list[str | BadRow] = []
        if length:
            lines.append(BadRow(name, number, offset, _over_cap(length, max_line_bytes), excerpt_of(block)))
            offset += size
        else:
            for line in block.split(b"\n")[:-1]:
                lines.append(_text_of(name, number + len(lines), offset, line.removesuffix(b"\r"), max_line_bytes))
                offset += len(line) + 1
        number += len(lines)
        yield lines


class _Arriving(RawIOBase):
    """A stream from behind its byte order mark, a read of which waits for the first bytes only.

    Attributes:
        start: Bytes of the byte order mark.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, head = stream, b""
        # before the first line is whole there is no text anyway, so nobody waits for an answer
        while len(head) < MAGIC_BYTES and b"\n" not in head and (data := self._read(MAGIC_BYTES)):
            head += data
        if fault := sniff(head[:MAGIC_BYTES]):
            raise DataError.of_file(name, fault)
        self.start = len(BOM_UTF8) if head.startswith(BOM_UTF8) else 0
        self._head = head[self.start :]

    def _read(self, size: int) -> bytes:
        return self._stream.read1(size)  # type: ignore[attr-defined] # of buffered streams

    def read(self, size: int = -1) -> bytes:
        """Return what has arrived, `size` bytes at most; empty only at the end."""
        head, self._head = self._head[:size], self._head[size:]
        return head or self._read(size)


def _text_of(name: str, number: int, offset: int, line: bytes, max_line_bytes: int) -> str | BadRow:
    """Decode a line without its end."""
    too_long = len(line) > max_line_bytes
    text = _over_cap(len(line), max_line_bytes) if too_long else decode_line(line, offset)
    return BadRow(name, number, offset, text, excerpt_of(line)) if isinstance(text, Fault) else text


def _over_cap(length: int, cap: int) -> Fault:
    return Fault(
        Reason.LINE_TOO_LONG, f"it has {length} bytes, the cap is {cap}", "If it is one text for sure, cut it"
    )
