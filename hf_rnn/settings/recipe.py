"""Recipes: flat mappings from setting to value, such as YAML files, one on top of another.

A recipe has no setting that publishes a run or decides where it goes. Its key `recipe` names its
base: a recipe of this package, or a path relative to the file. A user's file without that key
builds on the default recipe of its task; `recipe: null` builds on nothing. A setting that is `null`
is reset to the default that it has without any recipe.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from ..hub.model_folder import find_built_in
from ..models.settings_rnn import RnnSettings
from ..tasks import DEFAULT_TASK, get_task
from ..utils.errors import SettingError, reason_of
from .fields import ENCODER_SETTINGS, TOKEN_SETTINGS, VERBS, is_personal
from .values import advise, convert, list_settings, list_their_names

logger = logging.getLogger(__name__)

Recipe = str | Path | Mapping[str, Any]  # a name, the path of a file, or settings by name
_FOLDER = Path(__file__).parent / "recipes"
# settings that a model to start from replaces
_START = ("tokenizer_name_or_path", "vectors")
_REPLACES: dict[str, Collection[str]] = {  # contradicting settings of lower layers, by setting
    "data_dir": ("dataset_name", "dataset_config"),
    "dataset_name": ("data_dir",),
    "vectors": ("embedding_size",),
    "num_train_epochs": ("row_budget",),
    "max_minutes": ("num_train_epochs", "row_budget"),
    "metric_for_best_model": ("greater_is_better",),
}


def merge(
    layers: Iterable[Mapping[str, Any]], decided_by_start: Collection[str] = ()
) -> dict[str, Any]:
    """Return the settings of layers, the lowest first.

    A setting also removes contradicting settings of the layers below it. `model_name_or_path`
    removes those that the model to start from decides, too.
    """
    replaces = {**_REPLACES, "model_name_or_path": (*_START, *decided_by_start)}
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if value is not None:
                for rival in replaces.get(name, ()):
                    merged.pop(rival, None)
        merged |= layer
    return merged


def convert_setting(name: str, value: Any, verb: str, place: str = "") -> Any:
    """Return a value with the type of its setting; other fields of the Trainer stay the same."""
    declared = list_settings(VERBS[verb])
    if name in declared:
        return convert(name, declared[name], value, place)
    theirs = list_their_names()
    if name in theirs:
        return value
    hint = advise(name, [*declared, *theirs])
    raise SettingError(place + f"there is no setting {name!r}{hint}")


# ---- recipes of this package ----


def recipe_names() -> list[str]:
    """Return the names of the recipes of this package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@cache
def list_recipe_settings() -> set[str]:
    """Return the settings that recipes of this package set, without a parser: a help needs none."""
    text = "".join(path.read_text(encoding="utf-8") for path in _FOLDER.glob("*.yaml"))
    return set(re.findall(r"^(\w+):", text, re.MULTILINE))


@cache
def load_package_recipe(name: str | None) -> Mapping[str, Any]:
    """Return the settings of a recipe of this package with its bases; for None they are empty."""
    if name is None:
        return {}
    import yaml  # not for a help or a prediction

    settings = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    base = load_package_recipe(settings.pop("recipe", None))
    return merge([base, settings])


def default_recipe(task: str | None, verb: str) -> str:
    """Return the name of the recipe of a task."""
    if verb == "pretrain":
        return "pretrain"
    return get_task(task or DEFAULT_TASK).recipe


def scratch_recipe(recipe: str) -> str:
    """Return the recipe that starts from no encoder, for the default recipe of a task."""
    name = f"{recipe}-scratch"
    return name if name in recipe_names() else "scratch"


def choose_recipe(user: Mapping[str, Any], verb: str = "train") -> str:
    """Return the default recipe for some settings.

    Settings that contradict the encoder of the task's recipe (a cell, a width, tokens) get one that
    starts from nothing; the log says so.
    """
    recipe = default_recipe(user.get("task"), verb)
    start = find_built_in(load_package_recipe(recipe).get("model_name_or_path"))
    if user.get("model_name_or_path") or start is None:
        return recipe

    config = json.loads((start / "config.json").read_bytes())
    shape = {name: config.get(name, getattr(RnnSettings, name)) for name in ENCODER_SETTINGS}
    others = [name for name in shape if user.get(name) not in (None, shape[name])]
    others += [name for name in TOKEN_SETTINGS if user.get(name) is not None]
    if not others:
        return recipe

    scratch = scratch_recipe(recipe)
    pieces_of_model = {"vectors", "tokenizer_name_or_path"} <= {*others}
    if pieces_of_model and scratch == "scratch" and not user.keys() & shape.keys():
        scratch = "blocks"
    logger.info(
        "recipe %s: the encoder %s would not allow another %s, so this run starts without it",
        scratch,
        start.name,
        " or ".join(others),
    )
    return scratch


