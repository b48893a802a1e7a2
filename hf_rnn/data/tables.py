"""One reader of tables: CSV and TSV, JSON, Parquet, Arrow, Excel, each also as `.gz` or `.zst`.

Rows come in batches, in memory independent of the size of the file except for Excel, JSON lists and packed binary
files. A row is delivered, or it is a [`BadRow`] with its place and reason. JSON lines are read by `json`, as
`pyarrow.json` makes times of texts and stops at the first bad line.
"""

from __future__ import annotations

import io
import json
import math
import os
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.errors import UserError, install_hint, reason_of
from .delimited import BATCH_ROWS, TEXT_NAMES, Batch, DelimitedText, has_known_names, name_columns, open_delimited
from .lines import (
    KINDS,
    SAMPLE_BYTES,
    excerpt_of,
    find_byte_fault,
    find_encoding,
    is_table,
    open_text,
    open_unpacked,
    suffix_of,
)
from .row_errors import EXCERPT_CHARACTERS, BadRow, DataError, Fault, Reason, listed, name_file

_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"PK\x03\x04": "excel", b"{": "json"}
_FASTTEXT_LABEL = "__label__"
_LARGEST_EXACT = 1 << 53  # up to this integer, float64 has each one


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
        unit: The meaning of `places`: a `line` from 1; or a `row`, from 1 in Excel, otherwise from 0.
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
        """Read the table once, all of it or these columns; dots in a name lead into nested records.

        A nested record is read as a whole, from JSON only the named value. JSON rejects a list or record in `texts`.

        Raises:
            DataError: For a file that is damaged as a whole.
        """
        known, names = set(self.columns), dict.fromkeys([*(self.columns if columns is None else columns), *texts])
        if self.kind != "json":
            names = {_root(name, known): None for name in names}
        chosen = [name for name in names if _root(name, known) in known]
        with name_file(self.path):
            for batch in self.read(chosen, texts):
                kept = [name for name in batch.rows.schema.names if name in names]
                yield replace(batch, rows=batch.rows.select(kept))


def _root(name: str, columns: Container[str]) -> str:
    return name if name in columns else name.partition(".")[0]


# ---- opening ----


def read_table(
    path: str | Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    header: bool | None = True,
    fields: int | None = None,
    quoting: str | None = None,
) -> Table:
    r"""Open a table, and find its kind, columns, separator and encoding.

    The kind follows from the suffix (`.csv .tsv .jsonl .json .parquet .arrow .feather .xlsx`, then `.gz` or `.zst`).
    With other suffixes it follows from the first bytes.

    Args:
        path: A file.
        separator: The separator of delimited text, a character; `\t` and `tab` are a tab. By default comma, semicolon,
            tab or bar: the one that cuts most lines into as many fields as the header.
        encoding: The encoding of a text file, as Python names it. By default UTF-8, with or without a mark, UTF-16, or
            cp1252 if most lines of the first megabyte with other characters than ASCII are not UTF-8.
        header: Whether the first line of delimited text names the columns. With None it does if it has known names
            such as `text` and `label`. Columns without names are `0`, `1`, ..., and their fields end at tabs.
        fields: The number of fields of a line without a header; by default that of the first line.
        quoting: `csv` if a `"` at the start of a field of delimited text encloses it, `none` if it is a letter. By
            default it encloses fields, except in TSV without a header, and in TSV that then has more rejected rows.

    Returns:
        A [`Table`]. Iterate over it for its batches, as often as needed:

            for batch in read_table("tweets.csv"):
                texts = batch.rows["text"].to_pylist()

    Raises:
        DataError: For an empty or unreadable file, and for two columns of one name.
        UserError: For a missing file, an unknown encoding, or Excel without its extra.
    """
    name, suffix = str(path), suffix_of(str(path))[1:]
    head = _read_head(name)
    kind = next((kind for kind, suffixes in KINDS.items() if suffix in suffixes), None)
    kind = kind or next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "delimited")
    with name_file(name, suffix):
        if kind == "delimited":
            if header is None:
                header = has_known_names(head.decode(find_encoding(head, encoding, guess=False), "replace"))
            encoding = find_encoding(head, encoding, guess=header)
            text = open_delimited(name, head, separator, encoding, header, fields, quoting)
            table = Table(name, kind, list(text.names), text.separator or ",", encoding, header, read=text.read)
        elif kind == "json":
            table = _open_json(name, find_encoding(head, encoding), suffix)
        else:
            table = {"parquet": _open_parquet, "arrow": _open_arrow, "excel": _open_excel}[kind](name)
    repeated = next((column for column, times in Counter(table.columns).items() if times > 1), None)
    if repeated is not None:
        raise DataError.for_file(name, Reason.MISSING_COLUMN, f"two columns are named {repeated!r:.80}: rename one")
    return table


