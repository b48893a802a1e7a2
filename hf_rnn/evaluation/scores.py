"""Scores of predictions, equal to those of scikit-learn with `zero_division=0`.

Averages are over the classes that occur among labels or predictions. Classes are counted here,
since the import of scikit-learn takes a second; other scores are its own. Legend: N rows, C names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import UserError, install_hint

if TYPE_CHECKING:
    import numpy.typing as npt

_SEQEVAL = {"f1": "f1-score", "precision": "precision", "recall": "recall"}  # its names of scores
_COLUMNS = ("precision", "recall", "f1", "support")  # scores by class
_ENTITY_TAG = re.compile(r"[BIES]-(.+)")
# with a confusion matrix; the zeros of a larger one would fill most of metrics.json
MOST_CLASSES = 1_000


def single_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of all rows together, without counts and tables."""
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def check_finite_logits(logits: npt.ArrayLike) -> None:
    """Raise UserError for logits `(N, C)` that are NaN or infinite."""
    finite = np.isfinite(np.asarray(logits)).all(axis=-1)
    if not finite.all():
        count = np.count_nonzero(~finite)
        wrong = f"{count} of {len(finite)} rows have logits that are not finite"
        advice = "Train again with a lower learning_rate, or with max_grad_norm 1"
        raise UserError(f"{wrong}: did the training diverge? {advice}")


def classification_metrics(
    predictions: npt.ArrayLike, references: npt.ArrayLike, class_names: Sequence[str]
) -> dict[str, Any]:
    """Measure single-label predictions.

    Args:
        predictions: Predicted class ids (N).
        references: True class ids (N).
        class_names: Names by id (C).

    Returns:
        `accuracy`, `macro_f1`, `macro_recall`, `absent_classes` (number of those without a row or a
        prediction, which the means leave out), `per_class` (name to `precision`, `recall`, `f1` and
        `support`) and, up to 1,000 classes, `confusion_matrix` (true classes in rows).
    """
    predicted = np.asarray(predictions)
    true = np.asarray(references)
    size = len(class_names)
    support = np.bincount(true, minlength=size)
    claimed = np.bincount(predicted, minlength=size)
    right = np.bincount(true[true == predicted], minlength=size)
    occurring = (support > 0) | (claimed > 0)

    precision = right / np.maximum(claimed, 1)
    recall = right / np.maximum(support, 1)
    f1 = right / np.maximum((claimed + support) / 2, 0.5)
    scores = {
        "accuracy": float((true == predicted).mean()),
        "macro_f1": float(f1[occurring].mean()),
        "macro_recall": float(recall[occurring].mean()),
        "absent_classes": size - int(occurring.sum()),
        "per_class": _by_name(class_names, (precision, recall, f1, support)),
    }
    if size <= MOST_CLASSES:
        pairs = np.bincount(true * size + predicted, minlength=size**2)
        scores["confusion_matrix"] = pairs.reshape(size, size).tolist()
    return scores


def _by_name(names: Sequence[str], scores: Sequence[np.ndarray]) -> dict[str, dict[str, Any]]:
    rows = [dict(zip(_COLUMNS, row, strict=True)) for row in np.column_stack(scores).tolist()]
    by_name = dict(zip(names, rows, strict=True))
    for row in rows:
        row["support"] = int(row["support"])
    return by_name


def label_set_metrics(
    predictions: npt.ArrayLike,
    references: npt.ArrayLike,
    names: Sequence[str],
    thresholds: npt.ArrayLike = 0.5,
) -> dict[str, Any]:
    """Measure sets of labels from scores against references of 0 and 1, both `(N, C)`.

    A text has the labels with a score above `thresholds`: a number, or one per label (C). Return
    `micro_f1`, `macro_f1`, `subset_accuracy` (share of the rows with exactly the right set),
    `average_precision` (mean over the labels that some row has) and `per_label`, which has
    `average_precision` too (None without a row).
    """
    from sklearn.metrics import (
        accuracy_score,
        average_precision_score,
        f1_score,
        precision_recall_fscore_support,
    )

    values = np.asarray(predictions)
    true = np.asarray(references) > 0.5
    held = values > np.asarray(thresholds)
    if len(names) > 1:
        scores = precision_recall_fscore_support(true, held, zero_division=0)
    else:  # one column would be read as two classes
        scores = precision_recall_fscore_support(
            true[:, 0], held[:, 0], zero_division=0, labels=[True]
        )

    per_label = _by_name(names, scores)
    precisions = []
    for row, column, labels in zip(per_label.values(), values.T, true.T, strict=True):
        row["average_precision"] = None
        if labels.any():
            row["average_precision"] = float(average_precision_score(labels, column))
            precisions.append(row["average_precision"])
    return {
        "micro_f1": float(f1_score(true.ravel(), held.ravel(), zero_division=0)),
        "macro_f1": float(scores[2].mean()),
        "subset_accuracy": float(accuracy_score(true, held)),
        "average_precision": float(np.mean(precisions)) if precisions else 0.0,
        "per_label": per_label,
    }


