"""Fit the linear part of a classifier, after its network: weights for n-grams of tokens.

An encoder does not know the words of every subject, and training it by gradient descent teaches it
few of them. A linear support vector machine learns them in seconds. Its margins, times a factor,
are added to the logits of the finished network. The features of a text are its distinct n-grams of
one to three tokens, times their inverse document frequency, divided by the root of its length; the
frequencies are folded into the weights, so prediction adds up a row of weights per n-gram.

Legend: N rows, K n-grams, C classes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import datasets
import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.typos import mistype_rows
from ..models.modeling_rnn import RnnForSequenceClassification
from ..tokenizers.ngrams import PRIME, NgramTable, distinct_ngrams, hash_ngrams
from ..utils.process import only_errors
from .run import Fit, Run, Tokens, Wide
from .trainer import SAMPLE_WEIGHT, weigh_classes

logger = logging.getLogger(__name__)

_BATCH = 2000  # texts
_MOST_ROWS = 300_000  # above, the weights descend in batches of rows
_MOST_NUMBERS = 30_000_000  # of the first fit: n-grams times classes
_MOST_HASHES = 10_000_000  # that are counted at once
_LEAST_TEXTS = 2  # that have an n-gram: those of one text are noise, and can be private
# Bytes of the table, by the number of classes.
_FEW_CLASSES, _MANY_CLASSES = 20, 150
_SMALL_TABLE, _LARGE_TABLE = 3_000_000, 6_000_000

# The likely factor on six sets of short texts is .5 to 1.4, on long texts 4 to 12. Half the rows of
# each chose it, the other half was measured: the prior loses nothing to likelihood alone, and on
# tweets of other languages it loses less (scripts/benchmarks/README.md).
USUAL_FACTOR = 0.5
_SPREAD = 0.5 * math.log(2)  # of the logarithm of the factor
_LEAST_VALIDATION, _MOST_VALIDATION = 300, 4000  # rows
_FACTORS = 2.0 ** np.arange(-4, 5.01, 0.25)

_SHOWN = 5  # n-grams per class on the card


@dataclass(frozen=True)
class Vocabulary:
    """N-grams of training texts, in the order of their hashes."""

    hashes: np.ndarray  # (K), int64
    weights: np.ndarray  # (K), inverse document frequency, so that rows have length 1 in the mean
    counts: np.ndarray  # (K), texts that have them

    def select(self, chosen: np.ndarray) -> Vocabulary:
        """Return the vocabulary of some n-grams."""
        return Vocabulary(self.hashes[chosen], self.weights[chosen], self.counts[chosen])

    def read(self, ids: np.ndarray, lengths: np.ndarray) -> csr_matrix:
        """Return the features `(N, K)` of texts."""
        hashes, numbers = distinct_ngrams(ids, lengths)
        places = np.searchsorted(self.hashes, hashes)
        places[places == len(self.hashes)] = 0
        is_known = self.hashes[places] == hashes
        places = places[is_known]
        numbers = numbers[is_known]
        values = self.weights[places] / np.sqrt(lengths[numbers])
        shape = len(lengths), len(self.hashes)
        return csr_matrix((values.astype(np.float32), (numbers, places)), shape=shape)


def fit_wide(run: Run, tokens: Tokens, fit: Fit, factor: float | None = None) -> Fit:
    """Return a fit whose model has a linear part too, if the settings ask for it and it helps.

    The validation rows choose its `factor` unless it is given.
    """
    trainer = fit.trainer
    model = trainer.model
    if not is_wide(run, model) or fit.few_rows:
        return fit
    start = time.monotonic()
    copies = make_copies(run, tokens)
    targets = read_targets(tokens, len(copies[0]), model)
    vocabulary = find_vocabulary(copies, model.config.num_labels)
    if not len(vocabulary.hashes):
        return fit
    weights, biases = solve(run, model, vocabulary, copies, targets)
    best = find_best(weights, count_rows(model.config.num_labels))
    if len(best) < len(vocabulary.hashes):
        vocabulary = vocabulary.select(best)
        weights, biases = solve(run, model, vocabulary, copies, targets)

    network = None
    if factor is None:
        factor, network = choose_factor(tokens, fit, vocabulary, weights, biases)
    if factor == 0:
        logger.info("no linear part: it gains nothing on the validation rows")
        return fit
    scaled = weights * vocabulary.weights[:, None] * factor
    attach(model, vocabulary, scaled, factor * biases)
    wide = Wide(
        ngrams=len(vocabulary.hashes),
        factor=round(factor, 3),
        seconds=round(time.monotonic() - start, 1),
        network=network,
        strongest=describe(model, tokens.tokenizer, vocabulary, scaled, copies[0]),
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
    return run.arguments.training.wide and has_head and not config.streaming


# ---- rows ----


def make_copies(run: Run, tokens: Tokens) -> list[datasets.Dataset]:
    """Return the encoded training rows, and a mistyped copy of them where the run mistypes."""
    texts = run.texts["train"]
    clean = tokens.examples["train"].select(range(len(texts)))  # without rows of an extension
    typos = run.arguments.training.typos
    if not typos:
        return [clean]
    mistyped = mistype_rows(texts, typos, f"{run.arguments.training.seed} wide")
    with only_errors():  # texts that were cut were counted once
        encoded = run.task.encode(
            datasets.DatasetDict(train=mistyped), tokens.tokenizer, run.arguments.data.max_length
        )
    return [clean, encoded["train"]]


@dataclass(frozen=True)
class Targets:
    """What the linear part learns of the training rows."""

    labels: np.ndarray  # class ids (N); of other tasks (N, C), numbers standardised
    weights: np.ndarray  # of the rows (N)


def read_targets(tokens: Tokens, rows: int, model: PreTrainedModel) -> Targets:
    """Return labels and weights of the first rows, those of train."""
    examples = tokens.examples["train"].select(range(rows))
    weights = np.ones(rows)
    if SAMPLE_WEIGHT in examples.column_names:
        weights = np.asarray(examples[SAMPLE_WEIGHT][:], np.float64)
    return Targets(standardise(np.asarray(examples["labels"][:]), model), weights)


def standardise(numbers: np.ndarray, model: PreTrainedModel) -> np.ndarray:
    """Return numbers in the unit in which the model learns them; class ids stay."""
    if model.config.target_scale is None:
        return numbers
    return (numbers - np.array(model.config.target_mean)) / np.array(model.config.target_scale)


def read_batches(rows: datasets.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the ids of some texts one after another, and their lengths."""
    for table in rows.select_columns("input_ids").with_format("arrow").iter(_BATCH):
        column = table["input_ids"].combine_chunks()
        yield column.flatten().to_numpy(), column.value_lengths().to_numpy().astype(np.int64)


