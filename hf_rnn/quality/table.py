"""Texts of a table that need no labels, and the labels where it has some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Literal

from ..data.lines import is_table, suffix_of
from ..data.read import read_lines, read_table
from ..data.table import USUAL_NAMES, Table, find_column
from ..models.settings_rnn import setting
from ..utils.errors import DataError


@dataclass
class ColumnFlags:
    """Flags that say how a table is read. A subclass has the other flags of a verb."""

    group: ClassVar[str] = "flags"  # in the help

    text_column: str | None = setting(None, "column of the text (default: text, message, ...)")
    label_column: str | None = setting(
        None, "column of the labels that are there (default: label, ...)"
    )
    separator: str | None = setting(None, "comma, semicolon, bar or tab (default: found)")
    encoding: str | None = setting(None, "encoding of text files, such as cp1252 (default: found)")
    quoting: Literal["csv", "none"] | None = setting(
        None, 'csv: a " encloses fields of a table; none: it is a letter'
    )


@dataclass(frozen=True)
class TextTable:
    """The texts of a table in order, and their labels; "" where one is missing."""

    path: str
    texts: Sequence[str]
    labels: Sequence[str] | None  # None without a column of labels


def read_texts(path: str, flags: ColumnFlags) -> TextTable:
    """Read a table, or another file as a text per line.

    Raises:
        DataError: For a missing column, and for a table without any text.
    """
    table = _read_table(path, flags) if is_table(path) else read_lines(path, flags.encoding)
    names = list(table.columns)
    if not table.has_names:  # a text and a label, as files for training have them
        names = ["text", "label", *names[2:]][: len(names)]
    text = find_column(names, flags.text_column, USUAL_NAMES["text"], path, "text_column")
    texts = _read_column(table, names.index(text))
    if not any(map(str.strip, texts)):
        raise DataError(f"{path} has no text in the column {text!r}: name another", path)

    others = [name for name in names if name != text]
    usual = {name.casefold() for name in others}.intersection(USUAL_NAMES["label"])
    labels = None
    if flags.label_column is not None or usual:
        label = find_column(others, flags.label_column, USUAL_NAMES["label"], path, "label_column")
        labels = _read_column(table, names.index(label))
    return TextTable(path, texts, labels)


def _read_table(path: str, flags: ColumnFlags) -> Table:
    usual = set(chain.from_iterable(USUAL_NAMES.values()))
    usual |= {str(flags.text_column).casefold(), str(flags.label_column).casefold()}

    def are_names(fields: set[str]) -> bool:
        return not usual.isdisjoint(fields)

    return read_table(
        path,
        separator=flags.separator,
        encoding=flags.encoding,
        header=are_names if suffix_of(path) == ".tsv" else True,
        quoting=flags.quoting,
    )


def _read_column(table: Table, number: int) -> list[str]:
    column, bad = table.texts(list(table.columns)[number])
    texts = [text or "" for text in column.to_pylist()]
    for row in bad:
        texts[row] = ""
    return texts