def tune_thresholds(probabilities: np.ndarray, references: npt.ArrayLike) -> list[float]:
    """Return per label the threshold of its probabilities `(N, C)` with the best F1.

    A threshold is 0.5, or the middle between two neighbouring scores; of equally good ones the
    nearest to 0.5. For a label without a row it is 0.5.
    """
    thresholds = []
    for scores, true in zip(probabilities.T, (np.asarray(references) > 0.5).T, strict=True):
        steps = np.unique(scores)
        order = np.sort(scores)
        cuts = np.append((steps[:-1] + steps[1:]) / 2, 0.5)
        claimed = len(order) - np.searchsorted(order, cuts, side="right")
        hits = true.sum() - np.searchsorted(np.sort(scores[true]), cuts, side="right")
        f1 = 2 * hits / np.maximum(1, true.sum() + claimed)
        best = cuts[f1 >= f1.max() - 1e-12]
        thresholds.append(float(best[np.abs(best - 0.5).argmin()]) if true.any() else 0.5)
    return thresholds


def number_metrics(
    predictions: npt.ArrayLike, references: npt.ArrayLike, names: Sequence[str]
) -> dict[str, Any]:
    """Measure predicted numbers `(N, C)`, or `(N)` for one name, against true ones of this shape.

    Return `pearson`, `spearman`, `r2`, `mae` and `rmse`, each as the mean over the numbers; for
    several numbers also `per_value`: name to these. A correlation with a constant is 0, and so is
    R2 of one row.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import r2_score

    guesses = np.asarray(predictions, np.float64).reshape(-1, len(names))
    true = np.asarray(references, np.float64).reshape(-1, len(names))
    r2 = np.zeros(len(names))
    if len(true) > 1:
        r2 = r2_score(true, guesses, multioutput="raw_values")
    scores = {
        "pearson": _correlate(guesses, true),
        "spearman": _correlate(rankdata(guesses, axis=0), rankdata(true, axis=0)),
        "r2": r2,
        "mae": np.abs(guesses - true).mean(axis=0),
        "rmse": np.sqrt(((guesses - true) ** 2).mean(axis=0)),
    }
    means: dict[str, Any] = {score: float(values.mean()) for score, values in scores.items()}
    if len(names) > 1:
        rows = np.column_stack(list(scores.values())).tolist()
        per_value = [dict(zip(scores, row, strict=True)) for row in rows]
        means["per_value"] = dict(zip(names, per_value, strict=True))
    return means


def _correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation of each column with that of another array, 0 with a constant."""
    first = first - first.mean(axis=0)
    second = second - second.mean(axis=0)
    scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    return (first * second).sum(axis=0) / np.where(scale > 0, scale, np.inf)


def entity_types(names: Iterable[str]) -> list[str]:
    """Return the sorted types of entities among the tags of a model; none without entities."""
    marks = [_ENTITY_TAG.fullmatch(name) for name in set(names) - {"O"}]
    return sorted({mark[1] for mark in marks if mark}) if all(marks) else []


def tagging_metrics(
    predictions: Sequence[npt.ArrayLike], references: Sequence[npt.ArrayLike], names: Sequence[str]
) -> dict[str, Any]:
    """Measure the tags of sentences from their ids.

    For tags of entities, `f1`, `precision` and `recall` are those of whole entities, over all
    types, `macro_f1` is the mean over types, and `per_class` has each type, as seqeval measures
    them. For other tags `f1` is the accuracy, and the rest is that of [`classification_metrics`].
    """
    guesses = np.concatenate(predictions)
    true = np.concatenate(references)
    if not entity_types(names):
        scores = classification_metrics(guesses, true, names)
        return {"f1": scores["accuracy"], **scores}
    try:
        from seqeval.metrics import classification_report
    except ModuleNotFoundError as error:
        raise UserError(f"scores of entities need seqeval: {install_hint('tagging')}") from error
    tags = np.array(names, dtype=object)
    report = classification_report(
        [tags[np.asarray(row, dtype=int)].tolist() for row in references],
        [tags[np.asarray(row, dtype=int)].tolist() for row in predictions],
        output_dict=True,
        zero_division=0,
    )

    micro = report.pop("micro avg", {})
    scores = {score: float(micro.get(key, 0)) for score, key in _SEQEVAL.items()}
    per_class: dict[str, dict[str, float]] = {}
    for name, row in report.items():
        if not name.endswith(" avg"):
            per_class[name] = {score: float(row.get(key, 0)) for score, key in _SEQEVAL.items()}
            per_class[name]["support"] = int(row["support"])
    each_f1 = [row["f1"] for row in per_class.values()] or [0.0]
    return {
        **scores,
        "macro_f1": float(np.mean(each_f1)),
        "accuracy": float((guesses == true).mean()),
        "per_class": per_class,
    }


def measure_loss(logits: np.ndarray, references: npt.ArrayLike, problem_type: str | None) -> float:
    """Return the mean loss of logits `(N, C)`: in nats, or for regression the squared error."""
    values = np.asarray(logits, np.float64)
    true = np.asarray(references)
    if problem_type == "regression":
        return float(np.mean((values - true.reshape(values.shape)) ** 2))
    if problem_type == "multi_label_classification":
        return float(np.mean(np.logaddexp(0, values) - values * true))
    return float(np.mean(np.logaddexp.reduce(values, axis=1) - values[np.arange(len(true)), true]))
