"""Labelled texts become splits with labels, with a count of every row; and continuous text.

The way of a row: it is in a table (`read.py`) of a split (`sources.py`), `_read_part` takes its
texts and writes its label as text, `_give_meaning` makes a value of the label (`labels.py`), or the
row is rejected (`errors.py`). If there is no validation split, `hold_out` chooses the rows of it.
Then `deliver` makes the data sets (`splits.py`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..hub.model_folder import FinishedFolder, find_folder
from ..utils.errors import UserError
from . import TableArguments
from .errors import (
    BadRow,
    DataError,
    Fault,
    Reason,
    explain_file,
    file_error,
    label_fault,
    listed,
    row_error,
    text_fault,
)
from .labels import LabelMap, RowLabels
from .lines import excerpt_of, find_byte_fault, is_table, open_unpacked, suffix_of
from .read import USUAL_NAMES, Table, find_column, read_table, write_value
from .report import DataReport, Ledger, SplitReport
from .sources import Column, as_list, choose_splits, find_parts, read_label, read_rows
from .splits import SPLITS, SplitRows, deliver

logger = logging.getLogger(__name__)

UNLABELLED = -1  # published data sets mark rows without a label so, in ClassLabel columns
_HELD_OUT = 0.1  # share of the characters of continuous text, cut off at the start of a row
# pieces of a line of continuous text
_PIECES = re.compile(r"(?s).{1,10000}\Z|.{1,9999}(?= )|.{10000}")
_USES = ("text", "text_pair", "label")


def load_texts(
    arguments: TableArguments, *, data: object = None, **options: Any
) -> datasets.DatasetDict:
    """Read the labelled texts that settings name, or rows in memory by split, with [`load_tsv`].

    A column that is not set is the one that the model to start from was trained on, or else a guess
    by its name.
    """
    if data is None:
        arguments.check_source()
    elif arguments.data_dir is not None or arguments.dataset_name is not None:
        raise UserError(
            "the texts have two sources: found train and data_dir or dataset_name; give one of them"
        )
    source = data if data is not None else arguments.data_dir or arguments.dataset_name
    if (start := getattr(arguments, "model_name_or_path", None)) is not None:
        record = FinishedFolder(find_folder(start)).read_data_record()
        options["recorded"] = {use: record.get(f"{use}_column") for use in ("text", "label")}
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
    """Read labelled texts: TSV without names of columns, tables of any format, data sets, or rows in memory.

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
    ledger, settings = Ledger(max_bad_rows, rejected_path, report), RowOptions(**options)
    sources: dict[str, list[Columns]] = {}
    for split, tables in read_tables(source, config, splits, settings).items():
        parts = list(map(settings.locate, tables))
        cells = tables[0].cells(parts[0].labels[0]) if parts[0].class_names else [None]
        if splits is None and split != "train" and all(cell == UNLABELLED for cell in cells):
            logger.warning(
                "%s is left out: all labels are %d, which means no label",
                tables[0].path,
                UNLABELLED,
            )
        else:
            sources[split] = parts
    first = next(iter(sources.values()))[0]
    if settings.class_names is None:
        settings = replace(settings, class_names=first.class_names)
    if settings.class_names is None and "train" not in sources:
        raise UserError(
            f"{' and '.join(sources)} without train needs class names: add --class_names"
        )
    report.columns = settings.describe(first)
    rows = _read_splits(sources, settings, ledger)
    ledger.close()
    return deliver(rows, validation_share if splits is None else 0, seed, report)


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

    def refuse(self, name: str, expected: str, found: str) -> DataError:
        """Return the error for a column that holds no texts, or no labels."""
        detail = f"column {name!r:.80} must hold {expected}: found {found}; set --text_column and --label_column"
        return file_error(self.table.path, Reason.MISSING_COLUMN, detail)


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
    # columns that a model was trained on, by use
    recorded: Mapping[str, str | None] = field(default_factory=dict)

    def read_part(self, part: Any, name: str, in_folder: bool) -> Table:
        """Read rows in memory, a table, or the texts of a label: a file or folder in a folder without tables.

        A TSV file without names of columns is plain text: a `"` is a letter.
        """
        labels = [
            column for column in (*self.label_columns, self.label_column) if column is not None
        ]
        texts = [
            column for column in (self.text_column, self.text_pair_column) if column is not None
        ]
        declared = texts + labels
        if not isinstance(part, str):
            texts = texts if self.text_column is not None else ["text", *texts]
            return read_rows(part, name, texts + (labels or ["label"]))
        if in_folder and not is_table(part):
            return read_label(part, self.encoding)
        has_names = self.separator is not None or (is_table(part) and suffix_of(part) != ".tsv")
        has_names = has_names or any(isinstance(column, str) for column in declared)
        return read_table(
            part,
            separator=self.separator,
            encoding=self.encoding,
            header=has_names
            or (lambda names: not any(map(names.isdisjoint, USUAL_NAMES.values()))),
            fields=None if declared else 2,
            quoting=self.quoting,
        )

    def locate(self, table: Table) -> Columns:
        """Find the columns in a table; raise a [`DataError`] that lists those that there are."""
        names, path = list(table.columns), table.path
        labels = [
            find_column(names, column, (), path, "label_columns") for column in self.label_columns
        ]
        chosen: dict[str, str] = {}
        for use in _USES:
            if (column := getattr(self, f"{use}_column")) is not None:
                chosen[use] = find_column(names, column, (), path, f"{use}_column")
        for use, usual in USUAL_NAMES.items():
            rest = [name for name in names if name not in (*chosen.values(), *labels)]
            guesses = [*filter(None, [self.recorded.get(use)]), *usual]
            if not table.has_names:
                guesses = sorted(rest, key=names[0].__eq__) if use == "label" else rest
            elif use == "label" and len(rest) == 1:
                guesses = rest
            if use not in chosen and not (use == "label" and labels):
                chosen[use] = find_column(rest, None, guesses, path, f"{use}_column")
        texts = [chosen[use] for use in ("text", "text_pair") if use in chosen]
        return Columns(table, texts, labels or [chosen["label"]])

    def describe(self, columns: Columns) -> dict[str, str]:
        """Return the columns chosen as `text`, `text_pair` and `label`; log them, and which of them are a guess."""
        chosen = dict(zip(_USES, columns.texts, strict=False)) | {
            "label": ", ".join(columns.labels)
        }
        parts = []
        for use, name in chosen.items():
            is_set = getattr(self, f"{use}_column") is not None or (
                use == "label" and self.label_columns
            )
            is_guess = not (is_set or self.recorded.get(use) == name or use == name.casefold())
            guess = f" (a guess: --{use}_column NAME sets it)" if is_guess else ""
            parts.append(f"{use.replace('_', ' ')} from column {name!r:.80}{guess}")
        if columns.table.has_names:
            logger.info("%s: %s", columns.table.path, ", ".join(parts))
        return chosen

    def write_labels(self, columns: Columns) -> list[str | None]:
        """Return the labels of a table as texts, those of several columns with tabs between them; None if missing."""
        written = [
            [
                cell if type(cell) is str else self._write(cell, columns, name)
                for cell in columns.table.cells(name)
            ]
            for name in columns.labels
        ]
        if len(written) == 1:
            return written[0]
        return [
            None if None in row else "\t".join(map(str, row)) for row in zip(*written, strict=True)
        ]

    def _write(self, cell: Any, columns: Columns, name: str) -> str | None:
        if isinstance(cell, list | tuple) and self.scheme is not None:
            items = [self._write(item, columns, name) for item in cell]
            if cut := [item for item in items if self.label_separator in str(item)]:
                detail = f"the label {cut[0]!r:.80} contains {self.label_separator!r}"
                raise UserError(f"{detail}: set another label_separator")
            return None if None in items else self.label_separator.join(map(str, items))
        if isinstance(cell, list | tuple | dict | bytes):
            raise columns.refuse(
                name, "ClassLabel, strings, integers or bools", type(cell).__name__
            )
        names = columns.table.class_names.get(name)
        if names is None or cell is None:
            return write_value(cell)
        # a number without a name becomes a text that matches no class
        return names[cell] if 0 <= cell < len(names) else f"{'#' * (cell != UNLABELLED)}{cell}"

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
    """Return the tables of each split to read, train first, of any source that [`load_tsv`] takes."""
    where, parts = find_parts(source, splits, config=config)
    return {
        split: [
            options.read_part(part, f"{where}[{split}]", os.path.isdir(where))
            for part in parts[split]
        ]
        for split in choose_splits(splits, parts, where)
    }


