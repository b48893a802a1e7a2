"""The audit of a data set: duplicates, leaks between splits, conflicting labels, shifts, unknown tokens."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import datasets
import numpy as np

from ...utils.errors import UserError
from .duplicates import RepeatFinder, jaccard, normalize_text
from .report import AuditReport, Conflict, LongLine, Origin, Overlap, Place, Repeat, Shift, SplitFacts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ORDER = ("train", "validation", "test")  # then any others
_LENGTHS = ("mean", "minimum", "quantile_05", "median", "quantile_95", "maximum")  # text lengths in words
_LONGEST = 5  # texts listed
_EXCERPT = 80  # characters
_BATCH = 1000  # texts tokenized at a time


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
        UserError: If a split is empty, lacks a column, has a row without text or label, or has other labels than the
            rest.

    Example:
        >>> from hf_rnn import load_tsv
        >>> audit(load_tsv("data/tweets")).leak_share
        0.0
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
    if not isinstance(dataset, datasets.DatasetDict) or not dataset:
        found = type(dataset).__name__
        raise UserError(f"an audit needs a DatasetDict of splits, as load_tsv without streaming=True: found {found}")
    names = sorted(dataset, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    splits, class_names = [], None
    for name in names:
        split = dataset[name]
        label = split.features.get("label")
        if "text" not in split.features or not isinstance(label, datasets.ClassLabel):
            found = f"found {dict(split.features)}; load it with load_named"
            raise UserError(f"{name} needs the columns text (string) and label (ClassLabel): {found}")
        class_names = class_names or list(label.names)
        if label.names != class_names:
            raise UserError(f"{name} has the labels {label.names}, {names[0]} has {class_names}: load them together")
        columns = split.with_format(None).select_columns(["text", "label"])[:]
        texts, labels = columns["text"], columns["label"]
        if not texts:
            raise UserError(f"{name} has no rows: leave it out")
        for row, (text, number) in enumerate(zip(texts, labels, strict=True)):
            if not isinstance(text, str) or number is None or not 0 <= number < len(class_names):
                raise UserError(f"row {row} of {name} has the text {text!r:.80} and the label {number}: leave it out")
        splits.append(_Rows(name, texts, labels, np.array([len(text.split()) for text in texts])))
    return class_names or [], splits


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
