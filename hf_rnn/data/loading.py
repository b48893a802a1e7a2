"""Load labelled texts from TSV files, data sets of the `datasets` library, single files of records, or memory."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from ..utils.errors import UserError, reason_of
from .hf_dataset import UNLABELLED, LibrarySplit, to_dataset
from .labels import RowLabels
from .row_errors import DataError, DataReport, Ledger, Reason
from .split_reader import build_streams, build_tables, choose_held_out, read_splits
from .tsv_reader import MAX_LINE_BYTES, TsvFile, TsvFormat

logger = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")
_ALIASES = {"dev": "validation"}
_NUMBER = re.compile(r"-\d+(-of-\d+)?$")  # a part of a split: train-00000-of-00004

# The builders of the datasets library for single files.
_BUILDERS = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}

PathLike = str | os.PathLike[str]
Source = PathLike | Mapping[str, PathLike | Sequence[PathLike]]


def load_tsv(
    source: Source,
    *,
    text_column: int | str | None = None,
    label_column: int | str | None = None,
    label_columns: Sequence[int | str] = (),
    text_pair_column: int | str | None = None,
    header: bool = False,
    class_names: Sequence[str] | None = None,
    label_map: Mapping[str, str] | None = None,
    splits: Iterable[str] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    streaming: bool = False,
    report: DataReport | None = None,
    scheme: Callable[..., RowLabels] | None = None,
    separator: str | None = None,
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Read labelled texts from TSV files.

    A line is `text<TAB>label` in UTF-8, ended by LF or CRLF. A byte order mark is skipped; quotes, a lone CR, U+2028
    and white space at the ends of a text are part of the text. Two columns are expected unless a header or other
    columns are declared; then every line must have as many fields as the first.

    Args:
        source: A folder with `train.tsv`, `dev.tsv`, `test.tsv`, or parts such as `train-00000-of-00004.tsv`; files
            by split; or one file of training rows. Files whose names end in `.gz` are unpacked while they are read.
        text_column: Column of the text, by number from 0, or by name with `header=True`; by default 0.
        label_column: Column of the label; by default 1. If either is given, lines may have further columns.
        label_columns: Several columns of labels in place of `label_column`, for a `scheme` that reads them.
        text_pair_column: Column of a second text; it becomes the column `text_pair`.
        header: Whether the first line names the columns: `text` and `label` by default, else the two that there are.
        class_names: Names by id; the data may carry them or their indices. By default the labels of train, sorted.
        label_map: Labels of the data to `class_names`. If given, even empty, integers do not index the names.
        splits: Read only these, without a hold-out. Train is not required then if `class_names` are given.
        validation_share: Without a validation split, this share of train, stratified by label, becomes it; 0 for none.
            Equal and nearly equal texts stay on one side. Below 20 rows nothing is held out.
        seed: Changes which rows are held out.
        max_bad_rows: Skip up to this many bad rows: a count, or a share of all rows such as `"0.1%"`.
        rejected_path: File that lists these (JSON lines). Without it the first few are logged.
        max_line_bytes: Longer lines are bad rows.
        streaming: Return streams, without a hold-out. The files are still read once here, so that all errors come
            before the first batch.
        report: An empty report to fill in.
        scheme: Makes labels of another kind than one class, such as `LabelSets.from_rows`.
        separator: As of [`load_named`]; TSV files do not need it.

    Returns:
        Splits `train`, `validation` and `test`, if present, with the columns `text` (string) and `label` (ClassLabel).

    Raises:
        DataError: For an unusable file, and for bad rows beyond `max_bad_rows`.
        UserError: For arguments that contradict each other or the data.
    """
    report = DataReport() if report is None else report
    names = None if class_names is None else list(class_names)
    further = tuple(label_columns), text_pair_column
    layout = TsvFormat(text_column, label_column, header, max_line_bytes, *further)
    files = find_files(source, splits, names is not None)
    sources = {split: [TsvFile.open(path, layout) for path in paths] for split, paths in files.items()}
    with Ledger(max_bad_rows, rejected_path, report) as ledger:
        labels, read = read_splits(sources, names, ledger, not streaming, label_map, scheme)
    share = validation_share if splits is None else 0
    if not streaming:
        return build_tables(labels, read, choose_held_out(read, labels, share, seed, report), report)
    if share and "validation" not in read:
        logger.warning("there is no validation split, and a stream holds no rows out: nothing is measured")
    return build_streams(labels, read, report)


