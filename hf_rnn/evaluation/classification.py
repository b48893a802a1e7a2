"""Predictions and references to named numbers, without hub or network.

Of predicted classes [`classification_metrics`] gives all of them; the `evaluate.Metric` classes give one each, alone
or through `evaluate.combine`. Averages are over all classes of the label map, so a class that a split lacks counts as
zero instead of changing what the average means. Three more functions measure probabilities. Nothing here knows models
or logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt

from ..utils.errors import UserError

SCORES = ("accuracy", "macro_f1", "macro_recall")  # those of a split that are one number
MOST_CLASSES = 1_000  # with a matrix of true and predicted ones: its zeros would soon be most of what is written


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
        predicted ones in columns). Of more than 1,000 classes it has `confusion_cells` in place of the matrix: the
        cells of it that are not 0, each `[true id, predicted id, count]`, the largest first.

    Raises:
        UserError: When there are no rows, lengths differ, an id is no integer or out of range, or two names are equal.
    """
    predicted, true = _checked_ids(predictions, references, class_names)
    if not len(true):
        raise UserError("there is nothing to measure: predictions and references are empty")
    size = len(class_names)
    right = true[true == predicted]
    hits, support, claimed = (np.bincount(ids, minlength=size) for ids in (right, true, predicted))
    scores = {
        "precision": _ratio(hits, claimed),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + claimed),
    }
    return {
        "accuracy": len(right) / len(true),
        "macro_f1": float(scores["f1"].mean()),
        "macro_recall": float(scores["recall"].mean()),
        "per_class": {
            name: {**{score: float(values[index]) for score, values in scores.items()}, "support": int(support[index])}
            for index, name in enumerate(class_names)
        },
        **_count_pairs(predicted, true, size),
    }


