"""Load labelled texts from files and folders, data sets of the `datasets` library, or memory; and continuous text."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.exceptions import DatasetsError

from ..hub.model_folder import FinishedFolder, find_folder
from ..utils.errors import UserError, reason_of
from . import TableArguments
from .delimited import BATCH_ROWS, Batch
from .lines import PACKED, TABLE_SUFFIXES, is_table, open_unpacked
from .row_errors import DataError, DataReport, Ledger, Reason, SplitReport, name_file
from .rows import RowOptions
from .splits import deliver, read_splits
from .tables import Table, is_fasttext, number_rows, open_label

logger = logging.getLogger(__name__)

UNLABELLED = -1  # published data sets mark rows without a label so, in ClassLabel columns
_SPLITS = ("train", "validation", "test")
_ALIASES = {"dev": "validation", "valid": "validation", "val": "validation"}
_NAMES = (*_SPLITS, *_ALIASES)
_NUMBER = re.compile(r"-\d+(-of-\d+)?$")  # a part of a split: train-00000-of-00004
_NO_LABEL = ("unsup", "unsupervised", "unlabeled")  # folders beside those of labels, as in IMDb
_HELD_OUT = 0.1  # share of the characters of continuous text, cut off at the start of a row
_LONGEST = 10_000  # characters of a row of continuous text


def load_texts(arguments: TableArguments, *, data: object = None, **options: Any) -> datasets.DatasetDict:
    """Read the labelled texts that settings name, or rows in memory by split, with [`load_tsv`].

    A column that is not set is the one that the model to start from was trained on, or else a guess by its name.
    """
    if data is None:
        arguments.check_source()
    elif arguments.data_dir is not None or arguments.dataset_name is not None:
        raise UserError("the texts have two sources: found train and data_dir or dataset_name; give one of them")
    source = data if data is not None else arguments.data_dir or arguments.dataset_name
    if (start := getattr(arguments, "model_name_or_path", None)) is not None:
        record = FinishedFolder(find_folder(start)).read_data_record()
        options["recorded"] = {use: record.get(f"{use}_column") for use in ("text", "label")}
    return load_tsv(source, arguments.dataset_config, **arguments.layout(), **options)


def join_splits(train: object, validation: object, test: object) -> Mapping[str, Any] | None:
    """Return rows in memory by split; None without any."""
    others = {name: rows for name, rows in (("validation", validation), ("test", test)) if rows is not None}
    if train is None and others:
        raise UserError(f"{' and '.join(others)} in memory without train: give the training rows as train")
    if isinstance(train, Mapping):
        if others:
            raise UserError(f"train holds splits by name: put {' and '.join(others)} there")
        return train
    return None if train is None else {"train": train, **others}


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

    A line of plain TSV is `text<TAB>label` in UTF-8, ended by LF or CRLF. A byte order mark is skipped; quotes, a lone
    CR, U+2028 and white space at the ends of a text are part of the text. Two columns are expected unless others are
    declared; then every line must have as many fields as the first. Tables are those of
    [`~hf_rnn.data.tables.read_table`].

    Args:
        source: A folder with `train.tsv`, `dev.tsv`, `test.tsv`, or such files of other formats, also `.gz` and
            `.zst`, or parts such as `train-00000-of-00004.tsv`; a folder with a folder of `.txt` files or a `.txt`
            file of lines for each label, or with such folders `train` and `test`; files of fastText (`__label__x
            text`); files by split; or one file of training rows. Or a data set of the `datasets` library: its name on
            the Hub, its folder, a `DatasetDict`, or a `Dataset`, which is train; or rows by split, each as
            [`to_dataset`] takes it. Their rows count from 0.
        config: The configuration of a data set that has several.
        splits: Read only these, without a hold-out. Train is not required then if `class_names` are given. By default
            a validation or test split of a data set with only the label -1, no label, is left out and logged.
        validation_share: Without a validation split, about this share of train becomes it, by a hash of the text and
            the seed, so that other rows do not move a row; see [`~hf_rnn.data.splits.hold_out`]. 0 for none.
        seed: Changes which rows are held out.
        max_bad_rows: Skip up to this many rejected rows: a count, or a share of all rows such as `"0.1%"`.
        rejected_path: File that lists these (JSON lines). Without it the first few are logged.
        report: An empty report to fill in.
        options: Columns and labels: the fields of [`~hf_rnn.data.rows.RowOptions`].

    Returns:
        Splits `train`, `validation` and `test`, if present, with the columns `text` (string) and `label` (ClassLabel).

    Raises:
        DataError: For an unusable file, and for rejected rows beyond `max_bad_rows`.
        UserError: For arguments that contradict each other or the data.
    """
    report, columns = DataReport() if report is None else report, RowOptions(**options)
    ledger = Ledger(max_bad_rows, rejected_path, report)
    tables = open_tables(source, config, splits, columns)
    sources = {split: [columns.locate(table) for table in parts] for split, parts in tables.items()}
    first = next(iter(sources.values()))[0]
    if columns.class_names is None:
        columns = replace(columns, class_names=first.class_names)
    with ledger:
        report.columns = columns.describe(first)
        read = read_splits(sources, columns, ledger)
    return deliver(read, validation_share if splits is None else 0, seed, report)


