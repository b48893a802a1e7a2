"""The rows that an evaluation scores: those of a split, or new ones of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.report import DataReport
from ..data.splits import hash_texts, join_texts, read_training_rows
from ..hub.model_folder import FinishedFolder
from ..utils.errors import UserError
from .tables import read_record

if TYPE_CHECKING:
    from ..data.table import Table
    from ..tasks import Config, Task
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


class _Choice(Enum):
    """The rows of a split that are scored."""

    ALL = "all"
    SEEN = "those that were trained on"
    UNSEEN = "the others"
    SEEN_IF_ANY = "those that were trained on, or all"
    UNSEEN_IF_ANY = "the others, or all"


# By source and split; all rows of other splits. Rows of a table, or of a folder whose validation
# rows training held out, are two halves.
_CHOICES = {
    ("table", None): _Choice.UNSEEN_IF_ANY,
    ("table", "train"): _Choice.SEEN,
    ("table", "validation"): _Choice.UNSEEN,
    ("held out", "train"): _Choice.SEEN_IF_ANY,
    ("held out", "validation"): _Choice.UNSEEN,
}


def choose(source: str, split: str | None, seen: np.ndarray) -> np.ndarray:
    """Return whether each row is scored.

    Args:
        source: `table`, `held out` (a folder or a data set whose rows of train have two halves), or
            `splits`.
        split: As the user gave it.
        seen: Whether each row was trained on.

    Raises:
        UserError: For a half that has no row.
    """
    choice = _CHOICES.get((source, split), _Choice.ALL)
    wanted = seen if choice in (_Choice.SEEN, _Choice.SEEN_IF_ANY) else ~seen
    if choice is _Choice.ALL or (choice is _Choice.SEEN_IF_ANY and not seen.any()):
        return np.ones_like(seen)
    if choice is _Choice.UNSEEN_IF_ANY and seen.all():
        return np.ones_like(seen)
    if choice in (_Choice.SEEN, _Choice.UNSEEN) and (seen.all() or not seen.any()):
        there = "all rows were" if seen.any() else "no row is known to be"
        raise UserError(
            f"the data have no split {split}, and {there} trained on: leave out --split"
        )
    return wanted


def read_rows(
    model: str,
    options: EvaluateOptions,
    task: Task,
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
        task: That of the model.
        config: That of the model.
        revision: Branch, tag or commit, for a repo id.
        data: Rows in memory, in place of the source.

    Raises:
        UserError: For unusable data, and where no row can be scored.
    """
    split = {"dev": "validation"}.get(str(options.split), options.split)
    record = read_record(model, revision)
    read = _read_split(split, options, task, config, record, data)
    rows = read.rows
    trained = None
    if Path(model).is_dir():
        trained = read_training_rows(FinishedFolder(Path(model)))
    seen = np.zeros(len(rows), dtype=bool)
    if trained is not None:
        hashes = pa.array(hash_texts(join_texts(rows)))
        seen = pc.is_in(hashes, pa.array(trained)).to_numpy(zero_copy_only=False)
    chosen = choose(read.source, split, seen)

    counted = seen[chosen] if read.has_halves else seen
    trained_on = None if trained is None else int(counted.sum())
    note = _describe_rows(read.name, trained_on, len(counted), int(chosen.sum()), record)
    classless = np.zeros(len(rows), dtype=bool)
    if options.none_label is not None:
        classless = chosen & (np.asarray(rows["label"][:]) == config.num_labels)
        _check_classless(classless, chosen)
        chosen &= ~classless
    return Rows(
        data=rows if chosen.all() else rows.select(np.flatnonzero(chosen)),
        name=read.name,
        trained_on=trained_on,
        seen=seen[chosen],
        classless=rows.select(np.flatnonzero(classless)),
        table=read.table,
        places=read.places[chosen],
        columns=read.columns,
        note=note,
    )


@dataclass(frozen=True)
class _Split:
    """A split as it is stored."""

    rows: datasets.Dataset
    name: str  # for people
    source: str  # as [`choose`] names it
    has_halves: bool  # whether train and validation are halves of these rows
    table: Table | None
    places: np.ndarray
    columns: Mapping[str, str]


def _read_split(
    split: str | None,
    options: EvaluateOptions,
    task: Task,
    config: Config,
    record: Mapping[str, Any],
    data: object,
) -> _Split:
    """Read the rows of a split, or all rows where it is a half of them."""
    path = Path(str(options.data_dir or options.dataset_name))
    is_table = data is None and path.is_file()
    has_halves = False
    if split in ("train", "validation") and data is None and not task.generates:
        has_halves = is_table or bool(record.get("held_out"))
    wanted = split or "test"
    which: dict[str, Any] = {"validation_share": 0} if has_halves else {"splits": [wanted]}
    if data is not None:
        which["data"] = {wanted: data}

    report = DataReport()
    columns = find_columns(options, task, config, record)
    splits = task.read(options, report=report, **columns, **which)
    source = "table" if is_table else "splits"
    if has_halves and (wanted not in splits or wanted == "train"):
        wanted = "train"
        source = "table" if is_table else "held out"
    rows = splits[wanted]
    table, places = report.tables.get(wanted, (None, np.arange(len(rows))))
    name = path.name if is_table and split is None else split or "test"
    return _Split(rows, name, source, has_halves, table, places, report.columns)


def _check_classless(classless: np.ndarray, chosen: np.ndarray) -> None:
    found = np.count_nonzero(classless)
    count = np.count_nonzero(chosen)
    if found in (0, count):
        raise UserError(
            f"none_label needs rows with this label and others: {found} of {count} have it"
        )


def find_columns(
    options: EvaluateOptions, task: Task, config: Config, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the labels of a model and the columns of its training, as options of a reader."""
    class_names = [config.id2label[index] for index in range(config.num_labels)]
    pairs = options.label_map or []
    label_map = dict(pair.rpartition("=")[::2] for pair in pairs)
    if len(label_map) < len(pairs) or not all(label_map):
        advice = "give each label of the data once, as --label_map 0=negative 1=neutral"
        raise UserError(f"label_map is {' '.join(pairs)}: {advice}")
    if not label_map and class_names == [f"LABEL_{index}" for index in range(len(class_names))]:
        # as transformers numbers integers
        label_map = {str(index): name for index, name in enumerate(class_names)}
    if options.none_label is not None:
        class_names.append(options.none_label)
    columns: dict[str, Any] = {"class_names": class_names, "label_map": label_map}
    if not task.per_token:
        uses = ("text", "text_pair", "label")
        columns["columns_of_start"] = {use: record.get(f"{use}_column") for use in uses}
    return columns


def _describe_rows(
    name: str, trained_on: int | None, rows: int, scored: int, record: Mapping[str, Any]
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
