"""Settings of a training run: one merge of defaults < recipe < architecture of a given model < flags or keywords.

Three dataclasses come out of it: model, data and training. Only recipes are read here, and the configuration of the
model in `model_name_or_path`.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ...models.auto import head_name
from ...models.cells_rnn import CELLS
from ...models.configuration_rnn import ENCODER_SETTINGS, RnnConfig
from ...models.pooling_rnn import POOLERS
from ...utils.errors import UserError
from ..recipes import Setting, read_layers, scratch_recipe
from .distillation_arguments import DistillationArguments
from .parser import SettingsParser
from .text_arguments import VOCABULARY_SETTINGS, DataArguments
from .training_arguments import RnnTrainingArguments

if TYPE_CHECKING:
    from ...tasks import Task

logger = logging.getLogger(__name__)

JSON_HELP = "print JSON, as without a terminal"
_SET_BY_TOKENIZER = ("vocab_size", "pad_token_id")
_REGISTRIES = {"cell_type": CELLS, "pooling": POOLERS}

_HEAD_SETTINGS = (
    "pooling", "classifier_activation", "crf", "word_forms", "word_hidden_size", "pair_encoding",
    "tie_word_embeddings",
)  # fmt: skip
ARCHITECTURE = (*ENCODER_SETTINGS, *_HEAD_SETTINGS)


def _as_flag(known: Field) -> tuple[str, Any, Any]:
    """Return a field of the config for HfArgumentParser, which does not support `float | int`."""
    kind = float if known.type == float | int else known.type
    metadata = {name: known.metadata[name] for name in ("help", "choices", "common") if name in known.metadata}
    if known.name in _REGISTRIES:
        metadata["choices"] = _REGISTRIES[known.name]  # includes names that are registered later
    return known.name, kind, field(default=known.default, metadata=metadata)


_config_fields = [known for known in fields(RnnConfig) if "help" in known.metadata]
_ConfigFlags: Any = make_dataclass(
    "_ConfigFlags", [_as_flag(known) for known in _config_fields if known.name not in _SET_BY_TOKENIZER]
)


@dataclass
class ModelArguments(_ConfigFlags):
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
    training: RnnTrainingArguments


# Settings of the recipes below that a setting removes, as they contradict it or depend on what it replaces.
_RIVALS = {
    "data_dir": ("dataset_name", "dataset_config"),
    "dataset_name": ("data_dir",),
    "metric_for_best_model": ("greater_is_better",),
    "num_train_epochs": ("row_budget",),
    "model_name_or_path": ("tokenizer_name_or_path", "vectors", "widen_vocabulary"),
    "tokenizer_name_or_path": ("widen_vocabulary",),
    "vectors": ("embedding_size",),
}
# Settings that do not apply to a model to start from.
_TOKEN_SETTINGS = (*VOCABULARY_SETTINGS, "tokenizer_name_or_path", "vectors", "widen_vocabulary")
_FOR_DISTILL = ": it belongs to hf-rnn distill (hf_rnn.distill), which has all settings of train too"


def parse_argv(argv: Sequence[str], **options: Any) -> Arguments:
    """Return the settings of `hf-rnn train` from flags; see [`parse`]."""
    return Arguments(*parse(argv, "hf-rnn train", **options))


def parse_settings(settings: Mapping[str, Any], prog: str = "train") -> Arguments:
    """Return the settings of [`train`] from keywords; see [`parse`]."""
    return Arguments(*parse(settings, prog))


def parse(values: Mapping[str, Any] | Sequence[str], prog: str, *further: type, **options: Any) -> tuple[Any, ...]:
    """Return typed settings from flags or keywords on top of a recipe: model, data, training, `further` ones.

    `recipe` is a name, a path or, as a keyword, a mapping; without it the default recipe of the task is taken. The
    keyword None resets a setting to its default without any recipe. `prog` is the name in messages; options are those
    of [`SettingsParser`].

    Raises:
        UserError: For a mistake in a setting or a recipe; for a recipe it names file and line.
        SystemExit: After printing the help for `--help`.
    """
    from ...tasks import DEFAULT_TASK, get_task  # imports datasets

    elsewhere = {known.name: _FOR_DISTILL for known in fields(DistillationArguments)}
    types = [ModelArguments, DataArguments, RnnTrainingArguments, *further]
    parser = SettingsParser(types, elsewhere, prog=prog, **options)
    parser.add_argument("--json", dest="json_output", action="store_true", help=JSON_HELP)
    asked = dict(values) if isinstance(values, Mapping) else parser.parse_flags(values)
    recipe = asked.get("recipe")
    recipe = get_task(asked.get("task") or DEFAULT_TASK).recipe if recipe is None else recipe
    named = None if isinstance(recipe, Mapping) else recipe
    given = {name: Setting(value, prog) for name, value in {**asked, "recipe": named}.items()}
    merged = merge_recipe(recipe, given)
    if not isinstance(values, Mapping):
        parser.check_required({name: setting.value for name, setting in merged.items()})
    settings = parser.convert(merged)
    if (start := settings.get("model_name_or_path")) is not None:
        from ...hub.loading import find_folder, load_without_weights  # not for the help: these import much
        from ...hub.model_folder import FinishedFolder

        config = load_without_weights(start, FinishedFolder(find_folder(start)))[0]
        task = get_task(settings.get("task", DataArguments.task))
        head = task.architecture
        by_default = merged["model_name_or_path"].built_in
        merged = merge_recipe(recipe, given, settings_of_start(config, head))
        settings = {name: getattr(config, name) for name in ARCHITECTURE} | parser.convert(merged)
    parsed = parser.build(settings)
    model, data, training, *_ = parsed
    if start is not None:
        advice = f"leave it out{_or_scratch(task)}" if by_default else "leave it out"
        check_architecture(data.model_name_or_path, config, model, head, advice)
    frozen = merged.get("freeze_embedding")
    if model.freeze_embedding and frozen and frozen.built_in and data.vectors is None and start is None:
        raise UserError(
            f"{frozen.origin}: freeze_embedding keeps random vectors here: give vectors (a student's are its "
            "teacher's), or set freeze_embedding to false"
        )
    own = {name for name, value in merged.items() if value.source.endswith((".yaml", ".yml")) and not value.built_in}
    for line in find_unused({*given, *own} & merged.keys(), *parsed[:3]):  # None is not given
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
    removes = {**_RIVALS, "model_name_or_path": (*_RIVALS["model_name_or_path"], *start_settings)}
    from ...tasks import DEFAULT_TASK, get_task  # imports datasets

    asked = given.get("task")
    layers = [*read_layers(recipe, None if asked is None else asked.value), given]
    task = next((layer["task"].value for layer in reversed(layers) if "task" in layer), None)
    own = get_task(str(task or DEFAULT_TASK))
    for layer in layers:
        for name in own.settings.keys() & layer.keys():  # they replace those of the package's recipes
            if (known := layer[name]).built_in:
                layer[name] = Setting(own.settings[name], known.source, known.line)
        rivals = {rival for name in layer if layer[name].value is not None for rival in removes.get(name, ())}
        merged = {name: setting for name, setting in merged.items() if name not in rivals} | layer
    merged = {name: setting for name, setting in merged.items() if setting.value is not None}
    start = merged.get("model_name_or_path")
    if start is not None and start.built_in and (tokens := [name for name in _TOKEN_SETTINGS if name in merged]):
        origin = merged[tokens[0]].origin
        advice = " or best" if "vectors" in tokens and scratch_recipe(own.recipe) == "scratch" else ""
        raise UserError(
            f"{origin}: no effect of {tokens[0]}: the run starts from the encoder {start.value}, which has its own "
            f"tokens and vectors; leave it out{_or_scratch(own)}{advice}"
        )
    return merged


def _or_scratch(task: "Task") -> str:
    return f", or start from nothing with recipe {scratch_recipe(task.recipe)}"


def settings_of_start(start: RnnConfig, head: str) -> tuple[str, ...]:
    """Return the settings that a model to start from decides for a new model with the class `head`."""
    if head_name(start) != head:
        return ENCODER_SETTINGS
    return tuple(name for name in ARCHITECTURE if name != "pair_encoding" or start.sep_token_id is not None)


def check_architecture(name: str, start: RnnConfig, wanted: Any, head: str, advice: str = "leave it out") -> None:
    """Refuse settings `wanted` that contradict a model to start from, for a new model of the class `head`.

    Raises a [`UserError`] for the first difference; its message ends with `advice`.
    """
    for setting in settings_of_start(start, head):
        found, asked = getattr(start, setting), getattr(wanted, setting)
        if found != asked:
            raise UserError(f"{setting} of the model {name} is {found}: found {asked} in the settings; {advice}")


def find_unused(
    given: Collection[str], model: ModelArguments, data: DataArguments, training: RnnTrainingArguments
) -> Iterator[str]:
    """Yield a warning for each reason why given settings have no effect."""
    keeps_last = not training.load_best_model_at_end and not training.early_stopping_patience
    constant = training.lr_scheduler_type.value == "constant"
    rules: list[tuple[Any, Collection[str], str]] = [
        (
            data.tokenizer_name_or_path or data.model_name_or_path,
            VOCABULARY_SETTINGS,
            "a given tokenizer never changes",
        ),
        (data.text_pair_column is None, ["pair_encoding"], "it is for pairs of texts, with text_pair_column"),
        (
            model.num_hidden_layers == 1 and not model.word_forms,
            ["hidden_dropout"],
            "it is between layers, and num_hidden_layers is 1",
        ),
        (keeps_last, ["metric_for_best_model"], "without load_best_model_at_end the last epoch is kept"),
        (constant, ["warmup_steps"], "lr_scheduler_type is constant: use constant_with_warmup or linear"),
        (training.max_steps > 0, ["num_train_epochs"], "max_steps sets the end of the training"),
        (training.tokens_per_batch, ["per_device_train_batch_size"], "tokens_per_batch sets the training batches"),
        (training.eval_strategy != "steps", ["eval_steps"], "eval_strategy is not steps"),
        (training.save_strategy != "steps", ["save_steps"], "save_strategy is not steps"),
        (not training.push_to_hub, ["hub_model_id"], "push_to_hub is off"),
    ]
    for applies, names, reason in rules:
        if applies and (found := [name for name in names if name in given]):
            yield f"no effect of {', '.join(found)}: {reason}"
