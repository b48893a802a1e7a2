"""Scores of predictions, equal to those of scikit-learn with `zero_division=0`.

Averages are over the classes that occur among labels or predictions. Classes are counted here,
since the import of scikit-learn takes a second; other scores are its own. Legend: N rows, C names.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import UserError, install_hint, reason_of

if TYPE_CHECKING:
    import datasets
    import numpy.typing as npt
    from sklearn.pipeline import FeatureUnion, Pipeline
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_SEQEVAL = {"f1": "f1-score", "precision": "precision", "recall": "recall"}  # its names of scores
_ENTITY_TAG = re.compile(r"[BIES]-(.+)")
# with a confusion matrix; the zeros of a larger one would fill most of metrics.json
MOST_CLASSES = 1_000
# for the linear model
OPTIONS = {
    "characters_alone": (False, True),
    "C": (0.2, 0.05, 1.0),
    "class_weight": ("balanced", None),
}
FOLDS = 3
# characters times classes, at least twelve; memory is about 85 bytes per character
MOST_WORK = 500_000_000
# characters times classes, at least ten, of the rows that choose the options
VALIDATION_WORK = 5_000_000
MANY_ROWS = 1_000  # from here on, characters of one text alone are left out


def check_finite_logits(logits: npt.ArrayLike) -> None:
    """Raise UserError for logits `(N, C)` that are NaN or infinite."""
    finite = np.isfinite(np.asarray(logits)).all(axis=-1)
    if not finite.all():
        advice = "did the training diverge? Train again with a lower learning_rate, or with max_grad_norm 1"
        raise UserError(
            f"{np.count_nonzero(~finite)} of {len(finite)} rows have logits that are not finite: {advice}"
        )


def classification_metrics(
    predictions: npt.ArrayLike, references: npt.ArrayLike, class_names: Sequence[str]
) -> dict[str, Any]:
    """Measure single-label predictions.

    Args:
        predictions: Predicted class ids (N).
        references: True class ids (N).
        class_names: Names by id (C).

    Returns:
        `accuracy`, `macro_f1`, `macro_recall`, `absent_classes` (number of those without a row or a
        prediction, which the means leave out), `per_class` (name to `precision`, `recall`, `f1` and
        `support`) and, up to 1,000 classes, `confusion_matrix` (true classes in rows).
    """
    names, predicted, true = list(class_names), np.asarray(predictions), np.asarray(references)
    size, occurring = len(names), np.union1d(true, predicted)
    right, support, claimed = (
        np.bincount(ids, minlength=size) for ids in (true[true == predicted], true, predicted)
    )
    totals = claimed, support, (claimed + support) / 2  # for precision, recall and F1
    scores = [*(right / np.where(total > 0, total, 1) for total in totals), support]
    counts = {}
    if size <= MOST_CLASSES:
        counts["confusion_matrix"] = (
            np.bincount(true * size + predicted, minlength=size**2).reshape(size, -1).tolist()
        )
    return {
        "accuracy": float((true == predicted).mean()),
        "macro_f1": float(scores[2][occurring].mean()),
        "macro_recall": float(scores[1][occurring].mean()),
        "absent_classes": size - len(occurring),
        "per_class": _by_name(names, scores),
        **counts,
    }


def _by_name(names: Sequence[str], scores: Sequence[np.ndarray]) -> dict[str, dict[str, Any]]:
    keys = ("precision", "recall", "f1", "support")
    rows = zip(*(column.tolist() for column in scores), strict=True)
    return {name: dict(zip(keys, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def label_set_metrics(
    predictions: npt.ArrayLike,
    references: npt.ArrayLike,
    names: Sequence[str],
    thresholds: npt.ArrayLike = 0.5,
) -> dict[str, Any]:
    """Measure sets of labels from scores `(N, C)`, such as probabilities, against references of 0 and 1 `(N, C)`.

    A text has the labels with a score above `thresholds`: a number, or one per label (C). Return
    `micro_f1`, `macro_f1`, `subset_accuracy` (share of the rows with exactly the right set),
    `average_precision` (mean over the labels that some row has) and `per_label`, which has
    `average_precision` too (None without a row).
    """
    from sklearn.metrics import (
        accuracy_score,
        average_precision_score,
        f1_score,
        precision_recall_fscore_support,
    )

    values, true = np.asarray(predictions), np.asarray(references) > 0.5
    held = values > np.asarray(thresholds)
    # one column would be read as two classes
    pairs = (true, held) if len(names) > 1 else (true[:, 0], held[:, 0])
    options = {} if len(names) > 1 else {"labels": [True]}
    scores = precision_recall_fscore_support(*pairs, zero_division=0, **options)
    per_label = _by_name(names, scores)
    for name, column, labels in zip(names, values.T, true.T, strict=True):
        per_label[name]["average_precision"] = (
            float(average_precision_score(labels, column)) if labels.any() else None
        )
    precisions = [row["average_precision"] for row in per_label.values() if row["support"]]
    return {
        "micro_f1": float(f1_score(true.ravel(), held.ravel(), zero_division=0)),
        "macro_f1": float(scores[2].mean()),
        "subset_accuracy": float(accuracy_score(true, held)),
        "average_precision": float(np.mean(precisions)) if precisions else 0.0,
        "per_label": per_label,
    }


def tune_thresholds(probabilities: np.ndarray, references: npt.ArrayLike) -> list[float]:
    """Return per label the threshold of its probabilities `(N, C)` with the best F1; 0.5 for a label without a row.

    A threshold is 0.5, or the middle between two neighbouring scores; of equally good ones the
    nearest to 0.5.
    """
    thresholds = []
    for scores, true in zip(probabilities.T, (np.asarray(references) > 0.5).T, strict=True):
        steps, order = np.unique(scores), np.sort(scores)
        cuts = np.append((steps[:-1] + steps[1:]) / 2, 0.5)
        claimed = len(order) - np.searchsorted(order, cuts, side="right")
        hits = true.sum() - np.searchsorted(np.sort(scores[true]), cuts, side="right")
        f1 = 2 * hits / np.maximum(1, true.sum() + claimed)
        best = cuts[f1 >= f1.max() - 1e-12]
        thresholds.append(float(best[np.abs(best - 0.5).argmin()]) if true.any() else 0.5)
    return thresholds


def number_metrics(
    predictions: npt.ArrayLike, references: npt.ArrayLike, names: Sequence[str]
) -> dict[str, Any]:
    """Measure predicted numbers `(N, C)`, or `(N)` for one name, against true ones of the same shape.

    Return `pearson`, `spearman`, `r2`, `mae` and `rmse`, each as the mean over the numbers; for
    several numbers also
    `per_value`: name to these. A correlation with a constant is 0, and so is R2 of one row.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import r2_score

    guesses, true = (
        np.asarray(values, np.float64).reshape(-1, len(names))
        for values in (predictions, references)
    )

    def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        first, second = first - first.mean(axis=0), second - second.mean(axis=0)
        scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
        return (first * second).sum(axis=0) / np.where(scale > 0, scale, np.inf)

    scores = {
        "pearson": correlate(guesses, true),
        "spearman": correlate(rankdata(guesses, axis=0), rankdata(true, axis=0)),
        "r2": r2_score(true, guesses, multioutput="raw_values")
        if len(true) > 1
        else np.zeros(len(names)),
        "mae": np.abs(guesses - true).mean(axis=0),
        "rmse": np.sqrt(((guesses - true) ** 2).mean(axis=0)),
    }
    means: dict[str, Any] = {score: float(values.mean()) for score, values in scores.items()}
    if len(names) > 1:
        rows = np.column_stack(list(scores.values())).tolist()
        means["per_value"] = {
            name: dict(zip(scores, row, strict=True)) for name, row in zip(names, rows, strict=True)
        }
    return means


