"""Answers of a person on disk: a line of `labels.csv` for each, complete before the next text."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from ..utils.errors import DataError, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """The answer of a person to a text."""

    row: int  # number in the table, from 0
    text: str
    label: str  # is empty for a text that was skipped
    time: str  # UTC, as 2026-11-30T08:15:00.123
    suggestion: str  # the label that the model suggested; empty without one
    order: str  # why the text was chosen; see [`Labeller`]


_COLUMNS = [field.name for field in fields(Answer)]


class AnswerFile:
    """A file that grows by a line per answer; `answers` has them in order.

    A line that a killed process left incomplete is moved to a file `labels.torn`: its text is asked
    again.

    Raises:
        DataError: For a file that is not one of answers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[Answer] = []
        self._ends: list[int] = []  # where the header and each answer end, in bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        header = _format(_COLUMNS)
        if header.startswith(content):  # nothing, or a part of the header
            path.write_bytes(b"")
            self._write(header)
        else:
            self._read(content)

    def append(self, answer: Answer) -> None:
        """Write an answer, and wait until the disk has it."""
        self._check_size()
        self._write(_format(astuple(answer)))
        self.answers.append(answer)

    def undo(self) -> Answer:
        """Remove the last answer, and return it."""
        self._check_size()
        os.truncate(self.path, self._ends[-2])
        self._ends.pop()
        return self.answers.pop()

    def _check_size(self) -> None:
        size = self.path.stat().st_size
        if size != self._ends[-1]:
            fault = f"it has {size} bytes where {self._ends[-1]} were written"
            raise UserError(f"{self.path} was changed meanwhile: {fault}; open it again")

    def _write(self, line: bytes) -> None:
        end = self._ends[-1] if self._ends else 0
        try:
            with open(self.path, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # such as a full disk
            os.truncate(self.path, end)
            raise
        self._ends.append(end + len(line))

    def _read(self, content: bytes) -> None:
        for record, end in _parse(content):
            is_whole = len(record) == len(_COLUMNS) and content[:end].endswith(b"\n")
            if not self._ends and record != _COLUMNS:
                fault = f"its columns are {', '.join(record)}; give another folder"
                raise DataError(f"{self.path} has no answers of hf-rnn: {fault}", str(self.path))
            if is_whole and self._ends:
                self.answers.append(Answer(int(record[0]), *record[1:]))
            if is_whole:
                self._ends.append(end)
            elif end < len(content):
                fault = f"the answer that ends at byte {end} is damaged"
                raise DataError(f"{self.path}: {fault}; repair that line", str(self.path))
        torn = content[self._ends[-1] :]
        if torn:
            copy = self.path.with_suffix(".torn")
            copy.write_bytes(torn)
            os.truncate(self.path, self._ends[-1])
            logger.warning("%s ended in the middle of an answer: see %s", self.path, copy)


def _format(values: Sequence[object]) -> bytes:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerow(values)
    return line.getvalue().encode()


def _parse(content: bytes) -> Iterator[tuple[list[str], int]]:
    """Yield the records of a file, each with its end in bytes."""
    stream = io.BytesIO(content)
    lines = (line.decode("utf-8", "replace") for line in stream)
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    for record in csv.reader(lines):
        yield record, stream.tell()
