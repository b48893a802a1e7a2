"""The values that the steps of a training run pass on, the points that an extension overrides, tokens and start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from ..data.audit import audit, render_line
from ..data.row_errors import DataReport, shorten
from ..data.vectors import Vectors, load_vectors
from ..hub.model_folder import (
    FinishedFolder,
    check_max_length,
    check_name,
    find_built_in,
    find_folder,
    load_model,
    load_without_weights,
    nested_model,
)
from ..inference.stream import find_unstable_text
from ..models.auto import ENCODER, head_name
from ..models.configuration_rnn import RnnConfig
from ..settings.arguments import DataArguments, ModelArguments
from ..settings.merge import Arguments
from ..tasks import Task, get_task
from ..tasks.base import Splits
from ..tokenizers.word_level import add_separator, mark_capitals, train_tokenizer, widen_vocabulary
from ..utils.errors import UserError, reason_of
from .language import drop_scripts
from .trainer import SAMPLE_WEIGHT, RnnTrainer

logger = logging.getLogger(__name__)

_OUTPUT_LAYERS = ("classifier.", "ngrams.", "lm_head.")  # prefixes of the weights that have a row per label
_MANY_UNKNOWN = 0.5  # share of the tokens of validation
_STREAM_SAMPLE, _NO_LENGTH = 1000, int(1e30)  # texts to check the tokenizer with; as transformers writes no limit
_SMALL_TOKENS = "lower min_frequency, or set tokenizer to char or bpe for languages written without spaces"


class Extension:
    """A way to train differently, such as distillation: a subclass overrides these points of [`train_on`]."""

    settings: Any = None  # dataclass of further settings, for `training_args.json`
    loss: Callable[..., torch.Tensor] | None = None  # for `RnnTrainer`, in place of its own
    loss_columns: Sequence[str] = ()  # columns of the training rows that `loss` takes by name

    def read_texts(self, run: Run) -> Sequence[str]:
        """Check the run, and return further texts for the vocabulary of a new tokenizer."""
        return ()

    def add_rows(
        self, run: Run, tokenizer: PreTrainedTokenizerBase, examples: Splits
    ) -> tuple[Splits, Mapping[str, Any]]:
        """Return the encoded splits with further rows, and what else decides the steps, by name."""
        return examples, {}

    def measure(self, run: Run, config: RnnConfig, predictions: Mapping[str, PredictionOutput]) -> dict[str, Any]:
        """Return further metrics, from the model's predictions by split."""
        return {}


@dataclass(frozen=True)
class Run:
    """The inputs of a training run: settings that suit the texts, and the texts as the task read them."""

    task: Task
    arguments: Arguments
    texts: Splits
    report: DataReport  # counts of rows
    extension: Extension
    overrides: Mapping[str, Any]  # the settings of the user
    start: WarmStart | None
    start_note: str | None  # for the card: the reason for this start

    @property
    def folder(self) -> FinishedFolder:
        """The output folder."""
        return FinishedFolder(Path(str(self.arguments.training.output_dir)))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the folder."""
        return self.arguments.training.process_index == 0


@dataclass(frozen=True)
class Tokens:
    """The texts of a run as ids, and their tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    examples: Splits
    vectors: Vectors | None
    audit: dict[str, Any] | None  # its summary
    decisive: Mapping[str, Any]  # further values that decide the steps, by name


@dataclass(frozen=True)
class Fit:
    """A Trainer that has fitted its model, and the numbers of that training."""

    trainer: RnnTrainer
    numbers: dict[str, Any]
    few_rows: bool = False  # whether the last layer was fitted alone, without steps


# ---- texts to tokens ----


def make_tokens(run: Run, sample_weights: np.ndarray | None = None) -> Tokens:
    """Return the texts of a run as ids, audited; `sample_weights` become a column of the training rows."""
    task, texts, (model, data, training) = run.task, run.texts, run.arguments
    words = chain(task.vocabulary_texts(texts["train"]), run.extension.read_texts(run))
    tokenizer = make_tokenizer(data, words)
    vectors = None if data.vectors is None else read_vectors(run, tokenizer)
    audit = audit_texts(run, tokenizer)
    if model.streaming:
        suit_stream(run, tokenizer)
    if task.per_token and model.word_forms:
        mark_capitals(tokenizer)
    encoded = task.encode(texts, tokenizer, training.block_size if task.verb == "generate" else data.max_length)
    if sample_weights is not None:
        weights = (sample_weights / sample_weights.mean()).astype(np.float32)
        encoded["train"] = encoded["train"].add_column(SAMPLE_WEIGHT, weights)
    examples, decisive = run.extension.add_rows(run, tokenizer, encoded)
    return Tokens(tokenizer, examples, vectors, audit, decisive)


