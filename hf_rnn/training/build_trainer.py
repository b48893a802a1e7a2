"""Build the Trainer of a run from model, examples and settings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import torch
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from ..data.samplers import CountedStream
from ..hub.model_folder import FinishedFolder
from ..utils.errors import UserError, reason_of
from .arguments.training_arguments import RnnTrainingArguments
from .trainer import RnnTrainer


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Mapping[str, Any],
    training_args: RnnTrainingArguments,
    folder: FinishedFolder,
    made_from: dict[str, Any] | None = None,
    class_counts: Sequence[Any] | None = None,
    kind: Callable[..., RnnTrainer] = RnnTrainer,
    *,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
    data_collator: Callable[[Any], Any] | None = None,
) -> RnnTrainer:
    """Return the Trainer of a run, with checkpoints below the finished folder.

    Args:
        model: Is trained.
        tokenizer: Pads batches, and is saved with each checkpoint.
        examples: Splits `train` and, for evaluations, `validation`, with `input_ids` and `labels`.
        training_args: Training settings.
        folder: Where the finished model will be.
        made_from: Fingerprints of the run, for its checkpoints.
        class_counts: Training rows per class; counted if absent, required for a stream.
        kind: Makes the Trainer.
        compute_metrics: Scores of an evaluation.
        data_collator: Makes batches; None pads with the tokenizer.

    Raises:
        UserError: For settings that the Trainer, the optimizer or the schedule refuses.
    """
    args = copy.copy(training_args)
    args.output_dir = str(folder.checkpoints)
    args.push_to_hub = False  # only the finished folder is pushed
    train_examples: Any = examples["train"]
    if isinstance(train_examples, datasets.IterableDataset):
        if class_counts is None:
            raise ValueError("a stream has no length: give class_counts")
        seed = None if args.train_sampling_strategy == "sequential" else args.data_seed
        train_examples = CountedStream(train_examples, sum(class_counts), seed)
    try:
        trainer = kind(
            model=model,
            args=args,
            train_dataset=train_examples,
            eval_dataset=examples.get("validation"),
            processing_class=tokenizer,
            compute_metrics=compute_metrics,
            data_collator=data_collator,
            made_from=made_from,
            class_counts=class_counts,
        )
        if training_args.torch_compile_mode is not None:  # torch would check the name in the first step
            torch._inductor.list_mode_options(training_args.torch_compile_mode)
        trainer.check_settings()
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, AttributeError, KeyError) as error:
        raise UserError(f"the Trainer refuses these settings: {reason_of(error)}") from error
    return trainer
