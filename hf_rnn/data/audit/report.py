"""What an audit finds, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Origin:
    """Where the rows of a split come from.

    Attributes:
        file: Its file.
        lines: The line of each row, from 1.
    """

    file: str
    lines: Sequence[int]


@dataclass(frozen=True)
class Place:
    """One row.

    Attributes:
        split: Its split.
        row: Its number there, from 0.
        line: Its line in the split's file, from 1, where that is known.
    """

    split: str
    row: int
    line: int | None = None


@dataclass(frozen=True)
class WordCounts:
    """Lengths of the texts of a split, in words (what white space separates); quantiles by linear interpolation."""

    mean: float
    minimum: int
    quantile_05: float
    median: float
    quantile_95: float
    maximum: int


@dataclass(frozen=True)
class SplitFacts:
    """Numbers of one split.

    Attributes:
        rows: How many there are.
        label_counts: Rows by label name, in the order of the ids.
        label_shares: The same as shares of the rows, from 0 to 1.
        words: Lengths of the texts.
        unknown_token_share: Share of the tokens that are the tokenizer's unknown token, from 0 to 1; None without a
            tokenizer, or with one that has no such token.
        file: Where the rows stand, where that is known.
    """

    rows: int
    label_counts: dict[str, int]
    label_shares: dict[str, float]
    words: WordCounts
    unknown_token_share: float | None = None
    file: str | None = None


@dataclass(frozen=True)
class Repeat:
    """A row that repeats another one.

    Attributes:
        place: The row.
        twin: A row that it repeats: one with another label if the source split has one, earlier or later.
        kind: `exact` when the normalised texts are equal, else `near`.
        similarity: Jaccard similarity of the word triples, from 0.8 to 1; 1 for `exact`.
        label: The row's label.
        twin_label: The twin's label.
        text: The start of the row's text.
        twin_text: The start of the twin's text.
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
        source: The split that is repeated. When it is `split`, a row counts if it repeats an earlier one, so that of n
            copies n - 1 count.
        split: The split whose rows count; it leaks from `source` when these are two.
        rows: Rows in `split`.
        repeats: Those that repeat, in their order, each once: as `exact` when it has an exact twin, else as `near`.
    """

    source: str
    split: str
    rows: int
    repeats: tuple[Repeat, ...]

    @property
    def share(self) -> float:
        """Share of the rows of `split` that repeat, from 0 to 1."""
        return len(self.repeats) / self.rows if self.rows else 0.0

    def count(self, kind: str, other_label: bool = False) -> int:
        """Return how many repeat in this way; with `other_label`, those that have such a twin of another label."""
        return sum(
            repeat.kind == kind and (not other_label or repeat.label != repeat.twin_label) for repeat in self.repeats
        )

    def counts(self) -> dict[str, Any]:
        """Return all counts and the share by name."""
        return {
            "exact": self.count("exact"),
            "exact_other_label": self.count("exact", other_label=True),
            "near": self.count("near"),
            "near_other_label": self.count("near", other_label=True),
            "share": self.share,
        }


@dataclass(frozen=True)
class Conflict:
    """One normalised text that stands in train under several labels.

    Attributes:
        text: The start of its first occurrence.
        places: Its rows by label, in the order in which they appear.
    """

    text: str
    places: dict[str, tuple[Place, ...]]

    @property
    def rows(self) -> int:
        """How many rows hold it."""
        return sum(map(len, self.places.values()))


@dataclass(frozen=True)
class Shift:
    """How two splits differ; 0 is alike and 1 is nothing in common. Small splits differ by chance.

    Attributes:
        source: One split.
        split: The other.
        labels: Total variation distance of the label shares, half the sum of their absolute differences: the share of
            rows that would need another label for the shares to agree (Levin and Peres 2017, "Markov chains and mixing
            times", proposition 4.2).
        words: Kolmogorov-Smirnov statistic of the lengths in words: the largest difference between the shares of
            texts up to any one length (Smirnov 1939; `scipy.stats.ks_2samp` gives the same).
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
    """What [`~hf_rnn.data.audit.audit`] found.

    Attributes:
        splits: Numbers by split: train, validation, test, then any others.
        overlaps: For every split, first the rows that repeat earlier ones of its own, then those that leak from each
            split before it; also where there are none.
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
        """Share of rows that repeat a row of train, exactly or nearly: the largest of the splits', from 0 to 1.

        The largest, because a clean validation split does not mend the scores on a test split that leaks.
        """
        return max((each.share for each in self.overlaps if each.source == "train" != each.split), default=0.0)

    def summary(self) -> dict[str, Any]:
        """Return the counts without the rows, for cards and the records of training runs."""
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
        """Return everything, with the summary in front, as JSON can hold it."""
        return {"summary": self.summary(), **_plain(self)}


def _plain(value: Any) -> Any:
    """Return what JSON holds in place of a value; `asdict` would copy every number, and a report can be large."""
    if is_dataclass(value):
        return {name: _plain(each) for name, each in vars(value).items()}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
