"""Train: read the data, build tokenizer and model, fit, evaluate, and save a finished folder."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import shlex
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import datasets
import numpy as np
import sklearn.metrics  # noqa: F401 - draws from `random`, so before a seed is set
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.trainer_utils import IntervalStrategy

from ..data.report import DataReport
from ..data.sources import join_splits
from ..hub.client import connect, explain_errors, find_token
from ..hub.push import check_repo_id, push
from ..inference.torch import compute_logits
from ..models.auto import head_class
from ..models.cells_rnn import find_cell
from ..models.configuration_rnn import RnnConfig
from ..models.pooling_rnn import find_pooler
from ..models.settings_rnn import IGNORED_LABEL, RnnSettings
from ..settings.resolve import Settings, resolve
from ..settings.training_arguments import RnnTrainingArguments, multiplies_bfloat16
from ..tasks import Splits, Task, get_task
from ..tasks.causal_lm import sum_losses
from ..tokenizers.word_level import count_ids
from ..utils.errors import UserError, reason_of
from ..utils.process import library_bars_off, one_at_a_time, only_errors
from .few_rows import WITHOUT_EFFECT, fit_few_rows
from .folder import (
    REJECTED_ROWS,
    TrainingStopped,
    check_apart,
    check_unchanged,
    fingerprint_run,
    open_output,
    remove_checkpoints,
    replace_model,
)
from .prepare import (
    Extension,
    Fit,
    Run,
    Tokens,
    make_tokens,
    prepare_run,
)
from .rows import EpochRows
from .save import (
    TrainingResult,
    describe_data,
    round_weights,
    write_folder,
)
from .score import DIVERGED, fit_baseline, score
from .trainer import SAMPLE_WEIGHT, RnnTrainer, weighted_loss
from .wide import fit_wide

if TYPE_CHECKING:
    from ..settings.keywords import TrainKeywords

logger = logging.getLogger(__name__)

_ENDLESS = 1e6  # epochs of a run that ends by the clock
_USUAL_LENGTH = 40  # tokens of a text that row_budget counts once
_SAMPLE = 1000  # training texts that are measured
_LEAST_EPOCHS = 2  # that row_budget gives many rows; one if their texts are long
_LONG = 128  # tokens of a text that an epoch reads
_MOST_EPOCHS = 20  # that it gives few rows
_LEAST_ROWS = 8000  # that a run reads: 64 rows per class of the emotions gain five points
# times few_rows: up to this number of rows per class, a training is repeated with all rows
_REPEATED = 4


@one_at_a_time()
def train(
    data: object = None,
    output_dir: str | Path | None = None,
    *,
    train: object = None,
    validation: object = None,
    test: object = None,
    **settings: Unpack[TrainKeywords],
) -> TrainingResult:
    """Train a model and save a finished folder.

    Args:
        data: The texts: a folder or file as for `data_dir`, or training rows in memory: a
            `Dataset`, a frame of pandas or polars, or a list of dicts or of pairs (text, label). A
            `DatasetDict` or a dict holds all splits.
        output_dir: Folder for the finished model; by default a new one with the name of the data
            and the date.
        train: Training rows in memory, in place of `data`.
        validation: Validation rows in memory. Without them a part of train is held out.
        test: Test rows in memory.
        settings: Settings by the names of the command's flags. `recipe` names the recipe below
            them: `default`, another name, a file, or a mapping.

    Raises:
        UserError: For a mistake in settings or data. An earlier model in the folder is left as it
            was.
        TrainingStopped: After SIGTERM or Ctrl-C, when a checkpoint to resume from is saved.

    Example:
        >>> result = train("data/tweets", "out", num_train_epochs=5)
        >>> result.metrics["validation"]["macro_recall"]
        >>> result = train([("so good", "positive"), ("so bad", "negative")] * 50, "out2")
    """
    rows, chosen = read_call(data, output_dir, (train, validation, test), settings)
    return run_training(resolve(chosen), data=rows)


def read_call(
    data: object,
    output_dir: str | Path | None,
    splits: tuple[object, object, object],
    settings: Mapping[str, Any],
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
    """Return the rows in memory by split, and the settings, of a call of [`train`]."""
    train, *others = splits
    settings = settings if output_dir is None else {**settings, "output_dir": output_dir}
    if isinstance(data, str | Path):
        return join_splits(train, *others), {**settings, "data_dir": data}
    if data is not None and train is not None:
        raise UserError("data and train are both given: leave out one of them")
    return join_splits(data if train is None else train, *others), settings


@library_bars_off()
def run_training(
    settings: Settings, extension: Extension | None = None, data: Mapping[str, Any] | None = None
) -> TrainingResult:
    """Read the data, train, and push the folder if asked for; see [`train_on`].

    `data` are rows in memory by split.
    """
    training = settings.training
    check_early(settings)
    report = DataReport()
    is_main = training.process_index == 0
    destination = find_destination(training) if is_main else None
    source = settings.data.data_dir or settings.data.dataset_name or "rows in memory"
    with open_output(training) as (folder, checkpoint):
        logger.info("reading %s", source)
        texts = get_task(settings.data.task).read(
            settings.data,
            report=report,
            data=data,
            class_names=settings.data.class_names,
            rejected_path=folder.root / REJECTED_ROWS if is_main else None,
        )
        logger.info("preparing %s rows of train", f"{len(texts['train']):,}")
        result = train_on(texts, report, settings, checkpoint, extension)
        training.distributed_state.wait_for_everyone()  # every process may read the folder now
    if destination is None:
        return result
    return push_result(result, destination)


def push_result(result: TrainingResult, destination: Mapping[str, Any]) -> TrainingResult:
    """Push a finished folder; see [`find_destination`]. An error says how to push it later."""
    try:
        return dataclasses.replace(result, url=push(result.folder, **destination).url)
    except UserError as error:
        command = ["hf-rnn", "push", "--model", str(result.folder)]
        command += ["--repo_id", destination["repo_id"]]
        if destination["private"]:
            command.append("--private")
        if destination["revision"] is not None:
            command += ["--revision", destination["revision"]]
        raise UserError(
            f"the finished model is in {result.folder}, but {error}. "
            f"To push it later: {shlex.join(command)}"
        ) from error


@torch.inference_mode(False)  # the caller may have turned gradients off
def train_on(
    texts: Splits,
    report: DataReport,
    settings: Settings,
    checkpoint: Path | None = None,
    extension: Extension | None = None,
) -> TrainingResult:
    """Train on splits as the task reads them, with counts of rows, and save a finished folder.

    `settings` are accepted by [`check_early`], and nobody else writes the folder; `checkpoint` is
    the one to resume from. The run may leave the default start, see [`decide_start`].
    """
    run = prepare_run(texts, report, settings, extension or Extension())
    tokens = make_tokens(run)
    model = make_model(run, tokens)
    fit = fit_model(run, tokens, model, checkpoint)
    round_weights(model, settings.training.weights_dtype)
    fit = fit_wide(run, tokens, fit)
    round_weights(model, settings.training.weights_dtype)
    metrics, fit = score(run, tokens, fit)
    learned_held_out = learn_held_out(run, tokens, fit)
    linear = fit_baseline(run, tokens, metrics.get("typos"))
    metrics["data"] = describe_data(run, learned_held_out=learned_held_out)
    if run.is_main:
        replace_model(run.folder, lambda new: write_folder(new, run, tokens, fit, metrics, linear))
        remove_checkpoints(run.folder)
        logger.info("the finished model is in %s", run.folder.root)
        if "advice" in metrics["card"]:
            logger.warning(metrics["card"]["advice"])
    return TrainingResult(run.folder.root, metrics)


# ---- model ----


def make_config(model_args: RnnSettings, **fields: object) -> RnnConfig:
    """Return the configuration of a model, with `fields` that data and tokenizer decide."""
    try:
        config = RnnConfig(**{**dataclasses.asdict(model_args), **fields})
        find_cell(config)
        find_pooler(config)
        return config
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(reason_of(error.__cause__ or error)) from error


def make_model(run: Run, tokens: Tokens) -> PreTrainedModel:
    """Return the model of a run, with the weights of its start, or with vectors."""
    set_seed(run.settings.training.seed)
    tokenizer = tokens.tokenizer
    size = count_ids(tokenizer)
    fields: dict[str, Any] = {"task": run.task.name, "vocab_size": size}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        fields[name] = getattr(tokenizer, name)
    if run.settings.data.text_pair_column is not None:
        fields["sep_token_id"] = tokenizer.sep_token_id
    if run.start is not None and size >= count_ids(run.start.tokenizer):
        # its table may have more rows than tokens
        fields["vocab_size"] = max(size, run.start.model.config.vocab_size)
    if tokens.vectors is not None:
        fields["embedding_size"] = tokens.vectors.matrix.shape[1]
    fields |= run.extension.config_fields
    fields |= run.task.config_fields(run.texts)

    model = head_class(run.task.architecture)(make_config(run.settings.model, **fields))
    words = getattr(model, "words", None)
    if words is not None:
        words.read(tokenizer.convert_ids_to_tokens(range(size)))
    if tokens.vectors is not None:
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(tokens.vectors.matrix)
    if run.start is not None:
        run.start.copy_weights(model, tokenizer)
    if words is not None:
        # rows that the encoder never reads: zero is exact in the types of stored tables
        model.get_input_embeddings().weight.data[words.marks] = 0
    return model


# ---- fit ----


def fit_model(run: Run, tokens: Tokens, model: PreTrainedModel, checkpoint: Path | None) -> Fit:
    """Train a model in steps, or fit it to few rows."""
    trainer = make_trainer(run, tokens, model, run.extension.quiet)
    if checkpoint is None and run.extension.loss is None and run.has_few_rows():
        return fit_contrast(run, tokens, trainer)
    trainer.args.num_train_epochs = choose_epochs(run, trainer)
    made_from = fingerprint_run(tokens.examples, model.config, trainer.args)
    trainer.record.made_from = {**made_from, **tokens.decisive}
    return Fit(trainer, take_steps(trainer, checkpoint))


def fit_contrast(run: Run, tokens: Tokens, trainer: RnnTrainer) -> Fit:
    """Fit a model to few rows; see [`fit_few_rows`]."""
    rows = tokens.examples["train"]
    logger.info(
        "%d training rows, at most %d per class, are few: contrast of classes, then logistic "
        "regression for the last layer; --few_rows 0 trains as usual",
        len(rows),
        run.settings.training.few_rows,
    )
    user = run.settings.layers.user
    unused = [name for name in WITHOUT_EFFECT if user.get(name) is not None]
    if unused:
        logger.warning("no effect of %s: few_rows has its own steps", ", ".join(unused))
    numbers = fit_few_rows(run, trainer.model, tokens.tokenizer, rows)
    return Fit(trainer, numbers, few_rows=True)


def make_trainer(run: Run, tokens: Tokens, model: PreTrainedModel, quiet: bool) -> RnnTrainer:
    """Return the Trainer of a run; its checkpoints are below the finished folder."""
    from ..evaluation.modules import TaskScores  # it imports the library `evaluate`

    args = copy.copy(run.settings.training)
    examples = tokens.examples
    tokenizer = tokens.tokenizer
    args.output_dir = str(run.folder.checkpoints)
    args.push_to_hub = False  # only the finished folder is pushed
    if "validation" not in examples:
        args.eval_strategy = IntervalStrategy.NO
        args.do_eval = False
        args.load_best_model_at_end = False
        args.early_stopping_patience = None
    metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
    args.greater_is_better = {"loss": False, **run.task.scores}[metric]
    scores = TaskScores(run.task.evaluate, model.config)
    has_token_labels = run.task.per_token or run.task.generates
    trainer = RnnTrainer(
        model=model,
        args=args,
        train_dataset=examples["train"],
        eval_dataset=examples.get("validation"),
        processing_class=tokenizer,
        compute_metrics=lambda output: scores.compute(
            predictions=output.predictions, references=output.label_ids
        ),
        data_collator=DataCollatorForTokenClassification(tokenizer) if has_token_labels else None,
        loss=run.extension.loss or weighted_loss,
        loss_columns=[SAMPLE_WEIGHT, *run.extension.loss_columns],
        answer=partial(answer, run.task, tokenizer, args.per_device_eval_batch_size),
        quiet=quiet,
    )
    window = find_window(run, model)
    if args.typos or window:
        trainer.epoch_rows = EpochRows(run, tokenizer, examples["train"], window)
    if args.process_index == 0 and args.overwrite_output_dir:
        trainer.on_begin = partial(remove_checkpoints, run.folder)
    return trainer


def answer(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    model: PreTrainedModel,
    rows: datasets.Dataset,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs of a model in evaluation mode for rows, and their labels."""
    if task.generates:
        return sum_losses(model, rows), np.empty(0)
    logits = compute_logits(model, tokenizer, rows["input_ids"][:], batch_size).numpy()
    labels = rows["labels"][:]
    if not task.per_token:
        return logits, np.asarray(labels)
    padded = np.full(logits.shape[:2], IGNORED_LABEL)
    for place, row in zip(padded, labels, strict=True):
        place[: len(row)] = row
    return logits, padded


