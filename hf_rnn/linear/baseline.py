"""A linear model of the same rows, beside the scores of cards and benchmarks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.scores import classification_metrics, single_scores
from ..utils.errors import reason_of

if TYPE_CHECKING:
    import datasets
    from sklearn.pipeline import FeatureUnion, Pipeline
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# from the values to begin with
OPTIONS: dict[str, tuple[Any, ...]] = {
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


def fit_linear(
    texts: Sequence[str], labels: Sequence[int], normalize: Callable[[str], str] | None = None
) -> tuple[Pipeline, str]:
    """Fit a linear SVM to TF-IDF of words, word pairs and characters; choose its options by folds.

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
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    true = np.asarray(labels)
    lengths = np.array(list(map(len, texts)))
    characters = int(lengths.sum())
    size = int(true.max()) + 1
    if characters * max(size, 12) > MOST_WORK:
        raise ValueError(
            f"{characters} characters of {size} classes: their product is above {MOST_WORK}"
        )

    chosen = _first_options()
    how = "the rows are too few to choose"
    rows = _take_sample(lengths, size)
    if np.sort(np.bincount(true[rows], minlength=2))[-2] >= FOLDS:  # every fold leaves two classes
        chosen = _choose_options([texts[row] for row in rows], true[rows], normalize)
        how = f"chosen in {FOLDS} folds of train"

    alone = chosen.pop("characters_alone")
    svm = LinearSVC(tol=0.01, random_state=0, **chosen)
    model = make_pipeline(_vectorize(alone, len(true), normalize), svm)
    return model.fit(texts, true), _name_model(alone, **chosen, how=how)


def _name_model(alone: bool, C: float, class_weight: str | None, how: str) -> str:
    """Return a description of a linear model for people."""
    features = "characters" if alone else "words, word pairs, characters"
    weights = "class-weighted" if class_weight else "unweighted"
    return f"TF-IDF ({features}) + {weights} linear SVM (C {C:g}; {how})"


def _first_options() -> dict[str, Any]:
    """Return the value of each option to begin with."""
    return {name: values[0] for name, values in OPTIONS.items()}


def _take_sample(lengths: np.ndarray, classes: int) -> np.ndarray:
    """Return random rows to choose the options on."""
    order = np.random.default_rng(0).permutation(len(lengths))
    work = lengths[order].cumsum() * max(classes, 10)
    return order[: np.searchsorted(work, VALIDATION_WORK, side="right")]


def _vectorize(
    characters_alone: bool, rows: int, normalize: Callable[[str], str] | None
) -> FeatureUnion:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    common: dict[str, Any] = {"preprocessor": normalize, "sublinear_tf": True, "dtype": np.float32}
    least = 2 if rows >= MANY_ROWS else 1
    if characters_alone:
        return make_union(
            TfidfVectorizer(ngram_range=(1, 4), analyzer="char", min_df=least, **common)
        )
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", **common)
    characters = TfidfVectorizer(ngram_range=(1, 5), analyzer="char_wb", min_df=least, **common)
    return make_union(words, characters)


def _choose_options(
    texts: Sequence[str], labels: np.ndarray, normalize: Callable[[str], str] | None
) -> dict[str, Any]:
    """Return the value of each option, one after the other, that is best in folds of the rows."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.svm import LinearSVC

    names = [str(number) for number in range(labels.max() + 1)]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    matrices = {
        alone: _vectorize(alone, len(texts), normalize).fit_transform(texts)
        for alone in OPTIONS["characters_alone"]
    }

    def validate(characters_alone: bool, **options: Any) -> float:
        model = LinearSVC(tol=0.1, max_iter=30, random_state=0, **options)
        guesses = cross_val_predict(model, matrices[characters_alone], labels, cv=folds)
        scores = classification_metrics(guesses, labels, names)
        return scores["accuracy"] + scores["macro_f1"]

    with warnings.catch_warnings():
        # some classes have fewer rows than folds, some fits stop early
        warnings.simplefilter("ignore")
        chosen = _first_options()
        best = validate(**chosen)
        for name, values in OPTIONS.items():
            for value in values[1:]:
                options = {**chosen, name: value}
                score = validate(**options)
                if score > best:
                    chosen = options
                    best = score
    return chosen


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
        distances = self._model.decision_function(rows["text"][:])
        labels = np.asarray(rows["label"][:])
        if distances.ndim == 1:  # two classes
            distances = np.stack([-distances, distances], axis=1) / 2
        answers = self._model.classes_[distances.argmax(axis=1)]
        best = np.sort(distances, axis=1)
        metrics = classification_metrics(answers, labels, self._labels)
        self.scores[split] = single_scores(metrics)
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
