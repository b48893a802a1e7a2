"""Choose the factor of a linear part beside a network, on validation rows.

Margins of a support vector machine and logits of a network have no common scale; their temperatures
give one. Each is calibrated alone, by one number. The ratio of these numbers is the factor of a
product of two experts (G. Hinton: Training products of experts by minimizing contrastive
divergence. Neural Computation 14, 2002), which counts twice what both know. So the likely factor is
taken under a prior whose centre is a part of that ratio. Below 30
rows all rules lose to a fixed factor.

Legend: N rows, C classes.
"""

from __future__ import annotations

import math

import numpy as np

USUAL_FACTOR = 1.0  # with fewer validation rows
LEAST_VALIDATION = 30
_CENTRE = 0.6  # times the ratio of the scales
_SPREAD = 0.49  # standard deviation of the logarithm
_FACTORS = [0.0, *(2.0 ** np.arange(-6, 7.01, 0.25)).tolist()]
_SCALES = (-6.0, 6.0)  # logarithms of the factors that calibrate


def find_factor(
    logits: np.ndarray, margins: np.ndarray, labels: np.ndarray, problem_type: str | None = None
) -> float:
    """Return the factor for margins `(N, C)` beside logits `(N, C)`.

    It has the greatest likelihood, at the temperature of the sum, times the prior. For regression
    there is no prior, as margins and logits have one unit: the factor has the least squared error,
    and is 0 where the linear part does not help.
    """
    if len(labels) < LEAST_VALIDATION:
        return USUAL_FACTOR
    centre = None
    if problem_type != "regression":
        network, _ = calibrate_scale(logits, labels, problem_type)
        linear, _ = calibrate_scale(margins, labels, problem_type)
        centre = _CENTRE * linear / network

    best = 0.0
    least = math.inf
    for factor in _FACTORS:
        losses = calibrate_scale(logits + factor * margins, labels, problem_type)[1]
        total = float(losses.sum())
        if centre is not None:
            distance = math.log(factor / centre) / _SPREAD if factor else math.inf
            total += distance**2 / 2
        if total < least:
            best = factor
            least = total
    return best


def calibrate_scale(
    logits: np.ndarray, labels: np.ndarray, problem_type: str | None
) -> tuple[float, np.ndarray]:
    """Return the factor for logits with the least loss, and the losses `(N)` of rows with it."""
    from scipy.optimize import minimize_scalar

    if problem_type == "regression":
        return 1.0, np.square(logits - labels).mean(axis=1)

    def measure(exponent: float) -> np.ndarray:
        scaled = math.exp(exponent) * logits
        if problem_type == "multi_label_classification":
            return (np.logaddexp(0, scaled) - scaled * labels).mean(axis=1)
        right = scaled[np.arange(len(labels)), labels]
        return np.logaddexp.reduce(scaled, axis=1) - right

    options = {"xatol": 1e-2}
    result = minimize_scalar(lambda value: measure(value).mean(), bounds=_SCALES, options=options)
    return math.exp(result.x), measure(result.x)
