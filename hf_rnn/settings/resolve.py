"""From flags or keywords to typed settings, once: defaults < recipe < start < user < run."""

from __future__ import annotations

import datetime
import itertools
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..data import TableArguments
from ..hub.model_folder import find_built_in, read_mapping
from ..models.settings_rnn import RnnSettings
from ..tasks import DEFAULT_TASK, Task, get_task
from ..utils.errors import SettingError, UserError, reason_of
from .fields import (
    ARCHITECTURE,
    ENCODER_SETTINGS,
    TOKEN_SETTINGS,
    VERBS,
    VOCABULARY_SETTINGS,
    DataArguments,
    DistillationArguments,
    PretrainingArguments,
    is_recorded,
)
from .recipe import (
    Recipe,
    choose_recipe,
    convert_setting,
    load_package_recipe,
    load_recipe,
    merge,
    read_recipe,
    scratch_recipe,
)
from .values import advise, convert, list_settings

if TYPE_CHECKING:
    from ..models.configuration_rnn import RnnConfig
    from .training_arguments import RnnTrainingArguments

logger = logging.getLogger(__name__)

Section = TypeVar("Section")
ENGLISH = "english"  # encoders of the package
CAUSAL = "english_causal"
OTHER_LANGUAGES = {ENGLISH: "multilingual", CAUSAL: "multilingual_causal"}  # in their place
# implied by `streaming`
_STREAMING = {"bidirectional": False, "crf": False, "word_forms": 0}
# upper limits for a student with its teacher's table
_TABLE_DROPOUT = {"word_dropout": 0.1, "embedding_dropout": 0.2}


@dataclass(frozen=True)
class Layers:
    """Settings by who chose them, the lowest first; None resets a setting to its default."""

    package: Mapping[str, Any]  # the recipe of this package
    task: Mapping[str, Any]  # its values for the task
    recipe: Mapping[str, Any]  # a recipe that the user wrote
    user: Mapping[str, Any]  # flags or keywords
    run: Mapping[str, Any]  # decided by the program, such as the encoder for a language

    @property
    def typed(self) -> dict[str, Any]:
        """The settings that the user chose."""
        return {**self.recipe, **self.user}

    @property
    def top(self) -> dict[str, Any]:
        """The settings above the recipes."""
        return {**self.user, **self.run}

    def merged(self, decided_by_start: Collection[str] = ()) -> dict[str, Any]:
        """Return the settings of all layers without those that are reset; see [`merge`]."""
        below = {**self.package, **self.task}
        implied: dict[str, Any] = {}
        if self.typed.get("streaming"):
            implied = dict(_STREAMING)
            if {**below, **self.recipe}.get("model_name_or_path") == ENGLISH:
                implied["model_name_or_path"] = CAUSAL
        merged = merge([below, self.recipe, implied, self.top], decided_by_start)
        return {name: value for name, value in merged.items() if value is not None}


@dataclass(frozen=True)
class Settings:
    """The settings of a run by subject, and the layers that they come from."""

    model: RnnSettings
    data: DataArguments
    training: RnnTrainingArguments
    distillation: DistillationArguments
    pretraining: PretrainingArguments
    verb: str
    recipe: str | None  # that of this package, below the others
    layers: Layers

    def decide(self, **data: Any) -> Settings:
        """Return the settings with others of the texts, which the run chose for the user."""
        layers = replace(self.layers, run={**self.layers.run, **data})
        return replace(self, data=replace(self.data, **data), layers=layers)


