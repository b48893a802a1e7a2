"""The interface of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
from transformers import BatchEncoding, EvalPrediction, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data import DataReport
from ..hub.model_folder import FinishedFolder
from ..models.auto import HEADS, head_class
from ..utils.errors import UserError
from .answers import ANSWERS

Splits: TypeAlias = datasets.DatasetDict | datasets.IterableDatasetDict


class Task(ABC):
    """Everything that differs between tasks. Training, evaluation and inference ask this object.

    Attributes:
        name: The value of `--task`.
        architecture: Name of the head, an entry of `hf_rnn.models.auto.HEADS`.
        pipeline: Name of the task in `transformers.pipeline` and on the Hub.
        scores: Scores that can choose the best epoch, besides `loss`.
        recipe: Name of the recipe that a run takes by default.
        scratch: Name of the recipe that starts from no encoder.
        output_layer: Prefix of the weights that belong to the labels.
        per_token: Whether the head answers for each token of a text.
        fused: Whether the fused CPU path serves the head.
        onnx: Whether the ONNX export serves the head.
        problem_types: The `config.problem_type` of its models, if several tasks share the head.
        settings: Settings that take the place of those of the package's recipes.
        trainer: Module and class in `hf_rnn.training` that trains its models.
        tokenizer_options: Further arguments of `train_tokenizer`.
        verb: The verb of `hf-rnn` that answers with its models.
        audits: Whether the splits are audited.
        calibrates: Whether a temperature can be fitted (`calibrate`).
        distills: Whether it can learn from a teacher's logits (`hf-rnn distill`).
        shares: Whether scores are between 0 and 1.
        purpose: The sentence on the demo page, with a place for the names of the labels.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    pipeline: ClassVar[str]
    scores: ClassVar[tuple[str, ...]] = ()
    recipe: ClassVar[str] = "default"
    scratch: ClassVar[str] = "scratch"
    output_layer: ClassVar[str] = "classifier."
    per_token: ClassVar[bool] = False
    fused: ClassVar[bool] = False
    onnx: ClassVar[bool] = False
    problem_types: ClassVar[tuple[str | None, ...]] = ()
    settings: ClassVar[Mapping[str, Any]] = {}
    trainer: ClassVar[str] = "trainer.RnnTrainer"
    tokenizer_options: ClassVar[Mapping[str, Any]] = {}
    verb: ClassVar[str] = "predict"
    audits: ClassVar[bool] = True
    calibrates: ClassVar[bool] = False
    distills: ClassVar[bool] = False
    shares: ClassVar[bool] = True
    purpose: ClassVar[str] = "says whether a text is {}"

    def serves(self, config: PreTrainedConfig) -> bool:
        """Return whether a model with this configuration, and a head of this task, belongs to it."""
        return not self.problem_types or config.problem_type in self.problem_types

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The class of the model."""
        return head_class(self.architecture)

    @property
    def auto_class(self) -> str:
        """Name of the Auto class of transformers that loads the model."""
        return HEADS[self.architecture][1]

    # ---- data ----

    @abstractmethod
    def read(self, arguments: Any, *, report: DataReport, **options: Any) -> Splits:
        """Read the splits that the data settings name, and count their rows in `report`.

        Options are `data` (rows in memory), `streaming`, `class_names`, `rejected_path` and `splits`.

        Raises:
            UserError: For rows or settings that cannot be used.
        """

    @abstractmethod
    def vocabulary_texts(self, rows: Any) -> Iterable[str]:
        """Return the texts of a split for the vocabulary of a new tokenizer."""

    @abstractmethod
    def encode(self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Splits:
        """Return the splits as `input_ids` and `labels`."""

    def data_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Any], Any] | None:
        """Return the collator of batches; None is the Trainer's `DataCollatorWithPadding`."""
        return None

    def audit_view(self, texts: datasets.DatasetDict) -> datasets.DatasetDict:
        """Return the splits as the audit reads them, with the columns `text` and `label` (ClassLabel)."""
        return texts

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase, model: Any) -> None:
        """Change a tokenizer before the texts are encoded; `model` are the settings of the architecture."""

    # ---- model and loss ----

    def check_settings(self, model: Any, training: Any) -> None:
        """Refuse settings of architecture and training that do not suit the task, by a [`UserError`]."""

    @abstractmethod
    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return the fields of `RnnConfig` that the data decide, such as `id2label`."""

    def prepare_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Give a new model what it needs of its tokenizer, before training."""

    def class_counts(self, report: DataReport) -> Sequence[float] | None:
        """Return the training rows per class for class weights; None if the task has no classes."""
        return None

    @abstractmethod
    def chance_loss(self, config: PreTrainedConfig) -> float:
        """Return the loss of guessing, in nats. A run with 100 times this loss has diverged."""

    def complete(self, model: Any, predictions: dict[str, Any], predict: Callable[[str], Any]) -> None:
        """Tune a trained model on the validation split, such as its thresholds, before the splits are measured.

        `predictions` has outputs and labels by split, as `Trainer.predict` returns them; `validation` may be missing.
        `predict` makes those of a split again, after a change of the weights.
        """

    # ---- inference ----

    def answers(
        self,
        scores: np.ndarray,
        config: PreTrainedConfig,
        texts: Sequence[str] = (),
        encoded: BatchEncoding | None = None,
    ) -> list[dict[str, Any]]:
        """Return the answer of `predict` to each text, by default that of the type of problem.

        `scores` is `(N, C)`. A head that answers for each token has `(N, T, C)`, zero after the tokens of a text, and
        reads the texts and the tokenizer's output for them, with `offset_mapping`.
        """
        return ANSWERS[config.problem_type](scores, config)

    def answer_types(self, config: PreTrainedConfig) -> dict[str, pa.DataType]:
        """Return the type of each part of an answer, for columns of Arrow."""
        return {"label": pa.string(), "score": pa.float64()}

    def caption(self, answer: Mapping[str, Any]) -> str:
        """Return the label of an answer for people, such as on the demo page."""
        return str(answer["label"])

    # ---- evaluation ----

    def predict(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Any) -> Any:
        """Return what [`evaluate`] reads for an encoded split; None for the logits of each row."""
        return None

    @abstractmethod
    def evaluate(self, predictions: Any, labels: Any, config: PreTrainedConfig) -> dict[str, Any]:
        """Return the metrics of one split, as `metrics.json` stores them, from outputs and labels of all rows."""

    def compute_metrics(self, config: PreTrainedConfig) -> Callable[[EvalPrediction], dict[str, float]]:
        """Return the function that the Trainer calls after each epoch: the scores that are one number."""

        def compute(output: EvalPrediction) -> dict[str, float]:
            found = self.evaluate(output.predictions, output.label_ids, config)
            return {name: value for name, value in found.items() if isinstance(value, float) and name != "loss"}

        return compute

    def check_model(self, name: str, config: PreTrainedConfig) -> None:
        """Refuse a model of another task with the same head, by a [`UserError`] with its name."""
        if not self.serves(config):
            kind = config.problem_type or "single_label_classification"
            raise UserError(f"{name} is not for the task {self.name}: found {config.num_labels} outputs, {kind}")

    # ---- card ----

    def card_facts(
        self, texts: Any, tokenizer: Any, config: Any, report: Any, metrics: Any, *, baselines: bool, examples: bool
    ) -> dict[str, Any]:
        """Return the fields of `CardFacts` that this task adds.

        Args:
            texts: The splits as they were read.
            tokenizer: Tokenizer of the model.
            config: Names the labels.
            report: Counts of rows.
            metrics: Contents of `metrics.json`.
            baselines: Whether to fit simpler models to the same rows.
            examples: Whether to show training rows.
        """
        return {}

    def draw_figures(
        self, folder: FinishedFolder, metrics: Mapping[str, Any], config: PreTrainedConfig
    ) -> dict[str, str]:
        """Draw the figures of this task; return their captions with their file names."""
        return {}
