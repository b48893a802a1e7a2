"""Give a finished network a linear part: choose its rows and its factor, and attach it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import fields, replace

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.typos import mistype_rows
from ..evaluation.scores import single_scores
from ..linear.factor import LEAST_VALIDATION, find_factor
from ..linear.fit import LinearPart, TrainingRows, find_ngrams, fit_part
from ..linear.ngrams import NgramTable
from ..models.modeling_rnn import RnnForSequenceClassification
from ..utils.process import only_errors
from .prepare import Fit, Run, Tokens, Wide
from .trainer import SAMPLE_WEIGHT, weigh_classes

logger = logging.getLogger(__name__)

_MOST_VALIDATION = 4000  # rows that choose the factor
_SHOWN = 5  # n-grams per class on the card


def fit_wide(run: Run, tokens: Tokens, fit: Fit, known: Wide | None = None) -> Fit:
    """Return a fit whose model has a linear part too, if the settings ask for it and it helps.

    The validation rows choose its factor, unless that of a `known` one is taken.
    """
    model = fit.trainer.model
    if not is_wide(run, model):
        return fit
    validation = tokens.examples.get("validation")
    measured = 0 if validation is None else len(validation)
    if fit.few_rows and measured < LEAST_VALIDATION and known is None:
        return fit
    start = time.monotonic()
    rows = make_rows(run, tokens, model)
    linear = fit_part(rows, list_pieces(tokens.tokenizer))
    if linear is None:
        return fit

    output = None if validation is None else fit.trainer.predict(validation)
    if known is not None:
        factor = known.factor
    elif output is None:
        factor = find_factor(np.empty((0, 1)), np.empty((0, 1)), np.empty(0))
    else:
        chosen = np.random.default_rng(0).permutation(measured)[:_MOST_VALIDATION]
        factor = find_factor(
            standardise(np.asarray(output.predictions, np.float64), model)[chosen],
            linear.score(validation.select(chosen)),
            standardise(np.asarray(output.label_ids), model)[chosen],
            rows.problem_type,
        )
    if factor == 0:
        logger.info("no linear part: it gains nothing on the validation rows")
        return fit

    attach(model, linear, factor)
    scores = {} if output is None else fit.trainer.compute_metrics(output)
    wide = Wide(
        ngrams=len(linear.vocabulary.hashes),
        factor=round(factor, 3),
        seconds=round(time.monotonic() - start, 1),
        network=single_scores(scores),
        strongest=list_strongest(model, tokens.tokenizer, linear, rows.copies[0]),
    )
    logger.info("a linear part over %s n-grams, factor %.2g", f"{wide.ngrams:,}", factor)
    return replace(fit, wide=wide)


def is_wide(run: Run, model: PreTrainedModel) -> bool:
    """Return whether a model gets a linear part.

    Not one that streams: it would have to remember all n-grams of a text. Not one of pairs, where
    the two texts matter together, and not a head of somebody's own.
    """
    config = model.config
    has_head = type(model) is RnnForSequenceClassification and config.sep_token_id is None
    return run.settings.training.wide and has_head and not config.streaming


def make_rows(run: Run, tokens: Tokens, model: PreTrainedModel) -> TrainingRows:
    """Return the training rows of a run, without those of an extension.

    A run that mistypes has a mistyped copy of them too.
    """
    texts = run.texts["train"]
    examples = tokens.examples["train"].select(range(len(texts)))
    copies = [examples]
    typos = run.settings.training.typos
    if typos:
        mistyped = mistype_rows(texts, typos, f"{run.settings.training.seed} wide")
        with only_errors():  # texts that were cut were counted once
            encoded = run.task.encode(
                datasets.DatasetDict(train=mistyped), tokens.tokenizer, run.settings.data.max_length
            )
        copies.append(encoded["train"])

    weights = np.ones(len(examples))
    if SAMPLE_WEIGHT in examples.column_names:
        weights = np.asarray(examples[SAMPLE_WEIGHT][:], np.float64)
    labels = standardise(np.asarray(examples["labels"][:]), model)
    problem_type = model.config.problem_type
    classes = model.config.num_labels
    class_weights: Mapping[int, float] | None = None
    if problem_type in (None, "single_label_classification"):
        counts = np.bincount(labels, weights, classes).tolist()
        power = run.settings.training.class_weight_power
        class_weights = dict(enumerate(weigh_classes(counts, power).tolist()))
    return TrainingRows(copies, labels, weights, class_weights, problem_type, classes)


def list_pieces(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the texts of the tokens by id; a space begins a word where the tokenizer marks it."""
    special = {*tokenizer.all_special_ids}
    pieces: dict[int, str] = {}
    for piece, number in tokenizer.get_vocab().items():
        if number not in special:
            pieces[number] = piece.removeprefix("##").replace("▁", " ").replace("Ġ", " ")
    return pieces


def standardise(numbers: np.ndarray, model: PreTrainedModel) -> np.ndarray:
    """Return numbers in the unit of the training; class ids stay."""
    if model.config.target_scale is None:
        return numbers
    return (numbers - np.array(model.config.target_mean)) / np.array(model.config.target_scale)


@torch.no_grad()
def attach(model: RnnForSequenceClassification, linear: LinearPart, factor: float) -> None:
    """Give a classifier a linear part, and add its biases to the last layer."""
    table = NgramTable.build(linear.vocabulary.hashes, factor * linear.weights)
    stored = {field.name: torch.from_numpy(getattr(table, field.name)) for field in fields(table)}
    model.attach_ngrams(stored)
    biases = torch.from_numpy(factor * linear.biases)
    model.classifier.bias.add_(biases.to(model.classifier.bias))


def list_strongest(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    linear: LinearPart,
    rows: datasets.Dataset,
) -> dict[str, list[str]]:
    """Return the strongest n-grams of each class, as texts: weight times the root of the count."""
    vocabulary = linear.vocabulary
    strength = linear.weights * np.sqrt(vocabulary.counts)[:, None]
    best = np.argsort(-strength, axis=0, kind="stable")[:_SHOWN]  # (at most _SHOWN, C)
    spans = find_ngrams(np.unique(vocabulary.hashes[best]), rows)
    strongest: dict[str, list[str]] = {}
    for number, name in model.config.id2label.items():
        hashes = vocabulary.hashes[best[:, number]].tolist()
        strongest[name] = [tokenizer.decode(spans[key]).strip() for key in hashes if key in spans]
    return strongest
