"""The regressor for scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import RegressorMixin

from ...tasks import get_task
from .estimator import RnnEstimator
from .targets import Numbers, Targets

if TYPE_CHECKING:
    from sklearn.utils import Tags


class RnnRegressor(RegressorMixin, RnnEstimator):
    """A recurrent network that predicts numbers from texts, for scikit-learn.

    Args:
        settings: As of [`RnnClassifier`].

    Attributes:
        metrics_ (`dict`): Contents of `metrics.json`: scores on the validation rows, and numbers of the training.

    Example:
        >>> texts = ["what a film", "never again", "loved it", "so dull"] * 20
        >>> stars = [4.5, 1.0, 5.0, 2.0] * 20
        >>> regressor = RnnRegressor(cell_type="gru", verbose=False).fit(texts, stars)
        >>> regressor.predict(["loved the film"]).shape
        (1,)
    """

    _name = "rnn-regressor"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _read_targets(self, y: npt.ArrayLike) -> Targets:
        return Numbers(y)

    def _adopt_labels(self, config: Any) -> None:
        get_task("regression").check_model("the model", config)

    def predict(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the number of each text, shape `(n,)`, or its numbers, shape `(n, numbers)`.

        Args:
            X: n texts, as for `fit`; a text may be empty.
        """
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores
