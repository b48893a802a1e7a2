"""Rejected rows: the rules for texts and labels, the error that stops a load, and the count of all rows."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError, reason_of

if TYPE_CHECKING:
    import numpy as np

    from .read import Table

logger = logging.getLogger(__name__)

EXCERPT_CHARACTERS = 80
MOST_LISTED = 10  # labels or columns in a message
_LOGGED_ROWS = 20  # rejected rows that are logged one by one when no file lists them


def listed(labels: Iterable[str]) -> str:
    """Return labels for a message: quoted, and shortened."""
    return shorten([f"{name!r:.80}" for name in labels])


def shorten(items: Sequence[str]) -> str:
    """Return the first items for a message, and the number of the others."""
    more = len(items) - MOST_LISTED
    return ", ".join(items[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


class Reason(StrEnum):
    """Why a row or a whole file is rejected; messages and `rejected.jsonl` contain the value."""

    TOO_FEW_FIELDS = "too few fields"
    TOO_MANY_FIELDS = "too many fields"
    EMPTY_TEXT = "empty text"
    BLANK_TEXT = "text of only white space"
    EMPTY_LABEL = "empty label"
    UNKNOWN_LABEL = "unknown label"
    NOT_A_NUMBER = "not a number"
    NOT_FINITE = "number not finite"
    NOT_UTF8 = "not UTF-8"
    NUL = "NUL character"
    LINE_TOO_LONG = "line over the cap"
    MISPLACED_QUOTE = "misplaced quote"
    NOT_JSON = "not a JSON record"
    NOT_A_TEXT = "not a text"
    # Reasons below concern whole files and folders; no limit on rejected rows applies.
    UNREADABLE = "unreadable file"
    EMPTY_FILE = "empty file"
    MISSING_COLUMN = "missing column"
    NO_TRAIN_SPLIT = "no train split"


@dataclass(frozen=True)
class Fault:
    """A reason and what was found, without the place."""

    reason: Reason
    detail: str


# by reason: advice for a row that stops a load
_REMEDIES = {
    Reason.NOT_UTF8: "Save the file as UTF-8, or name its encoding with --encoding",
    Reason.NOT_JSON: 'Write a record such as {"text": "..."}',
    Reason.NOT_A_NUMBER: "If the first line names the columns, give --label_column NAME; a decimal point is a point",
    Reason.MISPLACED_QUOTE: 'Quote texts that hold ", write " as "" in them, and close each quote, '
    "or set --quoting none",
}


def text_fault(text: str) -> Fault | None:
    """Return what is wrong with a text."""
    if not text:
        return Fault(Reason.EMPTY_TEXT, "the text has no character")
    if text.isspace():
        return Fault(Reason.BLANK_TEXT, f"the text is {text[:EXCERPT_CHARACTERS]!r}")
    return (
        Fault(Reason.NUL, f"NUL is character {text.index(chr(0)) + 1} of the text")
        if "\0" in text
        else None
    )


def label_fault(label: str) -> Fault | None:
    """Return what is wrong with a label, independent of the classes."""
    if not label or label.isspace():
        return Fault(Reason.EMPTY_LABEL, f"the label is {label!r:.80}")
    if label.strip() != label:
        return Fault(Reason.UNKNOWN_LABEL, f"label {label!r:.80} has white space at its ends")
    return Fault(Reason.NUL, f"NUL is in label {label!r:.80}") if "\0" in label else None


@dataclass(frozen=True)
class BadRow:
    r"""One rejected row: its line in a text file, from 1, or its row in another table.

    `excerpt` is the start of its text, or of the line if its text is unknown; undecodable bytes as
    `\xNN`.
    """

    path: str
    line: int
    fault: Fault
    excerpt: str
    unit: str = "line"  # or "row"

    def describe(self) -> str:
        """Return place, reason, detail and excerpt in one line."""
        place = (
            f"{self.path}:{self.line}"
            if self.unit == "line"
            else f"{self.path} {self.unit} {self.line}"
        )
        is_new = self.excerpt and repr(self.excerpt) not in self.fault.detail
        start = f" (it starts {self.excerpt!r})" if is_new else ""
        return f"{place}: {self.fault.reason}: {self.fault.detail}{start}"

    def as_json(self) -> str:
        """Return the line of `rejected.jsonl` for this row."""
        record = {"file": self.path, "line": self.line, "reason": self.fault.reason.value}
        return json.dumps(
            record | {"detail": self.fault.detail, "text": self.excerpt}, ensure_ascii=False
        )


class DataError(UserError):
    """Unusable data: `path`, typed `reason`, and `line` for a row, as of [`BadRow`]."""

    def __init__(self, message: str, path: str, reason: Reason, line: int | None = None) -> None:
        super().__init__(message)
        self.path, self.reason, self.line = path, reason, line

    @classmethod
    def for_file(cls, path: str | Path, reason: Reason, detail: str) -> DataError:
        """Make the error for a whole file."""
        return cls(f"{path}: {reason}: {detail}", str(path), reason)

    @classmethod
    def for_row(cls, row: BadRow, advice: str = "") -> DataError:
        """Make the error for one row; the remedy of its reason and further advice end its message."""
        message = ". ".join(filter(None, (row.describe(), _REMEDIES.get(row.fault.reason), advice)))
        return cls(message, row.path, row.fault.reason, row.line)


@contextmanager
def name_file(path: str | Path, suffix: str = "") -> Iterator[None]:
    """Raise any error of a library, while a file is read, as a [`DataError`] of one line with the file's name."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers raise anything for damaged files
        problem = f"it is not a .{suffix} file, or it is damaged" if suffix else "it is damaged"
        raise DataError.for_file(
            path, Reason.UNREADABLE, f"{problem}: {reason_of(error):.300}"
        ) from error


