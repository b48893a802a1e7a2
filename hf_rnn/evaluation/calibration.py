"""Temperature scaling of held-out logits.

The temperature T minimises the cross-entropy of softmax(z / T), where z are the logits (Guo, Pleiss, Sun and
Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2; arXiv:1706.04599). It never changes
the predicted class. Dividing the last layer by T gives every consumer of the model calibrated scores.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from .scores import check_finite_logits, measure_loss

logger = logging.getLogger(__name__)

_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the temperature of least cross-entropy, from 0.05 to 20; 1 if every row is right.

    Args:
        logits: `(N, C)`, finite, of rows that the model was not trained on.
        labels: True class ids `(N)`.
    """
    from scipy.optimize import minimize_scalar

    check_finite_logits(logits)
    scores, true = torch.tensor(np.asarray(logits), dtype=torch.float64), torch.tensor(np.asarray(labels))
    if bool((scores.gather(1, true[:, None])[:, 0] == scores.amax(dim=1)).all()):
        logger.warning("not calibrated: all %d rows are right, so no temperature fits better than another", len(true))
        return 1.0
    best = minimize_scalar(
        lambda exponent: cross_entropy(scores / math.exp(exponent), true).item(),
        bounds=(math.log(_LOWEST), math.log(_HIGHEST)),
        options={"xatol": 1e-10},
    )
    return math.exp(best.x)


@torch.no_grad()
def calibrate(layer: nn.Linear, predictions: dict[str, Any]) -> dict[str, Any]:
    """Fit a temperature to the validation rows, and divide the layer of the logits and all predictions by it.

    `predictions` has, by split, what `Trainer.predict` returns. Return the temperature, and the scores of each split
    before and after.
    """
    held_out = predictions["validation"]
    temperature = fit_temperature(held_out.predictions, held_out.label_ids)
    for weights in (layer.weight, layer.bias):
        weights.copy_(weights.cpu().double() / temperature)  # MPS has no float64
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
    """Return `loss` (mean cross-entropy in nats), `ece`, `brier`, and the `reliability` table of 15 bins.

    The expected calibration error is the mean difference between confidence and accuracy: 0 is the best, 1 the worst.
    With n_m the rows of bin m: ECE = sum over m of n_m / N * |accuracy_m - confidence_m| (Guo et al., equation 3).

    Args:
        logits: `(N, C)`.
        labels: True class ids `(N)`.
    """
    from sklearn.metrics import brier_score_loss

    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    probabilities = torch.from_numpy(values).softmax(dim=1).numpy()
    table = reliability_table(probabilities, true)
    rows: Any = zip(table["share"], table["accuracy"], table["confidence"], strict=True)
    return {
        "loss": measure_loss(values, true, None),
        "ece": float(sum(share * abs(accuracy - confidence) for share, accuracy, confidence in rows if share)),
        "brier": float(brier_score_loss(true, probabilities, labels=range(values.shape[1]), scale_by_half=False)),
        "reliability": table,
    }


def reliability_table(
    probabilities: np.ndarray, references: npt.ArrayLike, bins: int = 15
) -> dict[str, list[float | None]]:
    """Group rows by the probability of their predicted class and measure the accuracy of each group.

    Args:
        probabilities: `(N, C)`; each row sums to 1.
        references: True class ids (N).
        bins: Number of bins of equal width, M; bin m holds the probabilities in ((m - 1) / M, m / M].

    Returns:
        Three lists of M: `share` of the rows in a bin, mean `confidence` and `accuracy` there, None in empty bins.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(references)
    place = np.searchsorted(np.arange(1, bins) / bins, confidence)  # the number of edges below
    counts = np.bincount(place, minlength=bins)
    table: dict[str, list[float | None]] = {"share": (counts / len(right)).tolist()}
    for name, values in (("confidence", confidence), ("accuracy", right)):
        sums = np.bincount(place, values, bins)
        table[name] = [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
    return table