def _count_pairs(predicted: np.ndarray, true: np.ndarray, size: int) -> dict[str, list[list[int]]]:
    """Count the rows by true and predicted class: all cells, or those that are not 0."""
    if size <= MOST_CLASSES:
        return {"confusion_matrix": _make_matrix(predicted, true, size)}
    cells, counts = np.unique(true * size + predicted, return_counts=True)
    listed = np.column_stack([cells // size, cells % size, counts])
    return {"confusion_cells": listed[np.argsort(-counts, kind="stable")].tolist()}


def _make_matrix(predicted: np.ndarray, true: np.ndarray, size: int) -> list[list[int]]:
    return np.bincount(true * size + predicted, minlength=size * size).reshape(size, size).tolist()


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


def reliability_table(
    probabilities: npt.ArrayLike, references: npt.ArrayLike, bins: int = 15, sample_weight: npt.ArrayLike | None = None
) -> dict[str, list[Any]]:
    """Sort rows into bins by the probability of their most probable class, and see how often that class is right.

    Args:
        probabilities: `(N, C)`, a row's numbers summing to 1.
        references: True class ids (N).
        bins: Bins of equal width, M; bin m holds what is in ((m - 1) / M, m / M].
        sample_weight: Weights of the rows (N); None weighs all alike.

    Returns:
        Three lists of M: `share` of the rows in a bin, mean `confidence` and `accuracy` there, None in empty bins.

    Raises:
        UserError: When there are no rows, shapes do not fit, rows are no probabilities, or there is no bin.
    """
    shares, true, weights = _checked_probabilities(probabilities, references, sample_weight)
    if bins < 1:
        raise UserError(f"bins must be at least 1, found {bins}")
    confidence = shares.max(axis=1)
    right = shares.argmax(axis=1) == true
    place = np.searchsorted(np.arange(1, bins) / bins, confidence)  # how many edges lie below it
    mass = np.bincount(place, weights, bins)
    sums = {
        "confidence": np.bincount(place, weights * confidence, bins),
        "accuracy": np.bincount(place, weights * right, bins),
    }
    table: dict[str, list[Any]] = {"share": (mass / mass.sum()).tolist()}
    for name, total in sums.items():
        table[name] = [float(one / of) if of else None for one, of in zip(total, mass, strict=True)]
    return table


def expected_calibration_error(
    probabilities: npt.ArrayLike, references: npt.ArrayLike, bins: int = 15, sample_weight: npt.ArrayLike | None = None
) -> float:
    """Measure how far stated confidence is from accuracy: 0 is the best, 1 the worst.

    With n_m the rows of bin m: ECE = sum over m of n_m / N * |accuracy_m - confidence_m| (Guo, Pleiss, Sun and
    Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 3; arXiv:1706.04599).

    Args:
        probabilities: As for [`reliability_table`], which also says what the bins are.
        references: Likewise.
        bins: Likewise.
        sample_weight: Likewise.

    Raises:
        UserError: As [`reliability_table`].
    """
    table = reliability_table(probabilities, references, bins, sample_weight)
    rows = zip(table["share"], table["accuracy"], table["confidence"], strict=True)
    return float(sum(share * abs(accuracy - confidence) for share, accuracy, confidence in rows if share))


def brier_score(
    probabilities: npt.ArrayLike, references: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
) -> float:
    """Measure probabilities by their squared error over all classes: 0 is the best, 2 the worst.

    Mean over rows of the sum over classes of (p_c - y_c)^2, y_c being 1 for the true class and else 0 (Brier,
    Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78, 1950, equation 2).

    Args:
        probabilities: `(N, C)`, a row's numbers summing to 1.
        references: True class ids (N).
        sample_weight: Weights of the rows (N); None weighs all alike.

    Raises:
        UserError: When there are no rows, shapes do not fit, or rows are no probabilities.
    """
    shares, true, weights = _checked_probabilities(probabilities, references, sample_weight)
    errors = shares.copy()
    errors[np.arange(len(true)), true] -= 1
    return float(np.average((errors**2).sum(axis=1), weights=weights))


def _checked_probabilities(
    probabilities: npt.ArrayLike, references: npt.ArrayLike, sample_weight: npt.ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities, class ids and weights as arrays, or say what is wrong with them."""
    shares = np.asarray(probabilities, dtype=np.float64)
    if shares.ndim != 2 or not shares.size:
        raise UserError(f"probabilities have shape {shares.shape}: give a row for each text, a column for each class")
    if not (np.isfinite(shares).all() and (shares >= 0).all() and np.allclose(shares.sum(axis=1), 1, atol=1e-4)):
        raise UserError("probabilities must be from 0 to 1 and sum to 1 in each row: give a softmax of the logits")
    true = _ids("references", references, [str(index) for index in range(shares.shape[1])])
    weights = np.ones(len(true)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if len(true) != len(shares) or weights.shape != true.shape:
        raise UserError(
            f"there are {len(shares)} rows of probabilities, {len(true)} references and {weights.size} weights: "
            "give one of each for a row"
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise UserError("weights of rows must be finite, none below 0 and one above it at least")
    return shares, true, weights


class _ClassificationMetric(evaluate.Metric):
    """One number of [`classification_metrics`] behind evaluate's interface.

    Rows are collected in memory. evaluate's own default writes them to a cache folder in the user's home, which may be
    read-only and is shared by processes; it is used only when `num_process` asks for several, which must share files.

    Args:
        class_names: Names by id.
        **options: What `evaluate.Metric` takes, such as `num_process` and `process_id`.

    Raises:
        UserError: From `add`, `add_batch` and `compute`, as [`classification_metrics`] does.
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
        """Collect the class ids of one row; in the plural too, as `evaluate.combine` hands them over."""
        row = {"predictions": prediction, "references": reference, **inputs}
        predictions, references = (np.array([row.pop(name)]) for name in ("predictions", "references"))
        self.add_batch(predictions=predictions, references=references, **row)

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
    """Counts of rows by true class (rows) and predicted class (columns), of however many classes."""

    key = "confusion_matrix"

    def _compute(self, *, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        pairs = _checked_ids(predictions, references, self.class_names)
        return {self.key: _make_matrix(*pairs, len(self.class_names))}
