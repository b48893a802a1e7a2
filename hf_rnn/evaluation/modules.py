"""Metrics of `evaluate`: training measures with `TaskScores`; the others are for your own loops and batches.

`evaluate` imports torch and the pipelines of transformers. So the command `hf-rnn evaluate`, which
needs neither, does not import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import datasets
import evaluate

from .scores import classification_metrics, label_set_metrics, number_metrics, tagging_metrics

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import PreTrainedConfig

Scores: TypeAlias = dict[str, Any]
_NUMBERS = datasets.List(datasets.Value("float64"))


class _Metric(evaluate.Metric):
    """A metric with names. Whole splits are measured without a copy, batches are collected in memory."""

    measure: ClassVar[Callable[..., Scores]]
    feature: ClassVar[datasets.Value | datasets.List] = _NUMBERS

    def __init__(self, names: Iterable[str], **options: npt.ArrayLike) -> None:
        self._names, self._options = list(names), options
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=self.feature, references=self.feature)
        return evaluate.MetricInfo(
            type(self).__doc__ or "", "", features, "One prediction and reference per row."
        )

    def _build_data_dir(self) -> str:
        return ""  # the base class creates a folder even if nothing is written there

    def compute(
        self, *, predictions: npt.ArrayLike | None = None, references: npt.ArrayLike | None = None
    ) -> Scores:
        """Return the scores of these rows, or of the collected batches."""
        if predictions is None or references is None:
            return super().compute()
        return self._compute(predictions, references)

    def _compute(self, predictions: npt.ArrayLike, references: npt.ArrayLike) -> Scores:
        return self.measure(predictions, references, self._names, **self._options)


class TaskScores(_Metric):
    """The scores of a task, from outputs and labels of all rows; for `compute_metrics` of a Trainer."""

    def __init__(self, evaluate_task: Callable[..., Scores], config: PreTrainedConfig) -> None:
        super().__init__(config.id2label.values())
        self._evaluate, self._config = evaluate_task, config

    def _compute(self, predictions: npt.ArrayLike, references: npt.ArrayLike) -> Scores:
        return self._evaluate(predictions, references, self._config)


class Classification(_Metric):
    """Scores of class ids; see `classification_metrics`."""

    measure, feature = staticmethod(classification_metrics), datasets.Value("int64")


class LabelSets(_Metric):
    """Scores of sets of labels; see `label_set_metrics`. The option `thresholds` decides which labels a row has."""

    measure = staticmethod(label_set_metrics)


class Numbers(_Metric):
    """Scores of predicted numbers; see `number_metrics`."""

    measure = staticmethod(number_metrics)


class Tags(_Metric):
    """Scores of lists of tag ids; see `tagging_metrics`."""

    measure, feature = staticmethod(tagging_metrics), datasets.List(datasets.Value("int64"))
