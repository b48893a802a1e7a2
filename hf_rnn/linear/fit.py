"""Fit the linear part of a classifier: weights for n-grams of tokens.

An encoder does not know the words of every subject, and training it by gradient descent teaches it
few of them. A linear support vector machine learns them in seconds. Its margins, times a factor,
are added to the logits of the finished network (`factor.py`).

The features of a text are its distinct n-grams of one to three tokens, times their inverse document
frequency, divided by the root of its length. Each distinct token also has the n-grams of two to
five characters of its own piece as features, which tokens of one stem share. After the fit the
weight of a token is the sum of its own and of those of its characters, so tokens that no training
text has get weights too, and a prediction only adds up a row of weights per n-gram.

Legend: N rows, K n-grams, V tokens, Q n-grams of characters, C classes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from scipy.sparse import csr_matrix, diags, hstack, vstack

from .ngrams import PRIME, distinct_ngrams, hash_ngrams, sort_distinct

logger = logging.getLogger(__name__)

_BATCH = 500  # texts
_MOST_ROWS = 300_000  # that are learned from
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

_CHARACTERS = range(2, 6)  # in an n-gram of characters
_CHARACTERS_WEIGHT = 0.5  # beside the n-grams of tokens
_LONGEST_PIECE = 30  # characters; longer ones are links and rulers


@dataclass(frozen=True)
class Vocabulary:
    """N-grams of tokens, in the order of their hashes."""

    hashes: np.ndarray  # (K), int64
    counts: np.ndarray  # (K), training texts with the n-gram

    def select(self, chosen: np.ndarray) -> Vocabulary:
        """Return the vocabulary of some n-grams."""
        return Vocabulary(self.hashes[chosen], self.counts[chosen])

    def read(self, rows: datasets.Dataset) -> csr_matrix:
        """Return the features `(N, K)` of encoded rows: 1 / the root of the length, or 0."""
        matrices: list[csr_matrix] = [csr_matrix((0, len(self.hashes)), dtype=np.float32)]
        for ids, lengths in read_batches(rows):
            hashes, numbers = distinct_ngrams(ids, lengths)
            places = np.searchsorted(self.hashes, hashes)
            places[places == len(self.hashes)] = 0
            is_known = self.hashes[places] == hashes
            places = places[is_known]
            numbers = numbers[is_known]
            values = (1 / np.sqrt(lengths[numbers])).astype(np.float32)
            shape = (len(lengths), len(self.hashes))
            matrices.append(csr_matrix((values, (numbers, places)), shape=shape))
        return vstack(matrices, "csr")


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a linear part learns."""

    copies: list[datasets.Dataset]  # encoded training rows, and a mistyped copy of them
    labels: np.ndarray  # class ids (N); of other tasks (N, C), numbers standardised
    weights: np.ndarray  # (N)
    class_weights: Mapping[int, float] | None  # for one label per text
    problem_type: str | None
    classes: int

    def sample(self) -> TrainingRows:
        """Return the rows that are learned from: all, or 300,000 at random."""
        if len(self.labels) <= _MOST_ROWS:
            return self
        logger.info("the linear part learns from %s random rows", f"{_MOST_ROWS:,}")
        order = np.random.default_rng(0).permutation(len(self.labels))
        chosen = np.sort(order[:_MOST_ROWS])
        copies = [rows.select(chosen) for rows in self.copies]
        labels = self.labels[chosen]
        weights = self.weights[chosen]
        return TrainingRows(
            copies, labels, weights, self.class_weights, self.problem_type, self.classes
        )


@dataclass(frozen=True)
class LinearPart:
    """Weights of n-grams."""

    vocabulary: Vocabulary
    weights: np.ndarray  # (K, C)
    biases: np.ndarray  # (C)

    def score(self, rows: datasets.Dataset) -> np.ndarray:
        """Return the margins `(N, C)` of encoded rows."""
        return self.vocabulary.read(rows) @ self.weights + self.biases


