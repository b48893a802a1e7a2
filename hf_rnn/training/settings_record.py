"""What a run was trained with, as a recipe that repeats it: typed arguments back to a flat mapping of settings."""

import dataclasses
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..data.vectors import split_archive
from .arguments.run_arguments import Arguments
from .checkpointing.fingerprints import accelerator_changes
from .recipes import DEFAULT_RECIPE, load_recipe

# Where a run happened, how it was started, and what follows from other settings: not what was trained.
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
    """Return the settings of a run as a flat mapping that is itself a recipe, without secrets or the machine's paths.

    All settings of model and data are in it, and those of training that a recipe sets or that differ from their
    default. A path is reduced to its last part.

    Args:
        arguments: What was trained with.
        further: Dataclass of settings beside these; all that are set are told.
    """
    described: dict[str, Any] = {"recipe": None}  # complete in itself: it builds on nothing
    for name, value in {**dataclasses.asdict(arguments.model), **dataclasses.asdict(arguments.data)}.items():
        described[name] = _without_path(value)
    values, usual = arguments.training.to_dict(), load_recipe(DEFAULT_RECIPE)
    values["accelerator_config"] = accelerator_changes(arguments.training)
    for known in fields(arguments.training):
        name, value = known.name, values.get(known.name)
        if name in _NOT_RECORDED or name.startswith("hub_") or name.endswith("_token") or value in (None, [], {}):
            continue
        if name == "data_seed" and value == values["seed"]:  # which it follows, also where a flag gives another
            continue
        unset = getattr(known.default, "value", known.default)
        if name in usual or not (value == unset or (value is False and unset is None)):
            described[name] = _without_path(value)
    own = {} if further is None else dataclasses.asdict(further)
    return described | {
        name: _without_path(value) for name, value in own.items() if value is not None and name not in _NOT_RECORDED
    }


def _without_path(value: Any) -> Any:
    if isinstance(value, str | os.PathLike) and (os.path.isabs(value) or split_archive(Path(value))[0].exists()):
        return name_of_path(value)
    return value


def name_of_path(path: str | os.PathLike[str]) -> str:
    """The last part of a path; of a file in an archive that of the archive, and the place in it."""
    archive, member = split_archive(Path(path))
    return archive.name if member is None else f"{archive.name}/{member}"
