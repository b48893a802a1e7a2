"""Labels that look wrong, by models that have not seen their rows.

Logistic regression on the vectors of an encoder, and on words and pairs of words, each fitted five
times without a fifth of the texts; equal texts are in the same fifth. The geometric mean of their
probabilities is compared with the label. The number of wrong labels is estimated by confident
learning (C. Northcutt, L. Jiang, I. Chuang: Confident Learning: Estimating Uncertainty in Dataset
Labels. JAIR 70, 2021, equations 1 to 3): a row counts for a class if its probability there is at
least the mean of the rows with that label. Texts whose label is a matter of taste count too.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import gmean
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from ..data.splits import hash_texts
from ..utils.errors import UserError
from .vectors import encode_texts

logger = logging.getLogger(__name__)

_FOLDS = 5
_MOST_JUDGED = 200_000  # rows
_FEWEST = 5  # rows of a label that is judged
_STRENGTH = 3.0  # C of both regressions; 30 is worse on emotions and BANKING77
_STEPS = 60
_MOST_FITTED = 30_000  # rows of a fold that are learned from, at random
_CHARACTERS = 2_000  # read of a text for its words
_NEIGHBOURS = 10
_WORST = 10_000  # rows whose neighbours are counted
_MOST_COMPARED = 50_000  # further rows that neighbours are sought in


@dataclass(frozen=True)
class WrongLabels:
    """The labels that look wrong, worst first, and an estimate of how many there are."""

    # `row`, `text`, `label`, `suggested`, `score` from 0 (surely wrong) to 1, and `neighbours`: the
    # number of the ten most similar texts that have another label, for the worst 10,000
    rows: pd.DataFrame
    share: float  # estimated, among all labels
    agreement: float  # share of the labels that the models choose for texts they have not learned
    # `label`, `suggested`, and `rows`, the estimate for this pair, largest first
    pairs: pd.DataFrame


def find_wrong_labels(
    texts: Sequence[str], labels: np.ndarray, names: Sequence[str]
) -> WrongLabels:
    """Return rows by how wrong their labels look: all, or 200,000 at random.

    Args:
        texts: The N texts.
        labels: Class ids `(N)`.
        names: The labels by class id.

    Raises:
        UserError: If fewer than two labels have five rows.
    """
    rows = _choose_rows(labels, names)
    texts = [texts[row] for row in rows.tolist()]
    classes, labels = np.unique(labels[rows], return_inverse=True)
    vectors = encode_texts(texts)
    scores = _score_out_of_fold(texts, labels, vectors)
    table, pairs = _compare(labels, scores, np.asarray(names, dtype=object)[classes])

    table.insert(0, "row", rows)
    table.insert(1, "text", texts)
    table = table.sort_values("score", kind="stable")
    neighbours = _count_other_neighbours(vectors, labels, table.index.to_numpy()[:_WORST])
    table = table.reset_index(drop=True)
    table["neighbours"] = pd.Series(neighbours, dtype="Int64")
    share = float(pairs["rows"].sum() / len(labels))
    return WrongLabels(table, share, float((scores.argmax(axis=1) == labels).mean()), pairs)


def _choose_rows(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the rows to judge, in order; log which are left out."""
    counts = np.bincount(labels, minlength=len(names))
    is_judged = counts >= _FEWEST
    if is_judged.sum() < 2:
        raise UserError(f"wrong labels need {_FEWEST} rows of two labels: found {counts.max()}")
    rows = np.flatnonzero(is_judged[labels])
    if len(rows) > _MOST_JUDGED:
        message = "%d of %d labels are judged, chosen at random"
        logger.warning(message, _MOST_JUDGED, len(labels))
        return np.sort(np.random.default_rng(0).permutation(rows)[:_MOST_JUDGED])
    if len(rows) < len(labels):
        few = ", ".join(np.asarray(names, dtype=object)[~is_judged])
        logger.warning("labels with less than %d rows are not judged: %s", _FEWEST, few[:200])
    return rows


def _score_out_of_fold(texts: Sequence[str], labels: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return scores `(N, C)` in float32, of sum 1, by models that have not learned the text."""
    features: list[Any] = [vectors]
    words = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, max_features=500_000, sublinear_tf=True, dtype=np.float32
    )
    with contextlib.suppress(ValueError):  # no word is in two texts
        features.append(words.fit_transform(text[:_CHARACTERS] for text in texts))
    folds = hash_texts(texts) % np.uint64(_FOLDS)
    draw = np.random.default_rng(0)
    scores = np.ones((len(labels), labels.max() + 1), dtype=np.float32)
    for fold in range(_FOLDS):
        learned = draw.permutation(np.flatnonzero(folds != fold))[:_MOST_FITTED]
        scored = np.flatnonzero(folds == fold)
        known = np.unique(labels[learned])
        if len(scored) and len(known) > 1:
            answers = [_predict(matrix, labels, learned, scored) for matrix in features]
            scores[scored] = 0
            scores[np.ix_(scored, known)] = gmean(answers)
    return scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-12)


def _predict(
    matrix: Any, labels: np.ndarray, learned: np.ndarray, scored: np.ndarray
) -> np.ndarray:
    """Return probabilities of some rows by a model of others."""
    model = LogisticRegression(C=_STRENGTH, max_iter=_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the steps are few
        model.fit(matrix[learned].astype(np.float32), labels[learned])
    return model.predict_proba(matrix[scored].astype(np.float32))


def _compare(
    labels: np.ndarray, scores: np.ndarray, names: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a table of all rows, and the estimated number of wrong labels by pair of labels."""
    rows = np.arange(len(labels))
    sizes = np.bincount(labels)
    thresholds = np.bincount(labels, scores[rows, labels]) / sizes  # mean score of its rows
    confident = np.where(scores >= thresholds, scores, 0)
    pairs = pd.DataFrame({"label": names[labels], "suggested": names[confident.argmax(axis=1)]})
    shares = pairs[confident.any(axis=1)].groupby("label")["suggested"]
    pairs = shares.value_counts(normalize=True).reset_index(name="rows")
    pairs["rows"] *= pairs["label"].map(pd.Series(sizes, index=names))
    pairs["rows"] = pairs["rows"].round().astype(int)
    pairs = pairs[(pairs["label"] != pairs["suggested"]) & (pairs["rows"] > 0)]

    # both by the mean of their class: a label that is always unsure does not look wrong for that
    relative = scores / np.maximum(thresholds, 1e-9)
    others = scores.copy()
    others[rows, labels] = -1
    suggested = others.argmax(axis=1)
    score = relative[rows, labels]
    score /= np.maximum(score + relative[rows, suggested], 1e-9)
    columns = {"label": names[labels], "suggested": names[suggested], "score": score.round(4)}
    return pd.DataFrame(columns), pairs.sort_values("rows", ascending=False, ignore_index=True)


def _count_other_neighbours(
    vectors: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return how many of the ten texts most similar to each of some rows have another label."""
    draw = np.random.default_rng(0)
    pool = np.union1d(rows, draw.permutation(len(labels))[:_MOST_COMPARED])
    number = min(_NEIGHBOURS + 1, len(pool))  # with the text itself, which has its own label
    search = NearestNeighbors(n_neighbors=number, algorithm="brute")
    search.fit(vectors[pool].astype(np.float32))
    nearest = pool[search.kneighbors(vectors[rows].astype(np.float32), return_distance=False)]
    return np.minimum((labels[nearest] != labels[rows, None]).sum(axis=1), _NEIGHBOURS)
