"""Refused rows: the rules for texts and labels, the error that stops a load, and the count of all rows."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TextIO

import numpy as np

from ..utils.errors import UserError

logger = logging.getLogger(__name__)

EXCERPT_CHARACTERS = 80
_LOGGED_ROWS = 20  # refused rows that are logged one by one when no file lists them

# The characters for which str.isspace is true in Unicode 16, independent of the version of Python.
WHITE_SPACE = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


class Reason(StrEnum):
    """Why a row or a whole file is refused; messages and `rejected.jsonl` contain the value."""

    TOO_FEW_FIELDS = "too few fields"
    TOO_MANY_FIELDS = "too many fields"
    EMPTY_TEXT = "empty text"
    BLANK_TEXT = "text of only white space"
    EMPTY_LABEL = "empty label"
    UNKNOWN_LABEL = "unknown label"
    LABEL_OUT_OF_RANGE = "label out of range"
    NOT_A_NUMBER = "not a number"
    NOT_FINITE = "number not finite"
    NOT_UTF8 = "not UTF-8"
    NUL = "NUL character"
    LINE_TOO_LONG = "line over the cap"
    MISPLACED_QUOTE = "misplaced quote"
    NOT_JSON = "not a JSON record"
    # Reasons below concern whole files and folders; no limit on bad rows applies.
    UTF16 = "UTF-16"
    COMPRESSED = "compressed file"
    UNREADABLE = "unreadable file"
    EMPTY_FILE = "empty file"
    MISSING_COLUMN = "missing column"
    NO_TRAIN_SPLIT = "no train split"
    FILE_CHANGED = "file changed while in use"


@dataclass(frozen=True)
class Fault:
    """A reason, what was found, and a remedy (may be empty), without the place."""

    reason: Reason
    detail: str
    remedy: str = ""


def text_fault(text: str) -> Fault | None:
    """Return what is wrong with a text."""
    if not text:
        return Fault(Reason.EMPTY_TEXT, "the text has no character")
    if not text.strip(WHITE_SPACE):
        return Fault(Reason.BLANK_TEXT, f"the text is {text[:EXCERPT_CHARACTERS]!r}")
    if "\0" in text:
        return Fault(Reason.NUL, f"NUL is character {text.index(chr(0)) + 1} of the text")
    return None


def label_fault(label: str) -> Fault | None:
    """Return what is wrong with a label, independent of the known labels."""
    bare = label.strip(WHITE_SPACE)
    if not bare:
        return Fault(Reason.EMPTY_LABEL, f"the label is {label!r:.80}")
    if bare != label:
        return Fault(Reason.UNKNOWN_LABEL, f"label {label!r:.80} has white space at its ends")
    if "\0" in label:
        return Fault(Reason.NUL, f"NUL is character {label.index(chr(0)) + 1} of label {label!r:.80}")
    return None


@dataclass(frozen=True)
class BadRow:
    r"""One refused row: line from 1 and byte offset in a file, or row from 0 and None in `name[split]` without files.

    `excerpt` is the start of its text, or of the line if its text is unknown; undecodable bytes as `\xNN`.
    """

    path: str
    line: int
    byte_offset: int | None
    fault: Fault
    excerpt: str

    def describe(self) -> str:
        """Return place, reason, detail and excerpt in one line."""
        place = f"{self.path}:{self.line}" if self.byte_offset is not None else f"{self.path} row {self.line}"
        start = f" (it starts {self.excerpt!r})" if self.excerpt else ""
        return f"{place}: {self.fault.reason}: {self.fault.detail}{start}"

    def as_json(self) -> str:
        """Return the line of `rejected.jsonl` for this row."""
        record = {"file": self.path, "line": self.line, "byte_offset": self.byte_offset}
        record |= {"reason": self.fault.reason.value, "detail": self.fault.detail, "text": self.excerpt}
        return json.dumps(record, ensure_ascii=False)


class DataError(UserError):
    """Unusable data: `path`, typed `reason`, and for a row `line` and `byte_offset` as of [`BadRow`]."""

    def __init__(
        self, message: str, path: str, reason: Reason, line: int | None = None, byte_offset: int | None = None
    ) -> None:
        super().__init__(message)
        self.path, self.reason, self.line, self.byte_offset = path, reason, line, byte_offset

    @classmethod
    def for_file(cls, path: str | Path, reason: Reason, detail: str) -> DataError:
        """Make the error for a whole file."""
        return cls(f"{path}: {reason}: {detail}", str(path), reason)

    @classmethod
    def for_row(cls, row: BadRow, advice: str = "") -> DataError:
        """Make the error for one row; the fault's remedy and further advice end its message."""
        message = ". ".join(part for part in (row.describe(), row.fault.remedy, advice) if part)
        return cls(message, row.path, row.fault.reason, row.line, row.byte_offset)


