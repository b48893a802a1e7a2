"""Named settings as YAML files: where they are found, how one builds on another, and on which line each value stands.

A recipe is a flat mapping from setting to value, the settings being those of `hf_rnn.training.arguments`; this module does not
know them. The key `recipe` names the recipe that a file builds on: one of ours, or a path beside the file. A file of
the user that names none builds on `default`; `recipe: null` builds on nothing. A setting that is `null` is left at
the default that it has without any recipe. In Python a mapping is a recipe too, to the same rules.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...utils.errors import UserError, reason_of

DEFAULT_RECIPE = "default"
_FOLDER = Path(__file__).parent
_BASE_KEY = "recipe"


class _Loader(yaml.SafeLoader):
    """YAML, but that `yes` and `no` are words: an answer, a class, the language of Norway, a strategy.

    And that only a single value may be repeated by its anchor: lists of lists of lists would grow beyond all memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias = self.peek_event() if self.check_event(yaml.AliasEvent) else None
        node = super().compose_node(parent, index)
        if alias is not None and not isinstance(node, yaml.ScalarNode):
            mark = alias.start_mark
            raise UserError(
                f"{mark.name}:{mark.line + 1}: *{alias.anchor} repeats a list or a mapping, which a recipe may not: "
                "write it out"
            )
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if first not in "yYnN" or not tag.endswith(":bool")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Setting:
    """A value and where it was set.

    Attributes:
        value: As YAML reads it.
        origin: File and line, for messages.
        ours: Whether it stands in a recipe that comes with the package.
    """

    value: Any
    origin: str
    ours: bool = False


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(recipe: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read a recipe and all that it builds on.

    Args:
        recipe: The name of one of ours (see [`recipe_names`]), the path of a YAML file, or what such a file holds.

    Returns:
        The settings that the recipe makes, by name; those set to null are left out.

    Raises:
        UserError: When there is no such recipe, or a file is no flat YAML mapping; the message names file and line.
    """
    return {name: setting.value for name, setting in read_settings(recipe).items()}


def read_settings(recipe: str | Path | Mapping[str, Any]) -> dict[str, Setting]:
    """Do as [`load_recipe`], but tell of each value where it was set."""
    if isinstance(recipe, Mapping):
        own = {name: Setting(value, f"recipe[{name!r}]") for name, value in recipe.items()}
        for name in own:
            if not isinstance(name, str):
                raise UserError(f"recipe: a setting's name must be text, found {name!r}")
        settings = _on_base(own, DEFAULT_RECIPE, "recipe", beside=Path(), above=())
    else:
        settings = _read(_find(str(recipe), beside=Path()), above=())
    return {name: setting for name, setting in settings.items() if setting.value is not None}


def _find(name: str, beside: Path, origin: str = "") -> Path:
    """Return the file that a name or path means."""
    name = os.path.expanduser(name)
    where = f"{origin}: " if origin else ""
    if Path(name).suffix in (".yaml", ".yml", ".json") or len(Path(name).parts) > 1:
        path = beside / name
        if not path.is_file():
            raise UserError(f"{where}there is no recipe file {path}")
        return path
    if name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = (
            f"Did you mean {near[0]!r}?"
            if near
            else f"There are {', '.join(recipe_names())}, and paths of YAML files."
        )
        raise UserError(f"{where}there is no recipe {name!r}. {hint}")
    return _FOLDER / f"{name}.yaml"


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Setting]:
    """Read a file on top of its base; `above` are the files that led here."""
    if path.resolve() in above:
        raise UserError(f"{path}: this recipe builds on itself, by way of {', '.join(file.name for file in above)}")
    usual = None if path.parent == _FOLDER else DEFAULT_RECIPE
    return _on_base(dict(_settings(path)), usual, str(path), path.parent, (*above, path.resolve()))


def _on_base(
    own: dict[str, Setting], usual: str | None, origin: str, beside: Path, above: tuple[Path, ...]
) -> dict[str, Setting]:
    """Settings on top of the recipe that they name, or of the usual one."""
    base = own.pop(_BASE_KEY, Setting(usual, origin))
    if base.value is None:
        return own
    if not isinstance(base.value, str):
        raise UserError(f"{base.origin}: recipe must be a name or a path, found {base.value!r}")
    return {**_read(_find(base.value, beside, base.origin), above), **own}


def _settings(path: Path) -> Iterator[tuple[str, Setting]]:
    """Yield the settings of one file, in its order."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8-sig"))
        loader.name = str(path)  # of its marks
        root = loader.get_single_node()
        if root is None:  # an empty file, or comments only
            return
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}:{root.start_mark.line + 1}: a recipe is a list of `setting: value`, one a line")
        seen: dict[str, int] = {}
        for key_node, value_node in root.value:
            line = key_node.start_mark.line + 1
            name = loader.construct_object(key_node, deep=True)
            if not isinstance(name, str):
                raise UserError(f"{path}:{line}: a setting's name must be text, found {name!r}")
            if name in seen:
                raise UserError(f"{path}:{line}: {name} is set twice, first on line {seen[name]}")
            seen[name] = line
            value = loader.construct_object(value_node, deep=True)
            yield name, Setting(value, f"{path}:{line}", ours=path.parent == _FOLDER)
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: this is not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not UTF-8, a NUL, the 31st of February, too deep
        raise UserError(f"{path}: this is not YAML: {reason_of(error)}") from error
