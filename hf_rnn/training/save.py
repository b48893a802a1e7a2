"""Write the finished folder of a run: weights, tokenizer, metrics, settings, figures and card.

Nothing is pickled. The record of the settings, `training_args.json`, is a recipe that repeats the
run. The folder of a pretrained encoder also loads in sentence-transformers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import __version__
from ..data.splits import hash_texts, join_texts, read_training_rows
from ..evaluation.decisions import (
    TARGETS,
    Thresholds,
    choose_thresholds,
    describe_missing,
    draw_coverage,
    hash_rows,
    write_thresholds,
)
from ..evaluation.figures import plot_confusion_matrix, plot_learning_curve
from ..evaluation.scores import single_scores
from ..hub.card import write_card
from ..hub.model_folder import FinishedFolder, find_built_in, find_folder, read_config
from ..inference.open import fingerprint_folder
from ..linear.baseline import LinearBaseline
from ..models.auto import ENCODER, HEADS, PIPELINES, head_name
from ..models.modeling_rnn import RnnModel, list_sentence_modules
from ..settings.resolve import Settings, list_changes, record
from ..tasks import Metrics
from ..tokenizers import NO_LENGTH_LIMIT
from ..tokenizers.word_level import save_tokenizer
from ..utils.errors import UserError
from .few_rows import METHOD
from .prepare import Fit, Run, Tokens

logger = logging.getLogger(__name__)

_PACKAGES = ("transformers", "torch", "datasets", "tokenizers")
_ARCHITECTURE = (
    "cell_type", "num_hidden_layers", "hidden_size", "bidirectional", "pooling", "embedding_size",
    "vocab_size", "block_type",
)  # fmt: skip

_CARD = Path(__file__).parents[1] / "hub" / "encoder_card.md"


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        folder: The finished folder.
        metrics: Contents of its `metrics.json`: `validation` and perhaps `test` with the scores of
            the task; `training` with numbers of the run; `calibration` and `teacher` if used; in
            the process that writes the folder also `card`, with further facts of its card. An
            encoder has `texts`, `held_out` and `training` of its `pretraining.json`.
        url: Its page on the Hub, if `push_to_hub` asked for one.
    """

    folder: Path
    metrics: dict[str, Any]
    url: str | None = None

    def __repr__(self) -> str:
        """Return the folder and the main scores."""
        parts = [str(self.folder)]
        for split, scores in self._scores().items():
            shown = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
            parts.append(f"{split}: {shown}")
        return f"{type(self).__name__}({'; '.join(parts)})"

    def summarize(self) -> str:
        """Return two lines for people: scores beside simpler models, and how to use the folder."""
        if "held_out" in self.metrics:  # that of an encoder
            found = self.metrics["held_out"].items()
            shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in found)
            start = f"hf-rnn train DATA_DIR OUTPUT_DIR --model_name_or_path {self.folder}"
            return f"held-out texts: {shown}\nstart from it: {start}"
        scores = self._scores()
        split = next(reversed(scores), "training")  # test, if there is one
        parts = self._list_scores(split, list(scores[split])[:2]) if scores else []
        training = self.metrics["training"]
        minutes = training.get("max_minutes")
        if minutes is not None:
            used = f"{training['epochs']:.3g} epochs in {training['seconds'] / 60:.1f}"
            parts.append(f"{used} of {minutes:g} minutes")
        if not parts:
            parts = [f"loss {training['loss']:.3f}"]
        command = f'hf-rnn predict {shlex.quote(str(self.folder))} --text "..."'
        pipeline_tag = self.metrics.get("card", {}).get("pipeline_tag")
        if pipeline_tag == "text-generation":
            command = f'pipeline("{pipeline_tag}", "{self.folder}")'
        card = f"card: {self.folder}/README.md. Try the model: {command}"
        return f"{split}: {', '.join(parts)}\n{card}"

    def _list_scores(self, split: str, names: list[str]) -> list[str]:
        """Return scores of a split, those of the linear model, and that of the largest class."""
        metrics = self.metrics[split]
        card = self.metrics.get("card", {})
        parts = [f"{name.replace('_', ' ')} {metrics[name]:.3f}" for name in names]
        for linear in (card.get("baselines") or {}).values():
            numbers = [f"{linear[split][name]:.3f}" for name in names]
            parts.append(f"linear model {' and '.join(numbers)}")
        classes = metrics.get("per_class", {})
        counts = card.get("class_counts", {})
        if names[0] == "accuracy" and classes and counts:
            largest = max(counts, key=lambda label: counts[label])
            share = classes[largest]["support"] / max(metrics["rows"], 1)
            parts.append(f"always {largest!r} {share:.3f}")
        return parts

    def _scores(self) -> dict[str, dict[str, float]]:
        splits = [split for split in self.metrics if split in ("validation", "test")]
        by_split = {split: single_scores(self.metrics[split]) for split in splits}
        for scores in by_split.values():
            scores.pop("loss", None)
        return by_split


