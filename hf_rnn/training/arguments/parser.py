"""Build dataclasses of settings from flags, recipes and keywords.

Every source becomes a dictionary of typed values; the dictionaries are merged and the dataclasses built once. A flag
and a value of a recipe are converted by the same type, that of the dataclass field, as `HfArgumentParser` reads it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, ArgumentTypeError, Namespace
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

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
_EXPECTED = {int: "a whole number", float: "a number", str: "text"}  # any other type is true or false


def setting(default: Any, meaning: str, **more: Any) -> Any:
    """Declare a field of a dataclass of settings.

    `meaning` is the text of the help, with `%` written twice; `more` is further metadata for `HfArgumentParser`, such
    as `choices`.
    """
    return field(default=default, metadata={"help": meaning, **more})


def expand_home(arguments: Any, *names: str) -> None:
    """Replace `~` by the home folder in paths; no shell expands `--model=~/out`."""
    for name in names:
        if isinstance(path := getattr(arguments, name), str | os.PathLike):
            setattr(arguments, name, os.path.expanduser(path))


class SettingsHelp(ArgumentDefaultsHelpFormatter):
    """Show defaults other than None."""

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class SettingsParser(HfArgumentParser):
    """An `HfArgumentParser` that separates reading flags from building the dataclasses.

    Args:
        dataclass_types: The dataclasses to build.
        mappings: Names of settings that are mappings; as flags they are JSON, or a file of JSON.
        elsewhere: Advice for settings that belong to another command, by name.
        recipe: The recipe whose values the help shows by default.
        kwargs: Arguments of `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        dataclass_types: Any,
        mappings: Collection[str] = (),
        elsewhere: Mapping[str, str] | None = None,
        recipe: str = DEFAULT_RECIPE,
        **kwargs: Any,
    ) -> None:
        usual = {"formatter_class": SettingsHelp, "allow_abbrev": False, "add_help": False}
        super().__init__(dataclass_types, **usual | kwargs)
        self.add_argument("-h", "--help", action="store_true", default=SUPPRESS, help="show this help and exit")
        self._mappings = mappings
        self._elsewhere = elsewhere or {}
        self._recipe = recipe
        for action in self._actions:
            if action.option_strings[0] == f"--no_{action.dest}":
                action.help, action.default = f"the same as --{action.dest} false", SUPPRESS

    @property
    def names(self) -> set[str]:
        """The names of all settings."""
        return {action.dest for action in self._actions} - {"help"}

    def error(self, message: str) -> NoReturn:
        """Raise a [`UserError`] in place of printing 150 flags."""
        bare = re.fullmatch(r"argument (--\w+)\S*: expected one argument", message)
        raise UserError(f"{message}; write {bare[1]}=-... for a value with a dash" if bare else message)

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Build the dataclasses from flags alone."""
        return self.build(self.parse_flags(argv))

    def parse_flags(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values of the flags that are given; print the help and raise `SystemExit` for `--help`.

        Raises:
            UserError: For an unknown flag or an invalid value.
        """
        # argparse sets no default for an attribute that exists
        namespace, rest = self.parse_known_args(list(argv), Namespace(**dict.fromkeys(self.names)))
        if vars(namespace).pop("help", False):
            self._print_help_with(namespace)
        if rest:
            raise UserError(self._describe_unknown(rest[0]))
        flags = {name: value for name, value in vars(namespace).items() if value is not None}
        return {name: self._read_mapping(name, value) for name, value in flags.items()}

    def _print_help_with(self, namespace: Namespace) -> NoReturn:
        """Print the help with the values of the recipe as defaults."""
        if "recipe" in self.names:
            recipe = namespace.recipe or self._recipe
            defaults = {**load_recipe(recipe), "recipe": recipe}
            for action in self._actions:
                if action.dest in defaults and action.default is not SUPPRESS:
                    action.default = defaults[action.dest]
        self.print_help()
        raise SystemExit(0)

    def convert(self, settings: Mapping[str, Setting]) -> dict[str, Any]:
        """Return the values of a recipe or of keywords as flags would give them.

        Raises:
            UserError: For an unknown setting or an invalid value; the message starts with the origin.
        """
        actions = {action.dest: action for action in reversed(self._actions)}
        converted = {}
        for name, given in settings.items():
            if name not in self.names:
                raise UserError(f"{given.origin}: there is no setting {name!r}{self._advise(name)}")
            try:
                value = self._read_mapping(name, given.value)
                converted[name] = value if name in self._mappings else _convert(actions[name], value)
            except UserError as error:
                raise UserError(f"{given.origin}: {name}: {error}") from error
        return converted

    def build(self, settings: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the dataclasses with these values.

        Raises:
            UserError: For a value that a dataclass refuses.
        """
        try:
            return self.parse_dict(dict(settings))
        except UserError:
            raise
        except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
            raise UserError(reason_of(error)) from error

    def _read_mapping(self, name: str, value: Any) -> Any:
        """Return a mapping from JSON or a file of JSON; any other setting's value as it is."""
        if name not in self._mappings:
            return value
        try:
            if isinstance(value, str):
                value = json.loads(Path(value).read_text("utf-8") if os.path.isfile(value) else value)
            if isinstance(value, dict):
                return json.loads(json.dumps(value, default=lambda number: number.tolist()))  # NumPy's
        except (ValueError, AttributeError):
            pass
        raise UserError(
            f"{name} must be a JSON object such as '{{\"name\": 1}}', or a file with one: found {value!r:.80}"
        )

    def _describe_unknown(self, token: str) -> str:
        if not token.startswith("-"):
            return f"{token!r} belongs to no option: put a value of several words into quotes"
        name = token.lstrip("-").split("=")[0]
        return f"unknown option {token!r}{self._advise(name, '--') or '. --help lists all'}"

    def _advise(self, name: str, dashes: str = "") -> str:
        """Return where an unknown setting belongs, or the nearest name."""
        name = name.replace("-", "_")
        near = [_OTHER_NAMES.get(name), *difflib.get_close_matches(name, self.names, n=1)]
        found = next((other for other in near if other in self.names), None)
        return self._elsewhere.get(name) or (f". Did you mean {dashes}{found}?" if found else "")


def _convert(action: Action, value: Any) -> Any:
    """Convert a value by the type of its flag."""
    if hasattr(value, "tolist"):  # NumPy's
        value = value.tolist()
    if isinstance(value, list | tuple) and action.nargs != "+" and len(value) == 1:
        value = value[0]  # such as report_to: [none]
    if action.nargs == "+":
        return [_convert_one(action, item) for item in (value if isinstance(value, list | tuple) else [value])]
    return _convert_one(action, value)


def _convert_one(action: Action, value: Any) -> Any:
    value = value.value if isinstance(value, Enum) else value
    kind: Any = action.type or str
    choices = action.choices and f"one of {', '.join(map(str, action.choices))}"
    try:
        if not isinstance(value, str | int | float | os.PathLike):
            raise TypeError
        converted = kind(str(value))
        if action.choices and converted not in action.choices:
            raise ValueError
    except (TypeError, ValueError, ArgumentTypeError):
        expected = choices or _EXPECTED.get(kind, "true or false")
        raise UserError(f"expected {expected}: found {' '.join(repr(value).split()):.80}") from None
    return converted
