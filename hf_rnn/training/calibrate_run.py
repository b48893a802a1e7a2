"""Calibration as part of a training run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.labels import listed
from ..evaluation.calibration import fit_temperature, measure_scores, scale_classifier
from ..utils.errors import UserError
from .arguments.training_arguments import RnnTrainingArguments
from .trainer import RnnTrainer

logger = logging.getLogger(__name__)


def check_calibration(settings: RnnTrainingArguments, splits: Mapping[str, Any]) -> None:
    """Refuse `calibrate` without a validation split before training starts."""
    if settings.calibrate and "validation" not in splits:
        raise UserError("calibrate needs rows that are not trained on: give a validation split, or leave it out")


def calibrate_run(trainer: RnnTrainer, examples: Mapping[str, Any]) -> dict[str, Any]:
    """Fit the temperature on the validation rows and scale the model's last layer by it.

    Args:
        trainer: Holds the trained model.
        examples: Splits, `validation` among them.

    Returns:
        For `metrics.json`: `temperature`, `fitted_on`, and under `splits`, for validation and test, what
        [`measure_scores`] returns `before` and `after`.
    """
    predicted = {split: trainer.predict(examples[split]) for split in ("validation", "test") if split in examples}
    logits, labels = predicted["validation"].predictions, predicted["validation"].label_ids
    names = list(trainer.model.config.id2label.values())
    counts = np.bincount(labels, minlength=len(names))
    if missing := [name for name, count in zip(names, counts, strict=True) if not count]:
        logger.warning("validation has no row of %s: the temperature is not fitted to it", listed(missing))
    temperature = fit_temperature(logits, labels)
    scale_classifier(trainer.model.classifier, temperature)
    measured = {
        split: {
            "before": measure_scores(found.predictions, found.label_ids),
            "after": measure_scores(found.predictions / temperature, found.label_ids),
        }
        for split, found in predicted.items()
    }
    logger.info(
        "calibrated: temperature %.3f, expected calibration error on validation %.3f before, %.3f after",
        temperature,
        measured["validation"]["before"]["ece"],
        measured["validation"]["after"]["ece"],
    )
    return {"temperature": temperature, "fitted_on": "validation", "splits": measured}
