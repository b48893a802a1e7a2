"""Logits and labels → the numbers of one split, under the names that every JSON of this package uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from ..utils.errors import UserError
from .classification import classification_metrics


def check_finite_logits(logits: npt.ArrayLike) -> None:
    """Refuse logits `(N, C)` that are NaN or infinite.

    Raises:
        UserError: Says how many rows have such logits.
    """
    finite = np.isfinite(np.asarray(logits)).all(axis=-1)
    if not finite.all():
        raise UserError(
            f"{np.count_nonzero(~finite)} of {len(finite)} rows have logits that are not finite: did the training "
            "diverge? Train again with a lower learning_rate, or with max_grad_norm 1"
        )


def evaluate_logits(logits: npt.ArrayLike, labels: npt.ArrayLike, class_names: Sequence[str]) -> dict[str, Any]:
    """Measure one split.

    Args:
        logits: `(N, C)`.
        labels: True class ids `(N)`.
        class_names: Names by id (C).

    Returns:
        `rows`, `loss` (mean cross-entropy in nats, each row counted once) and all of [`classification_metrics`].

    Raises:
        UserError: For logits that are not finite.
    """
    check_finite_logits(logits)
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    loss = cross_entropy(torch.tensor(values), torch.tensor(true)).item()
    return {"rows": len(true), "loss": loss, **classification_metrics(values.argmax(axis=1), true, class_names)}
