"""Metrics of sets of labels, and the thresholds that decide which labels a text has.

Legend: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..utils.errors import UserError
from .classification import check_finite_logits

SCORES = ("micro_f1", "macro_f1", "subset_accuracy", "average_precision")  # the metrics that are one number


def evaluate_label_sets(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    names: Sequence[str],
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Measure sets of labels, by the formulas of scikit-learn with `zero_division=0`.

    Args:
        logits: `(N, C)`; UserError if one is not finite.
        labels: 0 and 1 `(N, C)`.
        names: Names of the labels (C).
        thresholds: A text has the labels with a sigmoid above these (C); by default 0.5.

    Returns:
        `rows`, `loss` (mean binary cross-entropy in nats), `micro_f1`, `macro_f1`, `subset_accuracy` (share of the
        rows with exactly the right set), `average_precision` (mean over the labels that some row has) and `per_label`:
        name to `precision`, `recall`, `f1`, `average_precision` (None without a row) and `support`.
    """
    check_finite_logits(logits)
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels) > 0.5
    if not len(true) or values.shape != true.shape:
        raise UserError(f"nothing to measure: found logits of shape {values.shape} and labels of shape {true.shape}")
    held = _sigmoid(values) > np.asarray(thresholds if thresholds is not None else [0.5] * len(names))
    hits, support, claimed = ((each).sum(axis=0) for each in (held & true, true, held))
    ratios = {"precision": (hits, claimed), "recall": (hits, support), "f1": (2 * hits, support + claimed)}
    scores = {name: above / np.maximum(below, 1) for name, (above, below) in ratios.items()}
    precisions = [
        average_precision(*column) if column[1].any() else None for column in zip(values.T, true.T, strict=True)
    ]
    known = [value for value in precisions if value is not None]
    return {
        "rows": len(true),
        "loss": float((np.logaddexp(0, values) - values * true).mean()),
        "micro_f1": 2 * int(hits.sum()) / max(1, int(support.sum()) + int(claimed.sum())),
        "macro_f1": float(scores["f1"].mean()),
        "subset_accuracy": float((held == true).all(axis=1).mean()),
        "average_precision": float(np.mean(known)) if known else 0.0,
        "per_label": {
            name: {
                **{score: float(column[number]) for score, column in scores.items()},
                "average_precision": precisions[number],
                "support": int(support[number]),
            }
            for number, name in enumerate(names)
        },
    }


def average_precision(scores: np.ndarray, true: np.ndarray) -> float:
    """Return the sum over the distinct scores of (increase of recall) * precision; equal scores are one step."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(true[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def tune_thresholds(logits: npt.ArrayLike, labels: npt.ArrayLike) -> list[float]:
    """Return for each label the threshold of its sigmoid with the best F1, 0.5 for a label that no row has.

    A threshold is in the middle between two neighbouring scores, or 0.5; of equally good ones the nearest to 0.5 is
    taken.

    Args:
        logits: `(N, C)`, of rows that the model was not trained on.
        labels: 0 and 1 `(N, C)`.
    """
    found = []
    for scores, true in zip(
        _sigmoid(np.asarray(logits, dtype=np.float64)).T, (np.asarray(labels) > 0.5).T, strict=True
    ):
        steps = np.unique(scores)
        cuts = np.append((steps[:-1] + steps[1:]) / 2, 0.5)
        order = np.sort(scores)
        claimed = len(order) - np.searchsorted(order, cuts, side="right")
        hits = true.sum() - np.searchsorted(np.sort(scores[true]), cuts, side="right")
        f1 = 2 * hits / np.maximum(1, true.sum() + claimed)
        best = cuts[f1 >= f1.max() - 1e-12]
        found.append(float(best[np.abs(best - 0.5).argmin()]) if true.any() else 0.5)
    return found


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
