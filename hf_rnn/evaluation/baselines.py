"""A linear model of the same rows, as a baseline for model cards."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from ..utils.errors import reason_of
from .scores import classification_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LINEAR_BASELINE = "TF-IDF (words, word pairs, characters) + class-weighted logistic regression"
MOST_CHARACTERS = 40_000_000  # in the training texts; their TF-IDF takes about 20 bytes each
MANY_ROWS = 1_000  # from here on, words and parts of one text alone are left out
MOST_WEIGHTS = 5_000_000  # newton-cg keeps about ten times as many numbers in memory


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
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    train = texts["train"]
    class_names = list(train.features["label"].names)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = None if backend is None else backend.normalizer
    try:
        if (characters := sum(map(len, train["text"]))) > MOST_CHARACTERS:
            raise ValueError(f"{characters} characters are more than {MOST_CHARACTERS}")
        options: dict[str, Any] = {"preprocessor": normalizer.normalize_str if normalizer else None}
        options |= {"sublinear_tf": True, "min_df": 2 if len(train) >= MANY_ROWS else 1, "dtype": np.float32}
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", **options)
        parts_of_words = TfidfVectorizer(ngram_range=(2, 5), analyzer="char_wb", **options)
        regression = LogisticRegression(class_weight="balanced", max_iter=1000, solver="newton-cg")
        model = make_pipeline(make_union(words, parts_of_words), regression)
        try:
            vectors = model[0].fit_transform(train["text"][:])
        except ValueError:  # texts without spaces may have no word twice
            model = make_pipeline(parts_of_words, regression)
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
