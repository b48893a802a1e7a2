"""The audit of a data set: its findings, for JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import datasets
import numpy as np

from ...utils.errors import UserError
from .duplicates import RepeatFinder, jaccard, normalize_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ORDER = ("train", "validation", "test")  # then any others
_QUANTILES = {"minimum": 0, "quantile_05": 0.05, "median": 0.5, "quantile_95": 0.95, "maximum": 1}  # lengths in words
_EXCERPT = 80  # characters
_BATCH = 1000  # texts tokenized at a time
_SHOWN = 3  # rows of each kind in the text


@dataclass(frozen=True)
class Origin:
    """The file of the rows of a split, and the line of each row, from 1."""

    file: str
    lines: Sequence[int]


@dataclass(frozen=True)
class Place:
    """One row: its split, its number from 0, and its line in the split's file, from 1, if that is known."""

    split: str
    row: int
    line: int | None = None


@dataclass(frozen=True)
class SplitFacts:
    """Numbers of one split: rows by label, lengths of the texts in words, and the file of the rows if it is known.

    `unknown_token_share` is None without a tokenizer or an unknown token.
    """

    rows: int
    label_counts: dict[str, int]
    label_shares: dict[str, float]
    words: dict[str, float]
    unknown_token_share: float | None = None
    file: str | None = None


@dataclass(frozen=True)
class Repeat:
    """A row that repeats another one, its twin, which has another label if the source split has such a one.

    `kind` is `exact` if the normalised texts are equal; `similarity` is that of the word 3-grams, from 0.8 to 1.
    """

    place: Place
    twin: Place
    kind: Literal["exact", "near"]
    similarity: float
    label: str
    twin_label: str
    text: str
    twin_text: str


@dataclass(frozen=True)
class Overlap:
    """The rows of a split that repeat rows of the source split, in their order; earlier ones if both are one split."""

    source: str
    split: str
    rows: int
    repeats: tuple[Repeat, ...]

    @property
    def share(self) -> float:
        """Share of the rows of `split` that repeat, from 0 to 1."""
        return len(self.repeats) / self.rows if self.rows else 0.0

    def counts(self) -> dict[str, Any]:
        """Return the number of exact and near repeats, those with another label among them, and the share."""
        counts: dict[str, Any] = {"exact": 0, "exact_other_label": 0, "near": 0, "near_other_label": 0}
        for repeat in self.repeats:
            counts[repeat.kind] += 1
            counts[f"{repeat.kind}_other_label"] += repeat.label != repeat.twin_label
        return {**counts, "share": self.share}


@dataclass(frozen=True)
class Conflict:
    """One normalised text with several labels in train: the start of its first occurrence, and its rows by label."""

    text: str
    places: dict[str, tuple[Place, ...]]

    @property
    def rows(self) -> int:
        """Number of rows with this text."""
        return sum(map(len, self.places.values()))


