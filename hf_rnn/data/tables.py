r"""One reader of tables: CSV and TSV with a header, JSON lines, Parquet, Arrow, Excel, each also as `.gz` or `.zst`.

Separator and encoding are found in the first megabyte. Memory is independent of the size of the file, except for
Excel, for JSON that is one list, and for compressed Parquet or Arrow files. No row is lost: a row is delivered, or it
is a [`BadRow`] with its line and reason.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..utils.errors import UserError, install_hint, reason_of
from .delimited import (
    MAX_LINE_BYTES,
    NO_SEPARATOR,
    SAMPLE_BYTES,
    Batch,
    DelimitedText,
    TextFile,
    decode_line,
    excerpt_of,
    find_separator,
    open_unpacked,
)
from .labels import listed
from .row_errors import EXCERPT_CHARACTERS, BadRow, DataError, Fault, Reason

BATCH_ROWS = 10_000

# Names of columns of texts and of labels, in any case; the first that a table has is taken.
TEXT_NAMES = ("text", "tweet", "sentence", "review", "content", "comment", "message")
LABEL_NAMES = ("label", "labels", "sentiment", "class", "category", "target", "emotion", "polarity")

_KINDS = {
    "delimited": ("tsv", "csv", "tab", "psv"),
    "json": ("jsonl", "ndjson", "json"),
    "parquet": ("parquet", "pq"),
    "arrow": ("arrow", "feather", "ipc"),
    "excel": ("xlsx", "xlsm"),
}
PACKED = (".gz", ".zst", ".zstd")
TABLE_SUFFIXES = tuple(f".{suffix}" for suffixes in _KINDS.values() for suffix in suffixes)

_LIBRARY_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException, KeyError, ValueError)

Read = Callable[[Sequence[str] | None], Iterator[Batch]]


@dataclass(frozen=True)
class Table:
    """Rows in a file or a data set, read again for each iteration.

    Attributes:
        path: The file, or the name of a data set in messages.
        kind: `delimited`, `json`, `parquet`, `arrow`, `excel` or `dataset`.
        columns: The names of the columns, in order. Later JSON lines may have further ones.
        separator: The separator of delimited text, None for other files.
        encoding: The encoding of a text file, None for others.
        header: Whether the first line of a file has the names.
        class_names: The names of a column of ClassLabel, in the order of its numbers.
    """

    path: str
    kind: str
    columns: list[str]
    separator: str | None = None
    encoding: str | None = None
    header: bool = False
    class_names: Mapping[str, list[str]] = field(default_factory=dict)
    _read: Read = field(default=lambda columns: iter(()), repr=False, compare=False)
    _stamp: tuple[int, int] | None = field(default=None, repr=False, compare=False)  # size and time of the file

    @property
    def is_unnamed(self) -> bool:
        """Whether the columns are only numbered."""
        return self.kind == "delimited" and not self.header and self.columns[0] == "0"

    def __iter__(self) -> Iterator[Batch]:
        """Read the table once."""
        return self.batches()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Read the table once, or these columns of it; dots lead into nested records, which come whole.

        Raises:
            DataError: For a file that is damaged as a whole, or changed since it was opened.
        """
        roots = None
        if columns is not None:
            roots = list(dict.fromkeys(name if name in self.columns else name.partition(".")[0] for name in columns))
        try:
            if self._stamp is not None and self._stamp != _stamp_of(self.path):
                raise DataError.for_file(self.path, Reason.FILE_CHANGED, "load it again")
            yield from self._read(roots)
        except UserError:
            raise
        except _LIBRARY_ERRORS as error:
            raise DataError.for_file(self.path, Reason.UNREADABLE, f"it is damaged: {reason_of(error):.300}") from None


