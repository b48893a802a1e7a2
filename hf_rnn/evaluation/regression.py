"""Metrics of predicted numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..utils.errors import UserError
from .classification import check_finite_logits

SCORES = ("pearson", "spearman", "r2")  # higher is better


def evaluate_numbers(predictions: npt.ArrayLike, references: npt.ArrayLike, names: Sequence[str]) -> dict[str, Any]:
    """Measure predicted numbers.

    Args:
        predictions: `(N, C)`; UserError if one is not finite.
        references: True numbers `(N, C)`.
        names: Names of the numbers (C).

    Returns:
        `rows`, `loss` (mean squared error), and as means over the numbers `pearson`, `spearman`, `r2`, `mae` and
        `rmse`; for several numbers also `per_value`: name to these. A correlation with a constant is 0, and R2 of
        constant references too.
    """
    check_finite_logits(predictions)
    found, true = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    found, true = (each.reshape(len(each), -1) for each in (found, true))
    if not len(true) or found.shape != true.shape:
        raise UserError(f"nothing to measure: found numbers of shape {found.shape} and {true.shape}")
    each = [_measure(*columns) for columns in zip(found.T, true.T, strict=True)]
    means = {name: float(np.mean([scores[name] for scores in each])) for name in each[0]}
    several = {"per_value": dict(zip(names, each, strict=True))} if len(names) > 1 else {}
    return {"rows": len(true), "loss": float(((found - true) ** 2).mean()), **means, **several}


def _measure(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    squares, spread = ((found - true) ** 2).sum(), ((true - true.mean()) ** 2).sum()
    return {
        "pearson": _correlate(found, true),
        "spearman": _correlate(_ranks(found), _ranks(true)),
        "r2": float(1 - squares / spread) if spread > 0 else 0.0,
        "mae": float(np.abs(found - true).mean()),
        "rmse": float(np.sqrt(squares / len(true))),
    }


def _correlate(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, of equal values the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