def find_vocabulary(copies: Sequence[datasets.Dataset], labels: int) -> Vocabulary:
    """Return the n-grams that two training rows have, in any copy; the most frequent ones if they are many."""
    hashes = np.empty(0, np.int64)
    counts = np.empty(0, np.int64)
    for batches in zip(*map(read_batches, copies), strict=True):
        ids = np.concatenate([ids for ids, _ in batches])
        lengths = np.concatenate([lengths for _, lengths in batches])
        found, numbers = distinct_ngrams(ids, lengths)
        numbers %= len(batches[0][1])  # copies of a text are one text
        found = np.unique(numbers * (PRIME + 1) + found) % (PRIME + 1)
        hashes, places = np.unique(np.concatenate([hashes, found]), return_inverse=True)
        ones = np.ones(len(found), np.int64)
        counts = np.bincount(places, np.concatenate([counts, ones]).astype(float)).astype(np.int64)
        if len(hashes) > _MOST_HASHES:
            hashes, counts = hashes[counts >= _LEAST_TEXTS], counts[counts >= _LEAST_TEXTS]

    most = _MOST_NUMBERS // labels
    chosen = np.flatnonzero(counts >= _LEAST_TEXTS)
    if len(chosen) > most:
        chosen = np.sort(chosen[np.argsort(-counts[chosen], kind="stable")[:most]])
    rows = len(copies[0])
    rarity = np.log((1 + rows) / (1 + counts[chosen])) + 1
    vocabulary = Vocabulary(hashes[chosen], rarity, counts[chosen])
    length = measure_length(vocabulary, copies[0])
    return replace(vocabulary, weights=rarity / length)


def measure_length(vocabulary: Vocabulary, rows: datasets.Dataset) -> float:
    """Return the root mean square length of the features of rows; 1 if they have none."""
    total = 0.0
    for ids, lengths in read_batches(rows):
        total += float(vocabulary.read(ids, lengths).power(2).sum())
    return math.sqrt(total / max(1, len(rows))) or 1.0


# ---- weights ----


