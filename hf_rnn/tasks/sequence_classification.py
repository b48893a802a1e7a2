"""One label per text."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..data import DataReport, encode
from ..data.source import load_texts
from ..evaluation import evaluate_logits
from ..evaluation.baselines import LINEAR_BASELINE, linear_scores
from ..evaluation.classification import SCORES
from ..evaluation.figures import plot_confusion_matrix, plot_reliability
from ..hub.model_folder import FinishedFolder
from ..utils.errors import UserError
from .base import Splits, Task

logger = logging.getLogger(__name__)

_EXAMPLES_PER_LABEL = 2
_EXAMPLE_LENGTH = 200  # characters
_CANDIDATES = 50  # rows per label among which short examples are searched
MOST_CANDIDATES = 5_000  # rows of a stream


class SequenceClassification(Task):
    """Sort each text into one of several classes."""

    name = "sequence-classification"
    architecture = "RnnForSequenceClassification"
    pipeline = "text-classification"
    scores: ClassVar[tuple[str, ...]] = SCORES
    fused = True
    onnx = True
    problem_types: ClassVar[tuple[str | None, ...]] = (None, "single_label_classification")
    calibrates = True
    distills = True

    def read(self, arguments: Any, *, report: DataReport, **options: Any) -> Splits:
        """Read labelled texts: TSV files, a data set of the `datasets` library, or rows in memory."""
        if arguments.label_columns:
            raise UserError(f"label_columns are for the tasks multi-label and regression: this is {self.name}")
        return load_texts(arguments, report=report, **options)

    def vocabulary_texts(self, rows: Any) -> Iterable[str]:
        """Return the column `text`, and `text_pair` if there is one."""
        if "text_pair" in (rows.features or {}):
            return chain(rows["text"], rows["text_pair"])
        return rows["text"]

    def encode(self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Splits:
        """Return the splits as `input_ids` and class ids."""
        return encode(texts, tokenizer, max_length)

    def audit_view(self, texts: datasets.DatasetDict) -> datasets.DatasetDict:
        """Return the splits, the two texts of a pair as one."""
        if "text_pair" not in texts["train"].features:
            return texts
        names = texts["train"].features["label"].names
        return as_classes(texts, lambda number: names[number])

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return `id2label`."""
        return {"id2label": dict(enumerate(texts["train"].features["label"].names))}

    def class_counts(self, report: DataReport) -> Sequence[float]:
        """Return the training rows per class."""
        return report.label_counts["train"]

    def chance_loss(self, config: PreTrainedConfig) -> float:
        """Return ln(classes)."""
        return math.log(config.num_labels)

    def evaluate(self, predictions: Any, labels: Any, config: PreTrainedConfig) -> dict[str, Any]:
        """Return loss, accuracy, macro scores, scores per class and the confusion matrix."""
        return evaluate_logits(predictions, labels, list(config.id2label.values()))

    def check_model(self, name: str, config: PreTrainedConfig) -> None:
        """Refuse a model of another task, and one with a single output in place of labels."""
        super().check_model(name, config)
        if None in self.problem_types and config.num_labels < 2:
            raise UserError(f"{name} does not give exactly one label per text: found {config.num_labels} outputs")

    def card_facts(
        self, texts: Any, tokenizer: Any, config: Any, report: Any, metrics: Any, *, baselines: bool, examples: bool
    ) -> dict[str, Any]:
        """Return class counts, baselines and examples."""
        train, names = texts["train"], list(config.id2label.values())
        single = isinstance(train, datasets.Dataset) and "text_pair" not in train.features
        linear = linear_scores(texts, tokenizer) if baselines and single else None
        return {
            "class_counts": dict(zip(names, report.label_counts["train"], strict=True)),
            "baselines": {LINEAR_BASELINE: linear} if linear else None,
            "examples": _pick_examples(train, names) if examples else None,
        }

    def draw_figures(
        self, folder: FinishedFolder, metrics: Mapping[str, Any], config: PreTrainedConfig
    ) -> dict[str, str]:
        """Draw the confusion matrix, and the reliability diagram of a calibrated model."""
        figures = {}
        split = next((split for split in ("validation", "test") if split in metrics), None)
        if split is not None and (matrix := metrics[split].get("confusion_matrix")):
            plot_confusion_matrix(matrix, list(config.id2label.values()), folder.confusion_matrix)
            figures[f"True and predicted classes on the {split} split"] = folder.confusion_matrix.name
        if "calibration" in metrics:
            split = metrics["calibration"]["fitted_on"]
            scores = metrics["calibration"]["splits"][split]
            tables = {f"{when} calibration": scores[when]["reliability"] for when in ("before", "after")}
            plot_reliability(tables, folder.reliability)
            figures[f"Accuracy by confidence on the {split} split"] = folder.reliability.name
        return figures


def arrow_batches(rows: datasets.Dataset | datasets.IterableDataset) -> Iterator[pa.Table]:
    """Yield a split as tables of Arrow."""
    yield from rows.with_format("arrow").iter(batch_size=10_000)


def as_classes(texts: datasets.DatasetDict, name: Callable[[Any], str]) -> datasets.DatasetDict:
    """Return splits with the name of each label as a class; two texts of a pair become one."""
    written = {split: [name(label) for label in rows["label"]] for split, rows in texts.items()}
    names = sorted(set().union(*written.values()))
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
    ids = {name: number for number, name in enumerate(names)}
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {"text": join_pairs(rows), "label": [ids[name] for name in written[split]]}, features
            )
            for split, rows in texts.items()
        }
    )


def join_pairs(rows: datasets.Dataset) -> list[str]:
    """Return the texts of a split, both texts of a pair as one."""
    return [join_pair(row) for row in rows] if "text_pair" in rows.features else list(rows["text"])


def join_pair(row: Mapping[str, Any]) -> str:
    """Return the text of a row, or both texts of a pair."""
    return f"{row['text']} | {row['text_pair']}" if "text_pair" in row else row["text"]


def _pick_examples(
    rows: datasets.Dataset | datasets.IterableDataset, class_names: Sequence[str]
) -> dict[str, list[str]]:
    """Return the first training texts of each label, short ones if possible."""
    found: dict[str, list[str]] = {}
    if isinstance(rows, datasets.Dataset):
        labels = np.asarray(rows.with_format("arrow")[:]["label"])
        order = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[order], range(len(class_names) + 1))
        firsts = [order[start:end][:_CANDIDATES] for start, end in pairwise(starts)]
        texts = iter(join_pairs(rows.select(np.concatenate(firsts))))
        found = {name: list(islice(texts, len(places))) for name, places in zip(class_names, firsts, strict=True)}
    else:
        for row in islice(rows, MOST_CANDIDATES):
            found.setdefault(class_names[row["label"]], []).append(join_pair(row))
    return {name: pick_short(found.get(name, [])) for name in class_names}


def pick_short(texts: Iterable[str], count: int = _EXAMPLES_PER_LABEL) -> list[str]:
    """Return the first texts, short ones if possible, the others cut."""
    chosen = sorted(texts, key=lambda text: len(text) > _EXAMPLE_LENGTH)[:count]
    return [text if len(text) <= _EXAMPLE_LENGTH else text[: _EXAMPLE_LENGTH - 1] + "…" for text in chosen]
