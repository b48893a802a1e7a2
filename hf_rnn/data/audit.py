"""Audit of labelled texts: duplicates, near repeats, leaks between splits, conflicting labels, unknown tokens.

Two texts are duplicates if their normalised forms are equal. Every finding names its rows; no row
is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pandas as pd

from ..utils.errors import UserError
from .encoding import count_tokens
from .near_repeats import find_near_repeats
from .splits import SPLITS, hash_texts, join_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MOST_COMPARED = 1_000_000  # rows whose near repeats are sought
_BATCH = 10_000  # rows whose labels are read at a time
_EXCERPT = 80  # characters
_MOST_TOKENIZED = 20_000  # texts of a split whose unknown tokens are counted
_MOST_DESCRIBED = 10_000  # rows of each kind, for JSON
_SHOWN = 3  # rows of each kind, for people


@dataclass(frozen=True)
class AuditReport:
    """The findings of [`~hf_rnn.data.audit.audit`], ready for JSON.

    A place is a row: its `split`, its `row` from 0, and its `line` in the split's file, from 1, if
    that is known.
    """

    # counts of each: rows, labels, words per text, unknown tokens; and its file
    splits: dict[str, dict[str, Any]]
    # rows of a split that repeat earlier rows of it, then those that repeat a row of each split
    # before it: counts, and repeats with place, label, text and those of a twin, if possible one
    # with another label
    overlaps: list[dict[str, Any]]
    # texts of train with several labels, their rows, and found: their places by label
    conflicts: dict[str, Any]
    # rows of a split that nearly repeat earlier rows of it or rows of a split before it, without
    # exact repeats: counts by source and split; None if they were not sought
    near_repeats: list[dict[str, Any]] | None = None

    @property
    def leaks(self) -> list[dict[str, Any]]:
        """The overlaps of the other splits with train, that with the largest share first."""
        leaks = [
            overlap for overlap in self.overlaps if overlap["source"] == "train" != overlap["split"]
        ]
        return sorted(leaks, key=lambda leak: -leak["share"])

    def check_leaks(self, limit: float | None) -> None:
        """Refuse splits with a larger share of rows than `limit` that repeat rows of train; None allows all."""
        if limit is not None and self.summary()["leak_share"] > limit:
            worst = self.leaks[0]
            place, twin = (self.name_place(worst["repeats"][0][name]) for name in ("place", "twin"))
            leak = f"{_describe_leak(worst)}, more than fail_on_leak {limit:g} allows: first {place} repeats {twin}"
            raise UserError(
                f"{leak}; remove them from train; hf-rnn audit with the same flags lists all"
            )

    def summary(self) -> dict[str, Any]:
        """Return the counts without the rows; `leak_share` is the largest share of a split that repeats train."""
        leaks: dict[str, dict[str, Any]] = {}
        for overlap in self.overlaps:
            counts = {name: overlap[name] for name in ("exact", "exact_other_label", "share")}
            leaks.setdefault(overlap["split"], {})[overlap["source"]] = counts
        duplicates = {split: leaks[split].pop(split) for split in leaks}
        return {
            "rows": {name: facts["rows"] for name, facts in self.splits.items()},
            "duplicates": duplicates,
            "leaks": {split: counts for split, counts in leaks.items() if counts},
            "leak_share": max((leak["share"] for leak in self.leaks), default=0.0),
            "conflicts": {name: self.conflicts[name] for name in ("texts", "rows")},
            "unknown_token_share": {
                name: facts["unknown_token_share"] for name, facts in self.splits.items()
            },
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the summary and all findings, for JSON."""
        return {"summary": self.summary(), **vars(self)}

    def name_place(self, place: Mapping[str, Any]) -> str:
        """Return file and line of a row if they are known, otherwise split and row."""
        if place["line"] is None:
            return f"{place['split']} row {place['row']}"
        return f"{self.splits[place['split']]['file']}:{place['line']}"


def _describe_leak(leak: Mapping[str, Any]) -> str:
    labels = (
        f", {leak['exact_other_label']:,} with another label" if leak["exact_other_label"] else ""
    )
    counts = f"{leak['exact']:,} of {leak['rows']:,} rows of {leak['split']} repeat a row of {leak['source']}"
    return f"{counts} ({leak['share']:.2%}{labels})"


def render_line(report: AuditReport) -> str:
    """Return on one line the leaks from train, and the texts of train with several labels."""
    parts = list(map(_describe_leak, report.leaks))
    if texts := report.conflicts["texts"]:
        parts.append(
            f"{texts:,} texts have several labels in train ({report.conflicts['rows']:,} rows)"
        )
    return "; ".join(parts) or "no other split to leak into, no text with several labels"


