"""The junction: labelled texts, tokenizer, model and metrics meet in the Trainer, and a finished folder comes out.

Nothing is computed here that another module could; this is the order in which they are called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import set_seed

from ..data import DataReport, encode
from ..hub.model_folder import FinishedFolder
from ..models.modeling_rnn import RnnForSequenceClassification
from ..tokenizers.word_level import count_ids
from ..utils.process_state import library_bars_off, one_at_a_time
from . import output_dir
from .arguments.run_arguments import Arguments, ModelArguments, parse_settings
from .arguments.text_arguments import DataArguments
from .arguments.training_arguments import RnnTrainingArguments
from .audit_run import audit_run
from .build_tokenizer import load_start, make_tokenizer
from .build_trainer import make_trainer
from .calibrate_run import calibrate_run, check_calibration
from .card_facts import gather_facts
from .checkpointing.fingerprints import take_fingerprints
from .checkpointing.interrupt import TrainingStopped
from .checks import check_early, check_finite, check_loss, check_unchanged
from .measure import keeps_best, measure_run
from .model_config import make_config
from .prepare_vectors import prepare_vectors, put_vectors
from .push_run import find_destination, push_run
from .result import TrainingResult
from .save import write_files
from .settings_record import describe_settings
from .streams import with_lengths
from .teacher_hooks import Teaching
from .text_loading import join_splits, load_texts
from .trainer import SAMPLE_WEIGHT, RnnTrainer

logger = logging.getLogger(__name__)


@one_at_a_time()
def train(
    model_args: ModelArguments | None = None,
    data_args: DataArguments | None = None,
    training_args: RnnTrainingArguments | None = None,
    *,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    **settings: Any,
) -> TrainingResult:
    """Train a classifier from labelled texts and leave a finished folder.

    Args:
        model_args: Architecture.
        data_args: Texts and how they become tokens.
        training_args: How to train, and where the finished folder goes (`output_dir`).
        train: Training rows in memory, in place of `data_dir` and `dataset_name`: a `Dataset`, a frame of pandas or
            polars, a list of dicts or of pairs (text, label); or all splits, as a `DatasetDict` or a dict.
        validation: Validation rows beside `train`; without them some rows of train are held out.
        test: Test rows beside `train`.
        settings: Instead of the three: settings by the names of the command's flags, on top of the recipe `recipe`
            (`default` if not given; a name, the path of a file, or a mapping of settings).

    Raises:
        UserError: For a mistake in settings or data. Nothing of an earlier run is touched by then.
        TrainingStopped: When SIGTERM or Ctrl-C asked for it; a checkpoint to resume from is saved by then.

    Example:
        >>> result = train(data_dir="data/tweets", output_dir="out", cell_type="gru")
        >>> result.metrics["validation"]["macro_recall"]
        >>> result = train(train=[("so good", "positive"), ("so bad", "negative")] * 50, output_dir="out2")
    """
    data = join_splits(train, validation, test)
    if settings:
        if any(part is not None for part in (model_args, data_args, training_args)):
            raise TypeError(
                f"train takes three dataclasses or settings by name, not both: found {', '.join(settings)}"
            )
        return run_training(parse_settings(settings), data=data)
    if model_args is None or data_args is None or training_args is None:
        raise TypeError("train takes model_args, data_args and training_args, or settings by name: data_dir=...")
    return run_training(Arguments(model_args, data_args, training_args), data=data)


@library_bars_off()
def run_training(
    arguments: Arguments, distillation: Teaching | None = None, data: Mapping[str, Any] | None = None
) -> TrainingResult:
    """See [`train`], and with `distillation` [`~hf_rnn.training.distillation.distill`]; `data` are rows in memory by split."""
    _, data_args, training_args = arguments
    if data is None:
        data_args.check_source()
    check_early(arguments)
    folder = FinishedFolder(Path(str(training_args.output_dir)))
    main = training_args.process_index == 0  # of several processes one answers for the folder
    destination = find_destination(training_args) if main else None
    checkpoint = None
    if main or training_args.resume:
        checkpoint = output_dir.check_output_dir(
            folder,
            overwrite=training_args.overwrite_output_dir,
            resume=training_args.resume,
            processes=training_args.world_size,
            needs_best=bool(training_args.load_best_model_at_end),
        )
    report = DataReport()
    texts = load_texts(
        data_args,
        data=data,
        streaming=data_args.streaming,
        class_names=data_args.class_names,
        rejected_path=folder.root / output_dir.REJECTED_ROWS if main else None,
        report=report,
    )
    try:
        result = train_on(texts, report, arguments, checkpoint, distillation=distillation)
    except TrainingStopped as stopped:
        stopped.advice = _how_to_go_on(training_args)
        raise
    training_args.distributed_state.wait_for_everyone()  # of several processes each may read the folder now
    if destination is None:
        return result
    return dataclasses.replace(result, url=push_run(folder.root, destination).url)


def _how_to_go_on(training_args: RnnTrainingArguments) -> str:
    """What a program that was stopped calls next; the command has words of its own."""
    if training_args.save_only_model:
        return "with save_only_model there is nothing to go on from"
    changed = "" if training_args.resume else " with resume=True"
    return (
        f"to go on, repeat the call{changed}{' and overwrite_output_dir=False' * training_args.overwrite_output_dir}"
    )


@torch.inference_mode(False)  # with gradients, though the caller's program may have turned them off
def train_on(
    texts: datasets.DatasetDict | datasets.IterableDatasetDict,
    report: DataReport,
    arguments: Arguments,
    checkpoint: Path | None = None,
    *,
    distillation: Teaching | None = None,
    sample_weight: np.ndarray | None = None,
    task_specific_params: dict[str, Any] | None = None,
    quiet: bool = False,
) -> TrainingResult:
    """Train on texts that are read already, and leave a finished folder.

    Args:
        texts: Splits as [`load_tsv`] gives them, `validation` among them if anything is to be measured on the way.
        report: What the load said of them.
        arguments: Checked by [`check_early`]. Nothing in them about where the texts lie is looked at.
        checkpoint: Go on from here.
        distillation: Adds a teacher's answers, and texts that only it has labelled, to the training rows.
        sample_weight: Weights of the training rows in the loss, shape `(n,)`, not all 0.
        task_specific_params: Goes into the configuration as it is.
        quiet: Show neither bars nor a line an epoch.

    Raises:
        UserError: For texts without a word that is frequent enough, for splits that leak more than `fail_on_leak`
            allows, and for settings that do not fit together.
    """
    _, data_args, training_args = arguments
    folder = FinishedFolder(Path(str(training_args.output_dir)))
    main = training_args.process_index == 0
    words = texts["train"]["text"]
    if distillation is not None:
        distillation.read(texts)
        words = distillation.texts_with_words(words)
    start = load_start(data_args)
    tokenizer = make_tokenizer(data_args, words) if start is None else start.tokenizer
    counted = texts["train"]["text"] if isinstance(texts, datasets.DatasetDict) else None
    arguments, tokenizer, vectors = prepare_vectors(arguments, tokenizer, counted)
    audited = None
    if isinstance(texts, datasets.DatasetDict) and (main or data_args.fail_on_leak is not None):
        audited = audit_run(texts, tokenizer, data_args, report)
    examples = encode(texts, tokenizer, data_args.max_length)
    class_names = list(texts["train"].features["label"].names)
    class_counts = report.label_counts["train"]
    check_calibration(training_args, examples, class_names, class_counts)
    if distillation is not None:
        examples = distillation.teach(texts, examples, tokenizer)
    weighted_counts = class_counts
    if sample_weight is not None:
        weights = (sample_weight / sample_weight.mean()).astype(np.float32)
        ids = np.asarray(examples["train"]["labels"][:])
        weighted_counts = np.bincount(ids, weights, len(class_names)).tolist()
        examples["train"] = examples["train"].add_column(SAMPLE_WEIGHT, weights)
    set_seed(training_args.seed)
    entries = count_ids(tokenizer) if start is None else start.model.config.vocab_size
    config = make_config(arguments.model, entries, tokenizer.pad_token_id, class_names, task_specific_params)
    model = RnnForSequenceClassification(config)
    if vectors is not None:
        put_vectors(model, vectors)
    if start is not None:
        start.put_into(model)
    made_from = take_fingerprints(
        examples,
        tokenizer,
        model.config,
        training_args,
        stream=report.fingerprint,
        vectors=None if vectors is None else vectors.fingerprint(),
        start=None if start is None else start.fingerprint(),
        **({} if distillation is None else distillation.fingerprints()),
    )
    if checkpoint is not None:
        check_unchanged(checkpoint, made_from, anyway=training_args.resume_anyway)
    if main:
        output_dir.make_writable(folder)

    kind = RnnTrainer if distillation is None else distillation.trainer
    examples = with_lengths(examples, report.label_counts)
    trainer = make_trainer(model, tokenizer, examples, training_args, folder, made_from, weighted_counts, kind)
    if quiet:
        trainer.silence()
    with output_dir.hold(folder) if main else contextlib.nullcontext(), trainer.stop_request as asked:
        if main and training_args.overwrite_output_dir:
            output_dir.remove_checkpoints(folder)
        outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.asked_to_stop():  # too late for a save of its own
        raise TrainingStopped(asked.number, None)
    check_finite(model, training_args)
    calibration = calibrate_run(trainer, examples, training_args, weighted_counts) if training_args.calibrate else None
    splits: list[str] = [split for split in ("validation", "test") if split in examples]
    predicted = {split: trainer.predict(examples[split]) for split in splits}
    metrics = measure_run(trainer, outcome, predicted, class_names, class_counts)
    if calibration is not None:
        metrics["calibration"] = calibration
    check_loss(metrics, model, training_args)
    if distillation is not None:
        metrics["teacher"] = distillation.measure(predicted)
    if not trainer.is_world_process_zero():
        return TrainingResult(folder.root, metrics)
    name, history = folder.root.resolve().name, trainer.state.log_history
    facts = gather_facts(
        name,
        model,
        tokenizer,
        arguments,
        texts,
        class_counts,
        metrics,
        best_kept=keeps_best(trainer),
        audited=audited,
        vectors=vectors,
        start=start,
    )
    settings = describe_settings(arguments, None if distillation is None else distillation.settings)
    card = output_dir.fill(
        folder, lambda unfinished: write_files(unfinished, model, tokenizer, settings, metrics, history, facts)
    )
    logger.info("the finished model is in %s", folder.root)
    return TrainingResult(folder.root, metrics, card)
