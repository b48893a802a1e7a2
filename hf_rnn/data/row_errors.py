"""What can be wrong with a row or a file: typed reasons, the rules for texts and labels, the error that stops."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..utils.errors import UserError

EXCERPT_CHARACTERS = 80

# What str.isspace says in Unicode 16, written out so that it does not change with Python.
WHITE_SPACE = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


class Reason(StrEnum):
    """Why a row or a whole file is refused; the value is what messages and `rejected.jsonl` say."""

    TOO_FEW_FIELDS = "too few fields"
    TOO_MANY_FIELDS = "too many fields"
    EMPTY_TEXT = "empty text"
    BLANK_TEXT = "text of only white space"
    EMPTY_LABEL = "empty label"
    UNKNOWN_LABEL = "unknown label"
    LABEL_OUT_OF_RANGE = "label out of range"
    NOT_UTF8 = "not UTF-8"
    NUL = "NUL character"
    LINE_TOO_LONG = "line over the cap"
    UNDECLARED_HEADER = "header where none was declared"
    SCORE_NOT_FINITE = "score not finite"
    # Below: whole files and folders, which no limit on bad rows lets pass.
    UTF16 = "UTF-16"
    COMPRESSED = "compressed file"
    EMPTY_FILE = "empty file"
    MISSING_COLUMN = "missing column"
    NO_HEADER = "row where a header was declared"
    NO_TRAIN_SPLIT = "no train split"
    FILE_CHANGED = "file changed while in use"


@dataclass(frozen=True)
class Fault:
    """What is wrong, without where: a reason, what was found, and what to do about it (may be empty)."""

    reason: Reason
    detail: str
    remedy: str = ""


def text_fault(text: str) -> Fault | None:
    """Return what is wrong with a text."""
    if not text:
        return Fault(Reason.EMPTY_TEXT, "nothing stands where the text should")
    if not text.strip(WHITE_SPACE):
        return Fault(Reason.BLANK_TEXT, f"the text is {text[:EXCERPT_CHARACTERS]!r}")
    if "\0" in text:
        return Fault(Reason.NUL, f"NUL is character {text.index(chr(0)) + 1} of the text")
    return None


def label_fault(label: str) -> Fault | None:
    """Return what is wrong with a label whichever labels are known."""
    bare = label.strip(WHITE_SPACE)
    if not bare:
        return Fault(Reason.EMPTY_LABEL, f"the label is {label!r}")
    if bare != label:
        return Fault(Reason.UNKNOWN_LABEL, f"label {label!r} has white space at its ends; the nearest is {bare!r}")
    if "\0" in label:
        return Fault(Reason.NUL, f"NUL is character {label.index(chr(0)) + 1} of label {label!r:.80}")
    return None


@dataclass(frozen=True)
class BadRow:
    r"""One refused row.

    Attributes:
        path: The file, or `name[split]` of a data set that is no file.
        line: Line of the file from 1, or row of such a data set from 0.
        byte_offset: Offset of the line's first byte in the file; None for a data set that is no file.
        fault: What is wrong with it.
        excerpt: The start of its text, or of the line where no text can be told; undecodable bytes as `\xNN`.
    """

    path: str
    line: int
    byte_offset: int | None
    fault: Fault
    excerpt: str

    def describe(self) -> str:
        """Return place, reason, finding and excerpt in one line."""
        place = f"{self.path}:{self.line}" if self.byte_offset is not None else f"{self.path} row {self.line}"
        start = f" (it starts {self.excerpt!r})" if self.excerpt else ""
        return f"{place}: {self.fault.reason}: {self.fault.detail}{start}"

    def as_json(self) -> str:
        """Return the line that `rejected.jsonl` holds for this row."""
        record = {
            "file": self.path,
            "line": self.line,
            "byte_offset": self.byte_offset,
            "reason": self.fault.reason.value,
            "detail": self.fault.detail,
            "text": self.excerpt,
        }
        # JSON lets these three stand as they are, and many readers of lines would cut there.
        return re.sub(
            "[\x85\u2028\u2029]", lambda end: f"\\u{ord(end[0]):04x}", json.dumps(record, ensure_ascii=False)
        )


class DataError(UserError):
    """Data that cannot be used as it stands.

    Attributes:
        path: The file, folder or data set.
        line: Line from 1 (row from 0 in a data set that is no file), None when the whole file is meant.
        byte_offset: Offset of that line in the file, if there is one.
        reason: The typed reason.
        excerpt: The start of the row's text, empty when the whole file is meant.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str,
        reason: Reason,
        line: int | None = None,
        byte_offset: int | None = None,
        excerpt: str = "",
    ) -> None:
        super().__init__(message)
        self.path, self.line, self.byte_offset, self.reason, self.excerpt = path, line, byte_offset, reason, excerpt

    @property
    def is_of_a_name(self) -> bool:
        """`bool`: Whether a label is not known by what it is called, so that it helps to list those that are."""
        # the number of a data set's own label says nothing beside names
        numbered = self.reason is Reason.LABEL_OUT_OF_RANGE and self.byte_offset is not None
        return numbered or self.reason is Reason.UNKNOWN_LABEL

    @classmethod
    def of_file(cls, path: str | Path, fault: Fault) -> DataError:
        """Make the error for a fault of a whole file."""
        remedy = f". {fault.remedy}" if fault.remedy else ""
        return cls(f"{path}: {fault.reason}: {fault.detail}{remedy}", path=str(path), reason=fault.reason)

    @classmethod
    def of_row(cls, row: BadRow, advice: str = "") -> DataError:
        """Make the error for one row, with the fault's remedy and further advice at its end."""
        message = ". ".join(part for part in (row.describe(), row.fault.remedy, advice) if part)
        return cls(
            message,
            path=row.path,
            reason=row.fault.reason,
            line=row.line,
            byte_offset=row.byte_offset,
            excerpt=row.excerpt,
        )

    def with_advice(self, advice: str) -> DataError:
        """Return the same error with a further sentence at the end of its message."""
        return DataError(
            f"{self}. {advice}",
            path=self.path,
            reason=self.reason,
            line=self.line,
            byte_offset=self.byte_offset,
            excerpt=self.excerpt,
        )
