"""The rows that an evaluation scores: those of a split, or new ones of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.report import DataReport
from ..data.splits import hash_texts, join_texts, read_training_rows
from ..hub.model_folder import FinishedFolder
from ..tasks import task_of
from ..utils.errors import UserError
from .tables import Record, read_record

if TYPE_CHECKING:
    from ..data.table import Table
    from ..tasks import Config
    from .options import EvaluateOptions


@dataclass(frozen=True)
class Rows:
    """Rows to score."""

    data: datasets.Dataset  # as the task reads them
    name: str  # that of their split or their file
    # rows of the split or the file that the model was trained on; None for unknown
    trained_on: int | None
    seen: np.ndarray  # whether each row of `data` was trained on
    classless: datasets.Dataset  # the rows of no class
    table: Table | None  # None for a data set, or several files
    places: np.ndarray  # lines or rows in the table
    columns: Mapping[str, str]  # those of the table by use: text, label ...
    note: str  # how many rows were trained on


class _Half(NamedTuple):
    """The rows of a split that are scored, where it is a half of the rows that are read."""

    trained_on: bool  # whether they were trained on
    is_needed: bool  # all rows are scored where a half that is not needed is empty


# Rows of a table, or of a folder whose validation rows training held out, are two halves.
_HALF_NAMES = ("train", "validation")
# by source and split; all rows of other splits
_HALVES = {
    ("table", None): _Half(trained_on=False, is_needed=False),
    ("table", "train"): _Half(trained_on=True, is_needed=True),
    ("table", "validation"): _Half(trained_on=False, is_needed=True),
    ("held out", "train"): _Half(trained_on=True, is_needed=False),
    ("held out", "validation"): _Half(trained_on=False, is_needed=True),
}


def find_scored(source: str, split: str | None, seen: np.ndarray) -> np.ndarray:
    """Return whether each row is scored.

    Args:
        source: `table`, `held out` (a folder or a data set whose rows of train have two halves), or
            `splits`.
        split: As the user gave it.
        seen: Whether each row was trained on.

    Raises:
        UserError: For a half that has no row.
    """
    half = _HALVES.get((source, split))
    if half is None:
        return np.ones_like(seen)
    wanted = seen == half.trained_on
    if not half.is_needed:
        return wanted if wanted.any() else np.ones_like(seen)
    if wanted.all() or not wanted.any():
        there = "all rows were" if seen.any() else "no row is known to be"
        raise UserError(
            f"the data have no split {split}, and {there} trained on: leave out --split"
        )
    return wanted


def choose_rows(
    model: str,
    options: EvaluateOptions,
    config: Config,
    revision: str | None = None,
    data: object = None,
) -> Rows:
    """Return the rows to score.

    Without `split` they are those of test, or those of a table that were not trained on. A table
    without splits has two halves: rows that were trained on are `train`, the others `validation`.

    Args:
        model: A finished folder, or a repo of the Hub.
        options: The source, and the split.
        config: That of the model.
        revision: Branch, tag or commit, for a repo id.
        data: Rows in memory, in place of the source.

    Raises:
        UserError: For unusable data, and where no row can be scored.
    """
    split = "validation" if options.split == "dev" else options.split
    record = read_record(model, revision)
    stored = _read_stored(split, options, config, record, data)
    rows = stored.rows
    is_known, seen = _find_trained_on(model, rows)
    chosen = find_scored(stored.source, split, seen)
    classless = np.zeros_like(chosen)
    if options.none_label is not None:
        fits_no_class = np.asarray(rows["label"][:]) == config.num_labels
        if split is None and not (chosen & ~fits_no_class).any():
            chosen = np.ones_like(chosen)  # the model has learned all rows with a class
        classless = chosen & fits_no_class
        found = np.count_nonzero(classless)
        count = np.count_nonzero(chosen)
        if found in (0, count):
            raise UserError(
                f"none_label needs rows with this label and others: {found} of {count} have it"
            )
    counted = seen[chosen] if stored.has_halves else seen
    trained_on = int(counted.sum()) if is_known else None
    note = _describe_rows(stored.name, trained_on, len(counted), int(chosen.sum()), record)
    chosen &= ~classless
    return Rows(
        data=rows if chosen.all() else rows.select(np.flatnonzero(chosen)),
        name=stored.name,
        trained_on=trained_on,
        seen=seen[chosen],
        classless=rows.select(np.flatnonzero(classless)),
        table=stored.table,
        places=stored.places[chosen],
        columns=stored.columns,
        note=note,
    )


def _find_trained_on(model: str, rows: datasets.Dataset) -> tuple[bool, np.ndarray]:
    """Return whether that is known, and for each row whether the model was trained on it."""
    folder = Path(model)
    trained = read_training_rows(FinishedFolder(folder)) if folder.is_dir() else None
    if trained is None:
        return False, np.zeros(len(rows), dtype=bool)
    hashes = pa.array(hash_texts(join_texts(rows)))
    return True, pc.is_in(hashes, pa.array(trained)).to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class _StoredSplit:
    """A split as it is stored."""

    rows: datasets.Dataset
    name: str  # for people
    source: str  # as [`find_scored`] names it
    has_halves: bool  # whether train and validation are halves of these rows
    table: Table | None
    places: np.ndarray
    columns: Mapping[str, str]


def _read_stored(
    split: str | None, options: EvaluateOptions, config: Config, record: Record, data: object
) -> _StoredSplit:
    """Read the rows of a split, or all rows where it is a half of them."""
    name = split or "test"
    source = _find_source(split, options, config, record, data)
    has_halves = source != "splits" and split in _HALF_NAMES
    arguments = find_columns(options, config, record)
    arguments |= {"validation_share": 0} if has_halves else {"splits": [name]}
    if data is not None:
        arguments["data"] = {name: data}

    report = DataReport()
    splits = task_of(config).read(options, report=report, **arguments)
    stored_name = "train" if has_halves and name not in splits else name
    if source == "held out" and stored_name != "train":
        source = "splits"
    table, places = report.tables.get(stored_name, (None, np.arange(len(splits[stored_name]))))
    if source == "table" and split is None:
        name = _find_path(options).name
    return _StoredSplit(
        splits[stored_name], name, source, has_halves, table, places, report.columns
    )


def _find_source(
    split: str | None, options: EvaluateOptions, config: Config, record: Record, data: object
) -> str:
    """Return where the rows of a split are, as [`find_scored`] names it."""
    if data is None and _find_path(options).is_file():
        return "table"
    may_be_held_out = data is None and split in _HALF_NAMES and not task_of(config).generates
    return "held out" if may_be_held_out and record.get("held_out") else "splits"


def _find_path(options: EvaluateOptions) -> Path:
    return Path(str(options.data_dir or options.dataset_name))


def find_columns(options: EvaluateOptions, config: Config, record: Record) -> dict[str, object]:
    """Return the labels of a model and the columns of its training, as options of a reader."""
    class_names = [config.id2label[index] for index in range(config.num_labels)]
    label_map = _read_label_map(options.label_map or [], class_names)
    if options.none_label is not None:
        class_names.append(options.none_label)
    columns: dict[str, object] = {"class_names": class_names, "label_map": label_map}
    if not task_of(config).per_token:
        uses = ("text", "text_pair", "label")
        columns["columns_of_start"] = {use: record.get(f"{use}_column") for use in uses}
    return columns


def _read_label_map(pairs: list[str], class_names: list[str]) -> dict[str, str]:
    """Return the names in the model of labels of the data, from pairs such as `0=negative`."""
    label_map = dict(pair.rpartition("=")[::2] for pair in pairs)
    if len(label_map) < len(pairs) or not all(label_map):
        advice = "give each label of the data once, as --label_map 0=negative 1=neutral"
        raise UserError(f"label_map is {' '.join(pairs)}: {advice}")
    if not pairs and class_names == [f"LABEL_{index}" for index in range(len(class_names))]:
        # as transformers numbers integers
        return {name.removeprefix("LABEL_"): name for name in class_names}
    return label_map


def _describe_rows(
    name: str, trained_on: int | None, rows: int, scored: int, record: Record
) -> str:
    """Return a note on the number of rows that were trained on."""
    if trained_on is None:
        some = f"some of its {rows:,} rows may have been trained on"
        return f"{name}: {some}: the model has no hashes of these rows"
    note = f"{name}: {trained_on:,} of {rows:,} rows were trained on"
    if scored < rows:
        note += f"; the scores are of the other {scored:,}"
    elif trained_on:
        note += "; new texts have lower scores"
    start = record.get("unknown_rows_of")
    if start:
        note += f"; the model started from {start}, and the rows that trained that one are unknown"
    return note
