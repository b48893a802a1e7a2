r"""One reader of tables: CSV and TSV, JSON lines, Parquet, Arrow, Excel, each also as `.gz` or `.zst`.

Rows come in batches, in memory independent of the size of the file except for Excel, JSON lists and packed binary
files. A row is delivered, or it is a [`BadRow`] with its place and reason.

- Quoted text is read by Python's `csv` in strict mode. It knows the line of each row and reports a misplaced quote;
  `pyarrow.csv` knows neither, and reads an unclosed quote to the end of the file without an error.
- Text with tabs and without quotes has a grammar of its own: a line ends at LF or CRLF, a field at a tab, and every
  other character belongs to the field. `pyarrow.csv` and pandas end a row at a lone CR.
- JSON lines are read by `json`, as `pyarrow.json` makes times of texts and stops at the first bad line.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..utils.errors import UserError, install_hint, reason_of
from .lines import MAX_LINE_BYTES, excerpt_of, find_byte_fault, open_unpacked
from .row_errors import EXCERPT_CHARACTERS, BadRow, DataError, Fault, Reason, listed

BATCH_ROWS = 10_000
_BLOCK_CHARACTERS = 1 << 20
_SAMPLE_BYTES = 1 << 20
_SEPARATORS = ",;\t|"
_LABEL = "__label__"  # of fastText

# Names of columns of texts and of labels, in any case; the first that a table has is taken.
TEXT_NAMES = ("text", "tweet", "sentence", "review", "content", "comment", "message")
LABEL_NAMES = ("label", "labels", "sentiment", "class", "category", "target", "emotion", "polarity")

_KINDS = {
    "delimited": ("tsv", "csv", "tab", "psv"),
    "json": ("jsonl", "ndjson", "json"),
    "parquet": ("parquet", "pq"),
    "arrow": ("arrow", "feather", "ipc"),
    "excel": ("xlsx", "xlsm", "xls", "ods"),
}
_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"PK\x03\x04": "excel", b"{": "json"}
PACKED = (".gz", ".zst", ".zstd")
TABLE_SUFFIXES = tuple(f".{suffix}" for suffixes in _KINDS.values() for suffix in suffixes)

# A text that a writer had to quote, for the quotes in it, in a file where most are letters.
_QUOTED = r'^"(?:[^"]|"")*""(?:[^"]|"")*"$'
_LIBRARY_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException, KeyError, ValueError)


@dataclass(frozen=True)
class Batch:
    """Rows of a table in their order.

    Attributes:
        places: The place of each good row, ascending: its first line, from 1, or its row.
        rows: The good rows. Cells of delimited text are strings, others have the types of the file.
        bad: The refused rows; their `line` fits between `places`.
    """

    places: np.ndarray
    rows: pa.RecordBatch
    bad: list[BadRow]

    @property
    def size(self) -> int:
        """The number of rows that were read."""
        return len(self.places) + len(self.bad)

    def in_order(self, values: Iterable[Any]) -> list[Any]:
        """Return a value for each good row, with the refused rows in their places."""
        rows = [*zip(self.places.tolist(), values, strict=True), *((row.line, row) for row in self.bad)]
        return [value for _, value in sorted(rows, key=itemgetter(0))]


# Reads the columns of these names, or more; the second names are those of texts.
Read = Callable[[Sequence[str], Sequence[str]], Iterator[Batch]]


@dataclass(frozen=True)
class Table:
    """Rows in a file or a data set, read again for each iteration.

    Attributes:
        path: The file, or the name of a data set in messages.
        kind: `delimited`, `lines`, `json`, `parquet`, `arrow`, `excel`, `folder` or `dataset`.
        columns: The names of the columns, in order; those without a name are `column_1` and so on.
        separator: The separator of delimited text, None for other files.
        encoding: The encoding of a text file, `utf-8-sig` if it starts with a mark; None for other files.
        header: Whether the first line of a file has the names.
        unit: What `places` and `BadRow.line` count: a `line` from 1; or a `row`, in Excel from 1, otherwise from 0.
        class_names: The names of a column of ClassLabel, in the order of its numbers.
    """

    path: str
    kind: str
    columns: list[str]
    separator: str | None = None
    encoding: str | None = None
    header: bool = True
    unit: str = "line"
    class_names: Mapping[str, list[str]] = field(default_factory=dict)
    read: Read = field(default=lambda columns, texts: iter(()), repr=False, compare=False)

    @property
    def is_unnamed(self) -> bool:
        """Whether the columns are only numbered."""
        return self.kind == "delimited" and not self.header

    def __iter__(self) -> Iterator[Batch]:
        """Read the table once."""
        return self.batches()

    def batches(self, columns: Sequence[str] | None = None, texts: Sequence[str] = ()) -> Iterator[Batch]:
        """Read the table once, or these columns of it; dots lead into nested records, which come whole.

        In the columns of `texts` a JSON list or record is refused.

        Raises:
            DataError: For a file that is damaged as a whole.
        """
        names = self.columns if columns is None else [_root(name, self.columns) for name in columns]
        names = [name for name in dict.fromkeys(names) if name in self.columns]
        try:
            for batch in self.read(names, texts):
                kept = [name for name in batch.rows.schema.names if name in names or name in texts]
                yield replace(batch, rows=batch.rows.select(kept))
        except UserError:
            raise
        except _LIBRARY_ERRORS as error:
            raise DataError.for_file(self.path, Reason.UNREADABLE, f"it is damaged: {reason_of(error):.300}") from None


def _root(name: str, columns: Sequence[str]) -> str:
    return name if name in columns else name.partition(".")[0]


def is_table(path: str | Path) -> bool:
    """Return whether the name of a file is that of a table, such as `texts.csv` or `texts.jsonl.gz`."""
    return suffix_of(str(path)) in TABLE_SUFFIXES


def suffix_of(path: str) -> str:
    """Return the suffix of a file's name without that of its packing: `.tsv` of `train.tsv.gz`."""
    name = Path(path.lower())
    return Path(name.stem).suffix if name.suffix in PACKED else name.suffix


