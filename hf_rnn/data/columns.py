"""Columns of a table: which ones are the texts and the labels, and whether a file names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..utils.errors import DataError
from . import ColumnFlags
from .errors import BadRow, Reason, file_error, listed
from .lines import is_table, suffix_of
from .read import read_lines, read_table
from .table import Table, list_cells

# ---- usual names ----

# Names of columns of texts and of labels, in any case; the first that a table has is taken.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "text": (
        *("text", "tweet", "sentence", "review", "content", "comment", "message"),
        *("nachricht", "kommentar", "bewertung", "satz", "inhalt"),
    ),
    "label": (
        *("label", "labels", "sentiment", "class", "category", "target", "emotion", "polarity"),
        *("kategorie", "klasse", "stimmung", "gefühl", "bewertung"),
    ),
}


def are_names(fields: Iterable[str]) -> bool:
    """Return whether fields are usual names of columns, one of texts and one of labels.

    A word that names both, such as `Bewertung`, is one of them only.
    """
    folded = {name.casefold() for name in fields}
    texts = folded.intersection(USUAL_NAMES["text"])
    labels = folded.intersection(USUAL_NAMES["label"])
    return bool(texts) and bool(labels) and len(texts | labels) > 1


def find_column(
    columns: Iterable[str], name: str | int | None, guesses: Iterable[str], path: str, flag: str
) -> str:
    """Return the name of a column: by name or number, or the first of `guesses` in any case.

    A dot in a name leads into nested records. Raises a [`DataError`] that lists the columns and
    names the `flag`.
    """
    columns = list(columns)
    guesses = list(guesses)
    if isinstance(name, int):
        name = columns[name] if 0 <= name < len(columns) else str(name)
    if name is not None:
        if name in columns or name.partition(".")[0] in columns:
            return name
    else:
        folded = {column.strip().casefold(): column for column in reversed(columns)}
        for guess in guesses:
            if guess in columns:
                return guess
            if guess.strip().casefold() in folded:
                return folded[guess.strip().casefold()]
    wanted = name or next(iter(guesses), flag)
    detail = f"no column {wanted!r:.80}: found {listed(columns)}; name one of them with --{flag}"
    if not columns:
        detail = f"no column {wanted!r:.80}, nor any other: hf-rnn label gives labels to texts"
    raise file_error(path, Reason.MISSING_COLUMN, detail)


# ---- texts, for verbs that need no labels ----


@dataclass(frozen=True)
class TextTable:
    """The texts of a table in order, and their labels; "" where one is missing."""

    path: str
    texts: Sequence[str]
    labels: Sequence[str] | None  # None without a column of labels


def read_named(
    path: str,
    given: Sequence[str | None],
    known: str | None = None,
    *,
    separator: str | None,
    encoding: str | None,
    quoting: str | None,
) -> tuple[Table, list[str]]:
    """Read a table, or another file as a text per line; return also the names of its columns.

    A TSV file has names if columns are `given` by name, or if its first line has the `known` name
    of the texts or a usual one. Without names they are `text`, `label` and numbers, or only numbers
    if a given column is one.
    """
    if not is_table(path):
        return read_lines(path, encoding), ["text"]
    columns = list(filter(None, given))
    texts = {*USUAL_NAMES["text"]}.difference(USUAL_NAMES["label"])
    texts.add(str(known).casefold())

    def have_names(fields: set[str]) -> bool:
        if columns:
            numbers = filter(str.isdecimal, columns)
            return len(list(numbers)) < len(columns) or not fields.isdisjoint(columns)
        is_name = len(fields) == 1 and not fields.isdisjoint(USUAL_NAMES["text"])
        return is_name or not texts.isdisjoint(fields) or are_names(fields)

    table = read_table(
        path,
        separator=separator,
        encoding=encoding,
        header=have_names if suffix_of(path) == ".tsv" else True,
        quoting=quoting,
    )
    names = list(table.columns)
    if not table.has_names and not any(map(str.isdecimal, columns)):
        names = ["text", "label", *names[2:]][: len(names)]
    return table, names


def read_text_table(path: str, flags: ColumnFlags) -> TextTable:
    """Read the texts of a table or the lines of another file, and the labels if there are any.

    Raises:
        DataError: For a missing column, and for a table without any text.
    """
    given = (flags.text_column, flags.label_column)
    layout = {"separator": flags.separator, "quoting": flags.quoting}
    table, names = read_named(path, given, encoding=flags.encoding, **layout)
    stored = dict(zip(names, table.columns, strict=True))

    def read(name: str) -> list[str]:
        column, bad = table.texts(stored[name])
        return ["" if row in bad else text or "" for row, text in enumerate(column.to_pylist())]

    text = find_column(names, flags.text_column, USUAL_NAMES["text"], path, "text_column")
    texts = read(text)
    if not any(map(str.strip, texts)):
        raise DataError(f"{path} has no text in the column {text!r}: name another", path)
    others = [name for name in names if name != text]
    usual = {name.casefold() for name in others}.intersection(USUAL_NAMES["label"])
    labels = None
    if flags.label_column is not None or usual:
        label = find_column(others, flags.label_column, USUAL_NAMES["label"], path, "label_column")
        labels = read(label)
    return TextTable(path, texts, labels)


def read_column(
    path: str | Path, column: str | None = None, *, encoding: str | None = None
) -> Iterator[str | BadRow]:
    """Yield the texts of a table's column, or the lines of another file; a missing text is "".

    Without a `column`, or if the table lacks it, the column is found by a usual name, such as
    `text`.
    """
    path = str(path)
    name = "text"
    if is_table(path):
        table = read_table(path, encoding=encoding)
        is_there = column is not None and (column in table.columns or "." in column)
        wanted = column if is_there else None
        name = find_column(table.columns, wanted, USUAL_NAMES["text"], path, "text_column")
    else:
        table = read_lines(path, encoding)
    texts, bad = table.texts(name)
    for number, text in enumerate(chain.from_iterable(map(list_cells, texts.chunks))):
        yield bad.get(number) or text or ""