# ---- the count of all rows ----


@dataclass
class SplitReport:
    """Counts of one split before any hold-out: `rows_read == rows_kept + sum(rejected.values())`."""

    files: list[str] = field(default_factory=list)
    rows_read: int = 0
    rows_kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> rows
    trimmed: int = 0  # labels that lost white space at their ends


@dataclass
class DataReport:
    """The record of one load; pass an empty one to a loader, which fills it in."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    # names of those read as `text`, `text_pair` and `label`
    columns: dict[str, str] = field(default_factory=dict)
    # `rows` of train that became validation, with `share` and `seed`
    held_out: dict[str, Any] | None = None
    # by split and label id, after any hold-out
    label_counts: dict[str, list[int]] = field(default_factory=dict)
    # of each returned split from a single file: the file, and the place of each row
    tables: dict[str, tuple[Table, np.ndarray]] = field(
        default_factory=dict, compare=False, repr=False
    )
    rejected_path: str | None = None  # the file that lists the rejected rows, if there are any

    @property
    def lines(self) -> dict[str, tuple[str, np.ndarray]]:
        """The file of each returned split that comes from one text file, and the line of each row, from 1."""
        return {
            split: (table.path, places)
            for split, (table, places) in self.tables.items()
            if table.unit == "line"
        }

    @property
    def rows_read(self) -> int:
        """Rows read in all splits."""
        return sum(split.rows_read for split in self.splits.values())

    @property
    def rows_rejected(self) -> int:
        """Rows rejected in all splits."""
        return sum(split.rejected.total() for split in self.splits.values())


class Ledger:
    """Count all rejected rows of one load; at its end stop if they are too many, or list them in `rejected_path`.

    `max_bad_rows` is a count, as 5 or "5", or a share of all rows, as 0.001 or "0.1%".
    """

    def __init__(
        self, max_bad_rows: int | float | str, rejected_path: str | Path | None, report: DataReport
    ) -> None:
        self.max_bad_rows = limit = str(max_bad_rows).strip()
        self.count = int(limit) if limit.isdecimal() else None
        try:
            self.share = float(limit.removesuffix("%")) / (100 if limit.endswith("%") else 1)
        except ValueError:
            self.share = -1.0
        if self.count is None and not 0 <= self.share < 1:
            raise UserError(
                f"max_bad_rows is {limit}: give a count such as 5, or a share of the rows such as 0.1%"
            )
        self.path = None if rejected_path is None else Path(rejected_path)
        # after the numbers of its split, its file and its line
        self.rows: list[tuple[int, int, int, BadRow]] = []
        self.report = report
        vars(report).update(vars(DataReport()))  # forget an earlier load

    def reject(self, split: str, row: BadRow) -> None:
        """Count a rejected row of a split; of the first ones, as many as the limit and one more are kept."""
        counts = self.report.splits[split]
        counts.rejected[row.fault.reason.value] += 1
        self.rows.append(
            (list(self.report.splits).index(split), counts.files.index(row.path), row.line, row)
        )
        if self.count is not None and len(self.rows) > 2 * self.count + 1000:
            del self.sort()[self.count + 1 :]

    def sort(self) -> list[tuple[int, int, int, BadRow]]:
        """Sort the rejected rows by their place."""
        self.rows.sort(key=lambda entry: entry[:3])
        return self.rows

    def check(self) -> None:
        """Raise a [`DataError`] that names the first rejected row if there are more than the limit."""
        rows, bad = self.report.rows_read, self.report.rows_rejected
        if bad > (self.share * rows if self.count is None else self.count):
            first = (
                f"This is the first of {bad} rejected rows"
                if bad > 1
                else "This is the only rejected row"
            )
            allowed = (
                "" if self.count == 0 else f", and --max_bad_rows {self.max_bad_rows} allows fewer"
            )
            advice = f"{first} among {rows}{allowed}. To skip {'them' if bad > 1 else 'it'}: --max_bad_rows {bad}"
            raise DataError.for_row(self.sort()[0][-1], advice)

    def close(self) -> None:
        """Check the counts and the limit, and list the rejected rows, in a file or in the log."""
        for name, split in self.report.splits.items():
            if split.rows_read != split.rows_kept + split.rejected.total():
                raise RuntimeError(f"rows went missing in {name}: {split}")  # a bug of this package
            if split.trimmed:
                logger.warning(
                    "%s: white space at the ends of %d labels was removed", name, split.trimmed
                )
        self.check()
        rows, where = [row for *_, row in self.sort()], ""
        if self.path is None:
            for row in rows[:_LOGGED_ROWS]:
                logger.warning("rejected %s", row.describe())
        elif rows:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = "".join(row.as_json() + "\n" for row in rows)
            # names of files may hold bytes that are not UTF-8
            self.path.write_text(lines, encoding="utf-8", errors="backslashreplace", newline="\n")
            self.report.rejected_path, where = str(self.path), f"; they are listed in {self.path}"
        else:
            self.path.unlink(missing_ok=True)
        if rows:
            logger.warning(
                "%d of %d rows rejected%s", self.report.rows_rejected, self.report.rows_read, where
            )