def render_text(report: AuditReport) -> Iterator[str]:
    """Yield the report as lines for a terminal: all counts and the first few rows of each kind."""
    for name, facts in report.splits.items():
        labels = ", ".join(
            f"{count:,} {_quote(label)}" for label, count in facts["label_counts"].items()
        )
        unknown = facts["unknown_token_share"]
        tokens = "" if unknown is None else f", {unknown:.1%} unknown tokens"
        yield f"{name}: {facts['rows']:,} rows ({labels}), {facts['words']:.1f} words per text{tokens}"
    for overlap in report.overlaps:
        yield f"\n{_describe_leak(overlap)}"
        for repeat in overlap["repeats"][:_SHOWN]:
            yield f"  {report.name_place(repeat['place'])} ({_quote(repeat['label'])}): {repeat['text']!r}"
            yield f"    {report.name_place(repeat['twin'])} ({_quote(repeat['twin_label'])}): {repeat['twin_text']!r}"
    counts = report.conflicts
    yield f"\none text, several labels in train: {counts['texts']:,} texts in {counts['rows']:,} rows"
    for conflict in counts["found"][:_SHOWN]:
        yield f"  {conflict['text']!r}"
        for label, places in conflict["places"].items():
            more = " ..." if len(places) > _SHOWN else ""
            yield f"    {_quote(label)} in {', '.join(map(report.name_place, places[:_SHOWN]))}{more}"
    for near in report.near_repeats or ():
        rows = f"{near['rows']:,} rows of {near['split']} nearly repeat a row of {near['source']}"
        yield f"\n{rows} ({near['other_label']:,} with another label)"
    if report.leaks:
        yield f"\nrows that leak from train: at most {report.leaks[0]['share']:.2%} of a split"


def _quote(label: str) -> str:
    """Return a label, quoted if it does not print on one line."""
    return label if label.isprintable() else repr(label)


def find_near_pairs(dataset: datasets.DatasetDict) -> pd.DataFrame:
    """Return the pairs of rows that nearly repeat each other, without exact repeats.

    From more than 1,000,000 rows a random part is compared, which is logged.

    Returns:
        A row per pair: `split` and `row` of the later one, those of the other one, `similarity`,
        and labels and texts of both. Pairs with different labels come first, then the most similar.
    """
    names = sorted(dataset, key=SPLITS.index)
    texts: list[str] = []
    labels: list[str] = []
    for name in names:
        texts += join_texts(dataset[name])
        feature = dataset[name].features["label"]
        labels += [feature.names[label] for label in dataset[name]["label"][:]]
    sizes = [len(dataset[name]) for name in names]
    splits = np.repeat(names, sizes)
    rows = np.concatenate([np.arange(size) for size in sizes])

    chosen = np.arange(len(texts))
    if len(texts) > _MOST_COMPARED:
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:_MOST_COMPARED])
        message = "near repeats are sought in %d of %d rows, chosen at random"
        logger.warning(message, len(chosen), len(texts))
    pairs = find_near_repeats([texts[place] for place in chosen])
    hashes = hash_texts(texts)
    other = chosen[pairs.first]
    later = chosen[pairs.second]
    is_near = hashes[other] != hashes[later]
    columns: dict[str, Any] = {}
    for prefix, places in (("", later[is_near]), ("other_", other[is_near])):
        columns[f"{prefix}split"] = splits[places]
        columns[f"{prefix}row"] = rows[places]
        columns[f"{prefix}label"] = [labels[place] for place in places]
        columns[f"{prefix}text"] = [texts[place] for place in places]
    frame = pd.DataFrame(columns).assign(similarity=pairs.similarity[is_near].round(3))
    is_same = frame["label"] == frame["other_label"]
    order = np.lexsort((-frame["similarity"], is_same))
    names = ["split", "row", "other_split", "other_row", "similarity", "label", "other_label"]
    return frame.iloc[order][[*names, "text", "other_text"]].reset_index(drop=True)


