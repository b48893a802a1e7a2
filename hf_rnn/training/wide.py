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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import datasets
import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from ..data.typos import mistype_rows
from ..evaluation.scores import single_scores
from ..models.modeling_rnn import RnnForSequenceClassification
from ..tokenizers.ngrams import PRIME, NgramTable, distinct_ngrams, hash_ngrams, sort_distinct
from ..utils.process import only_errors
from .prepare import Fit, Run, Tokens, Wide
from .trainer import SAMPLE_WEIGHT, weigh_classes

logger = logging.getLogger(__name__)

_BATCH = 500  # texts
_MOST_ROWS = 300_000  # above, the weights descend in batches of rows
_MOST_NUMBERS = 10_000_000  # n-grams times classes of the first fit
_MOST_HASHES = 10_000_000  # counted at once
_LEAST_TEXTS = 2  # an n-gram of one text is noise, and can be private
# bytes of the table, by the number of classes
_FEW_CLASSES = 20
_MANY_CLASSES = 150
_SMALL_TABLE = 3_000_000
_LARGE_TABLE = 6_000_000
_ROW_BYTES = 2.5  # check and shift of a row of the table
_FULL = 0.9  # share of the rows that n-grams take

# Each further token of an n-gram multiplies its feature by one of these, chosen on the validation
# rows.
_DECAYS = (1.0, 0.5)
USUAL_DECAY = 0.7
# The factor is .4 to 1.7 on six sets of short texts, and 8 on long mails (scores.py prints it). A
# Cauchy prior of its logarithm holds it near the usual one where rows are few.
USUAL_FACTOR = 0.5
_SPREAD = 0.5 * math.log(2)  # scale of the prior
_LEAST_VALIDATION = 300  # rows
_MOST_VALIDATION = 4000
_FACTORS = 2.0 ** np.arange(-4, 5.01, 0.25)

_SHOWN = 5  # n-grams per class on the card


@dataclass(frozen=True)
class Vocabulary:
    """N-grams of training texts, in the order of their hashes."""

    hashes: np.ndarray  # (K), int64
    counts: np.ndarray  # (K), texts with the n-gram
    sizes: np.ndarray  # (K), tokens of the n-gram

    def select(self, chosen: np.ndarray) -> Vocabulary:
        """Return the vocabulary of some n-grams."""
        return Vocabulary(self.hashes[chosen], self.counts[chosen], self.sizes[chosen])

    def read(self, ids: np.ndarray, lengths: np.ndarray) -> csr_matrix:
        """Return the features `(N, K)` of texts, unweighted: 1 / the root of the length, or 0."""
        hashes, numbers = distinct_ngrams(ids, lengths)
        places = np.searchsorted(self.hashes, hashes)
        places[places == len(self.hashes)] = 0
        is_known = self.hashes[places] == hashes
        places = places[is_known]
        numbers = numbers[is_known]
        values = (1 / np.sqrt(lengths[numbers])).astype(np.float32)
        return csr_matrix((values, (numbers, places)), shape=(len(lengths), len(self.hashes)))

    def read_rows(self, rows: datasets.Dataset) -> csr_matrix:
        """Return the features before weights of encoded rows."""
        return vstack([self.read(ids, lengths) for ids, lengths in read_batches(rows)], "csr")

    def weigh(self, rows: int, decay: float) -> np.ndarray:
        """Return the weight `(K)` of each feature: inverse document frequency, times the decay."""
        rarity = np.log((1 + rows) / (1 + self.counts)) + 1
        return rarity * decay ** (self.sizes - 1.0)


@dataclass(frozen=True)
class Lesson:
    """The rows that a linear part learns."""

    copies: list[datasets.Dataset]  # encoded training rows, and a mistyped copy of them
    labels: np.ndarray  # class ids (N); of other tasks (N, C), numbers standardised
    row_weights: np.ndarray  # (N)
    class_weights: Mapping[int, float] | None  # for one label per text
    problem_type: str | None
    classes: int