def resolve(
    user: Mapping[str, Any],
    verb: str = "train",
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> Settings:
    """Return typed settings from flags or keywords on top of a recipe.

    The keyword `recipe` is a name, a path or a mapping; without it the run takes the recipe of
    [`choose_recipe`]. The keyword None resets a setting to its default without any recipe. `check`
    gets the values before anything heavy is imported.

    Raises:
        SettingError: For a mistake in a setting or a recipe; for a recipe it names file and line.
    """
    chosen = {name: value for name, value in user.items() if name != "recipe"}
    chosen = {name: convert_setting(name, value, verb) for name, value in chosen.items()}
    recipe = user.get("recipe") or choose_recipe(chosen, verb)
    run: dict[str, Any] = {}
    if verb == "distill" and user.get("recipe"):
        run = _read_teacher_table(chosen, recipe)

    name, changes = read_recipe(recipe, chosen.get("task"), verb)
    values = {**load_package_recipe(name), **changes, **chosen, **run}
    if check is not None:
        check(values)
    run["output_dir"] = name_output(values)
    run["recipe"] = None if isinstance(recipe, Mapping) else str(recipe)
    settings = _build(verb, name, Layers({}, {}, changes, chosen, run))
    _warn_of_unused(settings)
    return settings


def retarget(settings: Settings, start: str) -> Settings:
    """Return the settings of a start from an encoder of other languages, without mistyped rows."""
    layers = settings.layers
    run = {**layers.run, "model_name_or_path": start}
    if "typos" not in layers.typed:
        run["typos"] = 0.0
    return _build(settings.verb, settings.recipe, replace(layers, run=run))


def restart(settings: Settings, recipe: str, tokenizer: str) -> Settings:
    """Return the settings of a run by another recipe, with a tokenizer if the user named none."""
    layers = settings.layers
    run = {**layers.run, "recipe": recipe, "tokenizer": layers.user.get("tokenizer") or tokenizer}
    return _build(settings.verb, recipe, replace(layers, recipe={}, run=run))


def name_output(values: Mapping[str, Any]) -> str:
    """Return `output_dir`, by default a new folder here with the name of the data and the date."""
    if values.get("output_dir"):
        return str(values["output_dir"])
    if values.get("resume") or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingError(
            "--output_dir is missing: give the folder to resume, or that of all processes"
        )
    texts = values.get("input") or ["model"]
    data = values.get("data_dir") or values.get("dataset_name") or texts[0]
    stem = f"{Path(str(data)).resolve().name.split('.')[0]}-{datetime.date.today()}"
    name = stem
    for number in itertools.count(2):
        if not Path(name).exists():
            break
        name = f"{stem}-{number}"
    return name


# ---- the record ----


def record(settings: Settings) -> dict[str, Any]:
    """Return what a user would type to repeat a run, as a recipe, without secrets and paths."""
    layers = settings.layers
    below = {*load_package_recipe(settings.recipe), *layers.recipe}
    recorded: dict[str, Any] = {"recipe": settings.recipe}
    for name, value in merge([layers.recipe, layers.top]).items():
        if is_recorded(name) and (value is not None or name in below):
            recorded[name] = _shorten_path(value)
    return recorded


def _shorten_path(value: Any) -> Any:
    """Return a path without its folders, and any other value as it is."""
    if isinstance(value, list):
        return [_shorten_path(item) for item in value]
    if not isinstance(value, str) or find_built_in(value) is not None:
        return value
    if not os.path.isabs(value) and not os.path.exists(value):
        return value
    name = Path(value).name
    return name if find_built_in(name) is None else f"./{name}"


def list_changes(settings: Settings) -> dict[str, Any]:
    """Return the settings of a recipe or user that differ from the defaults, except the texts."""
    layers = settings.layers
    names = {*load_package_recipe(settings.recipe), *layers.recipe, *layers.top}
    names -= {*list_settings((TableArguments,)), "class_names", "model_name_or_path", "vectors"}
    if settings.data.tokenizer_name_or_path or settings.data.model_name_or_path:
        names -= {*VOCABULARY_SETTINGS, "tokenizer_name_or_path"}
    changes: dict[str, Any] = {}
    for section in (settings.model, settings.data, settings.training):
        for name, declaration in list_settings((type(section),)).items():
            value = getattr(section, name)
            if name in names and is_recorded(name) and value != declaration.field.default:
                changes[name] = getattr(value, "value", value)  # an Enum has a value
    return changes


# ---- the merge ----


def _build(verb: str, recipe: str | None, layers: Layers) -> Settings:
    """Return typed settings from a recipe and further layers, with the start's architecture."""
    from .training_arguments import RnnTrainingArguments, multiplies_bfloat16

    task = get_task(layers.typed.get("task") or DEFAULT_TASK)
    package = load_package_recipe(recipe)
    for_task = {name: task.settings[name] for name in package if name in task.settings}
    layers = replace(layers, package=package, task=for_task)
    start = _Start.of(layers.merged().get("model_name_or_path"), task)
    merged = layers.merged(start.decides)

    declared = list_settings((*VERBS[verb], RnnTrainingArguments))
    for name, value in merged.items():
        if name not in declared:
            raise SettingError(
                f"recipe {recipe}: there is no setting {name!r}{advise(name, declared)}"
            )
        merged[name] = convert(name, declared[name], value)
    _check_start(merged, layers, start, task)
    values = {**start.architecture, **merged}
    if values.get("bf16") == "auto":  # faster with residual blocks, on a processor that has it
        has_blocks = start.config is not None and start.config.block_type == "residual"
        values["bf16"] = has_blocks and multiplies_bfloat16(values.get("use_cpu", False))

    try:
        return Settings(
            _make(RnnSettings, values),
            _make(DataArguments, values),
            _make(RnnTrainingArguments, values),
            _make(DistillationArguments, values),
            _make(PretrainingArguments, values),
            verb,
            recipe,
            layers,
        )
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        raise SettingError(reason_of(error)) from error


def _make(section: type[Section], values: Mapping[str, Any]) -> Section:
    """Return a dataclass of settings with those of some values that it declares."""
    return section(**{name: values[name] for name in list_settings((section,)) if name in values})


@dataclass(frozen=True)
class _Start:
    """The model to start from, and the settings that it decides."""

    config: RnnConfig | None
    decides: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str | None, task: Task) -> _Start:
        """Read the configuration of a model; None is a start from nothing."""
        if name is None:
            return cls(None)
        from ..hub.model_folder import FinishedFolder, find_folder, load_without_weights
        from ..models.auto import head_name

        config, _ = load_without_weights(name, FinishedFolder(find_folder(name)))
        has_head = head_name(config) == task.architecture
        return cls(config, ARCHITECTURE if has_head else ENCODER_SETTINGS)

    @property
    def architecture(self) -> dict[str, Any]:
        """The settings of the architecture, as defaults."""
        if self.config is None:
            return {}
        return {name: getattr(self.config, name) for name in ARCHITECTURE}


