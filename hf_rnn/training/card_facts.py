"""A finished run → the facts of its card. Gathers what other modules know; computes the baselines, writes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from .. import __version__
from ..data.vectors import Vectors
from ..data.vectors.archive import split_archive
from ..evaluation.baselines import LINEAR_BASELINE, linear_scores
from ..hub.card import CardFacts
from ..models.modeling_rnn import RnnForSequenceClassification
from .arguments.run_arguments import Arguments
from .arguments.text_arguments import OF_VOCABULARY
from .settings_record import describe_settings, name_of_path
from .warm_start import StartingModel

_PACKAGES = ("transformers", "torch", "datasets", "tokenizers")
_ARCHITECTURE = (
    "cell_type", "num_hidden_layers", "hidden_size", "bidirectional", "pooling", "embedding_size", "vocab_size",
)  # fmt: skip
# What a reader wants to know of a run besides its architecture; where one is off or unset it is left out.
_SETTINGS = (
    "tokenizer", "normalizer", "lowercase", "min_frequency", "max_vocab_size", "widen_vocabulary",
    "embedding_dropout", "word_dropout", "hidden_dropout", "recurrent_dropout", "classifier_dropout",
    "classifier_activation", "freeze_embedding", "sparse_embedding", "optim", "learning_rate",
    "embedding_learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm",
    "per_device_train_batch_size", "tokens_per_batch", "gradient_accumulation_steps", "num_train_epochs", "max_steps",
    "train_sampling_strategy", "class_weight_power", "label_smoothing_factor", "early_stopping_patience", "bf16",
    "seed",
)  # fmt: skip
_ALWAYS_TOLD = ("lowercase", "seed")

_EXAMPLES = 2  # of each label
_EXAMPLE_LENGTH = 200  # characters
_LOOKED_AT = 50  # rows of a label, for one that is short enough
_LOOKED_AT_IN_STREAM = 5_000


def gather_facts(
    name: str,
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    arguments: Arguments,
    texts: datasets.DatasetDict | datasets.IterableDatasetDict,
    class_counts: Sequence[int],
    metrics: Mapping[str, Any],
    best_kept: bool = True,
    audited: Mapping[str, Any] | None = None,
    vectors: Vectors | None = None,
    start: StartingModel | None = None,
) -> CardFacts:
    """Return what the card of a trained model says, but for its files: figures and the size of the weights.

    Args:
        name: What the model is called.
        model: The trained model.
        tokenizer: Its tokenizer.
        arguments: What it was trained with.
        texts: What it was trained and measured on.
        class_counts: Training rows by class.
        metrics: Numbers by split, and those of the training itself under `training`.
        best_kept: Whether its weights are those of the best epoch rather than of the last.
        audited: Summary of the audit of these texts.
        vectors: What its embedding started from, if pretrained.
        start: What all its weights started from, if trained before.
    """
    config, training = model.config, arguments.training
    class_names = list(config.id2label.values())
    tables = isinstance(texts, datasets.DatasetDict)
    linear = linear_scores(texts, tokenizer) if training.baselines and tables else None
    unknown = (audited or {}).get("unknown_token_share", {})
    return CardFacts(
        name=name,
        **{field: getattr(config, field) for field in _ARCHITECTURE},
        num_parameters=model.num_parameters(),
        **_source(arguments, metrics.get("teacher")),
        class_counts=dict(zip(class_names, class_counts, strict=True)),
        results={split: _scores(metrics[split]) for split in ("validation", "test") if split in metrics},
        baselines=None if not linear else {LINEAR_BASELINE: linear},
        examples=_pick_examples(texts["train"], class_names) if training.card_examples else None,
        training={key: metrics["training"][key] for key in ("epochs", "steps", "seconds")},
        settings=_pick_settings(describe_settings(arguments)),
        audit=audited,
        license=training.license,
        language=tuple(training.language or ()),
        tags=tuple(training.tags or ()),
        versions={"hf-rnn": __version__, **{package: version(package) for package in _PACKAGES}},
        best_metric=training.metric_for_best_model if best_kept else None,
        max_length=tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None,
        unknown_token_share=unknown.get("validation"),
        vectors=None if vectors is None else vectors.describe(),
        start=None if start is None else start.describe(config),
        teacher=metrics.get("teacher"),
        calibration=metrics.get("calibration"),
    )


def _scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a card shows of a split: all but the table of true and predicted classes, which grows with their square."""
    return {name: value for name, value in metrics.items() if name not in ("confusion_matrix", "confusion_cells")}