def find_window(run: Run, model: PreTrainedModel) -> int:
    """Return the most tokens of a training text that an epoch reads; 0 where it reads all."""
    is_text = not run.task.per_token and not run.task.generates
    if not is_text or model.config.sep_token_id is not None:
        return 0
    return run.settings.training.train_window


def choose_epochs(run: Run, trainer: RnnTrainer) -> float:
    """Return the epochs of a run: those of its settings, or of `row_budget`."""
    training = run.settings.training
    if training.max_minutes is not None:
        return _ENDLESS
    if training.max_steps > 0 or training.row_budget is None:
        return training.num_train_epochs
    rows = trainer.train_dataset
    window = find_window(run, trainer.model) or math.inf
    sample = rows.select(range(min(len(rows), _SAMPLE)))["input_ids"]
    length = statistics.mean(min(len(ids), window) for ids in sample)
    epochs = spend_budget(training, len(rows), length)
    if epochs != training.num_train_epochs:
        few = "few" if epochs > training.num_train_epochs else "many"
        logger.info(
            "%s training rows are %s: this run has %d epochs in place of %g; set num_train_epochs "
            "for another number",
            f"{len(rows):,}",
            few,
            epochs,
            training.num_train_epochs,
        )
    return epochs


def spend_budget(training: RnnTrainingArguments, rows: int, length: float) -> float:
    """Return the epochs that `row_budget` gives rows of this mean length."""
    budget = training.row_budget or 0
    counted = rows * max(1, length / _USUAL_LENGTH)
    least = _LEAST_EPOCHS if length < _LONG else 1
    epochs = min(training.num_train_epochs, max(least, int(budget // counted)))
    return max(epochs, min(_MOST_EPOCHS, min(_LEAST_ROWS, budget) // rows))


def take_steps(trainer: RnnTrainer, checkpoint: Path | None) -> dict[str, Any]:
    """Train, from a checkpoint if one is given.

    Return `epochs`, `steps`, `seconds` and `loss` of the training; after a resume the loss is the
    mean of those that were logged.
    Raises a [`UserError`] for weights that are not finite, and [`TrainingStopped`] after a signal.
    """
    if checkpoint is not None:
        check_unchanged(checkpoint, trainer.record.made_from)
        logger.info("resuming from %s", checkpoint)
    with trainer.stop_request as request:
        outcome = trainer.train(None if checkpoint is None else str(checkpoint))
    if trainer.asked_to_stop():  # after the last step, too late to save
        raise TrainingStopped(request.number, None)
    for name, weight in trainer.model.named_parameters():
        if not weight.isfinite().all():
            raise UserError(DIVERGED.format(f"{name} has NaN or infinite values"))
    loss = outcome.metrics["train_loss"]
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if checkpoint is not None and logged:
        loss = statistics.mean(logged)
    numbers = {
        "epochs": trainer.state.epoch,
        "steps": outcome.global_step,
        "seconds": round(trainer.record.measure(), 1),
        "loss": loss,
    }
    if trainer.args.max_minutes is not None:
        numbers["max_minutes"] = trainer.args.max_minutes
        trainer.args.num_train_epochs = trainer.state.epoch
    return numbers


# ---- save ----


def learn_held_out(run: Run, tokens: Tokens, fit: Fit) -> bool:
    """With few rows, learn those held out for the scores too; return whether that was done.

    The last layer is fitted again, or all weights are trained again for the same number of epochs:
    at 64 rows per class of three sets, the last epoch on all rows is better by .025 than the best
    one on nine tenths.
    """
    training = run.settings.training
    fixed = training.calibrate or training.max_minutes or run.extension.loss
    if not run.report.held_out or fixed or not run.has_few_rows(_REPEATED):
        return False
    logger.info(
        "the rows are few: after its scores, the model learns from the %d rows held out too",
        len(tokens.examples["validation"]),
    )
    whole, all_tokens = join_held_out(run, tokens)
    with only_errors():  # the start was logged once
        model = make_model(whole, all_tokens)
    again = make_trainer(whole, all_tokens, model, quiet=True)
    if fit.few_rows:
        fit_few_rows(whole, again.model, tokens.tokenizer, all_tokens.examples["train"])
    else:
        again.on_begin = None  # the checkpoints of the first training stay
        again.args.num_train_epochs = fit.trainer.args.num_train_epochs
        again.args.save_strategy = IntervalStrategy.NO
        take_steps(again, None)
    if fit.wide is not None:
        fit_wide(whole, all_tokens, Fit(again, fit.numbers), known=fit.wide)
        fit.trainer.model.attach_ngrams(again.model.ngrams.state_dict())
    round_weights(again.model, training.weights_dtype)
    fit.trainer.model.load_state_dict(again.model.state_dict())
    return True


def join_held_out(run: Run, tokens: Tokens) -> tuple[Run, Tokens]:
    """Return a run, and its tokens, whose training rows are those of train and validation."""
    rows = tokens.examples["train"]
    held_out = tokens.examples["validation"]
    if SAMPLE_WEIGHT in rows.column_names:
        held_out = held_out.add_column(SAMPLE_WEIGHT, np.ones(len(held_out)))
    examples = datasets.concatenate_datasets([rows, held_out.cast(rows.features)])
    texts = run.texts["train"]
    held_out_texts = run.texts["validation"].cast(texts.features)
    all_texts = datasets.concatenate_datasets([texts, held_out_texts])
    return (
        dataclasses.replace(run, texts=datasets.DatasetDict(train=all_texts)),
        dataclasses.replace(tokens, examples=datasets.DatasetDict(train=examples)),
    )


# ---- checks ----


def check_early(settings: Settings) -> None:
    """Raise a [`UserError`] for wrong or contradicting settings, before the data are read."""
    data = settings.data
    training = settings.training
    task = get_task(data.task)
    if training.calibrate and not task.one_label:
        raise UserError(
            f"calibrate is for one label per text: found the task {task.name}; leave it out"
        )
    task.check_settings(settings.model, training)
    scores = ("loss", *task.scores)
    metric = training.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in scores:
        raise UserError(
            f"unknown metric_for_best_model: found {metric!r}; choose one of {', '.join(scores)}"
        )
    sources = {
        name: getattr(data, name)
        for name in ("tokenizer_name_or_path", "model_name_or_path", "vectors")
    }
    check_apart(training.output_dir, sources)
    if training.dataloader_drop_last:
        raise UserError("dataloader_drop_last leaves rows out of training and scores: leave it out")
    make_config(settings.model)
    if training.bf16 and training.device.type == "cpu" and not multiplies_bfloat16(use_cpu=True):
        logger.warning(
            "bf16 is slower here: torch finds no bfloat16 instructions in this processor; "
            "leave out bf16"
        )


# ---- push_to_hub ----


def find_destination(training: RnnTrainingArguments) -> dict[str, Any] | None:
    """Return the arguments of [`push`] for a run, or None without `push_to_hub`.

    The settings are those of transformers: `hub_model_id` (by default the name of `output_dir`, and
    the user's own), `hub_private_repo`, `hub_revision` and `hub_token`. Checkpoints are not pushed,
    whatever `hub_strategy` is. Raises a [`UserError`] without a token, for a token that the Hub
    refuses, and for an invalid repo id.
    """
    if not training.push_to_hub:
        return None
    name = training.hub_model_id or Path(str(training.output_dir)).resolve().name
    token = find_token(training.hub_token)
    with explain_errors("the Hub cannot check the token"):
        # also with a full name: it finds a refused token before the training
        user = connect(token).whoami()["name"]
    repo_id = name if "/" in name else f"{user}/{name}"
    check_repo_id(repo_id)
    options = {"private": training.hub_private_repo, "revision": training.hub_revision}
    return {"repo_id": repo_id, **options, "token": token, "card_examples": training.card_examples}