# ---- recipes that a user wrote ----


@dataclass(frozen=True)
class _Entry:
    value: Any
    place: str  # for messages, such as `file:line: `


def load_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe with its bases, without nulls; see [`read_recipe`]."""
    name, changes = read_recipe(recipe, verb="distill")  # it has the settings of `train` too
    merged = {**load_package_recipe(name), **changes}
    return {name: value for name, value in merged.items() if value is not None}


def read_recipe(
    recipe: Recipe | None,
    task: str | None = None,
    verb: str = "train",
    folder: Path = Path(),
    origin: str = "",
) -> tuple[str | None, dict[str, Any]]:
    """Return the package's recipe that a recipe is or builds on, and the settings on top of it.

    Args:
        recipe: A name (see [`recipe_names`]), the path of a YAML or JSON file in `folder`, or a
            mapping like such a file; None is empty.
        task: By default the one that the recipe sets.
        verb: The verb whose settings it may have.
        folder: Where a relative path starts.
        origin: The place of the recipe's name, for messages.

    Raises:
        SettingError: With file and line.
    """
    if recipe is None:
        return None, {}
    if str(recipe) in recipe_names():
        return str(recipe), {}
    if isinstance(recipe, Mapping):
        entries = {str(name): _Entry(value, "recipe: ") for name, value in recipe.items()}
    else:
        path = _find_file(str(recipe), folder, origin)
        entries = _read_file(path)
        folder = path.parent

    base = entries.pop("recipe", None)
    changes: dict[str, Any] = {}
    for name, entry in entries.items():
        if is_personal(name):
            raise SettingError(
                f"{entry.place}a recipe cannot set {name}: remove it, and give it with the command"
            )
        changes[name] = convert_setting(name, entry.value, verb, entry.place)

    task = task or changes.get("task")
    if base is None:
        base = _Entry(default_recipe(task, verb), origin)
    package, below = read_recipe(base.value, task, verb, folder, base.place)
    return package, merge([below, changes])


def _find_file(recipe: str, folder: Path, origin: str) -> Path:
    """Return the path of a recipe, or raise a [`SettingError`] for one that does not exist."""
    path = folder / os.path.expanduser(recipe)
    is_name = path.suffix not in (".yaml", ".yml", ".json") and len(Path(recipe).parts) == 1
    if is_name:
        near = get_close_matches(recipe, recipe_names(), n=1)
        hint = f"Take {', '.join(recipe_names())}, or a YAML file"
        if near:
            hint = f"Did you mean {near[0]!r}?"
        raise SettingError(f"{origin}recipe {recipe!r} is unknown. {hint}")
    if not path.is_file():
        raise SettingError(f"{origin}the recipe file {path} does not exist")
    return path


def _read_file(path: Path) -> dict[str, _Entry]:
    """Return the settings of a file and their places."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
        settings = yaml.load(text, _make_loader()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: invalid YAML: {reason_of(error)}") from error
    if not isinstance(settings, dict):
        raise SettingError(f"{path}: a recipe must have lines of `setting: value`")

    starts = [line.partition(":")[0] for line in text.splitlines()]
    bare = [start.strip(" \"'{") for start in starts]
    entries: dict[str, _Entry] = {}
    for name, value in settings.items():
        name = str(name)
        if starts.count(name) > 1:
            line = starts.index(name) + 1
            raise SettingError(f"{path}:{line}: {name} is set twice: remove one of them")
        line = bare.index(name) + 1 if name in bare else 1
        entries[name] = _Entry(value, f"{path}:{line}: ")
    return entries


@cache
def _make_loader() -> Any:
    """Return a loader that reads `yes` and `no` as words, as YAML 1.2 does: they can be classes."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = dict(yaml.SafeLoader.yaml_implicit_resolvers)

    for first in "yYnN":
        resolvers = Loader.yaml_implicit_resolvers[first]
        Loader.yaml_implicit_resolvers[first] = [
            resolver for resolver in resolvers if not resolver[0].endswith(":bool")
        ]
    return Loader
