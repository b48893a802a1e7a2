"""One or several numbers per text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..evaluation.scores import number_metrics
from ..utils.errors import UserError
from .base import Config, Outputs, Splits
from .sequence_classification import SequenceClassification, join_pair, shorten

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    from ..data.row_errors import DataReport
    from ..hub.card import CardFacts
    from ..models.configuration_rnn import RnnConfig
    from ..models.modeling_rnn import RnnForSequenceClassification
    from ..settings.arguments import TableArguments

_EXAMPLES = 4


class Regression(SequenceClassification):
    """Predict numbers. The last layer learns standardised ones; mean and deviation are moved into it at the end."""

    name = "regression"
    problem_type = "regression"
    scores = {"pearson": True, "spearman": True, "r2": True, "mae": False, "rmse": False}
    settings = {"class_weight_power": 0, "label_smoothing_factor": 0, "metric_for_best_model": "loss"}
    one_label = False

    def read(self, arguments: TableArguments, *, report: DataReport, **options: Any) -> Splits:
        """Read texts with numbers, each in a column."""
        from ..data.loading import load_texts
        from .row_labels import Numbers

        return load_texts(arguments, report=report, scheme=Numbers.from_rows, **options)

    def encode(self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Splits:
        """Return the splits as `input_ids` and the numbers in float32."""
        import datasets

        from ..data.encoding import encode

        names = _names(texts)
        feature = datasets.List(datasets.Value("float32"), length=len(names))
        return encode(texts, tokenizer, max_length, (feature, lambda rows: [[row[n] for n in names] for row in rows]))

    def name_labels(self, row: Mapping[str, Any], features: datasets.Features) -> list[str]:
        """Return the numbers of a row, as one label."""
        return [", ".join(f"{number:g}" for number in row["label"].values())]

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return the names of the numbers, and mean and deviation in train."""
        names = _names(texts)
        column = texts["train"].with_format("arrow")[:]["label"].combine_chunks()
        numbers = np.column_stack([column.field(name).to_numpy(zero_copy_only=False) for name in names])
        mean, scale = numbers.mean(axis=0), numbers.std(axis=0)
        for name, spread in zip(names, scale, strict=True):
            if not spread > 0:
                raise UserError(f"{name!r:.80} is the same number in all rows of train: set --label_column")
        return {
            "id2label": dict(enumerate(names)),
            "problem_type": self.problem_type,
            "target_mean": mean.tolist(),
            "target_scale": scale.tolist(),
        }

    def chance_loss(self, config: RnnConfig) -> float:
        """Return the variance of the numbers, at least that of the standardised ones."""
        return max(1.0, float(np.mean(np.square(config.target_scale or [1.0]))))

    def complete(self, model: PreTrainedModel, predictions: dict[str, Any], predict: Callable[[str], Any]) -> None:
        """Let the last layer answer in the unit of the data."""
        cast("RnnForSequenceClassification", model).fold_targets()

    def answers(
        self, scores: np.ndarray, config: Config, texts: Sequence[str] = (), encoded: BatchEncoding | None = None
    ) -> list[dict[str, Any]]:
        """Return the numbers by name."""
        names = config.id2label.values()
        return [{"values": dict(zip(names, numbers, strict=True))} for numbers in scores.tolist()]

    def answer_types(self, config: Config) -> dict[str, pa.DataType]:
        """Return the type of the numbers."""
        import pyarrow as pa

        return {"values": pa.struct([(name, pa.float64()) for name in config.id2label.values()])}

    def measure(self, predictions: Outputs, references: Outputs, config: Config) -> dict[str, Any]:
        """Return errors and correlations, of several numbers also for each."""
        return number_metrics(predictions, references, list(config.id2label.values()))

    def fill_card(self, card: CardFacts, texts: Splits, report: DataReport, examples: bool) -> None:
        """Set the names of the numbers, and examples."""
        shown: dict[str, list[str]] = {}
        for row in texts["train"].take(_EXAMPLES) if examples else ():
            numbers = self.name_labels(row, texts["train"].features)[0]
            shown.setdefault(numbers, []).append(shorten(join_pair(row)))
        card.rows, card.examples = len(texts["train"]), shown or None
        card.class_counts = dict.fromkeys(_names(texts), card.rows)


def _names(texts: Splits) -> list[str]:
    return list(next(iter(texts.values())).features["label"])
