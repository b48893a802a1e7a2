"""Any number of labels per text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.scores import check_finite_logits, label_set_metrics, tune_thresholds
from .base import Config, Outputs, Splits, compute_scores
from .sequence_classification import SequenceClassification

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    from ..data.row_errors import DataReport
    from ..hub.card import CardFacts
    from ..models.configuration_rnn import RnnConfig
    from ..settings.arguments import TableArguments


class MultiLabel(SequenceClassification):
    """Decide for each of several labels whether a text has it."""

    name = "multi-label"
    problem_type = "multi_label_classification"
    scores = dict.fromkeys(("micro_f1", "macro_f1", "subset_accuracy", "average_precision"), True)
    settings = {"class_weight_power": 0, "label_smoothing_factor": 0, "metric_for_best_model": "average_precision"}
    one_label = False

    def read(self, arguments: TableArguments, *, report: DataReport, **options: Any) -> Splits:
        """Read texts with their labels between separators, or in columns of 0 and 1."""
        from ..data.loading import load_texts
        from .row_labels import LabelSets

        separator = arguments.label_separator
        scheme = partial(LabelSets.from_rows, separator=None if arguments.label_columns else separator)
        return load_texts(arguments, report=report, scheme=scheme, label_separator=separator, **options)

    def encode(self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Splits:
        """Return the splits as `input_ids` and a row of 0 and 1 for each text."""
        import datasets

        from ..data.encoding import encode

        size = len(_names(texts))

        def as_rows(labels: list[list[int]]) -> list[list[float]]:
            table = np.zeros((len(labels), size), dtype=np.float32)
            for row, ids in zip(table, labels, strict=True):
                row[ids] = 1
            return table.tolist()

        return encode(texts, tokenizer, max_length, (datasets.List(datasets.Value("float32"), length=size), as_rows))

    def name_labels(self, row: Mapping[str, Any], features: datasets.Features) -> list[str]:
        """Return the names of a row's labels."""
        return [features["label"].feature.names[number] for number in row["label"]]

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return `id2label` and the type of the problem."""
        return {"id2label": dict(enumerate(_names(texts))), "problem_type": self.problem_type}

    def chance_loss(self, config: RnnConfig) -> float:
        """Return ln(2)."""
        return math.log(2)

    def complete(self, model: PreTrainedModel, predictions: dict[str, Any], predict: Callable[[str], Any]) -> None:
        """Choose for each label the threshold with the best F1 on the validation split."""
        if (held_out := predictions.get("validation")) is not None:
            check_finite_logits(held_out.predictions)
            probabilities = compute_scores(held_out.predictions.astype(np.float64), model.config)
            model.config.label_thresholds = tune_thresholds(probabilities, held_out.label_ids)

    def answers(
        self, scores: np.ndarray, config: Config, texts: Sequence[str] = (), encoded: BatchEncoding | None = None
    ) -> list[dict[str, Any]]:
        """Return the labels with a score above their threshold, and all scores."""
        names, thresholds = list(config.id2label.values()), config.label_thresholds or [0.5] * config.num_labels
        held = scores > np.asarray(thresholds, dtype=scores.dtype)
        return [
            {
                "labels": [names[number] for number in np.flatnonzero(row)],
                "scores": dict(zip(names, values, strict=True)),
            }
            for row, values in zip(held, scores.tolist(), strict=True)
        ]

    def answer_types(self, config: Config) -> dict[str, pa.DataType]:
        """Return the types of labels and scores."""
        import pyarrow as pa

        scores = pa.struct([(name, pa.float64()) for name in config.id2label.values()])
        return {"labels": pa.list_(pa.string()), "scores": scores}

    def measure(self, predictions: Outputs, references: Outputs, config: Config) -> dict[str, Any]:
        """Return F1 scores, subset accuracy, average precision and scores per label, for logits."""
        thresholds = np.asarray(config.label_thresholds or [0.5] * config.num_labels)
        with np.errstate(divide="ignore"):
            logits = np.log(thresholds) - np.log1p(-thresholds)
        return label_set_metrics(predictions, references, list(config.id2label.values()), logits)

    def fill_card(self, card: CardFacts, texts: Splits, report: DataReport, examples: bool) -> None:
        """Set the rows by label, and examples."""
        names = _names(texts)
        ids = texts["train"].with_format("arrow")[:]["label"].combine_chunks().flatten()
        counts = np.bincount(ids.to_numpy(), minlength=len(names))
        card.class_counts, card.rows = dict(zip(names, counts.tolist(), strict=True)), len(texts["train"])
        card.examples = self.pick_examples(texts["train"], names) if examples else None


def _names(texts: Splits) -> list[str]:
    return list(next(iter(texts.values())).features["label"].feature.names)
