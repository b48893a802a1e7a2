"""Recipes: named settings in YAML files, found by name or path, on top of the recipe that they build on.

A recipe is a flat mapping from setting to value. It has no setting that publishes a run or decides where it goes. Its
key `recipe` names its base: a recipe of this package, or a path relative to the file. A user's file without that key
builds on the default recipe of its task; `recipe: null` builds on nothing. A setting that is `null` is reset to the
default that it has without any recipe. In Python a mapping is a recipe too.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..tasks import DEFAULT_TASK, get_task
from ..utils.errors import UserError, reason_of
from .arguments import is_personal
from .parser import Setting

DEFAULT_RECIPE = "default"
_FOLDER = Path(__file__).parent / "recipes"
_BASE_KEY = "recipe"


Layer = dict[str, Setting]


def recipe_names() -> list[str]:
    """Return the names of the recipes of this package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_settings() -> set[str]:
    """Return the settings that recipes of this package set."""
    texts = (path.read_text(encoding="utf-8") for path in _FOLDER.glob("*.yaml"))
    return {name for text in texts for name in re.findall(r"^(\w+):", text, re.MULTILINE)} - {_BASE_KEY}


def scratch_recipe(recipe: str) -> str:
    """Return the name of the recipe that starts from no encoder, for the default recipe of a task."""
    name = f"{recipe}-scratch"
    return name if name in recipe_names() else "scratch"


def load_recipe(recipe: str | Path | Mapping[str, Any], task: str | None = None) -> dict[str, Any]:
    """Return the settings of a recipe merged with its bases, without those set to null; see [`read_layers`]."""
    merged = {name: setting.value for layer in read_layers(recipe, task) for name, setting in layer.items()}
    return {name: value for name, value in merged.items() if value is not None}


def read_layers(
    recipe: str | Path | Mapping[str, Any], task: str | None = None, folder: Path = Path(), origin: str = ""
) -> list[Layer]:
    """Return the settings of a recipe and its bases, the lowest base first.

    Args:
        recipe: A name (see [`recipe_names`]), the path of a YAML or JSON file, or a mapping like such a file.
        task: The task of the run, by default the one that the recipe sets.
        folder: Paths are relative to it.
        origin: Precedes messages about a missing recipe.

    Raises:
        UserError: For a missing recipe or an invalid file; the message names file and line.
    """
    if isinstance(recipe, Mapping):
        source, layer = "recipe", {str(name): Setting(value, "recipe") for name, value in recipe.items()}
    else:
        path = _find(str(recipe), folder, origin)
        source, layer, folder = str(path), _read_file(path), path.parent
    for name in filter(is_personal, layer):
        raise UserError(f"{layer[name].origin}: a recipe cannot set {name}: remove it, and give it with the command")
    task = task or (layer["task"].value if "task" in layer else DEFAULT_TASK)
    base = layer.pop(_BASE_KEY, Setting(None if folder == _FOLDER else get_task(str(task)).recipe, source))
    if base.value is None:
        return [layer]
    if not isinstance(base.value, str):
        raise UserError(f"{base.origin}: recipe must be a name or a path: found {base.value!r}")
    return [*read_layers(base.value, task, folder, f"{base.origin}: "), layer]


def _find(name: str, folder: Path, origin: str) -> Path:
    """Return the file of a recipe's name or path; a path is relative to `folder`."""
    name = os.path.expanduser(name)
    if Path(name).suffix in (".yaml", ".yml", ".json") or len(Path(name).parts) > 1:
        if not (folder / name).is_file():
            raise UserError(f"{origin}the recipe file {folder / name} does not exist")
        return folder / name
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Take {', '.join(recipe_names())}, or a path of a YAML file"
        raise UserError(f"{origin}recipe {name!r} is unknown. {hint}")
    return _FOLDER / f"{name}.yaml"


def _read_file(path: Path) -> Layer:
    """Return the settings of one file, where `yes` and `no` are text, as in YAML 1.2: such as a class name."""
    import yaml  # not for a help or a prediction

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in known if first not in "yYnN" or not tag.endswith(":bool")]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    settings: Layer = {}
    try:
        loader = Loader(path.read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}:{root.start_mark.line + 1}: a recipe must have lines of `setting: value`")
        for key, value in root.value if root is not None else ():
            name, line = str(loader.construct_object(key, deep=True)), key.start_mark.line + 1
            if name in settings:
                raise UserError(f"{path}:{line}: {name} is set twice, first on line {settings[name].line}")
            value = loader.construct_object(value, deep=True)
            settings[name] = Setting(value, str(path), line, built_in=path.parent == _FOLDER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or reason_of(error)
        raise UserError(f"{path}{f':{mark.line + 1}' if mark else ''}: invalid YAML: {problem}") from error
    return settings