@dataclass
class SplitReport:
    """Counts of one split before any hold-out: `rows_read == rows_kept + sum(rejected.values())`."""

    files: list[str] = field(default_factory=list)
    rows_read: int = 0
    rows_kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> rows


@dataclass
class DataReport:
    """The counts of one load; pass an empty one to a loader, which fills it in.

    Attributes:
        held_out: Rows of train that became the validation split; 0 if there was one.
        label_counts: Rows by label id of each returned split, after any hold-out.
        lines: The file of each returned split that comes from one text file, and the line of each row, from 1.
        rejected_path: The file that lists the refused rows; None without refused rows or without a path.
        fingerprint: Depends on the returned rows, their labels and their split; not on the path.
        columns: The column that was read as `text`, `text_pair` and `label`.
    """

    splits: dict[str, SplitReport] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    held_out: int = 0
    label_counts: dict[str, list[int]] = field(default_factory=dict)
    lines: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict, compare=False, repr=False)
    rejected_path: str | None = None
    fingerprint: str = ""
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def rows_read(self) -> int:
        """Rows read in all splits."""
        return sum(split.rows_read for split in self.splits.values())

    @property
    def rows_rejected(self) -> int:
        """Rows refused in all splits."""
        return sum(sum(split.rejected.values()) for split in self.splits.values())


def parse_limit(max_bad_rows: int | float | str) -> tuple[int | None, float | None]:
    """Read a limit on bad rows, a count (5, "5") or a share ("0.1%", 0.001); return (count, None) or (None, share)."""
    number = str(max_bad_rows).strip()
    if number.isdecimal():
        return int(number), None
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if 0 <= share < 1:
        return None, share
    raise UserError(f"max_bad_rows is {max_bad_rows!r}: give a count such as 5, or a share of the rows such as 0.1%")


class Ledger:
    """Count and list the refused rows of one load, and stop the load past the limit.

    The first refused row creates `rejected_path` in place of an older one; a load without any removes the older one.
    """

    def __init__(self, max_bad_rows: int | float | str, rejected_path: str | Path | None, report: DataReport) -> None:
        self.limit, self.share = parse_limit(max_bad_rows)
        self.max_bad_rows, self.report = max_bad_rows, report
        vars(report).update(vars(DataReport()))  # forget an earlier load
        self._path = Path(rejected_path) if rejected_path is not None else None
        if self._path is not None and self._path.is_file():
            with self._path.open("rb") as file:
                if file.read(8) not in (b"", b'{"file":'):
                    raise UserError(f"{rejected_path} does not list rejected rows: give another rejected_path")
        self._stream: TextIO | None = None
        self._first: BadRow | None = None

    def reject(self, split: str, row: BadRow) -> None:
        """Count and list a bad row of a split; raise DataError past the limit."""
        self._first = self._first or row
        if self.limit == 0:
            raise DataError.for_row(row, "To skip such rows: --max_bad_rows N")
        self.report.splits[split].rejected[row.fault.reason.value] += 1
        if self._path is not None:
            if self._stream is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # names of files may hold bytes that are not UTF-8
                self._stream = self._path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
                self.report.rejected_path = str(self._path)
            self._stream.write(row.as_json() + "\n")
        elif self.report.rows_rejected <= _LOGGED_ROWS:
            logger.warning("rejected %s", row.describe())
        if self.limit is not None and self.report.rows_rejected > self.limit:
            raise DataError.for_row(row, f"This is one bad row more than --max_bad_rows {self.max_bad_rows} allows")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Close the list; after a load without error check a limit that is a share, and the counts."""
        if self._stream is not None:
            self._stream.close()
        if kind is not None:
            return
        read, rejected = self.report.rows_read, self.report.rows_rejected
        for name, split in self.report.splits.items():
            if split.rows_read != split.rows_kept + sum(split.rejected.values()):
                raise RuntimeError(f"rows went missing in {name}: {split}")  # a bug of this package
        if self.share is not None and self._first is not None and rejected > self.share * read:
            found = f"{rejected} of {read} rows are bad, more than --max_bad_rows {self.max_bad_rows} allows"
            raise DataError.for_row(self._first, f"This is the first; {found}")
        if self._path is not None and not rejected:
            self._path.unlink(missing_ok=True)
        if rejected:
            where = f"; they are listed in {self.report.rejected_path}" if self.report.rejected_path else ""
            logger.warning("%d of %d rows rejected%s", rejected, read, where)
