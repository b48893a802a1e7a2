"""What can be refused of a run: its settings before data are read, its checkpoint, and its weights at the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..hub.model_folder import FinishedFolder
from ..models.modeling_rnn import RnnForSequenceClassification
from ..utils.cpu_features import multiplies_bfloat16
from ..utils.errors import UserError
from . import output_dir
from .arguments.run_arguments import Arguments
from .arguments.training_arguments import RnnTrainingArguments
from .checkpointing import manifest as checkpoints
from .checkpointing.fingerprints import compare
from .model_config import make_config
from .recipes import recipe_names
from .sparse_gradients import check_sparse_gradients
from .trainer_settings import check_trainer_settings

logger = logging.getLogger(__name__)

# What the optimiser's state in a checkpoint says, whatever a run that goes on from there says.
_IN_OPTIMIZER = ("optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
# What makes steps large.
_STEP_SIZES = ("learning_rate", "embedding_learning_rate", "weight_decay")
_MOST_LOSS = 100  # times the loss of guessing: no model that learned anything comes near it
# What can decide which epoch is the best one.
_SCORES = ("loss", "accuracy", "macro_f1", "macro_recall")


def check_early(arguments: Arguments) -> None:
    """Find mistakes that need no data to be found.

    Raises:
        UserError: For a setting out of its range, or settings that do not fit together.
    """
    metric = arguments.training.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in _SCORES:
        raise UserError(f"metric_for_best_model {metric!r} is not known: take one of {', '.join(_SCORES)}")
    greater = arguments.training.greater_is_better
    if metric is not None and greater is not None and greater == metric.endswith("loss"):
        raise UserError(f"greater_is_better {greater} would keep the worst epoch by {metric}: leave it out")
    check_trainer_settings(arguments.training)
    names = ("tokenizer_name_or_path", "model_name_or_path", "vectors")
    sources = {name: getattr(arguments.data, name) for name in names}
    recipe = arguments.training.recipe
    if recipe not in recipe_names() and not arguments.training.resume:  # which removes nothing
        sources["recipe"] = recipe
    texts = {name: getattr(arguments.data, name) for name in ("data_dir", "dataset_name")}
    output_dir.check_apart(FinishedFolder(Path(str(arguments.training.output_dir))), sources, texts)
    if arguments.data.streaming and arguments.data.fail_on_leak is not None:
        raise UserError("fail_on_leak compares all rows, which a stream never holds: leave out one of the two")
    if arguments.data.streaming and arguments.training.tokens_per_batch is not None:
        raise UserError(
            "tokens_per_batch needs the length of each row, which a stream does not tell: leave out streaming, or "
            "tokens_per_batch"
        )
    if arguments.model.freeze_embedding and arguments.training.embedding_learning_rate is not None:
        raise UserError("freeze_embedding leaves the embedding out of training: leave out embedding_learning_rate")
    if arguments.model.sparse_embedding and not arguments.model.freeze_embedding:
        check_sparse_gradients(arguments.training)
    make_config(arguments.model)
    if arguments.training.bf16 and arguments.training.device.type == "cpu" and multiplies_bfloat16() is False:
        logger.warning("this processor has no instructions for bfloat16, in which training is slower: leave out bf16")


def check_finite(model: RnnForSequenceClassification, training_args: RnnTrainingArguments) -> None:
    """Refuse to call a model finished that can answer nothing.

    Raises:
        UserError: For weights that are NaN or infinite.
    """
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise _diverged(f"{broken[0]} holds numbers that are NaN or infinite", model, training_args)


def check_loss(
    metrics: Mapping[str, Any], model: RnnForSequenceClassification, training_args: RnnTrainingArguments
) -> None:
    """Refuse a model whose loss is over 100 times that of guessing, ln(classes).

    A finite training loss over that limit is only a warning when the validation loss is fine: it may be of an epoch
    that was not kept.

    Args:
        metrics: Of the run, `training` among them.
        model: The trained model.
        training_args: Named in the advice.

    Raises:
        UserError: For such a loss, and for one that is NaN or infinite.
    """
    guessing = math.log(model.config.num_labels)
    losses = {split: metrics[split]["loss"] for split in ("validation", "training") if split in metrics}
    if "calibration" in metrics:  # which makes the loss of any model small
        losses["validation"] = metrics["calibration"]["splits"]["validation"]["before"]["loss"]
    for split, loss in losses.items():
        if loss <= _MOST_LOSS * guessing:
            continue
        what = f"the {split} loss is {loss:g}, over {_MOST_LOSS} times that of guessing ({guessing:.2f})"
        diverged = _diverged(what, model, training_args)
        if split == "validation" or "validation" not in losses or not math.isfinite(loss):
            raise diverged
        logger.warning("%s", diverged)


def _diverged(what: str, model: RnnForSequenceClassification, training_args: RnnTrainingArguments) -> UserError:
    sizes = {name: getattr(training_args, name) for name in _STEP_SIZES}
    if model.config.embedding_initializer_range > 1:
        sizes["embedding_initializer_range"] = model.config.embedding_initializer_range
    advice = [f"take a smaller {name} than {size:g}" for name, size in sizes.items() if size]
    if not 0 < training_args.max_grad_norm <= 1:
        advice.append("clip gradients with max_grad_norm 1")
    return UserError(f"the training diverged: {what}. To prevent this, {', or '.join(advice)}")


def check_unchanged(checkpoint: Path, made_from: dict[str, Any], *, anyway: bool) -> None:
    """Refuse to go on from a checkpoint of another run, or only say so when the user wants to go on anyway.

    Args:
        checkpoint: To go on from.
        made_from: Fingerprints of this run.
        anyway: Only say it.

    Raises:
        UserError: When data, tokenizer or settings are others than the checkpoint's; for settings that the optimiser's
            state holds in any case.
    """
    changed = compare(checkpoint, checkpoints.read_manifest(checkpoint)["made_from"], made_from)
    if not changed:
        return
    what = f"since {checkpoint} was saved this has changed: {', '.join(changed)}"
    if held := [name for name in _IN_OPTIMIZER if any(change.startswith(f"{name} (") for change in changed)]:
        raise UserError(
            f"{what}. What is saved there says {', '.join(held)}, for all steps to come: go back to what it was, or "
            "start anew, with --overwrite_output_dir instead of --resume"
        )
    if not anyway:
        raise UserError(f"{what}. Go back to what it was, or type --resume_anyway to go on all the same")
    logger.warning("%s; going on all the same", what)