def read_table(
    path: str | Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    header: bool | None = True,
    fields: int | None = None,
) -> Table:
    r"""Open a table, and find its kind, columns, separator and encoding.

    The kind follows from the name (`.csv .tsv .jsonl .json .parquet .arrow .feather .xlsx`, then `.gz` or `.zst`), of
    other names from the first bytes.

    Args:
        path: A file.
        separator: The separator of delimited text, a character; `\t` and `tab` are a tab. By default comma, semicolon,
            tab or bar: the one that cuts most lines into as many fields as the header.
        encoding: The encoding of a text file, as Python names it. By default UTF-8, with or without a mark, UTF-16, or
            cp1252 if most lines of the first megabyte with other characters than ASCII are not UTF-8.
        header: Whether the first line of delimited text names the columns. None is true for known names such as `text`
            and `label` only. Otherwise columns are `0`, `1`, ..., fields end at tabs, and a `"` is a character.
        fields: The number of fields of a line without a header; by default that of the first line.

    Returns:
        A [`Table`]. Iterate over it for its batches, as often as needed:

            for batch in read_table("tweets.csv"):
                texts = batch.rows["text"].to_pylist()

    Raises:
        DataError: For an empty or unreadable file, and for two columns of one name.
        UserError: For a missing file, an unknown encoding, or Excel without its extra.
    """
    name = str(path)
    head = _read_head(name)
    suffix = suffix_of(name)[1:]
    kind = next((kind for kind, suffixes in _KINDS.items() if suffix in suffixes), None)
    kind = kind or next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "delimited")
    try:
        if kind == "delimited":
            table = _open_delimited(name, head, separator, encoding, header, fields)
        elif kind == "json":
            table = _open_json(name, find_encoding(head, encoding))
        else:
            table = {"parquet": _open_parquet, "arrow": _open_arrow, "excel": _open_excel}[kind](name)
    except UserError:
        raise
    except _LIBRARY_ERRORS as error:
        raise DataError.for_file(name, Reason.UNREADABLE, f"it is not {kind}: {reason_of(error):.300}") from None
    if twice := [column for column in table.columns if table.columns.count(column) > 1]:
        raise DataError.for_file(name, Reason.MISSING_COLUMN, f"two columns are named {twice[0]!r:.80}: rename one")
    return table


