"""A file with one text a line → texts for a teacher to label, every line accounted for."""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...data.audit import normalize_text
from ...data.line_reader import read_texts
from ...data.row_errors import BadRow, text_fault
from ...utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnlabeledTexts:
    """The texts of a file; `lines` is the sum of the other counts.

    Attributes:
        name: Of the file.
        texts: Strings (N), in the order of the lines. They lie in memory as bytes of the file do, without more.
        lines: Lines of the file.
        refused: Lines that are no text: not UTF-8, a NUL, too long.
        blank: Lines without a character, or of white space only.
        held_out: Texts that stand in the validation or test split too, which are not learned from.
        labeled: Texts that stand in the training split, where a teacher that has not seen them is asked.
    """

    name: str
    texts: pa.ChunkedArray
    lines: int
    refused: int
    blank: int
    held_out: int
    labeled: int

    def describe(self) -> dict[str, Any]:
        """Return the counts as JSON can hold them."""
        counts = {name: getattr(self, name) for name in ("lines", "refused", "blank", "held_out", "labeled")}
        return {"file": self.name, **counts, "kept": len(self.texts)}


def read_unlabeled(
    path: Path,
    held_out: Container[str] = frozenset(),
    labeled: Container[str] = frozenset(),
    class_names: Container[str] = frozenset(),
) -> UnlabeledTexts:
    """Read a file, and say in one line how many of its lines are left out, and why.

    Args:
        path: The file; what a line is, says [`~hf_rnn.data.line_reader.read_texts`].
        held_out: Texts of the validation and test splits, to leave out, in the form of
            [`~hf_rnn.data.audit.normalize_text`]. Of a line that tabs divide, a column is enough.
        labeled: Those of the training split, to leave out too, in the same form.
        class_names: Labels, none of which may be a column of a line that tabs divide: its text would not be known
            again, and its label be learned as a word.

    Raises:
        DataError: For a file that is no text as a whole, such as a compressed one.
        UserError: For a file of labelled rows, and when no text is left.
    """
    blocks: list[pa.Array] = []
    lines = refused = blank = number_held_out = number_labeled = 0
    first_refused: BadRow | None = None
    with path.open("rb") as stream:
        for block in read_texts(stream, path.name):
            kept = []
            for position, line in enumerate(block, 1):
                if isinstance(line, BadRow):
                    refused += 1
                    first_refused = first_refused or line
                elif "\t" in line and (label := _label_in(line.split("\t"), class_names)) is not None:
                    raise UserError(
                        f"unlabeled {path}, line {lines + position}: a column with the label {label!r}. Give one "
                        "text a line: the column of the texts alone, as scripts/collect_unlabeled.py takes it"
                    )
                elif text_fault(line):  # a NUL is refused by then
                    blank += 1
                elif _stands_in(held_out, line):
                    number_held_out += 1
                elif _stands_in(labeled, line):
                    number_labeled += 1
                else:
                    kept.append(line)
            lines += len(block)
            blocks.append(pa.array(kept, pa.string()))
    texts = pa.chunked_array(blocks, pa.string())
    read = UnlabeledTexts(path.name, texts, lines, refused, blank, number_held_out, number_labeled)
    left_out = {
        "" if first_refused is None else f"no text (the first is {first_refused.describe()})": refused,
        "blank": blank,
        "in the validation or test split too": number_held_out,
        "in the training split, with a label": number_labeled,
    }
    told = ", ".join(f"{count:,} are {reason}" for reason, count in left_out.items() if count)
    if not len(read.texts):
        raise UserError(
            f"unlabeled {path} has no text to learn from: of its {lines:,} lines {told or 'there is none'}"
        )
    if told:
        logger.warning("of the %s lines of %s these are left out: %s", f"{lines:,}", path.name, told)
    return read


def _label_in(columns: Sequence[str], class_names: Container[str]) -> str | None:
    """The label that stands in one of several columns, if there is one."""
    return next((column.strip() for column in columns if column.strip() in class_names), None)


def _stands_in(texts: Container[str], line: str) -> bool:
    """Whether a line, or a column of one that tabs divide, is one of these texts."""
    return normalize_text(line) in texts or (
        "\t" in line and any(normalize_text(c) in texts for c in line.split("\t"))
    )