def name_better_model(run: Run, metrics: Metrics, linear: LinearBaseline | None) -> str | None:
    """Return what to do where the linear model has a better validation score, for log and card."""
    if linear is None or "validation" not in metrics:
        return None
    name = (run.settings.training.metric_for_best_model or "accuracy").removeprefix("eval_")
    score = metrics["validation"].get(name, 0.0)
    linear_score = linear.scores["validation"].get(name, 0.0)
    if linear_score <= score:
        return None
    advice = "hf-rnn distill, with a fine-tuned transformer and texts without labels"
    if "teacher" in metrics:
        advice = "more texts without labels"
    elif metrics["training"].get("method") == METHOD:
        advice = "--few_rows 0, which trains all weights"
    elif run.settings.data.model_name_or_path is None:
        advice = "recipe default for English texts, else recipe scratch with --vectors"
    elif run.settings.data.max_length is not None:
        advice = "a larger --max_length"
    found = f"{name} {linear_score:.3f} against {score:.3f}"
    return f"the linear model is better on validation, {found}: use it, or try {advice}"


def describe_data(run: Run, *, learned_held_out: bool) -> dict[str, Any]:
    """Return the record of the data for `metrics.json`, which other verbs read."""
    report = run.report
    source = run.settings.data.data_dir or run.settings.data.dataset_name
    start = run.settings.data.model_name_or_path
    unknown = None  # the first ancestor whose training rows are not on record
    if start is not None:
        folder = FinishedFolder(find_folder(start))
        if folder.training_rows.is_file():
            unknown = folder.read_data_record().get("unknown_rows_of")
        elif head_name(read_config(start, folder.root)) not in (ENCODER, "RnnForCausalLM"):
            unknown = Path(start).name if os.path.exists(start) else start
    splits = report.splits.items()
    return {
        "name": None if source is None else Path(os.path.abspath(source)).name,
        "files": {split: Path(counts.files[0]).name for split, counts in splits if counts.files},
        **{f"{name}_column": report.columns.get(name) for name in ("text", "text_pair", "label")},
        "rows": {split: sum(counts) for split, counts in report.label_counts.items()},
        "held_out": report.held_out,
        "learned_held_out": learned_held_out,
        "unknown_rows_of": unknown,
    }


def write_folder(
    folder: FinishedFolder,
    run: Run,
    tokens: Tokens,
    fit: Fit,
    metrics: Metrics,
    linear: LinearBaseline | None,
) -> None:
    """Write all files of a run to an empty folder, and add the section `card` to its metrics."""
    training = run.settings.training
    fit.trainer.model.save_pretrained(folder.root, weights_dtype=training.weights_dtype)
    shutil.copymode(folder.config, folder.weights)  # some versions of safetensors make it private
    save_tokenizer(tokens.tokenizer, folder.root, for_tags=run.task.per_token)
    recorded = record(run.settings)
    if not fit.few_rows and recorded.pop("max_minutes", None) is not None:
        # a repeated run takes the same steps
        recorded["num_train_epochs"] = fit.trainer.args.num_train_epochs
    write_json(folder.training_args, recorded)
    if not run.task.generates:
        np.save(folder.training_rows, list_hashes(run, metrics["data"]["learned_held_out"]))
    chosen: list[Thresholds] = []
    if fit.validation is not None:
        chosen = write_decisions(folder, run, *fit.validation)
    card = describe_run(run, tokens, fit, metrics)
    if linear is not None:
        card["baselines"] = {linear.name: linear.scores}
    card["advice"] = name_better_model(run, metrics, linear)
    card["decisions"] = {
        f"{thresholds.target:g}": {
            "rows": dataclasses.asdict(thresholds.repeated),
            "chosen_on": dataclasses.asdict(thresholds.chosen_on),
        }
        for thresholds in chosen
    }
    card["figures"] = draw_figures(folder, fit, metrics, linear, chosen)
    metrics["card"] = {name: fact for name, fact in card.items() if fact}
    write_card(folder, metrics)