def fit_part(rows: TrainingRows, pieces: Mapping[int, str]) -> LinearPart | None:
    """Return the best linear model of training rows; None if no two of them share an n-gram.

    Args:
        rows: The rows, as token ids.
        pieces: The texts of the tokens by id, without special tokens.
    """
    rows = rows.sample()
    vocabulary = find_vocabulary(rows)
    if not len(vocabulary.hashes):
        return None
    count = len(rows.labels)
    features = vstack(list(map(vocabulary.read, rows.copies)), "csr")
    scale = _weigh(vocabulary.counts, count)
    scale /= _measure_length(features[:count], scale)

    room = count_rows(rows.classes)
    if len(vocabulary.hashes) > room:
        rough, _ = _solve(rows, features @ diags(scale), tolerance=0.1)
        best = np.sort(np.argsort(-np.einsum("kc,kc->k", rough, rough), kind="stable")[:room])
        vocabulary = vocabulary.select(best)
        features = features[:, best]
        scale = scale[best]

    spelled = _count_letters(rows, pieces)
    if spelled is None:
        weights, biases = _solve(rows, features @ diags(scale))
        return LinearPart(vocabulary, weights * scale[:, None], biases)
    tokens, counts = spelled
    letters = vstack([tokens.read(copy) @ counts for copy in rows.copies], "csr")
    letter_scale = _weigh(np.bincount(letters[:count].indices, minlength=counts.shape[1]), count)
    letter_scale *= _CHARACTERS_WEIGHT / _measure_length(letters[:count], letter_scale)
    length = math.hypot(1, _CHARACTERS_WEIGHT)  # row with both
    scale = scale / length
    letter_scale = letter_scale / length
    both = hstack([features @ diags(scale), letters @ diags(letter_scale)], "csr")
    weights, biases = _solve(rows, both)
    own = weights[: len(scale)] * scale[:, None]
    folded = counts @ (weights[len(scale) :] * letter_scale[:, None])
    return LinearPart(*_fold(vocabulary, own, tokens, folded, room), biases)