def suit_stream(run: Run, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer read texts of any length, unless the user limits it; refuse one that needs whole texts."""
    if run.arguments.data.max_length is None:
        tokenizer.model_max_length = _NO_LENGTH
    sample = islice(run.task.vocabulary_texts(run.texts["train"]), _STREAM_SAMPLE)
    if find_unstable_text(lambda texts: tokenizer(texts)["input_ids"], sample) is not None:
        raise UserError(
            "streaming needs tokens that do not depend on later words, and those of tokenizer "
            f"{run.arguments.data.tokenizer} do: choose word or bpe"
        )


def make_tokenizer(data: DataArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Train a tokenizer on texts, or load the one that the settings name.

    Raises a [`UserError`] for a tokenizer that cannot be loaded or cannot pad.
    """
    name, start, length = data.tokenizer_name_or_path, data.model_name_or_path, data.max_length
    if start is None and name is None:
        names = ("min_frequency", "max_vocab_size", "lowercase", "normalizer", "tokenizer")
        options = {**{name: getattr(data, name) for name in names}, **get_task(data.task).tokenizer_options}
        # a shared vocabulary must not show the words of one text, unless the settings ask for rare words
        tokenizer = train_tokenizer(texts, min_texts=min(2, data.min_frequency), **options)
    elif start is not None:
        tokenizer = load_without_weights(start, FinishedFolder(find_folder(start)))[1]
        if find_built_in(start) is not None:
            drop_scripts(tokenizer, texts)
    else:
        tokenizer = _load_tokenizer(str(name))
    if length is not None:
        tokenizer.model_max_length = length  # saved, so that prediction truncates at the same length
    if data.text_pair_column is not None:
        add_separator(tokenizer)
    if data.vectors is not None and data.widen_vocabulary is not None:
        return widen_vocabulary(tokenizer, data.vectors, data.widen_vocabulary)
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
    check_max_length(f"the tokenizer {name}", tokenizer.model_max_length)
    if "attention_mask" not in tokenizer.model_input_names:  # true for encoders that mask nothing
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # so that it is saved
    return tokenizer


def read_vectors(run: Run, tokenizer: PreTrainedTokenizerBase) -> Vectors:
    """Load the vectors that the settings name; a [`UserError`] if `embedding_size` has another size."""
    source, size = str(run.arguments.data.vectors), run.arguments.model.embedding_size
    texts = run.task.vocabulary_texts(run.texts["train"])
    vectors = load_vectors(source, tokenizer, texts=texts, seed=run.arguments.training.seed)
    logger.info("vectors of %s: %s", vectors.name, vectors.coverage)
    width = vectors.matrix.shape[1]
    if size not in (width, ModelArguments().embedding_size):
        raise UserError(f"embedding_size is {size}, and {source} has vectors of {width} numbers: leave it out")
    if size != width:
        logger.info("embedding_size is %d, that of the vectors", width)
    return vectors


def audit_texts(run: Run, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Audit the splits, refuse leaks above `fail_on_leak`, log the findings on one line, and return their summary.

    Return None for texts that repeat by nature, which are not audited.
    """
    data = run.arguments.data
    if not (run.is_main or data.fail_on_leak is not None) or (rows := run.task.audit_view(run.texts)) is None:
        return None
    report = audit(rows, tokenizer, origins=run.report.lines)
    report.check_leaks(data.fail_on_leak)
    logger.info("audit: %s", render_line(report))
    summary = report.summary()
    unknown = summary["unknown_token_share"].get("validation") or 0.0
    if unknown > _MANY_UNKNOWN:
        advice = "more training texts know more tokens" if data.tokenizer != "word" else _SMALL_TOKENS
        logger.warning("%.0f %% of the tokens of validation are not in the vocabulary: %s", 100 * unknown, advice)
    return summary


# ---- the start ----


def name_output_weights(model: PreTrainedModel) -> list[str]:
    """Return the names of the weights that have a row per label."""
    return [name for name in model.state_dict() if name.startswith(_OUTPUT_LAYERS)]


class WarmStart:
    """The weights of an encoder, or of a model with any head, to start from.

    The encoder always keeps its weights. A head of the same class does too; its output layer keeps the rows of labels
    with the same name. Everything else starts at random.
    """

    def __init__(self, name_or_path: str) -> None:
        self.name = name_or_path
        self.model, self.tokenizer = load_model(name_or_path, device="cpu", allow_encoder=True)

    def match_labels(self, model: PreTrainedModel) -> dict[int, int]:
        """Return the number of each label of a new model in the start, for labels whose weights it can keep."""
        old, new = self.model.config, model.config
        one_label = old.problem_type in (None, "single_label_classification")
        if not one_label or type(self.model) is not type(model) or old.siamese != new.siamese:
            return {}
        return {number: old.label2id[name] for number, name in new.id2label.items() if name in old.label2id}

    @torch.no_grad()
    def copy_weights(self, new: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Copy the weights to a new model; a new token, such as a separator, has the mean of the table."""
        old = self.model
        weights, table = old.base_model.state_dict(), old.get_input_embeddings().weight
        places, rows = self.tokenizer.get_vocab(), list(range(new.config.vocab_size))
        for token, index in tokenizer.get_vocab().items():
            rows[index] = places.get(token, index if index >= len(places) else len(table))
        rows = [min(row, len(table)) for row in rows]
        weights["embedding.weight"] = torch.cat([table, table.mean(dim=0, keepdim=True)])[rows]
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
        output = {name: weights[name] for name in name_output_weights(self.model)}
        encoder = f"{model.base_model_prefix}."
        shared = {name: value for name, value in weights.items() if not name.startswith((*_OUTPUT_LAYERS, encoder))}
        numbers = self.match_labels(model)
        if fresh := [name for number, name in new.id2label.items() if number not in numbers]:
            names = shorten(fresh), self.name, shorten(list(old.label2id))
            logger.info("labels %s are not among those of %s (%s): their output weights start at random", *names)
        for name, value in output.items():
            shared[name] = model.state_dict()[name].clone()
            shared[name][list(numbers)] = value[list(numbers.values())]
        return shared

    def describe(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return name, Hub id (None for a folder), whether the output layer was kept, and the labels new in it."""
        local = find_built_in(self.name) is not None or Path(self.name).exists()
        shown = Path(self.name).resolve().name if local else self.name
        numbers, labels = self.match_labels(model), model.config.id2label
        fresh = [name for number, name in labels.items() if number not in numbers]
        facts = {"name": shown, "id": None if local else shown, "keeps_classifier": not fresh}
        return facts | ({"new_labels": fresh} if fresh and numbers else {})
