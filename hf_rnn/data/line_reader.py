"""A stream of bytes to one text per line, or to the reason why the line is refused; memory is independent of its size.

Lines and their faults are those of plain TSV, except that empty and blank lines are texts here.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from io import RawIOBase
from typing import BinaryIO

from .delimited import MAX_LINE_BYTES, blocks_of_lines, check_signature, decode_line, excerpt_of, line_too_long
from .row_errors import BadRow, Fault


def read_texts(stream: BinaryIO, name: str, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[list[str | BadRow]]:
    """Read a stream to its end, one text per line; yield the lines that each read completes.

    A line ends at LF or CRLF, the last one also at the end of the stream; a lone CR, U+2028 and NEL are characters. A
    byte order mark at the start is skipped. Refused lines (not UTF-8, a NUL, over the cap) have their number, from 1.

    Args:
        stream: Buffered, such as `sys.stdin.buffer`; bytes that have arrived are read without waiting for more.
        name: Name of the stream in messages.
        max_line_bytes: The cap on a line, without its end; longer ones are never held as a whole.

    Raises:
        DataError: If the first bytes are those of UTF-16 or of a compressed file.
    """
    arriving = _Arriving(stream, name)
    number, offset = 1, arriving.start
    for block, length, size in blocks_of_lines(arriving, max_line_bytes):
        lines: list[str | BadRow] = []
        if length:
            lines.append(BadRow(name, number, offset, line_too_long(length, max_line_bytes), excerpt_of(block)))
            offset += size
        else:
            for line in block.split(b"\n")[:-1]:
                text: str | Fault | BadRow = decode_line(line.removesuffix(b"\r"), offset, max_line_bytes)
                if isinstance(text, Fault):
                    text = BadRow(name, number + len(lines), offset, text, excerpt_of(line).removesuffix("\r"))
                lines.append(text)
                offset += len(line) + 1
        number += len(lines)
        yield lines


class _Arriving(RawIOBase):
    """A stream behind its byte order mark, which has `start` bytes; a read waits for the first bytes only."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._read1, head = stream.read1, b""  # type: ignore[attr-defined] # of buffered streams
        # no text is complete before the first line is
        while len(head) < 4 and b"\n" not in head and (data := self._read1(1 << 12)):
            head += data
        check_signature(name, head)
        self.start = len(BOM_UTF8) if head.startswith(BOM_UTF8) else 0
        self._head = head[self.start :]

    def read(self, size: int = -1) -> bytes:
        """Return the bytes that have arrived, at most `size`; empty only at the end."""
        head, self._head = self._head[:size], self._head[size:]
        return head or self._read1(size)
