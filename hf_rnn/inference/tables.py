"""Tables in, tables out: the rows of a file or a frame, with the answers in further columns."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data import tables
from ..data.row_errors import EXCERPT_CHARACTERS
from ..data.tables import TEXT_NAMES, as_array, find_column, is_table, open_lines, read_table, take_column
from ..utils.errors import UserError
from ..utils.text_checks import find_surrogate
from .text_classifier import answer_each

ERROR = "error"  # the column of reasons
OUTPUT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


class Batch(NamedTuple):
    """Rows of a file in their order; a refused row has null in each column."""

    rows: pa.Table
    errors: list[str]  # place and reason of each refused row, an empty string for others
    places: list[int]  # in the file
    unit: str  # line or row


@dataclass(frozen=True)
class TableSettings:
    """How tables are read and answered.

    Attributes:
        text_column: The column of the texts; None is the first usual name, such as `text` or `review`.
        text_pair_column: The column of the second texts, for a model of text pairs; None is `text_pair`.
        separator: The character between fields of CSV; None finds it.
        encoding: The encoding of a text file; None finds it.
        prefix: Begins the names of the columns of answers; None is `predicted_` if one of them exists, else empty.
        all_scores: Whether the score of each class is added.
    """

    text_column: str | None = None
    text_pair_column: str | None = None
    separator: str | None = None
    encoding: str | None = None
    prefix: str | None = None
    all_scores: bool = False


@dataclass(frozen=True)
class TextTable:
    """A file of texts: a table, or a text per line."""

    path: str
    columns: Sequence[str]
    batches: Iterator[Batch]
    separator: str | None = None
    is_json: bool = False


def open_texts(path: str, settings: TableSettings) -> TextTable:
    """Open a file for one reading; raise a [`DataError`] if it is empty or cannot be read."""
    wanted, encoding = settings.text_column, settings.encoding
    if is_table(path):
        table = read_table(path, separator=settings.separator, encoding=encoding)
    else:
        table = open_lines(path, encoding)
    known, names = {name.strip().casefold() for name in table.columns}, None
    is_number = wanted is not None and wanted.isdecimal() and wanted not in table.columns
    if ".tsv" in path.lower() and (is_number or (wanted is None and known.isdisjoint(TEXT_NAMES))):
        table = read_table(path, encoding=encoding, header=False)  # as `train` reads it
        names = table.columns if is_number else ["text", "label", *table.columns[2:]][: len(table.columns)]
    batches = (_merge(batch, names or table.columns, table.unit) for batch in table)
    return TextTable(path, names or table.columns, batches, table.separator, table.kind == "json")


def _merge(batch: tables.Batch, names: Sequence[str], unit: str) -> Batch:
    """Return good and refused rows in the order of the file."""
    if batch.rows.num_columns:
        table = pa.Table.from_batches([batch.rows]).rename_columns(names)
    else:  # refused records only
        table = pa.table({name: pa.array([], pa.string()) for name in names})
    places = np.concatenate([batch.places, [row.line for row in batch.bad]]).astype(int)
    order = np.argsort(places, kind="stable")
    bad = [f"{unit} {row.line}: {row.fault.reason}: {row.fault.detail}: found {row.excerpt}" for row in batch.bad]
    errors = [""] * len(table) + bad
    rows = table.take(pa.array(order, mask=order >= len(table))) if bad else table
    return Batch(rows, [errors[place] for place in order], places[order].tolist(), unit)


# ---- answers ----


def find_text_error(text: Any) -> str:
    """Return why something cannot be answered, or an empty string for a text."""
    if isinstance(text, str):
        if text.isascii() or find_surrogate(text) is None:
            return ""
        return f"not Unicode: found {text!r:.{EXCERPT_CHARACTERS}}"
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return "null"
    return f"not a text: found {type(text).__name__} {text!r:.{EXCERPT_CHARACTERS}}"


def answer_schema(model: Any, all_scores: bool = False) -> pa.Schema:
    """Return the types of the answers of a model as columns, and of `error`."""
    types = model.task.answer_types(model.config)
    if all_scores and "label" in types:
        types["scores"] = pa.struct([(name, pa.float64()) for name in model.config.id2label.values()])
    return pa.schema([*types.items(), (ERROR, pa.string())])


def answer_columns(
    model: Any, texts: Sequence[Any], pairs: Sequence[Any] | None = None, all_scores: bool = False
) -> dict[str, list[Any]]:
    """Return the columns of [`answer_schema`] for texts, and second texts for a model of text pairs."""
    errors = [find_text_error(text) for text in texts]
    if pairs is not None:
        errors = [error or find_text_error(text) for error, text in zip(errors, pairs, strict=True)]
        texts = list(zip(texts, pairs, strict=True))
    names = answer_schema(model, all_scores).names[:-1]
    valid = [text for text, error in zip(texts, errors, strict=True) if not error]
    answers = iter(answer_each(model, valid, "scores" in names))
    results = [error or next(answers) for error in errors]
    errors = [result if isinstance(result, str) else "" for result in results]
    rows = [{} if isinstance(result, str) else result for result in results]
    return {**{name: [row.get(name) for row in rows] for name in names}, ERROR: errors}


def answer_rows(model: Any, table: TextTable, batch: Batch, settings: TableSettings) -> pa.Table:
    """Return a batch of a table with the columns of answers, and `error`, which is empty for an answered row.

    Raises:
        UserError: For a missing column of texts, and for columns with the names of answers.
    """
    names = find_text_columns(model, table.columns, table.path, settings)
    texts = [
        pa.chunked_array([take_column(rows, name) for rows in batch.rows.to_batches()]).to_pylist() for name in names
    ]
    answers = _build_answers(model, texts, batch, table.columns, settings)
    if taken := set(answers.schema.names) & set(batch.rows.schema.names):
        raise UserError(f"{table.path} has a column {taken.pop()!r}, the name of an answer: give another --prefix")
    return _append(batch.rows, answers)


def _append(table: pa.Table, columns: pa.Table) -> pa.Table:
    for name, column in zip(columns.schema.names, columns.columns, strict=True):
        table = table.append_column(name, column)
    return table


def find_text_columns(model: Any, names: Sequence[str], path: str, settings: TableSettings) -> list[str]:
    """Return the name of the column of texts, and of second texts for a model of pairs."""
    text = find_column(names, settings.text_column, TEXT_NAMES, path, "text_column")
    if model.config.sep_token_id is not None:
        return [text, find_column(names, settings.text_pair_column, ["text_pair"], path, "text_pair_column")]
    if settings.text_pair_column is not None:
        raise UserError("text_pair_column is for models of text pairs: leave it out")
    return [text]


def _build_answers(
    model: Any, texts: list[list[Any]], batch: Batch | None, names: Sequence[str], settings: TableSettings
) -> pa.Table:
    """Return the columns of answers, with a column for each score in place of a record."""
    columns = answer_columns(model, texts[0], texts[1] if texts[1:] else None, settings.all_scores)
    if batch is not None:
        errors = zip(batch.errors, batch.places, columns[ERROR], strict=True)
        columns[ERROR] = [before or (error and f"{batch.unit} {place}: {error}") for before, place, error in errors]
    answers = pa.table(columns, answer_schema(model, settings.all_scores)).flatten()
    prefix = settings.prefix
    if prefix is None:
        prefix = "" if set(answers.schema.names).isdisjoint(names) else "predicted_"
    return answers.rename_columns([prefix + name for name in answers.schema.names])


def predict_table(model: Any, table: Any, settings: TableSettings, label_type: pa.DataType | None = None) -> Any:
    """Return a frame of pandas or polars, or a table of Arrow, with the columns of answers.

    `error` is added if a row has no answer. Labels are texts, or have `label_type`.

    Raises:
        UserError: For another kind of table, or a missing column of texts.
    """
    if not hasattr(table, "__arrow_c_stream__"):
        raise UserError(f"predict_table reads a frame of pandas or polars, or a table of Arrow: found {type(table)}")
    names = list(map(str, getattr(table, "column_names", None) or table.columns))
    texts = [as_list(table[name]) for name in find_text_columns(model, names, "the table", settings)]
    answers = _build_answers(model, texts, None, names, settings)
    if label_type is not None and answers.schema.names[0].endswith("label"):
        answers = answers.set_column(0, answers.schema.names[0], answers.column(0).cast(label_type))
    if not any(answers.column(-1).to_pylist()):
        answers = answers.drop_columns(answers.schema.names[-1:])
    if hasattr(table, "with_columns"):  # polars
        return table.with_columns(type(table)(answers))
    return table.assign(**answers.to_pydict()) if hasattr(table, "assign") else _append(table, answers)


def as_list(column: Any) -> list[Any]:
    """Return a column of Arrow, NumPy, pandas or polars as a list."""
    for name in ("to_pylist", "tolist", "to_list"):
        if hasattr(column, name):
            return getattr(column, name)()
    return list(column)


# ---- writing ----


def find_suffix(path: str) -> str:
    """Return the suffix of an output without that of its compression; refuse an unknown one."""
    suffix = PurePath(path.removesuffix(".gz").removesuffix(".zst")).suffix
    if suffix not in OUTPUT_SUFFIXES:
        raise UserError(f"the format of {path} is unknown: give a name that ends in {', '.join(OUTPUT_SUFFIXES)}")
    return suffix


def format_answers(tables: Sequence[pa.Table], path: str, separator: str | None = None) -> bytes:
    """Return tables, one below the other, as the content of a file with this name."""
    suffix, stream = find_suffix(path), io.BytesIO()
    text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
    names = dict.fromkeys(name for table in tables for name in table.schema.names)
    records = (record for table in tables for record in table.to_pylist())
    if suffix == ".parquet":
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException:  # columns of several types, as Excel and JSON lines may have
            rows = list(records)
            table = pa.table({name: as_array([row.get(name) for row in rows]) for name in names})
        pq.write_table(table, stream)
    elif suffix == ".jsonl":
        text.writelines(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    else:
        separator = "\t" if suffix == ".tsv" else "," if separator in (None, "\t") else separator
        writer = csv.writer(text, delimiter=separator, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_as_cell(record.get(name)) for name in names] for record in records)
    packed = {".gz": "gzip", ".zst": "zstd"}.get(PurePath(path).suffix)
    return stream.getvalue() if packed is None else pa.compress(stream.getvalue(), packed, asbytes=True)


def _as_cell(value: Any) -> Any:
    """Return labels as `train` reads them, and other nested values as JSON."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
