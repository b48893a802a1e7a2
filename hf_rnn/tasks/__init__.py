"""Everything that differs between tasks: columns, encoding, metrics, answers and card.

A task is one class in a module here and one head in `hf_rnn.models`. Training and inference ask the
task. A saved model names its task in `config.json`. Modules import data sets, metrics and torch in
methods: prediction needs none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from ..utils.errors import UserError

if TYPE_CHECKING:
    from types import SimpleNamespace

    import datasets
    import pyarrow as pa
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.trainer_utils import PredictionOutput

    from ..data import TableArguments
    from ..data.report import DataReport
    from ..models.configuration_rnn import RnnConfig
    from ..models.settings_rnn import RnnSettings

__all__ = ["DEFAULT_TASK", "TASKS", "Task", "check_answers", "get_task", "task_of"]

Splits: TypeAlias = "datasets.DatasetDict"
Config: TypeAlias = "RnnConfig | SimpleNamespace"  # a namespace where transformers is not loaded
Outputs: TypeAlias = "np.ndarray | Sequence[np.ndarray]"  # one array per row for tags
Answer: TypeAlias = dict[str, Any]  # fields of an answer to a text, as [`Task.answer_types`]
Metrics: TypeAlias = dict[str, Any]  # scores of a split, as in `metrics.json`
Row: TypeAlias = Mapping[str, Any]  # the columns of a row by name
Predictions: TypeAlias = "dict[str, PredictionOutput]"  # outputs and labels by split
Predict: TypeAlias = "Callable[[str], PredictionOutput]"  # computes those of a split
DEFAULT_TASK = "sequence-classification"
# name: module and class in this package, or a task from elsewhere
TASKS: dict[str, str | Task] = {
    DEFAULT_TASK: "sequence_classification.SequenceClassification",
    "multi-label": "sequence_classification.MultiLabel",
    "regression": "sequence_classification.Regression",
    "token-classification": "token_classification.TokenClassification",
    "causal-lm": "causal_lm.CausalLM",
}


class Task(ABC):
    """Everything that differs between tasks. Training, evaluation and inference ask this object."""

    name: ClassVar[str]  # the value of `--task`, and of `task` in `config.json`
    architecture: ClassVar[str]  # name of the head, an entry of `hf_rnn.models.auto.HEADS`
    # `config.problem_type`; None if the head serves this task alone
    problem_type: ClassVar[str | None] = None
    # can choose the best epoch, besides `loss`; whether greater is better
    scores: ClassVar[Mapping[str, bool]] = {}
    recipe: ClassVar[str] = "default"  # name of the recipe that a run takes by default
    settings: ClassVar[Mapping[str, object]] = {}  # in place of those of the package's recipes
    # one of several classes per text: for class weights, `calibrate` and teachers
    one_label: ClassVar[bool] = False
    per_token: ClassVar[bool] = False  # whether the head answers for each token of a text
    generates: ClassVar[bool] = False  # whether its models continue a text, in place of an answer
    tokenizer_options: ClassVar[Mapping[str, Any]] = {}  # arguments of `train_tokenizer`

    # ---- data ----

    @abstractmethod
    def read(self, arguments: TableArguments, *, report: DataReport, **options: object) -> Splits:
        """Read the splits that the data settings name, and count their rows in `report`.

        Options are `data` (rows in memory), `class_names`, `rejected_path` and `splits`. Raises a
        [`UserError`] for rows or settings that cannot be used.
        """

    @abstractmethod
    def vocabulary_texts(self, rows: datasets.Dataset) -> Iterable[str]:
        """Return the texts of a split for the vocabulary of a new tokenizer."""

    @abstractmethod
    def encode(
        self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None
    ) -> Splits:
        """Return the splits as `input_ids` and `labels`."""

    def make_encoder(
        self, train: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None
    ) -> Callable[[Sequence[Row]], list[Row]]:
        """Return a function that encodes mistyped rows of train again, here refused."""
        raise UserError(f"typos are for texts with labels: leave them out with {self.name}")

    def audit_view(self, texts: Splits) -> Splits | None:
        """Return the splits with `text` and `label` (ClassLabel) for the audit, if any."""
        return None

    # ---- model and loss ----

    def check_settings(self, model: RnnSettings, training: object) -> None:
        """Raise a [`UserError`] for settings that do not suit the task."""

    @abstractmethod
    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return the fields of `RnnConfig` that the data decide, such as `id2label`."""

    def chance_loss(self, config: RnnConfig) -> float:
        """Return the loss of guessing, in nats. A run with 100 times this loss has diverged."""
        return math.log(config.num_labels)

    def tune_on_validation(
        self, model: PreTrainedModel, predictions: Predictions, predict: Predict
    ) -> None:
        """Tune a trained model on the validation split, before the splits are measured.

        `predictions` has outputs and labels by split, as `Trainer.predict` returns them;
        `validation` may be missing. After a change of the weights, `predict` returns new ones of a
        split.
        """

    # ---- inference, evaluation, card ----

    def answers(
        self,
        scores: np.ndarray,
        config: Config,
        texts: Sequence[str] = (),
        encoded: BatchEncoding | None = None,
    ) -> list[Answer]:
        """Return the answer to each text, here its best label, also where torch is not loaded.

        `scores` is `(N, C)`, or `(N, T, C)` for a head that answers per token, zero after the
        tokens of a text. Such a head also needs the texts, and the tokenizer's output for them with
        `offset_mapping`.
        """
        names = config.id2label  # an attribute of a configuration takes microseconds
        best = zip(scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist(), strict=True)
        return [{"label": names[number], "score": score} for number, score in best]

    def answer_types(self, config: Config) -> dict[str, pa.DataType]:
        """Return the type of each field of an answer, for columns of Arrow."""
        import pyarrow as pa

        return {"label": pa.string(), "score": pa.float64()}

    @abstractmethod
    def evaluate(self, predictions: Outputs, labels: Outputs, config: Config) -> Metrics:
        """Return the metrics of one split for `metrics.json`, from all outputs and labels."""

    def describe_rows(self, texts: Splits, examples: bool) -> dict[str, Any]:
        """Return facts for the card: `class_counts` of train, with `examples` some texts."""
        return {}


