"""The audit of a data set: its findings, for JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from ...utils.errors import UserError
from .duplicates import RepeatFinder, jaccard, normalize_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ORDER = ("train", "validation", "test")  # then any others
_EXCERPT = 80  # characters
_BATCH = 1000  # texts tokenized at a time
_SHOWN = 3  # rows of each kind in the text


@dataclass(frozen=True)
class Origin:
    """The file of the rows of a split, and the line of each row, from 1."""

    file: str
    lines: Sequence[int]


@dataclass(frozen=True)
class AuditReport:
    """The findings of [`~hf_rnn.data.audit.audit`], ready for JSON.

    A place is a row: its `split`, its `row` from 0, and its `line` in the split's file, from 1, if that is known.

    Attributes:
        splits: By split: `rows`, `label_counts`, mean `words` per text, `file` if it is known, and
            `unknown_token_share`, None without a tokenizer or an unknown token.
        overlaps: For every split first the rows that repeat earlier ones of its own, then those that leak from each
            split before it: `source`, `split`, counts and share of rows, and `repeats`. A repeat has its place, that
            of its twin, the labels and texts of both, its kind and the similarity of the word 3-grams. The twin has
            another label if there is such a one.
        conflicts: The texts of train with several labels: the start of the first, and the places by label.
    """

    splits: dict[str, dict[str, Any]]
    overlaps: list[dict[str, Any]]
    conflicts: list[dict[str, Any]]

    @property
    def leaks(self) -> list[dict[str, Any]]:
        """The overlaps of the other splits with train."""
        return [overlap for overlap in self.overlaps if overlap["source"] == "train" != overlap["split"]]

    @property
    def leak_share(self) -> float:
        """Largest share of the rows of a split that repeat a row of train, exactly or nearly, from 0 to 1."""
        return max((leak["share"] for leak in self.leaks), default=0.0)

    def check_leaks(self, limit: float | None) -> None:
        """Refuse splits with a larger share of rows than `limit` that repeat rows of train; None allows all.

        The [`UserError`] names the first row of such a split.
        """
        if limit is None or self.leak_share <= limit:
            return
        worst = max(self.leaks, key=lambda leak: leak["share"])
        first = worst["repeats"][0]
        place, twin = self.name_place(first["place"]), self.name_place(first["twin"])
        found = f"{_describe_leak(worst)}, more than fail_on_leak {limit:g} allows: first {place} repeats {twin}"
        raise UserError(f"{found}; remove them from train; hf-rnn audit with the same flags lists all")

    def summary(self) -> dict[str, Any]:
        """Return the counts without the rows."""
        leaks: dict[str, dict[str, Any]] = {split: {} for split in self.splits}
        for overlap in self.overlaps:
            names = ("exact", "exact_other_label", "near", "near_other_label", "share")
            leaks[overlap["split"]][overlap["source"]] = {name: overlap[name] for name in names}
        duplicates = {split: counts.pop(split) for split, counts in leaks.items()}
        rows = sum(len(places) for conflict in self.conflicts for places in conflict["places"].values())
        return {
            "rows": {name: facts["rows"] for name, facts in self.splits.items()},
            "duplicates": duplicates,
            "leaks": {split: counts for split, counts in leaks.items() if counts},
            "leak_share": self.leak_share,
            "conflicts": {"texts": len(self.conflicts), "rows": rows},
            "unknown_token_share": {name: facts["unknown_token_share"] for name, facts in self.splits.items()},
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
    other = leak["exact_other_label"] + leak["near_other_label"]
    labels = f", {other:,} with another label" if other else ""
    return (
        f"{len(leak['repeats']):,} of {leak['rows']:,} rows of {leak['split']} repeat a row of {leak['source']} "
        f"({leak['share']:.2%}{labels})"
    )


def render_line(report: AuditReport) -> str:
    """Return leaks from train and label conflicts in train on one line."""
    parts = list(map(_describe_leak, report.leaks))
    if report.conflicts:
        rows = report.summary()["conflicts"]["rows"]
        parts.append(f"{len(report.conflicts):,} texts have several labels in train ({rows:,} rows)")
    return "; ".join(parts) or "no other split to leak into, no text with several labels"


def render_text(report: AuditReport) -> str:
    """Return the report as lines for a terminal: all counts and the first few rows of each kind."""
    return "\n".join(_render(report))


def _render(report: AuditReport) -> Iterator[str]:
    place_of = report.name_place
    for name, facts in report.splits.items():
        labels = ", ".join(f"{count:,} {_quote(label)}" for label, count in facts["label_counts"].items())
        unknown = facts["unknown_token_share"]
        tokens = "" if unknown is None else f", {unknown:.1%} unknown tokens"
        yield f"{name}: {facts['rows']:,} rows ({labels}), {facts['words']:.1f} words per text{tokens}"
    for overlap in report.overlaps:
        total = len(overlap["repeats"])
        shown = f": {overlap['exact']:,} exactly, the first {_SHOWN} of all:" if total > _SHOWN else ""
        yield f"\n{_describe_leak(overlap)}{shown}"
        for repeat in overlap["repeats"][:_SHOWN]:
            how = "exact" if repeat["kind"] == "exact" else f"near, {repeat['similarity']:.2f}"
            yield f"  {place_of(repeat['place'])} ({_quote(repeat['label'])}): {repeat['text']!r}"
            yield f"    {how}: {place_of(repeat['twin'])} ({_quote(repeat['twin_label'])}): {repeat['twin_text']!r}"
    counts = report.summary()["conflicts"]
    yield f"\none text, several labels in train: {counts['texts']:,} texts in {counts['rows']:,} rows"
    for conflict in report.conflicts[:_SHOWN]:
        yield f"  {conflict['text']!r}"
        for label, places in conflict["places"].items():
            more = " ..." if len(places) > _SHOWN else ""
            yield f"    {_quote(label)} in {', '.join(map(place_of, places[:_SHOWN]))}{more}"
    if report.leaks:
        yield f"\nrows that leak from train: at most {report.leak_share:.2%} of a split"


def _quote(label: str) -> str:
    """Return a label, quoted if it does not print on one line."""
    return label if label.isprintable() else repr(label)


def audit(
    dataset: datasets.DatasetDict,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    origins: Mapping[str, Origin] | None = None,
) -> AuditReport:
    """Find rows of a data set that spoil training or its scores. No row is changed.

    Exact and near duplicates are defined in [`hf_rnn.data.audit.duplicates`].

    Args:
        dataset: Splits with the columns `text` (string) and `label` (ClassLabel), as [`load_tsv`] returns them.
        tokenizer: The tokenizer of the training, to count unknown tokens.
        origins: The file and the lines of the rows of a split, if they are known.

    Raises:
        UserError: If a split is empty.
    """
    names = sorted(dataset, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    splits = [_Split(name, dataset[name], (origins or {}).get(name)) for name in names]
    texts: dict[str, int] = {}
    numbers = [[texts.setdefault(normalize_text(text), len(texts)) for text in split.texts] for split in splits]
    return AuditReport(
        {split.name: split.count(tokenizer) for split in splits},
        list(_find_overlaps(list(texts), numbers, splits)),
        list(_find_conflicts(numbers[0], splits[0])) if names[0] == "train" else [],
    )


class _Split:
    """Texts and labels of a split."""

    def __init__(self, name: str, rows: datasets.Dataset, origin: Origin | None) -> None:
        if not len(rows):
            raise UserError(f"{name} has no rows: leave it out")
        columns = rows.with_format(None).select_columns(["text", "label"])[:]
        self.name, self.origin = name, origin
        self.texts: list[str] = columns["text"]
        self.labels: list[int] = columns["label"]
        self.class_names = list(rows.features["label"].names)

    def place(self, row: int) -> dict[str, Any]:
        return {"split": self.name, "row": row, "line": None if self.origin is None else self.origin.lines[row]}

    def excerpt(self, row: int) -> str:
        text = self.texts[row]
        return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."

    def count(self, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
        counts = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return {
            "rows": len(self.texts),
            "label_counts": dict(zip(self.class_names, counts, strict=True)),
            "words": float(np.mean([len(text.split()) for text in self.texts])),
            "unknown_token_share": None if tokenizer is None else _unknown_token_share(self.texts, tokenizer),
            "file": None if self.origin is None else self.origin.file,
        }


def _find_overlaps(
    texts: Sequence[str], numbers: Sequence[Sequence[int]], splits: Sequence[_Split]
) -> Iterator[dict[str, Any]]:
    finder = RepeatFinder(texts, numbers, [split.labels for split in splits])
    for here, split in enumerate(splits):
        for there in (here, *range(here)):
            source, repeats = splits[there], []
            counts = {"exact": 0, "exact_other_label": 0, "near": 0, "near_other_label": 0}
            for row, twin, exact in finder.find(there, here):
                kind, label, twin_label = "exact" if exact else "near", split.labels[row], source.labels[twin]
                counts[kind] += 1
                counts[f"{kind}_other_label"] += label != twin_label
                similarity = 1.0 if exact else jaccard(texts[numbers[here][row]], texts[numbers[there][twin]])
                repeats.append(
                    {
                        "place": split.place(row),
                        "twin": source.place(twin),
                        "kind": kind,
                        "similarity": similarity,
                        "label": split.class_names[label],
                        "twin_label": source.class_names[twin_label],
                        "text": split.excerpt(row),
                        "twin_text": source.excerpt(twin),
                    }
                )
            rows = len(split.texts)
            facts = {"source": source.name, "split": split.name, "rows": rows, "share": len(repeats) / rows}
            yield {**facts, **counts, "repeats": repeats}


def _find_conflicts(numbers: Sequence[int], split: _Split) -> Iterator[dict[str, Any]]:
    """Yield the texts of a split with several labels, in the order of their appearance."""
    rows: dict[int, dict[str, list[int]]] = {}
    for row, text in enumerate(numbers):
        rows.setdefault(text, {}).setdefault(split.class_names[split.labels[row]], []).append(row)
    for by_label in rows.values():
        if len(by_label) > 1:
            places = {label: list(map(split.place, same)) for label, same in by_label.items()}
            yield {"text": split.excerpt(min(map(min, by_label.values()))), "places": places}


def _unknown_token_share(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> float | None:
    """Return the share of the tokens of whole texts that are unknown; None if there is no unknown token."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return None
    found = total = 0
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        for ids in tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
            found += ids.count(unknown)
            total += len(ids)
    return found / total if total else 0.0