def solve(
    run: Run,
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    copies: Sequence[datasets.Dataset],
    targets: Targets,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights `(K, C)` and biases `(C)` of the best linear model of the training rows."""
    classes = model.config.num_labels
    labels = targets.labels
    weights = np.zeros((len(vocabulary.hashes), classes))
    biases = np.zeros(classes)
    if model.config.problem_type in (None, "single_label_classification"):
        power = run.arguments.training.class_weight_power
        counts = np.bincount(labels, targets.weights, classes).tolist()
        class_weight = dict(enumerate(weigh_classes(counts, power).tolist()))
        svm = make_svm(class_weight, len(labels))
        fit_rows(svm, vocabulary, copies, targets)
        coefficients = svm.coef_
        intercepts = svm.intercept_
        if len(svm.classes_) == 2:  # one margin becomes two of opposite signs
            coefficients = np.concatenate([-coefficients, coefficients])
            intercepts = np.concatenate([-intercepts, intercepts])
        weights[:, svm.classes_] = coefficients.T
        biases[svm.classes_] = intercepts
        return weights, biases

    is_numbers = model.config.problem_type == "regression"
    for column in range(classes):
        target = replace(targets, labels=labels[:, column])
        if not is_numbers and len(np.unique(target.labels)) < 2:
            continue  # a label that all rows have, or none
        estimator = make_ridge(len(labels)) if is_numbers else make_svm(None, len(labels))
        fit_rows(estimator, vocabulary, copies, target)
        weights[:, column] = np.ravel(estimator.coef_)
        biases[column] = np.ravel(estimator.intercept_)[0]
    return weights, biases


def make_svm(class_weight: Mapping[int, float] | None, rows: int) -> Any:
    """Return a support vector machine, which descends in batches for many rows."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.svm import LinearSVC

    if rows <= _MOST_ROWS:
        return LinearSVC(C=1.0, tol=1e-2, class_weight=class_weight, random_state=0)
    strength = 1 / rows  # as C = 1
    return SGDClassifier(
        "squared_hinge", alpha=strength, average=True, class_weight=class_weight, random_state=0
    )


def make_ridge(rows: int) -> Any:
    """Return ridge regression, which descends in batches for many rows."""
    from sklearn.linear_model import Ridge, SGDRegressor

    if rows <= _MOST_ROWS:
        return Ridge(alpha=1.0, solver="sparse_cg", random_state=0)
    return SGDRegressor(alpha=1 / rows, average=True, random_state=0)


def fit_rows(
    estimator: Any, vocabulary: Vocabulary, copies: Sequence[datasets.Dataset], targets: Targets
) -> None:
    """Fit an estimator to the rows of all copies: to all at once, or in batches if it takes these."""
    if hasattr(estimator, "partial_fit"):
        descend(estimator, vocabulary, copies, targets)
        return
    batches = [vocabulary.read(*batch) for rows in copies for batch in read_batches(rows)]
    labels = np.tile(targets.labels, len(copies))
    estimator.fit(vstack(batches), labels, sample_weight=np.tile(targets.weights, len(copies)))


def descend(
    estimator: Any, vocabulary: Vocabulary, copies: Sequence[datasets.Dataset], targets: Targets
) -> None:
    """Fit an estimator by stochastic gradient descent, in batches of rows in a random order."""
    order = np.random.default_rng(0).permutation(len(targets.labels))
    weights = targets.weights
    options: dict[str, Any] = {}
    if hasattr(estimator, "class_weight"):
        options["classes"] = np.unique(targets.labels)
        if estimator.class_weight is not None:  # partial_fit takes weights of rows only
            by_class = np.array([estimator.class_weight[label] for label in options["classes"]])
            weights = weights * by_class[np.searchsorted(options["classes"], targets.labels)]
            estimator.set_params(class_weight=None)
    for rows in copies:
        first = 0
        for ids, lengths in read_batches(rows.select(order)):
            chosen = order[first : first + len(lengths)]
            first += len(lengths)
            features = vocabulary.read(ids, lengths)
            labels = targets.labels[chosen]
            estimator.partial_fit(features, labels, sample_weight=weights[chosen], **options)


def count_rows(classes: int) -> int:
    """Return the n-grams of a table, from the bytes that a model with this number of classes may grow by."""
    share = (classes - _FEW_CLASSES) / (_MANY_CLASSES - _FEW_CLASSES)
    size = _SMALL_TABLE + (_LARGE_TABLE - _SMALL_TABLE) * min(1.0, max(0.0, share))
    return int(
        0.9 * size / (classes + 2.5)
    )  # weights, check and shift of a row; nine of ten are used


def find_best(weights: np.ndarray, most: int) -> np.ndarray:
    """Return the numbers of at most `most` n-grams, those with the longest rows of weights `(K, C)`."""
    strength = np.square(weights).sum(axis=1)
    if len(strength) <= most:
        return np.arange(len(strength))
    return np.sort(np.argsort(-strength, kind="stable")[:most])


# ---- the factor ----


def choose_factor(
    tokens: Tokens, fit: Fit, vocabulary: Vocabulary, weights: np.ndarray, biases: np.ndarray
) -> tuple[float, dict[str, Any] | None]:
    """Return the factor of the linear part, and the validation scores of the network alone.

    It minimises the loss on the validation rows, with a temperature of its own, plus a penalty for
    its distance to [`USUAL_FACTOR`]. It is 0 if the gain is not above its standard error. With few
    validation rows it is the usual one.
    """
    if "validation" not in tokens.examples:
        return USUAL_FACTOR, None
    rows = tokens.examples["validation"]
    output = fit.trainer.predict(rows)
    scores = fit.trainer.compute_metrics(output)
    network = {name: score for name, score in scores.items() if isinstance(score, float)}
    if len(rows) < _LEAST_VALIDATION:
        return USUAL_FACTOR, network

    features = vstack([vocabulary.read(*batch) for batch in read_batches(rows)])
    margins = features @ weights + biases
    model = fit.trainer.model
    logits = standardise(np.asarray(output.predictions, np.float64), model)
    labels = standardise(np.asarray(output.label_ids), model)
    if len(rows) > _MOST_VALIDATION:
        sample = np.random.default_rng(0).permutation(len(rows))[:_MOST_VALIDATION]
        logits, margins, labels = logits[sample], margins[sample], labels[sample]
    return find_factor(logits, margins, labels, model.config.problem_type), network


def find_factor(
    logits: np.ndarray, margins: np.ndarray, labels: np.ndarray, problem_type: str | None = None
) -> float:
    """Return the factor for margins `(N, C)` beside logits `(N, C)`; see [`choose_factor`]."""
    alone = fit_losses(logits, labels, problem_type)
    best = 0.0
    least = math.inf
    gains = np.zeros(len(labels))
    for factor in _FACTORS.tolist():
        losses = fit_losses(logits + factor * margins, labels, problem_type)
        distance = math.log(factor / USUAL_FACTOR) / _SPREAD
        total = losses.sum() + distance**2 / 2
        if total < least:
            best, least, gains = factor, total, alone - losses
    error = gains.std() / math.sqrt(len(gains))
    return best if gains.mean() > error else 0.0


def fit_losses(logits: np.ndarray, labels: np.ndarray, problem_type: str | None) -> np.ndarray:
    """Return the losses `(N)` of rows, of logits at the temperature with the least mean."""
    from scipy.optimize import minimize_scalar

    if problem_type == "regression":
        return np.square(logits - labels).mean(axis=1)

    def measure(exponent: float) -> np.ndarray:
        scaled = math.exp(exponent) * logits
        if problem_type == "multi_label_classification":
            return (np.logaddexp(0, scaled) - scaled * labels).mean(axis=1)
        right = scaled[np.arange(len(labels)), labels]
        return np.logaddexp.reduce(scaled, axis=1) - right

    bounds = (-2.0, 2.0)
    options = {"xatol": 1e-2}
    found = minimize_scalar(lambda value: measure(value).mean(), bounds=bounds, options=options)
    return measure(found.x)


# ---- the model ----


@torch.no_grad()
def attach(
    model: RnnForSequenceClassification,
    vocabulary: Vocabulary,
    weights: np.ndarray,
    biases: np.ndarray,
) -> None:
    """Give a classifier a linear part with weights `(K, C)`, and add biases `(C)` to its last layer."""
    table = NgramTable.build(vocabulary.hashes, weights)
    stored = {field.name: torch.from_numpy(getattr(table, field.name)) for field in fields(table)}
    model.attach_ngrams(stored)
    model.classifier.bias.add_(torch.from_numpy(biases).to(model.classifier.bias))


def describe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    weights: np.ndarray,
    rows: datasets.Dataset,
) -> dict[str, list[str]]:
    """Return the strongest n-grams of each class, as texts: weight times the root of the count."""
    strength = weights * np.sqrt(vocabulary.counts)[:, None]
    by_label = {
        name: vocabulary.hashes[np.argsort(-strength[:, number], kind="stable")[:_SHOWN]]
        for number, name in model.config.id2label.items()
    }
    wanted = np.unique(np.concatenate(list(by_label.values())))
    texts: dict[int, str] = {}
    for ids, lengths in read_batches(rows):
        ngrams = hash_ngrams(ids, lengths)
        inside = np.flatnonzero(np.isin(ngrams.hashes, wanted))
        found, index = np.unique(ngrams.hashes[inside], return_index=True)
        for value, place in zip(found.tolist(), inside[index], strict=True):
            first = ngrams.places[place]
            span = ids[first : first + ngrams.sizes[place]].tolist()
            texts[value] = tokenizer.decode(span).strip()
        wanted = np.setdiff1d(wanted, found)
    shown = {}
    for name, hashes in by_label.items():
        shown[name] = [texts[value] for value in hashes.tolist() if value in texts]
    return shown
