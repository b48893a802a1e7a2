"""Every setting of a training run, declared once, and the one way from settings to typed arguments.

Three plain dataclasses that `HfArgumentParser` takes: model, data, training. Recipes, YAML files, command-line flags
and Python keywords all become command-line tokens and go through one parser, so that each is checked alike; the
later wins. Nothing is read from disk here but recipes, and nothing is trained.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK

from .configuration_rnn import RnnConfig
from .errors import UserError
from .parsing import SettingsParser
from .recipes import DEFAULT_RECIPE, Setting, load_recipe, read_settings

_SET_BY_TOKENIZER = ("vocab_size", "pad_token_id")

# What to type when a tracker is asked for whose package is not there.
_TRACKER_PACKAGES = {
    "tensorboard": (("tensorboard", "tensorboardX"), "pip install 'hf-rnn[tensorboard]'"),
    "trackio": (("trackio",), "pip install trackio"),
}


def _setting(default: Any, meaning: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": meaning, **more})


def _as_flag(setting: Field) -> tuple[str, Any, Any]:
    """A field of the config as a field that HfArgumentParser takes: it knows no `float | int`."""
    kind = float if setting.type == float | int else setting.type
    return setting.name, kind, field(default=setting.default, metadata=setting.metadata)


_ConfigFlags: Any = make_dataclass(
    "_ConfigFlags",
    [
        _as_flag(setting)
        for setting in fields(RnnConfig)
        if "help" in setting.metadata and setting.name not in _SET_BY_TOKENIZER
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


@dataclass
class TableArguments:
    """Which labelled texts to read, and how they stand in their files.

    Args:
        data_dir (`str`): Folder with `train.tsv`, `dev.tsv` or `validation.tsv`, and `test.tsv`.
        text_column (`str`): Column of the text, by number from 0, or by name with `header`.
        label_column (`str`): Column of the label, likewise.
        header (`bool`): Whether the first line of every file names the columns.
        max_bad_rows (`str`): How many bad rows to go on without: a count, or a share such as `"0.1%"`.
    """

    _argument_group_name = "data"

    data_dir: str | None = _setting(None, "folder with train.tsv, dev.tsv or validation.tsv, and test.tsv")
    text_column: str = _setting("0", "column of the text, by number from 0, or by name with --header")
    label_column: str = _setting("1", "column of the label, by number from 0, or by name with --header")
    header: bool = _setting(False, "the first line of every file names the columns")
    max_bad_rows: str = _setting("0", "go on without so many bad rows: a count, or a share such as 0.1%%")

    def source(self) -> str:
        """Return `data_dir`.

        Raises:
            UserError: When it is not set, or nothing is there.
        """
        if self.data_dir is None:
            raise UserError("data_dir is not set: give a folder with train.tsv, and dev.tsv and test.tsv if there are")
        if not os.path.exists(self.data_dir):
            raise UserError(f"data_dir {self.data_dir} does not exist: give a folder with train.tsv")
        return self.data_dir

    def layout(self) -> dict[str, Any]:
        """Return the keywords of [`load_tsv`] that say how rows stand in their files."""
        text, label = (int(name) if str(name).isdecimal() else name for name in (self.text_column, self.label_column))
        return {"text_column": text, "label_column": label, "header": self.header, "max_bad_rows": self.max_bad_rows}


@dataclass
class DataArguments(TableArguments):
    """Labelled texts and how they become tokens.

    Args:
        class_names (`list[str]`, *optional*): Names of the classes by id; by default the labels of train, sorted.
        normalizer (`str`): What is done to a text before it is split into words, see [`train_tokenizer`].
        min_frequency (`int`): Rarer words become the unknown token.
        max_vocab_size (`int`, *optional*): The most frequent words that are kept.
        lowercase (`bool`): Whether to lower-case.
        max_length (`int`, *optional*): Longer texts are cut to so many tokens.
        tokenizer_name_or_path (`str`, *optional*): An existing tokenizer to take instead of training one; the four
            settings of the vocabulary then have no effect.
    """

    class_names: list[str] | None = _setting(None, "names of the classes by id (default: the labels of train, sorted)")
    normalizer: str = _setting("none", "what is done to a text before it is split: none, semeval or tweet")
    min_frequency: int = _setting(3, "rarer words become the unknown token")
    max_vocab_size: int | None = _setting(None, "keep only so many of the most frequent words")
    lowercase: bool = _setting(True, "lower-case the texts")
    max_length: int | None = _setting(None, "cut longer texts to so many tokens (default: the tokenizer's limit)")
    tokenizer_name_or_path: str | None = _setting(
        None, "use this tokenizer (folder or Hub id) instead of training one"
    )


@dataclass
class RnnTrainingArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] with what recurrent text classifiers need besides.

    Defaults are those of transformers, but for the order of the examples and the restored callbacks; good values for a
    task are in the recipes.

    Args:
        output_dir (`str`): The finished folder; the Trainer's checkpoints go below it.
        train_sampling_strategy (`str`): `"group_by_length"` draws batches of texts of like length from
            [`LengthBucketedBatchSampler`]; `"random"` and `"sequential"` are the Trainer's own.
        class_weight_power (`float`): The loss of a row counts (n / (C n_c)) ** power times, n_c being the rows of
            its class and C the number of classes, scaled to mean 1 over the training rows: 0 weighs all rows alike,
                1 all classes.
        early_stopping_patience (`int`, *optional*): Stop after so many evaluations without a better
            `metric_for_best_model`; 0 never stops.
        overwrite_output_dir (`bool`): Whether to replace what an earlier run left in `output_dir`.
        resume (`bool`): Whether to go on from the newest checkpoint in `output_dir`.
        recipe (`str`, *optional*): Where the settings came from. The parser reads it; here it is a record.

    Raises:
        UserError: For a value out of its range, or a tracker in `report_to` whose package is missing.
    """

    _argument_group_name = "training"

    output_dir: str | None = _setting(None, "where the finished model goes; checkpoints go below it")
    train_sampling_strategy: str = _setting(
        "group_by_length",
        "order of the examples: batches of like length, or the Trainer's own random or sequential order",
        choices=["group_by_length", "random", "sequential"],
    )
    data_seed: int | None = _setting(None, "seed of the order of the examples (default: seed)")
    restore_callback_states_from_checkpoint: bool = _setting(
        True, "restore the state of callbacks on resuming; early stopping would start counting anew without"
    )
    class_weight_power: float = _setting(
        0.0, "weigh classes by this power of their inverse frequency: 0 rows alike, 1 classes"
    )
    early_stopping_patience: int | None = _setting(None, "stop after so many evaluations without improvement; 0 never")
    overwrite_output_dir: bool = _setting(False, "replace what an earlier run left in output_dir")
    ddp_find_unused_parameters: bool | None = _setting(False, "look for unused parameters; these models have none")
    resume: bool = _setting(False, "go on from the newest valid checkpoint in output_dir")
    resume_anyway: bool = _setting(False, "like --resume, though data, tokenizer, model or settings have changed")
    recipe: str | None = _setting(None, "settings to start from: a name (default, tutorial, ...) or a YAML file")

    def __post_init__(self) -> None:
        """Check what the Trainer would find out late, and fill in what follows from the rest."""
        if self.output_dir is None:  # the Trainer would write into a folder of its own naming
            raise UserError("output_dir is not set: give the folder where the finished model is to go")
        self._check_ranges()
        if self.data_seed is None:
            self.data_seed = self.seed  # without it the order of the examples changes when a run is resumed
        super().__post_init__()
        self._check_trackers()
        self._check_early_stopping()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing to pin for; torch would warn of it at each loader

    def _check_ranges(self) -> None:
        if not 0 <= self.class_weight_power < float("inf"):
            raise UserError(f"class_weight_power must be finite and not negative, found {self.class_weight_power}")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 0:
            raise UserError(
                f"early_stopping_patience must be 0 (never stop) or more, found {self.early_stopping_patience}"
            )
        for name in (
            "num_train_epochs",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
        ):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be greater than 0, found {getattr(self, name)}")
        if not 0 <= self.learning_rate < float("inf"):
            raise UserError(f"learning_rate must be finite and not negative, found {self.learning_rate}")
        self.resume = self.resume or self.resume_anyway
        for name in ("seed", "data_seed"):
            if not 0 <= (getattr(self, name) or 0) < 2**32:
                raise UserError(f"{name} must be from 0 to 2**32 - 1, found {getattr(self, name)}")
        if self.overwrite_output_dir and self.resume:
            raise UserError("overwrite_output_dir starts anew and resume goes on: give one of them")

    def _check_trackers(self) -> None:
        for tracker in self.report_to:
            if tracker not in INTEGRATION_TO_CALLBACK:
                raise UserError(f"report_to {tracker!r} is not known; there are {', '.join(INTEGRATION_TO_CALLBACK)}")
            modules, install = _TRACKER_PACKAGES.get(tracker, ((), ""))
            if modules and not any(importlib.util.find_spec(module) for module in modules):
                raise UserError(f"report_to {tracker!r} needs a package that is not installed: {install}")

    def _check_early_stopping(self) -> None:
        if self.early_stopping_patience and (self.eval_strategy == "no" or self.metric_for_best_model is None):
            raise UserError(
                "early_stopping_patience needs measurements to compare: set eval_strategy (such as epoch) and "
                "metric_for_best_model (such as macro_recall)"
            )


