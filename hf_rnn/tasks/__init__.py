"""Everything that differs between tasks: columns, encoding, loss weights, metrics, card and serving.

A task is one module here and one head in `hf_rnn.models`. Training and inference ask the task and never name a head.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError
from .answers import ANSWERS, Answers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from .base import Task

DEFAULT_TASK = "sequence-classification"
# name: module and class in this package, or a task from elsewhere
TASKS: dict[str, str | Task] = {
    DEFAULT_TASK: "sequence_classification.SequenceClassification",
    "multi-label": "multi_label.MultiLabel",
    "regression": "regression.Regression",
    "token-classification": "token_classification.TokenClassification",
    "causal-lm": "causal_lm.CausalLM",
}

__all__ = ["DEFAULT_TASK", "TASKS", "Task", "check_verb", "find_answers", "get_task", "task_of"]


def __getattr__(name: str) -> Any:
    if name != "Task":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .base import Task  # not at import: loads datasets and transformers

    return Task


def get_task(name: str) -> Task:
    """Return the task with a name, such as `sequence-classification`; raise a [`UserError`] for an unknown one."""
    if name not in TASKS:
        raise UserError(f"unknown task: found {name!r}; choose one of {', '.join(TASKS)}")
    entry = TASKS[name]
    if not isinstance(entry, str):
        return entry
    module, _, kind = entry.partition(".")
    return getattr(import_module(f".{module}", __name__), kind)()


def task_of(config: PreTrainedConfig) -> Task:
    """Return the task that a model serves, from `config.architectures` and `config.problem_type`.

    Raises a [`UserError`] for an architecture that belongs to no task.
    """
    architectures = config.architectures or []
    for task in map(get_task, TASKS):
        named = task.architecture in (architectures or [get_task(DEFAULT_TASK).architecture])
        if named and task.serves(config):
            return task
    raise UserError(f"no task for this model: found architectures {architectures} in its configuration")


def check_verb(config: PreTrainedConfig, verb: str) -> None:
    """Refuse a model that another verb of `hf-rnn` serves, by a [`UserError`] with that verb."""
    for task in map(get_task, TASKS):
        if task.architecture in (config.architectures or ()) and task.verb != verb:
            raise UserError(f"a model for {task.name} is used with hf-rnn {task.verb}: found hf-rnn {verb}")


def find_answers(config: Any) -> Answers:
    """Return the function from scores to answers for whole texts; no task of this package is imported for it."""
    for task in TASKS.values():
        if not isinstance(task, str) and task.architecture in (config.architectures or ()) and task.serves(config):
            return task.answers
    return ANSWERS[config.problem_type]