@dataclass(frozen=True)
class Features:
    """The features of training rows before their weights, read again for each use of many rows."""

    lesson: Lesson
    vocabulary: Vocabulary
    in_memory: list[csr_matrix] | None  # those of each copy

    @classmethod
    def read(cls, lesson: Lesson, vocabulary: Vocabulary) -> Features:
        """Return the features of all copies of the rows."""
        if len(lesson.labels) > _MOST_ROWS:
            return cls(lesson, vocabulary, None)
        return cls(lesson, vocabulary, [vocabulary.read_rows(rows) for rows in lesson.copies])

    def select(self, chosen: np.ndarray) -> Features:
        """Return the features of some n-grams."""
        in_memory = self.in_memory
        if in_memory is not None:
            in_memory = [features[:, chosen] for features in in_memory]
        return Features(self.lesson, self.vocabulary.select(chosen), in_memory)

    def iter_batches(self, rows: datasets.Dataset) -> Iterator[csr_matrix]:
        """Yield the features of some of the rows."""
        for ids, lengths in read_batches(rows):
            yield self.vocabulary.read(ids, lengths)

    def measure_length(self, scale: np.ndarray) -> float:
        """Return the root mean square length of a row with these weights; 1 without features."""
        batches: Iterable[csr_matrix]
        if self.in_memory is None:
            batches = self.iter_batches(self.lesson.copies[0])
        else:
            batches = self.in_memory[:1]
        total = sum(float((features.power(2) @ np.square(scale)).sum()) for features in batches)
        return math.sqrt(total / max(1, len(self.lesson.labels))) or 1.0


@dataclass(frozen=True)
class LinearPart:
    """Weights of n-grams, for features before their own weights."""

    vocabulary: Vocabulary
    weights: np.ndarray  # (K, C)
    biases: np.ndarray  # (C)
    decay: float

    def score(self, rows: datasets.Dataset) -> np.ndarray:
        """Return the margins `(N, C)` of encoded rows."""
        return self.vocabulary.read_rows(rows) @ self.weights + self.biases