def open_tables(
    source: object, config: str | None, splits: Iterable[str] | None, options: RowOptions
) -> dict[str, list[Table]]:
    """Open the tables of each split to read, train first, of any source that [`load_tsv`] takes."""
    has_names = options.class_names is not None
    if isinstance(source, str | os.PathLike) and (parts := _find_label_files(Path(os.path.expanduser(source)))):
        names = choose_splits(splits, parts, str(source), has_names)
        logger.info("%s: the labels are %s", source, ", ".join(part.name for part in parts[names[0]]))
        return {name: [open_label(part, options.encoding) for part in parts[name]] for name in names}
    if _is_files(source):
        files = find_files(source, splits, has_names)
        return {split: list(map(options.open_file, paths)) for split, paths in files.items()}
    loaded, name, stored = _load_dataset(source, config, options)
    tables = {split: as_table(f"{name}[{key}]", loaded[key]) for split, key in stored.items()}
    coded = {split: options.locate(table) for split, table in tables.items()}
    is_coded = all(rows.class_names is not None for rows in coded.values())
    for split, rows in coded.items() if is_coded and splits is None else ():
        labels, column = loaded[stored[split]], rows.labels[0]
        is_class = isinstance(labels.features[column], datasets.ClassLabel)
        if split != "train" and is_class and labels.unique(column) == [UNLABELLED]:
            logger.warning("%s is left out: all labels are %d, which means no label", rows.path, UNLABELLED)
            del tables[split]
    return {split: [tables[split]] for split in choose_splits(splits, tables, name, has_names or is_coded)}


def _find_label_files(folder: Path) -> dict[str, list[Path]]:
    """Return the folders or files of labels by split, in a folder without tables."""
    if not folder.is_dir() or _list_files(folder, TABLE_SUFFIXES):
        return {}
    parts = {name: folder / name for name in _NAMES if (folder / name).is_dir()} or {"train": folder}
    files: dict[str, list[Path]] = {}
    for name, part in parts.items():
        folders = [path for path in sorted(part.iterdir()) if path.is_dir() and next(path.glob("*.txt"), None)]
        texts = [path for path in sorted(part.glob("*.txt*")) if path.name.partition(".txt")[2] in ("", *PACKED)]
        labels = [path for path in folders if path.name.lower() not in _NO_LABEL]
        labels = labels or [path for path in texts if path.name.partition(".txt")[0] not in _NAMES]
        if len(labels) > 1:
            files[_ALIASES.get(name, name)] = labels
    return files


def _is_files(source: object) -> bool:
    """Return whether a source is files that this package reads: no data set of the library, no rows in memory."""
    if isinstance(source, Mapping):
        return all(map(_is_file_or_files, source.values()))
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(os.path.expanduser(source))
    if not path.is_dir():
        return path.is_file() or is_table(path)
    saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
    return not saved and (bool(_list_files(path, TABLE_SUFFIXES)) or not any(path.iterdir()))


