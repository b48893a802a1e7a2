"""Where text and label stand in the lines of a TSV file: what is declared, and what the first line makes of it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from ..utils.errors import UserError
from .file_encoding import not_utf8
from .labels import listed
from .row_errors import DataError, Fault, Reason

MAX_LINE_BYTES = 1 << 20

# Names that people give to these two columns; a first line that holds one, and no known label, is a header.
_TEXT_HEADERS = {"text", "tweet", "sentence", "review", "content", "comment", "message", "document", "body"}
_LABEL_HEADERS = {
    "label",
    "sentiment",
    "class",
    "category",
    "target",
    "emotion",
    "polarity",
    "tag",
    "topic",
    "intent",
    "y",
}


@dataclass(frozen=True)
class TsvFormat:
    """How the lines of a file are laid out, as declared.

    Attributes:
        text_column: The text's column, by number from 0 or by its name in the header; None is 0, not declared.
        label_column: The label's column; None is 1, not declared.
        header: Whether the first line names the columns. Where none are declared those called `text` and `label`
            are taken, in any case; without such names the two that there are, and of more none.
        max_line_bytes: A longer line, its end not counted, is refused; bounds the memory.
    """

    text_column: int | str | None = None
    label_column: int | str | None = None
    header: bool = False
    max_line_bytes: int = MAX_LINE_BYTES

    def __post_init__(self) -> None:
        text, label = self.columns
        if text == label:
            raise UserError(f"text and label are both column {text!r}: they must be two columns")
        for column in (text, label):
            if isinstance(column, str) and not self.header:
                raise UserError(
                    f"column {column!r} is a name, and no header is declared: add --header, or give its number from 0"
                )
            if isinstance(column, int) and column < 0:
                raise UserError(f"column {column} is negative: columns are counted from 0")
        if not 0 < self.max_line_bytes <= 1 << 30:
            raise UserError(f"max_line_bytes is {self.max_line_bytes}: give 1 to {1 << 30}")

    @property
    def columns(self) -> tuple[int | str, int | str]:
        """Text and label, declared or not."""
        return (
            0 if self.text_column is None else self.text_column,
            1 if self.label_column is None else self.label_column,
        )

    @property
    def is_declared(self) -> bool:
        """Whether a column was named."""
        return self.text_column is not None or self.label_column is not None


@dataclass(frozen=True)
class Layout:
    """How the lines of one file are laid out.

    Attributes:
        fields: Fields that each line must have.
        text: Number of the text's column.
        label: Number of the label's column.
        max_line_bytes: See `TsvFormat`.
    """

    fields: int
    text: int
    label: int
    max_line_bytes: int = MAX_LINE_BYTES


def layout_of(path: str, first_line: bytes, declared: TsvFormat) -> Layout:
    """Return the layout of a file.

    Two fields are expected where nothing else is declared, else as many as the first line has.

    Args:
        path: The file's name, for messages.
        first_line: Its first line.
        declared: What the user says of it.

    Raises:
        DataError: If a column is not there.
        UserError: If both columns are one.
    """
    cap = declared.max_line_bytes
    if not declared.header and not declared.is_declared:
        return Layout(2, 0, 1, cap)
    line = first_line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        names = line.decode().split("\t")
    except UnicodeDecodeError as error:
        if declared.header:
            raise DataError.of_file(path, not_utf8(line, error, 0)) from None
        names = [""] * (line.count(b"\t") + 1)  # the reader will say what is wrong with this line
    columns = declared.columns if declared.is_declared else _named(path, names)
    text, label = (_find(path, column, names, declared.header) for column in columns)
    if text == label:
        raise UserError(f"{path}: text and label are both column {text}: they must be two columns")
    return Layout(len(names), text, label, cap)


def _named(path: str, names: list[str]) -> tuple[int | str, int | str]:
    """The columns that a header calls text and label, else the first two if there are no more."""
    alike = {name.strip().casefold(): name for name in reversed(names)}
    text, label = (wanted if wanted in names else alike.get(wanted) for wanted in ("text", "label"))
    if text is not None and label is not None:
        return text, label
    if len(names) <= 2:
        return 0, 1
    detail = f"its header {listed(names)} has no column 'text' and 'label'"
    remedy = "Say which are meant with --text_column and --label_column, by name"
    raise DataError.of_file(path, Fault(Reason.MISSING_COLUMN, detail, remedy))


def _find(path: str, column: int | str, names: list[str], header: bool) -> int:
    if isinstance(column, int):
        if column < len(names):
            return column
    elif names.count(column) == 1:
        return names.index(column)
    times = "twice" if column in names else "not"
    there = listed(names) if header else f"{len(names)} fields, counted from 0"
    near = difflib.get_close_matches(str(column), names, n=1, cutoff=0.5) if column not in names else []
    nearest = f"; the nearest is {near[0]!r:.80}" if near else ""
    detail = f"column {column!r:.80} is {times} in its first line, which has {there}{nearest}"
    remedy = "Set --text_column and --label_column, by number, or by name with --header"
    raise DataError.of_file(path, Fault(Reason.MISSING_COLUMN, detail, remedy))


def looks_like_header(text: str, label: str, integers: bool) -> bool:
    """Whether a first line whose label is known nowhere else is a header.

    Args:
        text: Its text field.
        label: Its label field.
        integers: Whether all other labels are integers.
    """
    if len(text.split()) > 3 or len(label.split()) > 3:
        return False
    text_words, label_words = (set(re.split(r"[\W_]+", field.casefold())) for field in (text, label))
    if text_words & _TEXT_HEADERS and len(text_words) <= 2 or label_words & _LABEL_HEADERS:
        return True
    return integers and not label.strip("+-").isdigit() and len(text_words) == 1
