"""Audit of labelled texts: repeats, leaks between splits, conflicting labels, unknown tokens.

Two texts are duplicates if their normalised forms are equal. Every finding names its rows; no row
is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..data.encode import count_tokens
from ..data.near_repeats import find_near_repeats
from ..data.splits import SPLITS, hash_texts, join_texts
from ..utils.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MOST_COMPARED = 1_000_000  # rows that are all compared, to find near repeats
_COMPARED = 300_000  # rows of a larger table that are compared
_EXCERPT = 80  # characters
_MOST_TOKENIZED = 20_000  # texts of a split whose unknown tokens are counted
_MOST_DESCRIBED = 10_000  # rows of each kind, for JSON
_SHOWN = 3  # rows of each kind, for people


@dataclass(frozen=True)
class AuditReport:
    """The findings of [`~hf_rnn.quality.audit.audit`], ready for JSON.

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
        leaks = [leak for leak in self.overlaps if leak["source"] == "train" != leak["split"]]
        return sorted(leaks, key=lambda leak: -leak["share"])

    def check_leaks(self, limit: float | None) -> None:
        """Refuse splits where a larger share than `limit` repeats train; None for any."""
        if limit is None or self.summary()["leak_share"] <= limit:
            return
        worst = self.leaks[0]
        place = self.name_place(worst["repeats"][0]["place"])
        twin = self.name_place(worst["repeats"][0]["twin"])
        found = f"{_describe_leak(worst)}, more than fail_on_leak {limit:g} allows"
        advice = "remove them from train; hf-rnn audit with the same flags lists all"
        raise DataError(f"{found}: first {place} repeats {twin}; {advice}")

    def summary(self) -> dict[str, Any]:
        """Return the counts; `leak_share` is the largest share of a split that repeats train."""
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
    shares = f"{leak['share']:.2%}"
    if leak["exact_other_label"]:
        shares += f", {leak['exact_other_label']:,} with another label"
    rows = f"{leak['exact']:,} of {leak['rows']:,} rows of {leak['split']}"
    return f"{rows} repeat a row of {leak['source']} ({shares})"


def render_line(report: AuditReport) -> str:
    """Return on one line the leaks from train, and the texts of train with several labels."""
    findings = list(map(_describe_leak, report.leaks))
    texts = report.conflicts["texts"]
    if texts:
        rows = report.conflicts["rows"]
        findings.append(f"{texts:,} texts have several labels in train ({rows:,} rows)")
    return "; ".join(findings) or "no other split to leak into, no text with several labels"


def render_text(report: AuditReport) -> Iterator[str]:
    """Yield the report as lines for a terminal: all counts and the first few rows of each kind."""
    for name, facts in report.splits.items():
        counts = facts["label_counts"].items()
        labels = ", ".join(f"{count:,} {_quote(label)}" for label, count in counts)
        line = f"{name}: {facts['rows']:,} rows ({labels}), {facts['words']:.1f} words per text"
        if facts["unknown_token_share"] is not None:
            line += f", {facts['unknown_token_share']:.1%} unknown tokens"
        yield line
    for overlap in report.overlaps:
        yield f"\n{_describe_leak(overlap)}"
        for repeat in overlap["repeats"][:_SHOWN]:
            for indent, prefix in (("  ", ""), ("    ", "twin_")):
                place = report.name_place(repeat["twin" if prefix else "place"])
                label = _quote(repeat[f"{prefix}label"])
                yield f"{indent}{place} ({label}): {repeat[f'{prefix}text']!r}"
    yield from _render_conflicts(report)
    for near in report.near_repeats or ():
        rows = f"{near['rows']:,} rows of {near['split']} nearly repeat a row of {near['source']}"
        yield f"\n{rows} ({near['other_label']:,} with another label)"
    if report.leaks:
        yield f"\nrows that leak from train: at most {report.leaks[0]['share']:.2%} of a split"


def _render_conflicts(report: AuditReport) -> Iterator[str]:
    counts = f"{report.conflicts['texts']:,} texts in {report.conflicts['rows']:,} rows"
    yield f"\none text, several labels in train: {counts}"
    for conflict in report.conflicts["found"][:_SHOWN]:
        yield f"  {conflict['text']!r}"
        for label, places in conflict["places"].items():
            shown = ", ".join(map(report.name_place, places[:_SHOWN]))
            if len(places) > _SHOWN:
                shown += " ..."
            yield f"    {_quote(label)} in {shown}"


