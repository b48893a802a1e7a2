"""Labelled texts become splits with labels, with a count of every row.

The way of a row: it is in a table (`read.py`) of a split (`sources.py`), `_read_part` takes its
texts and writes its label as text, `label_rows` makes a value of the label (`labels.py`), or the
row is rejected (`errors.py`). If there is no validation split, `hold_out` chooses the rows of it.
Then `make_datasets` writes the data sets (`splits.py`). Columns are those of Arrow, which a large
table has in a file.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..hub.model_folder import FinishedFolder, find_folder
from ..utils.errors import DataError, SettingError, UserError
from . import TableArguments
from .columns import USUAL_NAMES, are_names, find_column
from .errors import (
    BadRow,
    Fault,
    Reason,
    file_error,
    label_fault,
    listed,
    text_fault,
)
from .labels import LabelMap, RowLabels
from .lines import is_table, suffix_of
from .read import read_table
from .report import DataReport, Ledger, SplitReport
from .sources import Column, choose_splits, find_parts, read_label, read_rows
from .splits import SplitRows, make_datasets
from .table import Table, convert_cells, select_rows, write_value

logger = logging.getLogger(__name__)

UNLABELLED = -1  # published data sets mark rows without a label so, in ClassLabel columns
_USES = ("text", "text_pair", "label")


def load_texts(
    arguments: TableArguments, *, data: object = None, **options: Any
) -> datasets.DatasetDict:
    """Read the labelled texts that settings name, or rows in memory by split, with [`load_tsv`].

    A column that is not set is the one that the model to start from was trained on, or else a guess
    by its name.
    """
    source = data
    if data is None:
        arguments.check_source()
        source = arguments.data_dir or arguments.dataset_name
    elif arguments.data_dir is not None or arguments.dataset_name is not None:
        found = "found train and data_dir or dataset_name"
        raise SettingError(f"the texts have two sources: {found}; give one of them")
    start = getattr(arguments, "model_name_or_path", None)
    if start is not None:
        record = FinishedFolder(find_folder(start)).read_data_record()
        columns = {use: record.get(f"{use}_column") for use in ("text", "label")}
        options["columns_of_start"] = columns
    return load_tsv(source, arguments.dataset_config, **arguments.layout(), **options)


def load_tsv(
    source: object,
    config: str | None = None,
    *,
    splits: Iterable[str] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
    report: DataReport | None = None,
    **options: Any,
) -> datasets.DatasetDict:
    """Read labelled texts: plain TSV, tables of any format, data sets, or rows in memory.

    A line of plain TSV is `text<TAB>label` in UTF-8, ended by LF or CRLF. A byte order mark is
    skipped; quotes, a lone CR, U+2028 and white space at the ends of a text are part of the text.
    Two columns are expected unless others are declared; then every line must have as many fields as
    the first. Tables are those of [`~hf_rnn.data.read.read_table`].

    Args:
        source: A folder with `train.tsv`, `dev.tsv`, `test.tsv`, or such files of other formats,
            also packed, or parts such as `train-00000-of-00004.tsv`; a folder with a folder of
            `.txt` files or a `.txt` file of lines for each label, or with such folders `train` and
            `test`; files by split; or one file of training rows. Or a data set of the `datasets`
            library: its name on the Hub, its folder, a `DatasetDict`, or a `Dataset`, which is
                train; or rows by split, each as [`read_rows`] takes it. Their rows count from 0.
        config: The configuration of a data set that has several.
        splits: Read only these, without a hold-out. Train is not required then if `class_names` are
            given. By default a validation or test split of a data set with only the label -1, no
            label, is left out and logged.
        validation_share: Without a validation split, about this share of train becomes it; see
            [`~hf_rnn.data.splits.hold_out`]. 0 for none.
        seed: Changes which rows are held out.
        max_bad_rows: Skip up to this many rejected rows: a count, or a share of all rows such as
            `"0.1%"`.
        rejected_path: File that lists these (JSON lines). Without it the first few are logged.
        report: An empty report to fill in.
        options: Columns and labels: the fields of [`~hf_rnn.data.load.RowOptions`].

    Returns:
        Splits `train`, `validation` and `test`, if present, with the columns `text` (string) and
        `label` (ClassLabel).

    Raises:
        DataError: For an unusable file, and for rejected rows beyond `max_bad_rows`.
        UserError: For arguments that contradict each other or the data.
    """
    report = DataReport() if report is None else report
    ledger = Ledger(max_bad_rows, rejected_path, report)
    settings = RowOptions(**options)
    sources = _locate_columns(source, config, splits, settings)
    first = next(iter(sources.values()))[0]
    if settings.class_names is None:
        settings = replace(settings, class_names=first.class_names)
    if settings.class_names is None and "train" not in sources:
        names = " and ".join(sources)
        raise SettingError(f"{names} without train needs class names: add --class_names")
    report.columns = settings.describe(first)
    rows = _read_splits(sources, settings, ledger)
    ledger.close()
    return make_datasets(rows, validation_share if splits is None else 0, seed, report)


def _locate_columns(
    source: object, config: str | None, splits: Iterable[str] | None, settings: RowOptions
) -> dict[str, list[Columns]]:
    """Return the tables by split with their columns, without unlabelled splits unless named."""
    sources = {}
    for split, tables in read_tables(source, config, splits, settings).items():
        parts = [settings.locate(table) for table in tables]
        if splits is None and split != "train" and parts[0].is_unlabelled:
            message = "%s is left out: all labels are %d, which means no label"
            logger.warning(message, tables[0].path, UNLABELLED)
        else:
            sources[split] = parts
    return sources


# ---- columns ----


@dataclass(frozen=True)
class Columns:
    """A table with its columns of texts and labels."""

    table: Table
    texts: list[str]
    labels: list[str]

    @property
    def class_names(self) -> list[str] | None:
        """The names of a column of ClassLabel, in its own order; None for other columns."""
        return self.table.class_names.get(self.labels[0]) if len(self.labels) == 1 else None

    @property
    def is_unlabelled(self) -> bool:
        """Whether this is a column of ClassLabel without any label."""
        if self.class_names is None:
            return False
        labels = self.table.columns[self.labels[0]]
        return pc.all(pc.equal(labels, UNLABELLED)).as_py() is not False

    def refuse(self, name: str, expected: str, found: str, advice: str = "") -> DataError:
        """Return the error for a column that holds no texts, or no labels."""
        detail = f"column {name!r:.80} must hold {expected}: found {found}"
        advice = advice or "set --text_column and --label_column"
        return file_error(self.table.path, Reason.MISSING_COLUMN, f"{detail}; {advice}")


@dataclass(frozen=True)
class RowOptions:
    """Columns of texts and labels, by name or by number from 0, and the meaning of the labels."""

    # None: `text` or a similar name such as `tweet`; the first without names
    text_column: Column | None = None
    # None: `label` or a similar name, or the other one of two columns
    label_column: Column | None = None
    # several in place of `label_column`, for a `scheme` that reads them
    label_columns: Sequence[Column] = ()
    text_pair_column: Column | None = None  # a second text; it becomes the column `text_pair`
    # between fields; see [`~hf_rnn.data.read.read_table`], also for the next two
    separator: str | None = None
    encoding: str | None = None
    quoting: str | None = None
    # by id; labels are these or their indices. None: those of train, sorted
    class_names: Sequence[str] | None = None
    # labels of the data to class names; then integers do not index these
    label_map: Mapping[str, str] | None = None
    # other labels: `LabelSets.from_rows`, `Numbers.from_rows`
    scheme: Callable[..., RowLabels] | None = None
    # between the labels of a text, for a `scheme`; a tab between numbers
    label_separator: str = "\t"
    # those that the model to start from was trained on, by use
    columns_of_start: Mapping[str, str | None] = field(default_factory=dict)

    def read_part(self, part: Any, name: str, in_folder: bool) -> Table:
        """Read rows in memory, a table, or the texts of a label in a folder without tables.

        A TSV file without names of columns is plain text: a `"` is a letter.
        """
        texts = [self.text_column, self.text_pair_column]
        columns = [*texts, *self.label_columns, self.label_column]
        declared = [column for column in columns if column is not None]
        if not isinstance(part, str):
            if self.text_column is None:
                declared.insert(0, "text")
            if not self.label_columns and self.label_column is None:
                declared.append("label")
            return read_rows(part, name, declared)
        if in_folder and not is_table(part):
            return read_label(part, self.encoding)
        has_names = self.separator is not None or str in map(type, declared)
        has_names |= is_table(part) and suffix_of(part) != ".tsv"
        return read_table(
            part,
            separator=self.separator,
            encoding=self.encoding,
            header=has_names or are_names,
            fields=None if declared else 2,
            quoting=self.quoting,
        )

    def locate(self, table: Table) -> Columns:
        """Find the columns in a table; raise a [`DataError`] that lists those that there are."""
        labels = []
        for column in self.label_columns:
            labels.append(find_column(table.columns, column, (), table.path, "label_columns"))
        chosen = {}
        for use in _USES:
            flag = f"{use}_column"
            column = getattr(self, flag)
            if column is not None:
                chosen[use] = find_column(table.columns, column, (), table.path, flag)
        for use in USUAL_NAMES:
            if use in chosen or (use == "label" and labels):
                continue
            taken = [*chosen.values(), *labels]
            names = [name for name in table.columns if name not in taken]
            guesses = self._guess(use, table, names)
            chosen[use] = find_column(names, None, guesses, table.path, f"{use}_column")
        texts = [chosen[use] for use in ("text", "text_pair") if use in chosen]
        return Columns(table, texts, labels or [chosen["label"]])

    def _guess(self, use: str, table: Table, names: list[str]) -> list[str]:
        """Return the names, best first, that a column for a use may have."""
        if not table.has_names:
            first = next(iter(table.columns))
            return sorted(names, key=first.__eq__) if use == "label" else names
        if use == "label" and len(names) == 1:
            return names
        earlier = self.columns_of_start.get(use)
        return list(filter(None, (earlier, *USUAL_NAMES[use])))

    def describe(self, columns: Columns) -> dict[str, str]:
        """Return the columns of `text`, `text_pair` and `label`; log them and each guess."""
        chosen = dict(zip(_USES, columns.texts, strict=False))
        chosen["label"] = ", ".join(columns.labels)
        named = list(map(str.casefold, map(str.strip, columns.table.columns)))
        parts = []
        for use, name in chosen.items():
            part = f"{use.replace('_', ' ')} from column {name!r:.80}"
            is_set = getattr(self, f"{use}_column") is not None
            is_set |= use == "label" and bool(self.label_columns)
            is_usual = name.strip().casefold() == use and named.count(use) == 1
            if not (is_set or is_usual or self.columns_of_start.get(use) == name):
                part += f" (a guess: --{use}_column NAME sets it)"
            parts.append(part)
        if columns.table.has_names:
            logger.info("%s: %s", columns.table.path, ", ".join(parts))
        return chosen

    def write_labels(self, columns: Columns) -> pa.ChunkedArray:
        """Return the labels of a table as texts, null if missing; tabs separate columns."""
        written = []
        for name in columns.labels:
            column = columns.table.column(name)
            if getattr(column, "type", None) != pa.string():
                column = convert_cells(column, partial(self._write, columns=columns, name=name))
            written.append(column)
        return written[0] if len(written) == 1 else pc.binary_join_element_wise(*written, "\t")

    def _write(self, cell: Any, columns: Columns, name: str) -> str | None:
        """Return a cell of a column of labels as a text."""
        if isinstance(cell, list | tuple) and self.scheme is not None:
            items = [self._write(item, columns, name) for item in cell]
            for item in items:
                if self.label_separator in str(item):
                    detail = f"the label {item!r:.80} contains {self.label_separator!r}"
                    raise SettingError(f"{detail}: set another label_separator")
            return None if None in items else self.label_separator.join(map(str, items))
        if isinstance(cell, list | tuple | dict | bytes):
            expected = "ClassLabel, strings, integers or bools"
            advice = "set --task multi-label" if isinstance(cell, list | tuple) else ""
            raise columns.refuse(name, expected, type(cell).__name__, advice)
        names = columns.table.class_names.get(name)
        if names is None or cell is None:
            return write_value(cell)
        if 0 <= cell < len(names):
            return names[cell]
        # a number without a name becomes a text that matches no class
        return str(cell) if cell == UNLABELLED else f"#{cell}"

    def read_labels(self, counts: Mapping[str, int], columns: Sequence[str]) -> RowLabels:
        """Return the meaning of labels, by the rows of each label of the first split."""
        if not counts:
            return LabelMap((), {})  # no row is usable, which is an error later
        if self.scheme is not None:
            separator = None if self.label_columns else self.label_separator
            return self.scheme(iter(counts), columns, self.class_names, self.label_map, separator)
        if self.class_names is not None:
            return LabelMap.from_names(self.class_names, counts, self.label_map)
        return LabelMap.from_counts(counts)


def read_tables(
    source: object, config: str | None, splits: Iterable[str] | None, options: RowOptions
) -> dict[str, list[Table]]:
    """Return the tables of each split to read, train first, of any source of [`load_tsv`]."""
    where, parts = find_parts(source, splits, config=config)
    in_folder = os.path.isdir(where)
    tables = {}
    for split in choose_splits(splits, parts, where):
        name = f"{where}[{split}]"
        tables[split] = [options.read_part(part, name, in_folder) for part in parts[split]]
    return tables


# ---- rows ----


@dataclass
class _Part:
    """The rows of a table; their labels have no meaning yet.

    Attributes:
        table: All rows of a file.
        texts: The texts of each row, by column.
        names: The distinct labels as they are written, and None for a missing one, which is last.
        codes: The place of each row's label in `names`, int32 `(rows,)`.
        is_usable: Whether a row is usable so far, bool `(rows,)`.
    """

    table: Table
    texts: list[pa.ChunkedArray]
    names: list[str | None]
    codes: np.ndarray
    is_usable: np.ndarray

    def count_labels(self) -> Counter[str | None]:
        """Return the number of usable rows of each label."""
        counts = np.bincount(self.codes[self.is_usable], minlength=len(self.names)).tolist()
        pairs = zip(self.names, counts, strict=True)
        return Counter({name: count for name, count in pairs if count})


def _read_part(split: str, columns: Columns, options: RowOptions, ledger: Ledger) -> _Part:
    """Take texts and labels of a table, and reject rows without a usable text."""
    texts, rejected = _check_texts(columns)
    labels = options.write_labels(columns).dictionary_encode()
    names = labels.chunk(0).dictionary.to_pylist() if labels.num_chunks else []
    codes = [chunk.indices.fill_null(len(names)).to_numpy() for chunk in labels.chunks]
    is_usable = np.ones(len(columns.table.places), dtype=bool)
    for number, row in rejected.items():
        ledger.reject(split, row)
        is_usable[number] = False
    ledger.report.splits[split].rows_read += len(is_usable)
    all_codes = np.concatenate([*codes, np.zeros(0, dtype=np.int32)])
    return _Part(columns.table, texts, [*names, None], all_codes, is_usable)


def _check_texts(columns: Columns) -> tuple[list[pa.ChunkedArray], dict[int, BadRow]]:
    """Return the columns of texts, and the rows without a usable text by their number."""
    table = columns.table
    texts = []
    not_texts: dict[int, BadRow] = {}
    faults: dict[int, Fault] = {}
    for name in columns.texts:
        if not table.has_texts(name):  # unless all cells are missing
            cells = table.cells(name)
            types = {type(cell).__name__ for cell in cells if cell is not None}
            if types or ("." in name and len(table.rejected) < len(cells)):
                raise columns.refuse(name, "strings", " and ".join(sorted(types)) or "nothing")
        column, bad = table.texts(name)
        texts.append(column)
        not_texts |= bad
        is_odd = pc.or_(pc.equal(column, ""), pc.utf8_is_space(column))
        is_odd = pc.or_(is_odd, pc.match_substring(column, "\0"))
        for number in pc.indices_nonzero(is_odd.fill_null(True)).to_pylist():
            fault = text_fault(column[number].as_py() or "")
            if fault is not None:
                faults.setdefault(number, fault)  # the first text comes first
    rejected = {}
    for number, fault in faults.items():
        rejected[number] = table.reject(number, fault, texts[0][number].as_py())
    return texts, rejected | not_texts


def _read_splits(
    sources: Mapping[str, Sequence[Columns]], options: RowOptions, ledger: Ledger
) -> dict[str, SplitRows]:
    """Read all splits under one label map: of class names, or of the labels of the first split."""
    report = ledger.report
    for split, columns in sources.items():
        report.splits[split] = SplitReport([part.table.path for part in columns])
    labels = None
    splits = {}
    for split, columns in sources.items():
        parts = [_read_part(split, part, options, ledger) for part in columns]
        if labels is None:
            counts = _count_labels(parts, strips=options.scheme is None)
            try:
                labels = options.read_labels(counts, columns[0].labels)
            except UserError:  # report a rejected row instead, if there is one: it explains more
                label_rows(split, parts, LabelMap.from_labels(counts), ledger)
                ledger.check()
                raise
            report.class_names = list(labels.names)
        splits[split] = label_rows(split, parts, labels, ledger)
    return splits


def _count_labels(parts: Sequence[_Part], strips: bool) -> Counter[str]:
    """Return the rows by label of a split; `strips` white space, and drops invalid labels."""
    counts = Counter[str]()
    for part in parts:
        for label, rows in part.count_labels().items():
            if label is None:
                continue
            if strips:
                label = label.strip()
                if label_fault(label):
                    continue
            counts[label] += rows
    return counts


def label_rows(split: str, parts: Sequence[_Part], labels: RowLabels, ledger: Ledger) -> SplitRows:
    """Return the rows of a split with the meaning of their labels, and reject the others."""
    types = dict.fromkeys(_USES[: len(parts[0].texts)], datasets.Value("string"))
    features = datasets.Features({**types, "label": labels.feature})
    rows = pa.concat_tables([_label_part(split, part, labels, features, ledger) for part in parts])
    report = ledger.report.splits[split]
    report.rows_kept = len(rows)
    if not report.rows_kept:
        ledger.check()
        raise file_error(", ".join(report.files), Reason.EMPTY_FILE, "found no usable row")
    if isinstance(labels, LabelMap):
        strata = rows["label"].to_numpy()
        counts = np.bincount(strata, minlength=len(labels.names))
        absent = [name for name, number in zip(labels.names, counts, strict=True) if not number]
        if absent:
            logger.warning("%s has no row with label %s", split, listed(absent))
    else:
        strata = np.zeros(len(rows), dtype=np.int64)
    table = None
    if len(parts) == 1 and os.path.exists(parts[0].table.path):
        table = parts[0].table
    places = [np.asarray(part.table.places, dtype=np.uint32)[part.is_usable] for part in parts]
    return SplitRows(rows, features, np.concatenate(places), strata, table)


def _label_part(
    split: str, part: _Part, labels: RowLabels, features: datasets.Features, ledger: Ledger
) -> pa.Table:
    """Return the usable rows of a part with the values of their labels; reject the others."""
    counts = part.count_labels()
    meanings: list[Any] = []
    for label in part.names:
        if label is None:
            meanings.append(Fault(Reason.EMPTY_LABEL, "its label is missing, or not finite"))
            continue
        bare = label.strip() if isinstance(labels, LabelMap) else label
        meanings.append(labels.read(bare))
        if bare != label:
            ledger.report.splits[split].trimmed += counts[label]

    is_bad = np.array([isinstance(meaning, Fault) for meaning in meanings])
    for number in np.flatnonzero(is_bad[part.codes] & part.is_usable).tolist():
        text = part.texts[0][number].as_py()
        ledger.reject(split, part.table.reject(number, meanings[part.codes[number]], text))
        part.is_usable[number] = False
    schema = features.arrow_schema
    values = [None if isinstance(meaning, Fault) else meaning for meaning in meanings]
    column = pa.array(values, schema.types[-1]).take(pa.array(part.codes))
    rows = pa.table([*part.texts, column], schema)
    return rows if part.is_usable.all() else select_rows(rows, part.is_usable).close()