def entity_types(names: Iterable[str]) -> list[str]:
    """Return the sorted types of entities among the tags of a model; empty if they mark no entities."""
    marks = [_ENTITY_TAG.fullmatch(name) for name in set(names) - {"O"}]
    return sorted({mark[1] for mark in marks if mark}) if all(marks) else []


def tagging_metrics(
    predictions: Sequence[npt.ArrayLike], references: Sequence[npt.ArrayLike], names: Sequence[str]
) -> dict[str, Any]:
    """Measure the tags of sentences from their ids.

    For tags of entities, `f1`, `precision` and `recall` are those of whole entities, over all
    types, `macro_f1` is the mean over types, and `per_class` has each type, as seqeval measures
    them. For other tags `f1` is the accuracy, and the rest is that of [`classification_metrics`].
    """
    guesses, true = np.concatenate(predictions), np.concatenate(references)
    if not entity_types(names):
        scores = classification_metrics(guesses, true, names)
        return {"f1": scores["accuracy"], **scores}
    try:
        from seqeval.metrics import classification_report
    except ModuleNotFoundError as error:
        raise UserError(f"scores of entities need seqeval: {install_hint('tagging')}") from error
    tags = np.array(names, dtype=object)
    pairs = (
        [tags[np.asarray(row, dtype=int)].tolist() for row in rows]
        for rows in (references, predictions)
    )
    report = classification_report(*pairs, output_dict=True, zero_division=0)
    rows = {
        name: {score: float(row.get(key, 0)) for score, key in _SEQEVAL.items()}
        | {"support": int(row["support"])}
        for name, row in report.items()
    }
    micro = rows.get("micro avg", dict.fromkeys(_SEQEVAL, 0.0))
    per_class = {name: row for name, row in rows.items() if not name.endswith(" avg")}
    macro = float(np.mean([row["f1"] for row in per_class.values()])) if per_class else 0.0
    return {
        **{score: micro[score] for score in _SEQEVAL},
        "macro_f1": macro,
        "accuracy": float((guesses == true).mean()),
        "per_class": per_class,
    }


