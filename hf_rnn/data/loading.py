"""Load labelled texts from files and folders, data sets of the `datasets` library, or memory."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from ..utils.errors import UserError, reason_of
from .hf_dataset import as_table, to_dataset
from .row_errors import DataError, DataReport, Ledger, Reason
from .rows import RowOptions
from .split_reader import build_streams, build_tables, choose_held_out, read_splits
from .tables import PACKED, TABLE_SUFFIXES, Table, is_table, open_folder, open_lines

logger = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")
_ALIASES = {"dev": "validation", "valid": "validation", "val": "validation"}
_NAMES = (*_SPLITS, *_ALIASES)
_NUMBER = re.compile(r"-\d+(-of-\d+)?$")  # a part of a split: train-00000-of-00004
_NO_LABEL = ("unsup", "unsupervised", "unlabeled")  # folders beside those of labels, as in IMDb
UNLABELLED = -1  # published data sets mark rows without a label so, in ClassLabel columns

PathLike = str | os.PathLike[str]
Source = PathLike | Mapping[str, PathLike | Sequence[PathLike]]


def load_tsv(
    source: Source,
    *,
    splits: Iterable[str] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
    streaming: bool = False,
    report: DataReport | None = None,
    **options: Any,
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Read labelled texts from files: TSV without names of columns, or tables of any format with names.

    A line of plain TSV is `text<TAB>label` in UTF-8, ended by LF or CRLF. A byte order mark is skipped; quotes, a lone
    CR, U+2028 and white space at the ends of a text are part of the text. Two columns are expected unless others are
    declared; then every line must have as many fields as the first. Tables are those of
    [`~hf_rnn.data.tables.read_table`].

    Args:
        source: A folder with `train.tsv`, `dev.tsv`, `test.tsv`, or such files of other formats, also `.gz` and
            `.zst`, or parts such as `train-00000-of-00004.tsv`; a folder with a folder of `.txt` files or a `.txt`
            file of lines for each label, or with such folders `train` and `test`; files by split; or one file of
            training rows.
        splits: Read only these, without a hold-out. Train is not required then if `class_names` are given.
        validation_share: Without a validation split, this share of train, stratified by label, becomes it; 0 for none.
            Equal and nearly equal texts stay on one side. Below 20 rows nothing is held out.
        seed: Changes which rows are held out.
        max_bad_rows: Skip up to this many bad rows: a count, or a share of all rows such as `"0.1%"`.
        rejected_path: File that lists these (JSON lines). Without it the first few are logged.
        streaming: Return streams, without a hold-out. The files are still read once here, so that all errors come
            before the first batch.
        report: An empty report to fill in.
        options: Columns and labels: the fields of [`~hf_rnn.data.rows.RowOptions`].

    Returns:
        Splits `train`, `validation` and `test`, if present, with the columns `text` (string) and `label` (ClassLabel).

    Raises:
        DataError: For an unusable file, and for bad rows beyond `max_bad_rows`.
        UserError: For arguments that contradict each other or the data.
    """
    report, columns = DataReport() if report is None else report, RowOptions(**options)
    tables = _open_files(source, splits, columns)
    return _load(
        tables, columns, splits, validation_share, seed, Ledger(max_bad_rows, rejected_path, report), streaming
    )


