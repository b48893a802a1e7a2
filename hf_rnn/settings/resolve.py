"""From flags or keywords to typed settings, resolved once: defaults < recipe < model to start from < user.

A recipe is a flat mapping from setting to value, such as a YAML file. It has no setting that
publishes a run or decides where it goes. Its key `recipe` names its base: a recipe of this package,
or a path relative to the file. A user's file without that key builds on the default recipe of its
task; `recipe: null` builds on nothing. A setting that is `null` is reset to the default that it has
without any recipe.
"""

from __future__ import annotations

import datetime
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..data import TableArguments
from ..hub.model_folder import find_built_in, read_mapping
from ..models.settings_rnn import RnnSettings
from ..tasks import DEFAULT_TASK, Task, get_task
from ..utils.errors import UserError, reason_of
from .fields import (
    ARCHITECTURE,
    ENCODER_SETTINGS,
    TOKEN_SETTINGS,
    VERBS,
    VOCABULARY_SETTINGS,
    DataArguments,
    DistillationArguments,
    PretrainingArguments,
    is_personal,
    is_recorded,
)
from .values import advise, convert, list_settings, list_their_names

if TYPE_CHECKING:
    from ..models.configuration_rnn import RnnConfig
    from .training_arguments import RnnTrainingArguments

logger = logging.getLogger(__name__)

Section = TypeVar("Section")
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
ENGLISH, CAUSAL = "english", "english_causal"  # encoders of the package
OTHER_LANGUAGES = {ENGLISH: "multilingual", CAUSAL: "multilingual_causal"}  # in their place
# implied by `streaming`
_STREAMING = {"bidirectional": False, "crf": False, "word_forms": 0, "token_ngrams": 0}
# upper limits for a student with its teacher's table
_TABLE_DROPOUT = {"word_dropout": 0.1, "embedding_dropout": 0.2}


@dataclass(frozen=True)
class Settings:
    """The settings of a run by subject, and what the user set."""

    model: RnnSettings
    data: DataArguments
    training: RnnTrainingArguments
    distillation: DistillationArguments
    pretraining: PretrainingArguments
    verb: str
    recipe: str | None  # that of this package, below the others
    user_recipe: Mapping[str, Any]  # settings of a recipe that the user wrote
    user: Mapping[str, Any]  # settings by flags or keywords, above all others; None resets

    def decide(self, **data: Any) -> Settings:
        """Return the settings with others of the texts, which the run chose in place of the user."""
        return replace(self, data=replace(self.data, **data), user={**self.user, **data})


def resolve(
    user: Mapping[str, Any],
    verb: str = "train",
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> Settings:
    """Return typed settings from flags or keywords on top of a recipe.

    The keyword `recipe` is a name, a path or a mapping; without it the run takes the recipe of
    [`choose_recipe`]. The keyword None resets a setting to its default without any recipe. `check`
    gets the values before anything heavy is imported.

    Raises a [`UserError`] for a mistake in a setting or a recipe; for a recipe it names file and
    line.
    """
    converted = {
        name: _convert(name, value, verb) for name, value in user.items() if name != "recipe"
    }
    recipe = user.get("recipe") or choose_recipe(converted, verb)
    if verb == "distill":
        converted = _read_teacher_table(converted, user.get("recipe")) | converted
    name, user_recipe = read_recipe(recipe, converted.get("task"), verb)
    values = {**_load_package_recipe(name), **user_recipe, **converted}
    if check is not None:
        check(values)
    converted |= {
        "recipe": None if isinstance(recipe, Mapping) else str(recipe),
        "output_dir": name_output(values),
    }
    return _build(verb, name, user_recipe, converted)


def retarget(settings: Settings, start: str) -> Settings:
    """Return the settings of a run that starts from an encoder of other languages, without mistyped rows: no gain."""
    user = {
        "typos": settings.user_recipe.get("typos", 0.0),
        **settings.user,
        "model_name_or_path": start,
    }
    return _build(settings.verb, settings.recipe, settings.user_recipe, user)


def name_output(values: Mapping[str, Any]) -> str:
    """Return `output_dir`, by default a new folder here with the name of the data and the date."""
    if values.get("output_dir"):
        return str(values["output_dir"])
    if values.get("resume") or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "--output_dir is missing: give the folder to resume, or that of all processes"
        )
    data = (
        values.get("data_dir")
        or values.get("dataset_name")
        or (values.get("input") or ["model"])[0]
    )
    stem = f"{Path(str(data)).resolve().name.split('.')[0]}-{datetime.date.today()}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    return next(name for name in names if not Path(name).exists())


# ---- the record ----


