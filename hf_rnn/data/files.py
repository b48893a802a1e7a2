"""Which files hold which split: from a folder, a mapping or one file, to paths by split name."""

from __future__ import annotations

import difflib
import logging
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..utils.errors import UserError
from .row_errors import DataError, Fault, Reason

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
ALIASES = {"dev": "validation"}

# what the datasets library reads, by which of its builders
_OF_LIBRARY = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}
_OF_VALIDATION = ("val", "valid", "validate", "devel", "development", "eval")  # what others call it
_OF_TSV = (".tsv", ".txt", ".tsv.gz")

PathLike = str | os.PathLike[str]
Source = PathLike | Mapping[str, PathLike | Sequence[PathLike]]


def canonical_splits(names: Iterable[str], where: str) -> dict[str, str]:
    """Return the given split names by their canonical ones (`dev` is `validation`), without what is no split of ours.

    Raises:
        UserError: If two names mean one split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = ALIASES.get(name, name)
        if split not in SPLITS:
            continue
        if split in found:
            raise UserError(f"{where} has both {found[split]!r} and {name!r}, which mean one split: keep one of them")
        found[split] = name
    return found


def wanted_splits(
    splits: Iterable[str] | None, found: Mapping[str, object], where: str, trained: bool, advice: str = ""
) -> tuple[str, ...]:
    """Return the canonical names of the splits to read, train first.

    Args:
        splits: What the caller asks for; None for train, which must be there, and all others that are.
        found: What there is, by canonical name.
        where: Names the source in messages.
        trained: Whether class names are given, so that train is not needed for them.
        advice: What else to do where train is missing.

    Raises:
        UserError: If a split is asked for that is not there or not known.
        DataError: If there is no train split and one is needed.
    """
    if splits is None:
        wanted = {"train", *found}
    else:
        asked = [splits] if isinstance(splits, str) else list(splits)
        if not asked:
            raise UserError("splits names none: take train, validation (or dev), test, or leave it out")
        wanted = {ALIASES.get(name, name) for name in asked}
        if unknown := wanted - set(SPLITS):
            raise UserError(
                f"there is no split named {', '.join(sorted(unknown))}: take train, validation (or dev), test"
            )
        if not trained and "train" not in wanted:
            raise UserError(
                f"reading {' and '.join(sorted(wanted))} without train needs class names: add --class_names"
            )
    there = ", ".join(found) or "none"
    if "train" in wanted - set(found):
        remedy = f"Training rows stand in train.tsv of a folder, or in the split named train{advice}"
        raise DataError.of_file(
            where, Fault(Reason.NO_TRAIN_SPLIT, f"the splits there are: {there}{_holds(where)}", remedy)
        )
    if missing := wanted - set(found):
        raise UserError(f"{where} has no split {' and '.join(sorted(missing))}; the splits there are: {there}")
    return tuple(split for split in SPLITS if split in wanted)


def find_files(source: Source, splits: Iterable[str] | None, trained: bool) -> dict[str, list[str]]:
    """Return the files of each split to read, train first.

    Args:
        source: A folder with train.tsv, dev.tsv or validation.tsv, and test.tsv; or files by split; or one file, which
            is the only split asked for, or else train.
        splits: See [`wanted_splits`].
        trained: See [`wanted_splits`].

    Raises:
        UserError: If names clash or a file serves twice.
        DataError: If there is no train split and one is needed.
    """
    if isinstance(source, Mapping):
        where, given = "the mapping", {name: _as_paths(files) for name, files in source.items()}
        for name in given:
            if name not in SPLITS and name not in ALIASES:
                near = difflib.get_close_matches(name, [*SPLITS, *ALIASES], n=1)
                raise UserError(
                    f"{name!r} is no split: take train, validation (or dev), test"
                    + (f"; nearest is {near[0]!r}" if near else "")
                )
    elif Path(source := os.path.expanduser(source)).is_dir():
        where = str(source)
        given = {path.stem: [str(path)] for path in sorted(Path(source).glob("*.tsv"))}
        if unused := [name for name in given if name not in SPLITS and name not in ALIASES]:
            advice = "".join(
                f". Rename {name}.tsv to dev.tsv, if it is one"
                for name in unused
                if name.lower() in _OF_VALIDATION and not {"dev", "validation"} & given.keys()
            )
            logger.warning("%s: not read: %s%s", where, ", ".join(f"{name}.tsv" for name in unused), advice)
    else:
        where = str(source)
        splits = None if splits is None else [splits] if isinstance(splits, str) else list(splits)
        asked = splits or ["train"]
        if len(asked) > 1 and not Path(source).exists():
            raise UserError(f"{where} does not exist: give a folder with train.tsv in it, or a TSV file")
        given = {asked[0]: [where]}
        _tell_of_splits_beside(Path(source), asked)
    found = {split: given[name] for split, name in canonical_splits(given, where).items()}
    files = {split: found[split] for split in wanted_splits(splits, found, where, trained, _other_ways(where))}
    _refuse_reuse(files)
    return files


def find_builder(path: PathLike | None) -> str | None:
    """Return the builder of the datasets library that reads a single file; None for TSV files and folders."""
    return None if path is None or not os.path.isfile(path) else _builder_of(os.fspath(path))


def _builder_of(name: str) -> str | None:
    return next((kind for suffix, kind in _OF_LIBRARY.items() if name.lower().endswith(suffix)), None)


def _tell_of_splits_beside(file: Path, asked: Sequence[str]) -> None:
    """Say that a split's file alone is read, where it lies beside those of others that were not asked for."""
    names = [*SPLITS, *ALIASES]
    beside = [f"{name}.tsv" for name in names if name != file.stem and file.with_name(f"{name}.tsv").is_file()]
    if asked == ["train"] and file.stem == "train" and beside:
        logger.warning(
            "%s is read alone; give the folder %s to read %s too", file, file.parent, " and ".join(sorted(beside))
        )


