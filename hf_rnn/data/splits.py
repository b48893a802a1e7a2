"""Rows of splits: a hash of each text, rows that are held out as validation, and the data sets that are delivered."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import xxhash

from ..hub.model_folder import FinishedFolder
from ..utils.errors import UserError, explain
from .read import Table
from .report import DataReport

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
FEWEST_ROWS = 20  # below this number nothing is held out: one or two rows measure nothing
MOST_HELD_OUT = 50_000  # expected rows; the standard error of an accuracy is then at most 0.2 %


# ---- hashes of texts ----


def normalize_text(text: str) -> str:
    """Return the form of a text whose equality makes duplicates.

    Case, width and composition of characters are ignored (compatibility caseless matching, The
    Unicode Standard, section 3.13, D146), and so is white space, except that it separates words.
    Punctuation, links, handles and digits count.
    """
    if text.isascii():
        folded = text.lower()  # a faster way to the same result
    else:
        folded = unicodedata.normalize("NFD", text).casefold()
        folded = unicodedata.normalize("NFKD", folded).casefold()
        folded = unicodedata.normalize("NFKD", folded)
    return " ".join(folded.split())


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
        for texts in zip(*(batch[name] for name in names), strict=True):
            yield " \0 ".join(text if isinstance(text, str) else " ".join(text) for text in texts)


def read_training_rows(folder: FinishedFolder) -> np.ndarray | None:
    """Return the sorted hashes, uint64, of the rows that trained a model and its starts; None without their file."""
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
    digest: str  # a hash of texts and labels
    table: Table | None = None  # their file, if there is only one


def deliver(
    splits: Mapping[str, SplitRows], share: float, seed: int, report: DataReport
) -> datasets.DatasetDict:
    """Return the splits; without a validation split, a share of train becomes it."""
    parts = {split: (rows, np.ones(len(rows.rows), dtype=bool)) for split, rows in splits.items()}
    if share and "validation" not in splits:
        train, whole = parts.pop("train")
        held_out = hold_out(join_texts(datasets.Dataset(train.rows)), train.strata, share, seed)
        if number := int(held_out.sum()):
            report.held_out = {"share": share, "seed": seed, "rows": number}
            message = "there is no validation split: %d of %d rows of train are held out, by their hash (seed %d)"
            logger.warning(message, number, len(held_out), seed)
            parts = {"train": (train, ~held_out), "validation": (train, held_out), **parts}
        else:
            parts = {"train": (train, whole), **parts}
    data = datasets.DatasetDict()
    for split, (rows, mask) in parts.items():
        table = rows.rows if mask.all() else rows.rows.filter(pa.array(mask))
        data[split] = datasets.Dataset(table, datasets.DatasetInfo(features=rows.features))
        feature = rows.features.get("label")
        classes = feature.num_classes if isinstance(feature, datasets.ClassLabel) else 1
        report.label_counts[split] = np.bincount(rows.strata[mask], minlength=classes).tolist()
        if rows.table is not None:
            report.tables[split] = rows.table, rows.places[mask]
        data[split]._split = datasets.NamedSplit(split)
        # the same in every process
        chosen = np.flatnonzero(mask)
        source = rows.digest, split, len(chosen), xxhash.xxh3_64_hexdigest(chosen.tobytes())
        data[split]._fingerprint = xxhash.xxh3_64_hexdigest(repr(source).encode())
    return data


def hold_out(texts: Iterable[str], classes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which rows of train become validation, `(rows,)`: those with a text whose hash is below the share.

    So equal texts stay together, and a row stays where it is when others come or go. Each class,
    numbered from 0, has at least half of the share held out, rounded up, and at most twice the
    share, but never all rows. Only at these limits can new rows move others. A text with more rows
    than the limit stays in train. If this leaves nothing for validation or for train, single rows
    are drawn, with a warning. Fewer than 20 rows are all kept. The share is halved until it is at
    most `MOST_HELD_OUT` rows. The seed changes which texts are held out.
    """
    if not 0 < share <= 0.5:
        raise UserError(
            f"invalid validation_share: found {share}; give more than 0 and at most 0.5"
        )
    if len(classes) < FEWEST_ROWS:
        message = "there is no validation split, and %d rows are too few to hold some out: nothing is measured"
        logger.warning(message, len(classes))
        return np.zeros(len(classes), dtype=bool)
    while share * len(classes) > MOST_HELD_OUT:
        share /= 2
    hashes = hash_texts(texts, seed)
    held_out = _draw(hashes, classes, share)
    if not held_out.any() or held_out.all():
        logger.warning(
            "all texts repeat: held-out rows have copies in train, so that their scores are too high"
        )
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
        held_out[
            members[: min(max(number, fewest), np.searchsorted(totals, most, side="right"))]
        ] = True
    return held_out[groups]
