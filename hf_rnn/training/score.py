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

from ..data.typos import SHOWN_TYPOS, mistype_rows
from ..evaluation.calibration import calibrate
from ..evaluation.scores import single_scores
from ..linear.baseline import LinearBaseline, linear_scores
from ..tasks import Metrics, compute_scores
from ..utils.errors import UserError
from ..utils.process import only_errors
from .prepare import Fit, Run, Tokens
from .start import OUTPUT_LAYERS
from .trainer import RnnTrainer

logger = logging.getLogger(__name__)

_SMALLER_STEPS = "take a smaller learning_rate, or clip gradients with max_grad_norm 1"
DIVERGED = f"the training diverged: {{}}. To prevent this, {_SMALLER_STEPS}"
# times the loss of guessing: a run is refused, or warned about
_MAX_LOSS_RATIO = 100
_HIGH_LOSS_RATIO = 3


def score(run: Run, tokens: Tokens, fit: Fit) -> tuple[Metrics, Fit]:
    """Return the content of `metrics.json` for a fitted model, after its calibration.

    The fit then has the scores of the validation rows.

    Raises a [`UserError`] for a model that is much worse than guessing.
    """
    task = run.task
    trainer = fit.trainer
    config = trainer.model.config
    chance_loss = task.chance_loss(config)  # tuning forgets the scale of numbers
    splits = [split for split in ("validation", "test") if split in tokens.examples]
    predictions = {split: trainer.predict(tokens.examples[split]) for split in splits}
    calibration = None
    if run.settings.training.calibrate:
        calibration = calibrate(list_output_weights(trainer.model), predictions)
    task.tune_on_validation(
        trainer.model, predictions, lambda split: trainer.predict(tokens.examples[split])
    )

    shown = next(iter(splits), None)
    by_subject: Metrics = {
        **{split: trainer.compute_metrics(output) for split, output in predictions.items()},
        "training": {
            "rows": sum(run.report.label_counts["train"]),
            **fit.numbers,
            "parameters": trainer.model.num_parameters(),
        },
        "calibration": calibration,
        "typos": measure_typos(run, tokens, trainer, shown),
        "wide": None if fit.wide is None else dataclasses.asdict(fit.wide),
        "teacher": run.extension.measure(run, config, predictions),
    }
    metrics = {name: facts for name, facts in by_subject.items() if facts is not None}
    check_loss(metrics, chance_loss)
    if task.one_label and "validation" in predictions:
        output = predictions["validation"]
        shares = compute_scores(np.asarray(output.predictions), config)
        fit = dataclasses.replace(fit, validation=(shares, np.asarray(output.label_ids)))
    return metrics, fit


def list_output_weights(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return the weights that logits are proportional to."""
    named = model.named_parameters()
    weights = [weight for name, weight in named if name.startswith(OUTPUT_LAYERS)]
    ngrams = getattr(model, "ngrams", None)
    if ngrams is not None:
        weights.append(ngrams.scale)
    return weights


def measure_typos(
    run: Run, tokens: Tokens, trainer: RnnTrainer, split: str | None
) -> dict[str, Any] | None:
    """Return the scores of mistyped rows."""
    if split is None or run.task.generates:
        return None
    mistyped = datasets.DatasetDict(test=mistype_rows(run.texts[split], SHOWN_TYPOS, split))
    with only_errors():
        encoded = run.task.encode(mistyped, tokens.tokenizer, run.settings.data.max_length)
    scores = single_scores(trainer.compute_metrics(trainer.predict(encoded["test"])))
    scores.pop("loss", None)
    return {"split": split, "share": SHOWN_TYPOS, **scores}


def fit_baseline(
    run: Run, tokens: Tokens, typos: Mapping[str, Any] | None
) -> LinearBaseline | None:
    """Return a linear model of the same rows and its scores, also mistyped; None without one."""
    is_wanted = run.is_main and run.settings.training.baselines and run.task.one_label
    if not is_wanted or "text_pair" in run.texts["train"].features:
        return None
    linear = linear_scores(run.texts, tokens.tokenizer)
    if linear is not None and typos is not None:
        split = typos["split"]
        linear.measure(mistype_rows(run.texts[split], typos["share"], split), "typos")
    return linear


def check_loss(metrics: Metrics, chance_loss: float) -> None:
    """Refuse a model with a loss that is not finite, or over 100 times `chance_loss` in nats.

    Above 3 times, only warn. The validation loss decides; without validation rows, the training
    loss.
    """
    if not math.isfinite(metrics["training"]["loss"]):
        raise UserError(DIVERGED.format("the training loss is not finite"))
    split = "validation" if "validation" in metrics else "training"
    loss = metrics[split]["loss"]
    if "calibration" in metrics:  # it makes any loss small
        loss = metrics["calibration"]["splits"]["validation"]["before"]["loss"]
    found = f"the {split} loss is {loss:.3g}, that of guessing {chance_loss:.2f}"
    if not loss <= _MAX_LOSS_RATIO * chance_loss:
        raise UserError(DIVERGED.format(found))
    if loss > _HIGH_LOSS_RATIO * chance_loss:
        logger.warning("%s: %s", found, _SMALLER_STEPS)