def load_named(  # noqa: D417 - the other arguments are those of load_tsv
    dataset: PathLike | datasets.Dataset | Mapping[str, Any],
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
    """Read labelled texts from a data set of the `datasets` library, under the contract of [`load_tsv`].

    Other arguments, results and errors are those of [`load_tsv`]. Rows count from 0 in messages and lists.

    Args:
        dataset: A name on the Hub; a folder; a file or folder as of [`load_tsv`]; a `DatasetDict`; a `Dataset`, which
            is train; or splits by name, each as [`to_dataset`] takes it.
        config: The configuration of a data set that has several.
        splits: By default a validation or test split with only the label -1, no label, is left out and logged.
        options: As of [`load_tsv`]. Dots in names of columns lead into nested records: `fields.text`. A column of
            ClassLabel keeps its names and ids.
    """
    report, columns = DataReport() if report is None else report, RowOptions(**options)
    ledger = Ledger(max_bad_rows, rejected_path, report)
    if isinstance(dataset, str | os.PathLike) and _has_tables(os.path.expanduser(dataset)):
        return _load(_open_files(dataset, splits, columns), columns, splits, validation_share, seed, ledger)
    splits = None if splits is None else _as_list(splits)
    pair = () if columns.text_pair_column is None else (columns.text_pair_column,)
    labels = columns.label_columns or (columns.label_column or "label",)
    names = [str(name) for name in (columns.text_column or "text", *pair, *labels)]
    loaded, name, found = open_named(dataset, config, names, splits)
    opened = {split: as_table(f"{name}[{own}]", loaded[own]) for split, own in found.items()}
    coded = all(columns.locate(table).class_names is not None for table in opened.values())
    for split, table in list(opened.items()) if splits is None and coded else ():
        label = columns.locate(table).labels[0]
        rows = loaded[found[split]].select_columns([label])
        is_class = isinstance(rows.features[label], datasets.ClassLabel)
        if split != "train" and is_class and rows.unique(label) == [UNLABELLED]:
            logger.warning("%s is left out: all labels are %d, which means no label", table.path, UNLABELLED)
            del opened[split]
    chosen = choose_splits(splits, opened, name, columns.class_names is not None or coded)
    return _load({split: [opened[split]] for split in chosen}, columns, splits, validation_share, seed, ledger)


def _load(
    tables: Mapping[str, Sequence[Table]],
    options: RowOptions,
    splits: Iterable[str] | None,
    validation_share: float,
    seed: int,
    ledger: Ledger,
    streaming: bool = False,
) -> Any:
    """Read tables by split, and hold out validation rows unless only some splits are asked for."""
    sources = {split: [options.locate(table) for table in parts] for split, parts in tables.items()}
    names = next(iter(sources.values()))[0].class_names if options.class_names is None else list(options.class_names)
    with ledger:
        labels, read = read_splits(sources, options, names, ledger, not streaming)
    share, report = validation_share if splits is None else 0, ledger.report
    if not streaming:
        return build_tables(labels, read, choose_held_out(read, labels, share, seed, report), report)
    if share and "validation" not in read:
        logger.warning("there is no validation split, and a stream holds no rows out: nothing is measured")
    return build_streams(labels, read, report)


def _open_files(source: Source, splits: Iterable[str] | None, options: RowOptions) -> dict[str, list[Table]]:
    """Open the files of each split to read, train first."""
    if isinstance(source, str | os.PathLike) and (found := _find_label_files(Path(os.path.expanduser(source)))):
        names = choose_splits(splits, found, str(source), options.class_names is not None)
        logger.info("%s: the labels are %s", source, ", ".join(path.name for path in found[names[0]]))
        opened = {}
        for name in names:
            folders = [open_folder(path, options.encoding) for path in found[name] if path.is_dir()]
            files = [path for path in found[name] if path.is_file()]
            opened[name] = folders or [
                open_lines(path, options.encoding, path.name.partition(".txt")[0]) for path in files
            ]
        return opened
    paths = find_files(source, splits, options.class_names is not None)
    return {split: list(map(options.open_file, parts)) for split, parts in paths.items()}


def _find_label_files(folder: Path) -> dict[str, list[Path]]:
    """Return the folders or files of labels by split, in a folder without tables."""
    if not folder.is_dir() or _list_files(folder, TABLE_SUFFIXES):
        return {}
    parts = {name: folder / name for name in _NAMES if (folder / name).is_dir()} or {"train": folder}
    found = {}
    for name, part in parts.items():
        folders = [path for path in sorted(part.iterdir()) if path.is_dir() and next(path.glob("*.txt"), None)]
        files = [path for path in sorted(part.glob("*.txt*")) if path.name.partition(".txt")[2] in ("", *PACKED)]
        labels = [path for path in folders if path.name.lower() not in _NO_LABEL]
        labels = labels or [path for path in files if path.name.partition(".txt")[0] not in _NAMES]
        if len(labels) > 1:
            found[_ALIASES.get(name, name)] = labels
    return found


def is_saved(folder: PathLike) -> bool:
    """Return whether a folder is a data set that the `datasets` library saved."""
    return any(os.path.exists(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json"))


def _has_tables(path: str) -> bool:
    """Return whether a path is a table, or a folder with tables for training."""
    if not os.path.isdir(path):
        return os.path.isfile(path) and is_table(path)
    return "train" in _list_files(Path(path), TABLE_SUFFIXES)


def _list_files(folder: Path, suffixes: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of a folder with one of the suffixes, packed ones too, by split, others by name."""
    given: dict[str, list[str]] = {}
    stems = set[str]()
    for path in sorted(folder.iterdir()):
        bare = path.name
        for packed in PACKED:
            bare = bare.removesuffix(packed)
        stem, suffix = os.path.splitext(bare)
        if suffix.lower() not in suffixes or not path.is_file():
            continue
        split = _NUMBER.sub("", stem)
        name = split if split in _NAMES else stem
        parts = given.setdefault(name, [])
        if name in _NAMES and (stem in stems or (parts and name in (stem, *stems))):
            raise UserError(f"{folder} has {Path(parts[0]).name} and {path.name}: keep the whole file or its parts")
        parts.append(str(path))
        stems.add(stem)
    return given


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


def _load_library(name: str, config: str | None, split_of_file: str) -> datasets.DatasetDict:
    try:
        if os.path.exists(os.path.join(name, "dataset_dict.json")):
            return datasets.load_from_disk(name)
        if os.path.exists(os.path.join(name, "state.json")):  # a single saved split
            return datasets.DatasetDict(train=datasets.load_from_disk(name))
        if os.path.isfile(name):
            builder = "parquet" if ".parquet" in name.lower() else "json"
            return datasets.load_dataset(builder, data_files={split_of_file: name})
        return datasets.load_dataset(name, config)
    except Exception as error:  # the library raises anything: not found, no network, broken files
        cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
        raise UserError(f"the data set {name!r} cannot be loaded: {reason_of(cause):.500}") from error


def find_files(
    source: Source, splits: Iterable[str] | None, names_given: bool, suffixes: Sequence[str] = TABLE_SUFFIXES
) -> dict[str, list[str]]:
    """Return the files of each split to read, train first; a single file is the only requested split, or train."""
    if isinstance(source, Mapping):
        where = "the mapping"
        given = {name: list(map(os.path.expanduser, _as_list(files))) for name, files in source.items()}
        if unknown := [name for name in given if name not in _NAMES]:
            raise UserError(f"unknown split: found {unknown[0]!r}; use train, validation (or dev), test")
    elif os.path.isdir(source := os.path.expanduser(source)):
        where = str(source)
        given = _list_files(Path(source), suffixes)
        if len(given) == 1 and not given.keys() & set(_NAMES):
            given = {"train": next(iter(given.values()))}
        if unused := [Path(path).name for name, paths in given.items() if name not in _NAMES for path in paths]:
            logger.warning("%s: not read: %s; read are train, dev or validation, test", where, ", ".join(unused))
    else:
        where = str(source)
        splits = None if splits is None else _as_list(splits)
        given = {splits[0] if splits else "train": [where]}
    found = {split: given[name] for split, name in _rename_splits(given, where).items()}
    files = {split: found[split] for split in choose_splits(splits, found, where, names_given, suffixes[0])}
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
            advice = f"name the file of the training rows train{suffix} or the like, or give one file"
            raise DataError.for_file(where, Reason.NO_TRAIN_SPLIT, f"{there}; {advice}")
        other = next((name for name in ("validation", "train") if name in found), None)
        advice = "" if other is None else f"; take --split {other}"
        raise UserError(f"{where} has no split {' and '.join(missing)}: {there}{advice}")
    return tuple(split for split in _SPLITS if split in wanted)
