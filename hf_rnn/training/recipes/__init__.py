"""Recipes: named settings in YAML files, found by name or path and merged with the recipe that they build on.

A recipe is a flat mapping from setting to value. It has no setting that publishes a run or decides where it goes. Its
key `recipe` names its base: a recipe of this package, or a path relative to the file. A user's file without that key
builds on the default recipe of its task; `recipe: null` builds on nothing. A setting that is `null` is reset to the
default that it has without any recipe. In Python a mapping is a recipe too.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...tasks import DEFAULT_TASK, get_task
from ...utils.errors import UserError, reason_of

if TYPE_CHECKING:
    from ...tasks import Task

logger = logging.getLogger(__name__)

DEFAULT_RECIPE = "default"
VOCABULARY_SETTINGS = (
    "tokenizer",
    "normalizer",
    "min_frequency",
    "max_vocab_size",
    "lowercase",
)  # those of new tokens
TOKEN_SETTINGS = (*VOCABULARY_SETTINGS, "tokenizer_name_or_path", "vectors", "widen_vocabulary")
_REPLACES = {  # contradicting settings of lower layers, by setting
    "data_dir": ("dataset_name", "dataset_config"),
    "dataset_name": ("data_dir",),
    "tokenizer_name_or_path": ("widen_vocabulary",),
    "model_name_or_path": ("tokenizer_name_or_path", "vectors", "widen_vocabulary"),
    "vectors": ("embedding_size",),
    "num_train_epochs": ("row_budget", "row_floor"),
    "max_minutes": ("num_train_epochs", "row_budget", "row_floor"),
    "metric_for_best_model": ("greater_is_better",),
}
_GONE = (  # settings of earlier versions, in the records of their runs
    "bptt", "hidden_act", "intermediate_size", "layer_norm_eps", "sparse_embedding", "streaming", "tokens_per_pass",
    "vector_components",
    "word_hidden_size",
)  # fmt: skip
# Beginnings of settings of one run: where its results go, what they show, and with whose token. No recipe has them.
_PERSONAL = (
    "card_examples",
    "hub_",
    "output_dir",
    "overwrite_output_dir",
    "push_to_hub",
    "resume",
    "teacher_cache",
    "trackio_",
)
ENGLISH, CAUSAL = "english", "english_causal"  # encoders of the package; the second reads in one direction
_STREAMING = {"bidirectional": False, "crf": False, "word_forms": 0, "token_ngrams": 0}  # what `streaming` implies
_ON = ("True", "true", "yes", "on", "1")
_FOLDER = Path(__file__).parent
_BASE_KEY = "recipe"


@dataclass(frozen=True)
class Setting:
    """A value as YAML, the command line or Python gave it, and its source: the file, or a word for anything else."""

    value: Any
    source: str
    line: int = 0  # in the file

    @property
    def origin(self) -> str:
        """The source and line for messages."""
        return f"{self.source}:{self.line}" if self.line else self.source

    @property
    def built_in(self) -> bool:
        """Whether a recipe of this package sets the value."""
        return Path(self.source).parent == _FOLDER


def recipe_names() -> list[str]:
    """Return the names of the recipes of this package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_settings() -> set[str]:
    """Return the settings that recipes of this package set."""
    texts = (path.read_text(encoding="utf-8") for path in _FOLDER.glob("*.yaml"))
    return {name for text in texts for name in re.findall(r"^(\w+):", text, re.MULTILINE)} - {_BASE_KEY}


def is_personal(name: str) -> bool:
    """Return whether a setting belongs to one run: where its results go, what they show, and with whose token."""
    return name.startswith(_PERSONAL)


def scratch_recipe(recipe: str) -> str:
    """Return the name of the recipe that starts from no encoder, for the default recipe of a task."""
    name = f"{recipe}-scratch"
    return name if name in recipe_names() else "scratch"


def load_recipe(recipe: str | Path | Mapping[str, Any], task: str | None = None) -> dict[str, Any]:
    """Return the settings of a recipe merged with its bases, without those set to null.

    Args:
        recipe: A name (see [`recipe_names`]), the path of a YAML or JSON file, or a mapping like such a file.
        task: The task of the run, by default the one that the recipe sets.

    Raises:
        UserError: For a missing recipe or an invalid file; the message names file and line.
    """
    merged = {name: setting.value for layer in _read_layers(recipe, task) for name, setting in layer.items()}
    return {name: value for name, value in merged.items() if value is not None}


