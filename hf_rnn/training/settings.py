"""Settings of every run: each declared once, and merged once: defaults < recipe < model to start from < flags.

A flag, a keyword and a line of a recipe are converted by the type of the dataclass field. Nothing heavy is imported
before the settings are built: a help, or a misspelt flag, is answered at once.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..hub.model_folder import check_name, find_built_in
from ..models.settings_rnn import RnnSettings, setting
from ..tasks import DEFAULT_TASK, TASKS, get_task
from ..utils.errors import UserError
from . import recipes
from .flags import SettingsParser, expand_home
from .recipes import TOKEN_SETTINGS, VOCABULARY_SETTINGS, Setting, load_recipe, merge_recipe

if TYPE_CHECKING:
    from .training_arguments import RnnTrainingArguments

__all__ = [
    "VOCABULARY_SETTINGS", "Arguments", "DataArguments", "ModelArguments", "SettingsParser", "TableArguments",
    "expand_home", "parse_settings", "setting",
]  # fmt: skip
logger = logging.getLogger(__name__)

ENCODER_SETTINGS = tuple(known.name for known in fields(RnnSettings) if known.metadata.get("start") == "shape")
ARCHITECTURE = tuple(known.name for known in fields(RnnSettings) if known.metadata.get("start"))  # heads included
_INCIDENTAL = (  # beginnings of names in transformers: where a run happens, what it reports, what others imply
    "activation_", "dataloader_", "ddp_", "disable_tqdm", "do_", "enable_jit_checkpoint", "gradient_checkpointing",
    "greater_is_better", "include_", "length_column_name", "local_rank", "log_", "project",
    "run_name", "save_on_each_node", "skip_memory_metrics", "torch_empty_cache_",
)  # fmt: skip


class ModelArguments(RnnSettings):
    """The architecture: the fields of [`RnnConfig`] with their defaults, except those that the tokenizer sets.

    Example:
        >>> ModelArguments(cell_type="gru", hidden_size=64).pooling
        'mean_max'
    """

    _argument_group_name = "model"


@dataclass
class TableArguments:
    """The source of labelled texts and its columns. The help of each field describes it."""

    _argument_group_name = "data"

    data_dir: str | None = setting(
        None,
        "your table (.csv .xlsx .tsv .jsonl .parquet, also .gz), or a folder with train.tsv, dev.tsv and test.tsv "
        "(train suffices), or with a folder per label",
        required="dataset_name",
    )
    text_column: str | None = setting(None, "column of the text, by name or number (default: text, ...)", first=True)
    label_column: str | None = setting(None, "column of the label (default: label, category, ...)", first=True)
    text_pair_column: str | None = setting(None, "column of a second text, which makes pairs")
    label_columns: list[str] | None = setting(None, "columns of 0 and 1 (multi-label) or of numbers (regression)")
    label_separator: str = setting(",", "separates the labels of a text, for multi-label")
    dataset_name: str | None = setting(None, "data set of the datasets library, in place of data_dir", common=True)
    dataset_config: str | None = setting(None, "configuration of dataset_name, if it has several")
    separator: str | None = setting(None, "comma, semicolon, bar or tab between columns (default: found)")
    encoding: str | None = setting(None, "encoding of text files, such as cp1252 (default: found)")
    quoting: str | None = setting(
        None, 'csv: a " encloses fields of a table; none: it is a letter', choices=["csv", "none"]
    )
    max_bad_rows: str = setting(
        "0", "rejected rows to skip before an error: a count, or a share as 0.1%%", common=True
    )

    def __post_init__(self) -> None:
        """Expand `~`, and split names of columns at commas."""
        expand_home(self, "data_dir", "dataset_name")
        if self.label_columns:
            self.label_columns = [name for item in self.label_columns for name in item.split(",") if name]
            if self.label_column is not None:
                raise UserError(f"label_column and label_columns are both set: leave out {self.label_column}")

    def check_source(self) -> None:
        """Raise a [`UserError`] unless exactly one source is given; a folder must exist."""
        folder, name = self.data_dir, self.dataset_name
        if (folder is None) == (name is None):
            raise UserError(f"give either data_dir or dataset_name: found {folder} and {name}")
        if folder is not None and not os.path.exists(folder):
            raise UserError(f"data_dir {folder} does not exist: give the folder or file of your texts")

    def layout(self) -> dict[str, Any]:
        """Return the keywords of [`load_tsv`] for columns and rejected rows."""
        names = ("text_column", "label_column", "text_pair_column")
        columns: dict[str, Any] = {name: _parse_column(getattr(self, name)) for name in names}
        columns["label_columns"] = [_parse_column(name) for name in self.label_columns or ()]
        return columns | {name: getattr(self, name) for name in ("separator", "encoding", "quoting", "max_bad_rows")}


def _parse_column(name: str | None) -> int | str | None:
    return int(name) if name is not None and str(name).isdecimal() else name


@dataclass
class DataArguments(TableArguments):
    """Labelled texts and how they become tokens. The help of each field describes it."""

    task: str = setting(DEFAULT_TASK, f"one of {', '.join(TASKS)}", first=True)
    class_names: list[str] | None = setting(None, "names of the classes by id (default: the labels of train, sorted)")
    fail_on_leak: float | None = setting(
        None, "stop if a larger share of a split repeats rows of train, such as 1%%", least=0, below=1, reads="share"
    )
    tokenizer: str = setting("word", "tokens: word, char or bpe; the last two for languages without spaces", card=True)
    normalizer: str = setting("none", "rewrites a text before it is split: none, semeval, tweet or cased", card=True)
    min_frequency: int = setting(3, "rarer words become the unknown token", card=True)
    max_vocab_size: int | None = setting(None, "size of the vocabulary; keeps the frequent words", card=True)
    lowercase: bool = setting(True, "lower-case the texts", card="always")
    max_length: int | None = setting(None, "cut longer texts to this number of tokens", least=1)
    tokenizer_name_or_path: str | None = setting(None, "use this tokenizer: a folder or Hub id")
    model_name_or_path: str | None = setting(
        None, "model to start from: english, multilingual, a folder or a Hub id", common=True
    )
    vectors: str | None = setting(None, "file of word vectors, or a transformers model", common=True)
    widen_vocabulary: int | None = setting(None, "add this number of the first words of vectors", least=1, card=True)

    def __post_init__(self) -> None:
        """Check values that need no texts."""
        super().__post_init__()
        expand_home(self, "tokenizer_name_or_path", "model_name_or_path", "vectors")
        for name in ("tokenizer_name_or_path", "vectors", "widen_vocabulary"):
            if self.model_name_or_path is not None and getattr(self, name) is not None:
                raise UserError(f"model_name_or_path {self.model_name_or_path} has its own words: leave out {name}")
        if self.widen_vocabulary is not None and (self.vectors is None or self.text_pair_column is not None):
            raise UserError(
                "widen_vocabulary (recipe best sets it) needs single texts and word vectors: add --vectors FILE, "
                "such as glove.6B.100d.txt, or take --recipe scratch"
            )


@dataclass
class OwnSettings:
    """Settings of recurrent models, and those of `TrainingArguments` with another default, help or range."""

    _argument_group_name = "training"

    output_dir: str | None = setting(None, "new folder for the model (default: named after data and date)", word=True)
    recipe: str | None = setting(
        None, "recipe of settings: default, scratch, ...; or a file", first=True, recorded=False
    )
    max_minutes: float | None = setting(None, "train for about this long; the epochs follow", first=True, above=0)
    num_train_epochs: float = setting(3.0, "passes over the training texts", common=True, above=0, card=True)
    learning_rate: float = setting(5e-5, "size of a training step", common=True, least=0, card=True)
    per_device_train_batch_size: int = setting(8, "texts per batch", common=True, above=0, card=True)
    per_device_eval_batch_size: int = setting(8, "texts per batch of an evaluation", above=0)
    max_steps: int = setting(-1, "number of steps, in place of num_train_epochs; -1 for none", card=True)
    weight_decay: float = setting(0.0, "decay of the weights in each step", least=0, card=True)
    max_grad_norm: float = setting(1.0, "clip gradients to this norm; 0 does not clip", least=0, card=True)
    warmup_steps: float = setting(0, "steps until the full learning rate; below 1 a share of all", least=0, card=True)
    embedding_learning_rate: float | None = setting(None, "learning rate of the embedding", least=0, card=True)
    head_learning_rate: float | None = setting(None, "learning rate behind the encoder", least=0, card=True)
    class_weight_power: float = setting(0.0, "0: rows weigh the same, 1: classes do", common=True, least=0, card=True)
    label_smoothing_factor: float = setting(0.0, "share of each label for all classes", least=0, most=1, card=True)
    calibrate: bool = setting(False, "fit scores to the validation rows, as probabilities", common=True, steps=False)
    metric_for_best_model: str | None = setting(None, "score that chooses the best epoch", common=True)
    early_stopping_patience: int | None = setting(
        None, "stop after this number of evaluations without a better score; 0 never", least=0, card=True
    )
    few_rows: int = setting(0, "fit only the last layer to at most this number of rows per class; 0 never", least=0)
    row_budget: int | None = setting(None, "fewer epochs, at least 2, to read at most this number of rows", above=0)
    row_floor: int = setting(0, "more epochs, at most 20, to read at least this number of rows", least=0)
    train_sampling_strategy: Literal["group_by_length", "random", "sequential"] = setting(
        "group_by_length", "order of the examples: similar lengths together, random or sequential", card=True
    )
    block_size: int = setting(256, "tokens of a block of continuous text, for causal-lm", above=1, card=True)
    seed: int = setting(42, "seed of weights and order of texts", common=True, least=0, card="always")
    bf16: bool = setting(False, "train in bfloat16, on processors that have it", card=True)
    use_cpu: bool = setting(False, "train on the CPU only", common=True, recorded=False)
    resume: bool = setting(False, "continue a stopped run from its newest checkpoint", common=True)
    overwrite_output_dir: bool = setting(False, "replace an earlier run there", common=True)
    report_to: list[str] | None = setting(
        None, "programs that log the run: tensorboard, wandb, ...", steps=False, recorded=False
    )
    push_to_hub: bool = setting(False, "push the finished model to the Hub", common=True)
    hub_model_id: str | None = setting(None, "repo for push_to_hub (default: as output_dir)")
    baselines: bool = setting(True, "fit a linear model to the same rows, for the card", steps=False)
    card_examples: bool = setting(False, "show training texts in card and demo", common=True)
    license: str | None = setting(None, "the model's licence for its card, such as apache-2.0", steps=False)
    language: list[str] | None = setting(None, "languages of the texts for the card, such as en de", steps=False)
    tags: list[str] | None = setting(None, "further tags for the card", steps=False)


# Facts about settings of the training; see `setting`.
ABOUT: dict[str, Mapping[str, Any]] = {known.name: known.metadata for known in fields(OwnSettings)}
ABOUT |= {name: {"card": True} for name in ("optim", "lr_scheduler_type", "gradient_accumulation_steps")}


def decides_steps(name: str) -> bool:
    """Return whether a run with another value of a training setting takes other steps."""
    return is_recorded(name) and ABOUT.get(name, {}).get("steps", True)


def is_recorded(name: str) -> bool:
    """Return whether the record of a run has a training setting; it omits secrets, paths and consequences."""
    incidental = not ABOUT[name].get("recorded", True) if name in ABOUT else name.startswith(_INCIDENTAL)
    return not (incidental or recipes.is_personal(name))


class Arguments(NamedTuple):
    """The typed settings of a training run."""

    model: ModelArguments
    data: DataArguments
    training: RnnTrainingArguments


# ---- the merge ----


def make_parser(
    prog: str, *further: type, kinds: Sequence[type] = (DataArguments, ModelArguments), **options: Any
) -> SettingsParser:
    """Return the parser of `hf-rnn train`, or with `further` dataclasses or other `kinds` that of another verb."""
    parser = SettingsParser([*kinds[:1], *further, OwnSettings, *kinds[1:]], prog=prog, trains=True, **options)
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    return parser


def read_flags(parser: SettingsParser, argv: Sequence[str]) -> dict[str, Any]:
    """Return the flags of a run, with a folder for its output, before anything heavy is imported.

    Raises a [`UserError`] for a mistake in flags, paths and names of recipes, and `SystemExit` after a help.
    """
    flags = parser.parse_flags(argv)
    given = load_recipe(flags["recipe"], flags.get("task")) | flags if "recipe" in flags else flags
    parser.check_required(given)
    for name in ("model_name_or_path", "tokenizer_name_or_path", "teacher"):
        if "/" in (path := str(given.get(name, ""))) and find_built_in(path) is None:
            check_name(os.path.expanduser(path), name)
    if not os.path.exists(os.path.expanduser(folder := str(given.get("data_dir", ".")))):
        raise UserError(f"data_dir {folder} does not exist: give the folder or file of your texts")
    return flags | name_output(given)


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


def choose_recipe(given: Mapping[str, Setting]) -> Any:
    """Return the recipe that is given, or the default one of the task.

    The default one starts from an encoder. Settings that contradict it (a cell, a width, tokens) take the recipe that
    starts from nothing, which the log says.
    """
    settings = {name: setting.value for name, setting in given.items() if setting.value is not None}
    recipe = get_task(str(settings.get("task") or DEFAULT_TASK)).recipe
    start = find_built_in(load_recipe(recipe).get("model_name_or_path"))
    if settings.get("recipe") or settings.get("model_name_or_path") or start is None:
        return settings.get("recipe") or recipe
    config = json.loads((start / "config.json").read_bytes())
    shape = {name: config.get(name, getattr(RnnSettings, name)) for name in ENCODER_SETTINGS}
    other = [name for name in shape if str(settings.get(name, shape[name])).casefold() != str(shape[name]).casefold()]
    other += [name for name in TOKEN_SETTINGS if name in settings]
    if not other:
        return recipe
    scratch = recipes.scratch_recipe(recipe)
    if "vectors" in other and scratch == "scratch":
        has_own_tokens = "tokenizer_name_or_path" in settings and not settings.keys() & set(ENCODER_SETTINGS)
        scratch = "blocks" if has_own_tokens else "best"
    message = "recipe %s: the encoder %s would not allow another %s, so this run starts without it"
    logger.info(message, scratch, start.name, " or ".join(other))
    return scratch


def parse_argv(argv: Sequence[str]) -> Arguments:
    """Return the settings of `hf-rnn train` from flags, whose paths are not checked; see [`read_flags`]."""
    return parse_settings(make_parser("hf-rnn train").parse_flags(argv), "hf-rnn train")


def parse_settings(settings: Mapping[str, Any], prog: str = "train") -> Arguments:
    """Return the settings of [`train`] from keywords; see [`parse`]."""
    return Arguments(*parse(settings, prog))


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
    from .training_arguments import RnnTrainingArguments

    parser = make_parser(prog, *further, kinds=kinds)
    parser.declare(RnnTrainingArguments)
    given = {name: Setting(value, prog) for name, value in values.items()}
    chosen = values.get("recipe") or recipe or choose_recipe(given)
    given["recipe"] = Setting(None if isinstance(chosen, Mapping) else chosen, prog)
    merged = merge_recipe(chosen, given, ARCHITECTURE)
    settings = parser.convert(merged)
    output, start = name_output(settings), settings.get("model_name_or_path")
    if start is not None:
        task = get_task(settings.get("task", DEFAULT_TASK))
        config, decided = _read_start(start, task)
        merged = merge_recipe(chosen, given, decided)
        settings = {name: vars(config)[name] for name in ARCHITECTURE} | parser.convert(merged)
        for name in decided:
            if (value := vars(config)[name]) != settings[name]:
                advice = recipes.or_scratch(task) if merged["model_name_or_path"].built_in else ""
                found = f"found {settings[name]} in the settings; leave it out{advice}"
                raise UserError(f"{name} of the model {start} is {value}: {found}")
    parsed = parser.build({**settings, **output}, *kinds, RnnTrainingArguments, *further)
    _check_model(merged, parsed[0])
    mine = {name for name, value in merged.items() if value.source.endswith((".yaml", ".yml")) and not value.built_in}
    for line in _find_unused({*given, *mine} & merged.keys(), settings, parsed[len(kinds)]):  # None is not given
        logger.warning(line)
    return parsed


def _read_start(start: str, task: Any) -> tuple[Any, Collection[str]]:
    """Return the configuration of a model to start from, and the settings that it decides in a run of this task."""
    from ..hub.loading import find_folder, load_without_weights
    from ..hub.model_folder import FinishedFolder
    from ..models.auto import head_name

    config = load_without_weights(start, FinishedFolder(find_folder(start)))[0]
    if head_name(config) != task.architecture:
        return config, ENCODER_SETTINGS
    return config, [name for name in ARCHITECTURE if name != "pair_encoding" or config.sep_token_id is not None]


def _check_model(merged: Mapping[str, Setting], model: ModelArguments) -> None:
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
    """Yield a warning for each reason why given settings have no effect."""
    keeps_last = not training.load_best_model_at_end and not training.early_stopping_patience
    constant = training.lr_scheduler_type.value == "constant"
    has_tokenizer = settings.get("tokenizer_name_or_path") or settings.get("model_name_or_path")
    rules: list[tuple[Any, Collection[str], str]] = [
        (has_tokenizer, VOCABULARY_SETTINGS, "a given tokenizer never changes"),
        (not settings.get("text_pair_column"), ["pair_encoding"], "it is for pairs of texts, with text_pair_column"),
        (keeps_last, ["metric_for_best_model"], "without load_best_model_at_end the last epoch is kept"),
        (constant, ["warmup_steps"], "lr_scheduler_type is constant: use constant_with_warmup or linear"),
        (training.max_steps > 0, ["num_train_epochs"], "max_steps sets the end of the training"),
    ]
    for applies, names, reason in rules:
        if unused := given & set(names) if applies else ():
            yield f"no effect of {', '.join(sorted(unused))}: {reason}"
