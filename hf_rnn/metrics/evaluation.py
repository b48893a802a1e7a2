"""Logits and labels → the numbers of one split, under the names that every JSON of this package uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .classification import classification_metrics


def evaluate_logits(logits: npt.ArrayLike, labels: npt.ArrayLike, class_names: Sequence[str]) -> dict[str, Any]:
    """Measure one split.

    Args:
        logits: `(N, C)`.
        labels: True class ids `(N)`.
        class_names: Names by id (C).

    Returns:
        `rows`, `loss` (mean cross-entropy in nats, each row counted once) and all of [`classification_metrics`].
    """
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    shifted = values - values.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_probabilities[np.arange(len(true)), true].mean()
    return {"rows": len(true), "loss": float(loss), **classification_metrics(values.argmax(axis=1), true, class_names)}