def fit_wide(run: Run, tokens: Tokens, fit: Fit, known: Wide | None = None) -> Fit:
    """Return a fit whose model has a linear part too, if the settings ask for it and it helps.

    The validation rows choose its factor and its decay, unless those of a `known` one are taken.
    """
    model = fit.trainer.model
    if not is_wide(run, model) or fit.few_rows:
        return fit
    start = time.monotonic()
    lesson = make_lesson(run, tokens, model)
    vocabulary = find_vocabulary(lesson)
    if not len(vocabulary.hashes):
        return fit
    validation = tokens.examples.get("validation")
    output = None if validation is None else fit.trainer.predict(validation)
    features = select_ngrams(Features.read(lesson, vocabulary))
    if known is not None:
        factor = known.factor
        linear = solve(features, known.decay)
    elif validation is None or len(validation) < _LEAST_VALIDATION:
        factor = USUAL_FACTOR
        linear = solve(features, USUAL_DECAY)
    else:
        factor, linear = choose_linear(features, take_sample(model, validation, output))
    if factor == 0:
        logger.info("no linear part: it gains nothing on the validation rows")
        return fit

    attach(model, linear, factor)
    scores = {} if output is None else fit.trainer.compute_metrics(output)
    wide = Wide(
        ngrams=len(linear.vocabulary.hashes),
        factor=round(factor, 3),
        decay=linear.decay,
        seconds=round(time.monotonic() - start, 1),
        network=single_scores(scores),
        strongest=list_strongest(model, tokens.tokenizer, linear, lesson.copies[0]),
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


# ---- rows ----


def make_lesson(run: Run, tokens: Tokens, model: PreTrainedModel) -> Lesson:
    """Return the training rows of a run, without those of an extension."""
    copies = make_copies(run, tokens)
    examples = tokens.examples["train"].select(range(len(copies[0])))
    row_weights = np.ones(len(examples))
    if SAMPLE_WEIGHT in examples.column_names:
        row_weights = np.asarray(examples[SAMPLE_WEIGHT][:], np.float64)
    labels = standardise(np.asarray(examples["labels"][:]), model)

    problem_type = model.config.problem_type
    classes = model.config.num_labels
    class_weights: Mapping[int, float] | None = None
    if problem_type in (None, "single_label_classification"):
        counts = np.bincount(labels, row_weights, classes).tolist()
        power = run.settings.training.class_weight_power
        class_weights = dict(enumerate(weigh_classes(counts, power).tolist()))
    return Lesson(copies, labels, row_weights, class_weights, problem_type, classes)


def make_copies(run: Run, tokens: Tokens) -> list[datasets.Dataset]:
    """Return the encoded training rows, and a mistyped copy of them where the run mistypes."""
    texts = run.texts["train"]
    clean = tokens.examples["train"].select(range(len(texts)))
    typos = run.settings.training.typos
    if not typos:
        return [clean]
    mistyped = mistype_rows(texts, typos, f"{run.settings.training.seed} wide")
    with only_errors():  # texts that were cut were counted once
        encoded = run.task.encode(
            datasets.DatasetDict(train=mistyped), tokens.tokenizer, run.settings.data.max_length
        )
    return [clean, encoded["train"]]


def standardise(numbers: np.ndarray, model: PreTrainedModel) -> np.ndarray:
    """Return numbers in the unit of the training; class ids stay."""
    if model.config.target_scale is None:
        return numbers
    return (numbers - np.array(model.config.target_mean)) / np.array(model.config.target_scale)


def read_batches(rows: datasets.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the ids of some texts one after another, and their lengths."""
    for table in rows.select_columns("input_ids").with_format("arrow").iter(_BATCH):
        column = table["input_ids"].combine_chunks()
        yield column.flatten().to_numpy(), column.value_lengths().to_numpy().astype(np.int64)


def find_vocabulary(lesson: Lesson) -> Vocabulary:
    """Return the n-grams that two training rows have, in any copy; of many, the frequent ones."""
    hashes = np.empty(0, np.int64)
    counts = np.empty(0, np.int64)
    for batches in zip(*map(read_batches, lesson.copies), strict=True):
        new_hashes, new_counts = np.unique(_list_ngrams(batches), return_counts=True)
        hashes, places = np.unique(np.concatenate([hashes, new_hashes]), return_inverse=True)
        both_counts = np.concatenate([counts, new_counts])
        counts = np.bincount(places, both_counts.astype(float)).astype(np.int64)
        if len(hashes) > _MOST_HASHES:
            is_frequent = counts >= _LEAST_TEXTS
            hashes = hashes[is_frequent]
            counts = counts[is_frequent]

    most = _MOST_NUMBERS // lesson.classes
    chosen = np.flatnonzero(counts >= _LEAST_TEXTS)
    if len(chosen) > most:
        chosen = np.sort(chosen[np.argsort(-counts[chosen], kind="stable")[:most]])
    hashes = hashes[chosen]
    return Vocabulary(hashes, counts[chosen], measure_sizes(hashes, lesson.copies))


def _list_ngrams(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the hashes of the distinct n-grams of texts; copies of a text are one text."""
    ids = np.concatenate([ids for ids, _ in batches])
    lengths = np.concatenate([lengths for _, lengths in batches])
    hashes, numbers = distinct_ngrams(ids, lengths)
    numbers %= len(batches[0][1])
    return sort_distinct(numbers * (PRIME + 1) + hashes) % (PRIME + 1)


def measure_sizes(hashes: np.ndarray, copies: Sequence[datasets.Dataset]) -> np.ndarray:
    """Return the number of tokens of each n-gram, from the rows that have it."""
    sizes = np.ones(len(hashes), np.int64)
    if not len(hashes):
        return sizes
    for rows in copies:
        for ids, lengths in read_batches(rows):
            ngrams = hash_ngrams(ids, lengths)
            places = np.searchsorted(hashes, ngrams.hashes)
            places[places == len(hashes)] = 0
            is_known = hashes[places] == ngrams.hashes
            sizes[places[is_known]] = ngrams.sizes[is_known]
    return sizes


# ---- weights ----


def select_ngrams(features: Features) -> Features:
    """Return the features of the n-grams that a table has room for: the longest rows of weights."""
    most = count_rows(features.lesson.classes)
    if len(features.vocabulary.hashes) <= most:
        return features
    weights = solve(features, USUAL_DECAY, tolerance=0.1).weights
    rarity = features.vocabulary.weigh(len(features.lesson.labels), USUAL_DECAY)
    strength = np.einsum("kc,kc->k", weights, weights) / np.square(rarity)
    best = np.argsort(-strength, kind="stable")[:most]
    return features.select(np.sort(best))


def solve(features: Features, decay: float, tolerance: float = 0.01) -> LinearPart:
    """Return the best linear model of the training rows over n-grams."""
    lesson = features.lesson
    scale = features.vocabulary.weigh(len(lesson.labels), decay)
    scale /= features.measure_length(scale)
    weights = np.zeros((len(scale), lesson.classes))
    biases = np.zeros(lesson.classes)
    if lesson.class_weights is not None:
        svm = make_svm(len(lesson.labels), tolerance, lesson.class_weights)
        fit_rows(svm, features, scale, lesson.labels)
        signs = np.ones((len(svm.coef_), 1))
        if len(svm.classes_) == 2:  # one margin becomes two of opposite signs
            signs = np.array([[-1.0], [1.0]])
        weights[:, svm.classes_] = (signs * svm.coef_).T
        biases[svm.classes_] = signs[:, 0] * svm.intercept_
    else:
        is_regression = lesson.problem_type == "regression"
        for column, labels in enumerate(lesson.labels.T):
            if len(np.unique(labels)) < 2:
                continue  # a label that all rows have, or none
            rows = len(labels)
            estimator = make_ridge(rows) if is_regression else make_svm(rows, tolerance)
            fit_rows(estimator, features, scale, labels)
            weights[:, column] = np.ravel(estimator.coef_)
            biases[column] = np.ravel(estimator.intercept_)[0]
    return LinearPart(features.vocabulary, weights * scale[:, None], biases, decay)


def make_svm(rows: int, tolerance: float, class_weights: Mapping[int, float] | None = None) -> Any:
    """Return a support vector machine, which descends in batches for many rows."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.svm import LinearSVC

    options = {"class_weight": class_weights, "random_state": 0}
    if rows <= _MOST_ROWS:
        return LinearSVC(C=1.0, tol=tolerance, **options)
    return SGDClassifier("squared_hinge", alpha=1 / rows, average=True, **options)  # as C = 1


def make_ridge(rows: int) -> Any:
    """Return ridge regression, which descends in batches for many rows."""
    from sklearn.linear_model import Ridge, SGDRegressor

    if rows <= _MOST_ROWS:
        return Ridge(alpha=1.0, solver="sparse_cg", random_state=0)
    return SGDRegressor(alpha=1 / rows, average=True, random_state=0)


def fit_rows(estimator: Any, features: Features, scale: np.ndarray, labels: np.ndarray) -> None:
    """Fit an estimator to the labels of the rows of all copies: at once, or in batches of many."""
    if features.in_memory is None:
        descend(estimator, features, scale, labels)
        return
    weighted = vstack(features.in_memory, "csr")
    weighted.data *= scale[weighted.indices]
    copies = len(features.in_memory)
    row_weights = np.tile(features.lesson.row_weights, copies)
    estimator.fit(weighted, np.tile(labels, copies), sample_weight=row_weights)


def descend(estimator: Any, features: Features, scale: np.ndarray, labels: np.ndarray) -> None:
    """Fit an estimator by stochastic gradient descent, in batches of rows in a random order."""
    lesson = features.lesson
    order = np.random.default_rng(0).permutation(len(labels))
    row_weights = lesson.row_weights
    options: dict[str, Any] = {}
    if lesson.problem_type != "regression":
        options["classes"] = np.unique(labels)
    if lesson.class_weights is not None:  # partial_fit takes weights of rows only
        by_class = np.array([*lesson.class_weights.values()])
        row_weights = row_weights * by_class[labels]
        estimator.set_params(class_weight=None)
    for rows in lesson.copies:
        first = 0
        for batch in features.iter_batches(rows.select(order)):
            chosen = order[first : first + batch.shape[0]]
            first += len(chosen)
            batch.data *= scale[batch.indices]
            estimator.partial_fit(
                batch, labels[chosen], sample_weight=row_weights[chosen], **options
            )


def count_rows(classes: int) -> int:
    """Return the most n-grams of a table, by the bytes that a model with these classes may grow."""
    share = (classes - _FEW_CLASSES) / (_MANY_CLASSES - _FEW_CLASSES)
    size = _SMALL_TABLE + (_LARGE_TABLE - _SMALL_TABLE) * min(1.0, max(0.0, share))
    return int(_FULL * size / (classes + _ROW_BYTES))


# ---- the factor ----


@dataclass(frozen=True)
class Sample:
    """Validation rows, with the answers of the network."""

    rows: datasets.Dataset
    logits: np.ndarray  # (N, C)
    labels: np.ndarray


def take_sample(model: PreTrainedModel, rows: datasets.Dataset, output: PredictionOutput) -> Sample:
    """Return some validation rows and the output of a network for them."""
    logits = standardise(np.asarray(output.predictions, np.float64), model)
    labels = standardise(np.asarray(output.label_ids), model)
    if len(rows) <= _MOST_VALIDATION:
        return Sample(rows, logits, labels)
    chosen = np.random.default_rng(0).permutation(len(rows))[:_MOST_VALIDATION]
    return Sample(rows.select(chosen), logits[chosen], labels[chosen])


def choose_linear(features: Features, sample: Sample) -> tuple[float, LinearPart]:
    """Return the factor and the linear part of least loss on a sample; see [`find_factor`]."""
    decays = [USUAL_DECAY] if features.in_memory is None else _DECAYS
    linears = [solve(features, decay) for decay in decays]
    problem_type = features.lesson.problem_type
    results: list[tuple[float, float]] = []
    for linear in linears:
        margins = linear.score(sample.rows)
        results.append(find_factor(sample.logits, margins, sample.labels, problem_type))
    best = int(np.argmin([loss for _, loss in results]))
    return results[best][0], linears[best]


def find_factor(
    logits: np.ndarray, margins: np.ndarray, labels: np.ndarray, problem_type: str | None = None
) -> tuple[float, float]:
    """Return the factor for margins `(N, C)` beside logits `(N, C)`, and the loss with it.

    It minimises the sum of losses, with a temperature of its own, plus a penalty for its distance
    to [`USUAL_FACTOR`]: the negative logarithm of a Cauchy density. It is 0 if the gain is not over
    its standard error.
    """
    alone = fit_losses(logits, labels, problem_type)
    best = 0.0
    least = math.inf
    gains = np.zeros(len(labels))
    for factor in _FACTORS.tolist():
        losses = fit_losses(logits + factor * margins, labels, problem_type)
        distance = math.log(factor / USUAL_FACTOR) / _SPREAD
        total = losses.sum() + math.log1p(distance**2)
        if total < least:
            best = factor
            least = total
            gains = alone - losses
    error = gains.std() / math.sqrt(len(gains))
    if gains.mean() <= error:
        return 0.0, float(alone.sum())
    return best, least


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
    result = minimize_scalar(lambda value: measure(value).mean(), bounds=bounds, options=options)
    return measure(result.x)


# ---- the model ----


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
    texts = decode_ngrams(tokenizer, np.unique(vocabulary.hashes[best]), rows)
    strongest: dict[str, list[str]] = {}
    for number, name in model.config.id2label.items():
        hashes = vocabulary.hashes[best[:, number]].tolist()
        strongest[name] = [texts[value] for value in hashes if value in texts]
    return strongest


def decode_ngrams(
    tokenizer: PreTrainedTokenizerBase, hashes: np.ndarray, rows: datasets.Dataset
) -> dict[int, str]:
    """Return the text of n-grams by their hashes, from the first row with each."""
    texts: dict[int, str] = {}
    for ids, lengths in read_batches(rows):
        ngrams = hash_ngrams(ids, lengths)
        places = np.flatnonzero(np.isin(ngrams.hashes, hashes))
        for place in places.tolist():
            value = int(ngrams.hashes[place])
            if value not in texts:
                first = ngrams.places[place]
                span = ids[first : first + ngrams.sizes[place]].tolist()
                texts[value] = tokenizer.decode(span).strip()
    return texts
