"""Settings of a training run: one merge of defaults < recipe < architecture of a given model < flags or keywords.

`read_flags` answers a help or a mistake at once: it imports neither torch nor transformers. `parse` makes the three
dataclasses: model, data and training.
"""

import datetime
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...hub.model_folder import check_name, find_built_in, read_mapping
from ...models.settings_rnn import RnnSettings
from ...tasks import DEFAULT_TASK, get_task
from ...utils.errors import UserError
from ..recipes import Setting, load_recipe, read_layers, scratch_recipe
from .distillation_arguments import DistillationArguments
from .parser import SettingsParser
from .text_arguments import DataArguments
from .training_settings import OwnSettings, TrainerSettings

if TYPE_CHECKING:
    from ...tasks import Task
    from .training_arguments import RnnTrainingArguments

logger = logging.getLogger(__name__)

TRAINING = (OwnSettings, TrainerSettings)  # the flags of `RnnTrainingArguments`
JSON_HELP = "print JSON, as without a terminal"
_FOR_DISTILL = ": it belongs to hf-rnn distill (hf_rnn.distill), which has all settings of train too"
_TABLE_DROPOUT = {"word_dropout": 0.1, "embedding_dropout": 0.2}  # at most, for a student that has its teacher's table
_PATHS = {  # settings that name a folder or a repo of the Hub
    "model_name_or_path": "a trained model",
    "tokenizer_name_or_path": "a tokenizer",
    "teacher": "a teacher",
}


@dataclass
class ModelArguments(RnnSettings):
    """The architecture: the fields of [`RnnConfig`] with their defaults, except those that the tokenizer sets.

    Example:
        >>> ModelArguments(cell_type="gru", hidden_size=64).pooling
        'mean_max'
    """

    _argument_group_name = "model"


class Arguments(NamedTuple):
    """The typed settings of a training run."""

    model: ModelArguments
    data: DataArguments
    training: "RnnTrainingArguments"


def _select(kinds: Collection[type], *starts: str) -> tuple[str, ...]:
    """Return the settings that a model to start from decides, by `start` of their metadata; see [`setting`]."""
    return tuple(field.name for kind in kinds for field in fields(kind) if field.metadata.get("start") in starts)


# Settings that decide the shapes and the function of the weights; no recipe changes those of a model to start from.
ENCODER_SETTINGS = _select([RnnSettings], "shape")
ARCHITECTURE = _select([RnnSettings], "shape", "head")
# Settings of a new vocabulary; unused with a given tokenizer.
VOCABULARY_SETTINGS = _select([DataArguments], "vocabulary")
_TOKEN_SETTINGS = _select([DataArguments], "vocabulary", "tokens")
_REPLACES: dict[str, tuple[str, ...]] = {
    field.name: field.metadata.get("replaces", ()) for kind in (DataArguments, OwnSettings) for field in fields(kind)
}


def make_parser(prog: str, *further: type, **options: Any) -> SettingsParser:
    """Return the parser of `hf-rnn train`, or with `further` dataclasses that of another verb."""
    kinds = [ModelArguments, DataArguments, *TRAINING, *further]
    elsewhere = {field.name: _FOR_DISTILL for field in fields(DistillationArguments)}
    parser = SettingsParser(kinds, elsewhere, find_defaults, prog=prog, **options)
    parser.add_argument("--json", dest="json_output", action="store_true", help=JSON_HELP)
    return parser


def read_flags(parser: SettingsParser, argv: Sequence[str]) -> dict[str, Any]:
    """Return the flags of a run, with a folder for its output.

    Raises:
        UserError: For a mistake in flags, paths and names of recipes.
        SystemExit: After printing the help for `--help`.
    """
    flags = parser.parse_flags(argv)
    given = load_recipe(flags["recipe"], flags.get("task")) | flags if "recipe" in flags else flags
    parser.check_required(given)
    check_paths(given)
    return name_output(flags, given)


def check_paths(settings: Mapping[str, Any]) -> None:
    """Raise a [`UserError`] for a folder or file that does not exist, before anything is imported for it."""
    for name, what in _PATHS.items():
        path = settings.get(name)
        if isinstance(path, str) and "/" in path and find_built_in(path) is None:
            check_name(os.path.expanduser(path), what)
    folder = settings.get("data_dir")
    if isinstance(folder, str) and not os.path.exists(os.path.expanduser(folder)):
        raise UserError(f"data_dir {folder} does not exist: give the folder or file of your texts")


