"""Optional parts of a training run, such as vectors and the audit: a hook each, called at fixed points of the run."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from ..data import DataReport
from ..data.audit import AuditReport, audit, render_line
from ..data.encoding import measure_pieces
from ..data.labels import listed
from ..data.source import find_origins
from ..data.vectors import Vectors, load_vectors, widen_vocabulary
from ..evaluation.calibration import fit_temperature, measure_scores, scale_classifier
from ..hub.loading import find_built_in, find_folder, load_model
from ..hub.model_folder import FinishedFolder, read_mapping
from ..models.auto import ENCODER, head_name
from ..tasks import Task
from ..tasks.base import Splits
from ..utils.errors import UserError
from .arguments.run_arguments import Arguments, ModelArguments, check_architecture
from .arguments.text_arguments import DataArguments
from .recipes import scratch_recipe
from .trainer import SAMPLE_WEIGHT, RnnTrainer

logger = logging.getLogger(__name__)

_OUTPUT_LAYERS = ("classifier.", "lm_head.")  # prefixes of the weights that belong to the labels
_MANY_UNKNOWN = 0.5  # share of the tokens of validation
# Limits for the tokens of another language, against the texts of the encoder.
_MANY_PIECES = 1.25  # times the tokens per word
_MORE_UNKNOWN = 0.1  # added to the share
_SAMPLE = 2_000  # training texts that are compared


@dataclass
class Run:
    """State of one training run. Steps and hooks fill it in, from top to bottom."""

    task: Task
    arguments: Arguments
    texts: Splits  # as they were read
    report: DataReport
    tokenizer: PreTrainedTokenizerBase = field(init=False)
    examples: Any = field(init=False)  # splits as token ids and labels
    class_counts: Sequence[float] | None = field(init=False)  # training rows, for class weights
    model: PreTrainedModel = field(init=False)
    trainer_class: Callable[..., RnnTrainer] | None = None  # None: that of the task
    trainer: RnnTrainer = field(init=False)
    predictions: dict[str, PredictionOutput] = field(default_factory=dict)  # by split
    metrics: dict[str, Any] = field(default_factory=dict)  # contents of metrics.json

    @property
    def folder(self) -> FinishedFolder:
        """The output folder."""
        return FinishedFolder(Path(str(self.arguments.training.output_dir)))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the folder."""
        return self.arguments.training.process_index == 0

    @property
    def table(self) -> datasets.DatasetDict | None:
        """The splits as they were read, None if they are streams."""
        return self.texts if isinstance(self.texts, datasets.DatasetDict) else None


class RunHook:
    """A feature that takes part in a run. All methods do nothing by default; the first call comes first."""

    settings: Any = None  # dataclass of further settings, for `training_args.json`

    def on_texts(self, run: Run) -> None:
        """Run after the splits were read."""

    def vocabulary_texts(self, texts: Iterable[str]) -> Iterable[str]:
        """Return the texts for the vocabulary of a new tokenizer."""
        return texts

    def on_tokenizer(self, run: Run) -> None:
        """Run after the tokenizer was made."""

    def on_examples(self, run: Run) -> None:
        """Run after the splits were encoded."""

    def config_fields(self) -> dict[str, Any]:
        """Return further fields of the configuration."""
        return {}

    def on_model(self, run: Run) -> None:
        """Run after the model was initialized."""

    def fingerprints(self) -> dict[str, Any]:
        """Return what decides the steps of the run besides data and settings; see `take_fingerprints`."""
        return {}

    def on_predictions(self, run: Run) -> None:
        """Run after the splits were predicted, before they are measured."""

    def on_metrics(self, run: Run) -> None:
        """Run after the splits were measured."""

    def card_facts(self, run: Run) -> dict[str, Any]:
        """Return further fields of `CardFacts`."""
        return {}


