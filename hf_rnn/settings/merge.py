"""From a command line or keywords to typed settings, merged once: defaults < recipe < model to start from < flags.

A recipe is a flat mapping from setting to value, such as a YAML file. It has no setting that publishes a run or
decides where it goes. Its key `recipe` names its base: a recipe of this package, or a path relative to the file. A
user's file without that key builds on the default recipe of its task; `recipe: null` builds on nothing. A setting that
is `null` is reset to the default that it has without any recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import difflib
import itertools
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..hub.model_folder import check_name, find_built_in, read_mapping
from ..models.settings_rnn import RnnSettings
from ..tasks import DEFAULT_TASK, Task, get_task
from ..utils.errors import UserError, reason_of
from .arguments import (
    ARCHITECTURE,
    ENCODER_SETTINGS,
    TOKEN_SETTINGS,
    VOCABULARY_SETTINGS,
    DataArguments,
    DistillationArguments,
    ModelArguments,
    OwnSettings,
    is_personal,
)
from .parser import Setting, SettingsParser

if TYPE_CHECKING:
    from .training_arguments import RnnTrainingArguments

logger = logging.getLogger(__name__)

DEFAULT_RECIPE = "default"
_FOLDER = Path(__file__).parent / "recipes"
_BASE_KEY = "recipe"
Layer = dict[str, Setting]
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
ENGLISH, LARGE, CAUSAL = "english", "english_large", "english_causal"  # encoders of the package
OTHER_LANGUAGES = {ENGLISH: "multilingual", LARGE: "multilingual", CAUSAL: "multilingual_causal"}  # in their place
_STREAMING = {"bidirectional": False, "crf": False, "word_forms": 0, "token_ngrams": 0}  # implied by `streaming`
_ON = ("True", "true", "yes", "on", "1")
_TABLE_DROPOUT = {"word_dropout": 0.1, "embedding_dropout": 0.2}  # at most, for a student that has its teacher's table


class Arguments(NamedTuple):
    """The typed settings of a training run."""

    model: ModelArguments
    data: DataArguments
    training: RnnTrainingArguments


# ---- recipes ----


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


# ---- the command line ----


def make_parser(
    prog: str, *further: type, kinds: Sequence[type] = (DataArguments, ModelArguments), **options: Any
) -> SettingsParser:
    """Return the parser of `hf-rnn train`, or with `further` dataclasses or other `kinds` that of another verb."""
    parser = SettingsParser(
        [*kinds[:1], *further, OwnSettings, *kinds[1:]], prog=prog, by_recipe=recipe_settings, **options
    )
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    return parser


def read_flags(parser: SettingsParser, argv: Sequence[str]) -> dict[str, Any]:
    """Return the flags of a run, with a folder for its output, before anything heavy is imported.

    Raises a [`UserError`] for a mistake in flags, paths and names of recipes, and `SystemExit` after a help.
    """
    flags = parser.parse_flags(argv)
    settings = load_recipe(flags["recipe"], flags.get("task")) | flags if "recipe" in flags else flags
    parser.check_required(settings)
    for name in ("model_name_or_path", "tokenizer_name_or_path", "teacher"):
        if "/" in (path := str(settings.get(name, ""))) and find_built_in(path) is None:
            check_name(os.path.expanduser(path), name)
    if not os.path.exists(os.path.expanduser(folder := str(settings.get("data_dir", ".")))):
        raise UserError(f"data_dir {folder} does not exist: give the folder or file of your texts")
    return flags | name_output(settings)


def name_output(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `output_dir`, by default a new folder here with the name of the data and the date."""
    if settings.get("output_dir"):
        return {"output_dir": settings["output_dir"]}
    if settings.get("resume"):
        raise UserError("--output_dir is missing: give the folder of the run to resume")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--output_dir is missing: several processes need it")
    data = settings.get("data_dir") or settings.get("dataset_name") or (settings.get("input") or ["model"])[0]
    stem = f"{Path(str(data)).resolve().name.split('.')[0]}-{datetime.date.today()}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    return {"output_dir": next(name for name in names if not Path(name).exists())}


# ---- the merge ----


def parse_argv(argv: Sequence[str]) -> Arguments:
    """Return the settings of `hf-rnn train` from flags, whose paths are not checked; see [`read_flags`]."""
    return parse_settings(make_parser("hf-rnn train").parse_flags(argv), "hf-rnn train")


def parse_settings(settings: Mapping[str, Any], prog: str = "train") -> Arguments:
    """Return the settings of [`train`] from keywords; see [`parse`]."""
    return Arguments(*parse(settings, prog))


def parse_distillation(values: Mapping[str, Any], prog: str) -> tuple[Any, ...]:
    """Return the settings of model, data, training and distillation from keywords; see [`parse`]."""
    return parse({**_read_teacher_table(values), **values}, prog, DistillationArguments)


