"""Train: read the data, build tokenizer and model, fit, evaluate, and save a finished folder."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import shlex
import statistics
from collections.abc import Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.metrics  # noqa: F401 - its import draws from `random`, so it must come before a seed is set
import torch
from transformers import set_seed

from ..data.loading import join_splits
from ..data.row_errors import DataReport
from ..data.samplers import with_lengths
from ..evaluation.calibration import calibrate
from ..hub.client import find_user, token_advice
from ..hub.model_folder import FinishedFolder
from ..hub.push import PushResult, check_repo_id, find_token, push
from ..models.auto import head_class
from ..tasks import get_task
from ..tasks.base import Splits
from ..tokenizers.word_level import add_separator, count_ids, mark_capitals
from ..utils.cpu_features import multiplies_bfloat16
from ..utils.errors import UserError
from ..utils.folder_lock import hold_folder
from ..utils.process_state import library_bars_off, one_at_a_time
from . import output_dir
from .build import make_config, make_tokenizer, make_trainer
from .checkpointing.fingerprints import check_unchanged, take_fingerprints
from .checkpointing.resumable_trainer import TrainingStopped
from .language import suit_language
from .linear_head import fit_held_out_too, fit_linear_head, has_few_rows
from .run import Extension, Run, WarmStart, audit_texts, read_vectors, weigh_rows
from .save import TrainingResult, warn_if_linear_wins, write_folder
from .settings import Arguments, parse_settings
from .trainer import RnnTrainer
from .training_arguments import RnnTrainingArguments

logger = logging.getLogger(__name__)

_RATES = ("learning_rate", "embedding_learning_rate", "head_learning_rate")
# Times the loss of guessing: a run is refused, or warned about.
_MAX_LOSS_RATIO, _HIGH_LOSS_RATIO = 100, 3
_USUAL_LENGTH = 500  # characters of a text that row_budget counts once
_LEAST_EPOCHS, _MOST_EPOCHS = 2, 20  # limits of row_budget and of row_floor


@one_at_a_time()
def train(
    data: Any = None,
    output_dir: str | Path | None = None,
    *,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    **settings: Any,
) -> TrainingResult:
    """Train a model and save a finished folder.

    Args:
        data: The texts: a folder or file as for `data_dir`, or training rows in memory: a `Dataset`, a frame of
            pandas or polars, or a list of dicts or of pairs (text, label). A `DatasetDict` or a dict holds all splits.
        output_dir: Folder for the finished model; by default a new one with the name of the data and the date.
        train: Training rows in memory, in place of `data`.
        validation: Validation rows in memory. Without them a part of train is held out.
        test: Test rows in memory.
        settings: Settings by the names of the command's flags. `recipe` names the recipe below them: `default`,
            another name, a file, or a mapping.

    Raises:
        UserError: For a mistake in settings or data. An earlier model in the folder is left as it was.
        TrainingStopped: After SIGTERM or Ctrl-C, when a checkpoint to resume from is saved.

    Example:
        >>> result = train("data/tweets", "out", num_train_epochs=5)
        >>> result.metrics["validation"]["macro_recall"]
        >>> result = train([("so good", "positive"), ("so bad", "negative")] * 50, "out2")
    """
    rows, settings = read_call(data, output_dir, train, validation, test, settings)
    return run_training(parse_settings(settings), data=rows, given=settings)


def read_call(
    data: Any, output_dir: Any, train: Any, validation: Any, test: Any, settings: dict[str, Any]
) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    """Return the rows in memory by split, and the settings, of a call of [`train`]."""
    if output_dir is not None:
        settings = {**settings, "output_dir": output_dir}
    if isinstance(data, str | Path):
        return join_splits(train, validation, test), {**settings, "data_dir": data}
    if data is not None and train is not None:
        raise UserError("data and train are both given: leave out one of them")
    return join_splits(data if train is None else train, validation, test), settings


@library_bars_off()
def run_training(
    arguments: Arguments,
    extension: Extension | None = None,
    data: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Read the data, train, and push the folder if asked for; see [`train_on`]. `data` are rows in memory by split."""
    data_args, training_args = arguments.data, arguments.training
    check_early(arguments)
    folder = FinishedFolder(Path(str(training_args.output_dir)))
    is_main = training_args.process_index == 0
    destination = find_destination(training_args) if is_main else None
    checkpoint = None
    if is_main or training_args.resume:
        checkpoint = output_dir.check_output_dir(folder, training_args)
    report = DataReport()
    texts = get_task(data_args.task).read(
        data_args,
        data=data,
        streaming=data_args.streaming,
        class_names=data_args.class_names,
        rejected_path=folder.root / output_dir.REJECTED_ROWS if is_main else None,
        report=report,
    )
    result = train_on(texts, report, arguments, checkpoint, extension=extension, given=given)
    training_args.distributed_state.wait_for_everyone()  # every process may read the folder now
    if destination is None:
        return result
    return dataclasses.replace(result, url=push_run(folder.root, destination).url)