def name_output(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with `output_dir`, by default a new folder here with the name of the data and the date."""
    if settings.get("output_dir") or given.get("output_dir"):
        return dict(settings)
    if settings.get("resume") or settings.get("resume_anyway"):
        raise UserError("--output_dir is missing: give the folder of the run to resume")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--output_dir is missing: several processes need it")
    data = given.get("data_dir") or given.get("dataset_name") or "model"
    stem = f"{Path(str(data)).resolve().name.split('.')[0]}-{datetime.date.today()}"
    number = 1
    while Path(name := stem if number == 1 else f"{stem}-{number}").exists():
        number += 1
    return {**settings, "output_dir": name}


def find_defaults(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the settings for some flags: those of the recipe, and of the encoder that it names."""
    recipe = choose_recipe({name: Setting(value, "") for name, value in flags.items()})
    defaults = {**load_recipe(recipe), "recipe": recipe}
    start = find_built_in(flags.get("model_name_or_path") or defaults.get("model_name_or_path"))
    if start is None:
        return defaults
    return {**defaults, **_shape_of(start), **dict.fromkeys(VOCABULARY_SETTINGS, f"that of {start.name}")}


def _shape_of(encoder: Path) -> dict[str, Any]:
    """Return the settings that an encoder of this package decides."""
    config = json.loads((encoder / "config.json").read_bytes())
    return {name: config.get(name, getattr(RnnSettings, name)) for name in ENCODER_SETTINGS}


def choose_recipe(given: Mapping[str, Setting]) -> Any:
    """Return the recipe that is given, or the default one of the task.

    The default one starts from an encoder. Settings that contradict it (a cell, a width, tokens) take the recipe that
    starts from nothing, which the log says.
    """
    settings = {name: setting.value for name, setting in given.items() if setting.value is not None}
    recipe = get_task(str(settings.get("task") or DEFAULT_TASK)).recipe
    has_table = {"tokenizer_name_or_path", "vectors"} <= settings.keys()  # tokens and table of a transformer
    takes_blocks = has_table and not settings.keys() & set(ENCODER_SETTINGS)
    if settings.get("recipe") == "best" and takes_blocks:
        logger.info("recipe blocks: residual blocks in place of an LSTM, over the table of a transformer")
        return "blocks"
    if settings.get("recipe") or settings.get("model_name_or_path"):
        return settings.get("recipe") or recipe
    start = find_built_in(load_recipe(recipe).get("model_name_or_path"))
    if start is None:
        return recipe
    taken = _shape_of(start)
    other = [name for name in taken if str(settings.get(name, taken[name])).casefold() != str(taken[name]).casefold()]
    other += [name for name in _TOKEN_SETTINGS if name in settings]
    if not other:
        return recipe
    scratch = scratch_recipe(recipe)
    if "vectors" in other and scratch == "scratch":
        scratch = "blocks" if takes_blocks else "best"
    logger.info("recipe %s: the encoder %s has its own %s", scratch, start.name, ", ".join(other))
    return scratch


def read_teacher_table(given: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the settings of a student that starts from the tokens and the table of its teacher.

    That is for a recipe that starts from nothing, such as `fast`, and a teacher that is a folder of this package: its
    table knows more words than the training texts teach. Given tokens, vectors or another start leave it out.
    """
    settings = {name: setting.value for name, setting in given.items() if setting.value is not None}
    recipe, teacher = settings.get("recipe"), os.path.expanduser(str(settings.get("teacher")))
    others = {*_TOKEN_SETTINGS, "model_name_or_path", "embedding_size"}
    if recipe is None or settings.keys() & others or load_recipe(recipe).get("model_name_or_path") is not None:
        return {}
    from ...models.configuration_rnn import RnnConfig

    config = Path(teacher, "config.json")
    if not config.is_file() or read_mapping(config, config.read_bytes()).get("model_type") != RnnConfig.model_type:
        return {}
    logger.info("the student starts from the tokens and the table of its teacher; --tokenizer word learns new ones")
    table: dict[str, Any] = {"tokenizer_name_or_path": teacher, "vectors": teacher}
    table |= {name: rate for name, rate in _TABLE_DROPOUT.items() if load_recipe(recipe).get(name, 0) > rate}
    return {name: Setting(value, "teacher") for name, value in table.items()}


def parse_argv(argv: Sequence[str]) -> Arguments:
    """Return the settings of `hf-rnn train` from flags, whose paths are not checked; see [`read_flags`]."""
    parser = make_parser("hf-rnn train")
    return parse_settings(parser.parse_flags(argv), parser.prog)


def parse_settings(settings: Mapping[str, Any], prog: str = "train") -> Arguments:
    """Return the settings of [`train`] from keywords; see [`parse`]."""
    return Arguments(*parse(settings, prog))


def parse(values: Mapping[str, Any], prog: str, *further: type) -> tuple[Any, ...]:
    """Return typed settings from keywords on top of a recipe: model, data, training, `further` ones.

    `recipe` is a name, a path or a mapping; without it [`choose_recipe`] takes one. The keyword None resets a setting
    to its default without any recipe. `prog` is the name in messages.

    Raises a [`UserError`] for a mistake in a setting or a recipe; for a recipe it names file and line.
    """
    from .training_arguments import RnnTrainingArguments

    parser = make_parser(prog, *further)
    given = {name: Setting(value, prog) for name, value in values.items() if name != "json_output"}
    given = read_teacher_table(given) | given
    recipe = choose_recipe(given)
    given["recipe"] = Setting(None if isinstance(recipe, Mapping) else recipe, prog)
    merged = merge_recipe(recipe, given)
    settings = name_output(converted := parser.convert(merged), converted)
    if (start := settings.get("model_name_or_path")) is not None:
        from ...hub.loading import find_folder, load_without_weights
        from ...hub.model_folder import FinishedFolder
        from ...models.auto import head_name

        config = load_without_weights(start, FinishedFolder(find_folder(start)))[0]
        task = get_task(settings.get("task", DataArguments.task))
        advice = f"leave it out{_or_scratch(task)}" if merged["model_name_or_path"].built_in else "leave it out"
        decided = ENCODER_SETTINGS  # by the start
        if head_name(config) == task.architecture:
            decided = tuple(
                name for name in ARCHITECTURE if name != "pair_encoding" or config.sep_token_id is not None
            )
        merged = merge_recipe(recipe, given, decided)
        output = {"output_dir": settings["output_dir"]}
        settings = {name: getattr(config, name) for name in ARCHITECTURE} | parser.convert(merged) | output
    parsed = parser.build(settings, ModelArguments, DataArguments, RnnTrainingArguments, *further)
    model, data, training, *_ = parsed
    for name in decided if start is not None else ():
        value, wanted = getattr(config, name), getattr(model, name)
        if value != wanted:
            raise UserError(f"{name} of the model {start} is {value}: found {wanted} in the settings; {advice}")
    frozen = merged.get("freeze_embedding")
    if model.freeze_embedding and frozen and frozen.built_in and data.vectors is None and start is None:
        raise UserError(
            f"{frozen.origin}: freeze_embedding keeps random vectors here: give vectors (a student's are its "
            "teacher's), or set freeze_embedding to false"
        )
    mine = {name for name, value in merged.items() if value.source.endswith((".yaml", ".yml")) and not value.built_in}
    for line in find_unused({*given, *mine} & merged.keys(), *parsed[:3]):  # None is not given
        logger.warning(line)
    return parsed


def merge_recipe(
    recipe: Any, given: dict[str, Setting], start_settings: Collection[str] = ARCHITECTURE
) -> dict[str, Setting]:
    """Return the settings of a recipe (name, path or mapping) and its bases merged with given ones.

    A setting also removes contradicting settings of the layers below it; None removes its own value there.
    `model_name_or_path` removes `start_settings` too.

    Raises:
        UserError: For a recipe that cannot be read, and for settings of tokens that the default start overrules.
    """
    merged: dict[str, Setting] = {}
    removes = {**_REPLACES, "model_name_or_path": (*_REPLACES["model_name_or_path"], *start_settings)}
    given_task = given.get("task")
    layers = [*read_layers(recipe, None if given_task is None else given_task.value), given]
    task = next((layer["task"].value for layer in reversed(layers) if "task" in layer), None)
    kind = get_task(str(task or DEFAULT_TASK))
    for layer in layers:
        for name in kind.settings.keys() & layer.keys():  # they replace those of the package's recipes
            if layer[name].built_in:
                layer[name] = Setting(kind.settings[name], layer[name].source, layer[name].line)
        rivals = {rival for name in layer if layer[name].value is not None for rival in removes.get(name, ())}
        merged = {name: setting for name, setting in merged.items() if name not in rivals} | layer
    merged = {name: setting for name, setting in merged.items() if setting.value is not None}
    start = merged.get("model_name_or_path")
    if start is not None and start.built_in and (tokens := [name for name in _TOKEN_SETTINGS if name in merged]):
        origin = merged[tokens[0]].origin
        raise UserError(
            f"{origin}: no effect of {tokens[0]}: the run starts from the encoder {start.value}, which has its own "
            f"tokens and vectors; leave it out{_or_scratch(kind)}"
        )
    return merged


def _or_scratch(task: "Task") -> str:
    return f", or start from nothing with recipe {scratch_recipe(task.recipe)}"


def find_unused(
    given: set[str], model: ModelArguments, data: DataArguments, training: "RnnTrainingArguments"
) -> Iterator[str]:
    """Yield a warning for each reason why given settings have no effect."""
    keeps_last = not training.load_best_model_at_end and not training.early_stopping_patience
    constant = training.lr_scheduler_type.value == "constant"
    has_tokenizer = data.tokenizer_name_or_path or data.model_name_or_path
    rules: list[tuple[Any, Collection[str], str]] = [
        (has_tokenizer, VOCABULARY_SETTINGS, "a given tokenizer never changes"),
        (data.text_pair_column is None, ["pair_encoding"], "it is for pairs of texts, with text_pair_column"),
        (keeps_last, ["metric_for_best_model"], "without load_best_model_at_end the last epoch is kept"),
        (constant, ["warmup_steps"], "lr_scheduler_type is constant: use constant_with_warmup or linear"),
        (training.max_steps > 0, ["num_train_epochs"], "max_steps sets the end of the training"),
    ]
    for applies, names, reason in rules:
        unused = given & set(names) if applies else ()
        if unused:
            yield f"no effect of {', '.join(sorted(unused))}: {reason}"