def _names(folder: str) -> list[str] | None:
    """The files of a folder; None for what is none, or cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return None


def _holds(folder: str) -> str:
    """Return for a message what a folder holds; nothing for what is no folder."""
    names = _names(folder)
    if names is None:
        return ""
    return f", the files: {', '.join(names[:10]) or 'none'}" + (" ..." if len(names) > 10 else "")


def _other_ways(folder: str) -> str:
    """Return what to do with files of other names, kinds and places that a folder holds."""
    names = _names(folder) or []
    training = [name for name in names if name.lower().startswith("train.")]
    near = [name for name in training if name.lower().endswith(_OF_TSV)]
    if near and near[0].lower().endswith(".gz"):
        return f". Unpack {near[0]} to train.tsv"
    if near:
        return f". Rename {near[0]} to train.tsv, if it is one"
    if any(_builder_of(name) for name in training):
        return (
            f". For its other files type --dataset_name {shlex.quote(folder)} in place of --data_dir, with "
            "--text_column and --label_column"
        )
    below = (os.path.join(folder, name) for name in names)
    if nested := next((path for path in below if os.path.isfile(os.path.join(path, "train.tsv"))), None):
        return f". Did you mean {nested}?"
    return ""


def _as_paths(files: PathLike | Sequence[PathLike]) -> list[str]:
    if isinstance(files, str | os.PathLike):
        return [os.path.expanduser(files)]
    if not files:
        raise UserError("a split is mapped to no file at all: give one path or several")
    return [os.path.expanduser(path) for path in files]


def _refuse_reuse(files: Mapping[str, list[str]]) -> None:
    """Refuse a file that serves twice: the same rows in two splits make every score a lie."""
    seen: dict[str, str] = {}
    for split, paths in files.items():
        for path in paths:
            if (other := seen.setdefault(os.path.realpath(path), split)) != split or paths.count(path) > 1:
                both = f"{other} and {split}" if other != split else f"{split} twice"
                raise UserError(f"{path} is given as {both}: give each file once")