def record(settings: Settings) -> dict[str, Any]:
    """Return what a user would type to repeat a run, as a recipe, without secrets and paths of the machine."""
    below = {**_load_package_recipe(settings.recipe), **settings.user_recipe}
    return {"recipe": settings.recipe} | {
        name: _shorten_path(value)
        for name, value in _merge([settings.user_recipe, settings.user]).items()
        if is_recorded(name) and (value is not None or name in below)
    }


def _shorten_path(value: Any) -> Any:
    if isinstance(value, list):
        return [_shorten_path(item) for item in value]
    if (
        not isinstance(value, str)
        or find_built_in(value)
        or not (os.path.isabs(value) or os.path.exists(value))
    ):
        return value
    name = Path(value).name
    return name if find_built_in(name) is None else f"./{name}"


def list_changes(settings: Settings) -> dict[str, Any]:
    """Return the settings of a recipe or of the user that differ from the defaults, without those of the texts."""
    names = {*_load_package_recipe(settings.recipe), *settings.user_recipe, *settings.user}
    names -= {*list_settings((TableArguments,)), "class_names", "model_name_or_path", "vectors"}
    if settings.data.tokenizer_name_or_path or settings.data.model_name_or_path:
        names -= {*VOCABULARY_SETTINGS, "tokenizer_name_or_path"}
    return {
        name: getattr(value, "value", value)  # an Enum has a value
        for section in (settings.model, settings.data, settings.training)
        for name, (field, *_) in list_settings((type(section),)).items()
        if name in names
        and is_recorded(name)
        and (value := getattr(section, name)) != field.default
    }


# ---- recipes ----


def recipe_names() -> list[str]:
    """Return the names of the recipes of this package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def list_recipe_settings() -> set[str]:
    """Return the settings that recipes of this package set."""
    # a help needs no parser
    texts = [path.read_text(encoding="utf-8") for path in _FOLDER.glob("*.yaml")]
    return {name for text in texts for name in re.findall(r"^(\w+):", text, re.MULTILINE)}


def scratch_recipe(recipe: str) -> str:
    """Return the name of the recipe that starts from no encoder, for the default recipe of a task."""
    name = f"{recipe}-scratch"
    return name if name in recipe_names() else "scratch"


def load_recipe(recipe: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe merged with its bases, without those set to null; see [`read_recipe`]."""
    name, user_recipe = read_recipe(recipe, verb="distill")  # it has the settings of `train` too
    return {
        name: value
        for name, value in {**_load_package_recipe(name), **user_recipe}.items()
        if value is not None
    }


@cache
def _load_package_recipe(name: str | None) -> Mapping[str, Any]:
    """Return the settings of a recipe of this package merged with its bases."""
    if name is None:
        return {}
    import yaml  # not for a help or a prediction

    settings = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return _merge([_load_package_recipe(settings.pop("recipe", None)), settings])


def read_recipe(
    recipe: str | Path | Mapping[str, Any] | None,
    task: str | None = None,
    verb: str = "train",
    folder: Path = Path(),
    origin: str = "",
) -> tuple[str | None, dict[str, Any]]:
    """Return the name of the package's recipe that a recipe is or builds on, and the settings on top of it.

    `recipe` is a name (see [`recipe_names`]), the path of a YAML or JSON file in `folder`, or a
    mapping like such a file; `task` is by default the one that it sets. Raises a [`UserError`] with
    file and line, or with `origin`, the place of the recipe's name.
    """
    if recipe is None or str(recipe) in recipe_names():
        return None if recipe is None else str(recipe), {}
    if isinstance(recipe, Mapping):
        values = {str(name): (value, "recipe: ") for name, value in recipe.items()}
    else:
        path = folder / os.path.expanduser(str(recipe))
        if path.suffix not in (".yaml", ".yml", ".json") and len(Path(str(recipe)).parts) == 1:
            near = get_close_matches(str(recipe), recipe_names(), n=1)
            hint = (
                f"Did you mean {near[0]!r}?"
                if near
                else f"Take {', '.join(recipe_names())}, or a YAML file"
            )
            raise UserError(f"{origin}recipe {str(recipe)!r} is unknown. {hint}")
        if not path.is_file():
            raise UserError(f"{origin}the recipe file {path} does not exist")
        values, folder = _read_file(path), path.parent
    base, origin = values.pop("recipe", ("", origin))
    for name, (_, place) in values.items():
        if is_personal(name):
            raise UserError(
                f"{place}a recipe cannot set {name}: remove it, and give it with the command"
            )
    above = {name: _convert(name, value, verb, place) for name, (value, place) in values.items()}
    task = task or above.get("task")
    package, below = read_recipe(
        _default_recipe(task, verb) if base == "" else base, task, verb, folder, origin
    )
    return package, _merge([below, above])


