"""`TaskScores`: a metric of the library `evaluate`, with which training measures.

`evaluate` imports torch and the pipelines of transformers. So the command `hf-rnn evaluate`, which
needs neither, does not import this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import datasets
import evaluate

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import PreTrainedConfig


class TaskScores(evaluate.Metric):
    """The scores of a task, from outputs and labels of all rows; for `compute_metrics`."""

    def __init__(
        self, evaluate_task: Callable[..., dict[str, Any]], config: PreTrainedConfig
    ) -> None:
        self._evaluate = evaluate_task
        self._config = config
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        numbers = datasets.List(datasets.Value("float64"))
        features = datasets.Features(predictions=numbers, references=numbers)
        return evaluate.MetricInfo(
            "The scores of a task.", "", features, "One prediction and reference per row."
        )

    def _build_data_dir(self) -> str:
        return ""  # the base class creates a folder even if nothing is written there

    def compute(
        self, *, predictions: npt.ArrayLike | None = None, references: npt.ArrayLike | None = None
    ) -> dict[str, Any]:
        """Return the scores of these rows, without a copy of them."""
        return self._evaluate(predictions, references, self._config)
