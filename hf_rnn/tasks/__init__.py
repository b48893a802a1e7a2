"""Everything that differs between tasks: columns, encoding, metrics, answers and card.

A task is one module here and one head in `hf_rnn.models`. Training and inference ask the task. A saved model names its
task in `config.json`.
"""

from __future__ import annotations

from importlib import import_module

from ..utils.errors import UserError
from .base import Config, Task

DEFAULT_TASK = "sequence-classification"
# name: module and class in this package, or a task from elsewhere
TASKS: dict[str, str | Task] = {
    DEFAULT_TASK: "sequence_classification.SequenceClassification",
    "multi-label": "sequence_classification.MultiLabel",
    "regression": "sequence_classification.Regression",
    "token-classification": "token_classification.TokenClassification",
    "causal-lm": "causal_lm.CausalLM",
}

__all__ = ["DEFAULT_TASK", "TASKS", "Task", "check_verb", "get_task", "task_of"]


def get_task(name: str) -> Task:
    """Return the task with a name, such as `sequence-classification`; raise a [`UserError`] for an unknown one."""
    if name not in TASKS:
        raise UserError(f"unknown task: found {name!r}; choose one of {', '.join(TASKS)}")
    entry = TASKS[name]
    if not isinstance(entry, str):
        return entry
    module, _, kind = entry.partition(".")
    return getattr(import_module(f".{module}", __name__), kind)()


def task_of(config: Config) -> Task:
    """Return the task of a model.

    `config.task` names it. For an older model, or one whose head or type of problem was changed, it is the first task
    with its head and type of problem. A model of another package has one label per text.

    Raises a [`UserError`] for a task that is not registered, and for an architecture that belongs to no task.
    """
    default = get_task(DEFAULT_TASK)
    ours = getattr(config, "model_type", "hf_rnn") == "hf_rnn"
    heads = config.architectures if ours and config.architectures else [default.architecture]
    name = getattr(config, "task", None) if ours else None
    if name is not None and name not in TASKS:
        raise UserError(f"the model is for the task {name!r}, which is not registered: add it to hf_rnn.tasks.TASKS")
    problem = config.problem_type or "single_label_classification"
    for task in map(get_task, TASKS if name is None else (name, *TASKS)):
        if task.architecture in heads and task.problem_type in (None, problem):
            return task
    raise UserError(f"no task for this model: found architectures {heads} in its configuration")


def check_verb(config: Config, verb: str) -> None:
    """Refuse a model that another verb of `hf-rnn` runs, by a [`UserError`] with that verb."""
    task = task_of(config)
    if task.verb != verb:
        raise UserError(f"a model for {task.name} is used with hf-rnn {task.verb}")