def make_audit_view(texts: Splits, describe: Callable[[Row], tuple[str, str]]) -> Splits:
    """Return the splits with the columns `text` and `label` (ClassLabel) from `describe(row)`."""
    import datasets

    columns: dict[str, dict[str, list[str]]] = {}
    names: set[str] = set()
    for split, rows in texts.items():
        pairs = list(map(describe, rows))
        labels = [label for _, label in pairs]
        columns[split] = {"text": [text for text, _ in pairs], "label": labels}
        names.update(labels)
    label = datasets.ClassLabel(names=sorted(names))
    features = datasets.Features(text=datasets.Value("string"), label=label)
    view = datasets.DatasetDict()
    for split in texts:
        view[split] = datasets.Dataset.from_dict(columns[split], features)
    return view


# ---- the task of a name or a model ----


def get_task(name: str) -> Task:
    """Return the task with a name; raise a [`UserError`] for an unknown one."""
    if name not in TASKS:
        raise UserError(f"unknown task: found {name!r}; choose one of {', '.join(TASKS)}")
    entry = TASKS[name]
    if not isinstance(entry, str):
        return entry
    module, _, task = entry.partition(".")
    return getattr(import_module(f".{module}", __name__), task)()


def task_of(config: Config) -> Task:
    """Return the task of a model.

    `config.task` names it. For an older model, or one whose head or type of problem was changed, it
    is the first task with its head and type of problem. A model of another package has one label
    per text.

    Raises a [`UserError`] for a task that is not registered, and for an architecture that belongs
    to no task.
    """
    name = None
    heads = [get_task(DEFAULT_TASK).architecture]
    if getattr(config, "model_type", "hf_rnn") == "hf_rnn":
        name = getattr(config, "task", None)
        heads = config.architectures or heads
    if name is not None and name not in TASKS:
        raise UserError(
            f"the model is for the task {name!r}, which is not registered: "
            "add it to hf_rnn.tasks.TASKS"
        )
    problem = config.problem_type or "single_label_classification"
    for task in map(get_task, TASKS if name is None else (name, *TASKS)):
        if task.architecture in heads and task.problem_type in (None, problem):
            return task
    raise UserError(f"no task for this model: found architectures {heads} in its configuration")


def check_answers(config: Config) -> None:
    """Raise a [`UserError`] for a model that continues texts."""
    task = task_of(config)
    if task.generates:
        raise UserError(
            f'a model for {task.name} continues texts: use pipeline("text-generation", FOLDER)'
        )


# ---- logits to scores, in NumPy: a service needs neither torch nor transformers ----


def score_kind(config: Config) -> str:
    """Return what scores are: `softmax`, `sigmoid` (labels that are independent), or `values`."""
    if config.problem_type == "regression":
        return "values"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"


def compute_scores(logits: np.ndarray, config: Config) -> np.ndarray:
    """Return the scores `(N, C)` of logits `(N, C)`."""
    scale = score_kind(config)
    if scale == "values":
        return logits
    if scale == "sigmoid":
        return 0.5 * np.tanh(0.5 * logits) + 0.5  # without overflow
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
