"""Logits and labels → the numbers of one split, under the names that every JSON of this package uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

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
    loss = cross_entropy(torch.tensor(values), torch.tensor(true)).item()
    return {"rows": len(true), "loss": loss, **classification_metrics(values.argmax(axis=1), true, class_names)}
