"""All splits under one label map and one count of rows, delivered as tables or streams.

Tables are Arrow columns in memory; streams read their files again in each epoch. Neither writes a cache.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import xxhash
from datasets.iterable_dataset import ArrowExamplesIterable

from .labels import LabelMap, RowLabels, listed
from .row_errors import DataError, DataReport, Ledger, Reason, SplitReport, label_fault
from .rows import RowOptions, RowSource, Taken
from .stratified_split import hold_out

logger = logging.getLogger(__name__)


@dataclass
class ReadSplit:
    """The good rows of one split and their places, empty if only counts are requested, and a hash of all rows."""

    sources: Sequence[RowSource]
    batches: list[pa.RecordBatch] = field(default_factory=list)
    places: list[np.ndarray] = field(default_factory=list)
    digest: str = ""


def read_splits(
    sources: Mapping[str, Sequence[RowSource]],
    options: RowOptions,
    class_names: Sequence[str] | None,
    ledger: Ledger,
    keep: bool,
) -> tuple[RowLabels, dict[str, ReadSplit]]:
    """Read all splits under one label map: that of `class_names`, or of the labels of the first split, sorted.

    With `keep` the rows are kept, and each split is read once; else only their counts.
    """
    for split, parts in sources.items():
        ledger.report.splits[split] = SplitReport([part.path for part in parts])
    first, scheme = next(iter(sources)), options.scheme
    # without a map of their own the labels of the first split are all known, so its first bad row is found at once
    is_strict = ledger.limit == 0 and class_names is None and scheme is None
    surveyed: Counter[str] = Counter()
    taken: list[tuple[RowSource, Taken]] = []
    for part in sources[first]:
        for rows in part.take():
            counts = rows.count_labels()
            good = {label: count for label, count in counts.items() if scheme or not label_fault(label)}
            if is_strict and (rows.batch.bad or sum(good.values()) < len(rows.faulty)):
                part.check(rows, LabelMap(tuple(good)), partial(ledger.reject, first))
            surveyed.update(good)
            if keep:
                taken.append((part, rows))
    labels: RowLabels
    if not surveyed:
        labels = LabelMap(())  # no row is usable, which is an error below
    elif scheme is not None:
        labels = scheme(iter(surveyed), class_names, options.label_map, sources[first][0].labels)
    elif class_names is not None:
        labels = LabelMap.given(class_names, surveyed, options.label_map)
    else:
        labels = LabelMap.from_counts(surveyed)
    ledger.report.class_names = list(labels.names)
    splits = {}
    for split, parts in sources.items():
        splits[split] = _read(split, parts, labels, ledger, keep, taken if split == first else ())
        counted = ledger.report.label_counts[split]
        absent = [name for name, rows in zip(labels.names, counted, strict=False) if not rows]
        if absent and scheme is None:
            logger.warning("%s has no row with label %s", split, listed(absent))
    return labels, splits


def _read(
    split: str, parts: Sequence[RowSource], labels: RowLabels, ledger: Ledger, keep: bool, taken: Iterable[Any] = ()
) -> ReadSplit:
    """Check the rows of a split under the label map; `taken` are its unchecked rows, if they were read already."""
    read, hasher, report = ReadSplit(parts), xxhash.xxh3_128(), ledger.report.splits[split]
    counts = np.zeros(labels.strata, dtype=np.int64)
    for part, rows in taken or ((source, rows) for source in parts for rows in source.take()):
        good = part.check(rows, labels, partial(ledger.reject, split))
        report.rows_read += good.lines
        counts += np.bincount(labels.stratum(good.columns["label"]), minlength=labels.strata)
        hasher.update(good.columns.serialize())
        if keep:
            read.batches.append(good.columns)
            read.places.append(good.places)
    read.digest = hasher.hexdigest()
    ledger.report.label_counts[split], report.rows_kept = counts.tolist(), int(counts.sum())
    if not report.rows_kept:
        raise DataError.for_file(", ".join(report.files), Reason.EMPTY_FILE, "found no usable row")
    return read


def build_tables(
    labels: RowLabels, read: Mapping[str, ReadSplit], share: float, seed: int, report: DataReport
) -> datasets.DatasetDict:
    """Return the splits as tables; without a validation split, a share of train becomes it."""
    info = _describe(labels, read)
    tables = {
        split: pa.Table.from_batches(part.batches).cast(info.features.arrow_schema) for split, part in read.items()
    }
    sources = {split: part.sources for split, part in read.items()}
    places = {split: np.concatenate(part.places) for split, part in read.items()}
    held_out = None
    if share and "validation" not in read:
        held_out = _choose_held_out(tables["train"], labels, share, seed, report)
    if held_out is not None:
        (train, rows), sources["validation"] = (tables.pop("train"), places["train"]), sources["train"]
        halves = {"train": ~held_out, "validation": held_out}
        tables = {split: train.filter(pa.array(mask)) for split, mask in halves.items()} | tables
        places |= {split: rows[mask] for split, mask in halves.items()}
    fingerprints, data = _set_fingerprints(labels, read, held_out, report), datasets.DatasetDict()
    for split, table in tables.items():
        if len(sources[split]) == 1 and sources[split][0].table.encoding is not None:
            report.lines[split] = sources[split][0].path, places[split]
        data[split] = datasets.Dataset(table, info, datasets.NamedSplit(split), fingerprint=fingerprints[split])
    return data


def _choose_held_out(
    train: pa.Table, labels: RowLabels, share: float, seed: int, report: DataReport
) -> np.ndarray | None:
    """Return which rows of train become the validation split, and log it; None for too few rows."""
    classes = labels.stratum(train.column("label").combine_chunks())
    pairs = zip(*(column.to_pylist() for column in train.columns[:-1]), strict=True)
    held_out = hold_out([" ".join(filter(None, pair)) for pair in pairs], classes, share, seed)
    if not held_out.any():
        return None
    for split, mask in (("train", ~held_out), ("validation", held_out)):
        report.label_counts[split] = np.bincount(classes[mask], minlength=labels.strata).tolist()
    report.held_out = int(held_out.sum())
    how = ", stratified by label" if labels.strata > 1 else ""
    found = f"{report.held_out} of {len(classes)} rows of train are held out as one"
    logger.warning("there is no validation split: %s%s (seed %d)", found, how, seed)
    return held_out


def build_streams(labels: RowLabels, read: dict[str, ReadSplit], report: DataReport) -> datasets.IterableDatasetDict:
    """Return the splits as streams."""
    _set_fingerprints(labels, read, None, report)
    streams = {}
    for split, source in read.items():
        # The library treats a list among the arguments as shards, which workers share: here the files.
        rows = ArrowExamplesIterable(_stream, {"shards": list(source.sources), "labels": labels})
        streams[split] = datasets.IterableDataset(rows, _describe(labels, read), datasets.NamedSplit(split))
    return datasets.IterableDatasetDict(streams)


def _stream(shards: list[RowSource], labels: RowLabels) -> Iterator[tuple[int, pa.Table]]:
    """Read files again, once per epoch; their bad rows are counted already."""
    key = 0
    for source in shards:
        for rows in source.rows(labels, lambda row: None):
            if len(rows.columns):
                yield key, pa.Table.from_batches([rows.columns])
                key += 1


def _describe(labels: RowLabels, read: Mapping[str, ReadSplit]) -> datasets.DatasetInfo:
    texts = next(iter(read.values())).sources[0].texts
    columns = {name: datasets.Value("string") for name in ("text", "text_pair")[: len(texts)]}
    return datasets.DatasetInfo(features=datasets.Features(**columns, label=labels.feature))


def _set_fingerprints(
    labels: RowLabels, read: Mapping[str, ReadSplit], held_out: np.ndarray | None, report: DataReport
) -> dict[str, str]:
    """Return a fingerprint for each split to deliver, and set the report's; tables and streams have the same."""
    names = (labels.names, getattr(labels, "written", ()) or False)
    made_from: dict[str, Any] = {split: (source.digest, names, split) for split, source in read.items()}
    if held_out is not None:
        drawn = xxhash.xxh3_64_hexdigest(np.packbits(held_out).tobytes())
        made_from |= {split: (read["train"].digest, names, split, drawn) for split in ("train", "validation")}
    fingerprints = {split: xxhash.xxh3_64_hexdigest(repr(parts).encode()) for split, parts in made_from.items()}
    report.fingerprint = xxhash.xxh3_64_hexdigest(repr(sorted(fingerprints.items())).encode())
    return fingerprints
