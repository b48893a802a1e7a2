"""The classifier and the regressor for scikit-learn.

Labels become class names, as a configuration needs them. Their type is kept in `task_specific_params` of the
configuration, so that it travels with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin, RegressorMixin

from ...tasks import get_task, task_of
from .estimator import RnnEstimator
from .targets import LABEL_TYPE, Classes, Numbers, Sets, Targets, is_matrix, restore_labels

if TYPE_CHECKING:
    from sklearn.utils import Tags


class RnnClassifier(ClassifierMixin, RnnEstimator):
    """A recurrent text classifier for scikit-learn.

    Args:
        settings: The settings of `hf-rnn train` by the names of its flags, on top of the recipe `recipe` (None is
            `default`, which fine-tunes the English encoder of the package; see [`train`]). None, the default of each,
            keeps the recipe's value. Settings of files are missing: texts go to `fit`, and `save_pretrained` writes
            the finished folder. Two are added:

            - `random_state` (`int` or `numpy.random.RandomState`, *optional*): Replaces `seed`. A RandomState draws
              a new seed for each `fit`.
            - `verbose` (`bool`, *optional*): Whether `fit` shows a bar and a line per epoch on stderr; None shows
              them.

    Attributes:
        classes_ (`numpy.ndarray`): The labels, sorted, with the type given to `fit`. For several labels per text: the
            names or numbers of the columns of `y`, in their order.
        metrics_ (`dict`): Contents of `metrics.json`: scores on the validation rows, and numbers of the training.

    Example:
        >>> texts = ["what a film", "never again", "loved it", "so dull"] * 20
        >>> labels = [1, 0, 1, 0] * 20
        >>> classifier = RnnClassifier(recipe="scratch", cell_type="gru", verbose=False).fit(texts, labels)
        >>> classifier.predict(["loved the film"])
        array([1])
        >>> classifier.save_pretrained("film-reviews")
        >>> RnnClassifier.from_pretrained("film-reviews").classes_
        array([0, 1])

        In a search:

        >>> from sklearn.model_selection import GridSearchCV
        >>> search = GridSearchCV(RnnClassifier(verbose=False), {"learning_rate": [5e-4, 1e-3]}, cv=3)
        >>> search.fit(texts, labels).best_params_
    """

    _name = "rnn-classifier"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _read_targets(self, y: npt.ArrayLike) -> Targets:
        return Sets(y) if is_matrix(y) else Classes(y)

    def _adopt_labels(self, config: Any) -> None:
        several = task_of(config).name == Sets.task
        if not several:
            get_task(Classes.task).check_model("the model", config)
        names = [config.id2label[number] for number in range(config.num_labels)]
        record = (getattr(config, "task_specific_params", None) or {}).get(LABEL_TYPE)
        self.classes_ = restore_labels(names, record)
        self._columns, self._thresholds = np.arange(len(names)), None
        if several:
            self._thresholds = np.array(config.label_thresholds or [0.5] * len(names))
        else:  # scikit-learn needs sorted classes, and columns of predict_proba in their order
            self.classes_, self._columns = np.unique(self.classes_, return_index=True)

    def predict(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the most probable label of each text, shape `(n,)`.

        For several labels per text it is 0 and 1 `(n, labels)`, by the thresholds that `fit` chose on the validation
        rows.

        Args:
            X: n texts, as for `fit`; a text may be empty.
        """
        scores = self.predict_proba(X)
        if self._thresholds is not None:
            return (scores > self._thresholds).astype(np.int64)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the probability of each class per text, shape `(n, classes)`, in the order of `classes_`.

        For several labels per text it is the probability of each label.
        """
        return self._scores(X)[:, self._columns]

    def predict_log_proba(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the logarithm of `predict_proba`."""
        return np.log(self.predict_proba(X))


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
        get_task(Numbers.task).check_model("the model", config)

    def predict(self, X: Sequence[str]) -> np.ndarray:  # noqa: N803
        """Return the number of each text, shape `(n,)`, or its numbers, shape `(n, numbers)`.

        Args:
            X: n texts, as for `fit`; a text may be empty.
        """
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores
