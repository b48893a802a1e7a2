"""One label, several labels or numbers per text: tasks of `RnnForSequenceClassification`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from ..utils.errors import UserError
from . import (
    Answer,
    Config,
    Metrics,
    Outputs,
    Predict,
    Predictions,
    Row,
    Splits,
    Task,
    compute_scores,
    make_audit_view,
)

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    from ..data import TableArguments
    from ..data.report import DataReport
    from ..models.configuration_rnn import RnnConfig
    from ..models.modeling_rnn import RnnForSequenceClassification

# examples for the card
_EXAMPLE_ROWS = 1000  # to choose from
_EXAMPLE_LABELS = 10
_EXAMPLES_PER_LABEL = 2
_EXAMPLE_LENGTH = 200  # characters


class SequenceClassification(Task):
    """Sort each text into one of several classes."""

    name = "sequence-classification"
    architecture = "RnnForSequenceClassification"
    problem_type: ClassVar[str | None] = "single_label_classification"
    scores: ClassVar[Mapping[str, bool]] = {
        "accuracy": True,
        "macro_f1": True,
        "macro_recall": True,
    }
    one_label = True

    # ---- data ----

    def read(self, arguments: TableArguments, *, report: DataReport, **options: object) -> Splits:
        """Read labelled texts: files, a data set of the `datasets` library, or rows in memory.

        Several labels of a text are in one column, between separators, or in columns of 0 and 1;
        numbers are each in a column.
        """
        from ..data.labels import LabelSets, Numbers
        from ..data.load import load_texts

        if self.problem_type == MultiLabel.problem_type:
            options |= {"scheme": LabelSets.from_rows, "label_separator": arguments.label_separator}
        elif self.problem_type == Regression.problem_type:
            options["scheme"] = Numbers.from_rows
        elif arguments.label_columns:
            raise UserError(
                f"label_columns are for the tasks multi-label and regression: this is {self.name}"
            )
        return load_texts(arguments, report=report, **options)

    def vocabulary_texts(self, rows: datasets.Dataset) -> Iterable[str]:
        """Return the column `text`, and `text_pair` if there is one."""
        columns = [name for name in ("text", "text_pair") if name in (rows.features or ["text"])]
        for name in columns:
            # by batches: a column by itself is read row by row, many times as slow
            for batch in rows.iter(10_000):
                yield from batch[name]

    def encode(
        self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None
    ) -> Splits:
        """Return the splits as `input_ids` and `labels`.

        Labels are class ids, or in float32 rows of 0 and 1, or numbers.
        """
        import datasets

        from ..data.encode import encode

        if self.one_label:
            return encode(texts, tokenizer, max_length)
        names = _label_names(texts)
        feature = datasets.List(datasets.Value("float32"), length=len(names))

        def convert(labels: Any) -> list[float]:
            if self.problem_type == Regression.problem_type:
                return [labels[name] for name in names]
            return [float(number in labels) for number in range(len(names))]

        converter = (feature, lambda rows: list(map(convert, rows)))
        return encode(texts, tokenizer, max_length, converter)

    def make_encoder(
        self, train: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None
    ) -> Callable[[Sequence[Row]], list[Row]]:
        from ..data.tokens import FastTokenizer

        is_paired = "text_pair" in train.column_names
        tokenize = FastTokenizer(tokenizer, paired=is_paired)

        def encode(rows: Sequence[Row]) -> list[Row]:
            texts: list[Any] = [row["text"] for row in rows]
            if is_paired:
                texts = [(row["text"], row["text_pair"]) for row in rows]
            return [{"input_ids": ids} for ids in tokenize(texts, max_length)]

        return encode

    def audit_view(self, texts: Splits) -> Splits:
        """Return both texts of a pair as one, and the labels of a text as one."""
        if texts["train"].column_names == ["text", "label"] and self.one_label:
            return texts
        names = _label_names(texts)

        def describe(row: Row) -> tuple[str, str]:
            return _join_pair(row), ", ".join(_describe(row, names)) or "no label"

        return make_audit_view(texts, describe)

    # ---- model and loss ----

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return `id2label`, and for other labels than one class `problem_type` too."""
        fields = {"id2label": dict(enumerate(_label_names(texts)))}
        return fields if self.one_label else {**fields, "problem_type": self.problem_type}

    # ---- evaluation ----

    def measure(self, predictions: Outputs, references: Outputs, config: Config) -> Metrics:
        """Return the scores of class ids, and a task of your own may add others.

        For tasks with other labels, predictions and references are outputs and labels `(N, C)`.
        """
        from ..evaluation.scores import classification_metrics

        return classification_metrics(predictions, references, list(config.id2label.values()))

    def evaluate(self, predictions: Outputs, labels: Outputs, config: Config) -> Metrics:
        """Return rows, loss and what [`measure`] returns."""
        from ..evaluation.scores import check_finite_logits, measure_loss

        check_finite_logits(predictions)
        logits = np.asarray(predictions, dtype=np.float64)
        labels = np.asarray(labels)
        loss = measure_loss(logits, labels, self.problem_type)
        answers = logits.argmax(axis=1) if self.one_label else logits
        return {"rows": len(labels), "loss": loss, **self.measure(answers, labels, config)}

    # ---- card ----

    def describe_rows(self, texts: Splits, examples: bool) -> dict[str, Any]:
        """Return rows, rows by label, and examples: a few texts by label, long ones cut."""
        names = _label_names(texts)
        train = texts["train"]
        counts = dict.fromkeys(names, len(train))
        if self.problem_type != Regression.problem_type:
            ids = _label_column(train)
            by_id = np.bincount(ids if self.one_label else ids.flatten(), minlength=len(names))
            counts = dict(zip(names, by_id.tolist(), strict=True))
        shown = _choose_examples(train, names) if examples else None
        return {"rows": len(train), "class_counts": counts, "examples": shown}


