"""Settings of every run: each declared once, and built from flags, recipes and keywords.

Every source becomes a dictionary of typed values; the dictionaries are merged and the dataclasses built once, by one
merge: defaults < recipe < architecture of a given model < flags or keywords. A flag and a value of a recipe are
converted by the same type, that of the dataclass field. Nothing heavy is imported here: a help or a misspelt flag is
answered at once.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import datetime
import difflib
import json
import logging
import os
import re
import textwrap
from argparse import SUPPRESS, Action, ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from ..hub.model_folder import check_name, find_built_in, read_mapping
from ..models.settings_rnn import RnnSettings, check_range, setting
from ..tasks import DEFAULT_TASK, get_task
from ..utils.errors import UserError, reason_of
from .recipes import Setting, load_recipe, read_layers, scratch_recipe

if TYPE_CHECKING:
    from ..tasks import Task
    from .training_arguments import RnnTrainingArguments

logger = logging.getLogger(__name__)


# Names that people know from other programs.
_OTHER_NAMES = {
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "group_by_length": "train_sampling_strategy",
    "lr": "learning_rate",
    "m": "model",
    "model_name": "model_name_or_path",
    "no_cuda": "use_cpu",
    "num_epochs": "num_train_epochs",
}
_NUMBERS = {"int": "expected a whole number", "float": "expected a number"}
_METAVARS = {int: "N", float: "X"}
_WIDTH, _INDENT = 80, 28  # columns of the help, and those left of the meanings
_FEW_FLAGS = 18  # up to this number, the short help shows all
_FEW_CHOICES = 8  # longer lists are in messages only
_WORDS = dict.fromkeys(("true", "yes", "t", "y", "1"), True) | dict.fromkeys(("false", "no", "f", "n", "0"), False)


def expand_home(arguments: Any, *names: str) -> None:
    """Replace `~` by the home folder in paths; no shell expands `--model=~/out`."""
    for name in names:
        if isinstance(path := getattr(arguments, name), str | os.PathLike):
            setattr(arguments, name, os.path.expanduser(path))


class SettingsParser(argparse.ArgumentParser):
    """A parser of the fields of dataclasses, which separates reading flags from building the dataclasses.

    `--help` shows the required and common flags, `--help_all` all of them, both with `defaults` in place of those of
    the fields: a function of the given flags. `elsewhere` has advice for settings that belong to another command.
    The helps leave out those that are `unused` in this one. `example` is a command line without the name of the verb.
    """

    def __init__(
        self,
        kinds: type | Sequence[type],
        elsewhere: Mapping[str, str] | None = None,
        defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        example: str = "",
        unused: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"allow_abbrev": False, "add_help": False} | kwargs)
        self._kinds = [kinds] if isinstance(kinds, type) else list(kinds)
        self._about: dict[str, Mapping[str, Any]] = {}  # metadata by setting
        self._titles: dict[str, str] = {}
        self._flags: dict[str, Action] = {}
        self._elsewhere = elsewhere or {}
        self._find_defaults = defaults
        self._example, self.unused = f"{self.prog} {example}", unused
        for kind in self._kinds:
            hints = get_type_hints(kind)
            for known in fields(kind):
                default = None if known.default is MISSING else known.default
                self._add(known.name, hints[known.name], default, known.metadata)
                self._titles[known.name] = getattr(kind, "_argument_group_name", "flags")
        for names in (("-h", "--help"), ("--help_all",)):
            self.add_argument(*names, action="store_true", help=SUPPRESS)

    def _add(self, name: str, hint: Any, default: Any, about: Mapping[str, Any]) -> None:
        """Add the flag of a field."""
        kind = _plain_type(hint)
        options: dict[str, Any] = {"dest": name, "default": default, "help": about.get("help") or ""}
        if get_origin(kind) is list:
            options |= {"type": get_args(kind)[0]} | ({"action": "append"} if about.get("word") else {"nargs": "+"})
        elif kind is bool:
            options |= {"nargs": "?", "const": True, "type": _read_bool}
        elif choices := about.get("choices") or (get_args(kind) if get_origin(kind) is Literal else None):
            options |= {"type": _Choice(choices)}
        else:
            options |= {"type": kind}
        self._about[name] = about
        self._flags[name] = self.add_argument(*_spell(name), **options)
        if kind is bool and default is True:
            self.add_argument(*_spell(f"no_{name}"), dest=name, action="store_false", help=SUPPRESS)

    def _required(self) -> dict[str, Any]:
        """Return the required settings by name, in the order of their declaration."""
        return {name: about["required"] for name, about in self._about.items() if about.get("required")}

    def _missing(self, values: Mapping[str, Any]) -> list[str]:
        """Return the required settings without a value, or that of their substitute."""
        given = {name for name, value in values.items() if value is not None}
        return [name for name, other in self._required().items() if not {name, other} & given]

    def check_required(self, values: Mapping[str, Any]) -> None:
        """Raise a [`UserError`] with all required settings that are missing."""
        if missing := self._missing(values):
            named = " and ".join(f"--{name}" for name in missing)
            verb = "is" if len(missing) == 1 else "are"
            raise UserError(f"{named} {verb} missing: type {self._usage(values)}, such as: {self._example}")

    def _usage(self, values: Mapping[str, Any] | None = None) -> str:
        words = [str((values or {}).get(name) or name.upper()) for name in self._required()]
        words += [f"[{name.upper()}]" for name, about in self._about.items() if about.get("word") and values is None]
        return " ".join([self.prog, *words, *["[flags]"] * (values is None)])

    @property
    def names(self) -> set[str]:
        """The names of all settings."""
        return set(self._flags)

    def error(self, message: str) -> NoReturn:
        """Raise a [`UserError`] in place of printing 150 flags."""
        message = re.sub(r"^argument (--\w+)\S*: ", r"\1: ", message)  # one spelling suffices
        message = re.sub(r"invalid (int|float) value: ", lambda kind: f"{_NUMBERS[kind[1]]}: found ", message)
        bare = re.fullmatch(r"(--\w+): expected one argument", message)
        raise UserError(f"{message}; write {bare[1]}=-... for a value with a dash" if bare else message)

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Build the dataclasses from flags alone."""
        flags = self.parse_flags(argv)
        self.check_required(flags)
        return self.build(flags)

    def parse_flags(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values of the flags that are given; print the help and raise `SystemExit` for `--help`.

        A word without a flag is the value of the next required setting, then of those with `word`. Raises a
        [`UserError`] for an unknown flag or an invalid value.
        """
        # argparse sets no default for an attribute that exists
        namespace, rest = self.parse_known_args(list(argv), Namespace(**dict.fromkeys(self.names)))
        values = vars(namespace)
        for name, whole in (("help_all", True), ("help", False)):
            if values.pop(name):
                self._print_help(values, whole)
        values = {name: value for name, value in values.items() if name != "json_output" and value is not None}
        if unknown := [token for token in rest if token.startswith("-")]:
            advice = self._advise(unknown[0].lstrip("-").split("=")[0], "--") or ". --help_all lists all"
            raise UserError(f"unknown option {unknown[0]!r}{advice}")
        for token in rest:
            self._place(token, values)
        return values

    def _place(self, token: str, values: dict[str, Any]) -> None:
        """Take a word without a flag as the value of a setting."""
        words = [name for name, about in self._about.items() if about.get("word")]
        several = [name for name in words if isinstance(self._flags[name], argparse._AppendAction)]
        free = [*self._missing(values), *(name for name in words if name not in values), *several]
        if not free:
            raise UserError(f"{token!r} belongs to no option: put a value of several words into quotes")
        value = self._convert(self._flags[free[0]], token)
        values[free[0]] = [*values.get(free[0], []), *value] if free[0] in several else value

    def _print_help(self, values: Mapping[str, Any], whole: bool) -> NoReturn:
        """Print the help with the defaults in force."""
        given = {name: value for name, value in values.items() if value is not None}
        for name, default in (self._find_defaults(given) if self._find_defaults else {}).items():
            if name in self._flags:
                self._flags[name].default = default
        print(self._format(whole))  # noqa: T201 - the purpose
        raise SystemExit(0)

    def _format(self, whole: bool) -> str:
        """Return the help with the flags of the screen, or the whole one."""
        groups: dict[str, list[Action]] = {"required": [self._flags[name] for name in self._required()]}
        for name, action in self._flags.items():
            if name not in (*self._required(), *self.unused) and not self._about[name].get("hidden"):
                groups.setdefault(self._titles[name], []).append(action)
        count = sum(map(len, groups.values()))
        if not whole and count > _FEW_FLAGS:
            shown = ("common", "required", "word")
            common = [action for action in self._flags.values() if any(map(self._about[action.dest].get, shown))]
            common = [act for act in common if act not in groups["required"] and act.dest not in self.unused]
            groups = {"required": groups["required"], "common flags": common}
        left = count - sum(map(len, groups.values()))
        blocks = [
            f"usage: {self._usage()}",
            textwrap.fill(self.description or "", _WIDTH),
            f"example: {self._example}",
        ]
        for title, actions in groups.items():
            if actions:
                blocks.append("\n".join([f"{title}:", *(self._describe(action, whole) for action in actions)]))
        parts = [*blocks, self.epilog if whole or not left else f"--help_all lists {left} more flags."]
        return "\n\n".join(part.strip("\n") for part in parts if part)

    def _describe(self, action: Action, whole: bool) -> str:
        """Return the lines of a flag in the help."""
        value = "" if action.nargs == "?" else f" {_METAVARS.get(action.type, 'TEXT')}"  # type: ignore[call-overload]
        name = action.option_strings[0].replace("--", "--[no_]" if action.default is True else "--")
        head = f"  {name}{value}{' ...' if action.nargs == '+' else ''}"
        text = " ".join((action.help or "").replace("%%", "%").split())
        text = text if whole else re.sub(r"; .*?(?= \(default|$)", "", text)
        choices = list(map(str, getattr(action.type, "choices", ())))
        if len(choices) <= _FEW_CHOICES and not all(choice in text for choice in choices):
            text += f": {', '.join(choices)}"
        default = getattr(action.default, "value", action.default)
        if not (default is None or default is False or default == "" or "(default" in text):
            text += f" (default: {default})"
        indent = " " * _INDENT
        lines = textwrap.wrap(text, _WIDTH - _INDENT, break_on_hyphens=False)
        first = [head] if len(head) > _INDENT - 2 or not lines else [f"{head:<{_INDENT}}{lines.pop(0)}"]
        return "\n".join([*first, *(indent + line for line in lines)])

    def convert(self, settings: Mapping[str, Setting]) -> dict[str, Any]:
        """Return the values of a recipe or of keywords as flags would give them.

        Raises a [`UserError`], which starts with the origin, for an unknown setting or an invalid value.
        """
        converted = {}
        for name, given in settings.items():
            if name not in self._flags:
                raise UserError(f"{given.origin}: there is no setting {name!r}{self._advise(name)}")
            try:
                is_mapping = isinstance(given.value, dict) and self._about[name].get("mapping")
                converted[name] = given.value if is_mapping else self._convert(self._flags[name], given.value)
            except UserError as error:
                raise UserError(f"{given.origin}: {name}: {error}") from error
        return converted

    def _convert(self, action: Action, value: Any) -> Any:
        """Convert a value by the type of its flag."""
        value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's
        value = getattr(value, "value", value)  # an enumeration's
        if action.nargs == "+" or isinstance(action, argparse._AppendAction):
            items = value if isinstance(value, list | tuple) else [value]
            return [_convert_one(action, item) for item in items]
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]  # such as optim: [sgd]
        return _convert_one(action, value)

    def build(self, settings: Mapping[str, Any], *kinds: type) -> tuple[Any, ...]:
        """Return the dataclasses with these values, by default those of the parser.

        Raises a [`UserError`] for a value that one refuses.
        """
        try:
            built = []
            for kind in kinds or self._kinds:
                names = {field.name for field in fields(kind)}
                for name in names & settings.keys():
                    check_range(name, settings[name], self._about[name])
                built.append(kind(**{name: value for name, value in settings.items() if name in names}))
            return tuple(built)
        except UserError:
            raise
        except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
            found = f": found {error.doc!r:.80}" if isinstance(error, json.JSONDecodeError) else ""
            raise UserError(f"{reason_of(error)}{found}") from error

    def _advise(self, name: str, dashes: str = "") -> str:
        """Return where an unknown setting belongs, or the nearest names."""
        name = name.replace("-", "_")
        parts = [other for other in self._flags if other.endswith(f"_{name}")]  # such as dropout
        near = parts if len(parts) > 1 else difflib.get_close_matches(name, self._flags, n=1)
        if (usual := _OTHER_NAMES.get(name, "")) in self._flags:
            near = [usual]
        if not dashes and name.removeprefix("no_") in self._flags:  # as the command line spells it
            return f". Write {name.removeprefix('no_')}=False"
        advice = [f"{dashes}{other}" for other in near]
        return self._elsewhere.get(name) or (f". Did you mean {_either(advice)}?" if advice else "")


def _plain_type(hint: Any) -> Any:
    """Return the type of the values of a field: the first one of alternatives such as `float | int | None`."""
    is_union = get_origin(hint) not in (None, list, Literal)
    return next(kind for kind in get_args(hint) if kind is not type(None)) if is_union else hint


def _spell(name: str) -> list[str]:
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _convert_one(action: Action, value: Any) -> Any:
    if not isinstance(value, str | int | float | os.PathLike):
        raise UserError(f"expected one value: found {' '.join(repr(value).split()):.80}")
    kind: Any = action.type or str
    try:
        return kind(str(value))
    except ArgumentTypeError as error:
        raise UserError(str(error)) from None
    except ValueError:
        raise UserError(f"{_NUMBERS.get(kind.__name__, 'invalid value')}: found {value!r}") from None


def _read_bool(text: str) -> bool:
    """Return the truth of a word."""
    if text.casefold() not in _WORDS:
        raise ArgumentTypeError(f"expected true/false or yes/no: found {text!r}")
    return _WORDS[text.casefold()]


class _Choice:
    """Read one of some choices, in any case; they are a list, or a function for a list that grows or is heavy."""

    def __init__(self, choices: Any) -> None:
        self._choices = choices

    @property
    def choices(self) -> list[Any]:
        """The choices that a help can show."""
        return [] if callable(self._choices) else list(self._choices)

    def __call__(self, text: str) -> Any:
        choices = self._choices() if callable(self._choices) else self._choices
        by_name = {str(choice).casefold(): choice for choice in choices}
        if (wanted := text.casefold()) in by_name:
            return by_name[wanted]
        near = [str(choice) for name, choice in by_name.items() if wanted in name][:3]
        near = near or difflib.get_close_matches(wanted, by_name, n=1)
        expected = f"expected one of {', '.join(map(str, by_name.values()))}: " if len(by_name) <= _FEW_CHOICES else ""
        raise ArgumentTypeError(f"{expected}found {text!r}{f'. Did you mean {_either(near)}?' if near else ''}")


@dataclass
class TableArguments:
    """The source of labelled texts and its columns. The help of each field describes it."""

    _argument_group_name = "data"

    data_dir: str | None = setting(
        None,
        "folder with train.tsv, dev.tsv, test.tsv (train suffices), or one file; tables may be .tsv, .csv, .jsonl, "
        ".parquet, .arrow or .xlsx, also .gz or .zst; or a folder with a folder or text file per label",
        required="dataset_name",
        replaces=("dataset_name", "dataset_config"),
    )
    dataset_name: str | None = setting(
        None,
        "instead of data_dir, a data set of the Hub; any data set of the datasets library, by name or local path",
        common=True,
        replaces=("data_dir",),
    )
    dataset_config: str | None = setting(None, "configuration of dataset_name, if it has several")
    text_column: str | None = setting(
        None,
        "column of the text, by name or by number from 0 (default: text or a similar name, or 0 without names); dots "
        "lead into nested records",
        common=True,
    )
    label_column: str | None = setting(
        None, "column of the label (default: label or a similar name, or 1 without names)", common=True
    )
    label_columns: list[str] | None = setting(
        None,
        "several columns, as text_column: of 0 and 1 for each label of multi-label, of numbers for regression",
    )
    label_separator: str = setting(",", "separates the labels of a text in label_column, for multi-label")
    text_pair_column: str | None = setting(None, "column of a second text, as text_column: both make one example")
    separator: str | None = setting(
        None, "comma, semicolon, bar or tab between the columns of a file (default: the one that fits the first lines)"
    )
    encoding: str | None = setting(
        None, "encoding of text files, such as cp1252 (default: UTF-8, UTF-16 with a mark, in tables also cp1252)"
    )
    max_bad_rows: str = setting("0", "number of bad rows to skip before an error: a count, or a share such as 0.1%%")

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
        """Return the keywords of [`load_tsv`] for columns and bad rows."""
        names = ("text_column", "label_column", "text_pair_column")
        columns: dict[str, Any] = {name: _parse_column(getattr(self, name)) for name in names}
        columns["label_columns"] = [_parse_column(name) for name in self.label_columns or ()]
        same = {name: getattr(self, name) for name in ("separator", "encoding", "max_bad_rows")}
        return {**columns, **same}


def _parse_column(name: str | None) -> int | str | None:
    return int(name) if name is not None and str(name).isdecimal() else name


@dataclass
class DataArguments(TableArguments):
    """Labelled texts and how they become tokens. The help of each field describes it."""

    task: str = setting(
        "sequence-classification",
        "sequence-classification, multi-label, regression, token-classification or causal-lm",
        common=True,
    )
    class_names: list[str] | None = setting(None, "names of the classes by id (default: the labels of train, sorted)")
    streaming: bool = setting(
        False,
        "read the TSV files in each epoch and keep them out of memory; texts are shuffled in a buffer, or stay in "
        "order with --train_sampling_strategy sequential",
    )
    fail_on_leak: str | None = setting(
        None, "do not train if more than this share of a split repeats rows of train, such as 1%% or 0.01"
    )
    tokenizer: str = setting(
        "word",
        "type of tokens: word, char or bpe; the last two for languages written without spaces",
        common=True,
        start="vocabulary",
        card=True,
    )
    normalizer: str = setting(
        "none",
        "normalization of a text before it is split: none, semeval, tweet or cased",
        start="vocabulary",
        card=True,
    )
    min_frequency: int = setting(3, "rarer words become the unknown token", start="vocabulary", card=True)
    max_vocab_size: int | None = setting(
        None, "size of the vocabulary with <unk> and <pad>; keeps the frequent words", start="vocabulary", card=True
    )
    lowercase: bool = setting(True, "lower-case the texts", start="vocabulary", card="always")
    max_length: int | None = setting(
        None, "cut longer texts to this number of tokens (default: the tokenizer's limit)", least=1
    )
    tokenizer_name_or_path: str | None = setting(
        None,
        "use this tokenizer (folder or Hub id); settings of the vocabulary then have no effect",
        start="tokens",
        replaces=("widen_vocabulary",),
    )
    model_name_or_path: str | None = setting(
        None,
        "model to start from: english, a folder or a Hub id; the run takes its architecture, tokenizer and "
        "weights, and its last layer if task and classes are the same",
        common=True,
        replaces=("tokenizer_name_or_path", "vectors", "vector_components", "widen_vocabulary"),
    )
    vectors: str | None = setting(
        None,
        "file of word vectors: GloVe, fastText, word2vec; or a transformers model, as a folder or Hub id",
        common=True,
        start="tokens",
        replaces=("embedding_size",),
    )
    vector_components: int | None = setting(
        None,
        "keep this number of principal components of vectors, scaled to a mean square of 1",
        start="tokens",
        least=1,
    )
    widen_vocabulary: int | None = setting(
        None,
        "add this number of the first words of vectors to the vocabulary, beyond max_vocab_size",
        start="tokens",
        least=1,
        card=True,
    )

    def __post_init__(self) -> None:
        """Check values that need no texts."""
        super().__post_init__()
        expand_home(self, "tokenizer_name_or_path", "model_name_or_path", "vectors")
        self.leak_limit()
        for name in ("tokenizer_name_or_path", "vectors", "vector_components", "widen_vocabulary"):
            if self.model_name_or_path is not None and getattr(self, name) is not None:
                raise UserError(
                    f"model_name_or_path {self.model_name_or_path} has its own words and vectors: leave out {name}"
                )
        if self.vector_components is not None and self.vectors is None:
            raise UserError("vector_components needs word vectors: add --vectors FILE, or leave it out")
        if self.widen_vocabulary is not None and self.text_pair_column is not None:
            raise UserError("widen_vocabulary (recipe best sets it) is for single texts: leave out text_pair_column")
        if self.widen_vocabulary is not None and self.vectors is None:
            raise UserError(
                "widen_vocabulary (recipe best sets it) needs word vectors: add --vectors FILE, such as "
                "glove.6B.100d.txt, or take --recipe scratch"
            )

    def leak_limit(self) -> float | None:
        """Return `fail_on_leak` as a number from 0 to 1, or None without a limit.

        Raises a [`UserError`] for an invalid share. A bare 1 is refused, as it can mean one row or 1 %.
        """
        if self.fail_on_leak is None:
            return None
        written = str(self.fail_on_leak).strip()
        try:
            share = float(written.removesuffix("%")) / (100 if written.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1 or written == "1":
            raise UserError(f"fail_on_leak is {written}: give a share of the rows such as 1% or 0.01")
        return share


@dataclass
class DistillationArguments:
    """A teacher and its use; see [`hf_rnn.training.distillation`]. The help of each field describes it.

    The teacher's code is never run, and its weights are read from safetensors only. With the setting `bf16` it
    computes in bfloat16, as the student does.
    """

    _argument_group_name = "distillation"

    teacher: str | None = setting(
        None, "teacher: a sequence classifier of transformers, as a folder or Hub id", required=True
    )
    teacher_labels: list[str] | None = setting(
        None, "names of the teacher's classes in the order of its ids, if its own are not those of the data"
    )
    unlabeled: str | None = setting(
        None, "texts for the teacher to label: a file with one per line, or a table, plain, .gz or .zst", common=True
    )
    augmentations: int = setting(1, "modified copies of each training text, for the teacher to label", least=0)
    temperature: float = setting(
        2.0,
        "divides the logits before they are compared; values above 1 soften them, 1 to 5 are customary",
        least=0.01,
        most=100,
    )
    soft_label_weight: float = setting(
        0.9, "weight of the teacher's answers; the true labels have the rest", common=True, least=0, most=1
    )
    teacher_max_length: int | None = setting(None, "tokens per text for the teacher (default: its maximum)", least=1)
    teacher_batch_size: int = setting(32, "texts per batch of the teacher", least=1)
    teacher_cache: str | None = setting(
        None, "folder for the teacher's answers (default: below output_dir)", recorded=False
    )

    def __post_init__(self) -> None:
        """Check values that need no teacher."""
        expand_home(self, "teacher", "unlabeled", "teacher_cache")

    def check(self) -> None:
        """Raise a [`UserError`] unless a teacher is given and the texts exist."""
        if self.teacher is None:
            raise UserError("teacher is not set: give the folder of a sequence classifier, or its id on the Hub")
        if self.unlabeled is not None and not os.path.exists(self.unlabeled):
            raise UserError(f"unlabeled: there is no file {self.unlabeled}: give a file with one text per line")


_TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": float, "list[str]": list[str]}
_HIDDEN = (  # settings of the Trainer that a run cannot follow, or that change nothing
    "activation_checkpointing", "activation_checkpointing_kwargs", "auto_find_batch_size", "batch_eval_metrics",
    "bf16_full_eval", "dataloader_in_order", "dataloader_persistent_workers", "debug", "deepspeed", "do_eval",
    "do_predict", "do_train", "enable_jit_checkpoint", "eval_do_concat_batches", "eval_use_gather_object",
    "fp16_full_eval", "fsdp", "fsdp_config", "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "hub_always_push", "hub_strategy", "include_for_metrics", "label_names", "length_column_name",
    "liger_kernel_config", "local_rank", "log_on_each_node", "neftune_noise_alpha", "optim_target_modules",
    "parallelism_config", "prediction_loss_only", "remove_unused_columns", "resume_from_checkpoint",
    "save_on_each_node", "skip_memory_metrics", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id",
    "use_cache", "use_liger_kernel",
)  # fmt: skip
_SAME_STEPS = (  # beginnings of names: where a run happens, what it reports, how it loads
    "dataloader_", "ddp_", "disable_tqdm", "do_", "enable_jit_checkpoint", "gradient_checkpointing", "hub_",
    "include_for_metrics", "length_column_name", "local_rank", "log_", "project", "report_to",
    "resume_from_checkpoint", "run_name", "save_on_each_node", "save_total_limit", "skip_memory_metrics", "trackio_",
)  # fmt: skip
_NOT_RECORDED = (  # beginnings of names: secrets, places, and what other settings imply
    "dataloader_pin_memory", "disable_tqdm", "do_eval", "gradient_checkpointing", "greater_is_better", "hub_",
    "run_name",
)  # fmt: skip


def _describe(name: str) -> dict[str, Any]:
    """Return what this package knows about a setting of the Trainer, as metadata of a field; see [`setting`]."""
    return {
        "hidden": name in _HIDDEN,
        "steps": not name.startswith(_SAME_STEPS) or name == "dataloader_drop_last",
        "recorded": not name.startswith(_NOT_RECORDED),
        "card": name in ("optim", "lr_scheduler_type"),
    }


def _read_fields() -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields of `TrainingArguments` from its source, as an import takes seconds.

    Values of other types than `_TYPES` are texts, which `TrainingArguments` converts.
    """
    package: Any = find_spec("transformers")
    tree = ast.parse(Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8"))
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments")
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
            name, written = ast.unparse(node.target), ast.unparse(node.annotation)
            values = {word.arg: word.value for word in node.value.keywords}
            metadata = {**(_literal(values.get("metadata")) or {}), **_describe(name), "mapping": "dict" in written}
            about = field(default=_literal(values.get("default")), metadata=metadata)
            yield name, _TYPES.get(written.removesuffix(" | None"), str), about


def _literal(node: ast.expr | None) -> Any:
    with contextlib.suppress(ValueError):  # not a literal
        return None if node is None else ast.literal_eval(node)


@dataclass
class OwnSettings:
    """Settings of recurrent models, and settings of the Trainer with another default, help or meaning."""

    _argument_group_name = "training"

    output_dir: str | None = setting(
        None,
        "folder for the finished model (default: a name from the data and the date)",
        word=True,
        steps=False,
        recorded=False,
    )
    num_train_epochs: float = setting(
        3.0, "passes over the training texts", common=True, above=0, replaces=("row_budget", "row_floor"), card=True
    )
    learning_rate: float = setting(5e-5, "size of a training step", common=True, least=0, card=True)
    per_device_train_batch_size: int = setting(8, "texts per batch, on each device", common=True, above=0, card=True)
    per_device_eval_batch_size: int = setting(8, "texts per batch of an evaluation, on each device", above=0)
    gradient_accumulation_steps: int = setting(1, "batches per step", above=0, card=True)
    max_steps: int = setting(-1, "number of steps, in place of num_train_epochs; -1 for none", card=True)
    weight_decay: float = setting(0.0, "decay of the weights in each step", least=0, card=True)
    max_grad_norm: float = setting(1.0, "clip gradients to this norm; 0 does not clip", least=0, card=True)
    warmup_steps: float = setting(0, "steps until the full learning rate; below 1 a share of all", least=0, card=True)
    label_smoothing_factor: float = setting(
        0.0, "share of each label that goes to all classes", least=0, most=1, card=True
    )
    seed: int = setting(42, "seed of weights and order of texts", common=True, least=0, card="always")
    bf16: bool = setting(False, "train in bfloat16, on processors that have it", card=True)
    use_cpu: bool = setting(False, "train on the CPU only", common=True, steps=False, recorded=False)
    metric_for_best_model: str | None = setting(
        None, "score that chooses the best epoch", common=True, replaces=("greater_is_better",)
    )
    push_to_hub: bool = setting(False, "push the finished model to the Hub", common=True, steps=False)
    hub_model_id: str | None = setting(
        None, "repo for push_to_hub (default: the name of output_dir)", steps=False, recorded=False
    )
    train_sampling_strategy: str = setting(
        "group_by_length",
        "order of the examples: shuffled batches of similar length, the Trainer's own random or sequential order, or "
        "from the shortest to the longest text in every epoch, as in the source tutorial",
        choices=["group_by_length", "random", "sequential"],
        card=True,
    )
    tokens_per_pass: int | None = setting(
        None,
        "most tokens, with padding, that are computed at once: larger batches of long texts are computed in parts, "
        "with the same gradient in less memory; a longer text is a part of its own",
        above=0,
    )
    row_budget: int | None = setting(
        None,
        "lower num_train_epochs, to at least 2, so that all epochs together read at most this number of rows, "
        "where a row is 500 characters or one text; a given num_train_epochs turns it off",
        above=0,
    )
    row_floor: int = setting(
        0,
        "raise num_train_epochs, to at most 20, so that all epochs together read at least this number of rows; "
        "a given num_train_epochs turns it off",
        least=0,
    )
    few_rows: int = setting(
        0,
        "fit only the last layer, by logistic regression on the frozen encoder to start from, where the mean number "
        "of rows per class is at most this; 0 never",
        least=0,
    )
    block_size: int = setting(256, "tokens of a block of continuous text, for causal-lm", least=2)
    max_minutes: float | None = setting(
        None,
        "train about this long: the number of epochs follows from the time of the first batches; replaces "
        "num_train_epochs",
        above=0,
        common=True,
        replaces=("num_train_epochs", "row_budget", "row_floor"),
    )
    data_seed: int | None = setting(None, "seed of the order of the examples (default: seed)", least=0)
    restore_callback_states_from_checkpoint: bool = setting(
        True, "restore the state of callbacks when resuming, such as the count of early stopping"
    )
    class_weight_power: float = setting(
        0.0,
        "weight of classes in the loss, as a power of their inverse frequency: 0 equal rows, 1 equal classes",
        least=0,
        card=True,
    )
    embedding_learning_rate: float | None = setting(
        None, "learning rate of the embedding, with the same schedule (default: learning_rate)", least=0, card=True
    )
    head_learning_rate: float | None = setting(
        None,
        "learning rate of all weights behind the encoder, with the same schedule; learning_rate if it is not set",
        least=0,
        card=True,
    )
    calibrate: bool = setting(
        False, "fit the scores to the validation rows, so that they are probabilities", steps=False
    )
    early_stopping_patience: int | None = setting(
        None, "stop after this number of evaluations without a better score; 0 never", least=0, card=True
    )
    include_num_input_tokens_seen: str = setting(
        "no", "count the tokens read in training", choices=["all", "non_padding", "no"]
    )
    overwrite_output_dir: bool = setting(
        False, "replace an earlier run in output_dir", common=True, steps=False, recorded=False
    )
    ddp_find_unused_parameters: bool | None = setting(
        False, "look for unused parameters; these models use all", steps=False
    )
    resume: bool = setting(
        False, "resume from the newest checkpoint in output_dir", common=True, steps=False, recorded=False
    )
    resume_anyway: bool = setting(
        False, "like --resume, though data, tokenizer, model or settings have changed", steps=False, recorded=False
    )
    keep_checkpoints: bool = setting(False, "keep the checkpoints of a finished run", steps=False, recorded=False)
    recipe: str | None = setting(
        None,
        "settings to start from: default, scratch, best, fast ...; or a YAML file",
        common=True,
        steps=False,
        recorded=False,
    )
    license: str | None = setting(None, "the model's licence for its card, such as apache-2.0", steps=False)
    report_to: list[str] | None = setting(
        None, "programs that log the run: tensorboard wandb ... (default: none)", steps=False
    )
    language: list[str] | None = setting(None, "languages of the texts for the card, such as en de", steps=False)
    tags: list[str] | None = setting(None, "further tags for the card", steps=False)
    card_examples: bool = setting(False, "show two training texts of each label in the card and the demo", steps=False)
    baselines: bool = setting(True, "fit TF-IDF and logistic regression to the same rows, for the card", steps=False)


TrainerSettings: Any = make_dataclass(
    "TrainerSettings",
    [known for known in _read_fields() if known[0] not in OwnSettings.__dataclass_fields__],
    namespace={"_argument_group_name": "transformers' Trainer"},
)
# Facts about each setting of the training by name; see `setting`.
ABOUT: dict[str, Mapping[str, Any]] = {
    known.name: known.metadata for kind in (OwnSettings, TrainerSettings) for known in fields(kind)
}


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
    training: RnnTrainingArguments


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
    from ..models.configuration_rnn import RnnConfig

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
        from ..hub.loading import find_folder, load_without_weights
        from ..hub.model_folder import FinishedFolder
        from ..models.auto import head_name

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
    check_parts(parsed[0])
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


def check_parts(model: ModelArguments) -> None:
    """Raise a [`UserError`] for an unknown cell or pooling, before texts are read."""
    from ..models.cells_rnn import find_cell
    from ..models.pooling_rnn import find_pooler

    try:
        find_cell(model), find_pooler(model)
    except ValueError as error:
        raise UserError(str(error)) from error


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


def _or_scratch(task: Task) -> str:
    return f", or start from nothing with recipe {scratch_recipe(task.recipe)}"


def find_unused(
    given: set[str], model: ModelArguments, data: DataArguments, training: RnnTrainingArguments
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


PRETRAINING_RECIPE = "pretrain"
_UNUSED = (  # settings of labelled texts and of heads for them
    "pooling", "classifier_activation", "pair_encoding", "crf", "word_forms",
    "label_smoothing_factor", "class_weight_power", "head_learning_rate", "calibrate", "few_rows", "card_examples",
    "baselines",
)  # fmt: skip


@dataclass
class PretrainingArguments:
    """A teacher, and texts without labels; see [`hf_rnn.pretrain`]."""

    _argument_group_name = "pretraining"

    teacher: str | None = setting(
        None,
        "encoder to learn from: a folder of sentence-transformers, or any encoder of transformers; a Hub id too",
        required=True,
    )
    input: list[str] | None = setting(
        None, "files with one text per line, or tables, plain, .gz or .zst", required=True
    )
    text_column: str | None = setting(None, "column of the texts in tables (default: found by its name)")
    split_characters: int | None = setting(
        None,
        "cut texts between sentences into parts of at most this number of characters (default: texts stay whole)",
        least=1,
    )
    max_texts: int | None = setting(None, "stop reading after this number of distinct texts", common=True, least=20)
    held_out: int = setting(2000, "texts that are measured instead of learned, at most a tenth of all", least=2)
    max_vocab_size: int | None = setting(
        None,
        "pieces of the teacher's vocabulary to keep, those that the texts use most; all characters that they use "
        "stay (default: all pieces that occur)",
        common=True,
        least=100,
    )
    teacher_max_length: int | None = setting(None, "tokens per text for the teacher (default: its maximum)", least=1)
    model_max_length: int = setting(4096, "tokens per text of the student", least=1)
    teacher_cache: str | None = setting(
        None, "folder for the teacher's states (default: below output_dir)", recorded=False
    )
    weights_dtype: str = setting("float32", "dtype of the saved weights", choices=["float32", "bfloat16"])

    def __post_init__(self) -> None:
        """Expand the home folder in paths."""
        expand_home(self, "teacher", "teacher_cache")
        if self.input is not None:
            self.input = [os.path.expanduser(path) for path in self.input]

    def check(self) -> None:
        """Raise a [`UserError`] for a run without a teacher or texts."""
        if self.teacher is None:
            raise UserError("teacher is not set: give the folder or Hub id of an encoder")
        if not self.input:
            raise UserError("input is not set: give files with one text per line")


def make_pretraining_parser(prog: str, **options: Any) -> SettingsParser:
    """Return the parser of `hf-rnn pretrain`."""
    kinds = [PretrainingArguments, ModelArguments, *TRAINING]
    parser = SettingsParser(kinds, defaults=_find_defaults, prog=prog, unused=_UNUSED, **options)
    parser.add_argument("--json", dest="json_output", action="store_true", help=JSON_HELP)
    return parser


def _find_defaults(flags: Mapping[str, Any]) -> dict[str, Any]:
    recipe = flags.get("recipe") or PRETRAINING_RECIPE
    return {**load_recipe(recipe), "recipe": recipe}


def parse_pretraining(settings: Mapping[str, Any], prog: str) -> tuple[Any, ...]:
    """Return the settings of model, pretraining and training from keywords, on top of the recipe `pretrain`.

    Raises a [`UserError`] for a mistake in a setting or a recipe.
    """
    from .training_arguments import RnnTrainingArguments

    parser, recipe = make_pretraining_parser(prog), settings.get("recipe") or PRETRAINING_RECIPE
    named = None if isinstance(recipe, Mapping) else recipe
    given = {name: Setting(value, prog) for name, value in {**settings, "recipe": named}.items()}
    merged = parser.convert(merge_recipe(recipe, given))
    merged = name_output(merged, {"data_dir": (merged.get("input") or [None])[0], **merged})
    return parser.build(merged, ModelArguments, PretrainingArguments, RnnTrainingArguments)
