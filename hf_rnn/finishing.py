"""A trained model and what is known of it → the files of a finished folder. No pickle, no path of this machine."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from .arguments import Arguments, describe_settings
from .errors import UserError
from .folder import FinishedFolder
from .model_card import CardFacts, render
from .modeling_rnn import RnnForSequenceClassification
from .plots import plot_confusion_matrix, plot_learning_curve

logger = logging.getLogger(__name__)

_PACKAGES = ("hf-rnn", "transformers", "torch", "datasets", "tokenizers")


def write_files(
    folder: FinishedFolder,
    *,
    name: str,
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    examples: datasets.DatasetDict,
    arguments: Arguments,
    metrics: Mapping[str, Any],
    log_history: list[dict[str, Any]],
) -> CardFacts:
    """Write all that a finished folder holds at its root.

    Args:
        folder: An empty folder.
        name: What the model is called.
        model: The trained model.
        tokenizer: Its tokenizer.
        examples: What it was trained and measured on, encoded.
        arguments: What it was trained with.
        metrics: Numbers by split, and those of the training itself under `training`.
        log_history: The Trainer's log.

    Returns:
        What the card says.
    """
    model.save_pretrained(folder.root)
    tokenizer.save_pretrained(folder.root)
    _write_json(folder.metrics, metrics)
    _write_json(folder.training_args, describe_settings(arguments))
    results = {split: metrics[split] for split in ("validation", "test") if split in metrics}
    class_names = list(model.config.id2label.values())
    figures = {}
    if _draw(plot_learning_curve, log_history, folder.learning_curve):
        figures["Loss and scores over epochs"] = folder.learning_curve.name
    for split in list(results)[:1]:
        if _draw(plot_confusion_matrix, results[split]["confusion_matrix"], class_names, folder.confusion_matrix):
            figures[f"True and predicted classes on the {split} split"] = folder.confusion_matrix.name
    facts = _gather_facts(name, model, tokenizer, examples, arguments)
    card = CardFacts(**facts, results=results, figures=figures, size_in_bytes=folder.weights.stat().st_size)
    folder.card.write_text(render(card), encoding="utf-8")
    return card


def _gather_facts(
    name: str,
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    examples: datasets.DatasetDict,
    arguments: Arguments,
) -> dict[str, Any]:
    """The card's facts that do not depend on how the model fared."""
    config, training = model.config, arguments.training
    counts = np.bincount(_column(examples["train"], "labels"), minlength=config.num_labels).tolist()
    data = None if arguments.data.data_dir is None else Path(arguments.data.data_dir).resolve().name
    architecture = ("cell_type", "num_hidden_layers", "hidden_size", "bidirectional", "pooling", "embedding_size")
    return {
        "name": name,
        **{field: getattr(config, field) for field in (*architecture, "vocab_size")},
        "num_parameters": model.num_parameters(),
        "dataset_name": data or "texts that were given in Python",
        "class_counts": dict(zip(config.id2label.values(), counts, strict=True)),
        "versions": {package: version(package) for package in _PACKAGES},
        "best_metric": training.metric_for_best_model if training.load_best_model_at_end else None,
        "max_length": tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None,
        "unknown_token_share": _unknown_share(examples.get("validation"), tokenizer),
        "command": data
        and f"hf-rnn train --recipe training_args.json --data_dir {shlex.quote(data)} --output_dir again",
    }


def _unknown_share(examples: datasets.Dataset | None, tokenizer: PreTrainedTokenizerBase) -> float | None:
    if examples is None or tokenizer.unk_token_id is None:
        return None
    ids = examples.with_format("arrow")[:]["input_ids"].combine_chunks().flatten().to_numpy()
    return float((ids == tokenizer.unk_token_id).mean()) if len(ids) else None


def _column(examples: datasets.Dataset, name: str) -> np.ndarray:
    return examples.with_format("arrow")[:][name].to_numpy()


def _draw(plot: Callable[..., None], *args: Any) -> bool:
    """Draw a figure, or say in one line why there is none."""
    try:
        plot(*args)
    except UserError as error:
        logger.warning("no %s: %s", Path(args[-1]).name, error)
        return False
    return True


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
