"""Train: read the data, build tokenizer and model, fit, evaluate, and save a finished folder."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import shlex
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import sklearn.metrics  # noqa: F401 - its import draws from `random`, so it must come before a seed is set
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.trainer_utils import IntervalStrategy, PredictionOutput

from ..data.loading import join_splits
from ..data.row_errors import DataReport
from ..data.vectors import Vectors
from ..evaluation.calibration import calibrate
from ..hub.client import find_user, token_advice
from ..hub.push import PushResult, check_repo_id, find_token, push
from ..inference.engines.torch import fast_logits
from ..inference.predictor import FastRnn
from ..inference.stream import find_unstable_text, measure_prefixes
from ..models.auto import head_class
from ..models.configuration_rnn import RnnConfig
from ..settings.arguments import ModelArguments
from ..settings.keywords import TrainKeywords
from ..settings.merge import Arguments, parse_settings
from ..settings.training_arguments import RnnTrainingArguments
from ..tasks import get_task
from ..tasks.base import Splits
from ..tasks.causal_lm import sum_losses
from ..tokenizers.word_level import count_ids, mark_capitals
from ..utils.errors import UserError, reason_of
from ..utils.process import library_bars_off, one_at_a_time
from .checkpoints import (
    REJECTED_ROWS,
    TrainingStopped,
    check_apart,
    check_unchanged,
    fill,
    open_output,
    read_manifest,
    remove_checkpoints,
    take_fingerprint,
)
from .few_rows import WITHOUT_EFFECT, fit_last_layer, has_few_rows, join_rows
from .language import suit_language
from .run import Extension, Run, WarmStart, audit_texts, make_tokenizer, name_output_weights, read_vectors
from .save import TrainingResult, describe_data, warn_if_linear_wins, write_folder
from .trainer import SAMPLE_WEIGHT, RnnTrainer

logger = logging.getLogger(__name__)

_RATES = ("learning_rate", "embedding_learning_rate", "head_learning_rate")
# Times the loss of guessing: a run is refused, or warned about.
_MAX_LOSS_RATIO, _HIGH_LOSS_RATIO = 100, 3
_IGNORED = -100  # label of a token that does not count
_USUAL_LENGTH = 500  # characters of a text that row_budget counts once
_LEAST_EPOCHS, _MOST_EPOCHS = 2, 20  # limits of row_budget and of row_floor
_STREAM_SAMPLE, _NO_LENGTH = 1000, int(1e30)  # texts to check the tokenizer with; as transformers writes no limit
_FEW_TEXTS = 500  # with fewer training rows, a token that occurs twice is kept
_TRIAL_BATCHES = (8, 40)  # timed for max_minutes


@one_at_a_time()
def train(
    data: Any = None,
    output_dir: str | Path | None = None,
    *,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    **settings: Unpack[TrainKeywords],
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
    rows, given = read_call(data, output_dir, train, validation, test, settings)
    return run_training(parse_settings(given), data=rows, given=given)


def read_call(
    data: Any, output_dir: Any, train: Any, validation: Any, test: Any, settings: Mapping[str, Any]
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
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
    destination = find_destination(training_args) if training_args.process_index == 0 else None
    with open_output(training_args) as (folder, checkpoint):
        report = DataReport()
        texts = get_task(data_args.task).read(
            data_args,
            data=data,
            class_names=data_args.class_names,
            rejected_path=folder.root / REJECTED_ROWS if training_args.process_index == 0 else None,
            report=report,
        )
        result = train_on(texts, report, arguments, checkpoint, extension=extension, given=given)
        training_args.distributed_state.wait_for_everyone()  # every process may read the folder now
    if destination is None:
        return result
    return dataclasses.replace(result, url=push_run(result.folder, destination).url)


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

    `arguments` are accepted by [`check_early`], and nobody else writes the folder; `checkpoint` is the one to resume
    from. With the settings that are `given` by the user, the run may leave the default start, see [`suit_language`].
    `sample_weights` weigh the training rows in the loss. `task_specific_params` become part of the configuration. A
    `quiet` run shows neither bars nor a line per epoch.
    """
    task, extension = get_task(arguments.data.task), extension or Extension()
    if arguments.training.calibrate and "validation" not in texts:
        raise UserError("calibrate needs rows that are not trained on: give a validation split, or leave it out")
    arguments, start_note = suit_language(arguments, given, task, task.vocabulary_texts(texts["train"]))
    run = suit_vocabulary(Run(task, arguments, texts, report), given or {})

    # texts to ids
    start = None if run.arguments.data.model_name_or_path is None else WarmStart(run.arguments.data.model_name_or_path)
    words = chain(task.vocabulary_texts(texts["train"]), extension.read_texts(run))
    tokenizer = make_tokenizer(run.arguments.data, words)
    run, tokenizer, vectors = read_vectors(run, tokenizer)
    audit = audit_texts(run, tokenizer)
    if run.arguments.model.streaming:
        suit_stream(run, tokenizer)
    if task.per_token and run.arguments.model.word_forms:
        mark_capitals(tokenizer)
    length = run.arguments.training.block_size if task.verb == "generate" else run.arguments.data.max_length
    examples = task.encode(texts, tokenizer, length)
    if sample_weights is not None:
        weights = (sample_weights / sample_weights.mean()).astype(np.float32)
        examples["train"] = examples["train"].add_column(SAMPLE_WEIGHT, weights)
    examples, decisive = extension.add_rows(run, tokenizer, examples)

    # the model and its training
    few_rows = checkpoint is None and extension.loss is None and has_few_rows(run)
    run = run if few_rows else suit_epochs(run, len(examples["train"]))
    model = make_model(run, tokenizer, start, vectors, task_specific_params)
    trainer = make_trainer(run, model, tokenizer, examples, extension, quiet)
    if few_rows:
        training = fit_few_rows(run, model, tokenizer, examples, given or {})
    else:
        run = plan_epochs(run, trainer, checkpoint)
        trainer.made_from = take_fingerprint(examples, tokenizer, model, trainer.args, **decisive)
        training = fit(trainer, checkpoint)

    # the scores
    from ..evaluation.modules import TaskScores  # it imports the library `evaluate`

    scores = TaskScores(task.evaluate, model.config)
    chance_loss = task.chance_loss(model.config)
    predictions = {split: predict(trainer, examples[split]) for split in ("validation", "test") if split in examples}
    calibration = None
    if run.arguments.training.calibrate:
        calibration = calibrate((model.get_parameter(name) for name in name_output_weights(model)), predictions)
    task.complete(model, predictions, lambda split: predict(trainer, examples[split]))
    metrics = {
        split: scores.compute(predictions=output.predictions, references=output.label_ids)
        for split, output in predictions.items()
    }
    rows = {"rows": sum(report.label_counts["train"])}
    metrics["training"] = {**rows, **training, "parameters": model.num_parameters()}
    if calibration is not None:
        metrics["calibration"] = calibration
    if run.arguments.model.streaming and not task.per_token and predictions:
        split = next(iter(predictions))
        rows, streamed = examples[split], FastRnn(model.eval(), tokenizer)
        metrics["streaming"] = {"split": split, **measure_prefixes(streamed, rows["input_ids"][:], rows["labels"][:])}
    metrics |= extension.measure(run, model.config, predictions)
    check_loss(metrics, chance_loss, run.arguments.training)

    # the folder
    learned_too = few_rows and report.held_out and calibration is None
    if learned_too:
        message = "few_rows: after its scores, the last layer learns from the %d rows held out too"
        logger.info(message, len(examples["validation"]))
        fit_last_layer(run, model, tokenizer, join_rows(examples["train"], examples["validation"]))
    metrics["data"] = describe_data(run, learned_held_out=bool(learned_too))
    if not run.is_main:
        return TrainingResult(run.folder.root, metrics)
    facts = {
        "audit": audit,
        "unknown_token_share": None if audit is None else audit["unknown_token_share"].get("validation"),
        "vectors": None if vectors is None else vectors.describe(),
        "start": None if start is None else start.describe(model),
        "calibration": calibration,
        "start_note": start_note,
        "teacher": metrics.get("teacher"),
    }
    card = fill(run.folder, lambda new: write_folder(new, run, model, tokenizer, trainer, metrics, facts, extension))
    remove_checkpoints(run.folder)
    logger.info("the finished model is in %s", run.folder.root)
    warn_if_linear_wins(run, card, metrics)
    return TrainingResult(run.folder.root, metrics, card)


