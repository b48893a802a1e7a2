"""Every setting of a training run, declared once, and the one way from settings to typed arguments.

Three plain dataclasses that `HfArgumentParser` takes: model, data, training. Recipes, YAML files, command-line flags
and Python keywords all become command-line tokens and go through one parser, so that each is checked alike; the
later wins. Nothing is read from disk here but recipes, and the configuration of a model to go on from; nothing is
trained.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK

from .configuration_rnn import RnnConfig
from .errors import UserError
from .parsing import SettingsParser, setting
from .recipes import DEFAULT_RECIPE, Setting, load_recipe, read_settings
from .starting_model import check_architecture, read_config
from .text_arguments import DataArguments

_SET_BY_TOKENIZER = ("vocab_size", "pad_token_id")

# A flag that says where the texts are replaces what a recipe says of it in another way.
_RIVALS = {"--data_dir": ("dataset_name", "dataset_config"), "--dataset_name": ("data_dir",)}

# What to type when a tracker is asked for whose package is not there.
_TRACKER_PACKAGES = {
    "tensorboard": (("tensorboard", "tensorboardX"), "pip install 'hf-rnn[tensorboard]'"),
    "trackio": (("trackio",), "pip install trackio"),
}


def _as_flag(known: Field) -> tuple[str, Any, Any]:
    """A field of the config as a field that HfArgumentParser takes: it knows no `float | int`."""
    kind = float if known.type == float | int else known.type
    return known.name, kind, field(default=known.default, metadata=known.metadata)


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


@dataclass
class RnnTrainingArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] with what recurrent text classifiers need besides.

    Defaults are those of transformers, but for the order of the examples and the restored callbacks; good values for a
    task are in the recipes.

    Args:
        output_dir (`str`): The finished folder; the Trainer's checkpoints go below it.
        train_sampling_strategy (`str`): `"group_by_length"` draws batches of texts of like length from
            [`LengthBucketedBatchSampler`]; `"random"` and `"sequential"` are the Trainer's own.
        tokens_per_batch (`int`, *optional*): Cut training batches of texts of like length by their tokens instead of
            their rows, see [`TokenBudgetBatchSampler`]: rows times the longest of a batch, padding counted, are at
            most so many in each process, and a text with more is a batch of its own. `per_device_train_batch_size`
            then has no effect. A step is the mean over its rows, so that a row counts for more in a batch of few long
            texts than in one of many short ones.
        class_weight_power (`float`): The loss of a row counts (n / (C n_c)) ** power times, n_c being the rows of
            its class and C the number of classes, scaled to mean 1 over the training rows: 0 weighs all rows alike,
                1 all classes.
        embedding_learning_rate (`float`, *optional*): A learning rate of its own for the embedding, such as a small
            one for pretrained vectors; it is scheduled as the other.
        calibrate (`bool`): Whether to fit the scores to the validation rows after training, so that they can be read
            as probabilities; see [`hf_rnn.calibration`]. The weights of the last layer hold what was fitted.
        target_prior (`list[str]`, *optional*): With `calibrate`: shares of the classes where the model will be used,
            if they are others than here: `positive=0.2 negative=0.8`, the same as a JSON mapping, or `train` for
            those of the training rows, which matters where `class_weight_power` is not 0. This can change answers.
        early_stopping_patience (`int`, *optional*): Stop after so many evaluations without a better
            `metric_for_best_model`; 0 never stops.
        overwrite_output_dir (`bool`): Whether to replace what an earlier run left in `output_dir`.
        resume (`bool`): Whether to go on from the newest checkpoint in `output_dir`.
        recipe (`str`, *optional*): Where the settings came from. The parser reads it; here it is a record.
        license (`str`, *optional*): The model's licence for its card, as the Hub abbreviates it, such as `apache-2.0`.
        language (`list[str]`, *optional*): Languages of the texts for the card: codes of ISO 639, such as `en`.
        tags (`list[str]`, *optional*): Further tags for the card.
        card_examples (`bool`): Whether the card shows two texts of each label from the training rows.
        baselines (`bool`): Whether to fit TF-IDF and logistic regression to the same rows, for the card.

    Raises:
        UserError: For a value out of its range, or a tracker in `report_to` whose package is missing.
    """

    _argument_group_name = "training"

    output_dir: str | None = setting(None, "where the finished model goes; checkpoints go below it")
    train_sampling_strategy: str = setting(
        "group_by_length",
        "order of the examples: batches of like length, or the Trainer's own random or sequential order",
        choices=["group_by_length", "random", "sequential"],
    )
    tokens_per_batch: int | None = setting(
        None,
        "most tokens in a training batch, padding counted; with it per_device_train_batch_size has no effect in "
        "training, and a longer text is a batch of its own (default: batches of so many rows)",
    )
    data_seed: int | None = setting(None, "seed of the order of the examples (default: seed)")
    restore_callback_states_from_checkpoint: bool = setting(
        True, "restore the state of callbacks on resuming; early stopping would start counting anew without"
    )
    class_weight_power: float = setting(
        0.0, "weigh classes by this power of their inverse frequency: 0 rows alike, 1 classes"
    )
    embedding_learning_rate: float | None = setting(None, "learning rate of the embedding (default: learning_rate)")
    calibrate: bool = setting(
        False, "fit the scores to the validation rows, so that they can be read as probabilities"
    )
    target_prior: list[str] | None = setting(
        None, "with calibrate: shares of the classes in use, such as positive=0.2 negative=0.8, JSON, or train"
    )
    early_stopping_patience: int | None = setting(None, "stop after so many evaluations without improvement; 0 never")
    overwrite_output_dir: bool = setting(False, "replace what an earlier run left in output_dir")
    ddp_find_unused_parameters: bool | None = setting(False, "look for unused parameters; these models have none")
    resume: bool = setting(False, "go on from the newest valid checkpoint in output_dir")
    resume_anyway: bool = setting(False, "like --resume, though data, tokenizer, model or settings have changed")
    recipe: str | None = setting(None, "settings to start from: a name (default, tutorial, ...) or a YAML file")
    license: str | None = setting(None, "the model's licence for its card, such as apache-2.0")
    language: list[str] | None = setting(None, "languages of the texts for the card, such as en de")
    tags: list[str] | None = setting(None, "further tags for the card")
    card_examples: bool = setting(True, "show two texts of each label in the card")
    baselines: bool = setting(True, "fit TF-IDF and logistic regression to the same rows, for the card")

    def __post_init__(self) -> None:
        """Check what the Trainer would find out late, and fill in what follows from the rest."""
        if self.output_dir is None:  # the Trainer would write into a folder of its own naming
            raise UserError("output_dir is not set: give the folder where the finished model is to go")
        self._check_ranges()
        self._check_token_budget()
        if self.data_seed is None:
            self.data_seed = self.seed  # without it the order of the examples changes when a run is resumed
        if (self.bf16 or self.bf16_full_eval) and not torch.accelerator.is_available():
            self.use_cpu = True  # where it runs anyhow: the Trainer takes bfloat16 there only when told
        super().__post_init__()
        self._check_sharing()
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
        rate = self.embedding_learning_rate
        if rate is not None and not 0 <= rate < float("inf"):
            raise UserError(f"embedding_learning_rate must be finite and not negative, found {rate}")
        if self.target_prior is not None and not self.calibrate:
            raise UserError("target_prior is part of the calibration: add calibrate, or leave it out")
        self.resume = self.resume or self.resume_anyway
        for name in ("seed", "data_seed"):
            if not 0 <= (getattr(self, name) or 0) < 2**32:
                raise UserError(f"{name} must be from 0 to 2**32 - 1, found {getattr(self, name)}")
        if self.overwrite_output_dir and self.resume:
            raise UserError("overwrite_output_dir starts anew and resume goes on: give one of them")

    def _check_token_budget(self) -> None:
        budget = self.tokens_per_batch
        if budget is None:
            return
        if budget < 1:
            raise UserError(f"tokens_per_batch must be at least 1, found {budget}")
        if self.train_sampling_strategy != "group_by_length":
            raise UserError(
                f"tokens_per_batch {budget} makes batches of texts of like length, which train_sampling_strategy "
                f"{self.train_sampling_strategy!r} does not: set that to group_by_length, or leave out "
                "tokens_per_batch"
            )
        for name, instead in (
            ("dataloader_drop_last", "leaves out rows that do not fill a batch, of which there are none"),
            ("auto_find_batch_size", "looks for a per_device_train_batch_size, which has no effect"),
        ):
            if getattr(self, name):
                raise UserError(f"{name} {instead} with tokens_per_batch: leave out one of the two")

    def _check_sharing(self) -> None:
        if self.tokens_per_batch is not None and self.world_size > 1:
            for name in ("split_batches", "dispatch_batches"):
                if getattr(self.accelerator_config, name):
                    raise UserError(
                        f"{name} in accelerator_config shares out the rows of one batch, and tokens_per_batch gives "
                        "each process batches of its own: leave out one of the two"
                    )

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


