"""The record of a run: its settings as a recipe that repeats it."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from ..data.vectors import split_archive
from .arguments.run_arguments import Arguments
from .checkpointing.fingerprints import accelerator_changes
from .recipes import DEFAULT_RECIPE, load_recipe

# The place and the start of a run, and what other settings imply.
_NOT_RECORDED = frozenset(
    {
        "dataloader_pin_memory",
        "disable_tqdm",
        "do_eval",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "greater_is_better",
        "output_dir",
        "overwrite_output_dir",
        "recipe",
        "resume",
        "resume_anyway",
        "run_name",
        "teacher_cache",
        "use_cpu",
    }
)


def describe_settings(arguments: Arguments, further: Any = None) -> dict[str, Any]:
    """Return the settings of a run as a recipe, without secrets and without paths of the machine.

    It has all settings of model and data, and those of training that a recipe sets or that differ from their default.
    A path is reduced to its last part.

    Args:
        arguments: The settings of the run.
        further: A dataclass of further settings; those that are not None are recorded.
    """
    recorded: dict[str, Any] = {"recipe": None}  # it is complete, and builds on nothing
    recorded |= {**dataclasses.asdict(arguments.model), **dataclasses.asdict(arguments.data)}
    values, usual = arguments.training.to_dict(), load_recipe(DEFAULT_RECIPE)
    values["accelerator_config"] = accelerator_changes(arguments.training)
    for known in dataclasses.fields(arguments.training):
        name, value = known.name, values.get(known.name)
        if name in _NOT_RECORDED or name.startswith("hub_") or name.endswith("_token") or value in (None, [], {}):
            continue
        if name == "data_seed" and value == values["seed"]:  # a flag for seed changes both
            continue
        default = getattr(known.default, "value", known.default)
        if name in usual or not (value == default or (value is False and default is None)):
            recorded[name] = value
    for name, value in dataclasses.asdict(further).items() if further is not None else ():
        if value is not None and name not in _NOT_RECORDED:
            recorded[name] = value
    return {name: _shorten_path(value) for name, value in recorded.items()}


def _shorten_path(value: Any) -> Any:
    if isinstance(value, str | os.PathLike) and (os.path.isabs(value) or split_archive(Path(value))[0].exists()):
        return name_of_path(value)
    return value


def name_of_path(path: str | os.PathLike[str]) -> str:
    """Return the last part of a path; for a file in an archive also the archive's name."""
    archive, member = split_archive(Path(path))
    return archive.name if member is None else f"{archive.name}/{member}"
