"""A linear model of the same rows, as a baseline for model cards and benchmarks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import reason_of
from .scores import classification_metrics

if TYPE_CHECKING:
    import datasets
    from sklearn.pipeline import FeatureUnion, Pipeline
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

OPTIONS = {"characters_alone": (False, True), "C": (0.2, 0.05, 1.0), "class_weight": ("balanced", None)}
FOLDS = 3
MOST_WORK = 500_000_000  # characters times classes, at least twelve; memory is about 85 bytes per character
VALIDATION_WORK = 5_000_000  # characters times classes, at least ten, of the rows that choose the options
MANY_ROWS = 1_000  # from here on, characters of one text alone are left out


def fit_linear(
    texts: Sequence[str], labels: Sequence[int], normalize: Callable[[str], str] | None = None
) -> tuple[Pipeline, str]:
    """Fit a linear SVM to TF-IDF of words, word pairs and characters; choose its options by cross-validation.

    The options are characters without words, C, and class weights. One after the other takes the value with the best
    sum of accuracy and macro-F1 in three folds. Large data use a random sample of the rows for this.

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
        raise ValueError(f"{characters} characters of {size} classes: their product is above {MOST_WORK}")

    def vectorize(characters_alone: bool, rows: int) -> FeatureUnion:
        common: dict[str, Any] = {"preprocessor": normalize, "sublinear_tf": True, "dtype": np.float32}
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", **common)
        common["min_df"] = 2 if rows >= MANY_ROWS else 1
        parts_of_words = TfidfVectorizer(ngram_range=(1, 5), analyzer="char_wb", **common)
        parts_of_texts = TfidfVectorizer(ngram_range=(1, 4), analyzer="char", **common)
        return make_union(parts_of_texts) if characters_alone else make_union(words, parts_of_words)

    chosen: dict[str, Any] = {name: values[0] for name, values in OPTIONS.items()}
    how = "the rows are too few to choose"
    rows = np.random.default_rng(0).permutation(len(true))
    rows = rows[: np.searchsorted(lengths[rows].cumsum() * max(size, 10), VALIDATION_WORK, side="right")]
    if np.sort(np.bincount(true[rows], minlength=2))[-2] >= FOLDS:  # every fold leaves two classes
        sample, answers = [texts[row] for row in rows], true[rows]
        matrices = {alone: vectorize(alone, len(rows)).fit_transform(sample) for alone in (False, True)}
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)

        @cache
        def validate(characters_alone: bool, C: float, class_weight: str | None) -> float:
            model = LinearSVC(C=C, class_weight=class_weight, tol=0.1, max_iter=30, random_state=0)
            guesses = cross_val_predict(model, matrices[characters_alone], answers, cv=folds)
            scores = classification_metrics(guesses, answers, list(map(str, range(size))))
            return scores["accuracy"] + scores["macro_f1"]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some classes have fewer rows than folds, some fits stop early
            for name, values in OPTIONS.items():
                chosen[name] = max(values, key=lambda value: validate(**{**chosen, name: value}))  # noqa: B023
        how = f"chosen in {FOLDS} folds of train"
    features = "characters" if (alone := chosen.pop("characters_alone")) else "words, word pairs, characters"
    model = make_pipeline(vectorize(alone, len(true)), LinearSVC(tol=0.01, random_state=0, **chosen)).fit(texts, true)
    weights = "class-weighted" if chosen["class_weight"] else "unweighted"
    return model, f"TF-IDF ({features}) + {weights} linear SVM (C {chosen['C']:g}; {how})"


def linear_scores(
    texts: Mapping[str, datasets.Dataset], tokenizer: PreTrainedTokenizerBase
) -> dict[str, dict[str, dict[str, float]]] | None:
    """Fit the linear model to the split `train`; return accuracy, macro-F1 and macro-recall of the other splits.

    The result is the name of the model to split to scores; None, with the reason in the log, for unsuitable data. The
    normaliser of `tokenizer` is applied to the texts, so both models read the same.
    """
    train = texts["train"]
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    normalize = normalizer.normalize_str if normalizer else None
    try:
        model, name = fit_linear(train["text"][:], train["label"][:], normalize)
    except (ValueError, MemoryError) as error:  # ValueError also for texts without a word and for a single class
        logger.warning("no linear baseline in the card: %s", reason_of(error))
        return None
    scores = {}
    for split, rows in texts.items():
        if split != "train":
            answers = model.predict(rows["text"][:])
            metrics = classification_metrics(answers, rows["label"][:], train.features["label"].names)
            scores[split] = {score: value for score, value in metrics.items() if isinstance(value, float)}
    return {name: scores}
