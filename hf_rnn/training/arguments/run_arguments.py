"""Every setting of a training run, declared once, and the one way from settings to typed arguments.

Three plain dataclasses that `HfArgumentParser` takes: model, data, training. Recipes, YAML files, command-line flags
and Python keywords all become command-line tokens and go through one parser, so that each is checked alike; the
later wins. Nothing is read from disk here but recipes, and the configuration of a model to go on from; nothing is
trained.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass
from typing import Any, NamedTuple, TypeVar

from transformers import TrainingArguments

from ...models.cells_rnn import CELLS
from ...models.configuration_rnn import RnnConfig
from ...models.pooling_rnn import POOLERS
from ...utils.errors import UserError
from ..recipes import DEFAULT_RECIPE, Setting, read_settings
from ..warm_start import ARCHITECTURE, check_architecture, read_config
from .distillation_arguments import is_of_distill
from .parser import SettingsParser
from .text_arguments import DataArguments
from .training_arguments import RnnTrainingArguments
from .unused_settings import find_idle

logger = logging.getLogger(__name__)

_SET_BY_TOKENIZER = ("vocab_size", "pad_token_id")

# What a flag replaces of a recipe beside the setting of its own name: what says the same in another way, or follows.
_RIVALS = {
    "--data_dir": ("dataset_name", "dataset_config"),
    "--dataset_name": ("data_dir",),
    "--metric_for_best_model": ("greater_is_better",),
}


_REGISTRIES = {"cell_type": CELLS, "pooling": POOLERS}


def _as_flag(known: Field) -> tuple[str, Any, Any]:
    """Turn a field of the config into one that HfArgumentParser takes; it does not know `float | int`."""
    kind = float if known.type == float | int else known.type
    metadata = {"help": known.metadata["help"]}
    if known.name in _REGISTRIES:
        metadata["choices"] = _REGISTRIES[known.name]  # includes names that are registered later
    return known.name, kind, field(default=known.default, metadata=metadata)


_ConfigFlags: Any = make_dataclass(
    "_ConfigFlags",
    [
        _as_flag(known)
        for known in fields(RnnConfig)
        if "help" in known.metadata and known.name not in _SET_BY_TOKENIZER
    ],
)


@dataclass
class ModelArguments(_ConfigFlags):
    """The model's architecture: the fields of [`RnnConfig`] with their defaults, but for those the tokenizer sets.

    Example:
        >>> ModelArguments(cell_type="gru", hidden_size=64).pooling
        'mean_max'
    """

    _argument_group_name = "model"


_OF_MODEL = [known.name for known in fields(ModelArguments)]
# What a recipe says of these is left aside where a trained model is gone on from.
_YIELDING = frozenset({*_OF_MODEL, "tokenizer_name_or_path", "vectors", "widen_vocabulary"})
# Of these what the file says that names the model, as the record of such a run does.
_SAID_WITH_START = frozenset(_OF_MODEL) - frozenset(ARCHITECTURE)


class Arguments(NamedTuple):
    """What a training run needs, typed."""

    model: ModelArguments
    data: DataArguments
    training: RnnTrainingArguments


_YAML_LINE = re.compile(r"\.ya?ml:\d+$")

Further = TypeVar("Further")
_Recipe = str | Mapping[str, Any]


def parse_argv(argv: Sequence[str]) -> Arguments:
    """Turn command-line flags, on top of the recipe that they name, into typed arguments.

    Args:
        argv: Flags without the program's name; `--recipe NAME|FILE.yaml` chooses the recipe, `default` if absent.

    Raises:
        UserError: For a mistake in a flag or a recipe; one in a recipe is told with its file and line.
        SystemExit: After the help, when `--help` is among the flags.
    """
    return Arguments(*_parse_argv(argv, "hf-rnn train"))


def parse_argv_with(further: type[Further], argv: Sequence[str], prog: str) -> tuple[Arguments, Further]:
    """As [`parse_argv`], for a command that has settings of its own beside those of a training.

    Args:
        further: Dataclass of these.
        argv: See [`parse_argv`].
        prog: The program's name in the help.
    """
    *shared, own = _parse_argv(argv, prog, further)
    return Arguments(*shared), own


def _parse_argv(argv: Sequence[str], prog: str, *further: type) -> tuple[Any, ...]:
    chooser = SettingsParser(prog=prog, add_help=False)
    chooser.add_argument("--recipe")
    recipe = chooser.parse_known_args(list(argv))[0].recipe
    if recipe is None:
        recipe, argv = DEFAULT_RECIPE, [f"--recipe={DEFAULT_RECIPE}", *argv]
    parser = _make_parser(prog, *further)
    if {"-h", "--help"} & set(argv):
        parser.show_defaults({**read_settings(recipe), "recipe": Setting(recipe, prog)})
    return _parse(parser, recipe, list(argv))


def parse_settings(settings: Mapping[str, Any], prog: str = "train") -> Arguments:
    """Turn settings by name, on top of the recipe that they name, into typed arguments.

    Args:
        settings: Values by the names of the flags; `recipe` chooses the recipe, `default` if absent: a name, a path,
            or a mapping of settings. None leaves a setting at the default that it has without any recipe.
        prog: What the settings were given to, for messages.

    Raises:
        UserError: For a mistake in a setting or a recipe.
    """
    return Arguments(*_parse_settings(settings, prog))


def parse_settings_with(further: type[Further], settings: Mapping[str, Any], prog: str) -> tuple[Arguments, Further]:
    """As [`parse_settings`], with settings beside those of a training.

    Args:
        further: Dataclass of these.
        settings: See [`parse_settings`].
        prog: See [`parse_settings`].
    """
    *shared, own = _parse_settings(settings, prog, further)
    return Arguments(*shared), own


def _parse_settings(settings: Mapping[str, Any], prog: str, *further: type) -> tuple[Any, ...]:
    recipe, name_of_recipe = settings.get("recipe"), None
    if not isinstance(recipe, Mapping):
        recipe = name_of_recipe = DEFAULT_RECIPE if recipe is None else str(recipe)
    given = {name: Setting(value, prog) for name, value in {**settings, "recipe": name_of_recipe}.items()}
    parser = _make_parser(prog, *further)
    cleared = {name for name, value in settings.items() if value is None}
    return _parse(parser, recipe, parser.tokens(given), cleared)


def _make_parser(prog: str, *further: type) -> SettingsParser:
    kinds = [*Arguments.__annotations__.values(), *further]
    return SettingsParser(kinds, TrainingArguments._VALID_DICT_FIELDS, _of_another_verb, prog=prog)


def _of_another_verb(name: str) -> str:
    return ": it is one of hf-rnn distill (hf_rnn.distill), which takes all others too" if is_of_distill(name) else ""


def _parse(parser: SettingsParser, recipe: _Recipe, tokens: list[str], cleared: Iterable[str] = ()) -> tuple[Any, ...]:
    named = named_flags(tokens)
    tokens, config = _with_recipe(parser, recipe, tokens, named, cleared)
    parsed = parser.parse(tokens)
    if config is not None:
        check_architecture(parsed[1].model_name_or_path, config, parsed[0])
    frozen, data, training = parsed[0].freeze_embedding, *parsed[1:3]
    if frozen and data.vectors is None and data.model_name_or_path is None:
        _check_frozen(recipe, named)
    if frozen and training.embedding_learning_rate is not None and "--embedding_learning_rate" not in named:
        logger.info("the recipe's embedding_learning_rate is left out: freeze_embedding is on")
        training.embedding_learning_rate = None
    typed = {name[2:].removeprefix("no_") for name in named} | _of_own_files(settings_beside(recipe, named, cleared))
    for told in find_idle(typed, *parsed):
        logger.warning(told)
    return parsed


def _of_own_files(settings: Mapping[str, Setting]) -> set[str]:
    """The settings that the user's own recipe files name; the record of an earlier run, which names all, is none."""
    return {name for name, given in settings.items() if not given.ours and _YAML_LINE.search(given.origin)}