# ---- rows ----


@dataclass
class _Part:
    """Rows of a table with usable texts; their labels have no meaning yet."""

    table: Table
    numbers: list[int]  # in the table
    texts: list[list[str]]  # by column
    labels: list[str | None]

    def keep(self, numbers: Sequence[int]) -> None:
        """Drop all rows but some, by their number in this part."""
        self.numbers = [self.numbers[number] for number in numbers]
        self.labels = [self.labels[number] for number in numbers]
        self.texts = [[column[number] for number in numbers] for column in self.texts]


def _read_part(split: str, columns: Columns, options: RowOptions, ledger: Ledger) -> _Part:
    """Take texts and labels of a table, and reject rows without a usable text."""
    table, texts, bad = columns.table, list[list[str]](), dict[int, BadRow]()
    for name in columns.texts:
        cells = table.cells(name)
        types, is_absent = set(map(type, cells)), "." in name and len(table.rejected) < len(cells)
        if str not in types and (types - {type(None)} or is_absent):
            raise columns.refuse(
                name, "strings", " and ".join(sorted(item.__name__ for item in types))
            )
        column, wrong = table.texts(name)
        texts.append(column)
        odd = [
            number
            for number, text in enumerate(column)
            if not text or text.isspace() or "\0" in text
        ]
        faults = {number: fault for number in odd if (fault := text_fault(column[number]))}
        faulty = {
            number: table.reject(number, fault, texts[0][number])
            for number, fault in faults.items()
        }
        bad = faulty | wrong | bad  # the first text comes first
    for row in bad.values():
        ledger.reject(split, row)
    part = _Part(table, list(range(len(table.places))), texts, options.write_labels(columns))
    ledger.report.splits[split].rows_read += len(part.numbers)
    if bad:
        part.keep([number for number in part.numbers if number not in bad])
    return part