@torch.inference_mode(False)  # the caller may have turned gradients off
def train_on(
    texts: Splits,
    report: DataReport,
    arguments: Arguments,
    checkpoint: Path | None = None,
    *,
    extension: Extension | None = None,
    given: Mapping[str, Any] | None = None,
    sample_weights: np.ndarray | None = None,
    task_specific_params: dict[str, Any] | None = None,
    quiet: bool = False,
) -> TrainingResult:
    """Train on splits as the task reads them, with the counts of their rows, and save a finished folder.

    `arguments` are accepted by [`check_early`]; `checkpoint` is the one to resume from. With the settings that are
    `given` by the user, the run may leave the default start, see [`suit_language`]. `sample_weights` weigh the
    training rows in the loss. `task_specific_params` become part of the configuration. A `quiet` run shows neither
    bars nor a line per epoch.
    """
    task = get_task(arguments.data.task)
    arguments = suit_language(arguments, given, task, task.vocabulary_texts(texts["train"]))
    data_args, training_args = arguments.data, arguments.training
    extension = extension or Extension()
    run = Run(task, arguments, texts, report)
    if training_args.calibrate and "validation" not in texts:
        raise UserError("calibrate needs rows that are not trained on: give a validation split, or leave it out")
    start = None if data_args.model_name_or_path is None else WarmStart(data_args.model_name_or_path)
    facts: dict[str, Any] = {}  # for the card

    # texts to ids
    further_texts, vocabulary_texts = extension.read_texts(run), task.vocabulary_texts(texts["train"])
    run.tokenizer = make_tokenizer(
        data_args, chain(vocabulary_texts, further_texts) if further_texts else vocabulary_texts
    )
    if data_args.text_pair_column is not None:
        add_separator(run.tokenizer)
    vectors = None if data_args.vectors is None else read_vectors(run, data_args.vectors)
    facts["audit"] = audit_texts(run)
    if facts["audit"] is not None:
        facts["unknown_token_share"] = facts["audit"]["unknown_token_share"].get("validation")
    if task.per_token and run.arguments.model.word_forms:
        mark_capitals(run.tokenizer)
    run.examples = task.encode(texts, run.tokenizer, data_args.max_length)
    run.class_counts = report.label_counts["train"] if task.one_label else None
    if sample_weights is not None:
        weigh_rows(run, sample_weights)
    fingerprints = extension.add_rows(run)
    limit_epochs(run)
    training_args = run.arguments.training

    # the model
    set_seed(training_args.seed)
    special = ("pad_token_id", "bos_token_id", "eos_token_id")
    fields: dict[str, Any] = {"task": task.name} | {name: getattr(run.tokenizer, name) for name in special}
    if data_args.text_pair_column is not None:
        fields["sep_token_id"] = run.tokenizer.sep_token_id
    fields["vocab_size"] = count_ids(run.tokenizer)
    if start is not None:
        fields["vocab_size"] = max(fields["vocab_size"], start.model.config.vocab_size)
    fields |= task.config_fields(texts)
    config = make_config(run.arguments.model, task_specific_params=task_specific_params, **fields)
    run.model = head_class(task.architecture)(config)
    if (words := getattr(run.model, "words", None)) is not None:
        words.read(run.tokenizer.convert_ids_to_tokens(range(count_ids(run.tokenizer))))
    if vectors is not None:
        with torch.no_grad():
            run.model.get_input_embeddings().weight.copy_(vectors.matrix)
        facts["vectors"], fingerprints["vectors"] = vectors.describe(), vectors.fingerprint()
    if start is not None:
        start.copy_weights(run)
        facts["start"], fingerprints["start"] = start.describe(run), start.fingerprint()
    del start, vectors  # their tables can be large

    # the training
    made_from = take_fingerprints(
        run.examples, run.tokenizer, config, training_args, stream=report.fingerprint, **fingerprints
    )
    if checkpoint is not None:
        check_unchanged(checkpoint, made_from, anyway=training_args.resume_anyway)
    run.examples = with_lengths(run.examples, report.label_counts)
    run.trainer = make_trainer(run, made_from, extension.trainer_class)
    if quiet:
        run.trainer.silence()
    few_rows = checkpoint is None and extension.trainer_class is None and has_few_rows(run)
    training = fit_linear_head(run) if few_rows else fit(run.trainer, run.folder, checkpoint)

    # the scores
    for split in ("validation", "test"):
        if split in run.examples:
            run.predictions[split] = run.trainer.predict(run.examples[split])
    chance_loss = task.chance_loss(config)
    if training_args.calibrate:
        facts["calibration"] = calibrate(run.model.classifier, run.predictions)
    task.complete(run.model, run.predictions, lambda split: run.trainer.predict(run.examples[split]))
    for split, output in run.predictions.items():
        run.metrics[split] = task.evaluate(output.predictions, output.label_ids, run.model.config)
    if few_rows and report.held_out and not training_args.calibrate:
        fit_held_out_too(run)
    rows, size = sum(report.label_counts["train"]), run.model.num_parameters()
    run.metrics["training"] = {"rows": rows, **training, "parameters": size}
    if training_args.calibrate:
        run.metrics["calibration"] = facts["calibration"]
    extension.measure(run)
    facts["teacher"] = run.metrics.get("teacher")
    check_loss(run.metrics, chance_loss, training_args)

    # the folder
    if not run.is_main:
        return TrainingResult(run.folder.root, run.metrics)
    best_kept = bool(run.trainer.args.load_best_model_at_end) and run.trainer.state.best_model_checkpoint is not None
    card = output_dir.fill(
        run.folder, lambda unfinished: write_folder(unfinished, run, facts, extension.settings, best_kept)
    )
    if few_rows or not training_args.keep_checkpoints:
        output_dir.tidy(run.folder)
    logger.info("the finished model is in %s", run.folder.root)
    warn_if_linear_wins(run, card, few_rows)
    return TrainingResult(run.folder.root, run.metrics, card)


