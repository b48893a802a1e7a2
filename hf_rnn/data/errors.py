"""Rejected rows: the rules for texts and labels, and the errors for a row and for a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from ..utils.errors import DataError, explain

EXCERPT_CHARACTERS = 80
MOST_LISTED = 10  # labels or columns in a message


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
    Reason.NOT_A_NUMBER: "If the first line names the columns, give --label_column NAME; "
    "a decimal point is a point",
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


def file_error(path: str | Path, reason: Reason, detail: str) -> DataError:
    """Return the error for a whole file."""
    return DataError(f"{path}: {reason}: {detail}", str(path), reason)


def row_error(row: BadRow, advice: str = "") -> DataError:
    """Return the error for one row, with the remedy of its reason and further advice."""
    sentences = [row.describe(), _REMEDIES.get(row.fault.reason), advice]
    message = ". ".join(filter(None, sentences))
    return DataError(message, row.path, row.fault.reason, row.line)


def explain_file(path: str | Path, suffix: str = "") -> AbstractContextManager[None]:
    """Return a context that raises errors of libraries that read a file as a [`DataError`]."""
    problem = "it is damaged"
    if suffix:
        problem = f"it is not a .{suffix} file, or it is damaged"
    make = partial(file_error, path, Reason.UNREADABLE)
    return explain(problem, make, (Exception,))
