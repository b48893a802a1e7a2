"""Logits → scores in NumPy: a service needs neither torch nor transformers."""

from __future__ import annotations

from typing import Any

import numpy as np


def score_kind(config: Any) -> str:
    """Return what the scores of a model are: `softmax`, `sigmoid` (labels that are independent), or `values`."""
    if config.problem_type == "regression":
        return "values"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"


def compute_scores(logits: np.ndarray, config: Any) -> np.ndarray:
    """Return the scores `(N, C)` of logits `(N, C)`."""
    kind = score_kind(config)
    if kind == "values":
        return logits
    if kind == "sigmoid":
        return 0.5 * np.tanh(0.5 * logits) + 0.5  # without overflow
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
