"""A trained run → what its `metrics.json` says, but for the teacher's and the calibration's part."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.trainer_utils import PredictionOutput, TrainOutput

from ..evaluation.evaluate import evaluate_logits
from .trainer import RnnTrainer

logger = logging.getLogger(__name__)


def measure_run(
    trainer: RnnTrainer,
    outcome: TrainOutput,
    predicted: Mapping[str, PredictionOutput],
    class_names: Sequence[str],
    class_counts: Sequence[int],
) -> dict[str, Any]:
    """Measure the predictions, and count what training took.

    Args:
        trainer: After training.
        outcome: What its `train` returned.
        predicted: Logits `(N, C)` and labels `(N)` by split.
        class_names: Names by id (C).
        class_counts: Rows of train by class (C).

    Returns:
        Each split as [`evaluate_logits`] has it, and `training` with the run's own numbers.
    """
    metrics: dict[str, Any] = {
        split: evaluate_logits(found.predictions, found.label_ids, class_names) for split, found in predicted.items()
    }
    metrics["training"] = {
        "rows": sum(class_counts),
        "epochs": trainer.state.epoch,
        "steps": outcome.global_step,
        "seconds": round(trainer.seconds_before + outcome.metrics["train_runtime"], 1),
        "loss": outcome.training_loss,
        "parameters": trainer.model.num_parameters(),
    }
    return metrics


def keeps_best(trainer: RnnTrainer) -> bool:
    """Whether the weights are those of the best epoch; says so where they were to be and nothing was measured."""
    if not trainer.args.load_best_model_at_end:
        return False
    if trainer.state.best_model_checkpoint is None:
        logger.warning("no epoch was measured before training ended (eval_delay, eval_steps): the last one is kept")
    return trainer.state.best_model_checkpoint is not None
