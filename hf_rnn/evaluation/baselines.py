"""A linear model of the same rows, as a baseline for model cards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import datasets

from ..utils.errors import reason_of
from .scores import classification_metrics

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LINEAR_BASELINE = "TF-IDF (words, word pairs) + class-weighted logistic regression"
MOST_ROWS = 200_000  # above it the linear model takes longer than a recurrent one
MOST_WEIGHTS = 5_000_000  # L-BFGS keeps about thirty times as many numbers in memory


def make_linear_model(
    strength: float = 1.0, class_weight: str | None = "balanced", preprocessor: Callable[[str], str] | None = None
) -> Pipeline:
    """Return an unfitted pipeline of TF-IDF (words and word pairs, sublinear counts) and logistic regression.

    Args:
        strength: C of the regression, the inverse of the regularisation.
        class_weight: `balanced` weighs each class by its inverse frequency, None weighs all rows equally.
        preprocessor: Applied to a text before it is split at white space; None lower-cases.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    options = {"ngram_range": (1, 2), "token_pattern": r"\S+", "sublinear_tf": True}
    words = TfidfVectorizer(**options, preprocessor=preprocessor, lowercase=preprocessor is None)
    return make_pipeline(words, LogisticRegression(C=strength, class_weight=class_weight, max_iter=1000))


def linear_scores(
    texts: Mapping[str, datasets.Dataset], tokenizer: PreTrainedTokenizerBase
) -> dict[str, dict[str, float]] | None:
    """Fit the linear model to train and return accuracy, macro-F1 and macro-recall of the other splits.

    Args:
        texts: Splits with `text` and `label`, `train` among them.
        tokenizer: Its normaliser is applied to the texts, so that both models read the same.

    Returns:
        Scores by split; None, with the reason in the log, for unsuitable data.
    """
    train = texts["train"]
    class_names = list(train.features["label"].names)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = None if backend is None else backend.normalizer
    try:
        if len(train) > MOST_ROWS:
            raise ValueError(f"{len(train)} rows are more than {MOST_ROWS}")
        model = make_linear_model(preprocessor=None if normalizer is None else normalizer.normalize_str)
        vectors = model[0].fit_transform(train["text"][:])
        if (weights := len(class_names) * vectors.shape[1]) > MOST_WEIGHTS:
            raise ValueError(f"its {weights} weights are more than {MOST_WEIGHTS}")
        model[-1].fit(vectors, train["label"][:])
    except (ValueError, MemoryError) as error:  # ValueError also for texts without a word and for a single class
        logger.warning("no linear baseline in the card: %s", reason_of(error))
        return None
    scores = {}
    for split, rows in texts.items():
        if split != "train":
            metrics = classification_metrics(model.predict(rows["text"][:]), rows["label"][:], class_names)
            scores[split] = {name: value for name, value in metrics.items() if isinstance(value, float)}
    return scores
