"""Build dataclasses of settings from flags, recipes and keywords.

Every source becomes a dictionary of typed values; the dictionaries are merged and the dataclasses built once. A flag
and a value of a recipe are converted by the same type, that of the dataclass field, as `HfArgumentParser` reads it.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import os
import re
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, ArgumentError, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, field
from enum import Enum
from json import JSONDecodeError
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from ...utils.errors import UserError, reason_of
from ..recipes import DEFAULT_RECIPE, Setting, load_recipe

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
_METAVARS = {int: "N", float: "X"}
_FEW_FLAGS = 18  # up to this number, the short help shows all
_FEW_CHOICES = 8  # longer lists are in messages only
_TRAINER = "transformers' Trainer"


def setting(default: Any, meaning: str, **more: Any) -> Any:
    """Declare a field of a dataclass of settings.

    Args:
        default: The value without a recipe and a flag.
        meaning: The text of the help, with `%` written twice. The short help ends at the first semicolon.
        more: Further metadata for `HfArgumentParser`, such as `choices`. `common=True` shows the flag in the short
            help. `required=True` asks for it; a word without a flag is its value. `required="name"` does so unless
            that other setting is given.
    """
    return field(default=default, metadata={"help": meaning, **more})


def expand_home(arguments: Any, *names: str) -> None:
    """Replace `~` by the home folder in paths; no shell expands `--model=~/out`."""
    for name in names:
        if isinstance(path := getattr(arguments, name), str | os.PathLike):
            setattr(arguments, name, os.path.expanduser(path))


class SettingsHelp(ArgumentDefaultsHelpFormatter):
    """Show one spelling of each flag, and defaults other than None and False."""

    def __init__(self, prog: str, short: bool = False) -> None:
        super().__init__(prog, max_help_position=28)
        self._short = short

    def _format_action_invocation(self, action: Action) -> str:
        values = "" if action.nargs in ("?", 0) else f" {_METAVARS.get(action.type, 'TEXT')}"  # type: ignore[call-overload]
        return f"{action.option_strings[0]}{values}{' ...' if action.nargs == '+' else ''}"

    def _get_help_string(self, action: Action) -> str | None:
        text = action.help or ""
        text = re.sub(r"; .*?(?= \(default|$)", "", text) if self._short else text
        if action.choices and len(choices := [str(choice) for choice in action.choices]) <= _FEW_CHOICES:
            text += "" if all(choice in text for choice in choices) else f": {', '.join(choices)}"
        default = getattr(action.default, "value", action.default)
        hidden = default is None or default is False or default in ("", SUPPRESS)
        return text if hidden else f"{text} (default: {str(default).replace('%', '%%')})"


class SettingsParser(HfArgumentParser):
    """An `HfArgumentParser` that separates reading flags from building the dataclasses.

    `--help` shows the required and common flags, `--help_all` all of them. A dataclass with `_not_offered` names
    settings that no help shows. `elsewhere` has advice for settings that belong to another command; the help shows the
    values of `recipe` by default, and `example`, a command line without the name of the verb.
    """

    def __init__(
        self,
        dataclass_types: Any,
        elsewhere: Mapping[str, str] | None = None,
        recipe: str = DEFAULT_RECIPE,
        example: str = "",
        **kwargs: Any,
    ) -> None:
        self._declared: dict[str, Mapping[str, Any]] = {}  # metadata of the fields
        self._titles: dict[str, str] = {}
        super().__init__(dataclass_types, **{"allow_abbrev": False, "add_help": False} | kwargs)
        for names in (("-h", "--help"), ("--help_all",)):
            self.add_argument(*names, action="store_true", help=SUPPRESS)
        self._elsewhere = elsewhere or {}
        self._recipe = recipe
        self._example = f"{self.prog} {example}"
        not_offered = {name for kind in self.dataclass_types for name in getattr(kind, "_not_offered", ())}
        for action in self._actions:
            if action.choices:
                action.type = _read_choice(action)
            if action.option_strings[0] == f"--no_{action.dest}" or action.dest in not_offered:
                action.help = SUPPRESS

    def _add_dataclass_arguments(self, dtype: type) -> None:
        """Add the fields of a dataclass, and note the title above each of them."""
        own = getattr(dtype, "_argument_group_name", "flags")
        for owner in reversed(dtype.__mro__):
            title = _TRAINER if owner.__module__.startswith("transformers.") else own
            self._titles |= dict.fromkeys(inspect.get_annotations(owner), title)
        super()._add_dataclass_arguments(dtype)

    def _parse_dataclass_field(self, parser: Any, field: Field) -> None:
        """Add a field without the metadata that argparse does not know."""
        self._declared[field.name] = field.metadata
        known = copy.copy(field)
        own = ("common", "required")
        known.metadata = {name: value for name, value in field.metadata.items() if name not in own}  # type: ignore[assignment]
        super()._parse_dataclass_field(parser, known)

    def _required(self) -> dict[str, Any]:
        """Return the actions of required settings by name, in the order of their declaration."""
        found = {action.dest: action for action in reversed(self._actions)}
        return {name: found[name] for name, about in self._declared.items() if about.get("required")}

    def _missing(self, values: Mapping[str, Any]) -> list[str]:
        """Return the required settings without a value, or that of their substitute."""
        given = {name for name, value in values.items() if value is not None}
        return [name for name in self._required() if not {name, self._declared[name]["required"]} & given]

    def check_required(self, values: Mapping[str, Any]) -> None:
        """Raise a [`UserError`] with all required settings that are missing."""
        if missing := self._missing(values):
            named = " and ".join(f"--{name}" for name in missing)
            verb = "is" if len(missing) == 1 else "are"
            raise UserError(f"{named} {verb} missing: type {self._usage(values)}, such as: {self._example}")

    def _usage(self, values: Mapping[str, Any] | None = None) -> str:
        words = [str((values or {}).get(name) or name.upper()) for name in self._required()]
        return " ".join([self.prog, *words, *["[flags]"] * (values is None)])

    @property
    def names(self) -> set[str]:
        """The names of all settings."""
        return {action.dest for action in self._actions} - {"help", "help_all", "json_output"}

    def error(self, message: str) -> NoReturn:
        """Raise a [`UserError`] in place of printing 150 flags."""
        message = re.sub(r"^argument (--\w+)\S*: ", r"\1: ", message)  # one spelling suffices
        bare = re.fullmatch(r"(--\w+): expected one argument", message)
        raise UserError(f"{message}; write {bare[1]}=-... for a value with a dash" if bare else message)

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Build the dataclasses from flags alone."""
        flags = self.parse_flags(argv)
        self.check_required(flags)
        return self.build(flags)

    def parse_flags(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values of the flags that are given; print the help and raise `SystemExit` for `--help`.

        Raises a [`UserError`] for an unknown flag or an invalid value.
        """
        # argparse sets no default for an attribute that exists
        namespace, rest = self.parse_known_args(list(argv), Namespace(**dict.fromkeys(self.names)))
        for name, whole in (("help_all", True), ("help", False)):
            if vars(namespace).pop(name):
                self._print_help_with(namespace, whole)
        vars(namespace).pop("json_output", None)
        if unknown := [token for token in rest if token.startswith("-")]:
            advice = self._advise(unknown[0].lstrip("-").split("=")[0], "--") or ". --help_all lists all"
            raise UserError(f"unknown option {unknown[0]!r}{advice}")
        for token in rest:
            if not (free := self._missing(vars(namespace))):
                raise UserError(f"{token!r} belongs to no option: put a value of several words into quotes")
            setattr(namespace, free[0], self._convert(self._required()[free[0]], token))
        return {name: value for name, value in vars(namespace).items() if value is not None}

    def _print_help_with(self, namespace: Namespace, whole: bool) -> NoReturn:
        """Print the help with the values of the recipe as defaults."""
        if "recipe" in self.names:
            recipe = namespace.recipe or self._recipe
            defaults = {**load_recipe(recipe), "recipe": recipe}
            for action in self._actions:
                action.default = defaults.get(action.dest, action.default)
        print(self._format(whole))  # noqa: T201 - the purpose
        raise SystemExit(0)

    def _format(self, whole: bool) -> str:
        """Return the help with the flags of the screen, or the whole one."""
        formatter = SettingsHelp(self.prog, short=not whole)
        groups = self._groups()
        count = sum(map(len, groups.values()))
        if not whole and count > _FEW_FLAGS:
            offered = [action for title, actions in groups.items() if title != "required" for action in actions]
            known = [action for action in offered if self._declared.get(action.dest, {"common": True}).get("common")]
            groups = {"required": groups["required"], "common flags": known}
        for title, actions in groups.items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        shown = sum(map(len, groups.values()))
        end = self.epilog if whole or shown == count else f"--help_all lists {count - shown} more flags."
        parts = [
            f"usage: {self._usage()}",
            self.description,
            f"example: {self._example}",
            formatter.format_help(),
            end,
        ]
        return "\n\n".join(part.strip("\n") for part in parts if part)

    def _groups(self) -> dict[str, list[Action]]:
        """Return the flags that are offered by title: the required ones first, those of transformers last."""
        groups: dict[str, list[Action]] = {"required": list(self._required().values())}
        for title in [*(title for title in self._titles.values() if title != _TRAINER), "flags", _TRAINER]:
            groups.setdefault(title, [])
        for action in self._actions:
            if action.help is not SUPPRESS and action not in groups["required"]:
                groups[self._titles.get(action.dest, "flags")].append(action)
        return {title: actions for title, actions in groups.items() if actions}

    def convert(self, settings: Mapping[str, Setting]) -> dict[str, Any]:
        """Return the values of a recipe or of keywords as flags would give them.

        Raises a [`UserError`], which starts with the origin, for an unknown setting or an invalid value.
        """
        actions = {action.dest: action for action in reversed(self._actions)}
        converted = {}
        for name, given in settings.items():
            if name not in self.names:
                raise UserError(f"{given.origin}: there is no setting {name!r}{self._advise(name)}")
            try:
                is_mapping = isinstance(given.value, dict) and name in TrainingArguments._VALID_DICT_FIELDS
                converted[name] = given.value if is_mapping else self._convert(actions[name], given.value)
            except UserError as error:
                raise UserError(f"{given.origin}: {name}: {error}") from error
        return converted

    def _convert(self, action: Action, value: Any) -> Any:
        """Convert a value by the type of its flag."""
        value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's
        value = value.value if isinstance(value, Enum) else value
        if action.nargs == "+":
            items = value if isinstance(value, list | tuple) else [value]
            return [self._convert_one(action, item) for item in items]
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]  # such as report_to: [none]
        return self._convert_one(action, value)

    def _convert_one(self, action: Action, value: Any) -> Any:
        if not isinstance(value, str | int | float | os.PathLike):
            raise UserError(f"expected one value: found {' '.join(repr(value).split()):.80}")
        try:
            return self._get_value(action, str(value))
        except ArgumentError as error:
            raise UserError(error.message) from None

    def build(self, settings: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the dataclasses with these values; raise a [`UserError`] for a value that one refuses."""
        try:
            return self.parse_dict(dict(settings))
        except UserError:
            raise
        except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
            found = f": found {error.doc!r:.80}" if isinstance(error, JSONDecodeError) else ""
            raise UserError(f"{reason_of(error)}{found}") from error

    def _advise(self, name: str, dashes: str = "") -> str:
        """Return where an unknown setting belongs, or the nearest names."""
        name = name.replace("-", "_")
        known = [*dict.fromkeys(action.dest for action in self._actions if action.dest in self.names)]
        parts = [other for other in known if other.endswith(f"_{name}")]  # such as dropout
        near = parts if len(parts) > 1 else difflib.get_close_matches(name, known, n=1)
        if (usual := _OTHER_NAMES.get(name, "")) in known:
            near = [usual]
        found = [f"{dashes}{other}" for other in near]
        return self._elsewhere.get(name) or (f". Did you mean {_either(found)}?" if found else "")


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _read_choice(action: Action) -> Callable[[str], Any]:
    """Return the function that reads one of the choices of a flag, in any case."""

    def read(text: str) -> Any:
        known = {str(choice).casefold(): choice for choice in action.choices or ()}  # grows with registries
        if (asked := text.casefold()) in known:
            return known[asked]
        near = [str(choice) for name, choice in known.items() if asked in name][:3]
        near = near or difflib.get_close_matches(asked, known, n=1)
        expected = f"expected one of {', '.join(map(str, known.values()))}: " if len(known) <= _FEW_CHOICES else ""
        hint = f". Did you mean {_either(near)}?" if near else ""
        raise ArgumentTypeError(f"{expected}found {text!r}{hint}")

    return read