class WarmStart(RunHook):
    """Start from the weights of an encoder, or of a model with any head.

    The encoder always keeps its weights. A head of the same class does too, its output layer only if the label names
    are the same, in any order. Everything else starts at random.
    """

    def __init__(self, name_or_path: str) -> None:
        self.name = name_or_path
        self.model, _ = load_model(name_or_path, device="cpu", allow_encoder=True)

    def keeps_output_layer(self, model: PreTrainedModel) -> bool:
        """Return whether a new model can keep the output layer."""
        own = self.model.config
        one_label = own.problem_type in (None, "single_label_classification")
        same_head = type(self.model) is type(model) and own.siamese == model.config.siamese
        return same_head and one_label and set(own.label2id) == set(model.config.label2id)

    def config_fields(self) -> dict[str, Any]:
        """Return the rows of the table, which can be more than the tokens."""
        return {"vocab_size": self.model.config.vocab_size}

    def on_tokenizer(self, run: Run) -> None:
        """Warn if the texts do not look like the language of an encoder, by the figures in its folder."""
        path = FinishedFolder(find_folder(self.name)).pretraining
        if not path.is_file():
            return
        known = read_mapping(path, path.read_bytes())
        found = measure_pieces(run.tokenizer, list(islice(run.task.vocabulary_texts(run.texts["train"]), _SAMPLE)))
        pieces, unknown = (
            [each[name] for each in (found, known)] for name in ("pieces_per_word", "unknown_token_share")
        )
        if pieces[0] > _MANY_PIECES * pieces[1] or unknown[0] > _MORE_UNKNOWN + unknown[1]:
            message = (
                "the texts do not look like the language of %s: they have %.1f tokens per word, %.0f %% of them "
                "unknown, its own texts %.1f and %.0f %%; --recipe %s does not start from it"
            )
            logger.warning(
                message,
                self.name,
                pieces[0],
                100 * unknown[0],
                pieces[1],
                100 * unknown[1],
                scratch_recipe(run.task.recipe),
            )

    @torch.no_grad()
    def on_model(self, run: Run) -> None:
        """Copy the weights; refuse another architecture."""
        own, new = self.model, run.model
        check_architecture(self.name, own.config, new.config, run.task.architecture)
        weights, table = own.base_model.state_dict(), own.get_input_embeddings().weight
        extra = new.config.vocab_size - len(table)  # rows of a new separator
        weights["embedding.weight"] = torch.cat([table, table.mean(dim=0, keepdim=True).expand(extra, -1)])
        new.base_model.load_state_dict(weights)
        if type(own) is type(new):
            new.load_state_dict(self._head_weights(new), strict=False)
        config, kind = own.config, head_name(own.config)
        facts = config.cell_type, config.num_hidden_layers, config.hidden_size
        kind = "an encoder" if kind == ENCODER else kind
        logger.info("starting from %s: %s (%s, layers: %d, units: %d)", self.name, kind, *facts)

    def _head_weights(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return the weights of the head by name; rows of the output layer in the order of the new labels."""
        own, new, weights = self.model.config, model.config, self.model.state_dict()
        output = {name: value for name, value in weights.items() if name.startswith(_OUTPUT_LAYERS)}
        encoder = f"{model.base_model_prefix}."
        shared = {name: value for name, value in weights.items() if not name.startswith((*_OUTPUT_LAYERS, encoder))}
        if not self.keeps_output_layer(model):
            names = ", ".join(new.label2id), self.name, ", ".join(own.label2id)
            logger.info("labels %s differ from those of %s (%s): the output layer starts at random", *names)
            return shared
        rows = [own.label2id[new.id2label[number]] for number in range(new.num_labels)]
        return {**shared, **{name: value[rows] for name, value in output.items()}}

    def fingerprints(self) -> dict[str, Any]:
        """Return a hash of weights and label names."""
        digest = hashlib.sha256(repr(sorted(self.model.config.label2id.items())).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            digest.update(weight.contiguous().view(torch.uint8).numpy())
        return {"start": digest.hexdigest()}

    def card_facts(self, run: Run) -> dict[str, Any]:
        """Return name, Hub id (None for a folder), and whether the output layer was kept."""
        local = find_built_in(self.name) is not None or Path(self.name).exists()
        shown = Path(self.name).resolve().name if local else self.name
        start = {"name": shown, "id": None if local else shown}
        return {"start": {**start, "keeps_classifier": self.keeps_output_layer(run.model)}}


class PretrainedVectors(RunHook):
    """Start the embedding from the vectors that `vectors` names."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._vectors: Vectors

    def on_tokenizer(self, run: Run) -> None:
        """Load the vectors and extend the vocabulary if `widen_vocabulary` is set; take `embedding_size` from them."""
        arguments, source = run.arguments, self._source
        if arguments.data.widen_vocabulary is not None:
            run.tokenizer = widen_vocabulary(run.tokenizer, source, arguments.data.widen_vocabulary)
        texts = run.task.vocabulary_texts(run.texts["train"]) if run.table is not None else None
        vectors = load_vectors(source, run.tokenizer, texts=texts, seed=arguments.training.seed)
        logger.info("vectors of %s: %s", vectors.name, vectors.coverage)
        size, asked = vectors.matrix.shape[1], arguments.model.embedding_size
        if asked not in (size, ModelArguments().embedding_size):
            raise UserError(f"embedding_size is {asked}, and {source} has vectors of {size} numbers: leave it out")
        if size != asked:
            logger.info("embedding_size is %d, that of the vectors", size)
        model_args = dataclasses.replace(arguments.model, **{"embedding_size": size})
        run.arguments, self._vectors = arguments._replace(model=model_args), vectors

    @torch.no_grad()
    def on_model(self, run: Run) -> None:
        """Copy the vectors into the embedding."""
        run.model.get_input_embeddings().weight.copy_(self._vectors.matrix)

    def fingerprints(self) -> dict[str, Any]:
        """Return the hash of the vectors."""
        return {"vectors": self._vectors.fingerprint()}

    def card_facts(self, run: Run) -> dict[str, Any]:
        """Return name and coverage of the vectors."""
        return {"vectors": self._vectors.describe()}


class Audit(RunHook):
    """Audit the splits; refuse leaks above `fail_on_leak`. Streams are not audited."""

    def __init__(self) -> None:
        self._summary: dict[str, Any] | None = None

    def on_tokenizer(self, run: Run) -> None:
        """Audit with the tokenizer of the run; log the findings on one line."""
        data_args = run.arguments.data
        if run.table is None or not (run.is_main or data_args.fail_on_leak is not None):
            return
        if (rows := run.task.audit_view(run.table)) is None:
            return
        found = audit(rows, run.tokenizer, origins=find_origins(run.report))
        check_leaks(found, data_args)
        logger.info("audit: %s", render_line(found))
        unknown = found.splits["validation"].unknown_token_share if "validation" in found.splits else None
        if unknown is not None and unknown > _MANY_UNKNOWN:
            advice = "lower min_frequency, or set tokenizer to char or bpe for languages written without spaces"
            message = "%.0f %% of the tokens of validation are not in the vocabulary: %s"
            logger.warning(message, 100 * unknown, advice)
        self._summary = found.summary()

    def card_facts(self, run: Run) -> dict[str, Any]:
        """Return the summary of the audit."""
        unknown = (self._summary or {}).get("unknown_token_share", {})
        return {"audit": self._summary, "unknown_token_share": unknown.get("validation")}


def check_leaks(found: AuditReport, arguments: DataArguments) -> None:
    """Refuse splits with more rows that repeat rows of train than `fail_on_leak` allows.

    The [`UserError`] names the first row of such a split.
    """
    limit = arguments.leak_limit()
    if limit is None or found.leak_share <= limit:
        return
    worst = max(found.leaks, key=lambda leak: leak.share)
    first = worst.repeats[0]
    raise UserError(
        f"{len(worst.repeats):,} of {worst.rows:,} rows of {worst.split} ({worst.share:.2%}) repeat a row of train, "
        f"more than fail_on_leak {arguments.fail_on_leak} allows: first {found.name_place(first.place)} repeats "
        f"{found.name_place(first.twin)}; remove them from train; hf-rnn audit with the same flags lists all"
    )


class SampleWeights(RunHook):
    """Weigh the training rows in the loss, by weights of shape `(n,)` that are not all 0."""

    def __init__(self, weights: np.ndarray) -> None:
        self._weights = (weights / weights.mean()).astype(np.float32)

    def on_examples(self, run: Run) -> None:
        """Add the column of weights; weigh the class counts."""
        labels = np.asarray(run.examples["train"]["labels"][:])
        run.class_counts = np.bincount(labels, self._weights, len(run.class_counts or ())).tolist()
        run.examples["train"] = run.examples["train"].add_column(SAMPLE_WEIGHT, self._weights)


class Calibration(RunHook):
    """Fit a temperature to the validation rows after training, and scale the last layer by it."""

    def on_examples(self, run: Run) -> None:
        """Refuse a run without validation rows."""
        if "validation" not in run.examples:
            raise UserError("calibrate needs rows that are not trained on: give a validation split, or leave it out")

    def on_predictions(self, run: Run) -> None:
        """Calibrate the model and the predictions; measure the scores before and after."""
        held_out = run.predictions["validation"]
        names = list(run.model.config.id2label.values())
        counts = np.bincount(held_out.label_ids, minlength=len(names))
        if missing := [name for name, count in zip(names, counts, strict=True) if not count]:
            logger.warning("validation has no row of %s: the temperature is not fitted to it", listed(missing))
        temperature = fit_temperature(held_out.predictions, held_out.label_ids)
        scale_classifier(run.model.classifier, temperature)
        splits = {}
        for split, output in run.predictions.items():
            scaled = output.predictions / temperature
            before, after = (measure_scores(logits, output.label_ids) for logits in (output.predictions, scaled))
            splits[split] = {"before": before, "after": after}
            run.predictions[split] = output._replace(predictions=scaled)
        before, after = (splits["validation"][when]["ece"] for when in ("before", "after"))
        message = "calibrated: temperature %.3f, expected calibration error on validation %.3f before, %.3f after"
        logger.info(message, temperature, before, after)
        self._found = {"temperature": temperature, "fitted_on": "validation", "splits": splits}

    def on_metrics(self, run: Run) -> None:
        """Add the part `calibration`."""
        run.metrics["calibration"] = self._found

    def card_facts(self, run: Run) -> dict[str, Any]:
        """Return temperature and errors before and after."""
        return {"calibration": self._found}
