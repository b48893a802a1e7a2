"""Write the finished folder of a run: weights, tokenizer, metrics, settings, figures and card. No pickle.

The record of the settings, `training_args.json`, is a recipe that repeats the run. The folder of a
pretrained encoder also loads in sentence-transformers.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shlex
import shutil
from collections.abc import Mapping
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
from ..data.typos import mistype_rows
from ..evaluation.decisions import (
    TARGETS,
    Thresholds,
    choose_thresholds,
    describe_missing,
    draw_coverage,
    hash_rows,
    parse_thresholds,
    write_thresholds,
)
from ..evaluation.figures import plot_confusion_matrix, plot_learning_curve, plot_streaming
from ..evaluation.linear import LinearBaseline, linear_scores
from ..evaluation.scores import single_scores
from ..hub.card import CardFacts, write_card
from ..hub.model_folder import FinishedFolder, find_built_in, find_folder, read_config
from ..inference.engines.stored import fingerprint_folder
from ..models.auto import ENCODER, HEADS, PIPELINES, head_name
from ..models.modeling_rnn import RnnModel, list_sentence_modules
from ..settings.resolve import Settings, list_changes, record
from ..tasks import get_task
from ..tokenizers import NO_LENGTH_LIMIT
from ..tokenizers.word_level import save_tokenizer
from ..utils.errors import UserError
from .few_rows import METHOD
from .run import Fit, Run, Tokens

logger = logging.getLogger(__name__)

_PACKAGES = ("transformers", "torch", "datasets", "tokenizers")
_ARCHITECTURE = (
    "cell_type", "num_hidden_layers", "hidden_size", "bidirectional", "pooling", "embedding_size", "vocab_size",
    "block_type",
)  # fmt: skip
_TRAINING = ("method", "epochs", "steps", "seconds")  # numbers of the training that the card shows
_LARGE = ("confusion_matrix",)  # metrics that grow with the square of the labels

_CARD = Path(__file__).parents[1] / "hub" / "encoder_card.md"


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        folder: The finished folder.
        metrics: Contents of its `metrics.json`: `validation` and perhaps `test` with the scores of
            the task; `training` with numbers of the run; `calibration` and `teacher` if used.
        card: The facts of its card; None in a process that does not write it.
        url: Its page on the Hub, if `push_to_hub` asked for one.
    """

    folder: Path
    metrics: dict[str, Any]
    card: CardFacts | None = None
    url: str | None = None

    def __repr__(self) -> str:
        """Return the folder and the main scores."""
        scores = {
            split: [f"{name} {value:.3f}" for name, value in by.items()]
            for split, by in self._scores().items()
        }
        parts = [f"{self.folder}", *(f"{split}: {', '.join(scores[split])}" for split in scores)]
        return f"{type(self).__name__}({'; '.join(parts)})"

    def summarize(self) -> str:
        """Return two lines for people: the scores beside simpler models, and how to use the folder."""
        scores, parts = self._scores(), []
        if split := next(reversed(scores), ""):  # test, if there is one
            names = list(scores[split])[:2]
            parts = [f"{name.replace('_', ' ')} {scores[split][name]:.3f}" for name in names]
            card, classes, name = self.card, self.metrics[split].get("per_class", {}), names[0]
            for linear in (card.baselines or {}).values() if card else ():
                parts.append(
                    f"linear model {' and '.join(f'{linear[split][name]:.3f}' for name in names)}"
                )
            if card and name == "accuracy" and classes:
                largest = max(card.class_counts, key=lambda label: card.class_counts[label])
                share = classes[largest]["support"] / max(self.metrics[split]["rows"], 1)
                parts.append(f"always {largest!r} {share:.3f}")
        if (minutes := self.metrics["training"].get("max_minutes")) is not None:
            used = self.metrics["training"]
            parts.append(
                f"{used['epochs']:.3g} epochs in {used['seconds'] / 60:.1f} of {minutes:g} minutes"
            )
        parts = parts or [f"loss {self.metrics['training']['loss']:.3f}"]
        command = f'hf-rnn predict {shlex.quote(str(self.folder))} --text "..."'
        if self.card is not None and get_task(self.card.task).generates:
            command = f'pipeline("text-generation", "{self.folder}")'
        return f"{split or 'training'}: {', '.join(parts)}\ncard: {self.folder}/README.md. Try the model: {command}"

    def _scores(self) -> dict[str, dict[str, float]]:
        by_split: dict[str, dict[str, float]] = {}
        for split in ("validation", "test"):
            if split in self.metrics:
                by_split[split] = single_scores(self.metrics[split])
                by_split[split].pop("loss", None)
        return by_split