def count_near_pairs(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return how many rows of a split nearly repeat rows of another or of itself, for [`AuditReport`]."""
    counts = []
    for (split, source), group in pairs.groupby(["split", "other_split"], sort=False):
        different = group[group["label"] != group["other_label"]]
        counts.append(
            {
                "source": source,
                "split": split,
                "pairs": len(group),
                "rows": group["row"].nunique(),
                "other_label": different["row"].nunique(),
            }
        )
    return counts


def audit(
    dataset: datasets.DatasetDict,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    origins: Mapping[str, tuple[str, np.ndarray]] | None = None,
) -> AuditReport:
    """Find rows of a data set that spoil training or its scores. No row is changed.

    Args:
        dataset: Splits with the columns `text` (string) and `label` (ClassLabel), as [`load_tsv`]
            returns them.
        tokenizer: The tokenizer of the training, to count unknown tokens, in the first 20,000 texts
            of a split.
        origins: The file of a split and the line of each of its rows, as `DataReport.lines` has
            them.

    Raises:
        UserError: If a split is empty.
    """
    names = sorted(dataset, key=lambda name: SPLITS.index(name) if name in SPLITS else len(SPLITS))
    splits = [
        _Split(name, dataset[name], *(origins or {}).get(name, (None, None))) for name in names
    ]
    return AuditReport(
        {split.name: split.describe(tokenizer) for split in splits},
        [
            _find_overlap(splits[there], split)
            for here, split in enumerate(splits)
            for there in (here, *range(here))
        ],
        _find_conflicts(splits[0]) if names[0] == "train" else {"texts": 0, "rows": 0, "found": []},
    )


class _Split:
    """Hashes and labels of the rows of a split, and by text its hash, rows, lowest and highest label."""

    def __init__(
        self, name: str, rows: datasets.Dataset, file: str | None, lines: np.ndarray | None
    ) -> None:
        if not len(rows):
            raise UserError(f"{name} has no rows: leave it out")
        self.name = name
        self.file = file
        self.lines = lines
        self.rows = rows.with_format(None).select_columns(["text", "label"])
        self.class_names = list(rows.features["label"].names)
        self.hashes = hash_texts(join_texts(self.rows))
        labels = [batch["label"] for batch in rows.with_format("numpy").iter(_BATCH)]
        self.labels = np.concatenate(labels).astype(np.int32)
        # rows by text, those of one text ascending; places in 32 bits, as there are many
        self.order = np.argsort(self.hashes, kind="stable").astype(np.int32)
        ordered = self.hashes[self.order]
        is_first = np.ones(len(ordered), dtype=bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        self.starts = np.flatnonzero(is_first).astype(np.int32)
        self.texts = ordered[self.starts]
        self.sizes = np.diff(self.starts, append=np.int32(len(ordered)))
        ordered_labels = self.labels[self.order]
        self.lowest = np.minimum.reduceat(ordered_labels, self.starts)
        self.highest = np.maximum.reduceat(ordered_labels, self.starts)

    def show(self, row: int) -> dict[str, Any]:
        """Return place, label and start of a row."""
        text = self.rows[row]["text"]
        return {
            "place": {
                "split": self.name,
                "row": row,
                "line": None if self.lines is None else int(self.lines[row]),
            },
            "label": self.class_names[self.labels[row]],
            "text": text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "...",
        }

    def describe(self, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
        """Return counts of rows, labels, words and unknown tokens."""
        counts, unknown = np.bincount(self.labels, minlength=len(self.class_names)).tolist(), None
        if tokenizer is not None and tokenizer.unk_token_id is not None:
            tokens = count_tokens(tokenizer, islice(join_texts(self.rows), _MOST_TOKENIZED))
            unknown = tokens[tokenizer.unk_token_id] / max(1, tokens.total())
        return {
            "rows": len(self.labels),
            "label_counts": dict(zip(self.class_names, counts, strict=True)),
            "words": sum(len(text.split()) for text in join_texts(self.rows)) / len(self.labels),
            "unknown_token_share": unknown,
            "file": self.file,
        }


def _find_overlap(source: _Split, split: _Split) -> dict[str, Any]:
    """Return the rows of a split that repeat rows of the source, or earlier ones if both are one split."""
    groups = np.minimum(np.searchsorted(source.texts, split.hashes), len(source.texts) - 1)
    repeated = source.texts[groups] == split.hashes
    if source is split:
        repeated &= source.order[source.starts[groups]] < np.arange(len(groups))
    other = repeated & (
        (source.lowest[groups] != split.labels) | (source.highest[groups] != split.labels)
    )
    repeats = []
    for row in np.flatnonzero(repeated)[:_MOST_DESCRIBED].tolist():
        start = source.starts[groups[row]]
        twins = source.order[start : start + source.sizes[groups[row]]]
        if other[row]:
            twins = twins[source.labels[twins] != split.labels[row]]
        twin = source.show(int(twins[0]))
        twin = {"twin": twin["place"], "twin_label": twin["label"], "twin_text": twin["text"]}
        repeats.append(split.show(row) | twin)
    rows, exact = len(split.labels), int(repeated.sum())
    counts = {
        "rows": rows,
        "exact": exact,
        "exact_other_label": int(other.sum()),
        "share": exact / rows,
    }
    return {"source": source.name, "split": split.name, **counts, "repeats": repeats}


def _find_conflicts(split: _Split) -> dict[str, Any]:
    """Return the texts of a split with several labels, in the order of their appearance."""
    groups = np.flatnonzero(split.lowest != split.highest)
    groups = groups[np.argsort(split.order[split.starts[groups]])]
    texts = []
    for start, size in zip(
        split.starts[groups[:_MOST_DESCRIBED]], split.sizes[groups], strict=False
    ):
        rows = list(map(split.show, split.order[start : start + size].tolist()))
        places: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            places.setdefault(row["label"], []).append(row["place"])
        texts.append({"text": rows[0]["text"], "places": places})
    return {"texts": len(groups), "rows": int(split.sizes[groups].sum()), "found": texts}
