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

_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures
_BINS = 15


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the temperature of least cross-entropy, from 0.05 to 20, for held-out rows; 1 if every row is right."""
    from scipy.optimize import minimize_scalar

    check_finite_logits(logits)
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if (values[np.arange(len(true)), true] == values.max(axis=1)).all():
        logger.warning(
            "not calibrated: all %d rows are right, so no temperature fits better than another",
            len(true),
        )
        return 1.0

    def measure(exponent: float) -> float:
        return measure_loss(values / math.exp(exponent), true, None)

    limits = math.log(_LOWEST), math.log(_HIGHEST)
    return math.exp(minimize_scalar(measure, bounds=limits, options={"xatol": 1e-10}).x)


def calibrate(
    weights: Iterable[torch.Tensor], predictions: dict[str, PredictionOutput]
) -> dict[str, Any]:
    """Fit a temperature to the validation rows, and divide all predictions and the weights of the last layer by it.

    `predictions` has the output of `Trainer.predict` by split. Return the temperature, and the
    scores of each split before and after.
    """
    temperature = fit_temperature(
        predictions["validation"].predictions, predictions["validation"].label_ids
    )
    for weight in weights:
        weight.data.copy_(weight.data.cpu().double() / temperature)  # MPS has no float64
    splits = {}
    for split, output in predictions.items():
        scaled = output.predictions / temperature
        steps = {"before": output.predictions, "after": scaled}
        splits[split] = {
            step: measure_scores(logits, output.label_ids) for step, logits in steps.items()
        }
        predictions[split] = output._replace(predictions=scaled)
    errors = [scores["ece"] for scores in splits["validation"].values()]
    message = "calibrated: temperature %.3f, expected calibration error on validation %.3f before, %.3f after"
    logger.info(message, temperature, *errors)
    return {"temperature": temperature, "fitted_on": "validation", "splits": splits}


def measure_scores(logits: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Return `loss` (mean cross-entropy in nats), `ece` and `brier`.

    The expected calibration error is the mean difference of confidence and accuracy in 15 bins of
    equal width: 0 is the best, 1 the worst (Guo et al., equation 3).
    """
    from scipy.special import softmax
    from sklearn.metrics import brier_score_loss

    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    shares = softmax(values, axis=1)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == true
    error = np.abs(np.bincount((confidence * _BINS).astype(int), right - confidence)).sum() / len(
        true
    )
    brier = brier_score_loss(true, shares, labels=range(values.shape[1]), scale_by_half=False)
    return {"loss": measure_loss(values, true, None), "ece": float(error), "brier": float(brier)}