Further = TypeVar("Further")


def parse_argv(argv: Sequence[str], prog: str = "hf-rnn train") -> Arguments:
    """Turn command-line flags, on top of the recipe that they name, into typed arguments.

    Args:
        argv: Flags without the program's name; `--recipe NAME|FILE.yaml` chooses the recipe, `default` if absent.
        prog: The program's name in the help.

    Raises:
        UserError: For a mistake in a flag or a recipe; one in a recipe is told with its file and line.
        SystemExit: After the help, when `--help` is among the flags.
    """
    return Arguments(*_parse_argv(argv, prog))


def parse_argv_with(further: type[Further], argv: Sequence[str], prog: str) -> tuple[Arguments, Further]:
    """As [`parse_argv`], for a command that has settings of its own beside those of a training.

    Args:
        further: Dataclass of these.
        argv: See [`parse_argv`].
        prog: See [`parse_argv`].
    """
    *shared, own = _parse_argv(argv, prog, further)
    return Arguments(*shared), own


def _parse_argv(argv: Sequence[str], prog: str, *further: type) -> tuple[Any, ...]:
    chooser = SettingsParser(prog=prog, add_help=False)
    chooser.add_argument("--recipe")
    recipe = chooser.parse_known_args(list(argv))[0].recipe
    tokens = list(argv) if recipe else [f"--recipe={DEFAULT_RECIPE}", *argv]
    return _parse(_make_parser(prog, *further), recipe or DEFAULT_RECIPE, tokens)


