"""The two loaders: TSV files, or any data set that the `datasets` library loads, to one kind of data set.

Tables live in memory as Arrow columns, streams are read from their files again in each epoch; neither writes a cache.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import xxhash
from datasets.exceptions import DatasetsError
from datasets.iterable_dataset import ArrowExamplesIterable

from ..utils.errors import UserError, reason_of
from .files import Source, canonical_splits, find_builder, find_files, wanted_splits
from .hf_dataset import UNLABELLED, LibrarySplit, to_dataset
from .labels import LabelMap
from .row_report import DataReport, Ledger
from .split_reader import ReadSplit, RowSource, read_splits
from .stratified_split import Holdout, check_share
from .tsv_file import TsvFile
from .tsv_reader import Rows
from .tsv_schema import MAX_LINE_BYTES, TsvFormat

logger = logging.getLogger(__name__)


def load_tsv(
    source: Source,
    *,
    text_column: int | str | None = None,
    label_column: int | str | None = None,
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
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Read labelled texts from TSV files.

    A line is `text<TAB>label` in UTF-8, ended by LF or CRLF. A byte order mark is skipped; quotes, a lone CR, U+2028
    and white space at the ends of a text are part of the text. Two columns are expected unless a header or other
    columns are declared; then every line must have as many fields as the first.

    Args:
        source: A folder with `train.tsv`, `dev.tsv` or `validation.tsv`, and `test.tsv` (only train is needed); or a
            mapping from split names to a file or several; or one file of training rows. `dev` means `validation`.
        text_column: Column of the text, by number from 0, or by name with `header=True`; by default 0.
        label_column: Column of the label; by default 1. Where either is given, lines may have further columns.
        header: Whether the first line of every file names the columns: those called `text` and `label` are taken,
            where there are both and no others are named here. One that is a row of this data is refused.
        class_names: Names of the classes by id. By default the labels of train, sorted: by value if all are integers,
            else by alphabet. Where given, the data may carry the names, or integers from 0 that index them.
        label_map: Labels of the data to `class_names`, where the data writes them otherwise. Integers index nothing
            then, also if it is empty.
        splits: Read only these. Train is not needed then if `class_names` are given; nothing is held out.
        validation_share: Where there is no validation split, this share of train (at most 0.5), stratified by label,
            becomes it, and that is logged. 0 leaves it out.
        seed: Changes which rows are held out.
        max_bad_rows: How many bad rows to go on without: a count, or a share of all rows such as `"0.1%"`.
        rejected_path: Where to list these (JSON lines: file, line, byte_offset, reason, detail, text). Without it the
            first few are logged.
        max_line_bytes: Longer lines are bad rows.
        streaming: Return streams in place of tables. The files are still read once here, so that all errors and counts
            come before the first batch; memory does not depend on their size.
        report: An empty report to fill in.

    Returns:
        Splits `train`, `validation`, `test`, as far as there are, with the columns `text` (string) and `label`
        (ClassLabel).

    Raises:
        DataError: For a file or a row that cannot be used, beyond `max_bad_rows`.
        UserError: For arguments that contradict each other or the data.
    """
    report = DataReport() if report is None else report
    class_names = None if class_names is None else list(class_names)
    layout = TsvFormat(text_column, label_column, header, max_line_bytes)
    files = find_files(source, splits, class_names is not None)
    _check_rejected_path(rejected_path, files)
    sources = {split: [TsvFile.open(path, layout) for path in paths] for split, paths in files.items()}
    with Ledger(max_bad_rows, rejected_path, report) as ledger:
        labels, read = read_splits(sources, class_names, ledger, not streaming, label_map)
    holdout = _hold_out(read, validation_share if splits is None else 0, seed, report)
    return _streams(labels, read, holdout, report) if streaming else _tables(labels, read, holdout, report)


