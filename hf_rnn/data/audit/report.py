"""The audit of a data set: its findings, for JSON and as text."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import datasets
import numpy as np

from ...utils.errors import UserError
from .duplicates import RepeatFinder, jaccard, normalize_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ORDER = ("train", "validation", "test")  # then any others
_LENGTHS = ("mean", "minimum", "quantile_05", "median", "quantile_95", "maximum")  # text lengths in words
_LONGEST = 5  # texts listed
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
    """Numbers of one split; labels by name in the order of the ids, shares from 0 to 1.

    Attributes:
        words: Lengths of the texts in words: `mean`, `minimum`, `quantile_05`, `median`, `quantile_95`, `maximum`.
        unknown_token_share: Share of the tokenizer's unknown token; None without a tokenizer or such a token.
        file: The file of the rows, if it is known.
    """

    rows: int
    label_counts: dict[str, int]
    label_shares: dict[str, float]
    words: dict[str, float]
    unknown_token_share: float | None = None
    file: str | None = None


@dataclass(frozen=True)
class Repeat:
    """A row that repeats another one, with labels and the starts of the texts.

    Attributes:
        twin: A row that it repeats; one with another label if the source split has one, earlier or later.
        kind: `exact` if the normalised texts are equal, otherwise `near`.
        similarity: Jaccard similarity of the word 3-grams, from 0.8 to 1; 1 for `exact`.
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
    """The rows of one split that repeat rows of a split, itself or another.

    Attributes:
        source: The split that is repeated. If it is `split`, rows that repeat an earlier one count: n - 1 of n copies.
        split: The split whose rows count.
        rows: Its number of rows.
        repeats: The rows that repeat, in their order, each once, as `exact` if it has an exact twin.
    """

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
        found: dict[str, Any] = {"exact": 0, "exact_other_label": 0, "near": 0, "near_other_label": 0}
        for repeat in self.repeats:
            found[repeat.kind] += 1
            found[f"{repeat.kind}_other_label"] += repeat.label != repeat.twin_label
        return {**found, "share": self.share}


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
class Shift:
    """The difference between two splits, from 0 to 1. Small splits differ by chance.

    `labels` is the total variation distance of the label shares (Levin and Peres 2017, "Markov chains and mixing
    times", proposition 4.2), `words` the Kolmogorov-Smirnov statistic of the lengths in words (Smirnov 1939).
    """

    source: str
    split: str
    labels: float
    words: float


@dataclass(frozen=True)
class LongLine:
    """One of the longest texts, with its length in characters and in words."""

    place: Place
    characters: int
    words: int
    text: str