def parse_settings(settings: Mapping[str, Any], prog: str = "train") -> Arguments:
    """Turn settings by name, on top of the recipe that they name, into typed arguments.

    Args:
        settings: Values by the names of the flags; `recipe` chooses the recipe, `default` if absent. None leaves a
            setting at the default that it has without any recipe.
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
    recipe = str(settings.get("recipe") or DEFAULT_RECIPE)
    given = {name: Setting(value, prog) for name, value in {**settings, "recipe": recipe}.items()}
    parser = _make_parser(prog, *further)
    cleared = {name for name, value in settings.items() if value is None}
    return _parse(parser, recipe, parser.tokens(given), cleared)


def _make_parser(prog: str, *further: type) -> SettingsParser:
    mappings = [*TrainingArguments._VALID_DICT_FIELDS, "target_prior"]
    return SettingsParser([*Arguments.__annotations__.values(), *further], mappings, _of_another_verb, prog=prog)


def _of_another_verb(name: str) -> str:
    from .distillation import DistillationArguments  # only then: it builds on this file

    own = {setting.name for setting in dataclasses.fields(DistillationArguments)}
    return ": it is one of hf-rnn distill (hf_rnn.distill), which takes all others too" if name in own else ""


def _parse(parser: SettingsParser, recipe: str, tokens: list[str], cleared: Iterable[str] = ()) -> tuple[Any, ...]:
    named = {"--" + token.split("=")[0].lstrip("-").replace("-", "_") for token in tokens if token.startswith("--")}
    rivals = {rival for flag, names in _RIVALS.items() if flag in named for rival in names}
    settings = {name: given for name, given in read_settings(recipe).items() if name not in {*cleared, *rivals}}
    if "--vectors" in named or "vectors" in settings:
        settings.pop("embedding_size", None)  # a recipe's own goes with random vectors
    if "--tokenizer_name_or_path" in named:
        settings.pop("widen_vocabulary", None)  # a recipe's own goes with a vocabulary of the texts' words
    of_recipe = parser.tokens(settings)
    start = _find_start([*of_recipe, *tokens])
    if start is None:
        return parser.parse([*of_recipe, *tokens])
    config = read_config(start)
    settings = {name: given for name, given in settings.items() if name not in _YIELDING}
    settings |= {name: Setting(getattr(config, name), start) for name in _OF_MODEL}
    parsed = parser.parse([*parser.tokens(settings), *tokens])
    check_architecture(start, config, parsed[0])
    return parsed


def _find_start(tokens: Sequence[str]) -> str | None:
    """The model to go on from, if the tokens name one."""
    chooser = SettingsParser(add_help=False)
    chooser.add_argument("--model_name_or_path", "--model-name-or-path")
    return chooser.parse_known_args(list(tokens))[0].model_name_or_path


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
        "teacher_cache",
        "use_cpu",
    }
)


def describe_settings(arguments: Arguments, further: Any = None) -> dict[str, Any]:
    """Return the settings of a run as a flat mapping that is itself a recipe, without secrets or the machine's paths.

    All settings of model and data are in it, and those of training that a recipe sets or that differ from their
    default. A path is reduced to its last part.

    Args:
        arguments: What was trained with.
        further: Dataclass of settings beside these; all that are set are told.
    """
    described: dict[str, Any] = {"recipe": None}  # complete in itself: it builds on nothing
    for name, value in {**dataclasses.asdict(arguments.model), **dataclasses.asdict(arguments.data)}.items():
        described[name] = _without_path(value)
    values, usual = arguments.training.to_dict(), load_recipe(DEFAULT_RECIPE)
    for known in fields(arguments.training):
        name, value = known.name, values.get(known.name)
        if name in _NOT_RECORDED or name.startswith("hub_") or name.endswith("_token") or value in (None, [], {}):
            continue
        unset = getattr(known.default, "value", known.default)
        if name in usual or not (value == unset or (value is False and unset is None)):
            described[name] = _without_path(value)
    own = {} if further is None else dataclasses.asdict(further)
    return described | {
        name: _without_path(value) for name, value in own.items() if value is not None and name not in _NOT_RECORDED
    }


def _without_path(value: Any) -> Any:
    if isinstance(value, str | os.PathLike) and (os.path.isabs(value) or os.path.exists(value)):
        return Path(value).name
    return value