def _check_rejected_path(rejected_path: str | Path | None, files: dict[str, list[str]]) -> None:
    """Refuse to list bad rows in a file that is read."""
    read = {os.path.realpath(path) for paths in files.values() for path in paths}
    if rejected_path is not None and os.path.realpath(rejected_path) in read:
        raise UserError(f"rejected_path {rejected_path} is a file of the data: give another")


def load_named(
    dataset: str | os.PathLike[str] | datasets.Dataset | Mapping[str, Any],
    config: str | None = None,
    *,
    text_column: str = "text",
    label_column: str = "label",
    class_names: Sequence[str] | None = None,
    label_map: Mapping[str, str] | None = None,
    splits: Iterable[str] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    max_bad_rows: int | float | str = 0,
    rejected_path: str | Path | None = None,
    report: DataReport | None = None,
) -> datasets.DatasetDict:
    """Take labelled texts from any data set that the `datasets` library loads, under the contract of [`load_tsv`].

    Args:
        dataset: A name on the Hub, a local path (what `load_dataset` takes, or a folder of `save_to_disk`), one file
            of CSV, Parquet or JSON lines, which is the only split asked for, or else train; a loaded `DatasetDict`; a
            `Dataset`, which is train; or splits by name, each as [`to_dataset`] takes it.
        config: The configuration of a data set that has several.
        text_column: Name of the column of texts, of a nested record with dots: `fields.text`.
        label_column: Name of the column of labels: ClassLabel (keeps its names and ids), strings, integers or bools.
        class_names: See [`load_tsv`].
        label_map: See [`load_tsv`].
        splits: See [`load_tsv`]. Without, a validation or test split whose labels are all -1, as benchmarks mark
            rows without one, is left out, which the log says.
        validation_share: See [`load_tsv`].
        seed: See [`load_tsv`].
        max_bad_rows: See [`load_tsv`].
        rejected_path: See [`load_tsv`]; `line` counts rows from 0 there.
        report: See [`load_tsv`].

    Returns:
        Splits as [`load_tsv`] gives them.

    Raises:
        DataError: For a column or a row that cannot be used, beyond `max_bad_rows`.
        UserError: If the data set cannot be loaded, or arguments contradict each other or the data.
    """
    report = DataReport() if report is None else report
    splits = [splits] if isinstance(splits, str) else None if splits is None else list(splits)
    alone = splits[0] if splits and len(splits) == 1 else "train"
    if isinstance(dataset, Mapping):
        in_memory = {split: to_dataset(rows, text_column, label_column, split) for split, rows in dataset.items()}
        loaded, name = datasets.DatasetDict(in_memory), "dataset"
    else:
        loaded, name = _load_library(dataset, config, alone)
    for split, rows in loaded.items():
        if any("." in column and column not in rows.features for column in (text_column, label_column)):
            loaded[split] = rows.flatten()
    found = canonical_splits(loaded, name)
    if unused := [split for split in loaded if split not in found.values()]:
        logger.warning("%s: splits not used: %s", name, ", ".join(unused))
    if splits is None:
        found = _with_labels(found, loaded, label_column, name)
    sources = {
        split: [LibrarySplit(f"{name}[{found[split]}]", loaded[found[split]], text_column, label_column)]
        for split in wanted_splits(
            splits, found, name, class_names is not None or _names_classes(loaded, label_column)
        )
    }
    names = next(iter(sources.values()))[0].class_names if class_names is None else list(class_names)
    with Ledger(max_bad_rows, rejected_path, report) as ledger:
        labels, read = read_splits(sources, names, ledger, True, label_map)
    holdout = _hold_out(read, validation_share if splits is None else 0, seed, report)
    return _tables(labels, read, holdout, report)