def read_batches(rows: datasets.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the ids of some texts one after another, and their lengths."""
    for table in rows.select_columns("input_ids").with_format("arrow").iter(_BATCH):
        column = table["input_ids"].combine_chunks()
        yield column.flatten().to_numpy(), column.value_lengths().to_numpy().astype(np.int64)


# ---- features ----


def find_vocabulary(rows: TrainingRows) -> Vocabulary:
    """Return the n-grams that two training rows have, in any copy; of many, the frequent ones."""
    hashes = np.empty(0, np.int64)
    counts = np.empty(0, np.int64)
    for batches in zip(*map(read_batches, rows.copies), strict=True):
        new_hashes, new_counts = np.unique(_list_ngrams(batches), return_counts=True)
        hashes, places = np.unique(np.concatenate([hashes, new_hashes]), return_inverse=True)
        both_counts = np.concatenate([counts, new_counts])
        counts = np.bincount(places, both_counts.astype(float)).astype(np.int64)
        if len(hashes) > _MOST_HASHES:
            is_frequent = counts >= _LEAST_TEXTS
            hashes = hashes[is_frequent]
            counts = counts[is_frequent]

    most = _MOST_NUMBERS // rows.classes
    chosen = np.flatnonzero(counts >= _LEAST_TEXTS)
    if len(chosen) > most:
        chosen = np.sort(chosen[np.argsort(-counts[chosen], kind="stable")[:most]])
    return Vocabulary(hashes[chosen], counts[chosen])


def _list_ngrams(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the hashes of the distinct n-grams of texts; copies of a text are one text."""
    ids = np.concatenate([ids for ids, _ in batches])
    lengths = np.concatenate([lengths for _, lengths in batches])
    hashes, numbers = distinct_ngrams(ids, lengths)
    numbers %= len(batches[0][1])
    return sort_distinct(numbers * (PRIME + 1) + hashes) % (PRIME + 1)


def _count_letters(
    rows: TrainingRows, pieces: Mapping[int, str]
) -> tuple[Vocabulary, csr_matrix] | None:
    """Return the tokens, and the counts `(V, Q)` of n-grams of characters in their pieces.

    Only n-grams of two pieces are there: one of a single piece says what its token says. The result
    is None for tokens that share no characters.
    """
    numbers: dict[str, int] = {}
    places: list[int] = []
    columns: list[int] = []
    ids = sorted(pieces)
    for place, number in enumerate(ids):
        piece = pieces[number]
        if len(piece) > _LONGEST_PIECE:
            continue
        for size in _CHARACTERS:
            for first in range(len(piece) - size + 1):
                ngram = piece[first : first + size]
                columns.append(numbers.setdefault(ngram, len(numbers)))
                places.append(place)
    shape = (len(ids), len(numbers))
    counts = csr_matrix((np.ones(len(places), np.float32), (places, columns)), shape=shape)
    is_shared = np.bincount(counts.indices, minlength=len(numbers)) > 1
    if not is_shared.any():
        return None
    hashes = np.array(ids, np.int64) + 1  # an n-gram of one token
    counts_of_tokens = np.zeros(len(ids), np.int64)
    return Vocabulary(hashes, counts_of_tokens), counts[:, np.flatnonzero(is_shared)]


def _weigh(counts: np.ndarray, rows: int) -> np.ndarray:
    """Return the inverse document frequencies of features that these counts of rows have."""
    return np.log((1 + rows) / (1 + counts)) + 1


def _measure_length(features: csr_matrix, scale: np.ndarray) -> float:
    """Return the root mean square length of a row with these weights; 1 without features."""
    total = float((features.power(2) @ np.square(scale)).sum())
    return math.sqrt(total / max(1, features.shape[0])) or 1.0


def count_rows(classes: int) -> int:
    """Return the most n-grams of a table, by the bytes that a model with these classes may grow."""
    share = (classes - _FEW_CLASSES) / (_MANY_CLASSES - _FEW_CLASSES)
    size = _SMALL_TABLE + (_LARGE_TABLE - _SMALL_TABLE) * min(1.0, max(0.0, share))
    return int(_FULL * size / (classes + _ROW_BYTES))


# ---- weights ----


def _solve(
    rows: TrainingRows, features: csr_matrix, tolerance: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights `(K, C)` and biases `(C)` of the best linear model of all copies."""
    from sklearn.linear_model import Ridge
    from sklearn.svm import LinearSVC

    weights = np.zeros((features.shape[1], rows.classes))
    biases = np.zeros(rows.classes)
    copies = len(rows.copies)
    row_weights = np.tile(rows.weights, copies)
    svm: Any = LinearSVC(C=1.0, tol=tolerance, random_state=0)
    if rows.class_weights is not None:
        svm.set_params(class_weight=rows.class_weights)
        svm.fit(features, np.tile(rows.labels, copies), sample_weight=row_weights)
        signs = np.ones((len(svm.coef_), 1))
        if len(svm.classes_) == 2:  # one margin becomes two of opposite signs
            signs = np.array([[-1.0], [1.0]])
        weights[:, svm.classes_] = (signs * svm.coef_).T
        biases[svm.classes_] = signs[:, 0] * svm.intercept_
        return weights, biases

    estimator = svm
    if rows.problem_type == "regression":
        estimator = Ridge(alpha=1.0, solver="sparse_cg", random_state=0)
    for column, labels in enumerate(rows.labels.T):
        if len(np.unique(labels)) < 2:
            continue  # a label that all rows have, or none
        estimator.fit(features, np.tile(labels, copies), sample_weight=row_weights)
        weights[:, column] = np.ravel(estimator.coef_)
        biases[column] = np.ravel(estimator.intercept_)[0]
    return weights, biases


def _fold(
    vocabulary: Vocabulary, own: np.ndarray, tokens: Vocabulary, folded: np.ndarray, room: int
) -> tuple[Vocabulary, np.ndarray]:
    """Return n-grams and their weights, with those of characters added to their tokens.

    Tokens that no training text has come in as far as there is room, the strongest first.
    """
    places = np.searchsorted(vocabulary.hashes, tokens.hashes)
    places[places == len(vocabulary.hashes)] = 0
    is_learned = vocabulary.hashes[places] == tokens.hashes
    weights = own.copy()
    weights[places[is_learned]] += folded[is_learned]

    strength = np.einsum("kc,kc->k", folded, folded)
    strength[is_learned] = 0
    further = np.argsort(-strength, kind="stable")[: max(0, room - len(own))]
    further = further[strength[further] > 0]
    hashes = np.concatenate([vocabulary.hashes, tokens.hashes[further]])
    counts = np.concatenate([vocabulary.counts, tokens.counts[further]])
    order = np.argsort(hashes, kind="stable")
    weights = np.concatenate([weights, folded[further]])
    return Vocabulary(hashes, counts).select(order), weights[order]


def find_ngrams(hashes: np.ndarray, rows: datasets.Dataset) -> dict[int, list[int]]:
    """Return the token ids of n-grams by their hashes, from the first row with each."""
    spans: dict[int, list[int]] = {}
    for ids, lengths in read_batches(rows):
        ngrams = hash_ngrams(ids, lengths)
        for place in np.flatnonzero(np.isin(ngrams.hashes, hashes)).tolist():
            first = ngrams.places[place]
            span = ids[first : first + ngrams.sizes[place]].tolist()
            spans.setdefault(int(ngrams.hashes[place]), span)
    return spans