def _stamp_of(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def is_table(path: str | Path) -> bool:
    """Return whether the name of a file is that of a table, such as `texts.csv` or `texts.jsonl.gz`."""
    return kind_of_name(str(path)) is not None


def suffix_of(path: str) -> str:
    """Return the suffix of a file's name without that of its packing: `.tsv` of `train.tsv.gz`."""
    name = path.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return os.path.splitext(name)[1]


def kind_of_name(path: str) -> str | None:
    """Return the kind of a table by the name of its file; None for other names."""
    return next((kind for kind, suffixes in _KINDS.items() if suffix_of(path)[1:] in suffixes), None)


def read_table(
    path: str | Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    header: bool | None = True,
    strict: int | None = None,
) -> Table:
    r"""Open a table, and find its kind, columns, separator and encoding.

    The kind follows from the name (`.csv .tsv .jsonl .json .parquet .arrow .feather .xlsx`, then `.gz` or `.zst`), of
    other names from the first bytes; files that are compressed are known by these, too.

    Args:
        path: A file.
        separator: The separator of delimited text, a character; `\t` and `tab` are a tab. By default comma, semicolon,
            tab or bar: the one that cuts most lines into as many fields as the header.
        encoding: The encoding of a text file, as Python names it. By default UTF-8, with or without a mark, UTF-16, or
            cp1252 if most lines of the first megabyte with other characters than ASCII are not UTF-8.
        header: Whether the first line of delimited text names the columns; otherwise they are `0`, `1`, ... None is
            true for known names such as `text` and `label` only.
        strict: If the first line has no names, the fields of a line, or 0 for those of the first: fields are separated
            by tabs, a `"` is a character, and each line is a row.

    Returns:
        A [`Table`]. Iterate over it for its batches, as often as needed:

            for batch in read_table("tweets.csv"):
                texts = batch.rows["text"].to_pylist()

    Raises:
        DataError: For an empty or unreadable file.
        UserError: For a missing file, an unknown encoding, or Excel without its extra.
    """
    name = str(path)
    head = _read_head(name)
    if not head.strip():
        raise DataError.for_file(name, Reason.EMPTY_FILE, "found no row")
    kind = kind_of_name(name) or _kind_of_bytes(head)
    try:
        if kind == "delimited":
            table = _open_delimited(name, head, separator, encoding, header, strict)
        elif kind == "json":
            table = _open_json(TextFile.open(name, head, encoding))
        else:
            table = {"parquet": _open_parquet, "arrow": _open_arrow, "excel": _open_excel}[kind](name)
        return replace(table, _stamp=_stamp_of(name))
    except UserError:
        raise
    except _LIBRARY_ERRORS as error:
        raise DataError.for_file(name, Reason.UNREADABLE, f"it is not {kind}: {reason_of(error):.300}") from None


def _read_head(path: str) -> bytes:
    """Return the first bytes of a file."""
    try:
        with open_unpacked(path) as stream:
            return stream.read(SAMPLE_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a table such as texts.csv, or a folder with train.tsv") from None
    except _LIBRARY_ERRORS as error:
        raise DataError.for_file(path, Reason.UNREADABLE, f"it is damaged: {reason_of(error)}") from None


def _kind_of_bytes(head: bytes) -> str:
    for start, kind in ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"PK\x03\x04", "excel"), (b"{", "json")):
        if head.startswith(start):
            return kind
    return "delimited"


def find_column(columns: Sequence[str], wanted: str | None, guesses: Iterable[str], path: str, flag: str) -> str:
    """Return the name of a column of a table: `wanted`, or the first of `guesses` that is there, in any case.

    A dot in `wanted` leads into nested records. Raises a [`DataError`] that lists the columns and names the `flag`.
    """
    guesses = list(guesses)
    if wanted is not None and (wanted in columns or wanted.partition(".")[0] in columns):
        if columns.count(wanted) > 1:
            raise DataError.for_file(path, Reason.MISSING_COLUMN, f"two columns are named {wanted!r:.80}; rename one")
        return wanted
    folded = {name.strip().casefold(): name for name in reversed(columns)}
    found = next((folded[guess] for guess in guesses if guess in folded), None) if wanted is None else None
    if found is not None and columns.count(found) == 1:
        return found
    missing = f"no column {wanted or next(iter(guesses), flag)!r:.80}"
    raise DataError.for_file(
        path, Reason.MISSING_COLUMN, f"{missing}: found {listed(columns)}; name one of them with --{flag}"
    )