def _list_files(folder: Path, suffixes: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of a folder with one of the suffixes, packed ones too, by split, others by name."""
    files: dict[str, list[str]] = {}
    stems = set[str]()
    for path in sorted(folder.iterdir()):
        stem, suffix = os.path.splitext(path.stem if path.suffix in PACKED else path.name)
        is_fast = suffix == ".txt" and suffixes is TABLE_SUFFIXES and is_fasttext(path)
        if not (suffix.lower() in suffixes or is_fast) or not path.is_file():
            continue
        split = _NUMBER.sub("", stem)
        name = split if split in _NAMES else stem
        parts = files.setdefault(name, [])
        if name in _NAMES and (stem in stems or (parts and name in (stem, *stems))):
            raise UserError(f"{folder} has {Path(parts[0]).name} and {path.name}: keep the whole file or its parts")
        parts.append(str(path))
        stems.add(stem)
    return files


def _is_file_or_files(part: object) -> bool:
    if isinstance(part, list | tuple):  # a list of texts in memory is a mistake of its own
        return bool(part) and all(isinstance(path, str | os.PathLike) and os.path.exists(path) for path in part)
    return isinstance(part, str | os.PathLike)


def _load_dataset(
    source: object, config: str | None, options: RowOptions
) -> tuple[datasets.DatasetDict, str, dict[str, str]]:
    """Return a data set, its name in messages, and its own names of the known splits."""
    pair = () if options.text_pair_column is None else (options.text_pair_column,)
    labels = options.label_columns or (options.label_column or "label",)
    columns, name = list(map(str, (options.text_column or "text", *pair, *labels))), "dataset"
    if isinstance(source, Mapping):
        loaded = datasets.DatasetDict({split: to_dataset(rows, columns, split) for split, rows in source.items()})
    elif isinstance(source, datasets.Dataset):
        loaded = datasets.DatasetDict(train=source)
    elif isinstance(source, str | os.PathLike):
        name = os.path.expanduser(source)
        loaded = _load_library(name, config)
    else:
        raise UserError(f"a data set must be a Dataset, a dict, a name or a folder: found {type(source).__name__}")
    for split, rows in loaded.items():
        if any("." in column and column not in rows.features for column in columns):
            loaded[split] = rows.flatten()
    stored = _rename_splits(loaded, name)
    if unused := [split for split in loaded if split not in stored.values()]:
        logger.warning("%s: splits not used: %s", name, ", ".join(unused))
    return loaded, name, stored


def _load_library(name: str, config: str | None) -> datasets.DatasetDict:
    try:
        if os.path.exists(os.path.join(name, "dataset_dict.json")):
            return datasets.load_from_disk(name)
        if os.path.exists(os.path.join(name, "state.json")):  # a single saved split
            return datasets.DatasetDict(train=datasets.load_from_disk(name))
        return datasets.load_dataset(name, config)
    except Exception as error:  # the library raises anything: not found, no network, broken files
        cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
        raise UserError(f"the data set {name!r} cannot be loaded: {reason_of(cause):.500}") from error


def as_table(name: str, rows: datasets.Dataset) -> Table:
    """Return a data set as a table; `name` is its name in messages."""
    names = {}
    for column, feature in rows.features.items():
        item = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature
        if isinstance(item, datasets.ClassLabel):
            names[column] = item.names

    def read(columns: Sequence[str], texts: Sequence[str]) -> Iterator[Batch]:
        """Read columns as Arrow data, never row by row."""
        tables = rows.select_columns(list(columns)).with_format("arrow").iter(batch_size=BATCH_ROWS)
        return number_rows(batch for table in tables for batch in table.combine_chunks().to_batches())

    return Table(name, "dataset", list(rows.features), unit="row", class_names=names, read=read)


def to_dataset(rows: Iterable[Any], columns: Sequence[str], where: str) -> datasets.Dataset:
    """Return rows in memory as a data set.

    Rows are a `Dataset`, a table or frame of Arrow, pandas or polars, or a list of dicts or of tuples with an item for
    each of `columns`, such as (text, label). `where` names them in messages.
    """
    if isinstance(rows, datasets.Dataset):
        return rows
    try:
        if hasattr(rows, "__arrow_c_stream__"):
            table = pa.table(rows)
        elif (items := list(rows)) and all(isinstance(row, Mapping) for row in items):
            table = pa.Table.from_pylist(items)
        else:
            table = pa.table(dict(zip(columns, map(list, zip(*items, strict=True)), strict=True)))
    except (pa.ArrowException, TypeError, ValueError) as error:
        kind = f"found {type(rows).__name__} ({reason_of(error):.200})"
        raise UserError(f"{where} must be a Dataset, a frame, or a list of dicts or pairs: {kind}") from error
    known = table.column_names
    roots = {column if column in known else column.split(".")[0] for column in columns}
    if roots <= set(known):
        table = table.select(sorted(roots))
    # the datasets library refuses categories
    kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in table.schema.types]
    return datasets.Dataset(table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True)))))


def find_files(
    source: object, splits: Iterable[str] | None, has_names: bool, suffixes: Sequence[str] = TABLE_SUFFIXES
) -> dict[str, list[str]]:
    """Return the files of each split to read, train first. A single file is the requested split, or else train."""
    files = _group_files(source, splits, suffixes)
    return {split: files[split] for split in choose_splits(splits, files, _name_of(source), has_names, suffixes[0])}


def _group_files(source: object, splits: Iterable[str] | None, suffixes: Sequence[str]) -> dict[str, list[str]]:
    """Return all files of a source by canonical name of split."""
    if isinstance(source, Mapping):
        files = {name: list(map(os.path.expanduser, _as_list(paths))) for name, paths in source.items()}
        if unknown := [name for name in files if name not in _NAMES]:
            raise UserError(f"unknown split: found {unknown[0]!r}; use train, validation (or dev), test")
    elif os.path.isdir(where := _name_of(source)):
        files = _list_files(Path(where), suffixes)
        if len(files) == 1 and not files.keys() & set(_NAMES):
            files = {"train": next(iter(files.values()))}
        if unused := [Path(path).name for name, paths in files.items() if name not in _NAMES for path in paths]:
            logger.warning("%s: not read: %s; read are train, dev or validation, test", where, ", ".join(unused))
    else:
        files = {next(iter(_as_list(splits or ())), "train"): [where]}
    return {split: files[name] for split, name in _rename_splits(files, _name_of(source)).items()}


def _name_of(source: object) -> str:
    return "the mapping" if isinstance(source, Mapping) else os.path.expanduser(str(source))


def _as_list(items: Any) -> list[Any]:
    return [items] if isinstance(items, str | os.PathLike) else list(items)


def _rename_splits(names: Iterable[str], where: str) -> dict[str, str]:
    """Return the name of each known split in a source, by its canonical name (`dev` is `validation`)."""
    splits: dict[str, str] = {}
    for name in names:
        split = _ALIASES.get(name, name)
        if split in splits:
            raise UserError(f"{where} has both {splits[split]!r} and {name!r}, which mean one split: keep one of them")
        if split in _SPLITS:
            splits[split] = name
    return splits


def choose_splits(
    splits: Iterable[str] | None, there: Iterable[str], where: str, has_names: bool, suffix: str = ".tsv"
) -> tuple[str, ...]:
    """Return the canonical names of the splits to read, train first: the requested ones, or train and the others."""
    there = list(there)
    chosen = {"train", *there} if splits is None else {_ALIASES.get(name, name) for name in _as_list(splits)}
    if not chosen or chosen - set(_SPLITS):
        unknown = ", ".join(sorted(chosen - set(_SPLITS))) or "[]"
        raise UserError(f"there is no split named {unknown}: use train, validation (or dev), test")
    if not has_names and "train" not in chosen:
        raise UserError(f"{' and '.join(sorted(chosen))} without train needs class names: add --class_names")
    if missing := sorted(chosen - set(there)):
        names = f"found {', '.join(there) or 'no split'}"
        if "train" in missing:
            files = sorted(os.listdir(where))[:10] if os.path.isdir(where) else []
            names += f" in the files {', '.join(files)}" if files else ""
            advice = f"name the file of the training rows train{suffix} or the like, or give one file"
            raise DataError.for_file(where, Reason.NO_TRAIN_SPLIT, f"{names}; {advice}")
        others = [f"; take --split {name}" for name in ("validation", "train") if name in there]
        raise UserError(f"{where} has no split {' and '.join(missing)}: {names}{''.join(others[:1])}")
    return tuple(split for split in _SPLITS if split in chosen)


# ---- continuous text ----


def load_text(
    source: str | os.PathLike[str], *, splits: Sequence[str] | None = None, report: DataReport | None = None
) -> datasets.DatasetDict:
    """Read the continuous texts of a language model.

    A row of the column `text` is a line with its line feed, so that the rows, joined, are the text; CRLF becomes LF,
    and a byte order mark is skipped. A line over 10,000 characters is several rows.

    Args:
        source: A folder with `train.txt`, and `dev.txt` and `test.txt` if there are any; or a text file, or a folder
            with only one. Without `dev.txt` the last tenth is the validation split.
        splits: Return only these. A single file is also the split `test`, whole.
        report: An empty report to fill in.

    Raises:
        DataError: For a file without text, or with bytes that are not UTF-8 text.
        UserError: For a folder without such files, and for a missing split.
    """
    report, splits = DataReport() if report is None else report, None if splits is None else _as_list(splits)
    files = _group_files(source, splits if splits == ["test"] else None, (".txt",))
    derived = ["validation"] if "train" in files and "validation" not in files else []
    names = choose_splits(splits, [*files, *derived], _name_of(source), True, ".txt")
    texts = {}
    for split in files if splits is None else {name if name in files else "train": None for name in names}:
        texts[split] = list(chain.from_iterable(map(_read_text, files[split])))
        report.splits[split] = SplitReport(files[split], len(texts[split]), len(texts[split]))
    if derived and "train" in texts:
        ends = np.cumsum([len(row) for row in texts["train"]])
        first = int(np.searchsorted(ends, (1 - _HELD_OUT) * ends[-1]))
        if first in (0, len(ends)):
            raise UserError("the text is too short to hold out a tenth of its lines: give dev.txt beside train.txt")
        texts["train"], texts["validation"] = texts["train"][:first], texts["train"][first:]
        report.held_out = {"share": _HELD_OUT, "seed": None, "rows": len(texts["validation"])}
        logger.warning("there is no dev.txt: the last tenth of %s is held out as validation split", files["train"][0])
    report.label_counts = {split: [len(texts[split])] for split in _SPLITS if split in texts}
    features = datasets.Features(text=datasets.Value("string"))
    return datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": texts[name]}, features) for name in names})


def _read_text(path: str) -> list[str]:
    """Return the lines of a text file, those over 10,000 characters in pieces, cut before a space if there is one."""
    with name_file(path), open_unpacked(path) as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        detail = f"byte {content[error.start : error.start + 1]!r} in line {number}; convert it, as with iconv"
        raise DataError.for_file(path, Reason.NOT_UTF8, detail) from error
    if "\0" in text:
        raise DataError.for_file(path, Reason.NUL, f"in line {text.count(chr(10), 0, text.index(chr(0))) + 1}")
    if not text.strip():
        raise DataError.for_file(path, Reason.EMPTY_FILE, "it has no text")
    rows = []
    for line in text.splitlines(keepends=True):
        rest = line
        while len(rest) > _LONGEST:
            end = rest.rfind(" ", 1, _LONGEST)
            end = _LONGEST if end < 0 else end
            rows.append(rest[:end])
            rest = rest[end:]
        rows.append(rest)
    return rows