def warn_if_linear_wins(run: Run, card: CardFacts, metrics: Mapping[str, Any]) -> None:
    """Log in one line that the linear model of the card has a better validation score, and what to try next."""
    name = (run.settings.training.metric_for_best_model or "accuracy").removeprefix("eval_")
    for linear in (card.baselines or {}).values():
        theirs, ours = (scores.get("validation", {}).get(name, 0.0) for scores in (linear, metrics))
        if theirs > ours:
            advice = "hf-rnn distill, with a fine-tuned transformer and texts without labels"
            if "teacher" in metrics:
                advice = "more texts without labels"
            elif metrics["training"].get("method") == METHOD:
                advice = "--few_rows 0, which trains all weights"
            elif run.settings.data.model_name_or_path is None:
                advice = "recipe default for English texts, else recipe scratch with --vectors"
            message = (
                "the linear model is better on validation, %s %.3f against %.3f: use it, or try %s"
            )
            logger.warning(message, name, theirs, ours, advice)


def describe_data(run: Run, *, learned_held_out: bool) -> dict[str, Any]:
    """Return the record of the data for `metrics.json`: `evaluate`, `predict` and `audit` read it."""
    report, data = run.report, run.settings.data
    source, start = data.data_dir or data.dataset_name, data.model_name_or_path
    files = {
        split: Path(files[0]).name
        for split, counts in report.splits.items()
        if (files := counts.files)
    }
    columns = {
        f"{name}_column": report.columns.get(name) for name in ("text", "text_pair", "label")
    }
    return {
        "name": None if source is None else Path(os.path.abspath(source)).name,
        "files": files,
        **columns,
        "rows": {split: sum(counts) for split, counts in report.label_counts.items()},
        "held_out": report.held_out,
        "learned_held_out": learned_held_out,
        "unknown_rows_of": None if start is None else _find_unknown(start),
    }


def _find_unknown(start: str) -> str | None:
    """Return the first ancestor whose training rows are not on record, or None; encoders have no such rows."""
    folder = FinishedFolder(find_folder(start))
    if folder.training_rows.is_file():
        return folder.read_data_record().get("unknown_rows_of")
    if head_name(read_config(start, folder.root)) in (ENCODER, "RnnForCausalLM"):
        return None
    return Path(start).name if os.path.exists(start) else start


def write_folder(
    folder: FinishedFolder, run: Run, tokens: Tokens, fit: Fit, metrics: dict[str, Any]
) -> CardFacts:
    """Write all files of a run to an empty folder, and return the facts on its card."""
    model = fit.trainer.model
    model.save_pretrained(folder.root, weights_dtype=run.settings.training.weights_dtype)
    shutil.copymode(folder.config, folder.weights)  # some versions of safetensors make it private
    save_tokenizer(tokens.tokenizer, folder.root, for_tags=run.task.per_token)
    recorded, training = record(run.settings), run.settings.training
    # a repeated run takes the same steps
    if not fit.few_rows and recorded.pop("max_minutes", None) is not None:
        recorded["num_train_epochs"] = fit.trainer.args.num_train_epochs
    write_json(folder.metrics, metrics)
    write_json(folder.training_args, recorded)
    if not run.task.generates:
        splits = ["train", "validation"] if metrics["data"]["learned_held_out"] else ["train"]
        hashes = [hash_texts(join_texts(run.texts[split])) for split in splits]
        if (start := run.settings.data.model_name_or_path) is not None:
            before = read_training_rows(FinishedFolder(find_folder(start)))
            hashes += [] if before is None else [before]
        ordered = np.sort(np.concatenate(hashes))  # np.unique takes ten times the memory
        is_first = np.append(True, ordered[1:] != ordered[:-1])
        np.save(folder.training_rows, ordered[is_first])
    if fit.validation is not None:
        chosen_on = hash_rows(hash_texts(join_texts(run.texts["validation"])))
        names = list(model.config.id2label.values())
        chosen = [
            choose_thresholds(*fit.validation, names, target, chosen_on) for target in TARGETS
        ]
        if absent := [name for number, name in enumerate(names) if number not in fit.validation[1]]:
            logger.warning(
                "no validation rows of label %s: no threshold can be chosen, so its answers go to a person",
                ", ".join(absent),
            )
        texts = run.texts["validation"]["text"][:]
        hints = [describe_missing(each, *fit.validation, names, texts) for each in chosen[:2]]
        for hint in list(filter(None, hints))[:1]:
            logger.warning(hint)
        write_thresholds(folder.thresholds, fingerprint_folder(folder), chosen)
    card = describe_run(folder, run, tokens, fit, metrics)
    run.task.fill_card(card, run.texts, training.card_examples)
    write_card(folder, card)
    return card