def _read_teacher_table(user: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a student that starts from the tokens and the table of its teacher.

    This takes a recipe that starts from nothing, such as `fast`, and a teacher that is a folder of
    this package: its table knows more words than the training texts teach. Tokens, vectors or a
    start that the user names come first.
    """
    teacher = user.get("teacher") or ""
    config = Path(teacher, "config.json")
    others = (*TOKEN_SETTINGS, "model_name_or_path", "embedding_size")
    if any(user.get(name) is not None for name in others) or not config.is_file():
        return {}
    settings = load_recipe(recipe)
    is_ours = read_mapping(config).get("model_type") == "hf_rnn"
    if "model_name_or_path" in settings or not is_ours:
        return {}
    logger.info(
        "the student starts from the tokens and the table of its teacher; "
        "--tokenizer word learns new ones"
    )
    table = {"tokenizer_name_or_path": teacher, "vectors": teacher}
    for name, most in _TABLE_DROPOUT.items():
        if name not in user and settings.get(name, 0) > most:
            table[name] = most
    return table


# ---- checks of merged settings ----


def _check_start(merged: Mapping[str, Any], layers: Layers, start: _Start, task: Task) -> None:
    """Raise a [`SettingError`] for what the start overrules, and random vectors never learned."""
    chosen = {**layers.recipe, **layers.top}
    name = merged.get("model_name_or_path")
    if name is None:
        is_frozen = merged.get("freeze_embedding") and chosen.get("freeze_embedding") is None
        if is_frozen and "vectors" not in merged:
            raise SettingError(
                "this recipe never trains its word vectors, and they would be random: "
                "add --vectors FILE, or --no_freeze_embedding"
            )
        return

    advice = ""
    if chosen.get("model_name_or_path") is None:
        advice = f", or start from nothing with recipe {scratch_recipe(task.recipe)}"
        tokens = [setting for setting in TOKEN_SETTINGS if setting in merged]
        if tokens:
            raise SettingError(
                f"no effect of {tokens[0]}: the run starts from the encoder {name}, which has its "
                f"own tokens and vectors; leave it out{advice}"
            )
    for setting in start.decides:
        fixed = getattr(start.config, setting)
        if setting in merged and merged[setting] != fixed:
            raise SettingError(
                f"{setting} of the model {name} is {fixed}: "
                f"found {merged[setting]}; leave it out{advice}"
            )


def _warn_of_unused(settings: Settings) -> None:
    """Log each reason why settings of the user have no effect."""
    data = settings.data
    training = settings.training
    if data.tokenizer_name_or_path or data.model_name_or_path:
        reason = "the tokenizer of another model never changes"
        _warn(settings, VOCABULARY_SETTINGS, reason)
    if not training.load_best_model_at_end and not training.early_stopping_patience:
        reason = "without load_best_model_at_end the last epoch is kept"
        _warn(settings, ["metric_for_best_model"], reason)
    if training.lr_scheduler_type == "constant":
        reason = "lr_scheduler_type is constant: use constant_with_warmup or linear"
        _warn(settings, ["warmup_steps"], reason)
    if training.max_steps > 0:
        _warn(settings, ["num_train_epochs"], "max_steps sets the end of the training")


def _warn(settings: Settings, names: Collection[str], reason: str) -> None:
    """Log settings of the user that have no effect, if there are some."""
    typed = settings.layers.typed
    unused = sorted(name for name in names if typed.get(name) is not None)
    if unused:
        logger.warning("no effect of %s: %s", ", ".join(unused), reason)
