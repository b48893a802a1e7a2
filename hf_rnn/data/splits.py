"""All splits under one label map and one count of rows, and a held-out validation split for data without one.

Small splits are Arrow tables in memory. If the files have more than `LARGE_BYTES` in all, they are read twice, first
for their labels. Their good rows become Arrow files on disk, which the data set maps into memory, and which are
removed when the process ends.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import xxhash

from ..utils.errors import UserError
from ..utils.process import make_folder
from .audit import hash_texts, join_texts
from .labels import LabelMap, RowLabels
from .row_errors import DataError, DataReport, Ledger, Reason, SplitReport, label_fault, listed
from .rows import RowOptions, RowSource, Taken

logger = logging.getLogger(__name__)

LARGE_BYTES = 1 << 28
_BATCH = 10_000
FEWEST_ROWS = 20  # below this number nothing is held out: one or two rows measure nothing
MOST_HELD_OUT = 50_000  # expected rows; the standard error of an accuracy is then at most 0.2 %


@dataclass
class SplitRows:
    """The good rows of one split: a data set, the place and stratum of each row, and a hash of texts and labels."""

    sources: Sequence[RowSource]
    rows: datasets.Dataset
    places: np.ndarray
    strata: np.ndarray
    digest: str


def read_splits(
    sources: Mapping[str, Sequence[RowSource]], options: RowOptions, ledger: Ledger
) -> dict[str, SplitRows]:
    """Read all splits under one label map: that of class names, or of the labels of the first split, sorted."""
    for split, parts in sources.items():
        ledger.report.splits[split] = SplitReport([part.path for part in parts])
    paths = [part.path for parts in sources.values() for part in parts]
    on_disk = sum(os.path.getsize(path) for path in paths if os.path.isfile(path)) > LARGE_BYTES
    first, scheme = next(iter(sources)), options.scheme
    counts: Counter[str] = Counter()
    taken: list[Taken] = []
    for part in sources[first]:
        for rows in part.take():
            counts += rows.count_labels()
            if not on_disk:
                taken.append(rows)
    if scheme is None:
        counts = Counter({label: count for label, count in counts.items() if not label_fault(label)})
    labels: RowLabels
    try:
        if not counts:
            labels = LabelMap((), {})  # no row is usable, which is an error later
        elif scheme is not None:
            labels = scheme(iter(counts), options, sources[first][0].labels)
        elif options.class_names is not None:
            labels = LabelMap.from_names(options.class_names, counts, options.label_map)
        else:
            labels = LabelMap.from_counts(counts)
    except UserError:  # report a rejected row instead, if there is one: it explains more
        _read(first, sources[first], LabelMap.from_labels(counts), ledger, on_disk, taken)
        ledger.check()
        raise
    ledger.report.class_names = list(labels.names)
    splits = {}
    for split, parts in sources.items():
        splits[split] = _read(split, parts, labels, ledger, on_disk, taken if split == first else [])
        counted = ledger.report.label_counts[split]
        absent = [name for name, rows in zip(labels.names, counted, strict=False) if not rows]
        if absent and scheme is None:
            logger.warning("%s has no row with label %s", split, listed(absent))
    return splits


def _read(
    split: str, parts: Sequence[RowSource], labels: RowLabels, ledger: Ledger, on_disk: bool, taken: list[Taken]
) -> SplitRows:
    """Check the rows of a split under the label map; `taken` are its rows before the check, if they were read."""
    report, places, strata = ledger.report.splits[split], [], []
    names = ("text", "text_pair")[: len(parts[0].texts)]
    features = datasets.Features({**{name: datasets.Value("string") for name in names}, "label": labels.feature})
    hashers, is_class = [hashlib.sha256() for _ in features], isinstance(labels, LabelMap)

    def check() -> Iterator[pa.Table]:
        for rows in taken or (rows for part in parts for rows in part.take()):
            good, numbers, rejected = rows.check(labels)
            for row in rejected:
                ledger.reject(split, row)
            report.rows_read += rows.batch.size
            report.rows_kept += len(numbers)
            report.trimmed += rows.trimmed
            places.append(numbers)
            strata.append(good["label"].to_numpy() if is_class else np.zeros(len(good), dtype=np.int64))
            for hasher, column in zip(hashers, good.columns, strict=True):
                hasher.update("".join(f"{value}\0" for value in column.to_pylist()).encode())
            yield pa.Table.from_batches([good]).cast(features.arrow_schema)

    info = datasets.DatasetInfo(features=features)
    if on_disk:
        rows = datasets.Dataset.from_file(_write(check(), features.arrow_schema), info, datasets.NamedSplit(split))
    else:
        table = pa.concat_tables([features.arrow_schema.empty_table(), *check()])
        rows = datasets.Dataset(table, info, datasets.NamedSplit(split))
    if not report.rows_kept:
        ledger.check()
        raise DataError.for_file(", ".join(report.files), Reason.EMPTY_FILE, "found no usable row")
    groups = np.concatenate(strata)
    ledger.report.label_counts[split] = np.bincount(groups, minlength=len(labels.names) if is_class else 1).tolist()
    digest = hashlib.sha256(repr((labels.names, [hasher.hexdigest() for hasher in hashers])).encode()).hexdigest()
    return SplitRows(parts, rows, np.concatenate(places), groups, digest)


def _write(tables: Iterable[pa.Table], schema: pa.Schema) -> str:
    """Write tables to one Arrow file below the library's cache, and return its path."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    folder = make_folder(cache, "hf-rnn-")
    path = os.path.join(folder, "rows.arrow")
    with pa.ipc.new_stream(path, schema) as writer:
        for table in tables:
            writer.write_table(table)
    return path


