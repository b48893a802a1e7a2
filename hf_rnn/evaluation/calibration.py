"""Logits and labels of rows that training never saw → scores that can be read as probabilities.

Two numbers that a network cannot know of itself are fitted: how sure it may sound (one temperature), and where the
shares of the classes in use are other than in training, how far each class has to be moved. Both go into the weights
of the last linear layer, so that a pipeline, an ONNX graph or a stranger's script gets calibrated scores without
knowing. Nothing is trained or read from files here.

The temperature T is the one with the least cross-entropy of softmax(z / T), z being the logits (Guo, Pleiss, Sun and
Weinberger, On Calibration of Modern Neural Networks, ICML 2017, section 4.2; arXiv:1706.04599). It never changes
which class is first. Rows that are all right fit no temperature, and it is 1.

The correction of shares adds log(target_c / train_c) to the logit of class c, which is Bayes' rule for a classifier
whose classes keep their looks but change their shares (Saerens, Latinne and Decaestecker, Adjusting the Outputs of a
Classifier to New a Priori Probabilities, Neural Computation 14(1), 2002, equation 2.4). A class-weighted training
behaves as one whose classes have the weighted shares, which are what `train` means above. Rows of a class then count
target_c / (its share of the rows) times, in the fit of T and in every measurement, so that both are about the target.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..utils.errors import UserError
from . import brier_score, expected_calibration_error, reliability_table
from .evaluate import check_finite_logits

logger = logging.getLogger(__name__)

_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures; beyond them a fit has nothing to hold on to
_DIGITS = 1e-12  # to which it is found, as a share
_MOST_STEPS = 100  # to there: a handful are enough, and 40 where each halves the range
_BLOCK = 1 << 18  # logits looked at together, which stay in the cache
_SUM_ERROR = 0.01  # of shares that a person types, such as 0.33 0.33 0.33


@dataclass(frozen=True)
class Calibration:
    """What turns logits z into calibrated ones: z / temperature + shift.

    Attributes:
        temperature: Above 1 for a network that is too sure of itself.
        shift: Added to the logit of each class (C); zeros where the shares of the classes stay.
    """

    temperature: float
    shift: tuple[float, ...]

    def apply(self, logits: npt.ArrayLike) -> np.ndarray:
        """Return calibrated logits, of shape `(N, C)` as those given."""
        return np.asarray(logits, dtype=np.float64) / self.temperature + np.asarray(self.shift)

    @torch.no_grad()
    def fold_into(self, layer: nn.Linear) -> None:
        """Change the layer that makes the logits so that it makes the calibrated ones.

        Args:
            layer: With C outputs and a bias.
        """
        # on the CPU, for MPS has no float64
        weight, bias = (part.cpu().double() / self.temperature for part in (layer.weight, layer.bias))
        layer.weight.copy_(weight)
        layer.bias.copy_(bias + torch.tensor(self.shift, dtype=torch.float64, device="cpu"))


def fit_calibration(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    train_prior: npt.ArrayLike | None = None,
    target_prior: npt.ArrayLike | None = None,
) -> Calibration:
    """Fit temperature and shift.

    Args:
        logits: `(N, C)`, of rows that were not trained on.
        labels: True class ids (N).
        train_prior: Shares of the classes that the network learned (C), see [`learned_prior`]; of no effect without
            `target_prior`.
        target_prior: Shares of the classes where it will be used (C); None leaves out the correction of shares.

    Raises:
        UserError: For logits and labels that are not one class a row, for logits that are not finite, and for a class
            with a share in use and none in training, or no row here.
    """
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or true.shape != values.shape[:1] or true.dtype.kind not in "iu" or not values.size:
        raise UserError(
            f"logits of shape {values.shape} and labels of shape {true.shape}, {true.dtype}, cannot be calibrated: "
            "there must be rows, each with one class"
        )
    check_finite_logits(values)
    shift = np.zeros(values.shape[1])
    if target_prior is not None:
        learned = np.asarray(train_prior, dtype=np.float64)
        check_rows(learned, "training rows")
        check_rows(np.bincount(true, minlength=len(learned)), "validation rows")
        shift = np.log(np.asarray(target_prior, dtype=np.float64) / learned)
    weights = weigh_rows(true, target_prior)
    return Calibration(_fit_temperature(values, true, shift, weights), tuple(map(float, shift)))


def _fit_temperature(logits: np.ndarray, labels: np.ndarray, shift: np.ndarray, weights: np.ndarray) -> float:
    """Return the temperature of least cross-entropy, which is convex in 1 / T: where its slope is nil.

    By Newton's steps, and where one leaves the range that is left, or they do not grow shorter, by halving that.
    """
    blocks, moved = torch.tensor(logits).split(max(1, _BLOCK // logits.shape[1])), torch.tensor(shift)
    own = logits[np.arange(len(labels)), labels]

    def slopes(inverse: float) -> tuple[float, float]:
        """The first and second derivative: the logits' mean without the true one, and their variance."""
        means, squares = [], []
        for block in blocks:
            weighted = (block * inverse + moved).softmax(dim=1) * block
            means.append(weighted.sum(dim=1))
            squares.append((weighted * block).sum(dim=1))
        mean = torch.cat(means).numpy()
        variance = torch.cat(squares).numpy() - mean**2
        return float(np.average(mean - own, weights=weights)), float(np.average(variance, weights=weights))

    if (own == logits.max(axis=1)).all():
        # the colder the likelier, without end; or all classes are alike, and each temperature gives the same
        logger.warning("each of the %s rows is right: that tells no temperature, and scores stay", f"{len(labels):,}")
        return 1.0
    low, high = 1 / _HOTTEST, 1 / _COLDEST
    inverse, step = 1.0, high - low
    for _ in range(_MOST_STEPS):
        slope, curve = slopes(inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        newton = slope / curve if curve > 0 else math.inf
        if not low < inverse - newton < high or abs(newton) > abs(step) / 2:
            newton = inverse - (low * high) ** 0.5
        inverse, step = inverse - newton, newton
        if abs(step) <= _DIGITS * inverse:
            break
    found = 1 / inverse
    if found > 0.999 * _HOTTEST:
        logger.warning("the temperature is at its bound, %.3g: scores hardly tell right from wrong, or none", found)
    elif found < 1.001 * _COLDEST:
        logger.warning(
            "the temperature is at its bound, %.3g: scores are far lower than it is right, and stay too low; "
            "train it for longer",
            found,
        )
    return found


def check_rows(by_class: npt.ArrayLike, what: str, class_names: Sequence[str] | None = None) -> None:
    """Make sure that shares of the classes can be corrected.

    Args:
        by_class: How many rows each class has, or their share (C).
        what: The rows, for the message.
        class_names: Names by id, for the message; None tells ids.

    Raises:
        UserError: For a class without any.
    """
    if len(missing := np.flatnonzero(np.asarray(by_class) == 0)):
        name = missing[0] if class_names is None else repr(class_names[missing[0]])
        raise UserError(
            f"the {what} have none of class {name}, which target_prior gives a share: leave out target_prior, "
            "or give rows of every class"
        )


def weigh_rows(labels: npt.ArrayLike, target_prior: npt.ArrayLike | None) -> np.ndarray:
    """Return how much each row counts (N) so that the classes have their target shares; ones where there are none."""
    true = np.asarray(labels, dtype=np.int64)
    if target_prior is None:
        return np.ones(len(true))
    target = np.asarray(target_prior, dtype=np.float64)
    return target[true] * len(true) / np.bincount(true, minlength=len(target))[true]


def learned_prior(class_counts: Sequence[int], class_weights: Sequence[float] | None = None) -> np.ndarray:
    """Return the shares of the classes that a network has learned (C): those of its rows, by their weights.

    Args:
        class_counts: Training rows by class.
        class_weights: How often the loss counted a row of each class; None for once.
    """
    mass = np.asarray(class_counts, dtype=np.float64)
    if class_weights is not None:
        mass = mass * np.asarray(class_weights, dtype=np.float64)
    return mass / mass.sum()


def read_prior(given: Sequence[str] | Mapping[str, float], class_names: Sequence[str]) -> np.ndarray:
    """Return shares of the classes in the order of their ids (C).

    Args:
        given: `["positive=0.2", "negative=0.8"]`, one text with a JSON mapping, or a mapping.
        class_names: Names by id.

    Raises:
        UserError: Unless each class has a share above 0, and they sum to 1.
    """
    shares = _as_mapping(given)
    example = " ".join(f"{name}={1 / len(class_names):.3g}" for name in class_names)
    if set(shares) != set(class_names):
        raise UserError(
            f"target_prior names {', '.join(map(str, shares)) or 'no class'}, and the classes are "
            f"{', '.join(class_names)}: give each a share, such as {example}"
        )
    try:
        prior = np.array([float(shares[name]) for name in class_names])
    except (TypeError, ValueError):
        raise UserError(f"target_prior {shares} holds what is no number: give shares such as {example}") from None
    if not (np.isfinite(prior).all() and (prior > 0).all() and round(abs(prior.sum() - 1), 9) <= _SUM_ERROR):
        raise UserError(f"target_prior {shares} must hold shares above 0 that sum to 1, such as {example}")
    return prior / prior.sum()


def _as_mapping(given: Sequence[str] | Mapping[str, float]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    if len(given) == 1 and given[0].lstrip().startswith("{"):
        try:
            return dict(json.loads(given[0]))
        except (ValueError, RecursionError) as error:
            raise UserError(f"target_prior {given[0]!r:.80} is no JSON: {error}") from None
    pairs = [part.rpartition("=") for part in given]
    if wrong := next((part for part, (name, _, _) in zip(given, pairs, strict=True) if not name), None):
        raise UserError(f"target_prior {wrong!r} is no share of a class: give name=share, such as positive=0.2")
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise UserError(f"target_prior {' '.join(given)} names a class twice")
    return {name: share for name, _, share in pairs}


def measure_scores(logits: npt.ArrayLike, labels: npt.ArrayLike, weights: np.ndarray | None = None) -> dict[str, Any]:
    """Measure logits as probabilities.

    Args:
        logits: `(N, C)`.
        labels: True class ids (N).
        weights: How much each row counts (N); None for all alike.

    Returns:
        `loss` (mean cross-entropy in nats), `ece` in 15 bins, `brier`, and the `reliability` table of these bins.
    """
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    shares = _softmax(values)
    chosen = np.maximum(shares[np.arange(len(true)), true], np.finfo(np.float64).tiny)
    return {
        "loss": float(np.average(-np.log(chosen), weights=weights)),
        "ece": expected_calibration_error(shares, true, sample_weight=weights),
        "brier": brier_score(shares, true, sample_weight=weights),
        "reliability": reliability_table(shares, true, sample_weight=weights),
    }


def _softmax(logits: np.ndarray) -> np.ndarray:
    return torch.tensor(logits).softmax(dim=1).numpy()
