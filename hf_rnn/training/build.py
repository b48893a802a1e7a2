"""Build the parts of a run from its settings: the tokenizer, the configuration of the model, and the Trainer."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, DataCollatorForTokenClassification, EvalPrediction, PreTrainedTokenizerBase
from transformers.trainer_utils import IntervalStrategy

from ..data.samplers import CountedStream
from ..hub.loading import check_name, find_folder, load_without_weights
from ..hub.model_folder import FinishedFolder, nested_model
from ..models.configuration_rnn import RnnConfig
from ..tasks import get_task
from ..tokenizers.word_level import train_tokenizer
from ..utils.errors import UserError, reason_of
from .language_model import LanguageModelTrainer
from .run import Run
from .settings import DataArguments, ModelArguments
from .trainer import RnnTrainer


def make_tokenizer(data_args: DataArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Train a tokenizer on the training texts, or load the one that the settings name.

    Raises a [`UserError`] for a tokenizer that cannot be loaded or cannot pad.
    """
    name, start, length = data_args.tokenizer_name_or_path, data_args.model_name_or_path, data_args.max_length
    if start is None and name is None:
        return train_tokenizer(
            texts,
            min_frequency=data_args.min_frequency,
            max_vocab_size=data_args.max_vocab_size,
            lowercase=data_args.lowercase,
            normalizer=data_args.normalizer,
            tokenizer=data_args.tokenizer,
            **{
                **({} if length is None else {"model_max_length": length}),
                **get_task(data_args.task).tokenizer_options,
            },
        )
    if start is not None:
        tokenizer = load_without_weights(start, FinishedFolder(find_folder(start)))[1]
    else:
        tokenizer = _load_tokenizer(str(name))
    if length is not None:
        tokenizer.model_max_length = length  # saved, so that prediction truncates at the same length
    return tokenizer


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    if "/" in name or Path(name).exists():  # the oldest tokenizers of the Hub have names without an owner
        check_name(name, "a tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a bare `Exception` for files of newer versions
        if (nested := nested_model(Path(name))) is not None:
            raise UserError(f"{name} holds no tokenizer. Did you mean {nested}?") from error
        raise UserError(f"the tokenizer {name} cannot be loaded: {reason_of(error)}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer {name} has no padding token: batches need one")
    if "attention_mask" not in tokenizer.model_input_names:  # true for encoders that mask nothing
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # so that it is saved
    return tokenizer


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


def make_trainer(
    run: Run, made_from: dict[str, Any], trainer_class: Callable[..., RnnTrainer] | None = None
) -> RnnTrainer:
    """Return the Trainer of a run with these fingerprints; its checkpoints are below the finished folder."""
    args = copy.copy(run.arguments.training)
    args.output_dir = str(run.folder.checkpoints)
    args.push_to_hub = False  # only the finished folder is pushed
    if "validation" not in run.examples:
        args.eval_strategy, args.do_eval, args.load_best_model_at_end = IntervalStrategy.NO, False, False
        args.early_stopping_patience = None
    train_examples: Any = run.examples["train"]
    if isinstance(train_examples, datasets.IterableDataset):
        seed = None if args.train_sampling_strategy == "sequential" else args.data_seed
        train_examples = CountedStream(train_examples, sum(run.report.label_counts["train"]), seed)
    metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
    args.greater_is_better = {"loss": False, **run.task.scores}[metric]

    def measure(output: EvalPrediction) -> dict[str, float]:
        """Return the scores of an epoch that are one number."""
        scores = run.task.evaluate(output.predictions, output.label_ids, run.model.config)
        return {name: value for name, value in scores.items() if isinstance(value, float) and name != "loss"}

    usual = RnnTrainer if run.task.verb == "predict" else LanguageModelTrainer
    build: Callable[..., RnnTrainer] = trainer_class or usual
    return build(
        model=run.model,
        args=args,
        train_dataset=train_examples,
        eval_dataset=run.examples.get("validation"),
        processing_class=run.tokenizer,
        compute_metrics=measure,
        data_collator=DataCollatorForTokenClassification(run.tokenizer) if run.task.per_token else None,
        made_from=made_from,
        class_counts=run.class_counts,
    )
