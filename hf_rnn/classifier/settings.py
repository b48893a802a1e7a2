"""Which settings a classifier in scikit-learn's manner has: the command's, but for those that its methods replace."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np

from ..arguments.distillation_arguments import is_of_distill
from ..arguments.run_arguments import ModelArguments
from ..arguments.text_arguments import DataArguments, TableArguments
from ..arguments.training_arguments import RnnTrainingArguments
from ..errors import UserError
from .labelled_texts import kind_of

# Settings of the command that mean nothing here, and what stands in their place.
_ELSEWHERE = {
    **dict.fromkeys((field.name for field in fields(TableArguments)), "texts and labels are given to fit"),
    "class_names": "the classes are those of the labels given to fit",
    "streaming": "texts and labels are given to fit",
    "output_dir": "save_pretrained(folder) writes the finished folder",
    "overwrite_output_dir": "save_pretrained(folder) writes the finished folder",
    "disable_tqdm": "give verbose=False",
}
_FAMILIES_ELSEWHERE = {  # likewise, by the start of the name
    "resume": "fit starts anew",
    "hub_": "call the method push_to_hub(repo_id) after fit",
    "push_to_hub": "call the method push_to_hub(repo_id) after fit",
}
_OWN = ("random_state", "verbose")


@cache
def setting_names() -> tuple[str, ...]:
    """Return the names of the settings that [`RnnClassifier`] takes, in the order of the command's help."""
    return (*(name for name in _command_settings() if _elsewhere(name) is None), *_OWN)


def _command_settings() -> list[str]:
    kinds: tuple[Any, ...] = (ModelArguments, DataArguments, RnnTrainingArguments)
    return [field.name for kind in kinds for field in fields(kind) if field.init]


def _elsewhere(name: str) -> str | None:
    """What stands here in the place of a setting of the command; None for one that is a setting here too."""
    for start, instead in _FAMILIES_ELSEWHERE.items():
        if name.startswith(start):
            return instead
    return _ELSEWHERE.get(name)


def check_setting(name: str) -> None:
    """Refuse what is no setting.

    Raises:
        UserError: It says what is meant, or what stands in its place.
    """
    if name in setting_names():
        return
    if name in _command_settings():
        raise UserError(f"{name} is no setting of RnnClassifier: {_elsewhere(name)}")
    near = difflib.get_close_matches(name, setting_names(), n=1)
    hint = f"Did you mean {near[0]}?" if near else "setting_names() in hf_rnn.classifier lists them"
    raise UserError(f"RnnClassifier has no setting {name!r}. {hint}")


def settings_of_command(values: Mapping[str, Any], output_dir: str) -> dict[str, Any]:
    """Return the settings of a classifier as those of the command.

    Args:
        values: All settings of the classifier by name; None is left as the recipe has it.
        output_dir: Of the command.

    Raises:
        UserError: For a `random_state` that is none, or another seed than `seed`.
    """
    given = {name: value for name, value in values.items() if name not in _OWN and value is not None}
    if isinstance(given.get("recipe"), Mapping):  # of a student, which a fit teaches from labels alone
        given["recipe"] = {name: value for name, value in given["recipe"].items() if not is_of_distill(name)}
    if values["random_state"] is not None:
        seed = _draw_seed(values["random_state"])
        if given.setdefault("seed", seed) != seed:
            raise UserError(f"random_state={seed} and seed={given['seed']} disagree: give one of them")
        given.setdefault("data_seed", seed)  # that of a recipe goes with the recipe's seed
    cleared = dict.fromkeys(name for name in _command_settings() if _elsewhere(name))  # a recipe may hold them
    # a grid may be one of numpy's
    given = {n: v.tolist() if isinstance(v, np.generic | np.ndarray) else v for n, v in given.items()}
    return {**cleared, **given, "output_dir": output_dir}


def _draw_seed(random_state: Any) -> int:
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if kind_of(random_state) == "int" and 0 <= random_state < 2**32:
        return int(random_state)
    raise UserError(
        f"random_state is {random_state!r}: give an integer from 0 to 2**32 - 1, or a RandomState of numpy"
    )