def parse(
    values: Mapping[str, Any],
    prog: str,
    *further: type,
    kinds: Sequence[type] = (ModelArguments, DataArguments),
    recipe: str | None = None,
) -> tuple[Any, ...]:
    """Return typed settings from keywords on top of a recipe: those of `kinds`, of the training, and `further` ones.

    The keyword `recipe` is a name, a path or a mapping; without it the run takes `recipe`, or that of
    [`choose_recipe`]. The keyword None resets a setting to its default without any recipe. `prog` is the name in
    messages.

    Raises a [`UserError`] for a mistake in a setting or a recipe; for a recipe it names file and line.
    """
    from .training_arguments import RnnTrainingArguments, multiplies_bfloat16

    parser = make_parser(prog, *further, kinds=kinds)
    parser.declare(RnnTrainingArguments)
    given = {name: Setting(value, prog) for name, value in values.items()}
    chosen = values.get("recipe") or recipe or choose_recipe(values)
    given["recipe"] = Setting(None if isinstance(chosen, Mapping) else chosen, prog)
    layers = _imply_streaming([*read_layers(chosen, values.get("task")), given])
    task, start = get_task(str(_find_last(layers, "task") or DEFAULT_TASK)), _find_last(layers, "model_name_or_path")
    config, decided = (None, ()) if start is None else _read_start(str(start), task)
    merged = _merge(layers, task, decided)
    if "bf16" in merged and merged["bf16"].value == "auto":
        use_cpu = "use_cpu" in merged and str(merged["use_cpu"].value) in _ON
        has_blocks = config is not None and config.block_type == "residual"
        merged["bf16"] = dataclasses.replace(merged["bf16"], value=has_blocks and multiplies_bfloat16(use_cpu))
    settings = parser.convert(merged)
    if config is not None:
        _check_start(config, decided, merged, settings, task)
        settings = {name: vars(config)[name] for name in ARCHITECTURE} | settings
    parsed = parser.build({**settings, **name_output(settings)}, *kinds, RnnTrainingArguments, *further)
    _check_model(merged, parsed[0])
    mine = {name for name, value in merged.items() if value.source.endswith((".yaml", ".yml")) and not value.built_in}
    for line in _find_unused({*given, *mine} & merged.keys(), settings, parsed[len(kinds)]):  # None is not given
        logger.warning(line)
    return parsed


def choose_recipe(values: Mapping[str, Any]) -> Any:
    """Return the recipe of some keywords, or the default one of the task.

    The default one starts from an encoder. Settings that contradict it (a cell, a width, tokens) take the recipe that
    starts from nothing, which the log says.
    """
    settings = {name: value for name, value in values.items() if value is not None}
    recipe = get_task(str(settings.get("task", DEFAULT_TASK))).recipe
    start = find_built_in(load_recipe(recipe).get("model_name_or_path"))
    if settings.get("recipe") or settings.get("model_name_or_path") or start is None:
        return settings.get("recipe") or recipe
    config = json.loads((start / "config.json").read_bytes())
    shape = {name: config.get(name, getattr(RnnSettings, name)) for name in ENCODER_SETTINGS}
    other = [name for name in shape if str(settings.get(name, shape[name])).casefold() != str(shape[name]).casefold()]
    other += [name for name in TOKEN_SETTINGS if name in settings]
    if not other:
        return recipe
    scratch = scratch_recipe(recipe)
    if "vectors" in other and scratch == "scratch":
        has_own_tokens = "tokenizer_name_or_path" in settings and not settings.keys() & set(ENCODER_SETTINGS)
        scratch = "blocks" if has_own_tokens else "best"
    message = "recipe %s: the encoder %s would not allow another %s, so this run starts without it"
    logger.info(message, scratch, start.name, " or ".join(other))
    return scratch


def _find_last(layers: Sequence[Layer], name: str) -> Any:
    return next((layer[name].value for layer in reversed(layers) if name in layer), None)


def _imply_streaming(layers: list[Layer]) -> list[Layer]:
    """Return the layers with what `streaming` implies below the last one, as if a recipe of the package had set it."""
    if str(_find_last(layers, "streaming")) not in _ON:
        return layers
    start = {"model_name_or_path": CAUSAL} if _find_last(layers[:-1], "model_name_or_path") in (ENGLISH, LARGE) else {}
    implied = {name: Setting(value, "streaming", built_in=True) for name, value in (_STREAMING | start).items()}
    return [*layers[:-1], implied, layers[-1]]


