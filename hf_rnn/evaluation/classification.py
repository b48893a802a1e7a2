"""Metrics of single-label classification and of probabilities.

[`classification_metrics`] computes all metrics of predicted classes; the `evaluate.Metric` classes compute one each.
Averages are over all classes of the label map: a class without rows in a split counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from ..utils.errors import UserError

SCORES = ("accuracy", "macro_f1", "macro_recall")  # the metrics that are one number
MOST_CLASSES = 1_000  # with a confusion matrix; the zeros of a larger one would fill most of metrics.json


def evaluate_logits(logits: npt.ArrayLike, labels: npt.ArrayLike, class_names: Sequence[str]) -> dict[str, Any]:
    """Return `rows`, `loss` (mean cross-entropy in nats) and all of [`classification_metrics`].

    Args:
        logits: `(N, C)`; UserError if one is not finite.
        labels: True class ids `(N)`.
        class_names: Names by id (C).
    """
    check_finite_logits(logits)
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    loss = cross_entropy(torch.tensor(values), torch.tensor(true)).item()
    return {"rows": len(true), "loss": loss, **classification_metrics(values.argmax(axis=1), true, class_names)}


def check_finite_logits(logits: npt.ArrayLike) -> None:
    """Raise UserError for logits `(N, C)` that are NaN or infinite."""
    finite = np.isfinite(np.asarray(logits)).all(axis=-1)
    if not finite.all():
        advice = "did the training diverge? Train again with a lower learning_rate, or with max_grad_norm 1"
        raise UserError(f"{np.count_nonzero(~finite)} of {len(finite)} rows have logits that are not finite: {advice}")


def classification_metrics(
    predictions: npt.ArrayLike, references: npt.ArrayLike, class_names: Sequence[str]
) -> dict[str, Any]:
    """Measure single-label predictions, by the formulas of scikit-learn with `labels=range(C)` and `zero_division=0`.

    Args:
        predictions: Predicted class ids (N).
        references: True class ids (N).
        class_names: Names by id (C).

    Returns:
        `accuracy`, `macro_f1`, `macro_recall`, `per_class` (name to `precision`, `recall`, `f1` and `support`) and
        `confusion_matrix` (true classes in rows). Above 1,000 classes `confusion_cells` replaces the matrix: its cells
        that are not 0, each `[true id, predicted id, count]`, the largest first.

    Raises:
        UserError: For no rows, different lengths, an invalid id, or two equal names.
    """
    predicted, true = _check_ids(predictions, references, class_names)
    if not len(true):
        raise UserError("nothing to measure: predictions and references are empty")
    size = len(class_names)
    right = true[true == predicted]
    hits, support, claimed = (np.bincount(ids, minlength=size) for ids in (right, true, predicted))
    ratios = {"precision": (hits, claimed), "recall": (hits, support), "f1": (2 * hits, support + claimed)}
    scores = {name: above / np.maximum(below, 1) for name, (above, below) in ratios.items()}
    return {
        "accuracy": len(right) / len(true),
        "macro_f1": float(scores["f1"].mean()),
        "macro_recall": float(scores["recall"].mean()),
        "per_class": {
            name: {**{score: float(values[index]) for score, values in scores.items()}, "support": int(support[index])}
            for index, name in enumerate(class_names)
        },
        **_count_pairs(predicted, true, size, MOST_CLASSES),
    }


def _count_pairs(predicted: np.ndarray, true: np.ndarray, size: int, most: float) -> dict[str, list[list[int]]]:
    """Return the confusion matrix, or its cells that are not 0 for more than `most` classes."""
    pairs = true * size + predicted
    if size <= most:
        return {"confusion_matrix": np.bincount(pairs, minlength=size * size).reshape(size, size).tolist()}
    cells, counts = np.unique(pairs, return_counts=True)
    rows = np.column_stack([cells // size, cells % size, counts])
    return {"confusion_cells": rows[np.argsort(-counts, kind="stable")].tolist()}


def _check_ids(
    predictions: npt.ArrayLike | None, references: npt.ArrayLike | None, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays; `evaluate` itself would truncate 1.7 to 1 and take a logit for an id."""
    names = list(class_names)
    if not names or len(set(names)) < len(names):
        raise UserError(f"class names must be one or more, all different: found {names}")
    predicted, true = _to_ids("predictions", predictions, names), _to_ids("references", references, names)
    if len(predicted) != len(true):
        raise UserError(f"found {len(predicted)} predictions and {len(true)} references: give one of each per row")
    return predicted, true