def _quote(label: str) -> str:
    """Return a label, quoted if it does not print on one line."""
    return label if label.isprintable() else repr(label)


def find_near_pairs(dataset: datasets.DatasetDict) -> pd.DataFrame:
    """Return the pairs of rows that nearly repeat each other, without exact repeats.

    If there are more than 1,000,000, only 300,000 random rows are compared, which is logged.

    Returns:
        A row per pair: `split` and `row` of the later one, those of the other one, `similarity`,
        and labels and texts of both. Pairs with different labels come first, then the most similar.
    """
    rows = _sample_rows(dataset)
    repeats = find_near_repeats(rows["text"].tolist())
    columns = {"later": repeats.second, "other": repeats.first, "similarity": repeats.similarity}
    pairs = pd.DataFrame(columns)
    hashes = hash_texts(rows["text"])
    pairs = pairs[hashes[pairs["later"]] != hashes[pairs["other"]]]
    labels = rows["label"].to_numpy()
    pairs = pairs.assign(is_same=labels[pairs["later"]] == labels[pairs["other"]])
    pairs = pairs.sort_values(["is_same", "similarity"], ascending=[True, False])

    frame = rows.iloc[pairs["later"]].reset_index(drop=True)
    others = rows.iloc[pairs["other"]].reset_index(drop=True).add_prefix("other_")
    frame = frame.join(others).assign(similarity=pairs["similarity"].round(3).to_numpy())
    names = ["split", "row", "other_split", "other_row", "similarity", "label", "other_label"]
    return frame[[*names, "text", "other_text"]]


def _sample_rows(dataset: datasets.DatasetDict) -> pd.DataFrame:
    """Return `split`, `row`, `label` and `text` of all rows, or of as many as can be compared."""
    names = sorted(dataset, key=SPLITS.index)
    every_row = datasets.concatenate_datasets([dataset[name] for name in names]).with_format(None)
    sizes = [len(dataset[name]) for name in names]
    chosen = np.arange(len(every_row))
    if len(chosen) > _MOST_COMPARED:
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:_COMPARED])
        message = "near repeats are sought in %d of %d rows, chosen at random"
        logger.warning(message, len(chosen), len(every_row))
    rows = every_row.select(chosen)
    columns = {
        "split": np.array(names)[np.repeat(np.arange(len(names)), sizes)[chosen]],
        "row": np.concatenate(list(map(np.arange, sizes)))[chosen],
        "label": np.array(rows.features["label"].names)[rows["label"][:]],
        "text": list(join_texts(rows)),
    }
    return pd.DataFrame(columns)


