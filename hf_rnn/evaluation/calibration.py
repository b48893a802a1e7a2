"""Temperature scaling of held-out logits.

The temperature T minimises the cross-entropy of softmax(z / T), where z are the logits (Guo, Pleiss, Sun and
Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2; arXiv:1706.04599). It never changes
the predicted class. Dividing the last layer by T gives every consumer of the model calibrated scores.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .classification import brier_score, check_finite_logits, expected_calibration_error, reliability_table

logger = logging.getLogger(__name__)

_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the temperature of least cross-entropy, from 0.05 to 20; 1 if every row is right.

    The cross-entropy is convex in 1 / T. Its minimum is found by bisection.

    Args:
        logits: `(N, C)`, finite, of rows that the model was not trained on.
        labels: True class ids `(N)`.
    """
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    check_finite_logits(values)
    chosen = values[np.arange(len(true)), true]
    if (chosen == values.max(axis=1)).all():
        logger.warning("not calibrated: all %d rows are right, so no temperature fits better than another", len(true))
        return 1.0
    scores, own = torch.tensor(values), torch.tensor(chosen)
    low, high = 1 / _HIGHEST, 1 / _LOWEST
    for _ in range(40):
        inverse = math.sqrt(low * high)
        slope = (((scores * inverse).softmax(dim=1) * scores).sum(dim=1) - own).mean()
        low, high = (low, inverse) if slope > 0 else (inverse, high)
    found = 1 / math.sqrt(low * high)
    if not 1.001 * _LOWEST < found < 0.999 * _HIGHEST:
        logger.warning("the temperature is at its bound, %.3g: the scores stay poorly calibrated", found)
    return found


@torch.no_grad()
def scale_classifier(layer: nn.Linear, temperature: float) -> None:
    """Divide weight and bias of the layer that computes the logits by a temperature."""
    for part in (layer.weight, layer.bias):
        part.copy_(part.cpu().double() / temperature)  # MPS has no float64


def calibrate(layer: nn.Linear, names: Sequence[str], predictions: dict[str, Any]) -> dict[str, Any]:
    """Fit a temperature to the validation rows, and divide the layer of the logits and all predictions by it.

    `predictions` has, by split, what `Trainer.predict` returns. Return the temperature, and the scores of each split
    before and after.
    """
    held_out = predictions["validation"]
    counts = np.bincount(held_out.label_ids, minlength=len(names))
    if missing := [name for name, count in zip(names, counts, strict=True) if not count]:
        logger.warning("validation has no row of %s: the temperature is not fitted to it", ", ".join(missing))
    temperature = fit_temperature(held_out.predictions, held_out.label_ids)
    scale_classifier(layer, temperature)
    splits = {}
    for split, output in predictions.items():
        predictions[split] = output._replace(predictions=output.predictions / temperature)
        before, after = (measure_scores(one.predictions, one.label_ids) for one in (output, predictions[split]))
        splits[split] = {"before": before, "after": after}
    before, after = (splits["validation"][when]["ece"] for when in ("before", "after"))
    message = "calibrated: temperature %.3f, expected calibration error on validation %.3f before, %.3f after"
    logger.info(message, temperature, before, after)
    return {"temperature": temperature, "fitted_on": "validation", "splits": splits}


def measure_scores(logits: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, Any]:
    """Return `loss` (mean cross-entropy in nats), `ece` in 15 bins, `brier`, and the `reliability` table of the bins.

    Args:
        logits: `(N, C)`.
        labels: True class ids `(N)`.
    """
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    probabilities = torch.tensor(values).softmax(dim=1).numpy()
    chosen = np.maximum(probabilities[np.arange(len(true)), true], np.finfo(np.float64).tiny)
    return {
        "loss": float(-np.log(chosen).mean()),
        "ece": expected_calibration_error(probabilities, true),
        "brier": brier_score(probabilities, true),
        "reliability": reliability_table(probabilities, true),
    }
