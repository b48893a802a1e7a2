"""Logits → scores → answers of the tasks for whole texts, in NumPy: a service needs neither torch nor transformers."""

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


def best_label(scores: np.ndarray, config: Any) -> list[dict[str, Any]]:
    """Return the label with the highest score, and the score."""
    names = config.id2label  # an attribute of a configuration takes microseconds
    best = zip(scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist(), strict=True)
    return [{"label": names[number], "score": score} for number, score in best]


def labels_above_thresholds(scores: np.ndarray, config: Any) -> list[dict[str, Any]]:
    """Return the labels whose score is above their threshold, and all scores."""
    names, thresholds = list(config.id2label.values()), config.label_thresholds or [0.5] * config.num_labels
    held = scores > np.asarray(thresholds, dtype=scores.dtype)
    return [
        {
            "labels": [names[number] for number in np.flatnonzero(row)],
            "scores": dict(zip(names, values, strict=True)),
        }
        for row, values in zip(held, scores.tolist(), strict=True)
    ]


def named_numbers(scores: np.ndarray, config: Any) -> list[dict[str, Any]]:
    """Return the numbers by name."""
    names = config.id2label.values()
    return [{"values": dict(zip(names, numbers, strict=True))} for numbers in scores.tolist()]