def _check_frozen(recipe: _Recipe, named: set[str]) -> None:
    """Refuse random vectors that never learn, unless it is the user who wants them so."""
    setting = read_settings(recipe).get("freeze_embedding")
    if setting is not None and setting.ours and "--freeze_embedding" not in named:
        raise UserError(
            f"{setting.origin}: freeze_embedding keeps the vectors that a training starts from, and none are given: "
            "name them with vectors, with tokenizer_name_or_path where they are those of a model's tokens, or set "
            "freeze_embedding to false"
        )


def _with_recipe(
    parser: SettingsParser, recipe: _Recipe, tokens: list[str], named: set[str], cleared: Iterable[str]
) -> tuple[list[str], RnnConfig | None]:
    """The tokens behind those of a recipe and of a model to go on from, and the configuration of such a model."""
    settings = settings_beside(recipe, named, cleared)
    of_recipe = parser.tokens(settings)
    start = _find_start([*of_recipe, *tokens])
    if start is None:
        return [*of_recipe, *tokens], None
    config = read_config(start)
    settings = {**{name: Setting(getattr(config, name), start) for name in _OF_MODEL}, **settings}
    return [*parser.tokens(settings), *tokens], config


def settings_beside(recipe: _Recipe, named: set[str], cleared: Iterable[str] = ()) -> dict[str, Setting]:
    """Read what holds of a recipe beside flags that say something else.

    Args:
        recipe: Its name, path or settings.
        named: The flags that are given, with their dashes.
        cleared: Names of settings to leave out.

    Raises:
        UserError: For a recipe that cannot be read.
    """
    rivals = {rival for flag, names in _RIVALS.items() if flag in named for rival in names}
    settings = {name: given for name, given in read_settings(recipe).items() if name not in {*cleared, *rivals}}
    if "--vectors" in named or ("vectors" in settings and not _beside(settings, "vectors", "embedding_size")):
        settings.pop("embedding_size", None)  # a recipe's own goes with random vectors
    if "--tokenizer_name_or_path" in named and "widen_vocabulary" in settings and settings["widen_vocabulary"].ours:
        del settings["widen_vocabulary"]  # it goes with a vocabulary of the texts' words
    start = settings.get("model_name_or_path")
    if "--model_name_or_path" in named or (start is not None and start.value is not None):
        kept = {name for name in _SAID_WITH_START if _beside(settings, "model_name_or_path", name)}
        settings = {name: given for name, given in settings.items() if name not in _YIELDING - kept}
    return settings


def named_flags(tokens: Iterable[str]) -> set[str]:
    """The flags among command-line tokens, with their dashes, underscores in their names."""
    return {"--" + token.split("=")[0].lstrip("-").replace("-", "_") for token in tokens if token.startswith("--")}


def _beside(settings: Mapping[str, Setting], *names: str) -> bool:
    """Whether all were set in the same file."""
    return len({settings[name].origin.rpartition(":")[0] if name in settings else name for name in names}) == 1


def _find_start(tokens: Sequence[str]) -> str | None:
    """The model to go on from, if the tokens name one."""
    chooser = SettingsParser(add_help=False)
    chooser.add_argument("--model_name_or_path", "--model-name-or-path")
    return chooser.parse_known_args(list(tokens))[0].model_name_or_path
