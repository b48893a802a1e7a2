"""One TSV file with its declared columns; it can be read again and must not change meanwhile."""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from ..utils.errors import UserError
from .labels import LabelMap, listed
from .row_errors import BadRow, DataError, Reason
from .tsv_reader import MAX_LINE_BYTES, Layout, RowReader, Rows, blocks_of_lines, check_signature, excerpt_of

# A first line with one of each, in any case, names the columns.
_TEXT_HEADERS = {"text", "tweet", "sentence", "review", "content", "comment", "message"}
_LABEL_HEADERS = {"label", "labels", "sentiment", "class", "category", "target", "emotion", "polarity"}


@dataclass(frozen=True)
class TsvFormat:
    """The declared columns of TSV files.

    Attributes:
        text_column: The text column, by number from 0 or by its name in the header; None means 0.
        label_column: The label column; None means 1.
        header: Whether the first line names the columns. Without declared columns those called `text` and `label`, in
            any case, are used; else the two that there are.
        max_line_bytes: Longer lines, their ends not counted, are refused; bounds the memory.
    """

    text_column: int | str | None = None
    label_column: int | str | None = None
    header: bool = False
    max_line_bytes: int = MAX_LINE_BYTES

    def __post_init__(self) -> None:
        for column in (self.text_column, self.label_column):
            if isinstance(column, str) and not self.header:
                raise UserError(
                    f"column {column!r} is a name, and no header is declared: add --header, or give its number"
                )

    def find_layout(self, path: str, first_line: bytes) -> Layout:
        """Return the layout of a file: two fields a line without declarations, else as many as the first has."""
        text: int | str | None = 0 if self.text_column is None else self.text_column
        label: int | str | None = 1 if self.label_column is None else self.label_column
        declared = self.text_column is not None or self.label_column is not None
        if not self.header and not declared:
            return Layout(2, 0, 1, self.max_line_bytes)
        names = first_line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="backslashreplace").split("\t")
        if not declared:
            folded = {name.strip().casefold(): name for name in reversed(names)}
            named = [wanted if wanted in names else folded.get(wanted) for wanted in ("text", "label")]
            if None not in named:
                text, label = named
            elif len(names) > 2:
                detail = f"found columns {listed(names)}; name two of them with --text_column and --label_column"
                raise DataError.for_file(path, Reason.MISSING_COLUMN, detail)
        first, second = (self._find_column(path, column, names) for column in (text, label))
        if first == second:
            raise UserError(f"{path}: text and label must be two columns: found {first} for both")
        return Layout(len(names), first, second, self.max_line_bytes)

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
        path: As the user wrote it.
        layout: Its columns.
        start: Offset of the first row, after a byte order mark and a header.
        first_line: Line number of the first row, from 1.
        stamp: Size and time of change when the layout was read.
        header_label: The declared header's field in the label column.
    """

    path: str
    layout: Layout
    start: int
    first_line: int
    stamp: tuple[int, int]
    header_label: str | None = None

    @classmethod
    def open(cls, path: str | Path, declared: TsvFormat) -> TsvFile:
        """Read and check a file's start."""
        name = str(path)
        try:
            with open(name, "rb") as stream:
                status = os.fstat(stream.fileno())
                head = stream.read(4)
                start = len(BOM_UTF8) if head.startswith(BOM_UTF8) else 0
                stream.seek(start)
                first = stream.readline(-1 if declared.header else declared.max_line_bytes)
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            raise UserError(f"{name} {reason}; give a folder with train.tsv in it, or a TSV file") from None
        check_signature(name, head)
        layout = declared.find_layout(name, first)
        start += len(first) if declared.header else 0
        if start >= status.st_size:
            raise DataError.for_file(name, Reason.EMPTY_FILE, "found no row")
        fields = first.rstrip(b"\r\n").split(b"\t")
        text, label = (excerpt_of(b"".join(fields[column : column + 1])) for column in (layout.text, layout.label))
        if not declared.header and text.casefold() in _TEXT_HEADERS and label.casefold() in _LABEL_HEADERS:
            detail = f"found {text!r} and {label!r} in the first line; if it names the columns, add --header"
            raise DataError.for_file(name, Reason.UNDECLARED_HEADER, detail)
        stamp = status.st_size, status.st_mtime_ns
        return cls(name, layout, start, 1 + declared.header, stamp, label if declared.header else None)

    def rows(
        self,
        labels: LabelMap | None,
        on_bad_row: Callable[[BadRow], None],
        on_bytes: Callable[[bytes], object] = lambda block: None,
        keep_texts: bool = True,
    ) -> Iterator[Rows]:
        """Read the file from its first row to its end.

        Args:
            labels: Resolves labels to ids; None to get the labels themselves.
            on_bad_row: Called with each bad row, in the order of lines; may raise to stop.
            on_bytes: Called with all bytes that are read, in order (for a hash).
            keep_texts: Whether rows need their texts; a pass that counts is faster without.

        Raises:
            DataError: If the file has changed since it was opened.
        """
        reader = RowReader(self.path, self.layout, self.first_line, self.start, labels, on_bad_row, keep_texts)
        try:
            stream = FileIO(self.path)
        except OSError as error:
            detail = f"it can no longer be read ({error.strerror})"
            raise DataError.for_file(self.path, Reason.FILE_CHANGED, detail) from None
        with stream:
            self._check_unchanged(stream)
            stream.seek(self.start)
            for block, length, size in blocks_of_lines(stream, self.layout.max_line_bytes):
                on_bytes(block)
                if length:
                    on_bytes(b"%d" % length)
                    yield reader.skip_long_line(block, length, size)
                else:
                    yield reader.read(block)
            self._check_unchanged(stream)

    def _check_unchanged(self, stream: FileIO) -> None:
        status = os.fstat(stream.fileno())
        if (status.st_size, status.st_mtime_ns) != self.stamp:
            detail = f"it had {self.stamp[0]} bytes, found {status.st_size} and a later change; load it again"
            raise DataError.for_file(self.path, Reason.FILE_CHANGED, detail)