def _read_head(path: str) -> bytes:
    """Return the first bytes of a file."""
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist: give a table such as texts.csv, or a folder with train.tsv")
    with name_file(path), open_unpacked(path) as stream:
        head = stream.read(SAMPLE_BYTES)
    if not head.strip():
        raise DataError.for_file(path, Reason.EMPTY_FILE, "found no row")
    return head


def open_lines(path: str | Path, encoding: str | None = None) -> Table:
    """Open a text file as a table of the column `text`, with a row for each line."""
    encoding = find_encoding(_read_head(str(path)), encoding, guess=False)
    text = DelimitedText(str(path), encoding, None)
    return Table(text.path, "lines", ["text"], None, encoding, False, read=text.read)


def _add_label(table: Table, change: Callable[[Batch], Batch]) -> Table:
    """Return a table of `text` and `label`, which `change` makes of the texts of each batch."""
    columns, read = ["text", "label"], table.read
    return replace(table, columns=columns, read=lambda columns, texts: map(change, read(columns, texts)))


def is_fasttext(path: str | Path) -> bool:
    """Return whether a file is one of fastText, with `__label__` at its start."""
    if is_table(path) or not Path(path).is_file():
        return False
    with name_file(path), open_unpacked(str(path)) as stream:
        return stream.read(20).removeprefix(BOM_UTF8).startswith(_FASTTEXT_LABEL.encode())


def open_fasttext(path: str | Path, encoding: str | None = None, separator: str | None = None) -> Table:
    """Open a file with `__label__a __label__b text` in each line as a table of text and label.

    The `separator` joins the labels of a text. Without one, a text with several labels is rejected.
    """
    pattern = rf"^\s*(?P<label>(?:{_FASTTEXT_LABEL}\S+\s*)*)(?P<text>.*)$"

    def split_labels(batch: Batch) -> Batch:
        labels, texts = pc.extract_regex(batch.rows.column(0), pattern).flatten()
        labels = pc.replace_substring(pc.utf8_trim_whitespace(labels), _FASTTEXT_LABEL, "")
        if separator is not None:
            labels = pc.replace_substring_regex(labels, r"\s+", separator)
            return replace(batch, rows=pa.RecordBatch.from_arrays([texts, labels], ["text", "label"]))
        rows = pa.RecordBatch.from_arrays([texts, labels], ["text", "label"])
        several = pc.match_substring_regex(labels, r"\s")
        fault = Fault(Reason.UNKNOWN_LABEL, "it has several labels", "Set --task multi-label")
        bad = list(batch.bad)
        for row in np.flatnonzero(several.to_numpy(zero_copy_only=False)).tolist():
            bad.append(BadRow(str(path), int(batch.places[row]), fault, texts[row].as_py()[:EXCERPT_CHARACTERS]))
        single = pc.invert(several)
        return Batch(batch.places[single.to_numpy(zero_copy_only=False)], rows.filter(single), bad)

    return _add_label(open_lines(path, encoding), split_labels)


def open_label(path: Path, encoding: str | None = None) -> Table:
    """Open a folder of text files, a row for each, or a text file, a row for each line; its name is their label."""
    label = path.name if path.is_dir() else path.name.partition(".txt")[0]

    def add_label(batch: Batch) -> Batch:
        labels = pa.array([label] * len(batch.rows), pa.string())
        return replace(batch, rows=batch.rows.append_column("label", labels))

    return _add_label(_open_folder(path, encoding) if path.is_dir() else open_lines(path, encoding), add_label)


