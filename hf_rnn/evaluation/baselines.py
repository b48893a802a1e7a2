"""What a model without any recurrence makes of the same rows, so that a card can tell what recurrence is worth.

scikit-learn does the work and is imported when it is needed only: the package runs without it.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import datasets

from ..utils.errors import UserError, reason_of
from .classification import SCORES, classification_metrics

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LINEAR_BASELINE = "TF-IDF (words, word pairs) + class-weighted logistic regression"
MOST_ROWS = 200_000  # beyond it the linear model would take longer than a recurrent one
MOST_WEIGHTS = 5_000_000  # likewise, and L-BFGS keeps some thirty times as many numbers


def make_linear_model(
    strength: float = 1.0, class_weight: str | None = "balanced", preprocessor: Callable[[str], str] | None = None
) -> Pipeline:
    """Return an unfitted TF-IDF (words and pairs of words, sublinear counts) with logistic regression.

    Args:
        strength: C of the regression, the inverse of the regularisation.
        class_weight: `balanced` weighs each class by its inverse frequency, None all rows alike.
        preprocessor: Is applied to a text before it is split at white space; None lower-cases.

    Raises:
        UserError: When scikit-learn is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("TF-IDF and logistic regression need scikit-learn: pip install 'hf-rnn[baselines]'")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(
        ngram_range=(1, 2),
        token_pattern=r"\S+",
        sublinear_tf=True,
        preprocessor=preprocessor,
        lowercase=preprocessor is None,
    )
    return make_pipeline(words, LogisticRegression(C=strength, class_weight=class_weight, max_iter=1000))


def linear_scores(
    texts: Mapping[str, datasets.Dataset], tokenizer: PreTrainedTokenizerBase
) -> dict[str, dict[str, float]] | None:
    """Fit the linear model to train and measure it on the other splits.

    Args:
        texts: Splits with `text` and `label`, `train` among them.
        tokenizer: Its normaliser is applied to the texts first, so that both models read the same.

    Returns:
        Accuracy, macro-F1 and macro-recall by split; None, with the reason in the log, when the linear model cannot
        be had or would take too long.
    """
    train = texts["train"]
    if len(train) > MOST_ROWS:
        logger.info("no linear baseline in the card: %d rows are more than %d", len(train), MOST_ROWS)
        return None
    class_names = list(train.features["label"].names)
    try:
        model = make_linear_model(preprocessor=_normalizer(tokenizer))
        vectors = model[0].fit_transform(train["text"][:])
        if (weights := len(class_names) * vectors.shape[1]) > MOST_WEIGHTS:
            logger.info("no linear baseline in the card: its %d weights are more than %d", weights, MOST_WEIGHTS)
            return None
        model[-1].fit(vectors, train["label"][:])
    except UserError as error:
        logger.warning("no linear baseline in the card: %s", error)
        return None
    except ValueError as error:  # of scikit-learn: no word at all, or one class only
        logger.info("no linear baseline in the card: %s", reason_of(error))
        return None
    except MemoryError as error:  # the model is trained by now, and all that it needs is written afterwards
        logger.warning("no linear baseline in the card: %s", reason_of(error))
        return None
    scores = {}
    for split, rows in texts.items():
        if split != "train":
            metrics = classification_metrics(model.predict(rows["text"][:]), rows["label"][:], class_names)
            scores[split] = {name: float(metrics[name]) for name in SCORES}
    return scores


def _normalizer(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str] | None:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = None if backend is None else backend.normalizer
    return None if normalizer is None else normalizer.normalize_str
