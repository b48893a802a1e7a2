"""Sources of labelled texts: files, folders, data sets of a library, rows in memory."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetsError

from ..utils.errors import DataError, SettingError, reason_of
from .charset import excerpt_of, find_byte_fault
from .errors import BadRow, Fault, Reason, file_error
from .lines import PACKED, TABLE_SUFFIXES, suffix_of
from .read import read_lines
from .splits import SPLITS
from .table import Table, gather

logger = logging.getLogger(__name__)

_ALIASES = {"dev": "validation", "valid": "validation", "val": "validation"}
_NAMES = (*SPLITS, *_ALIASES)
_NUMBER = re.compile(r"-\d+(-of-\d+)?$")  # a part of a split: train-00000-of-00004
_NO_LABEL = ("unsup", "unsupervised", "unlabeled")  # folders beside those of labels, as in IMDb

Column = int | str


def join_splits(train: object, validation: object, test: object) -> Mapping[str, Any] | None:
    """Return rows in memory by split; None without any."""
    others = {"validation": validation, "test": test}
    others = {name: rows for name, rows in others.items() if rows is not None}
    names = " and ".join(others)
    if train is None and others:
        raise SettingError(f"{names} in memory without train: give the training rows as train")
    if isinstance(train, Mapping):
        if others:
            raise SettingError(f"train holds splits by name: put {names} there")
        return train
    return None if train is None else {"train": train, **others}


def find_parts(
    source: Any,
    splits: Iterable[str] | None,
    suffixes: Sequence[str] = TABLE_SUFFIXES,
    config: str | None = None,
) -> tuple[str, dict[str, list[Any]]]:
    """Return a source's name in messages, and by split its files, data set or rows in memory."""
    where, named = _name_parts(source, splits, suffixes, config)
    parts: dict[str, list[Any]] = {}
    names: dict[str, str] = {}
    for name, part in named.items():
        split = str(_ALIASES.get(name, name))
        if split in names:
            both = f"both {names[split]!r} and {name!r}, which mean one split"
            raise DataError(f"{where} has {both}: keep one of them", where)
        names[split] = name
        parts[split] = _list_files(part) or [part]
    unused: list[str] = []
    for split in parts.keys() - set(SPLITS):
        files = _list_files(parts.pop(split))
        unused += map(os.path.basename, files) if files else [split]
    if unused:
        message = "%s: not read: %s; read are train, dev or validation, test"
        logger.warning(message, where, ", ".join(sorted(unused)))
    return where, parts


def _name_parts(
    source: Any, splits: Iterable[str] | None, suffixes: Sequence[str], config: str | None
) -> tuple[str, Mapping[str, Any]]:
    """Return the name of a source, and its files or rows by names of splits or others."""
    if isinstance(source, Mapping):
        return "dataset", source
    if isinstance(source, datasets.Dataset):
        return "dataset", {"train": source}
    if not isinstance(source, str | os.PathLike):
        found = f"found {type(source).__name__}"
        raise SettingError(f"a data set must be a Dataset, a dict, a name or a folder: {found}")
    where = os.path.expanduser(source)
    named: Any = _find_files(Path(where), splits, suffixes)
    if named is None:
        named = _load_library(where, config)
    return where, named


def _list_files(part: Any) -> list[str]:
    """Return the paths of one or several files; none for rows in memory."""
    paths = part if isinstance(part, list | tuple) else [part]
    if not all(isinstance(path, str | os.PathLike) for path in paths):
        return []
    return [os.path.expanduser(path) for path in paths]


def _find_files(
    path: Path, splits: Iterable[str] | None, suffixes: Sequence[str]
) -> dict[str, list[str]] | None:
    """Return the files of a folder by split, others by name; a single file may be any split.

    In a folder without tables, folders or text files of labels make a split. None means a data set
    of the library.
    """
    if not path.is_dir():
        if not path.is_file() and suffix_of(path) not in suffixes:
            return None
        split = next(iter(as_list(splits or ())), "train")
        return {split: [str(path)]}
    if _is_saved(path):
        return None
    files = _find_tables(path, suffixes)
    if len(files) == 1 and not files.keys() & set(_NAMES):
        return {"train": next(iter(files.values()))}
    if files or suffixes != TABLE_SUFFIXES or not any(path.iterdir()):
        return files
    return _find_labels(path) or None