class MultiLabel(SequenceClassification):
    """Decide for each of several labels whether a text has it."""

    name = "multi-label"
    problem_type = "multi_label_classification"
    scores = dict.fromkeys(("micro_f1", "macro_f1", "subset_accuracy", "average_precision"), True)
    settings = {
        "class_weight_power": 0,
        "label_smoothing_factor": 0,
        "metric_for_best_model": "average_precision",
    }
    one_label = False

    def chance_loss(self, config: RnnConfig) -> float:
        return math.log(2)

    def tune_on_validation(
        self, model: PreTrainedModel, predictions: Predictions, predict: Predict
    ) -> None:
        """Choose for each label the threshold with the best F1 on the validation split."""
        from ..evaluation.scores import check_finite_logits, tune_thresholds

        held_out = predictions.get("validation")
        if held_out is not None:
            check_finite_logits(held_out.predictions)
            probabilities = compute_scores(held_out.predictions.astype(np.float64), model.config)
            model.config.label_thresholds = tune_thresholds(probabilities, held_out.label_ids)

    def answers(
        self,
        scores: np.ndarray,
        config: Config,
        texts: Sequence[str] = (),
        encoded: BatchEncoding | None = None,
    ) -> list[Answer]:
        """Return the labels with a score above their threshold, and all scores."""
        names = np.array(list(config.id2label.values()), object)
        is_held = scores > _thresholds(config).astype(scores.dtype)
        answers = []
        for held, row in zip(is_held, scores.tolist(), strict=True):
            by_name = dict(zip(names, row, strict=True))
            answers.append({"labels": names[held].tolist(), "scores": by_name})
        return answers

    def answer_types(self, config: Config) -> dict[str, pa.DataType]:
        import pyarrow as pa

        scores = pa.struct([(name, pa.float64()) for name in config.id2label.values()])
        return {"labels": pa.list_(pa.string()), "scores": scores}

    def measure(self, predictions: Outputs, references: Outputs, config: Config) -> Metrics:
        """Return F1 scores, subset accuracy, average precision and scores per label, for logits."""
        from ..evaluation.scores import label_set_metrics

        thresholds = _thresholds(config)
        with np.errstate(divide="ignore"):
            logits = np.log(thresholds) - np.log1p(-thresholds)
        return label_set_metrics(predictions, references, list(config.id2label.values()), logits)


