"""Rows of splits: hashes of texts, rows that are held out, and the finished data sets."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets.fingerprint import generate_random_fingerprint

from ..hub.model_folder import FinishedFolder
from ..utils.errors import SettingError, explain
from .near_repeats import find_near_repeats, normalize_text
from .report import DataReport
from .table import Table, select_rows

logger = logging.getLogger(__name__)

_MOST_COMPARED = 100_000  # rows whose near repeats are sought, which takes about 6 s
_LARGEST_GROUP = 20  # near repeats that stay together; more come of a template
SPLITS = ("train", "validation", "test")
FEWEST_ROWS = 20  # below this number nothing is held out: one or two rows measure nothing
MOST_HELD_OUT = 50_000  # expected rows; the standard error of an accuracy is then at most 0.2 %


# ---- hashes of texts ----


def hash_texts(texts: Iterable[str], seed: int = 0) -> np.ndarray:
    """Return a lasting hash of the normalised form of each text, uint64 `(N,)`.

    Those of ten million texts differ with p = 1 - 3e-6.
    """
    seed %= 1 << 64
    forms = (normalize_text(text).encode("utf-8", "surrogatepass") for text in texts)
    return np.fromiter((xxhash.xxh3_64_intdigest(form, seed) for form in forms), dtype=np.uint64)


def join_texts(rows: datasets.Dataset) -> Iterator[str]:
    """Yield the text of each row, both texts of a pair or the tokens of a sentence as one."""
    names = [name for name in ("text", "text_pair", "tokens") if name in rows.features]
    for batch in rows.select_columns(names).iter(1000):
        if "tokens" in batch:
            batch["tokens"] = map(" ".join, batch["tokens"])
        columns = list(batch.values())
        yield from columns[0] if len(columns) == 1 else map(" \0 ".join, zip(*columns, strict=True))


def read_training_rows(folder: FinishedFolder) -> np.ndarray | None:
    """Return the sorted hashes, uint64, of the rows that trained a model; None without a file."""
    if not folder.training_rows.is_file():
        return None
    name = folder.training_rows.name
    with explain(f"{folder.root} cannot be loaded, because of {name}"):
        return np.load(folder.training_rows, allow_pickle=False)


# ---- data sets ----


@dataclass(frozen=True)
class SplitRows:
    """The usable rows of a split, before some are held out."""

    rows: pa.Table
    features: datasets.Features
    places: np.ndarray  # in their file
    strata: np.ndarray  # the class of each row, or 0
    table: Table | None = None  # their file, if there is only one


def make_datasets(
    splits: Mapping[str, SplitRows], share: float, seed: int, report: DataReport
) -> datasets.DatasetDict:
    """Return the splits as data sets; without validation a share of train becomes it."""
    masks = {split: np.ones(len(rows.rows), dtype=bool) for split, rows in splits.items()}
    sources = dict(splits)
    if share and "validation" not in splits:
        train = splits["train"]
        texts = join_texts(datasets.Dataset(train.rows, fingerprint="train"))
        held_out = hold_out(texts, train.strata, share, seed)
        count = int(held_out.sum())
        if count:
            report.held_out = {"share": share, "seed": seed, "rows": count}
            counts = f"{count} of {len(held_out)} rows of train"
            message = "there is no validation split: %s are held out, by their hash (seed %d)"
            logger.warning(message, counts, seed)
            sources = {"train": train, "validation": train, **splits}
            masks |= {"train": ~held_out, "validation": held_out}
    data = datasets.DatasetDict()
    for split, rows in sources.items():
        mask = masks[split]
        store = select_rows(rows.rows, mask)
        table = store.close()
        if store.path is not None:  # so that what `map` makes of it is in files too
            table = datasets.table.MemoryMappedTable.from_file(store.path)
        data[split] = datasets.Dataset(
            table,
            datasets.DatasetInfo(features=rows.features),
            datasets.NamedSplit(split),
            # else the library hashes all rows
            fingerprint=generate_random_fingerprint(),
        )

        feature = rows.features.get("label")
        classes = feature.num_classes if isinstance(feature, datasets.ClassLabel) else 1
        report.label_counts[split] = np.bincount(rows.strata[mask], minlength=classes).tolist()
        report.places[split] = rows.places[mask]
        if rows.table is not None:
            report.tables[split] = rows.table, report.places[split]
    return data


def hold_out(texts: Iterable[str], classes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which rows of train become validation, `(rows,)`: those with a hash below the share.

    So equal texts stay together, and a row stays where it is when others come or go. Each class,
    numbered from 0, has at least half of the share held out, rounded up, and at most twice the
    share, but never all rows. Only at these limits can new rows move others. A text with more rows
    than the limit stays in train. If this leaves nothing for validation or for train, single rows
    are drawn, with a warning. Fewer than 20 rows are all kept. The share is halved until it is at
    most `MOST_HELD_OUT` rows. The seed changes which texts are held out. Rows that nearly repeat
    each other stay together too, up to 20; of a table with more than 100,000 rows only equal ones.
    """
    if not 0 < share <= 0.5:
        found = f"found {share}; give more than 0 and at most 0.5"
        raise SettingError(f"invalid validation_share: {found}")
    if len(classes) < FEWEST_ROWS:
        message = "there is no validation split, and %d rows are too few to hold some out: "
        logger.warning(message + "nothing is measured", len(classes))
        return np.zeros(len(classes), dtype=bool)
    while share * len(classes) > MOST_HELD_OUT:
        share /= 2
    if len(classes) <= _MOST_COMPARED:
        listed = list(texts)
        hashes = _join_near_repeats(hash_texts(listed, seed), listed)
    else:
        hashes = hash_texts(texts, seed)
        message = "%d rows are many: near repeats of a text may be in train and in validation"
        logger.info(message, len(classes))
    held_out = _choose_rows(hashes, classes, share)
    if not held_out.any() or held_out.all():
        message = (
            "all texts repeat: held-out rows have copies in train, so their scores are too high"
        )
        logger.warning(message)
        earlier = Counter[int]()
        copies = []
        for text in hashes.tolist():
            copies.append(f"{text} {earlier[text]}")
            earlier[text] += 1
        held_out = _choose_rows(hash_texts(copies), classes, share)
    return held_out


