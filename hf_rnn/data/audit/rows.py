"""The splits of a data set as plain columns, in the order in which one can leak into another."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np

from ...utils.errors import UserError

_ORDER = ("train", "validation", "test")  # then any others, as they come


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split.

    Attributes:
        name: Its name.
        texts: As they stand in the data.
        labels: Label ids.
        lengths: Of the texts, in words; shape (rows,).
        label_counts: Rows by label id, shape (classes,).
    """

    name: str
    texts: list[str]
    labels: list[int]
    lengths: np.ndarray
    label_counts: np.ndarray


def read_rows(dataset: datasets.DatasetDict) -> tuple[list[str], list[SplitRows]]:
    """Return the label names by id, and the splits.

    Raises:
        UserError: For data that cannot be audited; see [`~hf_rnn.data.audit.audit`].
    """
    if not isinstance(dataset, datasets.DatasetDict) or not dataset:
        raise UserError(
            f"an audit takes a DatasetDict of splits, as load_tsv returns it without streaming=True; found "
            f"{type(dataset).__name__}"
        )
    names = sorted(dataset, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    class_names = _class_names(names[0], dataset[names[0]])
    splits = []
    for name in names:
        if (others := _class_names(name, dataset[name])) != class_names:
            raise UserError(f"{name} has the labels {others}, {names[0]} has {class_names}: load them together")
        splits.append(_read(name, dataset[name], len(class_names)))
    return class_names, splits


def _class_names(name: str, split: datasets.Dataset) -> list[str]:
    for column in ("text", "label"):
        if column not in split.features:
            there = ", ".join(map(repr, split.features))
            raise UserError(f"{name} has no column {column!r}; there are {there}. load_tsv and load_named rename them")
    if not isinstance(split.features["label"], datasets.ClassLabel):
        raise UserError(
            f"the labels of {name} are {split.features['label']}, not ClassLabel: load_named makes them so"
        )
    return list(split.features["label"].names)


def _read(name: str, split: datasets.Dataset, classes: int) -> SplitRows:
    if not len(split):
        raise UserError(f"{name} has no rows: leave it out")
    columns = split.with_format(None).select_columns(["text", "label"])[:]
    texts, labels = columns["text"], columns["label"]
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if not isinstance(text, str) or label is None or not 0 <= label < classes:
            raise UserError(f"row {row} of {name} has the text {text!r:.80} and the label {label}: leave it out")
    lengths = np.array([len(text.split()) for text in texts])
    return SplitRows(name, texts, labels, lengths, np.bincount(labels, minlength=classes))
