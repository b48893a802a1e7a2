"""Write the finished folder of a run: weights, tokenizer, metrics, settings, figures and card. No pickle."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.vectors.vector_file import split_archive
from ..evaluation.figures import plot_learning_curve
from ..hub.card import CardFacts
from ..hub.card.files import write_card
from ..hub.model_folder import FinishedFolder
from ..tokenizers.word_level import save_tokenizer
from ..utils.errors import UserError
from .arguments.run_arguments import Arguments
from .arguments.text_arguments import VOCABULARY_SETTINGS
from .hooks import Run, RunHook
from .settings_record import describe_settings, name_of_path

logger = logging.getLogger(__name__)

_PACKAGES = ("transformers", "torch", "datasets", "tokenizers")
_ARCHITECTURE = (
    "cell_type", "num_hidden_layers", "hidden_size", "bidirectional", "pooling", "embedding_size", "vocab_size",
)  # fmt: skip
# Settings that the card shows, unless they are off.
_SHOWN_SETTINGS = (
    "normalizer", "tokenizer", "lowercase", "min_frequency", "max_vocab_size", "widen_vocabulary", "embedding_dropout",
    "word_dropout", "hidden_dropout", "recurrent_dropout", "classifier_dropout", "classifier_activation",
    "freeze_embedding", "sparse_embedding", "optim", "learning_rate", "embedding_learning_rate", "lr_scheduler_type",
    "warmup_steps", "weight_decay", "max_grad_norm", "per_device_train_batch_size", "tokens_per_batch",
    "gradient_accumulation_steps", "num_train_epochs", "max_steps", "train_sampling_strategy", "class_weight_power",
    "label_smoothing_factor", "early_stopping_patience", "bf16", "seed",
)  # fmt: skip
_SHOWN_WHEN_OFF = ("lowercase", "seed")
# A list of integers over several lines, such as a row of a confusion matrix. No JSON text contains a line break.
_INTEGERS = re.compile(r"\[\n\s*-?\d+(?:,\n\s*-?\d+)*\n\s*\]")


def write_folder(folder: FinishedFolder, run: Run, hooks: Iterable[RunHook], best_kept: bool) -> CardFacts:
    """Write all files of the finished folder.

    Args:
        folder: An empty folder.
        run: A run after its evaluation.
        hooks: Hooks of the run.
        best_kept: Whether the weights are those of the best epoch.

    Returns:
        The facts on the card.
    """
    run.model.save_pretrained(folder.root)
    shutil.copymode(folder.config, folder.weights)  # some versions of safetensors make it private
    save_tokenizer(run.tokenizer, folder.root)
    settings = describe_settings(run.arguments, next((hook.settings for hook in hooks if hook.settings), None))
    _write_json(folder.metrics, run.metrics)
    _write_json(folder.training_args, settings)
    training = run.arguments.training
    facts = {
        "name": run.folder.root.resolve().name,
        "task": run.task.name,
        "pipeline_tag": run.task.pipeline,
        **{name: getattr(run.model.config, name) for name in _ARCHITECTURE},
        "num_parameters": run.model.num_parameters(),
        **_data_facts(run.arguments, run.metrics.get("teacher")),
        **run.task.card_facts(
            run.texts,
            run.tokenizer,
            run.model.config,
            run.report,
            run.metrics,
            baselines=training.baselines,
            examples=training.card_examples,
        ),
        "training": {name: run.metrics["training"][name] for name in ("epochs", "steps", "seconds")},
        "settings": _shown_settings(settings),
        "license": training.license,
        "language": tuple(training.language or ()),
        "tags": tuple(training.tags or ()),
        "versions": {"hf-rnn": __version__, **{package: version(package) for package in _PACKAGES}},
        "best_metric": training.metric_for_best_model if best_kept else None,
        "max_length": run.tokenizer.model_max_length if run.tokenizer.model_max_length < 10**9 else None,
        "figures": draw_figures(folder, run),
        "size_in_bytes": folder.weights.stat().st_size,
    }
    for hook in hooks:
        facts |= hook.card_facts(run)
    card = CardFacts(**facts)
    write_card(folder, card)
    return card


def draw_figures(folder: FinishedFolder, run: Run) -> dict[str, str]:
    """Draw the learning curve and the figures of the task; return their captions with their file names."""
    try:
        plot_learning_curve(run.trainer.state.log_history, folder.learning_curve)
        figures = {"Loss and scores over epochs": folder.learning_curve.name}
        return figures | run.task.draw_figures(folder, run.metrics, run.model.config)
    except UserError as error:
        logger.warning("no figures: %s", error)
        return {}


def _data_facts(arguments: Arguments, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the name of the data, and the command that repeats the run if the data have a name."""
    data, command = arguments.data, ["hf-rnn", "train", "--recipe", "training_args.json"]
    if teacher is not None:
        command = ["hf-rnn", "distill", *command[2:], "--teacher", teacher["name"]]
        if teacher["unlabeled"] is not None:
            command += ["--unlabeled", teacher["unlabeled"]["file"]]
    for flag in ("tokenizer_name_or_path", "vectors", "model_name_or_path"):
        source = getattr(data, flag)
        path = None if source is None else split_archive(Path(source))[0].resolve()
        if path is not None and path.exists():  # ids on the Hub are among the settings
            name = name_of_path(Path(source).resolve())
            beside_teacher = teacher is not None and path.parent.name == teacher["name"]
            command += [f"--{flag}", f"{path.parent.name}/{name}" if beside_teacher else name]
    if data.dataset_name is not None:
        local = Path(data.dataset_name).exists()
        name = Path(data.dataset_name).resolve().name if local else data.dataset_name
        command += ["--dataset_name", name, "--output_dir", "again"]
        return {"dataset_name": name, "dataset_id": None if local else name, "command": shlex.join(command)}
    if data.data_dir is None:
        return {"dataset_name": "rows in memory"}
    name = Path(data.data_dir).resolve().name
    return {"dataset_name": name, "command": shlex.join([*command, "--data_dir", name, "--output_dir", "again"])}


def _shown_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    given = settings.get("tokenizer_name_or_path") or settings.get("model_name_or_path")
    return {
        name: settings[name]
        for name in _SHOWN_SETTINGS
        if name in settings
        and not (given and name in VOCABULARY_SETTINGS)
        and (settings[name] not in (None, False, 0, "none", "word") or name in _SHOWN_WHEN_OFF)
        and not (name == "per_device_train_batch_size" and settings.get("tokens_per_batch"))
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    text = _INTEGERS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    path.write_text(text + "\n", encoding="utf-8")
