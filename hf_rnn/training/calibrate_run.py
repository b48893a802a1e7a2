"""The calibration as part of a training run: fitted on the validation rows, told in one line, kept in the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from ..data.labels import listed
from ..evaluation.calibration import (
    Calibration,
    check_rows,
    fit_calibration,
    learned_prior,
    measure_scores,
    read_prior,
    weigh_rows,
)
from ..utils.errors import UserError
from .arguments.training_arguments import RnnTrainingArguments
from .class_weights import weigh_classes
from .trainer import RnnTrainer

logger = logging.getLogger(__name__)

_TRAIN = "train"  # as a target prior: the shares of the training rows


def check_calibration(
    settings: RnnTrainingArguments, splits: Mapping[str, Any], class_names: Sequence[str], class_counts: Sequence[Any]
) -> np.ndarray | None:
    """Find out before the training what would keep the run from being calibrated after it.

    Args:
        settings: The run's own.
        splits: Rows with `labels`, by name of the split.
        class_names: Names by id.
        class_counts: Training rows by class.

    Returns:
        The shares of the classes to calibrate for (C), None for those of the validation rows.

    Raises:
        UserError: Without validation rows; for a `target_prior` that does not fit the classes, or gives a share to one
            that has no rows (in a stream of validation rows this is found after the training).
    """
    if not settings.calibrate:
        return None
    if "validation" not in splits:
        raise UserError("calibrate needs rows that are not trained on: give a validation split, or leave it out")
    if settings.target_prior is None:
        return None
    if list(settings.target_prior) == [_TRAIN]:
        target = learned_prior(class_counts)
    else:
        target = read_prior(settings.target_prior, class_names)
    check_rows(class_counts, "training rows", class_names)
    if isinstance(splits["validation"], datasets.Dataset):
        counts = np.bincount(splits["validation"]["labels"], minlength=len(class_names))
        check_rows(counts, "validation rows", class_names)
    return target


def calibrate_run(
    trainer: RnnTrainer,
    examples: Mapping[str, Any],
    settings: RnnTrainingArguments,
    class_counts: Sequence[Any],
) -> dict[str, Any]:
    """Calibrate the trained model on the validation rows, and fold what was fitted into its last layer.

    Args:
        trainer: Holds the trained model.
        examples: Splits, `validation` among them.
        settings: The run's own.
        class_counts: Training rows by class.

    Returns:
        For `metrics.json`: `temperature`, `target_prior` by class or None, `shift` (what the correction of shares
        added to the logit of each class, by class, or None), `fitted_on`, and under `splits` for each split but train
        what [`measure_scores`] gives, `before` and `after`.

    Raises:
        UserError: As [`check_calibration`].
    """
    names = list(trainer.model.config.id2label.values())
    predicted = {split: trainer.predict(examples[split]) for split in ("validation", "test") if split in examples}
    weights = weigh_classes(class_counts, settings.class_weight_power).tolist()
    target = check_calibration(settings, examples, names, class_counts)
    held_out = predicted["validation"]
    counts = np.bincount(held_out.label_ids, minlength=len(names))
    if lacking := [name for name, count in zip(names, counts, strict=True) if not count]:
        logger.warning(
            "validation has no row of %s: how sure the model may be of it, the temperature cannot tell",
            listed(lacking),
        )
    calibration = fit_calibration(
        held_out.predictions, held_out.label_ids, learned_prior(class_counts, weights), target
    )
    calibration.fold_into(trainer.model.classifier)
    found = {
        split: _compare(calibration, output.predictions, output.label_ids, target)
        for split, output in predicted.items()
    }
    logger.info(
        "calibrated: temperature %.3f, expected calibration error on validation %.3f before, %.3f after",
        calibration.temperature,
        found["validation"]["before"]["ece"],
        found["validation"]["after"]["ece"],
    )
    return {
        "temperature": calibration.temperature,
        "target_prior": None if target is None else dict(zip(names, target.tolist(), strict=True)),
        "shift": None if target is None else dict(zip(names, calibration.shift, strict=True)),
        "fitted_on": "validation",
        "splits": found,
    }


def _compare(calibration: Calibration, logits: Any, labels: Any, target: np.ndarray | None) -> dict[str, Any]:
    weights = weigh_rows(labels, target)
    return {
        "before": measure_scores(logits, labels, weights),
        "after": measure_scores(calibration.apply(logits), labels, weights),
    }