def read_column(
    path: str | Path, column: str | None = None, *, separator: str | None = None, encoding: str | None = None
) -> Iterator[str | BadRow]:
    """Yield the texts of a column of a table, or the lines of a file of another kind, in order; "" if one is missing.

    Without a `column`, or if the table has no such column, it is that of texts by its name.
    """
    if is_table(path):
        table = read_table(path, separator=separator, encoding=encoding)
        known = column in table.columns or (column is not None and "." in column)
        name = find_column(table.columns, column if known else None, TEXT_NAMES, str(path), "text_column")
    else:
        table, name = open_lines(path, encoding), "text"
    for batch in table.batches([name]):
        for text in batch.in_order(take_column(batch.rows, name).to_pylist()):
            yield text if isinstance(text, BadRow) else "" if text is None else str(text)


def take_column(rows: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column of a batch; dots lead into nested records, and a column that the batch lacks is null."""
    names = rows.schema.names
    if name in names:
        return rows.column(names.index(name))
    root, _, rest = name.partition(".")
    if not rest or root not in names or not pa.types.is_struct(rows.schema.field(root).type):
        return pa.nulls(len(rows))
    fields = rows.column(names.index(root)).flatten()
    inner = pa.RecordBatch.from_arrays(fields, [part.name for part in rows.schema.field(root).type])
    return take_column(inner, rest)


def _select(rows: pa.RecordBatch, columns: Sequence[str] | None) -> pa.RecordBatch:
    return rows if columns is None else rows.select([name for name in columns if name in rows.schema.names])


# ---- text ----


def _open_delimited(
    path: str,
    head: bytes,
    separator: str | None,
    encoding: str | None,
    header: bool | None,
    strict: int | None,
) -> Table:
    text = TextFile.open(path, head, encoding, strict is not None)
    if separator is not None:
        separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
        if len(separator) != 1 or separator in '"\r\n':
            raise UserError(f"the separator must be one character: found {separator!r:.80}; give , ; | or tab")
    found = separator or ("\t" if strict is not None else find_separator(text.sample, suffix_of(path)))
    if header is None:
        first = {name.strip().casefold() for name in text.sample[0].split(found)}
        header = not first.isdisjoint(TEXT_NAMES) and not first.isdisjoint(LABEL_NAMES)
    rows = DelimitedText(text, found, header, None if header else strict)
    shown = "," if found == NO_SEPARATOR else found
    return Table(path, "delimited", rows.names, shown, text.encoding, header, {}, rows.batches)


def open_lines(path: str | Path, encoding: str | None = None, label: str | None = None) -> Table:
    """Open a text file as a table of the column `text`, with a row for each line, and of `label` if it is given."""
    name = str(path)
    text = TextFile.open(name, _read_head(name), encoding, strict=True)
    rows = DelimitedText(text, NO_SEPARATOR, header=False, fields=1)
    rows.names = ["text"]
    read: Read = rows.batches if label is None else partial(_read_labelled, rows, label)
    names = ["text"] if label is None else ["text", "label"]
    return Table(name, "lines", names, None, text.encoding, _read=read, _stamp=_stamp_of(name))


def _read_labelled(rows: DelimitedText, label: str, columns: Sequence[str] | None) -> Iterator[Batch]:
    for batch in rows.batches(["text"]):
        labels = pa.array([label] * len(batch.rows), pa.string())
        yield replace(batch, rows=pa.RecordBatch.from_arrays([batch.rows.column(0), labels], ["text", "label"]))


def open_folder(path: str | Path, encoding: str | None = None) -> Table:
    """Open a folder of text files as a table with a row for each file, and the folder's name as label."""
    return Table(str(path), "folder", ["text", "label"], _read=partial(_read_files, Path(path), encoding or "utf-8"))


def _read_files(folder: Path, encoding: str, columns: Sequence[str] | None) -> Iterator[Batch]:
    files = sorted(folder.glob("*.txt"))
    for start in range(0, len(files), 1000):
        texts, places, bad = [], [], []
        for place, file in enumerate(files[start : start + 1000], start):
            content = file.read_bytes().removeprefix(BOM_UTF8)
            text = decode_line(content, 0, MAX_LINE_BYTES, encoding)
            if isinstance(text, Fault):
                bad.append(BadRow(str(file), place, None, text, excerpt_of(content)))
            else:
                texts.append(text.removesuffix("\n").removesuffix("\r"))
                places.append(place)
        arrays = [pa.array(texts, pa.string()), pa.array([folder.name] * len(texts), pa.string())]
        yield Batch(np.array(places, dtype=np.int64), pa.RecordBatch.from_arrays(arrays, ["text", "label"]), bad)


def _open_json(text: TextFile) -> Table:
    is_list = next((line for line in text.sample if line.strip()), "").lstrip().startswith("[")
    read = partial(_read_json, text, _list_items if is_list else _list_lines)
    names: list[str] = next((batch.rows.schema.names for batch in read(None) if batch.rows.num_columns), [])
    # the rows of a list have no lines
    return Table(text.path, "json", names, None, None if is_list else text.encoding, _read=read)


def _list_lines(text: TextFile) -> Iterator[list[tuple[int, int | None, Any]]]:
    """Yield lists of number, offset and record of each line that is not blank, or the reason of its refusal."""
    for block in text.blocks():
        rows: list[tuple[int, int | None, Any]] = []
        for number, offset, line in text.lines(*block):
            record: Any = line
            if isinstance(line, str):
                if not line.strip():
                    continue
                record = _parse_record(text.path, number, offset, line.removesuffix("\r"))
            rows.append((number, offset, record))
        yield rows


def _parse_record(path: str, number: int, offset: int | None, written: str) -> Any:
    try:
        record = json.loads(written)
        if "\\ud" in written or "\\uD" in written:  # half of a surrogate pair, escaped, raises ValueError
            json.dumps(record, ensure_ascii=False).encode()
        return record
    except (ValueError, RecursionError) as error:
        fault = Fault(Reason.NOT_JSON, reason_of(error), 'Write a record such as {"text": "..."}')
        return BadRow(path, number, offset, fault, written[:EXCERPT_CHARACTERS])


def _list_items(text: TextFile) -> Iterator[list[tuple[int, int | None, Any]]]:
    """Yield the same of a file that is one list of records, whose rows count from 0."""
    with open_unpacked(text.path) as stream:
        items = json.loads(stream.read().decode(text.encoding).removeprefix("\ufeff"))
    for start in range(0, len(items), BATCH_ROWS):
        rows = enumerate(items[start : start + BATCH_ROWS], start)
        yield [(place, None, _parse_record(text.path, place, None, json.dumps(item))) for place, item in rows]


def _read_json(text: TextFile, list_rows: Any, columns: Sequence[str] | None) -> Iterator[Batch]:
    """Read records as columns, in the order of their first appearance; absent values are null."""
    for rows in list_rows(text):
        good = [row for row in rows if isinstance(row[2], dict)]
        bad = [row[2] for row in rows if isinstance(row[2], BadRow)]
        for number, offset, record in rows:
            if not isinstance(record, dict | BadRow):
                fault = Fault(Reason.NOT_JSON, f"found {type(record).__name__}")
                bad.append(BadRow(text.path, number, offset, fault, str(record)[:EXCERPT_CHARACTERS]))
        names = list(dict.fromkeys(name for *_, record in good for name in record)) if columns is None else columns
        arrays = [as_array([record.get(name) for *_, record in good]) for name in names]
        offsets = np.array([offset for _, offset, _ in good]) if good and good[0][1] is not None else None
        places = np.array([number for number, *_ in good], dtype=np.int64)
        yield Batch(places, pa.RecordBatch.from_arrays(arrays, list(names)), bad, offsets)


def as_array(values: list[Any]) -> pa.Array:
    """Return values as Arrow has them; values of several types become strings."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([value if value is None or isinstance(value, str) else str(value) for value in values])


# ---- binary files ----


def _open_seekable(path: str) -> pa.NativeFile:
    with open_unpacked(path) as stream:
        if isinstance(stream, io.BufferedReader) and not isinstance(stream.raw, pa.NativeFile):
            return pa.memory_map(path)
        return pa.BufferReader(stream.read())


def number_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Batch]:
    """Give the rows of batches their numbers, from 0."""
    start = 0
    for rows in batches:
        for first in range(0, len(rows), BATCH_ROWS):
            piece = rows.slice(first, BATCH_ROWS)
            piece.validate(full=True)  # strings of Parquet need not be UTF-8
            yield Batch(np.arange(start, start + len(piece)), piece, [])
            start += len(piece)


def _open_parquet(path: str) -> Table:
    names = pq.ParquetFile(_open_seekable(path)).schema_arrow.names
    return Table(path, "parquet", names, _read=partial(_read_parquet, path))


def _read_parquet(path: str, columns: Sequence[str] | None) -> Iterator[Batch]:
    with pq.ParquetFile(_open_seekable(path)) as file:
        yield from number_rows(file.iter_batches(BATCH_ROWS, columns=None if columns is None else list(columns)))


def _open_arrow(path: str) -> Table:
    first = next(_read_arrow(path, None), None)
    if first is None:
        raise DataError.for_file(path, Reason.EMPTY_FILE, "found no row")
    return Table(path, "arrow", first.rows.schema.names, _read=partial(_read_arrow, path))


def _read_arrow(path: str, columns: Sequence[str] | None) -> Iterator[Batch]:
    source = _open_seekable(path)
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    file = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
    batches = map(file.get_batch, range(file.num_record_batches)) if is_file else file
    yield from number_rows(_select(rows, columns) for rows in batches)


def _open_excel(path: str) -> Table:
    names = ["" if cell is None else str(cell) for cell in next(_excel_rows(path), ())]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError.for_file(path, Reason.EMPTY_FILE, "its first sheet has no header")
    return Table(path, "excel", names, header=True, _read=partial(_read_excel, path, names))


def _excel_rows(path: str) -> Iterator[tuple[Any, ...]]:
    """Yield the cells of each row of the first sheet."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise UserError(f"{path} needs openpyxl: {install_hint('excel')}, or save it as CSV") from None
    with open_unpacked(path) as stream:
        book = load_workbook(io.BytesIO(stream.read()), read_only=True, data_only=True)
    yield from book.worksheets[0].iter_rows(values_only=True)


def _read_excel(path: str, names: list[str], columns: Sequence[str] | None) -> Iterator[Batch]:
    places, rows, bad = [], [], []
    for number, row in enumerate(_excel_rows(path), 1):
        filled = max((place for place, cell in enumerate(row, 1) if cell is not None), default=0)
        if number > 1 and filled > len(names):
            fault = Fault(Reason.TOO_MANY_FIELDS, f"found {filled} of {len(names)}", "Name all columns in row 1")
            bad.append(BadRow(path, number, None, fault, str(row[0])[:EXCERPT_CHARACTERS]))
        elif number > 1 and filled:
            places.append(number)
            rows.append([*row, *[None] * len(names)][: len(names)])
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    table = pa.RecordBatch.from_arrays([as_array(list(column)) for column in cells], names)
    yield Batch(np.array(places, dtype=np.int64), _select(table, columns), bad)