def round_weights(model: PreTrainedModel, weights_dtype: str | None) -> None:
    """Round the weights of a model to those that will be stored, so that its scores are those of the folder."""
    if weights_dtype is None:
        return
    for weight in itertools.chain(model.parameters(), model.buffers()):
        if weight.is_floating_point():
            weight.data = weight.data.to(getattr(torch, weights_dtype)).to(weight.dtype)


def describe_run(
    folder: FinishedFolder, run: Run, tokens: Tokens, fit: Fit, metrics: Mapping[str, Any]
) -> CardFacts:
    """Return the facts of a run for its card, and draw the figures."""
    training, trainer, config = run.settings.training, fit.trainer, fit.trainer.model.config
    best_kept = (
        trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None
    )
    has_linear = (
        training.baselines and run.task.one_label and "text_pair" not in run.texts["train"].features
    )
    linear, typos = (
        linear_scores(run.texts, tokens.tokenizer) if has_linear else None,
        metrics.get("typos"),
    )
    if linear is not None and typos is not None:
        linear.measure(
            mistype_rows(run.texts[typos["split"]], typos["share"], typos["split"]), "typos"
        )
    length, audit = tokens.tokenizer.model_max_length, tokens.audit
    # perhaps chosen
    changes = list_changes(run.settings) | {"num_train_epochs": trainer.args.num_train_epochs}
    return CardFacts(
        name=run.folder.root.resolve().name,
        task=run.task.name,
        pipeline_tag=PIPELINES[HEADS[run.task.architecture][1]],
        **{name: vars(config)[name] for name in _ARCHITECTURE},
        text_pairs=config.sep_token_id is not None,
        num_parameters=trainer.model.num_parameters(),
        **_data_facts(run.settings, metrics.get("teacher")),
        thresholds=config.label_thresholds,
        baselines=None if linear is None else {linear.name: linear.scores},
        results={
            split: {name: value for name, value in metrics[split].items() if name not in _LARGE}
            for split in ("validation", "test")
            if split in metrics
        },
        training={
            name: metrics["training"][name] for name in _TRAINING if name in metrics["training"]
        },
        wide=metrics.get("wide"),
        data=metrics["data"],
        settings={name: value for name, value in changes.items() if name not in _ARCHITECTURE},
        license=training.license,
        language=tuple(training.language or ()),
        tags=tuple(training.tags or ()),
        versions={"hf-rnn": __version__, **{package: version(package) for package in _PACKAGES}},
        best_metric=training.metric_for_best_model if best_kept else None,
        max_length=length if length < NO_LENGTH_LIMIT else None,
        audit=audit,
        unknown_token_share=None
        if audit is None
        else audit["unknown_token_share"].get("validation"),
        vectors=None if tokens.vectors is None else tokens.vectors.describe(),
        start=None if run.start is None else run.start.describe(trainer.model),
        start_note=run.start_note,
        teacher=metrics.get("teacher"),
        calibration=metrics.get("calibration"),
        figures=draw_figures(folder, fit, metrics, linear),
        typos=typos,
        decisions={
            target: {"rows": chosen.repeated, "chosen_on": chosen.chosen_on}
            for target, chosen in _read_thresholds(folder).items()
        },
        size_in_bytes=folder.weights.stat().st_size,
    )


def _read_thresholds(folder: FinishedFolder) -> dict[str, Thresholds]:
    content = folder.read_thresholds()
    return parse_thresholds(content, folder.thresholds, fingerprint_folder(folder))


