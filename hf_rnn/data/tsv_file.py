"""One TSV file that can be read again and again, and that must not change meanwhile."""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from ..utils.errors import UserError
from .file_encoding import MAGIC_BYTES, sniff
from .row_errors import BadRow, DataError, Fault, Reason
from .tsv_reader import LabelResolver, RowReader, Rows, blocks_of_lines
from .tsv_schema import Layout, TsvFormat, layout_of


@dataclass(frozen=True)
class TsvFile:
    """One file whose layout is known; small and picklable.

    Attributes:
        path: As the user wrote it.
        layout: Its fields.
        start: Offset of the first row: after a byte order mark and a header.
        first_line: Line number of the first row, from 1.
        stamp: Size and time of change when the layout was read.
        header_label: What a declared header has in the label's column.
    """

    path: str
    layout: Layout
    start: int
    first_line: int
    stamp: tuple[int, int]
    header_label: str | None = None

    @classmethod
    def open(cls, path: str | Path, declared: TsvFormat) -> TsvFile:
        """Look at a file's start.

        Raises:
            DataError: If it is empty, no UTF-8 text, or lacks a column.
            UserError: If it cannot be read.
        """
        name = str(path)
        if not os.path.isfile(name):
            if os.path.exists(name):
                raise UserError(
                    f"{name} is not a regular file, which alone can be read more than once: save it as one"
                )
            raise UserError(f"{name} does not exist: give a folder with train.tsv in it, or a TSV file")
        try:
            with open(name, "rb") as stream:
                status = os.fstat(stream.fileno())
                head = stream.read(MAGIC_BYTES)
                start = len(BOM_UTF8) if head.startswith(BOM_UTF8) else 0
                stream.seek(start)
                first = stream.readline(declared.max_line_bytes + 2)
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror}") from None
        if fault := sniff(head):
            raise DataError.of_file(name, fault)
        if not first:
            raise DataError.of_file(name, Fault(Reason.EMPTY_FILE, "it holds no line"))
        layout = layout_of(name, first, declared)
        if declared.header:
            start += len(first)
            if not first.endswith(b"\n") and start < status.st_size:
                raise DataError.of_file(
                    name, Fault(Reason.LINE_TOO_LONG, f"its header has more than {len(first)} bytes")
                )
            if start >= status.st_size:
                raise DataError.of_file(name, Fault(Reason.EMPTY_FILE, "it holds a header and no row"))
        header_label = first.decode().rstrip("\r\n").split("\t")[layout.label] if declared.header else None
        stamp = status.st_size, status.st_mtime_ns
        return cls(name, layout, start, 1 + declared.header, stamp, header_label)

    def first_row(self) -> tuple[str, str] | None:
        """Return text and label of line 1 where it may be an undeclared header, None where it cannot be."""
        if self.first_line > 1:
            return None
        with self._stream() as stream:
            line = stream.readline(self.layout.max_line_bytes)
        fields = line.removesuffix(b"\n").removesuffix(b"\r").split(b"\t")
        if len(fields) != self.layout.fields:
            return None
        return fields[self.layout.text].decode(errors="replace"), fields[self.layout.label].decode(errors="replace")

    def rows(
        self,
        labels: LabelResolver | None,
        on_bad_row: Callable[[BadRow], None],
        on_bytes: Callable[[bytes], object] = lambda block: None,
        with_texts: bool = True,
    ) -> Iterator[Rows]:
        """Read the file from its first row to its end.

        Args:
            labels: Turns labels into ids; None to get the labels themselves.
            on_bad_row: Is called with each bad row, in the order of lines; may raise to stop.
            on_bytes: Is called with all bytes that are looked at, in order (for a hash).
            with_texts: Whether the texts are wanted; they are checked in any case.

        Raises:
            DataError: If the file is not as it was when it was opened.
        """
        reader = RowReader(self.path, self.layout, self.first_line, self.start, labels, on_bad_row, with_texts)
        with self._stream() as stream:
            for block, length, size in blocks_of_lines(stream, self.layout.max_line_bytes):
                on_bytes(block)
                if length:
                    on_bytes(b"%d" % length)
                    yield reader.too_long(block, length, size)
                else:
                    yield from reader.read(block)
            self._check_unchanged(stream)

    def _stream(self) -> FileIO:
        """Open the file at its first row."""
        try:
            stream = FileIO(self.path)
        except OSError as error:
            raise DataError.of_file(
                self.path, Fault(Reason.FILE_CHANGED, f"it cannot be read any more ({error.strerror})")
            ) from None
        try:
            self._check_unchanged(stream)
            stream.seek(self.start)
        except BaseException:
            stream.close()  # Windows lets nobody remove a file that is open
            raise
        return stream

    def _check_unchanged(self, stream: FileIO) -> None:
        status = os.fstat(stream.fileno())
        if (status.st_size, status.st_mtime_ns) != self.stamp:
            detail = f"it had {self.stamp[0]} bytes, has {status.st_size} now, and was written to"
            raise DataError.of_file(self.path, Fault(Reason.FILE_CHANGED, detail, "Load it again when it is complete"))