class Arguments(NamedTuple):
    """What a training run needs, typed."""

    model: ModelArguments
    data: DataArguments
    training: RnnTrainingArguments


def parse_argv(argv: Sequence[str], prog: str = "hf-rnn train") -> Arguments:
    """Turn command-line flags, on top of the recipe that they name, into typed arguments.

    Args:
        argv: Flags without the program's name; `--recipe NAME|FILE.yaml` chooses the recipe, `default` if absent.
        prog: The program's name in the help.

    Raises:
        UserError: For a mistake in a flag or a recipe; one in a recipe is told with its file and line.
        SystemExit: After the help, when `--help` is among the flags.
    """
    chooser = SettingsParser(prog=prog, add_help=False)
    chooser.add_argument("--recipe")
    recipe = chooser.parse_known_args(list(argv))[0].recipe
    tokens = list(argv) if recipe else [f"--recipe={DEFAULT_RECIPE}", *argv]
    return _parse(recipe or DEFAULT_RECIPE, tokens, prog)


def parse_settings(settings: Mapping[str, Any], prog: str = "train") -> Arguments:
    """Turn settings by name, on top of the recipe that they name, into typed arguments.

    Args:
        settings: Values by the names of the flags; `recipe` chooses the recipe, `default` if absent. None leaves a
            setting at the default that it has without any recipe.
        prog: What the settings were given to, for messages.

    Raises:
        UserError: For a mistake in a setting or a recipe.
    """
    recipe = str(settings.get("recipe") or DEFAULT_RECIPE)
    given = {name: Setting(value, prog) for name, value in {**settings, "recipe": recipe}.items()}
    parser = _make_parser(prog)
    cleared = {name for name, setting in given.items() if setting.value is None}
    return _parse(recipe, parser.tokens(given), prog, cleared)