@dataclass(frozen=True)
class AuditReport:
    """The findings of [`~hf_rnn.data.audit.audit`].

    For every split `overlaps` has first the rows that repeat earlier ones of its own, then those that leak from each
    split before it. `shifts` are from each split before. `longest` are the longest texts of all splits.
    """

    splits: dict[str, SplitFacts]
    overlaps: tuple[Overlap, ...]
    conflicts: tuple[Conflict, ...]
    shifts: tuple[Shift, ...]
    longest: tuple[LongLine, ...]

    @property
    def leak_share(self) -> float:
        """Largest share of the rows of a split that repeat a row of train, exactly or nearly, from 0 to 1."""
        return max((each.share for each in self.leaks), default=0.0)

    @property
    def leaks(self) -> list[Overlap]:
        """The overlaps of the other splits with train."""
        return [each for each in self.overlaps if each.source == "train" != each.split]

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
        shifts: dict[str, dict[str, Any]] = {}
        for overlap in self.overlaps:
            if overlap.source != overlap.split:
                leaks.setdefault(overlap.split, {})[overlap.source] = overlap.counts()
        for shift in self.shifts:
            shifts.setdefault(shift.split, {})[shift.source] = {"labels": shift.labels, "words": shift.words}
        return {
            "rows": {name: facts.rows for name, facts in self.splits.items()},
            "duplicates": {each.split: each.counts() for each in self.overlaps if each.source == each.split},
            "leaks": leaks,
            "leak_share": self.leak_share,
            "conflicts": {"texts": len(self.conflicts), "rows": sum(conflict.rows for conflict in self.conflicts)},
            "shifts": shifts,
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
    splits = report.splits
    rows = [["rows", *(f"{facts.rows:,}" for facts in splits.values())]]
    for label in next(iter(splits.values())).label_counts:
        shares = (f"{each.label_counts[label]:,} ({each.label_shares[label]:.1%})" for each in splits.values())
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
            yield f"  {report.name_place(repeat.place)} ({_quote(repeat.label)}): {repeat.text!r}"
            yield f"    {how}: {report.name_place(repeat.twin)} ({_quote(repeat.twin_label)}): {repeat.twin_text!r}"
    conflicts = report.conflicts
    total = sum(conflict.rows for conflict in conflicts)
    yield from ("", f"one text, several labels in train: {len(conflicts):,} texts in {total:,} rows")
    for conflict in conflicts[:_SHOWN]:
        labels = (
            f"{_quote(label)} in {', '.join(map(report.name_place, places[:_SHOWN]))}{' ...' * (len(places) > _SHOWN)}"
            for label, places in conflict.places.items()
        )
        yield f"  {conflict.text!r}: {'; '.join(labels)}"
    if report.shifts:
        rows = [[f"{each.source}, {each.split}", f"{each.labels:.3f}", f"{each.words:.3f}"] for each in report.shifts]
        yield from _table(["differences from 0 to 1", "labels", "words per text"], rows)
    yield from ("", "longest texts")
    for line in report.longest:
        yield f"  {report.name_place(line.place)}: {line.characters:,} characters, {line.words:,} words: {line.text!r}"
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
    class_names, splits = _read_splits(dataset)
    texts: dict[str, int] = {}
    numbers = [[texts.setdefault(normalize_text(text), len(texts)) for text in split.texts] for split in splits]
    places = _Places(splits, origins or {})
    facts = {}
    for split in splits:
        counts, lengths = np.bincount(split.labels, minlength=len(class_names)), split.lengths
        low, median, high = np.quantile(lengths, [0.05, 0.5, 0.95]).tolist()
        words = (float(lengths.mean()), int(lengths.min()), low, median, high, int(lengths.max()))
        facts[split.name] = SplitFacts(
            rows=len(split.texts),
            label_counts=dict(zip(class_names, counts.tolist(), strict=True)),
            label_shares=dict(zip(class_names, (counts / len(split.texts)).tolist(), strict=True)),
            words=dict(zip(_LENGTHS, words, strict=True)),
            unknown_token_share=None if tokenizer is None else _unknown_token_share(split.texts, tokenizer),
            file=places.origins[split.name].file if split.name in places.origins else None,
        )
    shifts = (
        Shift(
            source.name,
            split.name,
            labels=_label_distance(facts[source.name], facts[split.name]),
            words=_length_distance(source.lengths, split.lengths),
        )
        for source, split in combinations(splits, 2)
    )
    return AuditReport(
        facts,
        tuple(_find_overlaps(list(texts), numbers, class_names, places)),
        tuple(_find_conflicts(numbers[0], class_names, places)) if splits[0].name == "train" else (),
        tuple(shifts),
        tuple(_find_longest(places)),
    )


class _Rows(NamedTuple):
    """The rows of one split; `lengths` are in words."""

    name: str
    texts: list[str]
    labels: list[int]
    lengths: np.ndarray


class _Places(NamedTuple):
    splits: Sequence[_Rows]
    origins: Mapping[str, Origin]

    def at(self, split: int, row: int) -> Place:
        name = self.splits[split].name
        return Place(name, row, self.origins[name].lines[row] if name in self.origins else None)


def _read_splits(dataset: datasets.DatasetDict) -> tuple[list[str], list[_Rows]]:
    """Return the label names by id, and the splits in the order of possible leaks."""
    names = sorted(dataset, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    splits, class_names = [], list(dataset[names[0]].features["label"].names)
    for name in names:
        if (found := dataset[name].features["label"].names) != class_names:
            raise UserError(f"{name} has the labels {found}, {names[0]} has {class_names}: load them together")
        columns = dataset[name].with_format(None).select_columns(["text", "label"])[:]
        if not (texts := columns["text"]):
            raise UserError(f"{name} has no rows: leave it out")
        splits.append(_Rows(name, texts, columns["label"], np.array([len(text.split()) for text in texts])))
    return class_names, splits


def _find_overlaps(
    texts: Sequence[str], numbers: Sequence[Sequence[int]], class_names: Sequence[str], places: _Places
) -> Iterator[Overlap]:
    finder = RepeatFinder(texts, numbers, [split.labels for split in places.splits])
    for here, split in enumerate(places.splits):
        for there in (here, *range(here)):
            source = places.splits[there]
            repeats = (
                Repeat(
                    place=places.at(here, row),
                    twin=places.at(there, twin),
                    kind="exact" if exact else "near",
                    similarity=1.0 if exact else jaccard(texts[numbers[here][row]], texts[numbers[there][twin]]),
                    label=class_names[split.labels[row]],
                    twin_label=class_names[source.labels[twin]],
                    text=_shorten(split.texts[row]),
                    twin_text=_shorten(source.texts[twin]),
                )
                for row, twin, exact in finder.find(there, here)
            )
            yield Overlap(source.name, split.name, len(split.texts), tuple(repeats))


def _find_conflicts(numbers: Sequence[int], class_names: Sequence[str], places: _Places) -> Iterator[Conflict]:
    """Yield the texts of the first split with several labels, in the order of their appearance."""
    split = places.splits[0]
    rows: dict[int, dict[int, list[int]]] = {}
    for row, (text, label) in enumerate(zip(numbers, split.labels, strict=True)):
        rows.setdefault(text, {}).setdefault(label, []).append(row)
    for by_label in rows.values():
        if len(by_label) > 1:
            found = {class_names[label]: tuple(places.at(0, row) for row in same) for label, same in by_label.items()}
            yield Conflict(_shorten(split.texts[min(map(min, by_label.values()))]), found)


def _find_longest(places: _Places) -> Iterator[LongLine]:
    """Yield the longest texts, the first ones of equal length."""
    splits = places.splits
    rows = ((-len(text), index, row) for index, split in enumerate(splits) for row, text in enumerate(split.texts))
    for characters, index, row in heapq.nsmallest(_LONGEST, rows):
        split = splits[index]
        yield LongLine(places.at(index, row), -characters, int(split.lengths[row]), _shorten(split.texts[row]))


def _shorten(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."


def _label_distance(a: SplitFacts, b: SplitFacts) -> float:
    """Return the total variation distance of the label shares."""
    return sum(abs(share - b.label_shares[name]) for name, share in a.label_shares.items()) / 2


def _length_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic."""
    a, b = np.sort(a), np.sort(b)
    lengths = np.concatenate([a, b])
    up_to = [np.searchsorted(sample, lengths, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(up_to[0] - up_to[1]).max())


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