def _source(arguments: Arguments, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the data is called, and the command that repeats the run where its texts can be named."""
    data, repeat = arguments.data, "hf-rnn train --recipe training_args.json"
    if teacher is not None:
        repeat = f"hf-rnn distill --recipe training_args.json --teacher {shlex.quote(teacher['name'])}"
        if teacher["unlabeled"] is not None:
            repeat += f" --unlabeled {shlex.quote(teacher['unlabeled']['file'])}"
    for flag in ("tokenizer_name_or_path", "vectors", "model_name_or_path"):
        source = getattr(data, flag)
        path = None if source is None else split_archive(Path(source))[0].resolve()
        if path is not None and path.exists():  # an id on the Hub stands among the settings
            name = name_of_path(Path(source).resolve())
            of_teacher = teacher is not None and path.parent.name == teacher["name"]
            repeat += f" --{flag} {shlex.quote(f'{path.parent.name}/{name}' if of_teacher else name)}"
    if data.dataset_name is not None:
        local = Path(data.dataset_name).exists()
        shown = Path(data.dataset_name).resolve().name if local else data.dataset_name
        command = f"{repeat} --dataset_name {shlex.quote(shown)} --output_dir again"
        return {"dataset_name": shown, "dataset_id": None if local else shown, "command": command}
    if data.data_dir is None:
        return {"dataset_name": "texts that were given in Python"}
    folder = Path(data.data_dir).resolve().name
    return {"dataset_name": folder, "command": f"{repeat} --data_dir {shlex.quote(folder)} --output_dir again"}


def _pick_settings(described: Mapping[str, Any]) -> dict[str, Any]:
    given = described.get("tokenizer_name_or_path") or described.get("model_name_or_path")
    return {
        name: described[name]
        for name in _SETTINGS
        if name in described
        and not (given and name in OF_VOCABULARY)
        and (described[name] not in (None, False, 0, "none", "word") or name in _ALWAYS_TOLD)
        and not (name == "per_device_train_batch_size" and described.get("tokens_per_batch"))
    }


def _pick_examples(
    rows: datasets.Dataset | datasets.IterableDataset, class_names: Sequence[str]
) -> dict[str, list[str]]:
    """The first few training texts of each label, short ones where there are any."""
    found: dict[str, list[str]] = {}
    if isinstance(rows, datasets.Dataset):
        labels = np.asarray(rows.with_format("arrow")[:]["label"])
        order = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[order], range(len(class_names) + 1))
        firsts = [order[start:end][:_LOOKED_AT] for start, end in pairwise(starts)]
        looked_at = iter(rows.select(np.concatenate(firsts))["text"][:])
        found = {name: list(islice(looked_at, len(places))) for name, places in zip(class_names, firsts, strict=True)}
    else:
        for row in islice(rows, _LOOKED_AT_IN_STREAM):
            found.setdefault(class_names[row["label"]], []).append(row["text"])
    picked = {}
    for name in class_names:
        of_label = sorted(found.get(name, []), key=lambda text: len(text) > _EXAMPLE_LENGTH)[:_EXAMPLES]
        picked[name] = [
            text if len(text) <= _EXAMPLE_LENGTH else text[: _EXAMPLE_LENGTH - 1] + "…" for text in of_label
        ]
    return picked
