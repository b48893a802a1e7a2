"""Score a finished model: on its splits, mistyped, while texts grow, beside a linear model."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.trainer_utils import PredictionOutput

from ..data.typos import SHOWN_TYPOS, mistype_rows
from ..evaluation.calibration import calibrate
from ..evaluation.linear import LinearBaseline, linear_scores
from ..evaluation.scores import single_scores
from ..inference.engines.open import choose_engine
from ..inference.stream import measure_prefixes
from ..tasks import Task, compute_scores
from ..utils.errors import UserError
from ..utils.process import only_errors
from .run import Fit, Run, Tokens
from .start import OUTPUT_LAYERS
from .trainer import RnnTrainer

logger = logging.getLogger(__name__)

_SMALLER_STEPS = "take a smaller learning_rate, or clip gradients with max_grad_norm 1"
DIVERGED = f"the training diverged: {{}}. To prevent this, {_SMALLER_STEPS}"
# times the loss of guessing: a run is refused, or warned about
_MAX_LOSS_RATIO = 100
_HIGH_LOSS_RATIO = 3


def score(run: Run, tokens: Tokens, fit: Fit) -> tuple[dict[str, Any], Fit]:
    """Return the metrics of a fitted model by split and subject, after its calibration.

    The fit then has the scores of the validation rows.

    Raises a [`UserError`] for a model that is much worse than guessing.
    """
    task = run.task
    trainer = fit.trainer
    config = trainer.model.config
    chance_loss = task.chance_loss(config)  # tuning forgets the scale of numbers
    predictions: dict[str, PredictionOutput] = {}
    for split in ("validation", "test"):
        if split in tokens.examples:
            predictions[split] = trainer.predict(tokens.examples[split])
    subjects: dict[str, Any] = {}
    if run.settings.training.calibrate:
        subjects["calibration"] = calibrate(list_output_weights(trainer.model), predictions)
    task.tune_on_validation(
        trainer.model, predictions, lambda split: trainer.predict(tokens.examples[split])
    )

    for name, measure in _MEASURES.items():
        facts = measure(run, tokens, trainer, predictions)
        if facts is not None:
            subjects[name] = facts
    if fit.wide is not None:
        subjects["wide"] = dataclasses.asdict(fit.wide)
    metrics: dict[str, Any] = {}
    for split, output in predictions.items():
        metrics[split] = trainer.compute_metrics(output)
    rows = sum(run.report.label_counts["train"])
    parameters = trainer.model.num_parameters()
    metrics["training"] = {"rows": rows, **fit.numbers, "parameters": parameters}
    metrics |= subjects
    metrics |= run.extension.measure(run, config, predictions)
    check_loss(metrics, chance_loss)
    return metrics, add_validation(task, fit, predictions.get("validation"))


def list_output_weights(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return the weights that logits are proportional to."""
    weights: list[torch.Tensor] = []
    for name, weight in model.named_parameters():
        if name.startswith(OUTPUT_LAYERS):
            weights.append(weight)
    ngrams = getattr(model, "ngrams", None)
    if ngrams is not None:
        weights.append(ngrams.scale)
    return weights


def add_validation(task: Task, fit: Fit, output: PredictionOutput | None) -> Fit:
    """Return a fit with the scores and labels of the validation rows, for one label per text."""
    if output is None or not task.one_label:
        return fit
    shares = compute_scores(np.asarray(output.predictions), fit.trainer.model.config)
    return dataclasses.replace(fit, validation=(shares, np.asarray(output.label_ids)))


def measure_streaming(
    run: Run, tokens: Tokens, trainer: RnnTrainer, predictions: Mapping[str, PredictionOutput]
) -> dict[str, Any] | None:
    """Return the scores of a streaming model by the share of a text that it has read."""
    if not run.settings.model.streaming or run.task.per_token or not predictions:
        return None
    split = next(iter(predictions))
    engine = choose_engine(trainer.model.eval(), tokens.tokenizer)
    rows = tokens.examples[split]
    return {"split": split, **measure_prefixes(engine, rows["input_ids"][:], rows["labels"][:])}


def measure_typos(
    run: Run, tokens: Tokens, trainer: RnnTrainer, predictions: Mapping[str, PredictionOutput]
) -> dict[str, Any] | None:
    """Return the scores of mistyped rows."""
    if not predictions or run.task.generates:
        return None
    split = next(iter(predictions))
    mistyped = datasets.DatasetDict(test=mistype_rows(run.texts[split], SHOWN_TYPOS, split))
    with only_errors():
        encoded = run.task.encode(mistyped, tokens.tokenizer, run.settings.data.max_length)
    scores = single_scores(trainer.compute_metrics(trainer.predict(encoded["test"])))
    scores.pop("loss", None)
    return {"split": split, "share": SHOWN_TYPOS, **scores}


# subjects of the metrics, beside the splits
_MEASURES = {"streaming": measure_streaming, "typos": measure_typos}


def compare(run: Run, tokens: Tokens, typos: Mapping[str, Any] | None) -> LinearBaseline | None:
    """Return a linear model of the same rows and its scores, also mistyped; None without one."""
    is_wanted = run.is_main and run.settings.training.baselines and run.task.one_label
    if not is_wanted or "text_pair" in run.texts["train"].features:
        return None
    linear = linear_scores(run.texts, tokens.tokenizer)
    if linear is not None and typos is not None:
        split = typos["split"]
        linear.measure(mistype_rows(run.texts[split], typos["share"], split), "typos")
    return linear


def check_loss(metrics: Mapping[str, Any], chance_loss: float) -> None:
    """Refuse a model with a loss that is not finite, or over 100 times `chance_loss` in nats.

    Above 3 times, only warn. The validation loss decides; without validation rows, the training
    loss.
    """
    if not math.isfinite(metrics["training"]["loss"]):
        raise UserError(DIVERGED.format("the training loss is not finite"))
    split = "validation" if "validation" in metrics else "training"
    loss = metrics[split]["loss"]
    if "calibration" in metrics:  # calibration makes any loss small
        loss = metrics["calibration"]["splits"]["validation"]["before"]["loss"]
    if not loss <= _MAX_LOSS_RATIO * chance_loss:
        much = (
            f"the {split} loss is {loss:g}, "
            f"over {_MAX_LOSS_RATIO} times that of guessing ({chance_loss:.2f})"
        )
        raise UserError(DIVERGED.format(much))
    if loss > _HIGH_LOSS_RATIO * chance_loss:
        logger.warning(
            "the %s loss is %.3g, that of guessing %.2f: %s",
            split,
            loss,
            chance_loss,
            _SMALLER_STEPS,
        )
