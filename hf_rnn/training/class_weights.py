"""Rows of each class → what a row of it counts in the loss. Arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def weigh_classes(counts: Sequence[int], power: float) -> torch.Tensor:
    """Return one weight a class: (n / (C n_c)) ** power, scaled to mean 1 over the rows.

    The scale keeps the size of the loss, and with it the meaning of a learning rate, the same for every power.

    Args:
        counts: Training rows by class, n_c.
        power: 0 weighs all rows alike, 1 all classes.

    Returns:
        Weights of shape `(C,)`; a class without rows has weight 1, by which only label smoothing and a teacher's
        answers go.
    """
    rows = torch.tensor(counts, dtype=torch.float64)
    weights = (rows.sum() / (len(counts) * rows)) ** power
    weights[rows == 0] = 0.0  # was infinite
    weights *= rows.sum() / (weights * rows).sum()
    weights[rows == 0] = 1.0
    return weights.float()
