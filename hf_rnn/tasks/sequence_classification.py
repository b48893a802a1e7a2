"""One label per text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..utils.errors import UserError
from .base import Config, Outputs, Splits, Task

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from ..data.row_errors import DataReport
    from ..hub.card import CardFacts
    from ..models.configuration_rnn import RnnConfig
    from ..settings.arguments import TableArguments

_EXAMPLES_PER_LABEL = 2
_EXAMPLE_LENGTH = 200  # characters


class SequenceClassification(Task):
    """Sort each text into one of several classes."""

    name = "sequence-classification"
    architecture = "RnnForSequenceClassification"
    problem_type: ClassVar[str | None] = "single_label_classification"
    scores: ClassVar[Mapping[str, bool]] = {"accuracy": True, "macro_f1": True, "macro_recall": True}
    one_label = True

    # ---- data ----

    def read(self, arguments: TableArguments, *, report: DataReport, **options: Any) -> Splits:
        """Read labelled texts: files, a data set of the `datasets` library, or rows in memory."""
        from ..data.loading import load_texts

        if arguments.label_columns:
            raise UserError(f"label_columns are for the tasks multi-label and regression: this is {self.name}")
        return load_texts(arguments, report=report, **options)

    def vocabulary_texts(self, rows: datasets.Dataset) -> Iterable[str]:
        """Return the column `text`, and `text_pair` if there is one."""
        columns = [name for name in ("text", "text_pair") if name in (rows.features or ["text"])]
        # by batches: a column by itself is read row by row, many times as slow
        return (text for name in columns for batch in rows.iter(10_000) for text in batch[name])

    def encode(self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Splits:
        """Return the splits as `input_ids` and class ids."""
        from ..data.encoding import encode

        return encode(texts, tokenizer, max_length)

    def name_labels(self, row: Mapping[str, Any], features: datasets.Features) -> list[str]:
        """Return the names of a row's labels."""
        return [features["label"].names[row["label"]]]

    def audit_view(self, texts: datasets.DatasetDict) -> datasets.DatasetDict | None:
        """Return the splits as they are, if they have one text and one label."""
        is_plain = texts["train"].column_names == ["text", "label"] and self.one_label
        return texts if is_plain else super().audit_view(texts)

    def audit_row(self, row: Mapping[str, Any], features: datasets.Features) -> tuple[str, str]:
        """Return the text of a row, both of a pair as one, and its labels as one."""
        return join_pair(row), ", ".join(self.name_labels(row, features)) or "no label"

    # ---- model and loss ----

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return `id2label`."""
        return {"id2label": dict(enumerate(texts["train"].features["label"].names))}

    def chance_loss(self, config: RnnConfig) -> float:
        """Return ln(classes)."""
        return math.log(config.num_labels)

    # ---- evaluation ----

    def measure(self, predictions: Outputs, references: Outputs, config: Config) -> dict[str, Any]:
        """Return the scores of class ids; of tasks with other labels, those of outputs and labels `(N, C)`.

        A task of your own may add others.
        """
        from ..evaluation.scores import classification_metrics

        return classification_metrics(predictions, references, list(config.id2label.values()))

    def evaluate(self, predictions: Outputs, labels: Outputs, config: Config) -> dict[str, Any]:
        """Return rows, loss and what [`measure`] returns."""
        from ..evaluation.scores import check_finite_logits, measure_loss

        check_finite_logits(predictions)
        logits, labels = np.asarray(predictions, dtype=np.float64), np.asarray(labels)
        scores = self.measure(logits.argmax(axis=1) if self.one_label else logits, labels, config)
        return {"rows": len(labels), "loss": measure_loss(logits, labels, self.problem_type), **scores}

    # ---- card ----

    def fill_card(self, card: CardFacts, texts: Splits, report: DataReport, examples: bool) -> None:
        """Set the rows by class, and examples."""
        names = texts["train"].features["label"].names
        card.class_counts = dict(zip(names, report.label_counts["train"], strict=True))
        card.examples = self.pick_examples(texts["train"], names) if examples else None

    def pick_examples(self, rows: datasets.Dataset, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the first texts of each label, long ones cut."""
        texts: dict[str, list[str]] = {name: [] for name in names}
        features = rows.features  # each access is a deep copy
        for row in rows:
            for chosen in (texts[name] for name in self.name_labels(row, features)):
                if len(chosen) < _EXAMPLES_PER_LABEL:
                    chosen.append(shorten(join_pair(row)))
            if all(len(chosen) == _EXAMPLES_PER_LABEL for chosen in texts.values()):
                break
        return texts


def join_pair(row: Mapping[str, Any]) -> str:
    """Return the text of a row, or both texts of a pair."""
    return f"{row['text']} | {row['text_pair']}" if "text_pair" in row else row["text"]


def shorten(text: str) -> str:
    """Return the beginning of a text, for the card."""
    return text if len(text) <= _EXAMPLE_LENGTH else f"{text[: _EXAMPLE_LENGTH - 1]}…"