def _make_parser(prog: str) -> SettingsParser:
    return SettingsParser(Arguments.__annotations__.values(), TrainingArguments._VALID_DICT_FIELDS, prog=prog)


def _parse(recipe: str, tokens: list[str], prog: str, cleared: Iterable[str] = ()) -> Arguments:
    parser = _make_parser(prog)
    settings = {name: setting for name, setting in read_settings(recipe).items() if name not in set(cleared)}
    return Arguments(*parser.parse([*parser.tokens(settings), *tokens]))


# Where a run happened, how it was started, and what follows from other settings: not what was trained.
_NOT_RECORDED = frozenset(
    {
        "accelerator_config",
        "dataloader_pin_memory",
        "disable_tqdm",
        "do_eval",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "output_dir",
        "overwrite_output_dir",
        "recipe",
        "resume",
        "resume_anyway",
        "run_name",
        "use_cpu",
    }
)


def describe_settings(arguments: Arguments) -> dict[str, Any]:
    """Return the settings of a run as a flat mapping that is itself a recipe, without secrets or the machine's paths.

    All settings of model and data are in it, and those of training that a recipe sets or that differ from their
    default. A path is reduced to its last part.

    Args:
        arguments: What was trained with.
    """
    described: dict[str, Any] = {"recipe": None}  # complete in itself: it builds on nothing
    for name, value in {**dataclasses.asdict(arguments.model), **dataclasses.asdict(arguments.data)}.items():
        described[name] = _without_path(value)
    values, usual = arguments.training.to_dict(), load_recipe(DEFAULT_RECIPE)
    for setting in fields(arguments.training):
        name, value = setting.name, values.get(setting.name)
        if name in _NOT_RECORDED or name.startswith("hub_") or name.endswith("_token") or value in (None, [], {}):
            continue
        unset = getattr(setting.default, "value", setting.default)
        if name in usual or not (value == unset or (value is False and unset is None)):
            described[name] = _without_path(value)
    return described


def _without_path(value: Any) -> Any:
    if isinstance(value, str | os.PathLike) and (os.path.isabs(value) or os.path.exists(value)):
        return Path(value).name
    return value
