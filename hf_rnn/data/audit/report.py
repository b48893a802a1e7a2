"""The findings of an audit, for JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

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

    Attributes:
        labels: Total variation distance of the label shares (Levin and Peres 2017, "Markov chains and mixing times",
            proposition 4.2).
        words: Kolmogorov-Smirnov statistic of the lengths in words (Smirnov 1939), as `scipy.stats.ks_2samp` gives it.
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

    Attributes:
        splits: Numbers by split, train first.
        overlaps: For every split, first the rows that repeat earlier ones of its own, then those that leak from each
            split before it.
        conflicts: Texts of train with several labels.
        shifts: Differences of each split from each one before it.
        longest: The longest texts of all splits by characters, longest first.
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