def merge_recipe(recipe: Any, given: Mapping[str, Setting], decided: Collection[str] = ()) -> dict[str, Setting]:
    """Return the settings of a recipe (name, path or mapping) and its bases, overruled by given ones.

    A setting also removes contradicting settings of the layers below it; None removes its own value there.
    `model_name_or_path` also removes those that the model to start from has `decided`.

    Raises:
        UserError: For a recipe that cannot be read, and for settings of tokens that the default start overrules.
    """
    replaces = {**_REPLACES, "model_name_or_path": (*_REPLACES["model_name_or_path"], *decided)}
    layers = [*_read_layers(recipe, given["task"].value if "task" in given else None), dict(given)]
    if str(next((layer["streaming"].value for layer in reversed(layers) if "streaming" in layer), None)) in _ON:
        starts = [layer["model_name_or_path"].value for layer in layers[:-1] if "model_name_or_path" in layer]
        implied = _STREAMING | ({"model_name_or_path": CAUSAL} if starts[-1:] == [ENGLISH] else {})
        source = str(_FOLDER / "streaming.yaml")  # as if a recipe of the package had them
        layers.insert(len(layers) - 1, {name: Setting(value, source) for name, value in implied.items()})
    named = next((layer["task"].value for layer in reversed(layers) if "task" in layer), None)
    task, merged = get_task(str(named or DEFAULT_TASK)), dict[str, Setting]()
    for layer in layers:
        for name in task.settings.keys() & layer.keys():  # they replace those of the package's recipes
            if layer[name].built_in:
                layer[name] = Setting(task.settings[name], layer[name].source, layer[name].line)
        rivals = {rival for name in layer if layer[name].value is not None for rival in replaces.get(name, ())}
        merged = {name: setting for name, setting in merged.items() if name not in rivals} | layer
    merged = {name: setting for name, setting in merged.items() if setting.value is not None}
    start = merged.get("model_name_or_path")
    if start is not None and start.built_in and (tokens := [name for name in TOKEN_SETTINGS if name in merged]):
        raise UserError(
            f"{merged[tokens[0]].origin}: no effect of {tokens[0]}: the run starts from the encoder {start.value}, "
            f"which has its own tokens and vectors; leave it out{or_scratch(task)}"
        )
    return merged


def or_scratch(task: Task) -> str:
    """Return the advice to start from nothing."""
    return f", or start from nothing with recipe {scratch_recipe(task.recipe)}"


def _read_layers(recipe: str | Path | Mapping[str, Any], task: str | None) -> list[dict[str, Setting]]:
    """Return the settings of a recipe and its bases, the lowest base first."""
    if not isinstance(recipe, Mapping):
        return _read(_find(str(recipe), Path()), task)
    own = {str(name): Setting(value, "recipe") for name, value in recipe.items()}
    return _with_bases(own, "recipe", Path(), task)


def _find(name: str, folder: Path, origin: str = "") -> Path:
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


def _read(path: Path, task: str | None) -> list[dict[str, Setting]]:
    """Return the settings of a file's bases and of the file."""
    return _with_bases(_read_file(path), str(path), path.parent, task)


def _with_bases(own: dict[str, Setting], source: str, folder: Path, task: str | None) -> list[dict[str, Setting]]:
    """Return the layers below some settings, and these as the last one."""
    for name in filter(is_personal, own):
        raise UserError(f"{own[name].origin}: a recipe cannot set {name}: remove it, and give it with the command")
    task = task or (own["task"].value if "task" in own else DEFAULT_TASK)
    default = None if folder == _FOLDER else get_task(str(task)).recipe
    base = own.pop(_BASE_KEY, Setting(default, source))
    if base.value is None:
        return [own]
    if not isinstance(base.value, str):
        raise UserError(f"{base.origin}: recipe must be a name or a path: found {base.value!r}")
    return [*_read(_find(base.value, folder, f"{base.origin}: "), task), own]


def _read_file(path: Path) -> dict[str, Setting]:
    """Return the settings of one file, where `yes` and `no` are text, as in YAML 1.2: such as a class name."""
    import yaml  # not for a help or a prediction

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in known if first not in "yYnN" or not tag.endswith(":bool")]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    settings: dict[str, Setting] = {}
    try:
        loader = Loader(path.read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}:{root.start_mark.line + 1}: a recipe must have lines of `setting: value`")
        for key, value in root.value if root is not None else ():
            name, line = str(loader.construct_object(key, deep=True)), key.start_mark.line + 1
            if name in settings:
                raise UserError(f"{path}:{line}: {name} is set twice, first on line {settings[name].line}")
            settings[name] = Setting(loader.construct_object(value, deep=True), str(path), line)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        problem = getattr(error, "problem", None) or reason_of(error)
        raise UserError(f"{path}:{line}: invalid YAML: {problem}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: invalid YAML: {reason_of(error)}") from error
    if gone := [name for name in _GONE if settings.pop(name, None) is not None]:
        logger.warning("%s: settings of an earlier version are ignored: %s", path, ", ".join(gone))
    return settings