def _open_folder(folder: Path, encoding: str | None) -> Table:
    """Open a folder of text files as a table of the column `text`, with a row for each file."""
    encoding = encoding or "utf-8-sig"

    def read(columns: Sequence[str], texts: Sequence[str]) -> Iterator[Batch]:
        files = enumerate(sorted(folder.glob("*.txt")))
        while part := list(islice(files, BATCH_ROWS)):
            good, bad = {}, []
            for place, file in part:
                content = file.read_bytes()
                if (fault := find_byte_fault(content, encoding)) is None:
                    good[place] = content.decode(encoding).removesuffix("\n").removesuffix("\r")
                else:
                    bad.append(BadRow(str(file), place, fault, excerpt_of(content), "file"))
            yield Batch.build(list(good), [pa.array(good.values(), pa.string())], ["text"], bad)

    return Table(str(folder), "folder", ["text"], unit="row", read=read)


# ---- columns ----


def find_column(columns: Sequence[str], name: str | None, guesses: Iterable[str], path: str, flag: str) -> str:
    """Return the name of a column of a table: `name`, or the first of `guesses` that is there, in any case.

    A dot in `name` leads into nested records. Raises a [`DataError`] that lists the columns and names the `flag`.
    """
    guesses = list(guesses)
    if name is None:
        folded = {column.strip().casefold(): column for column in reversed(columns)}
        for guess in guesses:
            if (column := folded.get(guess.strip().casefold())) is not None:
                return column
    elif _root(name, columns) in columns:
        return name
    message = f"no column {name or next(iter(guesses), flag)!r:.80}: found {listed(columns)}"
    raise DataError.for_file(path, Reason.MISSING_COLUMN, f"{message}; name one of them with --{flag}")


def read_column(path: str | Path, column: str | None = None, *, encoding: str | None = None) -> Iterator[str | BadRow]:
    """Yield the texts of a table's column, or the lines of another file, in their order. A missing text is "".

    Without a `column`, or if the table lacks it, the column is found by a usual name, such as `text`.
    """
    if is_table(path):
        table = read_table(path, encoding=encoding)
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
    return take_column(pa.RecordBatch.from_struct_array(rows.column(names.index(root))), rest)


def as_array(values: Sequence[Any], kind: pa.DataType | None = None) -> pa.Array:
    """Return values as Arrow has them, or as a type; for strings, other values are written as in JSON."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError):
        if kind not in (None, pa.string()):
            raise
        return pa.array(list(map(write_value, values)), pa.string())


def write_value(value: object) -> str | None:
    """Return a value as a string, None for NaN and infinity; 1.0 is 1."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = int(value) if value.is_integer() else value
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


# ---- JSON ----


def _open_json(path: str, encoding: str, suffix: str) -> Table:
    """Open JSON lines, one list or columns, and read them once for the type of each column in the whole file."""
    records = _load_records(path, encoding, suffix)
    unit = "line" if records is None else "row"

    def parse() -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        """Yield place and record, or its rejection."""
        with open_text(path, encoding) as stream:
            for place, line in enumerate(stream, 1) if records is None else enumerate(map(json.dumps, records)):
                if line.strip():
                    yield place, _parse_record(path, place, line, unit)

    def read(columns: Sequence[str], texts: Sequence[str]) -> Iterator[Batch]:
        parsed = parse()
        while part := list(islice(parsed, BATCH_ROWS)):
            good, bad = {}, []
            for place, record in part:
                if isinstance(record, BadRow):
                    bad.append(record)
                elif any(isinstance(_look_up(record, name), list | dict) for name in texts):
                    fault = Fault(Reason.NOT_A_TEXT, "it is a list or a record")
                    bad.append(BadRow(path, place, fault, json.dumps(record)[:EXCERPT_CHARACTERS], unit))
                else:
                    good[place] = record
            cells = [[_look_up(record, name) for record in good.values()] for name in columns]
            arrays = [as_array(column, types.get(name)) for name, column in zip(columns, cells, strict=True)]
            yield Batch.build(list(good), arrays, columns, bad)

    types = _find_types(record for _, record in parse() if isinstance(record, dict))
    return Table(path, "json", list(types), None, encoding, unit=unit, read=read)