def count_near_pairs(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return how many rows of a split nearly repeat rows of another or of itself."""
    counts = []
    for (split, source), group in pairs.groupby(["split", "other_split"], sort=False):
        different = group[group["label"] != group["other_label"]]
        numbers = {"pairs": len(group), "rows": group["row"].nunique()}
        numbers["other_label"] = different["row"].nunique()
        counts.append({"source": source, "split": split, **numbers})
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
    splits = []
    for name in sorted(dataset, key=SPLITS.index):
        file, lines = (origins or {}).get(name, (None, None))
        splits.append(_Split(name, dataset[name], file, lines))
    twins = _find_twins(splits)
    overlaps = []
    for here, split in enumerate(splits):
        for source in (split, *splits[:here]):
            overlaps.append(_find_overlap(source, split, twins))
    conflicts = {"texts": 0, "rows": 0, "found": []}
    if splits[0].name == "train":
        conflicts = _find_conflicts(splits[0], twins)
    facts = {split.name: split.describe(tokenizer) for split in splits}
    return AuditReport(facts, overlaps, conflicts)


class _Split:
    """Hashes and labels of the rows of a split."""

    def __init__(
        self, name: str, rows: datasets.Dataset, file: str | None, lines: np.ndarray | None
    ) -> None:
        if not len(rows):
            raise DataError(f"{name} has no rows: leave it out")
        self.name = name
        self.file = file
        self.lines = lines
        self.rows = rows.with_format(None).select_columns(["text", "label"])
        self.class_names = list(rows.features["label"].names)
        self.hashes = hash_texts(join_texts(self.rows))
        self.labels = rows.with_format("numpy")["label"][:].astype(np.int32)

    def show(self, row: int) -> dict[str, Any]:
        """Return place, label and start of a row."""
        text = self.rows[row]["text"]
        if len(text) > _EXCERPT:
            text = f"{text[: _EXCERPT - 3]}..."
        line = None if self.lines is None else int(self.lines[row])
        place = {"split": self.name, "row": row, "line": line}
        return {"place": place, "label": self.class_names[self.labels[row]], "text": text}

    def describe(self, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
        """Return counts of rows, labels, words and unknown tokens."""
        counts = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        unknown = None
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


def _find_twins(splits: Sequence[_Split]) -> pd.DataFrame:
    """Return `split`, `row`, `label` and `text`, a hash, of the rows whose text is there again."""
    hashes = np.concatenate([split.hashes for split in splits])
    hashes.sort()
    repeated = pa.array(hashes[1:][hashes[1:] == hashes[:-1]])
    frames = []
    for split in splits:
        is_repeated = pc.is_in(pa.array(split.hashes), repeated)
        rows = np.flatnonzero(is_repeated.to_numpy(zero_copy_only=False))
        columns = {"row": rows, "label": split.labels[rows], "text": split.hashes[rows]}
        frames.append(pd.DataFrame(columns).assign(split=split.name))
    return pd.concat(frames, ignore_index=True)


def _find_first(twins: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return by text its first row in a split, the label of this, and the first row with another.

    The columns are `first`, `first_label` and `other`, which is -1 for a text with one label.
    """
    rows = twins[twins["split"] == split]
    first = rows.drop_duplicates("text").set_index("text")
    first = first[["row", "label"]].set_axis(["first", "first_label"], axis=1)
    differs = rows["label"] != rows["text"].map(first["first_label"])
    other = rows[differs].drop_duplicates("text").set_index("text")["row"]
    return first.assign(other=other.reindex(first.index, fill_value=-1))


def _find_overlap(source: _Split, split: _Split, twins: pd.DataFrame) -> dict[str, Any]:
    """Return the rows of a split that repeat rows of the source, or earlier ones of itself."""
    first = _find_first(twins, source.name)
    rows = twins[twins["split"] == split.name]
    pairs = rows.join(first, on="text", how="inner")
    if source is split:
        pairs = pairs[pairs["first"] < pairs["row"]]
    is_first = pairs["first_label"] != pairs["label"]
    has_other = is_first | (pairs["other"] >= 0)
    # the twin is the first row with another label, or else the first row
    place = pairs["first"].where(is_first | (pairs["other"] < 0), pairs["other"])
    repeats = []
    for row, twin in islice(zip(pairs["row"], place, strict=True), _MOST_DESCRIBED):
        shown = source.show(twin)
        names = {"twin": shown["place"], "twin_label": shown["label"], "twin_text": shown["text"]}
        repeats.append(split.show(row) | names)
    return {
        "source": source.name,
        "split": split.name,
        "rows": len(split.labels),
        "exact": len(pairs),
        "exact_other_label": int(has_other.sum()),
        "share": len(pairs) / len(split.labels),
        "repeats": repeats,
    }


def _find_conflicts(split: _Split, twins: pd.DataFrame) -> dict[str, Any]:
    """Return the texts of a split with several labels, in the order of their appearance."""
    first = _find_first(twins, split.name)
    texts = first.index[first["other"] >= 0]
    rows = twins[(twins["split"] == split.name) & twins["text"].isin(texts)]
    found: dict[int, dict[str, Any]] = {}
    shown = rows[rows["text"].isin(texts[:_MOST_DESCRIBED])]
    for text, row in zip(shown["text"], shown["row"], strict=True):
        facts = split.show(row)
        conflict = found.setdefault(text, {"text": facts["text"], "places": {}})
        conflict["places"].setdefault(facts["label"], []).append(facts["place"])
    return {"texts": len(texts), "rows": len(rows), "found": list(found.values())}