def deliver(read: Mapping[str, SplitRows], share: float, seed: int, report: DataReport) -> datasets.DatasetDict:
    """Return the splits; without a validation split, a share of train becomes it."""
    parts = {split: (part, np.arange(len(part.rows))) for split, part in read.items()}
    strata = len(report.label_counts["train"]) if "train" in read else 1
    if share and "validation" not in read:
        train = read["train"]
        held_out = hold_out(join_texts(train.rows), train.strata, share, seed)
        if rows := int(held_out.sum()):
            report.held_out = {"share": share, "seed": seed, "rows": rows}
            message = "there is no validation split: %d of %d rows of train are held out, by their hash (seed %d)"
            logger.warning(message, rows, len(held_out), seed)
            parts.pop("train")
            halves = {"train": ~held_out, "validation": held_out}
            parts = {split: (train, np.flatnonzero(mask)) for split, mask in halves.items()} | parts
    data = datasets.DatasetDict()
    for split, (part, chosen) in parts.items():
        rows = part.rows
        if len(chosen) < len(rows):
            report.label_counts[split] = np.bincount(part.strata[chosen], minlength=strata).tolist()
            rows = _take(rows, chosen)
        if len(part.sources) == 1:
            report.tables[split] = part.sources[0].table, part.places[chosen]
        rows._split = datasets.NamedSplit(split)
        # the same in every process
        made_from = part.digest, split, len(rows), xxhash.xxh3_64_hexdigest(chosen.tobytes())
        rows._fingerprint = xxhash.xxh3_64_hexdigest(repr(made_from).encode())
        data[split] = rows
    return data


def _take(rows: datasets.Dataset, chosen: np.ndarray) -> datasets.Dataset:
    """Return chosen rows in one piece: a selection by indices would make each later look at them slow."""
    if not rows.cache_files:
        return datasets.Dataset(rows.data.table.take(pa.array(chosen)), rows.info)
    tables = rows.select(chosen).with_format("arrow").iter(_BATCH)
    return datasets.Dataset.from_file(_write(tables, rows.features.arrow_schema), rows.info)


def hold_out(texts: Iterable[str], classes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which rows of train become validation, `(rows,)`: those with a text whose hash is below the share.

    So equal texts stay together, and a row stays where it is when others come or go. Each class has at least half of
    the share held out, rounded up, and at most twice the share, but never all rows. Only at these limits can new rows
    move others. A text with more rows than the limit stays in train. If all texts have, single rows are drawn,
    with a warning. Fewer than 20 rows are all kept. The share is halved until it is at most `MOST_HELD_OUT` rows.

    Args:
        texts: The text of each row.
        classes: The class of each row, from 0.
        share: Share of the rows.
        seed: Changes which texts are held out.

    Raises:
        UserError: For an invalid share.
    """
    if not 0 < share <= 0.5:
        raise UserError(f"invalid validation_share: found {share}; give more than 0 and at most 0.5")
    if len(classes) < FEWEST_ROWS:
        message = "there is no validation split, and %d rows are too few to hold some out: nothing is measured"
        logger.warning(message, len(classes))
        return np.zeros(len(classes), dtype=bool)
    while share * len(classes) > MOST_HELD_OUT:
        share /= 2
    hashes = hash_texts(texts, seed)
    held_out = _draw(hashes, classes, share)
    if not held_out.any():
        logger.warning("all texts repeat: held-out rows have copies in train, so that their scores are too high")
        earlier = Counter[int]()
        copies = []
        for text in hashes.tolist():
            copies.append(f"{text} {earlier[text]}")
            earlier[text] += 1
        held_out = _draw(hash_texts(copies), classes, share)
    return held_out


def _draw(texts: np.ndarray, classes: np.ndarray, share: float) -> np.ndarray:
    """Return which rows are held out by the hashes of their texts; see [`hold_out`]."""
    hashes, groups = np.unique(texts, return_inverse=True)
    held_out = np.zeros(len(hashes), dtype=bool)
    for label in np.unique(classes):
        members, sizes = np.unique(groups[classes == label], return_counts=True)  # sorted by hash
        rows = sizes.sum()
        most = max(1, min(2 * share * rows, rows - 1)) if rows > 1 else 0
        members, totals = members[sizes <= most], sizes[sizes <= most].cumsum()
        number = np.searchsorted(hashes[members], np.uint64(share * 2**64))
        fewest = np.searchsorted(totals, share * rows / 2) + 1
        held_out[members[: min(max(number, fewest), np.searchsorted(totals, most, side="right"))]] = True
    return held_out[groups]