def _join_near_repeats(hashes: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return the hashes of texts, for the rows of a group of near repeats that of one member.

    The products decide which member, because the smallest hash would be held out more often.
    """
    groups = find_near_repeats(texts).groups
    order = np.argsort(hashes * np.uint64(0x9E3779B97F4A7C15), kind="stable")
    _, first = np.unique(groups[order], return_index=True)
    joined = hashes[order[first]][groups]
    is_small = np.bincount(groups)[groups] <= _LARGEST_GROUP
    return np.where(is_small, joined, hashes)


def _choose_rows(texts: np.ndarray, classes: np.ndarray, share: float) -> np.ndarray:
    """Return which rows are held out by the hashes of their texts; see [`hold_out`]."""
    chosen = [texts[:0]]
    for label in np.flatnonzero(np.bincount(classes)):
        hashes, sizes = np.unique(texts[classes == label], return_counts=True)
        rows = sizes.sum()
        most = 0
        if rows > 1:
            most = max(1, min(2 * share * rows, rows - 1))
        hashes = hashes[sizes <= most]
        totals = sizes[sizes <= most].cumsum()
        number = np.searchsorted(hashes, np.uint64(share * 2**64))
        fewest = np.searchsorted(totals, share * rows / 2) + 1
        number = min(max(number, fewest), np.searchsorted(totals, most, side="right"))
        chosen.append(hashes[:number])
    held_out = pc.is_in(pa.array(texts), pa.array(np.concatenate(chosen)))
    return held_out.to_numpy(zero_copy_only=False)