def _read_splits(
    sources: Mapping[str, Sequence[Columns]], options: RowOptions, ledger: Ledger
) -> dict[str, SplitRows]:
    """Read all splits under one label map: that of class names, or of the labels of the first split, sorted."""
    report = ledger.report
    report.splits = {
        split: SplitReport([part.table.path for part in parts]) for split, parts in sources.items()
    }
    labels: RowLabels | None = None
    splits = {}
    for split, columns in sources.items():
        parts = [_read_part(split, part, options, ledger) for part in columns]
        if labels is None:
            counts = Counter[str]()
            for label, times in Counter(chain.from_iterable(part.labels for part in parts)).items():
                bare = label if options.scheme or label is None else label.strip()
                if bare is not None and (options.scheme or not label_fault(bare)):
                    counts[bare] += times
            try:
                labels = options.read_labels(counts, columns[0].labels)
            except UserError:  # report a rejected row instead, if there is one: it explains more
                _give_meaning(split, parts, LabelMap.from_labels(counts), ledger)
                ledger.check()
                raise
            report.class_names = list(labels.names)
        splits[split] = _give_meaning(split, parts, labels, ledger)
    return splits


def _give_meaning(
    split: str, parts: Sequence[_Part], labels: RowLabels, ledger: Ledger
) -> SplitRows:
    """Return the rows of a split with the meaning of their labels, and reject those with labels without one."""
    report, is_class = ledger.report.splits[split], isinstance(labels, LabelMap)
    counts = Counter(chain.from_iterable(part.labels for part in parts))
    meanings: dict[str | None, Any] = {
        None: Fault(Reason.EMPTY_LABEL, "its label is missing, or not finite")
    }
    for label, times in counts.items():
        if label is not None:
            bare = label.strip() if is_class else label
            meanings[label] = labels.read(bare)
            report.trimmed += times * (bare != label)
    bad = {label for label, meaning in meanings.items() if isinstance(meaning, Fault)}
    texts = [pa.field(use, pa.string()) for use in _USES[: len(parts[0].texts)]]
    features = datasets.Features(
        {**{use.name: datasets.Value("string") for use in texts}, "label": labels.feature}
    )
    schema, tables, hashers = (
        features.arrow_schema,
        list[pa.Table](),
        [hashlib.sha256() for _ in features],
    )
    for part in parts:
        if not bad.isdisjoint(part.labels):
            for number, label in enumerate(part.labels):
                if label in bad:
                    row, fault = part.numbers[number], meanings[label]
                    ledger.reject(split, part.table.reject(row, fault, part.texts[0][number]))
            part.keep([number for number, label in enumerate(part.labels) if label not in bad])
        ids = pa.array([meanings[label] for label in part.labels], schema.field("label").type)
        for hasher, items in zip(hashers, [*part.texts, map(str, ids.to_pylist())], strict=True):
            hasher.update("\0".join([*items, ""]).encode())
        tables.append(
            pa.table(
                [*(pa.array(column, pa.string()) for column in part.texts), ids], schema=schema
            )
        )
    rows = pa.concat_tables(tables)
    report.rows_kept = len(rows)
    if not report.rows_kept:
        ledger.check()
        raise file_error(", ".join(report.files), Reason.EMPTY_FILE, "found no usable row")
    strata = rows["label"].to_numpy() if is_class else np.zeros(len(rows), dtype=np.int64)
    present = set(np.unique(strata).tolist())
    if is_class and (
        absent := [name for number, name in enumerate(labels.names) if number not in present]
    ):
        logger.warning("%s has no row with label %s", split, listed(absent))
    digest = hashlib.sha256(
        repr((labels.names, [hasher.hexdigest() for hasher in hashers])).encode()
    ).hexdigest()
    places = np.concatenate(
        [np.asarray(part.table.places, dtype=np.int64)[part.numbers] for part in parts]
    )
    is_file = len(parts) == 1 and os.path.exists(parts[0].table.path)
    return SplitRows(rows, features, places, strata, digest, parts[0].table if is_file else None)