def measure_loss(logits: np.ndarray, references: npt.ArrayLike, problem_type: str | None) -> float:
    """Return the mean loss of logits `(N, C)`: cross-entropy in nats, or for regression the squared error."""
    values, true = np.asarray(logits, np.float64), np.asarray(references)
    if problem_type == "regression":
        return float(np.mean((values - true.reshape(values.shape)) ** 2))
    if problem_type == "multi_label_classification":
        return float(np.mean(np.logaddexp(0, values) - values * true))
    return float(np.mean(np.logaddexp.reduce(values, axis=1) - values[np.arange(len(true)), true]))


# ---- a linear model of the same rows, beside the scores of cards and benchmarks ----


def fit_linear(
    texts: Sequence[str], labels: Sequence[int], normalize: Callable[[str], str] | None = None
) -> tuple[Pipeline, str]:
    """Fit a linear SVM to TF-IDF of words, word pairs and characters; choose its options by cross-validation.

    The options are characters without words, C, and class weights. One after the other takes the
    value with the best sum of accuracy and macro-F1 in three folds. Large data use a random sample
    of the rows for this.

    Args:
        texts: Training texts (N).
        labels: Class ids (N).
        normalize: Applied to each text; by default it becomes lower case.

    Returns:
        A pipeline of scikit-learn, whose `predict` takes texts, and a description for people.

    Raises:
        ValueError: For a single class, or too much data.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    true, lengths = np.asarray(labels), np.array(list(map(len, texts)))
    characters, size = int(lengths.sum()), int(true.max()) + 1
    if characters * max(size, 12) > MOST_WORK:
        raise ValueError(
            f"{characters} characters of {size} classes: their product is above {MOST_WORK}"
        )

    def vectorize(characters_alone: bool, rows: int) -> FeatureUnion:
        common: dict[str, Any] = {
            "preprocessor": normalize,
            "sublinear_tf": True,
            "dtype": np.float32,
        }
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", **common)
        common["min_df"] = 2 if rows >= MANY_ROWS else 1
        parts_of_words = TfidfVectorizer(ngram_range=(1, 5), analyzer="char_wb", **common)
        parts_of_texts = TfidfVectorizer(ngram_range=(1, 4), analyzer="char", **common)
        return make_union(parts_of_texts) if characters_alone else make_union(words, parts_of_words)

    chosen: dict[str, Any] = {name: values[0] for name, values in OPTIONS.items()}
    how = "the rows are too few to choose"
    rows = np.random.default_rng(0).permutation(len(true))
    rows = rows[
        : np.searchsorted(lengths[rows].cumsum() * max(size, 10), VALIDATION_WORK, side="right")
    ]
    if np.sort(np.bincount(true[rows], minlength=2))[-2] >= FOLDS:  # every fold leaves two classes
        sample, answers = [texts[row] for row in rows], true[rows]
        matrices = {
            alone: vectorize(alone, len(rows)).fit_transform(sample) for alone in (False, True)
        }
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)

        @cache
        def validate(characters_alone: bool, C: float, class_weight: str | None) -> float:
            model = LinearSVC(C=C, class_weight=class_weight, tol=0.1, max_iter=30, random_state=0)
            guesses = cross_val_predict(model, matrices[characters_alone], answers, cv=folds)
            scores = classification_metrics(guesses, answers, list(map(str, range(size))))
            return scores["accuracy"] + scores["macro_f1"]

        with warnings.catch_warnings():
            # some classes have fewer rows than folds, some fits stop early
            warnings.simplefilter("ignore")
            for name, values in OPTIONS.items():
                chosen[name] = max(values, key=lambda value: validate(**{**chosen, name: value}))  # noqa: B023
        how = f"chosen in {FOLDS} folds of train"
    features = (
        "characters"
        if (alone := chosen.pop("characters_alone"))
        else "words, word pairs, characters"
    )
    model = make_pipeline(
        vectorize(alone, len(true)), LinearSVC(tol=0.01, random_state=0, **chosen)
    ).fit(texts, true)
    weights = "class-weighted" if chosen["class_weight"] else "unweighted"
    return model, f"TF-IDF ({features}) + {weights} linear SVM (C {chosen['C']:g}; {how})"


class LinearBaseline:
    """A linear model of the same rows, beside the scores of cards and of `hf-rnn evaluate`.

    Attributes:
        name: Its description for people.
        scores: Accuracy, macro-F1 and macro-recall by split.
        margins: By split the distance of the best class from the next, and whether the answer is
            right, each `(N,)`.
    """

    def __init__(self, train: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        normalize = normalizer.normalize_str if normalizer else None  # both models read the same
        self._model, self.name = fit_linear(train["text"][:], train["label"][:], normalize)
        self._labels = train.features["label"].names
        self.scores: dict[str, dict[str, float]] = {}
        self.margins: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def measure(self, rows: datasets.Dataset, split: str) -> dict[str, float]:
        """Answer rows; keep and return their scores."""
        distances, labels = (
            self._model.decision_function(rows["text"][:]),
            np.asarray(rows["label"][:]),
        )
        if distances.ndim == 1:  # two classes
            distances = np.stack([-distances, distances], axis=1) / 2
        answers, best = self._model.classes_[distances.argmax(axis=1)], np.sort(distances, axis=1)
        metrics = classification_metrics(answers, labels, self._labels)
        self.scores[split] = {
            score: value for score, value in metrics.items() if isinstance(value, float)
        }
        self.margins[split] = (best[:, -1] - best[:, -2], answers == labels)
        return self.scores[split]


def linear_scores(
    texts: Mapping[str, datasets.Dataset], tokenizer: PreTrainedTokenizerBase
) -> LinearBaseline | None:
    """Fit the linear model to the split `train`, and measure it on the other splits.

    The result is None, with the reason in the log, for unsuitable data.
    """
    try:
        linear = LinearBaseline(texts["train"], tokenizer)
    # ValueError also for texts without a word and for a single class
    except (ValueError, MemoryError) as error:
        logger.warning("no linear baseline in the card: %s", reason_of(error))
        return None
    for split, rows in texts.items():
        if split != "train":
            linear.measure(rows, split)
    return linear