def list_hashes(run: Run, learned_held_out: bool) -> np.ndarray:
    """Return the hashes of all rows that a model and its start learned, each once, in order."""
    hashes = [hash_texts(join_texts(run.texts["train"]))]
    if learned_held_out:
        hashes.append(hash_texts(join_texts(run.texts["validation"])))
    start = run.settings.data.model_name_or_path
    before = None if start is None else read_training_rows(FinishedFolder(find_folder(start)))
    if before is not None:
        hashes.append(before)
    ordered = np.sort(np.concatenate(hashes))  # np.unique takes ten times the memory
    is_first = np.append(True, ordered[1:] != ordered[:-1])
    return ordered[is_first]


def write_decisions(
    folder: FinishedFolder, run: Run, scores: np.ndarray, labels: np.ndarray
) -> list[Thresholds]:
    """Choose thresholds by scores and labels of the validation rows, and write them.

    `scores` is `(N, C)`, from 0 to 1, and `labels` are class ids `(N,)`.

    Log why some are missing.
    """
    names = list(run.task.config_fields(run.texts)["id2label"].values())
    chosen_on = hash_rows(hash_texts(join_texts(run.texts["validation"])))
    chosen = [choose_thresholds(scores, labels, names, target, chosen_on) for target in TARGETS]
    absent = [name for number, name in enumerate(names) if number not in labels]
    if absent:
        logger.warning(
            "no validation rows of label %s: no threshold can be chosen, so its answers go to a "
            "person",
            ", ".join(absent),
        )
    texts = run.texts["validation"]["text"]
    for thresholds in chosen[:2]:
        hint = describe_missing(thresholds, scores, labels, names, texts)
        if hint:
            logger.warning(hint)
            break
    write_thresholds(folder.thresholds, fingerprint_folder(folder), chosen)
    return chosen


def round_weights(model: PreTrainedModel, weights_dtype: str | None) -> None:
    """Round the weights of a model to those that will be stored, so that its scores are theirs."""
    if weights_dtype is None:
        return
    for weight in itertools.chain(model.parameters(), model.buffers()):
        if weight.is_floating_point():
            weight.data = weight.data.to(getattr(torch, weights_dtype)).to(weight.dtype)


def describe_run(run: Run, tokens: Tokens, fit: Fit, metrics: Metrics) -> dict[str, Any]:
    """Return the facts of a run for its card that no other file of its folder has."""
    settings = run.settings
    training = settings.training
    trainer = fit.trainer
    length = tokens.tokenizer.model_max_length
    # the number of epochs may have been chosen by the run
    changes = list_changes(settings) | {"num_train_epochs": trainer.args.num_train_epochs}
    selects = trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint
    return {
        "name": run.folder.root.resolve().name,
        "pipeline_tag": PIPELINES[HEADS[run.task.architecture][1]],
        "max_length": length if length < NO_LENGTH_LIMIT else None,
        **run.task.describe_rows(run.texts, training.card_examples),
        **_describe_source(settings, metrics.get("teacher") or {}),
        "audit": tokens.audit,
        "vectors": tokens.vectors and tokens.vectors.describe(),
        "start": run.start and run.start.describe(trainer.model),
        "start_note": run.start_note,
        "settings": {name: value for name, value in changes.items() if name not in _ARCHITECTURE},
        "best_metric": training.metric_for_best_model if selects else None,
        "license": training.license,
        "language": training.language,
        "tags": training.tags,
        "versions": {"hf-rnn": __version__, **{package: version(package) for package in _PACKAGES}},
    }


def draw_figures(
    folder: FinishedFolder,
    fit: Fit,
    metrics: Metrics,
    linear: LinearBaseline | None,
    chosen: Sequence[Thresholds],
) -> dict[str, str]:
    """Draw the learning curve and the figures of the task; return file names by caption."""
    figures: dict[str, str] = {}
    state = fit.trainer.state
    args = fit.trainer.args
    try:
        if state.global_step:
            best = state.best_global_step if args.load_best_model_at_end else None
            caption = plot_learning_curve(
                state.log_history, folder.learning_curve, best, args.label_smoothing_factor
            )
            figures[caption] = folder.learning_curve.name
        split = next((split for split in ("validation", "test") if split in metrics), "")
        matrix = metrics.get(split, {}).get("confusion_matrix")
        if matrix:
            names = list(fit.trainer.model.config.id2label.values())
            plot_confusion_matrix(matrix, names, folder.confusion_matrix)
            caption = f"True and predicted classes on the {split} split"
            figures[caption] = folder.confusion_matrix.name
        if fit.validation is not None:
            margins = {}
            if linear is not None:
                margins = {"linear model": linear.margins["validation"]}
            caption = draw_coverage(*fit.validation, chosen, folder.coverage, margins)
            figures[caption] = folder.coverage.name
    except UserError as error:
        logger.warning("no figures: %s", error)
        return {}
    return figures