def _to_ids(what: str, values: npt.ArrayLike | None, names: Sequence[str]) -> np.ndarray:
    try:
        ids = np.asarray(values)
    except ValueError:  # rows of different lengths
        ids = np.asarray(None)
    if ids.ndim != 1 or (ids.dtype.kind not in "iub" and ids.size):
        advice = "give one class id per row (from logits: logits.argmax(-1); from names: config.label2id[name])"
        raise UserError(f"{what} have shape {ids.shape} and type {ids.dtype}: {advice}")
    ids = ids.astype(np.int64)
    (wrong,) = np.nonzero((ids < 0) | (ids >= len(names)))
    if len(wrong):
        known = ", ".join(f"{index} = {name}" for index, name in enumerate(names[:20]))
        raise UserError(f"{what}[{wrong[0]}] is {ids[wrong[0]]}, but there are {len(names)} classes: {known}")
    return ids


def reliability_table(
    probabilities: npt.ArrayLike, references: npt.ArrayLike, bins: int = 15
) -> dict[str, list[float | None]]:
    """Group rows by the probability of their predicted class and measure the accuracy of each group.

    Args:
        probabilities: `(N, C)`; each row sums to 1.
        references: True class ids (N).
        bins: Number of bins of equal width, M; bin m holds the probabilities in ((m - 1) / M, m / M].

    Returns:
        Three lists of M: `share` of the rows in a bin, mean `confidence` and `accuracy` there, None in empty bins.
    """
    shares, true = np.asarray(probabilities, dtype=np.float64), np.asarray(references)
    confidence = shares.max(axis=1)
    place = np.searchsorted(np.arange(1, bins) / bins, confidence)  # the number of edges below
    counts = np.bincount(place, minlength=bins)
    table: dict[str, list[float | None]] = {"share": (counts / len(true)).tolist()}
    for name, values in (("confidence", confidence), ("accuracy", shares.argmax(axis=1) == true)):
        sums = np.bincount(place, values, bins)
        table[name] = [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
    return table


def expected_calibration_error(probabilities: npt.ArrayLike, references: npt.ArrayLike, bins: int = 15) -> float:
    """Return the mean difference between confidence and accuracy: 0 is the best, 1 the worst.

    With n_m the rows of bin m: ECE = sum over m of n_m / N * |accuracy_m - confidence_m| (Guo, Pleiss, Sun and
    Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3; arXiv:1706.04599). Arguments are
    those of [`reliability_table`].
    """
    table = reliability_table(probabilities, references, bins)
    rows: Any = zip(table["share"], table["accuracy"], table["confidence"], strict=True)
    return float(sum(share * abs(accuracy - confidence) for share, accuracy, confidence in rows if share))


def brier_score(probabilities: npt.ArrayLike, references: npt.ArrayLike) -> float:
    """Return the mean squared error of the probabilities `(N, C)` over all classes: 0 is the best, 2 the worst.

    Mean over rows of the sum over classes of (p_c - y_c)^2, with y_c = 1 for the true class and 0 otherwise (Brier,
    "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather Review 78, 1950, equation 2).
    """
    shares = np.array(probabilities, dtype=np.float64)
    shares[np.arange(len(shares)), np.asarray(references)] -= 1
    return float((shares**2).sum(axis=1).mean())


class _ClassificationMetric(evaluate.Metric):
    """One metric of [`classification_metrics`] with the interface and options of `evaluate.Metric`.

    Rows are collected in memory by default: the default of `evaluate` writes them below the user's home. With
    `num_process` above 1 they are written, because the processes share files.
    """

    key: str  # in the dictionary of `classification_metrics`

    def __init__(self, class_names: Sequence[str], **options: Any) -> None:
        self.class_names = list(class_names)
        options.setdefault("keep_in_memory", options.get("num_process", 1) == 1)
        super().__init__(**options)

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Value("int64")
        features = datasets.Features({"predictions": ids, "references": ids})
        return evaluate.MetricInfo(type(self).__doc__ or "", "", features, "One class id per row.")

    def _build_data_dir(self) -> str:
        # The base class creates the folder even if nothing is written there.
        return "" if self.keep_in_memory else super()._build_data_dir()

    def add_batch(
        self, *, predictions: npt.ArrayLike | None = None, references: npt.ArrayLike | None = None, **inputs: Any
    ) -> None:
        """Collect the class ids of several rows, all or none of them."""
        predicted, true = _check_ids(predictions, references, self.class_names)
        super().add_batch(predictions=predicted, references=true, **inputs)

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
    """Precision, recall, F1 and number of rows (support) per class, by name."""

    key = "per_class"


class ConfusionMatrix(_ClassificationMetric):
    """Counts of rows by true class (rows) and predicted class (columns), for any number of classes."""

    key = "confusion_matrix"

    def _compute(self, *, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        predicted, true = _check_ids(predictions, references, self.class_names)
        return dict(_count_pairs(predicted, true, len(self.class_names), np.inf))