# ---- continuous text ----


def load_text(
    source: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    encoding: str | None = None,
    report: DataReport | None = None,
) -> datasets.DatasetDict:
    """Read the continuous texts of a language model.

    A row of the column `text` is a line with its line feed, so that the rows, joined, are the text;
    CRLF becomes LF, and a byte order mark is skipped. A line over 10,000 characters is several
    rows.

    Args:
        source: A folder with `train.txt`, and `dev.txt` and `test.txt` if there are any; or a text
            file, or a folder with only one. Without `dev.txt` the last tenth is the validation
            split.
        splits: Return only these. A single file is also the split `test`, whole.
        encoding: The encoding of the files, by default UTF-8.
        report: An empty report to fill in.

    Raises:
        DataError: For a file without text, or with bytes that are not text.
        UserError: For a folder without such files, and for a missing split.
    """
    report, splits = (
        DataReport() if report is None else report,
        None if splits is None else as_list(splits),
    )
    where, files = find_parts(source, splits if splits == ["test"] else None, (".txt",))
    derived = ["validation"] if "train" in files and "validation" not in files else []
    names = choose_splits(splits, [*files, *derived], where, ".txt")
    texts = {}
    for split in (
        files if splits is None else {name if name in files else "train": None for name in names}
    ):
        texts[split] = [
            piece for path in files[split] for piece in _read_pieces(path, encoding or "utf-8-sig")
        ]
        report.splits[split] = SplitReport(files[split], len(texts[split]), len(texts[split]))
    if derived and "train" in texts:
        ends = np.cumsum([len(row) for row in texts["train"]])
        first = int(np.searchsorted(ends, (1 - _HELD_OUT) * ends[-1]))
        if first in (0, len(ends)):
            raise UserError(
                "the text is too short to hold out a tenth of its lines: give dev.txt beside train.txt"
            )
        texts["train"], texts["validation"] = texts["train"][:first], texts["train"][first:]
        report.held_out = {"share": _HELD_OUT, "seed": None, "rows": len(texts["validation"])}
        logger.warning(
            "there is no dev.txt: the last tenth of %s is held out as validation split",
            files["train"][0],
        )
    report.label_counts = {split: [len(texts[split])] for split in SPLITS if split in texts}
    features = datasets.Features(text=datasets.Value("string"))
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": texts[name]}, features) for name in names}
    )


def _read_pieces(path: str, encoding: str) -> list[str]:
    """Return the lines of a text file, those over 10,000 characters in pieces, cut before a space if there is one."""
    with explain_file(path), open_unpacked(path) as stream:
        text = stream.read().decode(encoding, "surrogateescape").replace("\r\n", "\n")
    lines = text.splitlines(keepends=True)
    for line in lines if "\0" in text or find_byte_fault(text) else ():
        if fault := find_byte_fault(line, encoding) or (
            "\0" in line and Fault(Reason.NUL, "the line has a NUL")
        ):
            raise row_error(
                BadRow(path, text.count("\n", 0, text.index(line)) + 1, fault, excerpt_of(line))
            )
    if not text.strip():
        raise file_error(path, Reason.EMPTY_FILE, "it has no text")
    return [piece for line in lines for piece in _PIECES.findall(line)]