def _describe_source(settings: Settings, teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name of the data, and the command that repeats the run if the data have a name.

    Words in capitals take the place of local paths; `fill_in` has their meaning.
    """
    data = settings.data
    flag = "data_dir" if data.dataset_name is None else "dataset_name"
    source = getattr(data, flag)
    if source is None:
        return {"dataset_name": "rows in memory"}
    inputs = {
        "DATA": (flag, source),
        "TEACHER": ("teacher", teacher.get("name")),
        "UNLABELED": ("unlabeled", (teacher.get("unlabeled") or {}).get("file")),
        "VECTORS": ("vectors", data.vectors),
        "START": ("model_name_or_path", data.model_name_or_path),
        "TOKENIZER": ("tokenizer_name_or_path", data.tokenizer_name_or_path),
    }
    verb = "distill" if teacher else "train"
    command = ["hf-rnn", verb, "--recipe", "MODEL/training_args.json"]
    fill_in = {"MODEL": "the folder of this card", "OUTPUT": "a new folder"}
    for word, (name, value) in inputs.items():
        if value is None:
            continue
        is_local = os.path.exists(value) or name == "unlabeled"
        if is_local and find_built_in(value) is None:
            fill_in[word] = f"here {Path(os.path.abspath(value)).name}"
            command += [f"--{name}", word]
        elif name in (flag, "teacher"):
            command += [f"--{name}", value]
    facts = {"command": shlex.join([*command, "--output_dir", "OUTPUT"]), "fill_in": fill_in}
    if "DATA" in fill_in:
        return {"dataset_name": Path(os.path.abspath(source)).name, **facts}
    return {"dataset_name": source, "dataset_id": source, **facts}


def write_json(path: Path, content: object) -> None:
    """Write JSON for people."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- a pretrained encoder ----


def write_encoder(
    folder: FinishedFolder,
    encoder: RnnModel,
    projection: nn.Linear,
    tokenizer: PreTrainedTokenizerBase,
    figures: Mapping[str, Any],
    settings: Settings,
) -> None:
    """Write an encoder, its tokenizer, modules of sentence-transformers, record and card."""
    training = settings.training
    weights_dtype = settings.pretraining.weights_dtype
    encoder.save_pretrained(folder.root, weights_dtype=weights_dtype)
    shutil.copymode(folder.config, folder.weights)
    save_tokenizer(tokenizer, folder.root)
    projection_dtype = torch.float32 if weights_dtype == "float32" else torch.bfloat16
    write_modules(folder.root, projection.to(projection_dtype))
    words = ["hf-rnn", "pretrain"]
    for name, value in record(settings).items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, values)]
    command = shlex.join([*words, "--output_dir", "OUT"])
    versions = {"hf-rnn": __version__, "torch": version("torch")}
    write_json(folder.pretraining, {**figures, "command": command, "versions": versions})
    header = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        license=training.license,
        language=training.language,
        tags=["hf-rnn", "recurrent", *(training.tags or ())],
    )
    facts = {
        **encoder.config.to_dict(),
        **figures,
        **figures["held_out"],
        **figures["texts"],
        "name": Path(str(training.output_dir)).resolve().name,
        "teacher": figures["teacher"]["name"],
        "size": projection.out_features,
        "command": command,
    }
    body = _CARD.read_text("utf-8").format_map(facts)
    ModelCard(f"---\n{header.to_yaml()}\n---\n\n{body}").save(folder.card)


def write_modules(root: Path, projection: nn.Linear) -> None:
    """Add the projection to the modules of sentence-transformers; vectors then have length 1."""
    write_json(root / "modules.json", list_sentence_modules("Dense", "Normalize"))
    content = {
        "in_features": projection.in_features,
        "out_features": projection.out_features,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    folder = root / "2_Dense"
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", content)
    weights = {
        f"linear.{name}": weight.detach().contiguous()
        for name, weight in projection.named_parameters()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