def draw_figures(
    folder: FinishedFolder, fit: Fit, metrics: Mapping[str, Any], linear: LinearBaseline | None
) -> dict[str, str]:
    """Draw the learning curve and the figures of the task; return their captions with their file names."""
    trainer = fit.trainer
    figures, state, names = (
        dict[str, str](),
        trainer.state,
        list(trainer.model.config.id2label.values()),
    )
    try:
        if state.global_step > 0:
            best = state.best_global_step if trainer.args.load_best_model_at_end else None
            history, smoothing = state.log_history, trainer.args.label_smoothing_factor
            caption = plot_learning_curve(history, folder.learning_curve, best, smoothing)
            figures[caption] = folder.learning_curve.name
        if streaming := metrics.get("streaming"):
            figures[plot_streaming(streaming["by_share"], folder.streaming)] = folder.streaming.name
        split = "validation" if "validation" in metrics else "test"
        if matrix := metrics.get(split, {}).get("confusion_matrix"):
            plot_confusion_matrix(matrix, names, folder.confusion_matrix)
            figures[f"True and predicted classes on the {split} split"] = (
                folder.confusion_matrix.name
            )
        if fit.validation is not None:
            margins = {} if linear is None else {"linear model": linear.margins["validation"]}
            chosen = list(_read_thresholds(folder).values())
            caption = draw_coverage(*fit.validation, chosen, folder.coverage, margins)
            figures[caption] = folder.coverage.name
        return figures
    except UserError as error:
        logger.warning("no figures: %s", error)
        return {}


def _data_facts(settings: Settings, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the name of the data, and the command that repeats the run if the data have a name.

    Words in capitals take the place of local paths; `fill_in` has their meaning.
    """
    data, learned = settings.data, teacher or {}
    flag = "data_dir" if data.dataset_name is None else "dataset_name"
    if (source := getattr(data, flag)) is None:
        return {"dataset_name": "rows in memory"}
    inputs = {"DATA": (flag, source), "TEACHER": ("teacher", learned.get("name"))}
    inputs |= {"UNLABELED": ("unlabeled", (learned.get("unlabeled") or {}).get("file"))}
    names = {
        "VECTORS": "vectors",
        "START": "model_name_or_path",
        "TOKENIZER": "tokenizer_name_or_path",
    }
    inputs |= {word: (name, getattr(data, name)) for word, name in names.items()}
    fill_in = {"MODEL": "the folder of this card", "OUTPUT": "a new folder"}
    command = ["hf-rnn", "distill" if teacher else "train", "--recipe", "MODEL/training_args.json"]
    for word, (name, value) in inputs.items():
        if (
            value is not None
            and find_built_in(value) is None
            and (os.path.exists(value) or name == "unlabeled")
        ):
            fill_in[word] = f"here {Path(os.path.abspath(value)).name}"
            command += [f"--{name}", word]
        elif value is not None and name in (flag, "teacher"):
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
    """Write encoder, tokenizer, modules of sentence-transformers, `pretraining.json` and card to an empty folder."""
    root, training, weights_dtype = (
        folder.root,
        settings.training,
        settings.pretraining.weights_dtype,
    )
    encoder.save_pretrained(root, weights_dtype=weights_dtype)
    shutil.copymode(folder.config, folder.weights)
    save_tokenizer(tokenizer, root)
    write_modules(
        root, projection.to(torch.float32 if weights_dtype == "float32" else torch.bfloat16)
    )
    words = ["hf-rnn", "pretrain"]
    for name, value in record(settings).items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    command = shlex.join([*words, "--output_dir", "OUT"])
    content = {
        **figures,
        "command": command,
        "versions": {"hf-rnn": __version__, "torch": version("torch")},
    }
    write_json(folder.pretraining, content)
    facts = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        license=training.license,
        language=training.language,
        tags=["hf-rnn", "recurrent", *(training.tags or ())],
    )
    body = _CARD.read_text("utf-8").format(
        **encoder.config.to_dict(),
        **{name: figures[name] for name in ("parameters", "pieces_per_word")},
        **{**figures["held_out"], **figures["texts"]},
        name=Path(str(training.output_dir)).resolve().name,
        teacher=figures["teacher"]["name"],
        size=projection.out_features,
        command=command,
    )
    ModelCard(f"---\n{facts.to_yaml()}\n---\n\n{body}").save(folder.card)


def write_modules(root: Path, projection: nn.Linear) -> None:
    """Add the projection to the modules of sentence-transformers; vectors then have length 1."""
    write_json(root / "modules.json", list_sentence_modules("Dense", "Normalize"))
    sizes = {
        "in_features": projection.in_features,
        "out_features": projection.out_features,
        "bias": True,
    }
    content = {**sizes, "activation_function": "torch.nn.modules.linear.Identity"}
    (root / "2_Dense").mkdir(exist_ok=True)
    write_json(root / "2_Dense" / "config.json", content)
    weights = {
        f"linear.{name}": weight.detach().contiguous()
        for name, weight in projection.named_parameters()
    }
    save_file(weights, root / "2_Dense" / "model.safetensors", metadata={"format": "pt"})