def _with_labels(found: dict[str, str], loaded: datasets.DatasetDict, label_column: str, name: str) -> dict[str, str]:
    """Leave out splits that hold no label at all, as benchmarks publish their test split, and say so."""
    kept = {}
    for split, own in found.items():
        coded = isinstance(loaded[own].features.get(label_column), datasets.ClassLabel)
        if split != "train" and coded and loaded[own].unique(label_column) == [UNLABELLED]:
            logger.warning("%s[%s]: all labels are %d, no labels: the split is left out", name, own, UNLABELLED)
        else:
            kept[split] = own
    return kept


def _names_classes(loaded: datasets.DatasetDict, label_column: str) -> bool:
    return all(isinstance(split.features.get(label_column), datasets.ClassLabel) for split in loaded.values())


def _load_library(
    dataset: str | os.PathLike[str] | datasets.Dataset, config: str | None, split_of_file: str
) -> tuple[datasets.DatasetDict, str]:
    """Return the data set with its splits, and what to call it."""
    if isinstance(dataset, datasets.Dataset):
        return datasets.DatasetDict(train=dataset), "dataset"
    if not isinstance(dataset, str | os.PathLike):
        raise UserError(
            f"a data set must be a Dataset, a DatasetDict, a name or a folder, found {type(dataset).__name__}"
        )
    name = os.path.expanduser(os.fspath(dataset))
    if not name:
        raise UserError("the name of the data set is empty: give a name or a folder")
    builder = find_builder(name)
    if os.path.isfile(name) and builder is None:
        raise UserError(f"the data set {name!r} is no CSV, Parquet or JSON file: give a TSV file as data_dir")
    if os.path.isdir(name) and os.path.realpath(name) in map(os.path.realpath, (os.path.expanduser("~"), os.sep)):
        raise UserError(f"the data set {name!r} is all that you have here: give a folder that holds a data set alone")
    try:
        if os.path.exists(os.path.join(name, "dataset_dict.json")):
            return datasets.load_from_disk(name), name
        if os.path.exists(os.path.join(name, "state.json")):  # one split, saved alone
            return datasets.DatasetDict(train=datasets.load_from_disk(name)), name
        if builder is not None:
            as_text = {"keep_default_na": False, "na_filter": False} if builder == "csv" else {}  # NA is a word too
            return datasets.load_dataset(builder, data_files={split_of_file: name}, **as_text), name
        return datasets.load_dataset(name, config), name
    except Exception as error:
        # not found, no network, broken files; archives, empty files and formats whose reader is not installed make the
        # libraries raise anything
        cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
        hint = ". Give a folder with train.tsv as data_dir" if os.path.exists(os.path.join(name, "train.tsv")) else ""
        raise UserError(f"the data set {name!r} cannot be loaded: {reason_of(cause):.500}{hint}") from error


def _hold_out(read: dict[str, ReadSplit], share: float, seed: int, report: DataReport) -> Holdout | None:
    """Decide which rows of train become validation, if any, and say so."""
    report.label_counts = {split: source.total() for split, source in read.items()}
    if share:
        check_share(share)
    if not share or "validation" in read:
        return None
    holdout = Holdout(tuple(read["train"].total()), share, seed)
    held_out = [holdout.quota(label) for label in range(len(holdout.counts))]
    stay = [count - out for count, out in zip(report.label_counts["train"], held_out, strict=True)]
    report.label_counts |= {"train": stay, "validation": held_out}
    report.held_out = holdout.rows
    logger.warning(
        "there is no validation split: %d of %d rows of train are held out as one, stratified by label (seed %d)",
        holdout.rows,
        sum(holdout.counts),
        seed,
    )
    return holdout


def _info(labels: LabelMap) -> datasets.DatasetInfo:
    label = datasets.ClassLabel(names=list(labels.names))
    return datasets.DatasetInfo(features=datasets.Features(text=datasets.Value("string"), label=label))