@dataclass(frozen=True)
class AuditReport:
    """The findings of [`~hf_rnn.data.audit.audit`].

    For every split `overlaps` has first the rows that repeat earlier ones of its own, then those that leak from each
    split before it.
    """

    splits: dict[str, SplitFacts]
    overlaps: tuple[Overlap, ...]
    conflicts: tuple[Conflict, ...]

    @property
    def leaks(self) -> list[Overlap]:
        """The overlaps of the other splits with train."""
        return [overlap for overlap in self.overlaps if overlap.source == "train" != overlap.split]

    @property
    def leak_share(self) -> float:
        """Largest share of the rows of a split that repeat a row of train, exactly or nearly, from 0 to 1."""
        return max((leak.share for leak in self.leaks), default=0.0)

    def check_leaks(self, limit: float | None) -> None:
        """Refuse splits with a larger share of rows than `limit` that repeat rows of train; None allows all.

        The [`UserError`] names the first row of such a split.
        """
        if limit is None or self.leak_share <= limit:
            return
        worst = max(self.leaks, key=lambda leak: leak.share)
        first = worst.repeats[0]
        raise UserError(
            f"{len(worst.repeats):,} of {worst.rows:,} rows of {worst.split} ({worst.share:.2%}) repeat a row of "
            f"train, more than fail_on_leak {limit:g} allows: first {self.name_place(first.place)} repeats "
            f"{self.name_place(first.twin)}; remove them from train; hf-rnn audit with the same flags lists all"
        )

    def summary(self) -> dict[str, Any]:
        """Return the counts without the rows."""
        leaks: dict[str, dict[str, Any]] = {}
        for overlap in self.overlaps:
            if overlap.source != overlap.split:
                leaks.setdefault(overlap.split, {})[overlap.source] = overlap.counts()
        return {
            "rows": {name: facts.rows for name, facts in self.splits.items()},
            "duplicates": {each.split: each.counts() for each in self.overlaps if each.source == each.split},
            "leaks": leaks,
            "leak_share": self.leak_share,
            "conflicts": {"texts": len(self.conflicts), "rows": sum(conflict.rows for conflict in self.conflicts)},
            "unknown_token_share": {name: facts.unknown_token_share for name, facts in self.splits.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the summary and all findings, for JSON."""
        return {"summary": self.summary(), **asdict(self)}

    def name_place(self, place: Place) -> str:
        """Return file and line of a row if they are known, otherwise split and row."""
        if place.line is None:
            return f"{place.split} row {place.row}"
        return f"{self.splits[place.split].file}:{place.line}"


def render_line(report: AuditReport) -> str:
    """Return leaks from train and label conflicts in train on one line."""
    parts = []
    for leak in report.leaks:
        counts = leak.counts()
        other = counts["exact_other_label"] + counts["near_other_label"]
        parts.append(
            f"{len(leak.repeats):,} of {leak.rows:,} rows of {leak.split} repeat a row of train "
            f"({leak.share:.2%}{f', {other:,} with another label' if other else ''})"
        )
    if report.conflicts:
        rows = sum(conflict.rows for conflict in report.conflicts)
        parts.append(f"{len(report.conflicts):,} texts have several labels in train ({rows:,} rows)")
    return "; ".join(parts) or "no other split to leak into, no text with several labels"


def render_text(report: AuditReport) -> str:
    """Return the report as lines for a terminal: tables of all counts and the first few rows of each kind."""
    return "\n".join(_render(report)).removeprefix("\n")


def _render(report: AuditReport) -> Iterator[str]:
    splits, place_of = report.splits, report.name_place
    rows = [["rows", *(f"{facts.rows:,}" for facts in splits.values())]]
    for label in next(iter(splits.values())).label_counts:
        shares = (f"{facts.label_counts[label]:,} ({facts.label_shares[label]:.1%})" for facts in splits.values())
        rows.append([_quote(label), *shares])
    yield from _table(["rows by label", *splits], rows)
    rows = []
    for name, facts in splits.items():
        unknown = facts.unknown_token_share
        lengths = (f"{number:,.1f}".removesuffix(".0") for number in facts.words.values())
        rows.append([name, *lengths, "-" if unknown is None else f"{unknown:.1%}"])
    yield from _table(["words per text", "mean", "least", "5%", "median", "95%", "most", "unknown tokens"], rows)
    rows = []
    for overlap in report.overlaps:
        *counts, share = overlap.counts().values()
        rows.append([_title(overlap), *(f"{count:,}" for count in counts), f"{share:.2%}"])
    yield from _table(["rows that repeat", "exactly", "other label", "nearly", "other label", "share of rows"], rows)
    for overlap in filter(lambda overlap: overlap.repeats, report.overlaps):
        total = len(overlap.repeats)
        yield from ("", f"{_title(overlap)}{f', the first {_SHOWN} of {total:,} rows' if total > _SHOWN else ''}")
        for repeat in overlap.repeats[:_SHOWN]:
            how = "exact" if repeat.kind == "exact" else f"near, {repeat.similarity:.2f}"
            yield f"  {place_of(repeat.place)} ({_quote(repeat.label)}): {repeat.text!r}"
            yield f"    {how}: {place_of(repeat.twin)} ({_quote(repeat.twin_label)}): {repeat.twin_text!r}"
    total = sum(conflict.rows for conflict in report.conflicts)
    yield from ("", f"one text, several labels in train: {len(report.conflicts):,} texts in {total:,} rows")
    for conflict in report.conflicts[:_SHOWN]:
        yield f"  {conflict.text!r}"
        for label, places in conflict.places.items():
            more = " ..." if len(places) > _SHOWN else ""
            yield f"    {_quote(label)} in {', '.join(map(place_of, places[:_SHOWN]))}{more}"
    if report.leaks:
        yield from ("", f"rows that leak from train: at most {report.leak_share:.2%} of a split")


def _title(overlap: Overlap) -> str:
    return f"{overlap.split} repeats {'itself' if overlap.split == overlap.source else overlap.source}"


def _quote(label: str) -> str:
    """Return a label, quoted if it does not print on one line."""
    return label if label.isprintable() else repr(label)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield an empty line and those of a table, the first column aligned left and the others right."""
    yield ""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for first, *others in (header, *rows):
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([f"{first:<{widths[0]}}", *cells])


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
        UserError: If a split is empty, or splits have different labels.
    """
    names = sorted(dataset, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    class_names = list(dataset[names[0]].features["label"].names)
    splits = [_Split.read(name, dataset[name], class_names, (origins or {}).get(name)) for name in names]
    texts: dict[str, int] = {}
    numbers = [[texts.setdefault(normalize_text(text), len(texts)) for text in split.texts] for split in splits]
    return AuditReport(
        {split.name: split.facts(class_names, tokenizer) for split in splits},
        tuple(_find_overlaps(list(texts), numbers, class_names, splits)),
        tuple(_find_conflicts(numbers[0], class_names, splits[0])) if names[0] == "train" else (),
    )


@dataclass(frozen=True)
class _Split:
    name: str
    texts: list[str]
    labels: list[int]
    origin: Origin | None

    @classmethod
    def read(cls, name: str, rows: datasets.Dataset, class_names: list[str], origin: Origin | None) -> _Split:
        if (names := rows.features["label"].names) != class_names:
            raise UserError(f"{name} has the labels {names}, the first split has {class_names}: load them together")
        columns = rows.with_format(None).select_columns(["text", "label"])[:]
        if not columns["text"]:
            raise UserError(f"{name} has no rows: leave it out")
        return cls(name, columns["text"], columns["label"], origin)

    def place(self, row: int) -> Place:
        return Place(self.name, row, None if self.origin is None else self.origin.lines[row])

    def excerpt(self, row: int) -> str:
        text = self.texts[row]
        return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."

    def facts(self, class_names: Sequence[str], tokenizer: PreTrainedTokenizerBase | None) -> SplitFacts:
        counts = np.bincount(self.labels, minlength=len(class_names))
        lengths = [len(text.split()) for text in self.texts]
        quantiles = np.quantile(lengths, list(_QUANTILES.values())).tolist()
        return SplitFacts(
            rows=len(self.texts),
            label_counts=dict(zip(class_names, counts.tolist(), strict=True)),
            label_shares=dict(zip(class_names, (counts / len(self.texts)).tolist(), strict=True)),
            words={"mean": float(np.mean(lengths)), **dict(zip(_QUANTILES, quantiles, strict=True))},
            unknown_token_share=None if tokenizer is None else _unknown_token_share(self.texts, tokenizer),
            file=None if self.origin is None else self.origin.file,
        )


def _find_overlaps(
    texts: Sequence[str], numbers: Sequence[Sequence[int]], class_names: Sequence[str], splits: Sequence[_Split]
) -> Iterator[Overlap]:
    finder = RepeatFinder(texts, numbers, [split.labels for split in splits])
    for here, split in enumerate(splits):
        for there in (here, *range(here)):
            source = splits[there]
            repeats = (
                Repeat(
                    place=split.place(row),
                    twin=source.place(twin),
                    kind="exact" if exact else "near",
                    similarity=1.0 if exact else jaccard(texts[numbers[here][row]], texts[numbers[there][twin]]),
                    label=class_names[split.labels[row]],
                    twin_label=class_names[source.labels[twin]],
                    text=split.excerpt(row),
                    twin_text=source.excerpt(twin),
                )
                for row, twin, exact in finder.find(there, here)
            )
            yield Overlap(source.name, split.name, len(split.texts), tuple(repeats))


def _find_conflicts(numbers: Sequence[int], class_names: Sequence[str], split: _Split) -> Iterator[Conflict]:
    """Yield the texts of a split with several labels, in the order of their appearance."""
    rows: dict[int, dict[int, list[int]]] = {}
    for row, (text, label) in enumerate(zip(numbers, split.labels, strict=True)):
        rows.setdefault(text, {}).setdefault(label, []).append(row)
    for by_label in rows.values():
        if len(by_label) > 1:
            places = {class_names[label]: tuple(map(split.place, same)) for label, same in by_label.items()}
            yield Conflict(split.excerpt(min(map(min, by_label.values()))), places)


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
