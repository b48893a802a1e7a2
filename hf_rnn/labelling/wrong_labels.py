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
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

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
_CHUNK = 10_000
_MOST_COMPARED = 50_000  # rows that neighbours are sought in


@dataclass(frozen=True)
class WrongLabels:
    """The labels that look wrong, worst first, and an estimate of how many there are."""

    # `row`, `text`, `label`, `suggested`, `score` from 0 (surely wrong) to 1, and `neighbours`: the
    # number of the ten most similar texts that have another label, for the worst 10,000
    rows: pd.DataFrame
    share: float  # estimated, among all labels
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
    texts = [texts[int(row)] for row in rows]
    classes, labels = np.unique(labels[rows], return_inverse=True)
    names = [names[int(number)] for number in classes]

    vectors = encode_texts(texts)
    scores = _score_out_of_fold(texts, labels, vectors, len(names))
    table, pairs = _compare(labels, scores, names)
    order = np.argsort(table["score"], kind="stable")
    worst = pd.DataFrame({"row": rows, "text": texts, **table}).iloc[order]
    neighbours = _count_other_neighbours(vectors, labels, order[:_CHUNK])
    worst = worst.reset_index(drop=True)
    worst["neighbours"] = pd.Series(neighbours, dtype="Int64")
    return WrongLabels(worst, float(pairs["rows"].sum() / len(labels)), pairs)


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


def _score_out_of_fold(
    texts: Sequence[str], labels: np.ndarray, vectors: np.ndarray, classes: int
) -> np.ndarray:
    """Return probabilities `(N, C)` in float32 by models that have not learned the text."""
    words = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, max_features=500_000, sublinear_tf=True, dtype=np.float32
    )
    features: list[Any] = [vectors]
    with contextlib.suppress(ValueError):  # no word is in two texts
        features.append(words.fit_transform(text[:_CHARACTERS] for text in texts))
    folds = hash_texts(texts) % np.uint64(_FOLDS)
    draw = np.random.default_rng(0)
    scores = np.ones((len(labels), classes), dtype=np.float32)
    for fold in range(_FOLDS):
        learned = draw.permutation(np.flatnonzero(folds != fold))[:_MOST_FITTED]
        scored = np.flatnonzero(folds == fold)
        if not len(scored) or len(set(labels[learned])) < 2:
            continue
        for matrix in features:
            _multiply_scores(scores, matrix, labels, learned, scored)
    return scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-12)


def _multiply_scores(
    scores: np.ndarray, matrix: Any, labels: np.ndarray, learned: np.ndarray, scored: np.ndarray
) -> None:
    """Multiply scores of rows by the roots of probabilities from a model of other rows."""
    model = LogisticRegression(C=_STRENGTH, max_iter=_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the steps are few
        model.fit(_as_float(matrix[learned]), labels[learned])
    for start in range(0, len(scored), _CHUNK):
        some = scored[start : start + _CHUNK]
        probabilities = np.zeros((len(some), scores.shape[1]), dtype=np.float32)
        probabilities[:, model.classes_] = model.predict_proba(_as_float(matrix[some]))
        scores[some] *= np.sqrt(probabilities)


def _as_float(features: Any) -> Any:
    return features.astype(np.float32)


def _compare(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return columns of all rows, and the estimated number of wrong labels by pair of labels."""
    rows = np.arange(len(labels))
    counts = np.bincount(labels, minlength=len(names))
    # the mean score of a class among its rows
    thresholds = np.bincount(labels, scores[rows, labels], minlength=len(names)) / counts
    others = scores.copy()
    others[rows, labels] = -1
    suggested = others.argmax(axis=1)

    # both by the mean of their class: a label that is always unsure does not look wrong for that
    relative = scores / np.maximum(thresholds, 1e-9)
    given = relative[rows, labels]
    score = given / np.maximum(given + relative[rows, suggested], 1e-9)
    array = np.asarray(names, dtype=object)
    columns = {"label": array[labels], "suggested": array[suggested], "score": score.round(4)}
    return columns, _count_pairs(labels, np.where(scores >= thresholds, scores, 0), counts, array)


def _count_pairs(
    labels: np.ndarray, confident: np.ndarray, counts: np.ndarray, names: np.ndarray
) -> pd.DataFrame:
    """Return the estimated number of wrong labels by pair, from confident scores."""
    has_class = confident.any(axis=1)
    joint = np.zeros((len(names), len(names)))
    np.add.at(joint, (labels[has_class], confident[has_class].argmax(axis=1)), 1)
    joint *= (counts / np.maximum(joint.sum(axis=1), 1))[:, None]
    np.fill_diagonal(joint, 0)
    joint = joint.round().astype(int)
    label, suggestion = np.nonzero(joint)
    pairs = {
        "label": names[label],
        "suggested": names[suggestion],
        "rows": joint[label, suggestion],
    }
    return pd.DataFrame(pairs).sort_values("rows", ascending=False, ignore_index=True)


def _count_other_neighbours(
    vectors: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return how many of the ten texts most similar to each of some rows have another label."""
    pool = np.random.default_rng(0).permutation(len(labels))[:_MOST_COMPARED]
    known = _as_float(vectors[pool])
    number = min(_NEIGHBOURS, len(pool) - 1)
    counts = [np.empty(0, dtype=int)]
    for start in range(0, len(rows), _CHUNK // 10):
        some = rows[start : start + _CHUNK // 10]
        likeness = _as_float(vectors[some]) @ known.T
        likeness[some[:, None] == pool] = -2  # the text itself
        nearest = np.argpartition(-likeness, number, axis=1)[:, :number]
        counts.append((labels[pool[nearest]] != labels[some, None]).sum(axis=1))
    return np.concatenate(counts)
