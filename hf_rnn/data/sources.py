"""Sources of labelled texts: files, folders, data sets of the `datasets` library, rows in memory."""

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

from ..utils.errors import UserError, reason_of
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
    others = {
        name: rows
        for name, rows in (("validation", validation), ("test", test))
        if rows is not None
    }
    if train is None and others:
        raise UserError(
            f"{' and '.join(others)} in memory without train: give the training rows as train"
        )
    if isinstance(train, Mapping):
        if others:
            raise UserError(f"train holds splits by name: put {' and '.join(others)} there")
        return train
    return None if train is None else {"train": train, **others}


def find_parts(
    source: Any,
    splits: Iterable[str] | None,
    suffixes: Sequence[str] = TABLE_SUFFIXES,
    config: str | None = None,
) -> tuple[str, dict[str, list[Any]]]:
    """Return the name of a source in messages, and by split its files, or its data set or rows in memory."""
    where, named = "dataset", {"train": source} if isinstance(source, datasets.Dataset) else source
    if isinstance(source, str | os.PathLike):
        where = os.path.expanduser(source)
        named = _find_files(Path(where), splits, suffixes)
        named = _load_library(where, config) if named is None else named
    if not isinstance(named, Mapping):
        raise UserError(
            f"a data set must be a Dataset, a dict, a name or a folder: found {type(source).__name__}"
        )
    parts: dict[str, list[Any]] = {}
    names: dict[str, str] = {}
    unused: list[str] = []
    for name, part in named.items():
        paths = part if isinstance(part, list | tuple) and part else [part]
        is_files = all(isinstance(path, str | os.PathLike) for path in paths)
        split = _ALIASES.get(name, name)
        if split in names:
            raise UserError(
                f"{where} has both {names[split]!r} and {name!r}, which mean one split: keep one of them"
            )
        names[split] = name
        if split in SPLITS:
            parts[split] = list(map(os.path.expanduser, paths)) if is_files else [part]
        else:
            unused += [os.path.basename(path) for path in paths] if is_files else [name]
    if unused:
        logger.warning(
            "%s: not read: %s; read are train, dev or validation, test", where, ", ".join(unused)
        )
    return where, parts


def _find_files(
    path: Path, splits: Iterable[str] | None, suffixes: Sequence[str]
) -> dict[str, list[str]] | None:
    """Return the files of a folder by split, others by name; a single file is the requested split, or else train.

    In a folder without tables, folders or text files of labels make a split. None means a data set
    of the library.
    """
    if not path.is_dir():
        is_file = path.is_file() or suffix_of(path) in suffixes
        return {next(iter(as_list(splits or ())), "train"): [str(path)]} if is_file else None
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return None
    files: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    for file in sorted(path.iterdir()):
        if suffix_of(file) in suffixes and file.is_file():
            stem = Path(file.stem).stem if file.suffix in PACKED else file.stem
            split = _NUMBER.sub("", stem)
            name = split if split in _NAMES else stem
            files.setdefault(name, []).append(str(file))
            stems.setdefault(name, []).append(stem)
            if len(stems[name]) > 1 and (name in stems[name] or stem in stems[name][:-1]):
                both = " and ".join(map(os.path.basename, files[name]))
                raise UserError(f"{path} has {both}: keep the whole file or its parts")
    if len(files) == 1 and not files.keys() & set(_NAMES):
        return {"train": next(iter(files.values()))}
    if files or suffixes != TABLE_SUFFIXES or not any(path.iterdir()):
        return files
    for split in [name for name in _NAMES if (path / name).is_dir()] or ["train"]:
        folder = path / split if (path / split).is_dir() else path
        labels = [
            file
            for file in sorted(folder.iterdir())
            if file.is_dir() and next(file.glob("*.txt"), None)
        ]
        labels = [label for label in labels if label.name.lower() not in _NO_LABEL]
        labels = labels or [file for file in sorted(folder.iterdir()) if suffix_of(file) == ".txt"]
        if len(labels) > 1:
            files[split] = list(map(str, labels))
            logger.info("%s: the labels are %s", folder, ", ".join(label.name for label in labels))
    return files or None


def _load_library(name: str, config: str | None) -> Mapping[str, datasets.Dataset]:
    try:
        if os.path.exists(os.path.join(name, "dataset_dict.json")):
            return datasets.load_from_disk(name)
        if os.path.exists(os.path.join(name, "state.json")):  # a single saved split
            return {"train": datasets.load_from_disk(name)}
        return datasets.load_dataset(name, config)
    except Exception as error:  # the library raises anything: not found, no network, broken files
        cause = (
            error.__cause__
            if isinstance(error, DatasetsError) and error.__cause__ is not None
            else error
        )
        raise UserError(
            f"the data set {name!r} cannot be loaded: {reason_of(cause):.500}"
        ) from error


def as_list(items: Any) -> list[Any]:
    """Return several items as a list, or one name or path as a list of one."""
    return [items] if isinstance(items, str | os.PathLike) else list(items)


def choose_splits(
    splits: Iterable[str] | None, there: Iterable[str], where: str, suffix: str = ".tsv"
) -> tuple[str, ...]:
    """Return the canonical names of the splits to read, train first: the requested ones, or train and the others."""
    found = ", ".join(there := list(there)) or "no split"
    chosen = (
        {"train", *there}
        if splits is None
        else {_ALIASES.get(name, name) for name in as_list(splits)}
    )
    for split in sorted(chosen - set(there), key="train".__ne__):
        if split not in SPLITS:
            raise UserError(
                f"there is no split named {split}: use train, validation (or dev), test"
            )
        if split == "train":
            files = sorted(os.listdir(where))[:10] if os.path.isdir(where) else []
            found += f" in the files {', '.join(files)}" if files else ""
            advice = (
                f"name the file of the training rows train{suffix} or the like, or give one file"
            )
            raise file_error(where, Reason.NO_TRAIN_SPLIT, f"found {found}; {advice}")
        others = [f"; take --split {name}" for name in ("validation", "train") if name in there]
        raise UserError(f"{where} has no split {split}: found {found}{''.join(others[:1])}")
    return tuple(split for split in SPLITS if split in chosen)


def read_label(path: str, encoding: str | None = None) -> Table:
    """Read a folder of text files, a row for each, or a text file, a row for each line; its name is their label."""
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
        class_names = {}
        for column, feature in rows.features.items():
            item = (
                feature.feature
                if isinstance(feature, datasets.List | datasets.LargeList)
                else feature
            )
            if isinstance(item, datasets.ClassLabel):
                class_names[column] = item.names
        return replace(
            Table.from_arrow(name, rows.with_format("arrow")[:]), class_names=class_names
        )
    if hasattr(rows, "__arrow_c_stream__"):
        return Table.from_arrow(name, pa.table(rows))
    try:
        items = [
            row if isinstance(row, Mapping) else dict(zip(map(str, columns), row, strict=True))
            for row in rows
        ]
    except (TypeError, ValueError) as error:
        found = f"found {type(rows).__name__} ({reason_of(error):.200})"
        raise UserError(
            f"{name} must be a Dataset, a frame, or a list of dicts or pairs: {found}"
        ) from error
    return Table(name, gather(items), range(len(items)))