def load_named(  # noqa: D417 - the other arguments are those of load_tsv
    dataset: PathLike | datasets.Dataset | Mapping[str, Any],
    config: str | None = None,
    *,
    text_column: str = "text",
    label_column: str = "label",
    label_columns: Sequence[str] = (),
    text_pair_column: str | None = None,
    class_names: Sequence[str] | None = None,
    label_map: Mapping[str, str] | None = None,
    splits: Iterable[str] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
    report: DataReport | None = None,
    scheme: Callable[..., RowLabels] | None = None,
    separator: str | None = None,
) -> datasets.DatasetDict:
    """Read labelled texts from a data set of the `datasets` library, under the contract of [`load_tsv`].

    Other arguments, results and errors are those of [`load_tsv`]. Rows count from 0 in messages and lists.

    Args:
        dataset: A name on the Hub; a folder; a file of CSV, Parquet or JSON lines, which is the only requested split,
            or train; a `DatasetDict`; a `Dataset`, which is train; or splits by name, each as [`to_dataset`] takes it.
        config: The configuration of a data set that has several.
        text_column: Name of the text column; dots lead into nested records: `fields.text`.
        label_column: Name of the label column: ClassLabel (keeps its names and ids), strings, integers or bools.
        splits: By default a validation or test split with only the label -1, no label, is left out and logged.
        separator: With a `scheme`, is written between the items of a list.
    """
    report = DataReport() if report is None else report
    splits = None if splits is None else _as_list(splits)
    texts = (text_column,) if text_pair_column is None else (text_column, text_pair_column)
    written = tuple(label_columns) or (label_column,)
    loaded, name, found = open_named(dataset, config, (*texts, *written), splits)
    coded = all(isinstance(rows.features.get(label_column), datasets.ClassLabel) for rows in loaded.values())
    for split, own in list(found.items()) if splits is None and coded else ():
        if split != "train" and loaded[own].unique(label_column) == [UNLABELLED]:
            logger.warning("%s[%s] is left out: all labels are %d, which means no label", name, own, UNLABELLED)
            del found[split]
    sources = {
        split: [LibrarySplit(f"{name}[{found[split]}]", loaded[found[split]], texts, written, separator)]
        for split in choose_splits(splits, found, name, class_names is not None or coded)
    }
    names = next(iter(sources.values()))[0].class_names if class_names is None else list(class_names)
    with Ledger(max_bad_rows, rejected_path, report) as ledger:
        labels, read = read_splits(sources, names, ledger, True, label_map, scheme)
    share = validation_share if splits is None else 0
    return build_tables(labels, read, choose_held_out(read, labels, share, seed, report), report)


def open_named(
    dataset: Any, config: str | None, columns: Sequence[str], splits: Sequence[str] | None
) -> tuple[datasets.DatasetDict, str, dict[str, str]]:
    """Return a data set as [`load_named`] takes it, its name in messages, and its own names of the known splits."""
    if isinstance(dataset, Mapping):
        in_memory = {split: to_dataset(rows, columns, split) for split, rows in dataset.items()}
        loaded, name = datasets.DatasetDict(in_memory), "dataset"
    elif isinstance(dataset, datasets.Dataset):
        loaded, name = datasets.DatasetDict(train=dataset), "dataset"
    elif isinstance(dataset, str | os.PathLike):
        name = os.path.expanduser(dataset)
        loaded = _load_library(name, config, splits[0] if splits and len(splits) == 1 else "train")
    else:
        raise UserError(f"a data set must be a Dataset, a dict, a name or a folder: found {type(dataset).__name__}")
    for split, rows in loaded.items():
        if any("." in column and column not in rows.features for column in columns):
            loaded[split] = rows.flatten()
    found = _rename_splits(loaded, name)
    if unused := [split for split in loaded if split not in found.values()]:
        logger.warning("%s: splits not used: %s", name, ", ".join(unused))
    return loaded, name, found


def find_builder(path: str | None) -> str | None:
    """Return the builder of the `datasets` library for a single file; None for TSV files and folders."""
    if path is None or not os.path.isfile(path):
        return None
    return next((kind for suffix, kind in _BUILDERS.items() if path.lower().endswith(suffix)), None)


def _load_library(name: str, config: str | None, split_of_file: str) -> datasets.DatasetDict:
    builder = find_builder(name)
    if not name or (os.path.isfile(name) and builder is None):
        raise UserError(f"the data set must be a name, a folder, or a CSV, Parquet or JSON file: found {name!r}; give "
                        "a TSV file as data_dir")  # fmt: skip
    try:
        if os.path.exists(os.path.join(name, "dataset_dict.json")):
            return datasets.load_from_disk(name)
        if os.path.exists(os.path.join(name, "state.json")):  # a single saved split
            return datasets.DatasetDict(train=datasets.load_from_disk(name))
        if builder is not None:
            options = {"keep_default_na": False, "na_filter": False} if builder == "csv" else {}  # NA is a word too
            return datasets.load_dataset(builder, data_files={split_of_file: name}, **options)
        return datasets.load_dataset(name, config)
    except Exception as error:  # the library raises anything: not found, no network, broken files
        cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
        hint = "; give a folder with train.tsv as data_dir" if os.path.exists(os.path.join(name, "train.tsv")) else ""
        raise UserError(f"the data set {name!r} cannot be loaded: {reason_of(cause):.500}{hint}") from error