def _default_recipe(task: str | None, verb: str) -> str:
    return "pretrain" if verb == "pretrain" else get_task(task or DEFAULT_TASK).recipe


def _read_file(path: Path) -> dict[str, tuple[Any, str]]:
    """Return the settings of a file and their places; `yes` and `no` are words, as in YAML 1.2, such as classes."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [
                (tag, pattern)
                for tag, pattern in resolvers
                if first not in "yYnN" or not tag.endswith(":bool")
            ]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        text = path.read_text(encoding="utf-8-sig")
        settings = yaml.load(text, Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: invalid YAML: {reason_of(error)}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: a recipe must have lines of `setting: value`")
    starts, placed = ["", *(line.partition(":")[0] for line in text.splitlines())], {}
    for name, value in settings.items():
        if starts.count(str(name)) > 1:
            raise UserError(
                f"{path}:{starts.index(str(name))}: {name} is set twice: remove one of them"
            )
        number = next(
            (number for number, start in enumerate(starts) if start.strip(" \"'{") == str(name)), 1
        )
        placed[str(name)] = value, f"{path}:{number}: "
    return placed


def choose_recipe(user: Mapping[str, Any], verb: str = "train") -> str:
    """Return the default recipe for some settings.

    Settings that contradict the encoder of the task's recipe (a cell, a width, tokens) get one that
    starts from nothing; the log says so.
    """
    recipe = _default_recipe(user.get("task"), verb)
    start = find_built_in(_load_package_recipe(recipe).get("model_name_or_path"))
    if user.get("model_name_or_path") or start is None:
        return recipe
    config = json.loads((start / "config.json").read_bytes())
    shape = {name: config.get(name, getattr(RnnSettings, name)) for name in ENCODER_SETTINGS}
    other = [name for name in shape if user.get(name) not in (None, shape[name])]
    other += [name for name in TOKEN_SETTINGS if user.get(name) is not None]
    if not other:
        return recipe
    scratch = scratch_recipe(recipe)
    pieces_of_model = {"vectors", "tokenizer_name_or_path"} <= {*other}
    if pieces_of_model and scratch == "scratch" and not user.keys() & {*shape}:
        scratch = "blocks"
    message = "recipe %s: the encoder %s would not allow another %s, so this run starts without it"
    logger.info(message, scratch, start.name, " or ".join(other))
    return scratch


# ---- the merge ----


def _convert(name: str, value: Any, verb: str, place: str = "") -> Any:
    """Return a value with the type of its setting; other fields of `TrainingArguments` stay as they are."""
    if name in (declared := list_settings(VERBS[verb])):
        return convert(name, declared[name], value, place)
    if name in (theirs := list_their_names()):
        return value
    raise UserError(place + f"there is no setting {name!r}{advise(name, [*declared, *theirs])}")


def _merge(layers: Iterable[Mapping[str, Any]], decided: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings of layers, the lowest first.

    A setting also removes contradicting settings of the layers below it. `model_name_or_path` also
    removes those that the model to start from has `decided`.
    """
    replaces, merged = _REPLACES | {"model_name_or_path": (*_START, *decided)}, dict[str, Any]()
    for layer in layers:
        rivals = {
            rival for name in layer if layer[name] is not None for rival in replaces.get(name, ())
        }
        merged = {**{name: value for name, value in merged.items() if name not in rivals}, **layer}
    return merged


def _build(
    verb: str, recipe: str | None, user_recipe: Mapping[str, Any], user: Mapping[str, Any]
) -> Settings:
    """Return typed settings from a recipe of the package and those of the user, with the architecture of the start."""
    from ..hub.model_folder import FinishedFolder, find_folder, load_without_weights
    from ..models.auto import head_name
    from .training_arguments import RnnTrainingArguments, multiplies_bfloat16

    typed = {**user_recipe, **user}
    task = get_task(typed.get("task") or DEFAULT_TASK)
    package = {
        name: task.settings.get(name, value) for name, value in _load_package_recipe(recipe).items()
    }
    implied: dict[str, Any] = {**_STREAMING} if typed.get("streaming") else {}
    if implied and {**package, **user_recipe}.get("model_name_or_path") == ENGLISH:
        implied["model_name_or_path"] = CAUSAL
    layers = [package, user_recipe, implied, user]
    start = next(
        (layer["model_name_or_path"] for layer in layers[::-1] if "model_name_or_path" in layer),
        None,
    )
    config, decided = None, tuple[str, ...]()  # the settings that the start decides
    if start is not None:
        config = load_without_weights(start, FinishedFolder(find_folder(start)))[0]
        decided = ARCHITECTURE if head_name(config) == task.architecture else ENCODER_SETTINGS
    merged = {name: value for name, value in _merge(layers, decided).items() if value is not None}
    declared = list_settings((*VERBS[verb], RnnTrainingArguments))
    for name in merged:
        if name not in declared:
            raise UserError(
                f"recipe {recipe}: there is no setting {name!r}{advise(name, declared)}"
            )
        merged[name] = convert(name, declared[name], merged[name])
    _check_merged(
        merged, {name for name in typed if typed[name] is not None}, config, decided, task
    )
    values: dict[str, Any] = (
        {} if config is None else {name: getattr(config, name) for name in ARCHITECTURE}
    )
    values |= merged
    if values.get("bf16") == "auto":
        has_blocks = config is not None and config.block_type == "residual"
        values["bf16"] = has_blocks and multiplies_bfloat16(values.get("use_cpu", False))

    def make(section: type[Section]) -> Section:
        return section(
            **{name: values[name] for name in list_settings((section,)) if name in values}
        )

    try:
        sections = make(RnnSettings), make(DataArguments), make(RnnTrainingArguments)
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        raise error if isinstance(error, UserError) else UserError(reason_of(error)) from error
    further = make(DistillationArguments), make(PretrainingArguments)
    settings = Settings(*sections, *further, verb, recipe, user_recipe, user)
    _warn_of_unused(settings, typed.keys() & merged.keys())
    return settings