def _tables(
    labels: LabelMap, read: dict[str, ReadSplit], holdout: Holdout | None, report: DataReport
) -> datasets.DatasetDict:
    fingerprints = _fingerprints(labels, read, holdout, report)
    columns = {split: source.rows for split, source in read.items()}
    if holdout is not None:
        columns = dict(zip(("train", "validation"), _divide(columns.pop("train"), holdout), strict=True)) | columns
    tables = {}
    for split, rows in columns.items():
        texts = pa.chunked_array([block.texts for block in rows], pa.string())
        ids = pa.chunked_array([block.labels for block in rows], pa.int64())
        table, name = pa.table({"text": texts, "label": ids}), datasets.NamedSplit(split)
        tables[split] = datasets.Dataset(table, _info(labels), name, fingerprint=fingerprints[split])
    return datasets.DatasetDict(tables)


def _divide(blocks: list[Rows], holdout: Holdout) -> tuple[list[Rows], list[Rows]]:
    """Divide the rows of train into those that stay and those that are held out; empties the list given."""
    stay: list[Rows] = []
    go: list[Rows] = []
    seen = np.zeros(len(holdout.counts), dtype=np.int64)
    blocks.reverse()
    while blocks:  # a block is let go as soon as it is copied: the texts are never held twice
        block = blocks.pop()
        held_out = holdout.select(block.labels.to_numpy(), seen)
        for rows, mask in ((stay, ~held_out), (go, held_out)):
            rows.append(block.filter(mask))
    return stay, go


def _streams(
    labels: LabelMap, read: dict[str, ReadSplit], holdout: Holdout | None, report: DataReport
) -> datasets.IterableDatasetDict:
    _fingerprints(labels, read, holdout, report)
    streams = {}
    for split, (source, held_out) in _parts(read, holdout).items():
        of_train = holdout if source is read.get("train") else None
        before = np.cumsum([np.zeros_like(source.counts[0]), *source.counts[:-1]], axis=0).tolist()
        # The library takes a list among the arguments for shards: files are what workers share among them.
        arguments = {
            "shards": list(zip(source.sources, before, strict=True)),
            "labels": labels,
            "holdout": of_train,
            "held_out": held_out,
        }
        rows = ArrowExamplesIterable(_stream, arguments)
        streams[split] = datasets.IterableDataset(rows, _info(labels), datasets.NamedSplit(split))
    return datasets.IterableDatasetDict(streams)


def _stream(
    shards: list[tuple[RowSource, list[int]]], labels: LabelMap, holdout: Holdout | None, held_out: bool
) -> Iterator[tuple[int, pa.Table]]:
    """Read files again, as often as there are epochs; their bad rows are accounted for already."""
    key = 0
    for source, before in shards:
        seen = np.array(before, dtype=np.int64)
        for rows in source.rows(labels, lambda row: None):
            if holdout is not None:
                rows = rows.filter(holdout.select(rows.labels.to_numpy(), seen) == held_out)
            if len(rows.texts):
                yield key, pa.table({"text": rows.texts, "label": rows.labels})
                key += 1


def _parts(read: dict[str, ReadSplit], holdout: Holdout | None) -> dict[str, tuple[ReadSplit, bool]]:
    """Return for each split to deliver where its rows come from, and whether it takes the held-out ones of these."""
    parts = {split: (rows, False) for split, rows in read.items()}
    if holdout is None:
        return parts
    return {"train": parts.pop("train"), "validation": (read["train"], True), **parts}


def _fingerprints(
    labels: LabelMap, read: dict[str, ReadSplit], holdout: Holdout | None, report: DataReport
) -> dict[str, str]:
    """Return a fingerprint for each split to deliver, and set the report's. The same for tables and streams."""
    names = (labels.names, labels.written or False)  # False, as checkpoints of older versions have it
    fingerprints = {
        split: xxhash.xxh3_64_hexdigest(
            repr((source.digest, names, held_out, source is read.get("train") and holdout)).encode()
        )
        for split, (source, held_out) in _parts(read, holdout).items()
    }
    report.fingerprint = xxhash.xxh3_64_hexdigest(repr(sorted(fingerprints.items())).encode())
    return fingerprints