# ---- settings that follow the rows ----


def suit_stream(run: Run, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer read texts of any length, unless the user limits it; refuse one that needs whole texts."""
    if run.arguments.data.max_length is None:
        tokenizer.model_max_length = _NO_LENGTH
    sample = islice(run.task.vocabulary_texts(run.texts["train"]), _STREAM_SAMPLE)
    if find_unstable_text(lambda texts: tokenizer(texts)["input_ids"], sample) is not None:
        raise UserError(
            "streaming needs tokens that do not depend on later words, and those of tokenizer "
            f"{run.arguments.data.tokenizer} do: choose word or bpe"
        )


def suit_vocabulary(run: Run, given: Mapping[str, Any]) -> Run:
    """Return the run with a `min_frequency` for few rows and for characters, unless the user gave one."""
    data, rows = run.arguments.data, sum(run.report.label_counts["train"])
    new = data.tokenizer_name_or_path is None and data.model_name_or_path is None
    most = 1 if data.tokenizer == "char" else 2  # a word of one text can be private
    if not new or rows >= _FEW_TEXTS or data.min_frequency <= most or given.get("min_frequency") is not None:
        return run
    logger.info(
        "%d training rows are few: words that occur %s stay (min_frequency)", rows, ("once", "twice")[most - 1]
    )
    return run.change("data", min_frequency=most)


def suit_epochs(run: Run, rows: int) -> Run:
    """Return the run with fewer epochs as `row_budget` asks for, or more as `row_floor` does, for rows to learn."""
    training = run.arguments.training
    if training.max_steps > 0 or training.max_minutes is not None:
        return run
    epochs = training.num_train_epochs
    if training.row_budget is not None:
        length = statistics.mean(map(len, islice(run.task.vocabulary_texts(run.texts["train"]), 1000)))
        counted = rows * max(1, length / _USUAL_LENGTH)
        epochs = min(epochs, max(_LEAST_EPOCHS, int(training.row_budget // counted)))
    if training.row_floor:
        epochs = max(epochs, min(_MOST_EPOCHS, training.row_floor // rows))
    if epochs == training.num_train_epochs:
        return run
    few = "few" if epochs > training.num_train_epochs else "many"
    message = "%s training rows are %s: this run has %d epochs in place of %g; set num_train_epochs for another number"
    logger.info(message, f"{rows:,}", few, epochs, training.num_train_epochs)
    return run.change("training", num_train_epochs=epochs)


def plan_epochs(run: Run, trainer: RnnTrainer, checkpoint: Path | None) -> Run:
    """Return the run with the epochs that `max_minutes` allows, by the time of a few batches on a copy of the model.

    The Trainer gets them too. A resumed run keeps the number that was planned.
    """
    args: Any = trainer.args
    if (minutes := args.max_minutes) is None:
        return run
    if checkpoint is not None:
        epochs = read_manifest(checkpoint)["made_from"]["settings"]["num_train_epochs"]
    else:
        seconds = _measure(
            trainer.time_epoch, trainer.train_dataset, args.train_batch_size * args.world_size, args.seed
        )
        if trainer.eval_dataset is not None and args.eval_strategy != "no":
            seconds += _measure(
                lambda rows: _time(predict, trainer, rows), trainer.eval_dataset, args.eval_batch_size, args.seed
            )
        seconds = float(trainer.accelerator.gather(torch.tensor([seconds], device=args.device)).max())
        epochs = 60 * minutes / seconds
        epochs = float(int(epochs)) if epochs >= 10 else max(round(epochs, 2), 0.01)
        message = "max_minutes %g: an epoch takes about %.1f seconds, so num_train_epochs is %.3g"
        logger.info(message, minutes, seconds, epochs)
        set_seed(args.seed)
    args.num_train_epochs = epochs
    return run.change("training", num_train_epochs=epochs, max_minutes=None)


def _measure(time_rows: Callable[[Any], float], rows: Any, batch_size: int, seed: int) -> float:
    """Return the seconds for all rows, from the difference of two numbers of batches: each call also has a start."""
    rows, sizes = rows.shuffle(seed=seed), [min(len(rows), count * batch_size) for count in _TRIAL_BATCHES]
    few, many = (min(time_rows(rows.select(range(size))) for _ in range(2)) for size in sizes)
    if sizes[0] == sizes[1]:
        return few
    return max((many - few) / (sizes[1] - sizes[0]), many / sizes[1] / 10) * len(rows)


def _time(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.monotonic()
    call(*arguments)
    return time.monotonic() - start


# ---- the model and its training ----


def make_config(
    model_args: ModelArguments, *, task_specific_params: dict[str, Any] | None = None, **fields: Any
) -> RnnConfig:
    """Return the configuration of a model, with further `fields` that data and tokenizer decide.

    Raises a [`UserError`] for a setting out of range, or settings that contradict each other.
    """
    settings = {**dataclasses.asdict(model_args), **fields}
    if task_specific_params is not None:
        settings["task_specific_params"] = task_specific_params
    try:
        return RnnConfig(**settings)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(reason_of(error.__cause__ or error)) from error


def make_model(
    run: Run,
    tokenizer: PreTrainedTokenizerBase,
    start: WarmStart | None,
    vectors: Vectors | None,
    task_specific_params: dict[str, Any] | None,
) -> PreTrainedModel:
    """Return the model of a run, with the weights of its start, or with vectors."""
    set_seed(run.arguments.training.seed)
    names = ["pad_token_id", "bos_token_id", "eos_token_id"]
    names += ["sep_token_id"] * (run.arguments.data.text_pair_column is not None)
    fields: dict[str, Any] = {"task": run.task.name} | {name: getattr(tokenizer, name) for name in names}
    size = fields["vocab_size"] = count_ids(tokenizer)
    if start is not None and size >= count_ids(start.tokenizer):  # it may have more rows than tokens
        fields["vocab_size"] = max(size, start.model.config.vocab_size)
    fields |= run.task.config_fields(run.texts)
    config = make_config(run.arguments.model, task_specific_params=task_specific_params, **fields)
    model = head_class(run.task.architecture)(config)
    if (words := getattr(model, "words", None)) is not None:
        words.read(tokenizer.convert_ids_to_tokens(range(size)))
    if vectors is not None:
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(vectors.matrix)
    if start is not None:
        start.copy_weights(model, tokenizer)
    if words is not None:  # rows that the encoder never reads: zero is exact in the types of stored tables
        model.get_input_embeddings().weight.data[words.marks] = 0
    return model


def make_trainer(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Any,
    extension: Extension,
    quiet: bool,
) -> RnnTrainer:
    """Return the Trainer of a run; its checkpoints are below the finished folder."""
    args = copy.copy(run.arguments.training)
    args.output_dir = str(run.folder.checkpoints)
    args.push_to_hub = False  # only the finished folder is pushed
    if "validation" not in examples:
        args.eval_strategy, args.do_eval, args.load_best_model_at_end = IntervalStrategy.NO, False, False
        args.early_stopping_patience = None
    by_token = run.task.per_token or run.task.verb == "generate"  # whether each token has a label
    metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
    args.greater_is_better = {"loss": False, **run.task.scores}[metric]

    from ..evaluation.modules import TaskScores

    scores = TaskScores(run.task.evaluate, model.config)

    def measure(output: EvalPrediction) -> dict[str, float]:
        """Return the scores of an epoch that are one number."""
        measured = scores.compute(predictions=output.predictions, references=output.label_ids)
        return {name: value for name, value in measured.items() if isinstance(value, float)}

    def answer(model: Any, rows: Any) -> tuple[Any, Any]:
        """Return outputs and labels of rows."""
        if run.task.verb == "generate":
            return sum_losses(model, rows), np.empty(0)
        logits = fast_logits(model, tokenizer, rows["input_ids"][:], args.per_device_eval_batch_size).numpy()
        labels = rows["labels"][:]
        if not run.task.per_token:
            return logits, np.asarray(labels)
        padded = np.full(logits.shape[:2], _IGNORED)
        for place, row in zip(padded, labels, strict=True):
            place[: len(row)] = row
        return logits, padded

    trainer = RnnTrainer(
        model=model,
        args=args,
        train_dataset=examples["train"],
        eval_dataset=examples.get("validation"),
        processing_class=tokenizer,
        compute_metrics=measure,
        data_collator=DataCollatorForTokenClassification(tokenizer) if by_token else None,
        loss=extension.loss,
        loss_columns=[SAMPLE_WEIGHT, *extension.loss_columns],
        answer=answer,
        quiet=quiet,
    )
    if args.process_index == 0 and args.overwrite_output_dir:
        trainer.on_begin = partial(remove_checkpoints, run.folder)
    return trainer


def predict(trainer: RnnTrainer, rows: Any) -> PredictionOutput:
    """Return the model's outputs for rows, and their labels."""
    model, answer = trainer.model, trainer.answer
    assert answer is not None, "a run answers by the paths of inference"
    outputs, labels = answer(model.eval(), rows)
    return PredictionOutput(predictions=outputs, label_ids=labels, metrics={})


def fit(trainer: RnnTrainer, checkpoint: Path | None) -> dict[str, Any]:
    """Train, from a checkpoint if given.

    Return `epochs`, `steps`, `seconds` and `loss` of the training, with those before a resume. Raises a [`UserError`]
    for weights that are not finite, and [`TrainingStopped`] after a signal.
    """
    args: Any = trainer.args
    if checkpoint is not None:
        check_unchanged(checkpoint, trainer.made_from or {})
    with trainer.stop_request as request:
        outcome = trainer.train(None if checkpoint is None else str(checkpoint))
    if trainer.asked_to_stop():  # after the last step, too late to save
        raise TrainingStopped(request.number, None)
    broken = [name for name, weight in trainer.model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise _diverged(f"{broken[0]} has NaN or infinite values", args)
    minutes = {} if args.max_minutes is None else {"max_minutes": args.max_minutes}
    return {
        "epochs": trainer.state.epoch,
        "steps": outcome.global_step,
        "seconds": round(trainer.seconds_before + outcome.metrics["train_runtime"], 1),
        "loss": outcome.metrics["train_loss"],
        **minutes,
    }


def fit_few_rows(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Any, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Fit the last layer alone; return the numbers of this training."""
    model.to(run.arguments.training.device)
    rows, few = examples["train"], run.arguments.training.few_rows
    logger.info(
        "%d training rows, at most %d per class, are few: only the last layer is fitted, by logistic regression; "
        "--few_rows 0 trains all layers",
        *(len(rows), few),
    )
    if unused := [name for name in WITHOUT_EFFECT if given.get(name) is not None]:
        logger.warning("no effect of %s: few_rows trains without steps", ", ".join(unused))
    return fit_last_layer(run, model, tokenizer, rows)


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
    check_apart(training.output_dir, sources)
    if training.dataloader_drop_last:
        raise UserError("dataloader_drop_last leaves rows out of training and scores: leave it out")
    make_config(model)
    has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not report them
    multiplies = not has or any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if training.bf16 and training.device.type == "cpu" and not multiplies:
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
