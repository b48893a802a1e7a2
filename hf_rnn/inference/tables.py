"""Tables in, tables out: rows of a file, a frame or a batch, with answers in further columns."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from ..data.columns import USUAL_NAMES, find_column, read_named
from ..data.lines import is_table, suffix_of
from ..data.table import RowStore, Table, split_rows
from ..hub.model_folder import FinishedFolder, find_folder
from ..utils.errors import NO_TEXT, UserError, install_hint, out_of_arrow, reason_of

if TYPE_CHECKING:
    from ..tasks import Answer
    from .predict import FastRnn

# a frame of pandas or polars, a table of Arrow, or a dictionary of columns
Frame = TypeVar("Frame")
Record: TypeAlias = Mapping[str, Any]  # that of the training data of a model

_BATCH_ROWS = 10_000
OUTPUT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
_PACKINGS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".zstd": "zstd"}
_EXCEL_TEXT = 32_767  # characters of a cell
_EXCEL_INTEGER = 10**15  # about the largest number that a cell of Excel has exactly


@dataclass(frozen=True)
class TableSettings:
    """How tables are read and answered."""

    # None: that of the training data, else the first usual name, such as `text`
    text_column: str | None = None
    # the second texts, for a model of text pairs; None: in the same way
    text_pair_column: str | None = None
    separator: str | None = None  # between fields of CSV; None finds it
    encoding: str | None = None  # a text file's; None finds it
    # begins the names of answers; None: `predicted_` if one of them exists, else empty
    prefix: str | None = None
    all_scores: bool = False  # whether the score of each class is added
    top_k: int = 1  # labels per text: `label_2` and `score_2` follow `label` and `score`
    target: float | None = None  # adds `for_a_person`; see [`FastRnn.predict`]
    quoting: str | None = None  # `csv` or `none`; see `read_table`


class AnsweredFile(NamedTuple):
    """A file with its answers."""

    # all rows in their order; with `error` as last column if a row with a text has no answer
    table: pa.Table
    note: str  # the column that was read, and why
    rejected: list[str]  # the reason of each row that has a text without an answer
    empty: int  # rows without a text, whose answers are null
    separator: str | None  # that of the file, for a similar output; None for other formats
    needs_mark: bool  # whether the file came from Excel, which reads UTF-8 by a mark only


def read_record(name: str, revision: str | None = None) -> Record:
    """Return the record of the training data of a finished folder or a repo, empty without one."""
    return FinishedFolder(find_folder(name, revision)).read_data_record()


# ---- answers ----


def answer_file(model: FastRnn, path: str, settings: TableSettings, record: Record) -> AnsweredFile:
    """Answer the rows of a table, or the lines of another file.

    `record` is that of the training data.
    """
    layout = {name: getattr(settings, name) for name in ("separator", "encoding", "quoting")}
    table, names = read_named(path, [settings.text_column], record.get("text_column"), **layout)
    columns, settings, note = _choose_columns(model, names, path, settings, record)
    if not table.has_names:
        note = f"{path}: texts are its lines"
        if is_table(path):
            note = f"{path}: texts are the first fields of its lines"

    stored = dict(zip(names, table.columns, strict=True))
    columns = [stored.get(name, name) for name in columns]
    answers = _answer_rows(model, table, columns, settings)
    whole = _add_columns(table.to_arrow().rename_columns(names), answers.flatten())
    reasons = list(filter(None, whole.column(-1).to_pylist()))
    faults = [reason for reason in reasons if reason.partition(": ")[2] != NO_TEXT]
    if not faults:
        whole = whole.drop_columns(whole.schema.names[-1:])
    return AnsweredFile(
        whole, note, faults, len(reasons) - len(faults), table.separator, came_from_excel(table)
    )


def came_from_excel(table: Table) -> bool:
    """Return whether a table came from Excel, which reads UTF-8 by a mark only."""
    return table.encoding not in (None, "utf-8", "ascii")


def _answer_rows(
    model: FastRnn, table: Table, columns: Sequence[str], settings: TableSettings
) -> pa.Table:
    """Return the answers to all rows of a table, whose texts are in one or two columns."""
    answers = RowStore()
    holds_texts = {name: table.has_texts(name) for name in columns}
    for start in range(0, max(1, len(table.places)), _BATCH_ROWS):
        piece = table.slice(start, _BATCH_ROWS)
        where = [f"{table.unit} {place}: " for place in piece.places]
        texts = [_take_texts(piece, name, holds_texts[name]) for name in columns]
        answers.add(_answer_texts(model, texts, settings, where))
    return answers.close()


def _take_texts(table: Table, name: str, holds_texts: bool) -> list[object]:
    """Return the texts of a column; without any text, numbers stay numbers, and have no answer."""
    texts, bad = table.texts(name)
    rows = texts.to_pylist() if holds_texts else table.cells(name)
    return [bad.get(number, row) for number, row in enumerate(rows)]


def _choose_columns(
    model: FastRnn,
    names: Sequence[str],
    path: str,
    settings: TableSettings,
    record: Record,
) -> tuple[list[str], TableSettings, str]:
    """Return the columns of texts, settings with a prefix, and a note on the choice."""
    trained = {key: name for key, name in record.items() if str(name).partition(".")[0] in names}
    name = settings.text_column or trained.get("text_column")
    columns = [find_column(names, name, USUAL_NAMES["text"], path, "text_column")]
    how = "as given" if settings.text_column else "as in training"
    if not name:
        other = record.get("text_column")
        differs = f"; the model was trained on {other!r}" if other and not other.isdecimal() else ""
        how = f"a guess by its name{differs}; --text_column names another"
    if model.config.sep_token_id is not None:
        second = settings.text_pair_column or trained.get("text_pair_column")
        columns.append(find_column(names, second, ["text_pair"], path, "text_pair_column"))
    elif settings.text_pair_column is not None:
        raise UserError("text_pair_column is for models of text pairs: leave it out")
    note = f"{path}: texts are in the column {columns[0]!r} ({how})"
    prefix = _choose_prefix(model, names, path, settings)
    return columns, replace(settings, prefix=prefix), note


def _choose_prefix(model: FastRnn, names: Sequence[str], path: str, settings: TableSettings) -> str:
    """Return what the names of answers begin with, so that they differ from those of the table."""
    bare = answer_schema(model, settings).empty_table().flatten().schema.names
    prefix = settings.prefix
    if prefix is None:
        prefix = "" if set(bare).isdisjoint(names) else "predicted_"
    taken = sorted({prefix + name for name in bare}.intersection(names))
    if taken:
        raise UserError(
            f"{path} has a column {taken[0]!r}, the name of an answer: give another prefix"
        )
    return prefix


def answer_schema(model: FastRnn, settings: TableSettings) -> pa.Schema:
    """Return the types of the answers of a model, and of `error`, by name without a prefix."""
    types = model.task.answer_types(model.config)
    for place in range(2, settings.top_k + 1):
        types |= {f"label_{place}": pa.string(), f"score_{place}": pa.float64()}
    if settings.target is not None:
        types["for_a_person"] = pa.bool_()
    if settings.all_scores and "label" in types:
        labels = model.config.id2label.values()
        types["scores"] = pa.struct([(name, pa.float64()) for name in labels])
    types["error"] = pa.string()
    return pa.schema(types)


def _answer_texts(
    model: FastRnn,
    texts: Sequence[Sequence[object]],
    settings: TableSettings,
    places: Sequence[str] = (),
) -> pa.Table:
    """Return the columns of [`answer_schema`] with the prefix, for one or two columns of texts.

    Errors start with the `places`.
    """
    rows: Sequence[object] = list(zip(*texts, strict=True)) if texts[1:] else texts[0]
    results = model.answer_each(rows, settings.all_scores, settings.top_k, settings.target)
    answers: list[Answer] = []
    for number, result in enumerate(results):
        if isinstance(result, str):
            place = places[number] if places else ""
            answers.append({"error": place + result})
        else:
            answers.append({**result, "error": ""})
    table = pa.Table.from_pylist(answers, answer_schema(model, settings))
    return table.rename_columns([(settings.prefix or "") + name for name in table.schema.names])


def answer_frame(
    model: FastRnn,
    table: Frame,
    where: str,
    settings: TableSettings,
    record: Record,
    is_batch: bool,
) -> Frame:
    """Return a frame with the columns of answers; those of a batch do not depend on its rows."""
    frame: Any = table
    names = list(map(str, getattr(frame, "column_names", getattr(frame, "columns", frame))))
    columns, settings, _ = _choose_columns(model, names, where, settings, record)
    answers = _answer_texts(model, [list(out_of_arrow(frame[name])) for name in columns], settings)
    if not is_batch:
        answers = answers.flatten()
        if not any(answers.column(-1).to_pylist()):
            answers = answers.drop_columns(answers.schema.names[-1:])
    return _add_columns(frame, answers)


def _add_columns(frame: Any, columns: pa.Table) -> Any:
    """Return a table with further columns after its own."""
    if isinstance(frame, pa.Table):
        for name, column in zip(columns.schema.names, columns.columns, strict=True):
            frame = frame.append_column(name, column)
        return frame
    if hasattr(frame, "with_columns"):
        return frame.with_columns(type(frame)(columns))  # polars
    values = columns.to_pydict()
    return frame.assign(**values) if hasattr(frame, "assign") else {**frame, **values}


# ---- writing ----


def find_suffix(path: str) -> str:
    """Return the suffix of an output without that of its compression; refuse an unknown one."""
    suffix = suffix_of(path)
    if suffix not in OUTPUT_SUFFIXES:
        endings = ", ".join(OUTPUT_SUFFIXES)
        raise UserError(f"the format of {path} is unknown: give a name that ends in {endings}")
    return suffix


def write_table(
    table: pa.Table,
    file: IO[bytes] | io.RawIOBase,
    path: str,
    separator: str | None = None,
    needs_mark: bool = False,
) -> None:
    """Write a table into a file, in the format and with the compression of a name.

    Raises:
        UserError: For values that the format cannot hold.
    """
    suffix = find_suffix(path)
    packing = Path(path.lower()).suffix
    stream: Any = contextlib.nullcontext(file)
    if packing in _PACKINGS:
        stream = pa.CompressedOutputStream(_OpenFile(file), _PACKINGS[packing])
    try:
        with stream as output:
            _write_rows(table, output, suffix, separator, needs_mark)
    except OSError:
        raise
    except Exception as error:  # writers raise anything for types that they lack
        raise UserError(f"{path} cannot be written: {reason_of(error):.300}") from error


class _OpenFile(io.RawIOBase):
    """A file that stays open when Arrow closes this one."""

    def __init__(self, file: IO[bytes] | io.RawIOBase) -> None:
        self.write = file.write  # type: ignore[method-assign]

    def writable(self) -> bool:
        return True


def _write_rows(
    table: pa.Table, output: IO[bytes], suffix: str, separator: str | None, needs_mark: bool
) -> None:
    """Write a table in the format of a suffix."""
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, output)
    elif suffix == ".jsonl":
        for piece in split_rows(table):
            output.write("".join(f"{_to_json(row)}\n" for row in piece.to_pylist()).encode())
    elif suffix == ".xlsx":
        _write_excel(_flatten(table), output)
    else:
        if suffix == ".tsv":
            separator = "\t"
        elif separator in (None, "\t"):
            separator = ","
        if needs_mark:
            output.write(codecs.BOM_UTF8)
        csv.write_csv(_flatten(table), output, csv.WriteOptions(delimiter=separator))


def _write_excel(table: pa.Table, stream: IO[bytes]) -> None:
    """Write the first sheet of a workbook; texts stay texts, also `=1+1`.

    Integers of more than 15 digits, times before 1901 and times with a zone, which Excel lacks,
    become texts.
    """
    try:
        import pandas as pd
        import xlsxwriter  # noqa: F401 - the engine of pandas
    except ImportError:
        raise ImportError(f"install XlsxWriter: {install_hint('excel')}, or write .csv") from None
    for place, (name, column) in enumerate(zip(table.schema.names, table.columns, strict=True)):
        if not _fits_excel(name, column):
            table = table.set_column(place, name, column.cast(pa.string()))
    options = {"strings_to_formulas": False, "strings_to_urls": False}
    with pd.ExcelWriter(stream, "xlsxwriter", engine_kwargs={"options": options}) as book:
        table.to_pandas(types_mapper=pd.ArrowDtype).to_excel(book, index=False)


def _fits_excel(name: str, column: pa.ChunkedArray) -> bool:
    """Return whether Excel has the values of a column; refuse texts that it would cut."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        longest = pc.max(pc.utf8_length(column)).as_py() or 0
        if longest > _EXCEL_TEXT:  # pandas cuts them, with a warning in some versions
            limit = f"a cell of Excel has at most {_EXCEL_TEXT:,} characters"
            raise ValueError(f"a text of column {name!r} has {longest:,}, and {limit}")
    is_time = pa.types.is_date(kind) or pa.types.is_timestamp(kind)
    if not is_time and not pa.types.is_integer(kind):
        return True
    if getattr(kind, "tz", None) is not None:
        return False
    low, high = pc.min_max(column).as_py().values()
    if low is None:
        return True
    return low.year > 1900 if is_time else -_EXCEL_INTEGER < low <= high < _EXCEL_INTEGER


def _to_json(value: object) -> str:
    """Return a value as JSON: null for NaN and infinity, texts for other types and bytes."""

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def write(other: object) -> str:
        return other.decode() if isinstance(other, bytes) else str(other)

    return json.dumps(clean(value), ensure_ascii=False, default=write)


def _flatten(table: pa.Table) -> pa.Table:
    """Return a table with lists of labels as `train` reads them, and nested values as JSON."""
    for place, (name, column) in enumerate(zip(table.schema.names, table.columns, strict=True)):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(place, name, column.cast(column.type.value_type))
        elif pa.types.is_nested(column.type):
            texts = column.to_pylist()
            for row, value in enumerate(texts):
                if isinstance(value, list) and all(isinstance(item, str) for item in value):
                    texts[row] = ",".join(value)
                elif value is not None:
                    texts[row] = _to_json(value)
            table = table.set_column(place, name, pa.array(texts, pa.string()))
        elif "binary" in str(column.type) or "view" in str(column.type):
            table = table.set_column(place, name, column.cast(pa.large_string()))
    return table
