"""Checks of a run: settings before the data are read, the checkpoint, and weights and loss at the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..tasks import get_task
from ..utils.cpu_features import multiplies_bfloat16
from ..utils.errors import UserError
from . import output_dir
from .arguments.run_arguments import Arguments
from .arguments.training_arguments import RnnTrainingArguments
from .build import make_config
from .checkpointing import manifest as checkpoints
from .checkpointing.fingerprints import compare

logger = logging.getLogger(__name__)

# Settings that the state of the optimizer in a checkpoint holds.
_IN_OPTIMIZER = ("optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
# Times the loss of guessing: a run is refused, or warned about.
_MAX_LOSS_RATIO, _HIGH_LOSS_RATIO = 100, 3


def check_early(arguments: Arguments) -> None:
    """Check settings before the data are read; raise a [`UserError`] for wrong or contradicting ones."""
    model, data, training = arguments
    task = get_task(data.task)
    if training.calibrate and not task.one_label:
        raise UserError(f"calibrate is for one label per text: found the task {task.name}; leave it out")
    task.check_settings(model, training)
    scores = ("loss", *task.scores)
    metric = training.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in scores:
        raise UserError(f"unknown metric_for_best_model: found {metric!r}; choose one of {', '.join(scores)}")
    sources = {name: getattr(data, name) for name in ("tokenizer_name_or_path", "model_name_or_path", "vectors")}
    output_dir.check_apart(training.output_dir, sources)
    if data.streaming and data.fail_on_leak is not None:
        raise UserError("fail_on_leak needs all rows in memory: leave out fail_on_leak or streaming")
    make_config(model)
    if training.bf16 and training.device.type == "cpu" and multiplies_bfloat16() is False:
        logger.warning("bf16 is slower on this processor, which lacks bfloat16 instructions: leave out bf16")


def check_finite(model: PreTrainedModel, training_args: RnnTrainingArguments) -> None:
    """Raise a [`UserError`] with advice about the step size for weights that are NaN or infinite."""
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise _diverged(f"{broken[0]} has NaN or infinite values", training_args)


def check_loss(metrics: Mapping[str, Any], chance_loss: float, training_args: RnnTrainingArguments) -> None:
    """Refuse a model with a loss that is not finite, or over 100 times that of guessing, `chance_loss` in nats.

    Above 3 times, only warn. The validation loss decides; without validation rows, the training loss. The
    [`UserError`] advises about the step size.
    """
    if not math.isfinite(metrics["training"]["loss"]):
        raise _diverged("the training loss is not finite", training_args)
    split = "validation" if "validation" in metrics else "training"
    loss = metrics[split]["loss"]
    if "calibration" in metrics:  # calibration makes any loss small
        loss = metrics["calibration"]["splits"]["validation"]["before"]["loss"]
    if not loss <= _MAX_LOSS_RATIO * chance_loss:
        what = f"the {split} loss is {loss:g}, over {_MAX_LOSS_RATIO} times that of guessing ({chance_loss:.2f})"
        raise _diverged(what, training_args)
    if loss > _HIGH_LOSS_RATIO * chance_loss:
        advice = _smaller_steps(training_args)
        logger.warning("the %s loss is %.3g, that of guessing %.2f: %s", split, loss, chance_loss, advice)


def _diverged(what: str, training_args: RnnTrainingArguments) -> UserError:
    return UserError(f"the training diverged: {what}. To prevent this, {_smaller_steps(training_args)}")


_RATES = ("learning_rate", "embedding_learning_rate", "head_learning_rate")


def _smaller_steps(training_args: RnnTrainingArguments) -> str:
    sizes = {name: getattr(training_args, name) for name in _RATES}
    advice = [f"take a smaller {name} than {size:g}" for name, size in sizes.items() if size]
    if not 0 < training_args.max_grad_norm <= 1:
        advice.append("clip gradients with max_grad_norm 1")
    return ", or ".join(advice)


def check_unchanged(checkpoint: Path, made_from: dict[str, Any], *, anyway: bool) -> None:
    """Refuse to resume from a checkpoint with other fingerprints than `made_from`, those of this run.

    With `anyway` only warn, except about settings in the state of the optimizer.
    """
    changed = compare(checkpoint, checkpoints.read_manifest(checkpoint)["made_from"], made_from)
    if not changed:
        return
    what = f"changed since {checkpoint} was saved: {', '.join(changed)}"
    if held := [name for name in _IN_OPTIMIZER if any(change.startswith(f"{name} (") for change in changed)]:
        raise UserError(
            f"{what}. The saved optimizer keeps its {', '.join(held)}: restore the old value, or start again with "
            "--overwrite_output_dir instead of --resume"
        )
    if not anyway:
        raise UserError(f"{what}. Restore it, or resume all the same with --resume_anyway")
    logger.warning("%s; resuming all the same", what)