def find_files(
    source: Source, splits: Iterable[str] | None, names_given: bool, suffix: str = ".tsv"
) -> dict[str, list[str]]:
    """Return the files of each split to read, train first; a single file is the only requested split, or train."""
    if isinstance(source, Mapping):
        where = "the mapping"
        given = {name: list(map(os.path.expanduser, _as_list(files))) for name, files in source.items()}
        if unknown := [name for name in given if name not in (*_SPLITS, *_ALIASES)]:
            raise UserError(f"unknown split: found {unknown[0]!r}; use train, validation (or dev), test")
    elif os.path.isdir(source := os.path.expanduser(source)):
        where = str(source)
        given, stems = {}, set[str]()
        for path in sorted([*Path(source).glob(f"*{suffix}"), *Path(source).glob(f"*{suffix}.gz")]):
            stem = path.name.partition(suffix)[0]
            split = _NUMBER.sub("", stem)
            name = split if split in (*_SPLITS, *_ALIASES) else stem
            parts = given.setdefault(name, [])
            if stem in stems or (parts and name in (stem, *stems)):
                raise UserError(f"{where} has {Path(parts[0]).name} and {path.name}: keep the whole file or its parts")
            parts.append(str(path))
            stems.add(stem)
        if unused := [f"{name}{suffix}" for name in given if name not in (*_SPLITS, *_ALIASES)]:
            logger.warning("%s: not read: %s; read are train, dev or validation, test", where, ", ".join(unused))
    else:
        where = str(source)
        splits = None if splits is None else _as_list(splits)
        given = {splits[0] if splits else "train": [where]}
    found = {split: given[name] for split, name in _rename_splits(given, where).items()}
    files = {split: found[split] for split in choose_splits(splits, found, where, names_given, suffix)}
    used: set[str] = set()
    for path in sum(files.values(), []):
        if os.path.realpath(path) in used:  # one row in two splits makes every score wrong
            raise UserError(f"a file must be given once: found {path} twice")
        used.add(os.path.realpath(path))
    return files


def _as_list(items: Any) -> list[Any]:
    return [items] if isinstance(items, str | os.PathLike) else list(items)


def _rename_splits(names: Iterable[str], where: str) -> dict[str, str]:
    """Return the given split names by their canonical ones (`dev` is `validation`), without unknown ones."""
    found: dict[str, str] = {}
    for name in names:
        split = _ALIASES.get(name, name)
        if split in found:
            raise UserError(f"{where} has both {found[split]!r} and {name!r}, which mean one split: keep one of them")
        if split in _SPLITS:
            found[split] = name
    return found


def choose_splits(
    splits: Iterable[str] | None, found: Mapping[str, object], where: str, names_given: bool, suffix: str = ".tsv"
) -> tuple[str, ...]:
    """Return the canonical names of the splits to read, train first: the requested ones, or train and the others."""
    if splits is None:
        wanted = {"train", *found}
    else:
        wanted = {_ALIASES.get(name, name) for name in _as_list(splits)}
        if not wanted or wanted - set(_SPLITS):
            unknown = ", ".join(sorted(wanted - set(_SPLITS))) or "[]"
            raise UserError(f"there is no split named {unknown}: use train, validation (or dev), test")
        if not names_given and "train" not in wanted:
            raise UserError(f"{' and '.join(sorted(wanted))} without train needs class names: add --class_names")
    if missing := sorted(wanted - set(found)):
        there = f"found {', '.join(found) or 'no split'}"
        if "train" in missing:
            files = sorted(os.listdir(where))[:10] if os.path.isdir(where) else []
            there += f" in the files {', '.join(files)}" if files else ""
            advice = (
                f"put training rows into train{suffix}, or name one CSV, Parquet or JSON file, or its folder as "
                "--dataset_name"
            )
            if records := [name for name in files if find_builder(os.path.join(where, name))]:
                advice = f"name the file, {os.path.join(where, records[0])}, or the folder as --dataset_name {where}"
            raise DataError.for_file(where, Reason.NO_TRAIN_SPLIT, f"{there}; {advice}")
        other = next((name for name in ("validation", "train") if name in found), None)
        advice = "" if other is None else f"; take --split {other}"
        raise UserError(f"{where} has no split {' and '.join(missing)}: {there}{advice}")
    return tuple(split for split in _SPLITS if split in wanted)
