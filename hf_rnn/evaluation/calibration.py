"""Temperature scaling of held-out logits.

The temperature T minimises the cross-entropy of softmax(z / T), where z are the logits (Guo,
Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2;
arXiv:1706.04599). It never changes the predicted class. Dividing the last layer by T gives every
consumer of the model calibrated scores.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .scores import check_finite_logits, measure_loss

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from transformers.trainer_utils import PredictionOutput

logger = logging.getLogger(__name__)

_TEMPERATURES = (0.05, 20.0)  # the lowest and the highest
_BINS = 15


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the temperature of least cross-entropy for held-out rows; 1 if every row is right."""
    from scipy.optimize import minimize_scalar

    check_finite_logits(logits)
    values = np.asarray(logits, dtype=np.float64)
    true = np.asarray(labels)
    if (values[np.arange(len(true)), true] == values.max(axis=1)).all():
        logger.warning(
            "not calibrated: all %d rows are right, so no temperature fits better than another",
            len(true),
        )
        return 1.0

    def measure(exponent: float) -> float:
        return measure_loss(values / math.exp(exponent), true, None)

    limits = [math.log(limit) for limit in _TEMPERATURES]
    return math.exp(minimize_scalar(measure, bounds=limits, options={"xatol": 1e-10}).x)


def calibrate(
    weights: Iterable[torch.Tensor], predictions: dict[str, PredictionOutput]
) -> dict[str, Any]:
    """Fit a temperature to the validation rows, and divide predictions and the last layer by it.

    `predictions` has the output of `Trainer.predict` by split. Return the temperature, and the
    scores of each split before and after.
    """
    held_out = predictions["validation"]
    temperature = fit_temperature(held_out.predictions, held_out.label_ids)
    for weight in weights:
        weight.data.copy_(weight.data.cpu().double() / temperature)  # MPS has no float64
    splits = {}
    for split, output in predictions.items():
        scaled = output.predictions / temperature
        splits[split] = {
            "before": measure_scores(output.predictions, output.label_ids),
            "after": measure_scores(scaled, output.label_ids),
        }
        predictions[split] = output._replace(predictions=scaled)
    errors = [scores["ece"] for scores in splits["validation"].values()]
    logger.info(
        "calibrated: temperature %.3f, expected calibration error on validation %.3f before, "
        "%.3f after",
        temperature,
        *errors,
    )
    return {"temperature": temperature, "fitted_on": "validation", "splits": splits}


def measure_scores(logits: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Return `loss` (mean cross-entropy in nats), `ece` and `brier`.

    The expected calibration error is the mean difference of confidence and accuracy in 15 bins of
    equal width: 0 is the best, 1 the worst (Guo et al., equation 3).
    """
    from scipy.special import softmax
    from sklearn.metrics import brier_score_loss

    values = np.asarray(logits, dtype=np.float64)
    true = np.asarray(labels)
    shares = softmax(values, axis=1)
    confidence = shares.max(axis=1)
    right = shares.argmax(axis=1) == true
    bins = (confidence * _BINS).astype(int)
    error = np.abs(np.bincount(bins, right - confidence)).sum() / len(true)
    brier = brier_score_loss(true, shares, labels=range(values.shape[1]), scale_by_half=False)
    return {"loss": measure_loss(values, true, None), "ece": float(error), "brier": float(brier)}
