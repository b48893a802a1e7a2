"""The state of a training run, its start from another model, and its optional steps, such as vectors and the audit."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from ..data.audit import audit, render_line
from ..data.loading import find_origins
from ..data.row_errors import DataReport
from ..data.vectors import Vectors, load_vectors, widen_vocabulary
from ..hub.loading import load_model
from ..hub.model_folder import FinishedFolder, find_built_in
from ..models.auto import ENCODER, head_name
from ..tasks import Task
from ..tasks.base import Splits
from ..utils.errors import UserError
from .settings import Arguments, ModelArguments
from .trainer import SAMPLE_WEIGHT, RnnTrainer

logger = logging.getLogger(__name__)

_OUTPUT_LAYERS = ("classifier.", "lm_head.")  # prefixes of the weights that belong to the labels
_MANY_UNKNOWN = 0.5  # share of the tokens of validation


@dataclass
class Run:
    """State of one training run. Steps fill it in, from top to bottom."""

    task: Task
    arguments: Arguments
    texts: Splits  # as they were read
    report: DataReport
    tokenizer: PreTrainedTokenizerBase = field(init=False)
    examples: Any = field(init=False)  # splits as token ids and labels
    class_counts: Sequence[float] | None = field(init=False)  # training rows, for class weights
    model: PreTrainedModel = field(init=False)
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


class Extension:
    """Another way to train, as distillation is: a subclass takes part in [`run_training`] at three points."""

    settings: Any = None  # dataclass of further settings, for `training_args.json`
    trainer_class: Callable[..., RnnTrainer] | None = None  # None: that of the task

    def read_texts(self, run: Run) -> Sequence[str]:
        """Check the run, and return further texts for the vocabulary of a new tokenizer."""
        return ()

    def add_rows(self, run: Run) -> dict[str, Any]:
        """Add to the encoded splits; return what decides the steps besides data and settings (`take_fingerprints`)."""
        return {}

    def measure(self, run: Run) -> None:
        """Add to the metrics."""


# ---- the start ----


class WarmStart:
    """The weights of an encoder, or of a model with any head, to start from.

    The encoder always keeps its weights. A head of the same class does too, its output layer only if the label names
    are the same, in any order. Everything else starts at random.
    """

    def __init__(self, name_or_path: str) -> None:
        self.name = name_or_path
        self.model, _ = load_model(name_or_path, device="cpu", allow_encoder=True)

    def keeps_output_layer(self, model: PreTrainedModel) -> bool:
        """Return whether a new model can keep the output layer."""
        start = self.model.config
        one_label = start.problem_type in (None, "single_label_classification")
        same_head = type(self.model) is type(model) and start.siamese == model.config.siamese
        return same_head and one_label and set(start.label2id) == set(model.config.label2id)

    @torch.no_grad()
    def copy_weights(self, run: Run) -> None:
        """Copy the weights to a new model."""
        old, new = self.model, run.model
        weights, table = old.base_model.state_dict(), old.get_input_embeddings().weight
        extra = new.config.vocab_size - len(table)  # rows of a new separator
        weights["embedding.weight"] = torch.cat([table, table.mean(dim=0, keepdim=True).expand(extra, -1)])
        new.base_model.load_state_dict(weights)
        if type(old) is type(new):
            new.load_state_dict(self._head_weights(new), strict=False)
        config, kind = old.config, head_name(old.config)
        kind = "an encoder" if kind == ENCODER else kind
        facts = config.cell_type, config.num_hidden_layers, config.hidden_size
        logger.info("starting from %s: %s (%s, layers: %d, units: %d)", self.name, kind, *facts)

    def _head_weights(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return the weights of the head by name; rows of the output layer in the order of the new labels."""
        old, new, weights = self.model.config, model.config, self.model.state_dict()
        output = {name: value for name, value in weights.items() if name.startswith(_OUTPUT_LAYERS)}
        encoder = f"{model.base_model_prefix}."
        shared = {name: value for name, value in weights.items() if not name.startswith((*_OUTPUT_LAYERS, encoder))}
        if not self.keeps_output_layer(model):
            names = ", ".join(new.label2id), self.name, ", ".join(old.label2id)
            logger.info("labels %s differ from those of %s (%s): the output layer starts at random", *names)
            return shared
        rows = [old.label2id[new.id2label[number]] for number in range(new.num_labels)]
        return {**shared, **{name: value[rows] for name, value in output.items()}}

    def fingerprint(self) -> str:
        """Return a hash of weights and label names."""
        digest = hashlib.sha256(repr(sorted(self.model.config.label2id.items())).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            digest.update(weight.contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def describe(self, run: Run) -> dict[str, Any]:
        """Return name, Hub id (None for a folder), and whether the output layer was kept."""
        local = find_built_in(self.name) is not None or Path(self.name).exists()
        shown = Path(self.name).resolve().name if local else self.name
        return {"name": shown, "id": None if local else shown, "keeps_classifier": self.keeps_output_layer(run.model)}


# ---- optional steps ----


def read_vectors(run: Run, source: str) -> Vectors:
    """Load vectors, extend the vocabulary if `widen_vocabulary` is set, and take `embedding_size` from them."""
    arguments = run.arguments
    if arguments.data.widen_vocabulary is not None:
        run.tokenizer = widen_vocabulary(run.tokenizer, source, arguments.data.widen_vocabulary)
    texts = run.task.vocabulary_texts(run.texts["train"]) if run.table is not None else None
    vectors = load_vectors(source, run.tokenizer, texts=texts, seed=arguments.training.seed)
    logger.info("vectors of %s: %s", vectors.name, vectors.coverage)
    components = arguments.data.vector_components
    if components is not None:
        if components > vectors.matrix.shape[1]:
            width = vectors.matrix.shape[1]
            raise UserError(f"vector_components is {components}, and {source} has vectors of {width} numbers")
        vectors = vectors.reduce(components, run.tokenizer.pad_token_id)
    size, given_size = vectors.matrix.shape[1], arguments.model.embedding_size
    if given_size not in (size, ModelArguments().embedding_size):
        raise UserError(f"embedding_size is {given_size}, and {source} has vectors of {size} numbers: leave it out")
    if size != given_size:
        logger.info("embedding_size is %d, that of the vectors", size)
    changed: dict[str, Any] = {"embedding_size": size}
    run.arguments = arguments._replace(model=dataclasses.replace(arguments.model, **changed))
    return vectors


def audit_texts(run: Run) -> dict[str, Any] | None:
    """Audit the splits, refuse leaks above `fail_on_leak`, log the findings on one line, and return their summary.

    Return None for streams, which are not audited.
    """
    data_args = run.arguments.data
    if run.table is None or not (run.is_main or data_args.fail_on_leak is not None):
        return None
    if (rows := run.task.audit_view(run.table)) is None:
        return None
    report = audit(rows, run.tokenizer, origins=find_origins(run.report))
    report.check_leaks(data_args.leak_limit())
    logger.info("audit: %s", render_line(report))
    summary = report.summary()
    unknown = summary["unknown_token_share"].get("validation")
    if unknown is not None and unknown > _MANY_UNKNOWN:
        advice = "lower min_frequency, or set tokenizer to char or bpe for languages written without spaces"
        message = "%.0f %% of the tokens of validation are not in the vocabulary: %s"
        logger.warning(message, 100 * unknown, advice)
    return summary


def weigh_rows(run: Run, weights: np.ndarray) -> None:
    """Weigh the training rows in the loss, by weights of shape `(n,)` that are not all 0."""
    weights = (weights / weights.mean()).astype(np.float32)
    labels = np.asarray(run.examples["train"]["labels"][:])
    run.class_counts = np.bincount(labels, weights, len(run.class_counts or ())).tolist()
    run.examples["train"] = run.examples["train"].add_column(SAMPLE_WEIGHT, weights)