class Regression(SequenceClassification):
    """Predict numbers.

    The last layer learns standardised ones; mean and deviation are moved into it at the end.
    """

    name = "regression"
    problem_type = "regression"
    scores = {"pearson": True, "spearman": True, "r2": True, "mae": False, "rmse": False}
    settings = {
        "class_weight_power": 0,
        "label_smoothing_factor": 0,
        "metric_for_best_model": "loss",
    }
    one_label = False

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return the names of the numbers, and mean and deviation in train."""
        labels = _label_column(texts["train"])
        means = []
        scales = []
        for name in _label_names(texts):
            numbers = labels.field(name).to_numpy(zero_copy_only=False)
            means.append(float(numbers.mean()))
            scales.append(float(numbers.std()))
            if not scales[-1] > 0:
                raise UserError(
                    f"{name!r:.80} is the same number in all rows of train: set --label_column"
                )
        fields = super().config_fields(texts)
        return {**fields, "target_mean": means, "target_scale": scales}

    def chance_loss(self, config: RnnConfig) -> float:
        """Return the variance of the numbers, at least that of the standardised ones."""
        return max(1.0, float(np.mean(np.square(config.target_scale or [1.0]))))

    def tune_on_validation(
        self, model: PreTrainedModel, predictions: Predictions, predict: Predict
    ) -> None:
        """Let the last layer answer in the unit of the data."""
        cast("RnnForSequenceClassification", model).fold_targets()

    def answers(
        self,
        scores: np.ndarray,
        config: Config,
        texts: Sequence[str] = (),
        encoded: BatchEncoding | None = None,
    ) -> list[Answer]:
        names = config.id2label.values()
        return [{"values": dict(zip(names, numbers, strict=True))} for numbers in scores.tolist()]

    def answer_types(self, config: Config) -> dict[str, pa.DataType]:
        import pyarrow as pa

        return {"values": pa.struct([(name, pa.float64()) for name in config.id2label.values()])}

    def measure(self, predictions: Outputs, references: Outputs, config: Config) -> Metrics:
        """Return errors and correlations, of several numbers also for each."""
        from ..evaluation.scores import number_metrics

        return number_metrics(predictions, references, list(config.id2label.values()))


def _label_names(texts: Splits) -> list[str]:
    """Return the names of classes, labels or numbers by id."""
    feature = next(iter(texts.values())).features["label"]
    if isinstance(feature, dict):
        return list(feature)
    return list(getattr(feature, "feature", feature).names)


def _label_column(rows: datasets.Dataset) -> pa.Array:
    """Return the labels of rows: ids, lists of ids, or structs of numbers."""
    return rows.select_columns("label").with_format("arrow")[:]["label"].combine_chunks()


def _choose_examples(rows: datasets.Dataset, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the first texts of some labels, cut after 200 characters."""
    by_label: dict[str, list[str]] = {}
    for row in rows.take(min(len(rows), _EXAMPLE_ROWS)):
        text = _join_pair(row)
        if len(text) > _EXAMPLE_LENGTH:
            text = f"{text[: _EXAMPLE_LENGTH - 1]}…"
        for name in _describe(row, names):
            examples = by_label.setdefault(name, [])
            if len(examples) < _EXAMPLES_PER_LABEL:
                examples.append(text)
    return dict(islice(by_label.items(), _EXAMPLE_LABELS))


def _describe(row: Row, names: Sequence[str]) -> list[str]:
    """Return the names of a row's labels; numbers are one name."""
    label = row["label"]
    if isinstance(label, dict):
        return [", ".join(f"{number:g}" for number in label.values())]
    return [names[number] for number in (label if isinstance(label, list) else [label])]


def _join_pair(row: Row) -> str:
    """Return the text of a row, or both texts of a pair."""
    return f"{row['text']} | {row['text_pair']}" if "text_pair" in row else row["text"]


def _thresholds(config: Config) -> np.ndarray:
    return np.asarray(config.label_thresholds or [0.5] * config.num_labels)
