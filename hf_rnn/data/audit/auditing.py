"""All measurements of one data set, in one report."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import datasets

from .duplicates import RepeatFinder
from .near_duplicates import jaccard
from .normalizing import excerpt, normalize_text
from .report import AuditReport, Conflict, LongLine, Origin, Overlap, Place, Repeat, Shift, SplitFacts
from .rows import SplitRows, read_rows
from .statistics import count_words, label_distance, length_distance, unknown_token_share

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST = 5  # texts listed


def audit(
    dataset: datasets.DatasetDict,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    origins: Mapping[str, Origin] | None = None,
) -> AuditReport:
    """Look for what would spoil training on a data set, or the scores measured on it.

    Two texts are *exact* duplicates when they are equal but for case, width of characters and white space
    ([`~hf_rnn.data.audit.normalizing.normalize_text`]), and *near* duplicates when they are not, but the sets of word
    3-grams of these forms have a Jaccard similarity of at least 0.8. Words are what white space separates, with their
    punctuation. A text of one or two words has no 3-gram and is a near duplicate of none. Both kinds are found without
    exception, not estimated.

    Args:
        dataset: Splits with the columns `text` (string) and `label` (ClassLabel), as [`load_tsv`] returns them.
        tokenizer: Counts the unknown tokens. Take the one that training uses.
        origins: The file and the lines of the rows of a split, where they are known.

    Returns:
        The report. It quotes the start of each text that it is about.

    Raises:
        UserError: If a split is empty, lacks a column, has a row without text or label, or has other labels than
            the rest.

    Example:
        >>> from hf_rnn import load_tsv
        >>> audit(load_tsv("data/tweets")).leak_share
        0.0
    """
    class_names, splits = read_rows(dataset)
    texts: dict[str, int] = {}
    numbers = [[texts.setdefault(normalize_text(text), len(texts)) for text in split.texts] for split in splits]
    places = _Places(splits, origins or {})
    facts = {}
    for split in splits:
        origin = places.origins.get(split.name)
        facts[split.name] = SplitFacts(
            rows=len(split.texts),
            label_counts=dict(zip(class_names, split.label_counts.tolist(), strict=True)),
            label_shares=dict(zip(class_names, (split.label_counts / len(split.texts)).tolist(), strict=True)),
            words=count_words(split.lengths),
            unknown_token_share=None if tokenizer is None else unknown_token_share(split.texts, tokenizer),
            file=None if origin is None else origin.file,
        )
    shifts = (
        Shift(
            source.name,
            split.name,
            labels=label_distance(source.label_counts, split.label_counts),
            words=length_distance(source.lengths, split.lengths),
        )
        for source, split in combinations(splits, 2)
    )
    return AuditReport(
        facts,
        tuple(_overlaps(list(texts), numbers, class_names, places)),
        tuple(_conflicts(numbers, class_names, places)),
        tuple(shifts),
        tuple(_longest(places)),
    )


class _Places:
    """Where the rows are.

    Args:
        splits: Their rows.
        origins: See [`audit`].
    """

    def __init__(self, splits: Sequence[SplitRows], origins: Mapping[str, Origin]) -> None:
        self.splits, self.origins = splits, origins

    def __call__(self, split: int, row: int) -> Place:
        name = self.splits[split].name
        return Place(name, row, self.origins[name].lines[row] if name in self.origins else None)


def _overlaps(
    texts: Sequence[str], numbers: Sequence[Sequence[int]], class_names: Sequence[str], places: _Places
) -> Iterator[Overlap]:
    finder = RepeatFinder(texts, numbers, [split.labels for split in places.splits])
    for here, split in enumerate(places.splits):
        for there in (here, *range(here)):
            source = places.splits[there]
            repeats = (
                Repeat(
                    place=places(here, row),
                    twin=places(there, twin),
                    kind="exact" if exact else "near",
                    similarity=1.0 if exact else jaccard(texts[numbers[here][row]], texts[numbers[there][twin]]),
                    label=class_names[split.labels[row]],
                    twin_label=class_names[source.labels[twin]],
                    text=excerpt(split.texts[row]),
                    twin_text=excerpt(source.texts[twin]),
                )
                for row, twin, exact in finder.find(there, here)
            )
            yield Overlap(source.name, split.name, len(split.texts), tuple(repeats))


def _conflicts(numbers: Sequence[Sequence[int]], class_names: Sequence[str], places: _Places) -> Iterator[Conflict]:
    """Yield the texts of train that have several labels, in the order in which they appear."""
    for index, split in enumerate(places.splits):
        if split.name != "train":
            continue
        rows: dict[int, list[int]] = {}
        for row, text in enumerate(numbers[index]):
            rows.setdefault(text, []).append(row)
        for same in rows.values():
            by_label: dict[int, list[int]] = {}
            for row in same:
                by_label.setdefault(split.labels[row], []).append(row)
            if len(by_label) > 1:
                found = {class_names[label]: tuple(places(index, row) for row in at) for label, at in by_label.items()}
                yield Conflict(excerpt(split.texts[same[0]]), found)


def _longest(places: _Places) -> Iterator[LongLine]:
    """Yield the longest texts; of equally long ones the first."""
    rows = (
        (-len(text), index, row) for index, split in enumerate(places.splits) for row, text in enumerate(split.texts)
    )
    for characters, index, row in heapq.nsmallest(LONGEST, rows):
        split = places.splits[index]
        yield LongLine(places(index, row), -characters, int(split.lengths[row]), excerpt(split.texts[row]))