def _find_types(records: Iterator[dict[str, Any]]) -> dict[str, pa.DataType]:
    """Return the type of each column."""
    types: dict[str, pa.DataType] = {}
    exact = set()  # columns of integers that float64 does not have
    while part := list(islice(records, BATCH_ROWS)):
        for name in dict.fromkeys(name for record in part for name in record):
            column = [record[name] for record in part if name in record]
            kind = as_array(column).type
            if pa.types.is_integer(kind) and any(abs(value) > _LARGEST_EXACT for value in column if value):
                exact.add(name)
            try:
                schemas = [pa.schema([(name, known)]) for known in (types.get(name, kind), kind)]
                types[name] = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
            except pa.ArrowException:
                types[name] = pa.string()
    return types | {name: pa.string() for name in exact if types[name] != pa.int64()}


def _load_records(path: str, encoding: str, suffix: str) -> list[Any] | None:
    """Return the records of a JSON file that is one list, or columns with a list for each; None for JSON lines."""
    with open_text(path, encoding) as stream:
        lines = filter(str.strip, stream)
        first, has_more = next(lines, "").strip(), next(lines, None) is not None
    is_list = first.startswith("[")
    if not is_list and (suffix in ("jsonl", "ndjson") or (has_more and first.endswith("}"))):
        return None
    with open_text(path, encoding) as stream:
        try:
            content = json.load(stream)
        except ValueError:
            if is_list:
                raise
            return None
    if is_list:
        return list(content)
    if not content or not all(isinstance(column, list) for column in content.values()):
        return None
    if len({len(column) for column in content.values()}) > 1:
        lengths = ", ".join(f"{len(column)} in {name!r:.80}" for name, column in content.items())
        raise DataError.for_file(path, Reason.UNREADABLE, f"its columns differ in length: {lengths:.300}")
    return [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]


def _parse_record(path: str, place: int, line: str, unit: str) -> dict[str, Any] | BadRow:
    try:
        line.encode()
        record = json.loads(line)
        if "\\ud" in line.lower():  # half of a surrogate pair, escaped
            json.dumps(record, ensure_ascii=False).encode()
        if isinstance(record, dict):
            return record
        detail = f"found {type(record).__name__}"
    except (ValueError, RecursionError) as error:
        detail = reason_of(error)
    raw = line.rstrip("\r\n").encode("utf-8", "surrogateescape")
    fault = find_byte_fault(raw) or Fault(Reason.NOT_JSON, detail, 'Write a record such as {"text": "..."}')
    return BadRow(path, place, fault, excerpt_of(raw), unit)


def _look_up(record: Mapping[str, Any], name: str) -> Any:
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
    import pyarrow.parquet as pq  # not at the top: it imports file systems of clouds

    def read(columns: Sequence[str], texts: Sequence[str]) -> Iterator[Batch]:
        with pq.ParquetFile(_open_seekable(path)) as file:
            yield from number_rows(file.iter_batches(BATCH_ROWS, columns=list(columns)))

    return Table(path, "parquet", pq.ParquetFile(_open_seekable(path)).schema_arrow.names, unit="row", read=read)


def _open_ipc(path: str) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
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
    if not sheet:
        raise DataError.for_file(path, Reason.EMPTY_FILE, "its first sheet has no header")
    names = name_columns(sheet[0])
    rows = {place: row for place, row in enumerate(sheet[1:], 2) if any(cell != "" for cell in row)}
    cells = zip(*rows.values(), strict=True) if rows else [()] * len(names)
    arrays = [as_array([None if cell == "" else cell for cell in column]) for column in cells]
    batch = Batch.build(list(rows), arrays, names, [])
    return Table(path, "excel", names, unit="row", read=lambda columns, texts: iter([batch]))
