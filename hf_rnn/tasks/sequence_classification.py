"""One label per text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..utils.errors import UserError
from .base import Splits, Task

if TYPE_CHECKING:
    import datasets
    import evaluate
    import pyarrow as pa
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from ..data.row_errors import DataReport

_EXAMPLES_PER_LABEL = 2
_EXAMPLE_LENGTH = 200  # characters
MOST_CANDIDATES = 5_000  # rows that are searched for short examples, of all labels together


class SequenceClassification(Task):
    """Sort each text into one of several classes."""

    name = "sequence-classification"
    architecture = "RnnForSequenceClassification"
    problem_type: ClassVar[str | None] = "single_label_classification"
    scores: ClassVar[Mapping[str, bool]] = {"accuracy": True, "macro_f1": True, "macro_recall": True}
    one_label = True

    # ---- data ----

    def read(self, arguments: Any, *, report: DataReport, **options: Any) -> Splits:
        """Read labelled texts: TSV files, a data set of the `datasets` library, or rows in memory."""
        from ..data.loading import load_texts

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
        from ..data.encoding import encode

        return encode(texts, tokenizer, max_length)

    def name_labels(self, label: Any, feature: Any) -> list[str]:
        """Return the names of a row's labels."""
        return [feature.names[label]]

    def audit_view(self, texts: datasets.DatasetDict) -> datasets.DatasetDict:
        """Return the splits, the two texts of a pair as one and the labels of a row as a class."""
        import datasets

        if texts["train"].column_names == ["text", "label"] and hasattr(texts["train"].features["label"], "names"):
            return texts
        written = {}
        for split, rows in texts.items():
            feature = rows.features["label"]
            written[split] = [", ".join(self.name_labels(label, feature)) or "no label" for label in rows["label"]]
        classes = datasets.ClassLabel(names=sorted(set().union(*written.values())))
        features = datasets.Features(text=datasets.Value("string"), label=classes)
        columns = {
            split: {"text": list(map(join_pair, rows)), "label": classes.str2int(written[split])}
            for split, rows in texts.items()
        }
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_dict(values, features) for split, values in columns.items()}
        )

    # ---- model and loss ----

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return `id2label`."""
        return {"id2label": dict(enumerate(texts["train"].features["label"].names))}

    def chance_loss(self, config: PreTrainedConfig) -> float:
        """Return ln(classes)."""
        return math.log(config.num_labels)

    # ---- evaluation ----

    def metrics(self, config: Any) -> evaluate.EvaluationModule:
        """Return the scores as a module of `evaluate`; a task of your own may combine it with others.

        It reads class ids; of tasks with other labels, outputs and labels `(N, C)`.
        """
        from ..evaluation.modules import Classification

        return Classification(list(config.id2label.values()))

    def evaluate(self, predictions: Any, labels: Any, config: PreTrainedConfig) -> dict[str, Any]:
        """Return rows, loss and [`metrics`]."""
        from ..evaluation.scores import check_finite_logits, measure_loss

        check_finite_logits(predictions)
        logits, labels = np.asarray(predictions, dtype=np.float64), np.asarray(labels)
        scores = self.metrics(config).compute(
            predictions=logits.argmax(axis=1) if self.one_label else logits, references=labels
        )
        return {"rows": len(labels), "loss": measure_loss(logits, labels, self.problem_type), **scores}

    # ---- card ----

    def card_facts(
        self, texts: Any, tokenizer: Any, config: Any, report: Any, metrics: Any, *, baselines: bool, examples: bool
    ) -> dict[str, Any]:
        """Return class counts, baselines and examples."""
        import datasets

        from ..evaluation.baselines import LINEAR_BASELINE, linear_scores

        rows, names = texts["train"], list(config.id2label.values())
        stored = isinstance(rows, datasets.Dataset)
        linear = linear_scores(texts, tokenizer) if baselines and stored and "text_pair" not in rows.features else None
        if not stored:
            rows = rows.take(MOST_CANDIDATES)
        elif examples:
            labels = np.asarray(rows.with_format("arrow")[:]["label"])
            order = np.argsort(labels, kind="stable")
            ends = np.searchsorted(labels[order], np.arange(len(names) + 1))
            count = max(_EXAMPLES_PER_LABEL, MOST_CANDIDATES // len(names))
            rows = rows.select(np.concatenate([order[start:end][:count] for start, end in pairwise(ends)]))
        return {
            "class_counts": dict(zip(names, report.label_counts["train"], strict=True)),
            "baselines": {LINEAR_BASELINE: linear} if linear else None,
            "examples": self.pick_examples(rows, names) if examples else None,
        }

    def pick_examples(self, rows: Any, names: Iterable[str] = ()) -> dict[str, list[str]]:
        """Return the first texts of each label, short ones if possible, the others cut."""
        texts: dict[str, list[str]] = {name: [] for name in names}
        feature = rows.features["label"]  # each access is a deep copy
        for row in rows:
            for name in self.name_labels(row["label"], feature):
                texts.setdefault(name, []).append(join_pair(row))
        return {name: _pick_short(candidates) for name, candidates in texts.items()}


def arrow_batches(rows: datasets.Dataset | datasets.IterableDataset) -> Iterator[pa.Table]:
    """Yield a split as tables of Arrow."""
    yield from rows.with_format("arrow").iter(batch_size=10_000)


def join_pair(row: Mapping[str, Any]) -> str:
    """Return the text of a row, or both texts of a pair."""
    return f"{row['text']} | {row['text_pair']}" if "text_pair" in row else row["text"]


def _pick_short(texts: Iterable[str]) -> list[str]:
    chosen = sorted(texts, key=lambda text: len(text) > _EXAMPLE_LENGTH)[:_EXAMPLES_PER_LABEL]
    return [text if len(text) <= _EXAMPLE_LENGTH else text[: _EXAMPLE_LENGTH - 1] + "…" for text in chosen]
