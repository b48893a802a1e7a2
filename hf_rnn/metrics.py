"""Predictions and references to named numbers, without hub or network.

The numbers come from one confusion matrix. :func:`classification_metrics` gives all of them; the `evaluate.Metric`
classes give one each, alone or through `evaluate.combine`. Averages are over all classes of the label map, so a class
that a split lacks counts as zero instead of changing what the average means. Nothing here knows models or logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt

from .errors import UserError


def classification_metrics(
    predictions: npt.ArrayLike, references: npt.ArrayLike, class_names: Sequence[str]
) -> dict[str, Any]:
    """Measure single-label predictions.

    The formulas are those of scikit-learn with `labels=range(C)` and `zero_division=0`. `macro_recall` is the measure
    that SemEval's tweet sentiment task ranks by.

    Args:
        predictions: Predicted class ids (N).
        references: True class ids (N).
        class_names: Names by id (C).

    Returns:
        A dictionary of plain Python numbers that JSON can hold: `accuracy`, `macro_f1`, `macro_recall`, `per_class`
        (name to `precision`, `recall`, `f1` and `support`) and `confusion_matrix` (C x C counts, true classes in rows,
        predicted ones in columns).

    Raises:
        UserError: When there are no rows, lengths differ, an id is no integer or out of range, or two names are equal.
    """
    predicted, true = _checked_ids(predictions, references, class_names)
    if not len(true):
        raise UserError("there is nothing to measure: predictions and references are empty")
    size = len(class_names)
    matrix = np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)
    hits, support, claimed = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    scores = {
        "precision": _ratio(hits, claimed),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + claimed),
    }
    return {
        "accuracy": float(hits.sum() / matrix.sum()),
        "macro_f1": float(scores["f1"].mean()),
        "macro_recall": float(scores["recall"].mean()),
        "per_class": {
            name: {**{score: float(values[index]) for score, values in scores.items()}, "support": int(support[index])}
            for index, name in enumerate(class_names)
        },
        "confusion_matrix": matrix.tolist(),
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, with 0 where there is nothing to divide by."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def _checked_ids(
    predictions: npt.ArrayLike | None, references: npt.ArrayLike | None, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as integer arrays, or say what is wrong with them."""
    names = list(class_names)
    if not names or len(set(names)) < len(names):
        raise UserError(f"class names are {names}: give one or more, all different")
    predicted, true = (
        _ids(what, values, names) for what, values in (("predictions", predictions), ("references", references))
    )
    if len(predicted) != len(true):
        raise UserError(
            f"there are {len(predicted)} predictions and {len(true)} references: give one of each for a row"
        )
    return predicted, true


def _ids(what: str, values: npt.ArrayLike | None, names: list[str]) -> np.ndarray:
    """Return class ids as an array; `evaluate` itself would cut 1.7 down to 1 and take a logit for an id."""
    try:
        ids = np.asarray(values)
    except ValueError:  # rows of different lengths
        ids = np.asarray(None)
    if ids.ndim != 1 or (ids.dtype.kind not in "iub" and ids.size):
        raise UserError(
            f"{what} have shape {ids.shape} and type {ids.dtype}: give one class id for a row, a whole number "
            "(from logits: logits.argmax(-1); from names: config.label2id[name])"
        )
    ids = ids.astype(np.int64)
    (wrong,) = np.nonzero((ids < 0) | (ids >= len(names)))
    if len(wrong):
        known = ", ".join(f"{index} = {name}" for index, name in enumerate(names[:20]))
        raise UserError(f"{what}[{wrong[0]}] is {ids[wrong[0]]}, but there are {len(names)} classes: {known}")
    return ids


class _ClassificationMetric(evaluate.Metric):
    """One number of :func:`classification_metrics` behind evaluate's interface.

    Rows are collected in memory. evaluate's own default writes them to a cache folder in the user's home, which may be
    read-only and is shared by processes; it is used only when `num_process` asks for several, which must share files.

    Args:
        class_names: Names by id.
        **options: What `evaluate.Metric` takes, such as `num_process` and `process_id`.

    Raises:
        UserError: From `add`, `add_batch` and `compute`, as :func:`classification_metrics` does.
    """

    key: str  # in the dictionary of `classification_metrics`

    def __init__(self, class_names: Sequence[str], **options: Any) -> None:
        self.class_names = list(class_names)
        options.setdefault("keep_in_memory", options.get("num_process", 1) == 1)
        super().__init__(**options)

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="Class ids, one for a row.",
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _build_data_dir(self) -> str:
        # The base class creates the folder even when nothing is going to be written there.
        return "" if self.keep_in_memory else super()._build_data_dir()

    def add_batch(
        self, *, predictions: npt.ArrayLike | None = None, references: npt.ArrayLike | None = None, **inputs: Any
    ) -> None:
        """Collect the class ids of several rows, all or none of them."""
        predicted, true = _checked_ids(predictions, references, self.class_names)
        super().add_batch(predictions=predicted, references=true, **inputs)

    def add(self, *, prediction: int | None = None, reference: int | None = None, **inputs: Any) -> None:
        """Collect the class ids of one row."""
        self.add_batch(predictions=np.array([prediction]), references=np.array([reference]), **inputs)

    def compute(
        self, *, predictions: npt.ArrayLike | None = None, references: npt.ArrayLike | None = None, **inputs: Any
    ) -> dict[str, Any] | None:
        """Measure what is given here and what was collected before, and forget it."""
        if predictions is None and references is None and self.keep_in_memory and not len(self):
            raise UserError("there is nothing to measure: give predictions and references, or add them first")
        return super().compute(predictions=predictions, references=references, **inputs)

    def _compute(self, *, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        return {self.key: classification_metrics(predictions, references, self.class_names)[self.key]}


class Accuracy(_ClassificationMetric):
    """Share of the rows whose class was predicted."""

    key = "accuracy"


class MacroF1(_ClassificationMetric):
    """Mean over the classes of F1, the harmonic mean of precision and recall."""

    key = "macro_f1"


class MacroRecall(_ClassificationMetric):
    """Mean over the classes of the share of a class's rows that were found."""

    key = "macro_recall"


class PerClass(_ClassificationMetric):
    """Precision, recall, F1 and number of rows (support) of each class, by its name."""

    key = "per_class"


class ConfusionMatrix(_ClassificationMetric):
    """Counts of rows by true class (rows) and predicted class (columns)."""

    key = "confusion_matrix"