def _merge(layers: Sequence[Layer], task: Task, decided: Collection[str]) -> Layer:
    """Return the settings of layers, the lowest first, without those that are None.

    A setting also removes contradicting settings of the layers below it. `model_name_or_path` also removes those that
    the model to start from has `decided`. Settings of the task replace those of the package's recipes.

    Raises a [`UserError`] for settings of tokens that the default start overrules.
    """
    replaces = {**_REPLACES, "model_name_or_path": (*_REPLACES["model_name_or_path"], *decided)}
    merged: Layer = {}
    for layer in layers:
        for name in task.settings.keys() & layer.keys():
            if layer[name].built_in:
                layer[name] = dataclasses.replace(layer[name], value=task.settings[name])
        rivals = {rival for name in layer if layer[name].value is not None for rival in replaces.get(name, ())}
        merged = {name: setting for name, setting in merged.items() if name not in rivals} | layer
    merged = {name: setting for name, setting in merged.items() if setting.value is not None}
    start = merged.get("model_name_or_path")
    if start is not None and start.built_in and (tokens := [name for name in TOKEN_SETTINGS if name in merged]):
        raise UserError(
            f"{merged[tokens[0]].origin}: no effect of {tokens[0]}: the run starts from the encoder {start.value}, "
            f"which has its own tokens and vectors; leave it out{_or_scratch(task)}"
        )
    return merged


def _or_scratch(task: Task) -> str:
    return f", or start from nothing with recipe {scratch_recipe(task.recipe)}"


# ---- the model to start from ----


def _read_start(start: str, task: Task) -> tuple[Any, Collection[str]]:
    """Return the configuration of a model to start from, and the settings that it decides in a run of this task."""
    from ..hub.model_folder import FinishedFolder, find_folder, load_without_weights
    from ..models.auto import head_name

    config = load_without_weights(start, FinishedFolder(find_folder(start)))[0]
    if head_name(config) != task.architecture:
        return config, ENCODER_SETTINGS
    return config, [name for name in ARCHITECTURE if name != "pair_encoding" or config.sep_token_id is not None]


def _check_start(
    config: Any, decided: Collection[str], merged: Layer, settings: Mapping[str, Any], task: Task
) -> None:
    """Raise a [`UserError`] for a setting with another value than the model to start from."""
    start = merged["model_name_or_path"]
    advice = _or_scratch(task) if start.built_in else ""
    for name in decided:
        if (value := vars(config)[name]) != settings.get(name, value):
            found = f"found {settings[name]} in the settings; leave it out{advice}"
            raise UserError(f"{name} of the model {start.value} is {value}: {found}")


def _read_teacher_table(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a student that starts from the tokens and the table of its teacher.

    That is for a recipe that starts from nothing, such as `fast`, and a teacher that is a folder of this package: its
    table knows more words than the training texts teach. Explicit tokens, vectors or another start leave it out.
    """
    given = {name: value for name, value in values.items() if value is not None}
    recipe, teacher = given.get("recipe"), os.path.expanduser(str(given.get("teacher")))
    others = {*TOKEN_SETTINGS, "model_name_or_path", "embedding_size"}
    if recipe is None or given.keys() & others or load_recipe(recipe).get("model_name_or_path") is not None:
        return {}
    config = Path(teacher, "config.json")
    if not config.is_file() or read_mapping(config, config.read_bytes()).get("model_type") != "hf_rnn":
        return {}
    logger.info("the student starts from the tokens and the table of its teacher; --tokenizer word learns new ones")
    dropout = {name: rate for name, rate in _TABLE_DROPOUT.items() if load_recipe(recipe).get(name, 0) > rate}
    return {"tokenizer_name_or_path": teacher, "vectors": teacher, **dropout}


# ---- checks of merged settings ----


def _check_model(merged: Layer, model: ModelArguments) -> None:
    """Raise a [`UserError`] for an unknown cell or pooling, and for random vectors that never learn."""
    from ..models.cells_rnn import find_cell
    from ..models.pooling_rnn import find_pooler

    try:
        find_cell(model)
        find_pooler(model)
    except ValueError as error:
        raise UserError(str(error)) from error
    frozen = merged.get("freeze_embedding")
    if model.freeze_embedding and frozen and frozen.built_in and not {"vectors", "model_name_or_path"} & merged.keys():
        raise UserError(
            f"{frozen.origin}: freeze_embedding keeps random vectors here: give vectors (a student's are its "
            "teacher's), or set freeze_embedding to false"
        )


def _find_unused(given: set[str], settings: Mapping[str, Any], training: RnnTrainingArguments) -> Iterator[str]:
    """Yield a warning for each reason why explicit settings have no effect."""
    keeps_last = not training.load_best_model_at_end and not training.early_stopping_patience
    constant = training.lr_scheduler_type.value == "constant"
    has_tokenizer = settings.get("tokenizer_name_or_path") or settings.get("model_name_or_path")
    rules: list[tuple[Any, Collection[str], str]] = [
        (has_tokenizer, VOCABULARY_SETTINGS, "the tokenizer of another model never changes"),
        (not settings.get("text_pair_column"), ["pair_encoding"], "it is for pairs of texts, with text_pair_column"),
        (keeps_last, ["metric_for_best_model"], "without load_best_model_at_end the last epoch is kept"),
        (constant, ["warmup_steps"], "lr_scheduler_type is constant: use constant_with_warmup or linear"),
        (training.max_steps > 0, ["num_train_epochs"], "max_steps sets the end of the training"),
    ]
    for applies, names, reason in rules:
        if unused := given & set(names) if applies else ():
            yield f"no effect of {', '.join(sorted(unused))}: {reason}"
