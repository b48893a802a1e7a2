"""Any number of labels per text."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..data import DataReport, encode
from ..data.label_sets import LabelSets
from ..data.source import load_texts
from ..evaluation.multi_label import SCORES, evaluate_label_sets, tune_thresholds
from .base import Splits
from .sequence_classification import (
    MOST_CANDIDATES,
    SequenceClassification,
    arrow_batches,
    as_classes,
    join_pair,
    pick_short,
)

logger = logging.getLogger(__name__)


class MultiLabel(SequenceClassification):
    """Decide for each of several labels whether a text has it."""

    name = "multi-label"
    scores = SCORES
    problem_types = ("multi_label_classification",)
    settings = {"class_weight_power": 0, "label_smoothing_factor": 0, "metric_for_best_model": "average_precision"}
    calibrates = False
    distills = False
    purpose = "says which of these labels a text has: {}"

    def read(self, arguments: Any, *, report: DataReport, **options: Any) -> Splits:
        """Read texts with their labels between separators, or in columns of 0 and 1."""
        separator = arguments.label_separator
        scheme = partial(LabelSets.from_rows, separator=None if arguments.label_columns else separator)
        return load_texts(arguments, report=report, scheme=scheme, label_separator=separator, **options)

    def encode(self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Splits:
        """Return the splits as `input_ids` and a row of 0 and 1 for each text."""
        size = len(_names(texts))

        def as_rows(labels: list[list[int]]) -> list[list[float]]:
            table = np.zeros((len(labels), size), dtype=np.float32)
            for row, ids in zip(table, labels, strict=True):
                row[ids] = 1
            return table.tolist()

        return encode(texts, tokenizer, max_length, (datasets.List(datasets.Value("float32"), length=size), as_rows))

    def audit_view(self, texts: datasets.DatasetDict) -> datasets.DatasetDict:
        """Return the splits with each distinct set of labels as a class."""
        names = _names(texts)
        return as_classes(texts, lambda ids: ", ".join(names[number] for number in ids) or "no label")

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return `id2label` and the type of the problem."""
        return {"id2label": dict(enumerate(_names(texts))), "problem_type": self.problem_types[0]}

    def chance_loss(self, config: PreTrainedConfig) -> float:
        """Return ln(2)."""
        return math.log(2)

    def complete(self, model: Any, predictions: dict[str, Any], predict: Any) -> None:
        """Choose for each label the threshold with the best F1 on the validation split."""
        if (held_out := predictions.get("validation")) is not None:
            thresholds = tune_thresholds(held_out.predictions, held_out.label_ids)
            names = model.config.id2label.values()
            shown = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, thresholds, strict=True))
            logger.info("thresholds with the best F1 on validation: %.300s", shown)
            model.config.label_thresholds = thresholds

    def answer_types(self, config: PreTrainedConfig) -> dict[str, pa.DataType]:
        """Return the type of each part of an answer."""
        scores = pa.struct([(name, pa.float64()) for name in config.id2label.values()])
        return {"labels": pa.list_(pa.string()), "scores": scores}

    def caption(self, answer: Mapping[str, Any]) -> str:
        """Return the labels that the text has."""
        return ", ".join(answer["labels"]) or "no label"

    def evaluate(self, predictions: Any, labels: Any, config: PreTrainedConfig) -> dict[str, Any]:
        """Return loss, F1 scores, subset accuracy, average precision and scores per label."""
        return evaluate_label_sets(predictions, labels, list(config.id2label.values()), config.label_thresholds)

    def card_facts(
        self, texts: Any, tokenizer: Any, config: Any, report: Any, metrics: Any, *, baselines: bool, examples: bool
    ) -> dict[str, Any]:
        """Return the training rows by label, and examples."""
        train, names = texts["train"], _names(texts)
        counts = np.zeros(len(names), dtype=np.int64)
        for batch in arrow_batches(train):
            counts += np.bincount(pc.list_flatten(batch["label"]).to_numpy(), minlength=len(names))
        shown: dict[str, list[str]] = {name: [] for name in names}
        for row in islice(train, MOST_CANDIDATES) if examples else ():
            for number in row["label"]:
                shown[names[number]].append(join_pair(row))
        return {
            "class_counts": dict(zip(names, counts.tolist(), strict=True)),
            "rows": sum(report.label_counts["train"]),
            "thresholds": config.label_thresholds,
            "examples": {name: pick_short(found) for name, found in shown.items()} if examples else None,
        }


def _names(texts: Splits) -> list[str]:
    return list(next(iter(texts.values())).features["label"].feature.names)