def _find_tables(path: Path, suffixes: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of a folder by split, all parts of one together, and others by name."""
    files: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    for file in sorted(path.iterdir()):
        if suffix_of(file) not in suffixes or not file.is_file():
            continue
        stem = Path(file.stem).stem if file.suffix in PACKED else file.stem
        split = _NUMBER.sub("", stem)
        name = split if split in _NAMES else stem
        files.setdefault(name, []).append(str(file))
        stems.setdefault(name, []).append(stem)
    for name, found in stems.items():
        if len(found) > 1 and (name in found or len(set(found)) < len(found)):
            both = " and ".join(map(os.path.basename, files[name]))
            raise DataError(f"{path} has {both}: keep the whole file or its parts", str(path))
    return files


def _find_labels(path: Path) -> dict[str, list[str]]:
    """Return by split the folders of text files, or the text files, whose names are labels."""
    files = {}
    folders = {name: path / name for name in _NAMES if (path / name).is_dir()}
    for split, folder in (folders or {"train": path}).items():
        entries = sorted(folder.iterdir())
        labels = [entry for entry in entries if next(entry.glob("*.txt"), None)]
        labels = [label for label in labels if label.name.lower() not in _NO_LABEL]
        if not labels:
            labels = [entry for entry in entries if suffix_of(entry) == ".txt"]
        if len(labels) > 1:
            files[split] = list(map(str, labels))
            logger.info("%s: the labels are %s", folder, ", ".join(label.name for label in labels))
    return files


def _is_saved(path: Path) -> bool:
    """Return whether the library `datasets` wrote a folder."""
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _load_library(name: str, config: str | None) -> Mapping[str, datasets.Dataset]:
    try:
        if not _is_saved(Path(name)):
            return datasets.load_dataset(name, config)
        rows = datasets.load_from_disk(name)
        return {"train": rows} if isinstance(rows, datasets.Dataset) else rows
    except Exception as error:  # the library raises anything: not found, no network, broken files
        cause = error
        if isinstance(error, DatasetsError) and error.__cause__ is not None:
            cause = error.__cause__
        message = f"the data set {name!r} cannot be loaded: {reason_of(cause):.500}"
        raise DataError(message, name) from error


def as_list(items: Any) -> list[Any]:
    """Return several items as a list, or one name or path as a list of one."""
    return [items] if isinstance(items, str | os.PathLike) else list(items)


def choose_splits(
    splits: Iterable[str] | None, there: Iterable[str], where: str, suffix: str = ".tsv"
) -> tuple[str, ...]:
    """Return the splits to read, train first: the requested ones, or all with train."""
    there = list(there)
    chosen = {"train", *there}
    if splits is not None:
        chosen = {_ALIASES.get(name, name) for name in as_list(splits)}
    found = ", ".join(there) or "no split"
    for split in sorted(chosen.difference(there), key="train".__ne__):
        if split not in SPLITS:
            advice = "use train, validation (or dev), test"
            raise SettingError(f"there is no split named {split}: {advice}")
        if split == "train":
            files = sorted(os.listdir(where))[:10] if os.path.isdir(where) else []
            if files:
                found += f" in the files {', '.join(files)}"
            advice = f"name the file of the training rows train{suffix} or the like"
            detail = f"found {found}; {advice}, or give one file"
            raise file_error(where, Reason.NO_TRAIN_SPLIT, detail)
        message = f"{where} has no split {split}: found {found}"
        other = next((name for name in ("validation", "train") if name in there), None)
        if other is not None:
            message += f"; take --split {other}"
        raise DataError(message, where)
    return tuple(split for split in SPLITS if split in chosen)


def read_label(path: str, encoding: str | None = None) -> Table:
    """Read a folder, a row per text file, or a file, a row per line; its name is the label."""
    label = os.path.basename(path)
    if os.path.isfile(path):
        lines = read_lines(path, encoding)
        labels = pa.repeat(label.partition(".txt")[0], len(lines.places))
        return replace(lines, columns={**lines.columns, "label": pa.chunked_array([labels])})
    encoding = encoding or "utf-8-sig"
    texts: list[str] = []
    rejected: dict[int, BadRow] = {}
    for file in sorted(Path(path).glob("*.txt")):
        text = file.read_bytes().decode(encoding, "surrogateescape")
        text = text.removesuffix("\n").removesuffix("\r")
        fault = find_byte_fault(text, encoding)
        if fault is not None:
            fault = Fault(fault.reason, f"{file.name}: {fault.detail}")
            rejected[len(texts)] = BadRow(path, len(texts), fault, excerpt_of(text), "row")
            text = ""
        texts.append(text)
    columns = {"text": texts, "label": [label] * len(texts)}
    return Table(path, columns, range(len(texts)), rejected, has_names=False)


def read_rows(rows: Any, name: str, columns: Sequence[Column]) -> Table:
    """Take rows in memory as a table; `name` is its name in messages.

    Rows are a `Dataset`, a table or frame of Arrow, pandas or polars, or a list of dicts or of
    tuples with an item for each of `columns`, such as (text, label).
    """
    if isinstance(rows, datasets.Dataset):
        if any("." in str(column) and column not in rows.features for column in columns):
            rows = rows.flatten()
        table = Table.from_arrow(name, rows.with_format("arrow")[:])
        return replace(table, class_names=_find_class_names(rows.features))
    if hasattr(rows, "__arrow_c_stream__"):
        return Table.from_arrow(name, pa.table(rows))
    names = list(map(str, columns))
    try:
        items = [
            row if isinstance(row, Mapping) else dict(zip(names, row, strict=True)) for row in rows
        ]
    except (TypeError, ValueError) as error:
        found = f"found {type(rows).__name__} ({reason_of(error):.200})"
        message = f"{name} must be a Dataset, a frame, or a list of dicts or pairs: {found}"
        raise DataError(message, name) from error
    return Table(name, gather(items), range(len(items)))


def _find_class_names(features: datasets.Features) -> dict[str, list[str]]:
    """Return the names of the classes of columns of ClassLabel, or of lists of it."""
    class_names = {}
    for column, feature in features.items():
        if isinstance(feature, datasets.List | datasets.LargeList):
            feature = feature.feature
        if isinstance(feature, datasets.ClassLabel):
            class_names[column] = feature.names
    return class_names