def limit_epochs(run: Run) -> None:
    """Lower the number of epochs as `row_budget` asks for, or raise it as `row_floor` does, for all rows to learn."""
    training = copy.copy(run.arguments.training)
    rows = sum(run.report.label_counts["train"]) if run.table is None else len(run.examples["train"])
    if training.max_steps > 0:
        return
    epochs = training.num_train_epochs
    if training.row_budget is not None:
        length = statistics.mean(map(len, islice(run.task.vocabulary_texts(run.texts["train"]), 1000)))
        counted = rows * max(1, length / _USUAL_LENGTH)
        epochs = min(epochs, max(_LEAST_EPOCHS, int(training.row_budget // counted)))
    if training.row_floor:
        epochs = max(epochs, min(_MOST_EPOCHS, training.row_floor // rows))
    if epochs != training.num_train_epochs:
        logger.info("num_train_epochs is %d for %s rows (row_budget, row_floor)", epochs, f"{rows:,}")
        training.num_train_epochs = epochs
    run.arguments = run.arguments._replace(training=training)


def fit(trainer: RnnTrainer, folder: FinishedFolder, checkpoint: Path | None) -> dict[str, Any]:
    """Train, from a checkpoint if given, and lock the folder meanwhile.

    Return `epochs`, `steps`, `seconds` and `loss` of the training, with those before a resume. Raises a [`UserError`]
    if another run uses the folder or weights are not finite at the end, and [`TrainingStopped`] after a signal.
    """
    args: Any = trainer.args
    is_main = args.process_index == 0
    if is_main:
        folder.root.mkdir(parents=True, exist_ok=True)
    with hold_folder(folder.root) if is_main else contextlib.nullcontext(), trainer.stop_request as request:
        if is_main and args.overwrite_output_dir:
            trainer.on_begin = partial(output_dir.remove_checkpoints, folder)
        outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.asked_to_stop():  # after the last step, too late to save
        raise TrainingStopped(request.number, None)
    broken = [name for name, weight in trainer.model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise _diverged(f"{broken[0]} has NaN or infinite values", args)
    return {
        "epochs": trainer.state.epoch,
        "steps": outcome.global_step,
        "seconds": round(trainer.seconds_before + outcome.metrics["train_runtime"], 1),
        "loss": outcome.training_loss,
    }


# ---- checks ----


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


def _smaller_steps(training_args: RnnTrainingArguments) -> str:
    sizes = {name: getattr(training_args, name) for name in _RATES}
    advice = [f"take a smaller {name} than {size:g}" for name, size in sizes.items() if size]
    if not 0 < training_args.max_grad_norm <= 1:
        advice.append("clip gradients with max_grad_norm 1")
    return ", or ".join(advice)


# ---- push_to_hub ----


def find_destination(arguments: RnnTrainingArguments) -> dict[str, Any] | None:
    """Return the arguments of [`push`] for a run, or None without `push_to_hub`.

    The settings are those of transformers: `hub_model_id` (by default the name of `output_dir`, and the user's own),
    `hub_private_repo`, `hub_revision` and `hub_token`. Checkpoints are not pushed, whatever `hub_strategy` is. Raises
    a [`UserError`] without a token, for a token that the Hub refuses, and for an invalid repo id.
    """
    if not arguments.push_to_hub:
        return None
    name = arguments.hub_model_id or Path(str(arguments.output_dir)).resolve().name
    token = find_token(arguments.hub_token)
    if token is None:
        raise UserError(f"push_to_hub: there is no token to push with: {token_advice()}")
    user = find_user(token)  # also with a full name, because it finds a refused token before the training
    repo_id = name if "/" in name else f"{user}/{name}"
    check_repo_id(repo_id)
    private, revision = arguments.hub_private_repo, arguments.hub_revision
    examples = arguments.card_examples
    return {
        "repo_id": repo_id, "private": private, "revision": revision, "token": token, "card_examples": examples
    }  # fmt: skip


def push_run(folder: Path, destination: dict[str, Any]) -> PushResult:
    """Push the finished folder of a run.

    If it cannot be pushed, a [`UserError`] contains the command that pushes it later.
    """
    try:
        return push(folder, **destination)
    except UserError as error:
        revision = destination["revision"]
        again = ["hf-rnn", "push", "--model", str(folder), "--repo_id", destination["repo_id"]]
        again += ["--private"] * bool(destination["private"]) + ([] if revision is None else ["--revision", revision])
        raise UserError(
            f"the finished model is in {folder}, but {error}. To push it later: {shlex.join(again)}"
        ) from error