def _read_head(path: str) -> bytes:
    """Return the first bytes of a file."""
    try:
        with open_unpacked(path) as stream:
            head = stream.read(_SAMPLE_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a table such as texts.csv, or a folder with train.tsv") from None
    except _LIBRARY_ERRORS as error:
        raise DataError.for_file(path, Reason.UNREADABLE, f"it is damaged: {reason_of(error)}") from None
    if not head.strip():
        raise DataError.for_file(path, Reason.EMPTY_FILE, "found no row")
    return head


def find_column(columns: Sequence[str], wanted: str | None, guesses: Iterable[str], path: str, flag: str) -> str:
    """Return the name of a column of a table: `wanted`, or the first of `guesses` that is there, in any case.

    A dot in `wanted` leads into nested records. Raises a [`DataError`] that lists the columns and names the `flag`.
    """
    guesses = list(guesses)
    if wanted is not None and _root(wanted, columns) in columns:
        return wanted
    folded = {name.strip().casefold(): name for name in reversed(columns)}
    found = next((folded[guess] for guess in guesses if guess in folded), None) if wanted is None else None
    if found is not None:
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
        known = column is not None and (column in table.columns or "." in column)
        name = find_column(table.columns, column if known else None, TEXT_NAMES, str(path), "text_column")
    else:
        table, name = open_lines(path, encoding), "text"
    for batch in table.batches([name], [name]):
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


def as_array(values: Sequence[Any], kind: pa.DataType | None = None) -> pa.Array:
    """Return values as Arrow has them, or of a type; values of several types become strings, records those of JSON."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError):
        written = [value if value is None or isinstance(value, str) else _write(value) for value in values]
        return pa.array(written, pa.string())


def _write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def _name_columns(names: Iterable[Any]) -> list[str]:
    return [str(name) if str(name).strip() else f"column_{place}" for place, name in enumerate(names, 1)]


# ---- text ----


def find_encoding(head: bytes, encoding: str | None = None, guess: bool = True) -> str:
    """Return the encoding of a text by its first bytes, UTF-8 without a `guess`; check one that is given."""
    try:
        if encoding is not None:
            encoding = codecs.lookup(encoding).name
    except LookupError:
        raise UserError(f"unknown encoding {encoding!r:.80}: give one such as utf-8, cp1252 or utf-16") from None
    if head.startswith(codecs.BOM_UTF8) and encoding in (None, "utf-8"):
        return "utf-8-sig"
    if encoding is not None or not guess:
        utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return encoding or ("utf-16" if utf16 else "utf-8")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = head[:4096:2].count(0), head[1:4096:2].count(0)
    if max(zeros) > len(head[:4096]) // 8 > min(zeros):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    lines = [line for line in head.split(b"\n") if not line.isascii()][: -1 if len(head) >= _SAMPLE_BYTES else None]
    return "cp1252" if 2 * sum(find_byte_fault(line) is not None for line in lines) > len(lines) else "utf-8"


def _open_text(path: str, encoding: str) -> io.TextIOWrapper:
    """Open a text file whose lines end at LF; undecodable bytes become lone surrogates."""
    return io.TextIOWrapper(open_unpacked(path), encoding, errors="surrogateescape", newline="\n")


def _is_valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class DelimitedText:
    """Rows of a fixed number of fields in a text file.

    Attributes:
        names: The names of the columns.
        separator: The character between fields; None if a line is one field.
        quoted: Whether fields may be quoted; otherwise every line is a row.
        header: Whether the first row has the names.
    """

    path: str
    encoding: str
    separator: str | None
    quoted: bool
    header: bool
    names: Sequence[str]

    def read(self, columns: Sequence[str] = (), texts: Sequence[str] = ()) -> Iterator[Batch]:
        """Read the file once."""
        return self._read_quoted() if self.quoted else self._read_lines()

    def _refuse(self, place: int, text: str, fault: Fault | None = None) -> BadRow:
        """Refuse a row, by default for its bytes."""
        raw = text.encode("utf-8", "surrogateescape")
        known = self.encoding.removesuffix("-sig")
        fault = fault or find_byte_fault(raw) or Fault(Reason.NOT_UTF8, f"it is not {known}")
        return BadRow(self.path, place, fault, excerpt_of(raw))

    def _miscount(self, found: int, text: str) -> Fault:
        detail = f"found {found} of {len(self.names)}" if text else "the line is empty"
        if found < len(self.names):
            return Fault(Reason.TOO_FEW_FIELDS, detail, "Put one separator between columns")
        if "\r" in text:
            return Fault(Reason.TOO_MANY_FIELDS, f"{detail}, and a lone CR, which ends no line", "End lines with LF")
        advice = "A text cannot hold a tab; if the file has more columns, set --text_column and --label_column, from 0"
        return Fault(Reason.TOO_MANY_FIELDS, detail, "Quote texts that hold the separator" if self.header else advice)

    def _read_lines(self) -> Iterator[Batch]:
        """Cut each line at the separator."""
        skip = self.header
        for number, block in self._blocks():
            lines, bad = block.split("\n"), []
            places = np.arange(number, number + len(lines))
            if not _is_valid(block):
                valid = np.array([_is_valid(line) for line in lines])
                bad = [self._refuse(int(places[row]), lines[row]) for row in np.flatnonzero(~valid)]
                lines, places = [lines[row] for row in np.flatnonzero(valid)], places[valid]
            texts = pa.array(lines, pa.string())
            if "\r" in block:
                texts = pc.replace_substring_regex(texts, "\r$", "")
            columns = [texts]
            if self.separator is not None:
                fields = pc.split_pattern(texts, self.separator)
                counts = pc.list_value_length(fields).to_numpy(zero_copy_only=False)
                good = counts == len(self.names)
                wrong = np.flatnonzero(~good)
                if self.header:  # blank lines are none of its rows
                    filled = pc.binary_length(texts).to_numpy(zero_copy_only=False) > 0
                    wrong = wrong[filled[wrong]]
                    good &= filled
                    if skip and filled.any():
                        first, skip = int(np.argmax(filled)), False
                        good[first], wrong = False, wrong[wrong != first]
                for row in wrong.tolist():
                    line = texts[row].as_py()
                    bad.append(self._refuse(int(places[row]), line, self._miscount(int(counts[row]), line)))
                fields, places = fields.filter(pa.array(good)), places[good]
                columns = [pc.list_element(fields, place) for place in range(len(self.names))]
            if self.header and '""' in block:
                columns = [_unquote(column) for column in columns]
            yield Batch(places, pa.RecordBatch.from_arrays(columns, list(self.names)), bad)

    def _blocks(self) -> Iterator[tuple[int, str]]:
        """Yield the number of the first line and the text of whole lines, without the last line feed."""
        number, rest = 1, ""
        with _open_text(self.path, self.encoding) as stream:
            for data in iter(partial(stream.read, _BLOCK_CHARACTERS), ""):
                block, end, rest = (rest + data).rpartition("\n")
                if end:
                    yield number, block
                    number += block.count("\n") + 1
        if rest:
            yield number, rest

    def rows(self) -> Iterator[tuple[int, list[str] | BadRow]]:
        """Yield the first line and the fields of each quoted row."""
        csv.field_size_limit(max(MAX_LINE_BYTES, csv.field_size_limit()))
        with _open_text(self.path, self.encoding) as stream:
            reader = csv.reader(stream, delimiter=self.separator or ",", strict=True)
            while True:
                place = reader.line_num + 1
                try:
                    if row := next(reader):
                        yield place, row
                except StopIteration:
                    return
                except csv.Error as error:
                    detail = f"{reason_of(error).partition(' - ')[0]} in line {reader.line_num}"
                    advice = 'Quote texts that hold " or a lone CR, write " as "" in them, and close each quote'
                    bad = self._refuse(place, "", Fault(Reason.MISPLACED_QUOTE, detail, advice))
                    if reader.line_num > place or "end of data" in detail:  # nobody can say where this row ends
                        raise DataError.for_row(bad) from None
                    yield place, bad

    def _read_quoted(self) -> Iterator[Batch]:
        rows = self.rows()
        if self.header:
            next(rows, None)
        while part := list(islice(rows, BATCH_ROWS)):
            places, good, bad = [], [], []
            for place, row in part:
                if isinstance(row, BadRow):
                    bad.append(row)
                elif len(row) != len(self.names):
                    bad.append(self._refuse(place, str(self.separator).join(row), self._miscount(len(row), row[0])))
                else:
                    places.append(place)
                    good.append(row)
            if not _is_valid("".join(chain.from_iterable(good))):
                rest = [row for row in zip(places, good, strict=True) if _is_valid("".join(row[1]))]
                for place, row in zip(places, good, strict=True):
                    if not _is_valid("".join(row)):
                        bad.append(self._refuse(place, str(self.separator).join(row)))
                places, good = [place for place, _ in rest], [row for _, row in rest]
            arrays = [pa.array([row[column] for row in good], pa.string()) for column in range(len(self.names))]
            bad.sort(key=lambda row: row.line)
            yield Batch(np.array(places, dtype=np.int64), pa.RecordBatch.from_arrays(arrays, list(self.names)), bad)


def _unquote(column: pa.Array) -> pa.Array:
    """Remove the quotes of texts that a writer had to quote."""
    bare = pc.replace_substring(pc.utf8_slice_codeunits(column, 1, -1), '""', '"')
    return pc.if_else(pc.match_substring_regex(column, _QUOTED), bare, column)


def _open_delimited(
    path: str, head: bytes, separator: str | None, encoding: str | None, header: bool | None, fields: int | None
) -> Table:
    if separator is not None:
        separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
        if len(separator) != 1 or separator in '"\r\n':
            raise UserError(f"the separator must be one character: found {separator!r:.80}; give , ; | or tab")
    encoding = find_encoding(head, encoding, guess=header is True)
    sample = head.decode(encoding, "replace")
    lines = [line.removesuffix("\r") for line in sample.split("\n")][: -1 if len(head) >= _SAMPLE_BYTES else None]
    first = next((line for line in lines if line.strip()), "")
    if header is None:
        known = {name.strip().casefold() for name in first.split("\t")}
        header = not known.isdisjoint(TEXT_NAMES) and not known.isdisjoint(LABEL_NAMES)
    if not header:
        count = fields or len(lines[0].split("\t"))
        text = DelimitedText(path, encoding, "\t", False, False, [str(number) for number in range(count)])
        return Table(path, "delimited", list(text.names), "\t", encoding, False, read=text.read)
    separator = separator or _find_separator(lines, "\t" if suffix_of(path) in (".tsv", ".tab") else "")
    text = DelimitedText(path, encoding, separator, True, True, ())
    names = next((row for _, row in text.rows() if not isinstance(row, BadRow)), [])
    text = replace(text, names=_name_columns(names))
    if separator == "\t" and not first.startswith('"'):  # quotes are letters, unless that costs more rows
        plain = replace(text, quoted=False, names=_name_columns(first.split("\t")))
        text = min(plain, text, key=_count_bad)
    shown = separator or ","
    return Table(path, "delimited", list(text.names), shown, encoding, read=text.read)


def _count_bad(text: DelimitedText) -> float:
    try:
        return sum(len(batch.bad) for batch in text.read())
    except DataError:
        return float("inf")


def _find_separator(lines: Sequence[str], preferred: str) -> str | None:
    """Return the separator that cuts most lines into as many fields as the first, if these are several."""
    best, most = None, 0.0
    for separator in preferred + _SEPARATORS:
        try:
            rows = list(
                filter(None, csv.reader([line.replace("\r", "") + "\n" for line in lines[:1000]], delimiter=separator))
            )
        except csv.Error:
            continue
        if rows and len(rows[0]) > 1:
            agree = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
            best, most = (separator, agree) if agree > most else (best, most)
    return best


def open_lines(path: str | Path, encoding: str | None = None, label: str | None = None) -> Table:
    """Open a text file as a table of the column `text`, with a row for each line, and of `label` if it is given."""
    name = str(path)
    encoding = find_encoding(_read_head(name), encoding, guess=False)
    text = DelimitedText(name, encoding, None, False, False, ["text"])
    names = ["text"] if label is None else ["text", "label"]
    return Table(
        name,
        "lines",
        names,
        None,
        encoding,
        False,
        read=text.read if label is None else partial(_add_label, text, label),
    )


def _add_label(text: DelimitedText, label: str, columns: Sequence[str], texts: Sequence[str]) -> Iterator[Batch]:
    for batch in text.read():
        labels = pa.array([label] * len(batch.rows), pa.string())
        yield replace(batch, rows=batch.rows.append_column("label", labels))


def is_fasttext(path: str | Path) -> bool:
    """Return whether a file is one of fastText, with `__label__` at its start."""
    if is_table(path) or not Path(path).is_file():
        return False
    with open_unpacked(str(path)) as stream:
        return stream.read(20).removeprefix(codecs.BOM_UTF8).startswith(_LABEL.encode())


def open_fasttext(path: str | Path, encoding: str | None = None, separator: str | None = None) -> Table:
    """Open a file with `__label__a __label__b text` in each line as a table of text and label.

    The `separator` joins the labels of a text; without one, a text with several labels is refused.
    """
    table = open_lines(path, encoding)
    return replace(table, columns=["text", "label"], read=partial(_split_labels, table, separator))


def _split_labels(
    table: Table, separator: str | None, columns: Sequence[str], texts: Sequence[str]
) -> Iterator[Batch]:
    for batch in table.read(columns, texts):
        parts = pc.extract_regex(batch.rows.column(0), rf"^\s*(?P<label>(?:{_LABEL}\S+\s*)*)(?P<text>.*)$")
        labels, rest = parts.flatten()
        labels = pc.replace_substring(pc.utf8_trim_whitespace(labels), _LABEL, "")
        places, bad = batch.places, batch.bad
        if separator is not None:
            labels = pc.replace_substring_regex(labels, r"\s+", separator)
        elif (several := pc.match_substring_regex(labels, r"\s").to_numpy(zero_copy_only=False)).any():
            fault = Fault(Reason.UNKNOWN_LABEL, "it has several labels", "Set --task multi-label")
            excerpts = rest.filter(pa.array(several)).to_pylist()
            for place, text in zip(places[several].tolist(), excerpts, strict=True):
                bad = [*bad, BadRow(table.path, place, fault, text[:EXCERPT_CHARACTERS])]
            labels, rest, places = (column.filter(pa.array(~several)) for column in (labels, rest, pa.array(places)))
            places = places.to_numpy()
        yield Batch(places, pa.RecordBatch.from_arrays([rest, labels], ["text", "label"]), bad)


def open_folder(path: str | Path, encoding: str | None = None) -> Table:
    """Open a folder of text files as a table with a row for each file, and the folder's name as label."""
    read = partial(_read_files, Path(path), encoding or "utf-8-sig")
    return Table(str(path), "folder", ["text", "label"], unit="row", read=read)


def _read_files(folder: Path, encoding: str, columns: Sequence[str], texts: Sequence[str]) -> Iterator[Batch]:
    files = sorted(folder.glob("*.txt"))
    for start in range(0, len(files), BATCH_ROWS):
        good, bad = {}, []
        for place, file in enumerate(files[start : start + BATCH_ROWS], start):
            content = file.read_bytes()
            if (fault := find_byte_fault(content, encoding)) is None:
                good[place] = content.decode(encoding).removesuffix("\n").removesuffix("\r")
            else:
                bad.append(BadRow(str(file), place, fault, excerpt_of(content), "file"))
        arrays = [pa.array(good.values(), pa.string()), pa.array([folder.name] * len(good), pa.string())]
        yield Batch(np.array(list(good), dtype=np.int64), pa.RecordBatch.from_arrays(arrays, ["text", "label"]), bad)


# ---- JSON ----


def _open_json(path: str, encoding: str) -> Table:
    """Open JSON lines or one list, and read them once for the type of each column in the whole file."""
    with _open_text(path, encoding) as stream:
        is_list = next((line for line in stream if line.strip()), "").lstrip().startswith("[")
    unit = "row" if is_list else "line"
    types: dict[str, pa.DataType] = {}
    for part in _read_records(path, encoding, is_list):
        records = [record for _, record in part if isinstance(record, dict)]
        for name in dict.fromkeys(chain.from_iterable(records)):
            kind = as_array([record.get(name) for record in records]).type
            types[name] = _unify(types.get(name, kind), kind)
    read = partial(_read_json, path, encoding, is_list, types)
    return Table(path, "json", list(types), None, encoding, unit=unit, read=read)


def _unify(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    try:
        schemas = [pa.schema([("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()


def _read_records(path: str, encoding: str, is_list: bool) -> Iterator[list[tuple[int, Any]]]:
    """Yield lists of place and record, or its refusal."""
    with _open_text(path, encoding) as stream:
        if is_list:  # parsed again, as a line each, to name the row of a broken one
            rows: Iterator[tuple[int, str]] = enumerate(map(json.dumps, json.load(stream)))
        else:
            rows = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
        while part := list(islice(rows, BATCH_ROWS)):
            yield [(place, _parse_record(path, place, line, "row" if is_list else "line")) for place, line in part]


def _parse_record(path: str, place: int, line: str, unit: str) -> Any:
    try:
        record = json.loads(line)
        if "\\ud" in line.lower():  # half of a surrogate pair, escaped
            json.dumps(record, ensure_ascii=False).encode()
        fault = None if isinstance(record, dict) else Fault(Reason.NOT_JSON, f"found {type(record).__name__}")
    except (ValueError, RecursionError) as error:
        fault = Fault(Reason.NOT_JSON, reason_of(error), 'Write a record such as {"text": "..."}')
    raw = line.rstrip("\r\n").encode("utf-8", "surrogateescape")
    fault = find_byte_fault(raw) or fault
    return record if fault is None else BadRow(path, place, fault, excerpt_of(raw), unit)


def _read_json(
    path: str, encoding: str, is_list: bool, types: Mapping[str, Any], columns: Sequence[str], texts: Sequence[str]
) -> Iterator[Batch]:
    """Read records as columns of these types; absent values are null."""
    for part in _read_records(path, encoding, is_list):
        places, good, bad = [], [], []
        for place, record in part:
            nested = [
                name for name in texts if isinstance(record, dict) and isinstance(_look_up(record, name), list | dict)
            ]
            if nested:
                fault = Fault(Reason.NOT_A_TEXT, f"{nested[0]!r:.80} is a list or a record")
                unit = "row" if is_list else "line"
                record = BadRow(path, place, fault, json.dumps(record, ensure_ascii=False)[:EXCERPT_CHARACTERS], unit)
            if isinstance(record, BadRow):
                bad.append(record)
            else:
                places.append(place)
                good.append(record)
        names = list(dict.fromkeys((*columns, *texts)))  # nested texts come as columns, whatever is beside them
        arrays = [as_array([_look_up(record, name) for record in good], types.get(name)) for name in names]
        yield Batch(np.array(places, dtype=np.int64), pa.RecordBatch.from_arrays(arrays, names), bad)


def _look_up(record: Any, name: str) -> Any:
    """Return a value of a record; dots lead into nested ones."""
    if name in record or "." not in name:
        return record.get(name)
    root, _, rest = name.partition(".")
    return _look_up(record[root], rest) if isinstance(record.get(root), dict) else None


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
    def read(columns: Sequence[str], texts: Sequence[str]) -> Iterator[Batch]:
        with pq.ParquetFile(_open_seekable(path)) as file:
            yield from number_rows(file.iter_batches(BATCH_ROWS, columns=list(columns)))

    return Table(path, "parquet", pq.ParquetFile(_open_seekable(path)).schema_arrow.names, unit="row", read=read)


def _open_ipc(path: str) -> Any:
    source = _open_seekable(path)
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    return pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)


def _open_arrow(path: str) -> Table:
    def read(columns: Sequence[str], texts: Sequence[str]) -> Iterator[Batch]:
        file = _open_ipc(path)
        batches = map(file.get_batch, range(file.num_record_batches)) if hasattr(file, "get_batch") else file
        return number_rows(batches)

    return Table(path, "arrow", _open_ipc(path).schema.names, unit="row", read=read)


def _open_excel(path: str) -> Table:
    try:
        import pandas as pd
        import python_calamine  # noqa: F401 - the engine of pandas
    except ImportError:
        raise UserError(f"{path} needs python-calamine: {install_hint('excel')}, or save it as CSV") from None
    with open_unpacked(path) as stream:
        content = io.BytesIO(stream.read())
    sheet = pd.read_excel(content, header=None, dtype=object, na_filter=False, engine="calamine").values.tolist()
    names = [str(name) for name in sheet[0]] if sheet else []
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise DataError.for_file(path, Reason.EMPTY_FILE, "its first sheet has no header")
    places, rows, bad = [], [], []
    for place, row in enumerate(sheet[1:], 2):
        filled = max((number for number, cell in enumerate(row, 1) if cell != ""), default=0)
        if filled > len(names):
            fault = Fault(Reason.TOO_MANY_FIELDS, f"found {filled} of {len(names)}", "Name all columns in row 1")
            bad.append(BadRow(path, place, fault, str(row[0])[:EXCERPT_CHARACTERS], "row"))
        elif filled:
            places.append(place)
            rows.append([None if cell == "" else cell for cell in row])
    arrays = [as_array([row[number] for row in rows]) for number in range(len(names))]
    names = _name_columns(names)
    batch = Batch(np.array(places, dtype=np.int64), pa.RecordBatch.from_arrays(arrays, names), bad)
    return Table(path, "excel", names, unit="row", read=lambda columns, texts: iter([batch]))