def _read_teacher_table(
    user: Mapping[str, Any], recipe: str | Path | Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the settings of a student that starts from the tokens and the table of its teacher.

    This takes a recipe that starts from nothing, such as `fast`, and a teacher that is a folder of
    this package: its table knows more words than the training texts teach. Tokens, vectors or a
    start that the user names come first.
    """
    config = Path(teacher := user.get("teacher") or "", "config.json")
    others = (*TOKEN_SETTINGS, "model_name_or_path", "embedding_size")
    named = any(user.get(name) is not None for name in others)
    if (
        not recipe
        or named
        or not config.is_file()
        or "model_name_or_path" in (settings := load_recipe(recipe))
    ):
        return {}
    if read_mapping(config, config.read_bytes()).get("model_type") != "hf_rnn":
        return {}
    logger.info(
        "the student starts from the tokens and the table of its teacher; --tokenizer word learns new ones"
    )
    dropout = {name: rate for name, rate in _TABLE_DROPOUT.items() if settings.get(name, 0) > rate}
    return {"tokenizer_name_or_path": teacher, "vectors": teacher, **dropout}


# ---- checks of merged settings ----


def _check_merged(
    merged: Mapping[str, Any],
    typed: Collection[str],
    config: RnnConfig | None,
    decided: Collection[str],
    task: Task,
) -> None:
    """Raise a [`UserError`] for settings that the start overrules, and for random vectors that never learn."""
    if (start := merged.get("model_name_or_path")) is None:
        if (
            merged.get("freeze_embedding")
            and "freeze_embedding" not in typed
            and "vectors" not in merged
        ):
            raise UserError(
                "the recipe's freeze_embedding keeps random vectors here: give vectors (a student's are its "
                "teacher's), or set freeze_embedding to false"
            )
        return
    advice = ""
    if "model_name_or_path" not in typed:
        advice = f", or start from nothing with recipe {scratch_recipe(task.recipe)}"
        if tokens := [name for name in TOKEN_SETTINGS if name in merged]:
            raise UserError(
                f"no effect of {tokens[0]}: the run starts from the encoder {start}, which has its own tokens and "
                f"vectors; leave it out{advice}"
            )
    for name in decided:
        if name in merged and (value := getattr(config, name)) != merged[name]:
            raise UserError(
                f"{name} of the model {start} is {value}: found {merged[name]}; leave it out{advice}"
            )


def _warn_of_unused(settings: Settings, typed: Set[str]) -> None:
    """Log each reason why settings of the user have no effect."""
    data, training = settings.data, settings.training
    keeps_last = not training.load_best_model_at_end and not training.early_stopping_patience
    has_tokens = data.tokenizer_name_or_path or data.model_name_or_path
    is_constant = training.lr_scheduler_type == "constant"
    rules: list[tuple[Any, Collection[str], str]] = [
        (has_tokens, VOCABULARY_SETTINGS, "the tokenizer of another model never changes"),
        (
            keeps_last,
            ["metric_for_best_model"],
            "without load_best_model_at_end the last epoch is kept",
        ),
        (
            is_constant,
            ["warmup_steps"],
            "lr_scheduler_type is constant: use constant_with_warmup or linear",
        ),
        (training.max_steps > 0, ["num_train_epochs"], "max_steps sets the end of the training"),
    ]
    for applies, names, reason in rules:
        if applies and typed & {*names}:
            logger.warning("no effect of %s: %s", ", ".join(sorted(typed & {*names})), reason)
