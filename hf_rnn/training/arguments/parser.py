"""Settings from recipes, keywords and flags → dataclasses, all by way of one command-line parser.

`HfArgumentParser` does the work. This adds that a mistake is a message of one line with the nearest name, and that
values of a YAML file become flags of their own. Which settings there are is not known here.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from ...utils.errors import UserError, reason_of
from ..recipes import Setting

# What other programs call a setting, and Trainer's users have at their fingertips.
_OTHER_NAMES = {
    "batch_size": "per_device_train_batch_size",
    "data": "data_dir",
    "epochs": "num_train_epochs",
    "group_by_length": "train_sampling_strategy",
    "lr": "learning_rate",
    "m": "model",
    "model_name": "model_name_or_path",
    "no_cuda": "use_cpu",
    "num_epochs": "num_train_epochs",
    "o": "output_dir",
    "output": "output_dir",
}


_ANY_BYTES = ("input", "text")  # what is only read, or looked at by others


def setting(default: Any, meaning: str, **more: Any) -> Any:
    """Declare a field of a dataclass of settings.

    Args:
        default: Its value when nothing sets it.
        meaning: Its line in the help; a `%` is written twice.
        more: Further metadata that `HfArgumentParser` knows, such as `choices`.
    """
    return field(default=default, metadata={"help": meaning, **more})


def expand_home(arguments: Any, *names: str) -> None:
    """Let `~` be the home folder in settings that may name a file or folder; no shell looks at `--model=~/out`."""
    for name in names:
        if isinstance(path := getattr(arguments, name), str | os.PathLike):
            setattr(arguments, name, os.path.expanduser(path))


class SettingsHelp(ArgumentDefaultsHelpFormatter):
    """Tells defaults, but None, which is none: what happens then is said in words where there is something to say."""

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class SettingsParser(HfArgumentParser):
    """`HfArgumentParser` whose mistakes are [`UserError`]s with the nearest name, and that takes values from recipes.

    Args:
        dataclass_types: The dataclasses to fill.
        mappings: Names of settings that take a mapping, which the command line takes as JSON.
        elsewhere: Says of a setting that is not known whose it is; an empty text says nothing.
        kwargs: As for `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        dataclass_types: Any = None,
        mappings: Iterable[str] = (),
        elsewhere: Callable[[str], str] = lambda name: "",
        **kwargs: Any,
    ) -> None:
        super().__init__(dataclass_types, allow_abbrev=False, **{"formatter_class": SettingsHelp, **kwargs})
        self._mappings = frozenset(mappings)
        self._elsewhere = elsewhere
        for action in self._actions:
            if action.nargs == 0 and action.option_strings[0] == f"--no_{action.dest}":
                action.help = f"the same as --{action.dest} false"  # the library repeats what the other flag says
                action.default = SUPPRESS  # it is the other's

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing 150 flags and leaving.

        Raises:
            UserError: Always.
        """
        bare = re.fullmatch(r"argument (?:\S+/)?(--\w+): expected one argument", message)
        raise UserError(message if bare is None else f"{message}; one that starts with a dash as {bare[1]}=-...")

    def _get_values(self, action: Action, arg_strings: list[str]) -> Any:
        """Take `--text=--` for the text `--`, which argparse leaves out, so that the value is an empty list."""
        if action.option_strings and arg_strings == ["--"] and action.nargs in (None, "?", "+"):
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return [value] if action.nargs == "+" else value
        return super()._get_values(action, arg_strings)

    def parse(self, tokens: Sequence[str]) -> tuple[Any, ...]:
        """Parse tokens into the dataclasses.

        Raises:
            UserError: For an unknown flag or a value that a dataclass refuses.
        """
        rest = self.parse_known_args(list(tokens))[1]
        if rest:  # before the dataclasses miss what a misspelt flag should have set
            raise UserError(self._unknown(rest[0]))
        self._check_mappings(tokens)
        try:
            parsed = tuple(self.parse_args_into_dataclasses(list(tokens), look_for_args_file=False))
        except UserError:
            raise
        except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:  # a dataclass's own checks
            raise UserError(reason_of(error)) from error
        for part in parsed:
            for name, value in vars(part).items():
                if name not in _ANY_BYTES:
                    _check_utf8(name, value)
        return parsed

    def _check_mappings(self, tokens: Sequence[str]) -> None:
        """Refuse what is neither a mapping nor a file of one, before the dataclasses say so without its name."""
        given = vars(self.parse_known_args(list(tokens))[0])
        for name in sorted(self._mappings & given.keys()):
            value = given[name]
            if not isinstance(value, str):
                continue
            is_file = not value.lstrip().startswith("{") and os.path.isfile(value)
            try:
                mapping = json.loads(Path(value).read_bytes() if is_file else value)
            except (ValueError, RecursionError):
                mapping = None
            if not isinstance(mapping, dict):
                what = "holds" if is_file else "is"
                where = "" if is_file else ", nor a file that is there"
                raise UserError(f"{name} {_in_short(value)} {what} no JSON object, such as '{{\"name\": 1}}'{where}")

    def tokens(self, settings: Mapping[str, Setting]) -> list[str]:
        """Write settings as command-line tokens, each checked by itself.

        Args:
            settings: Values by the names of the flags; None sets nothing.

        Raises:
            UserError: For an unknown name or a bad value; the message starts with where it was set.
        """
        actions = {action.dest: action for action in reversed(self._actions) if action.dest != "help"}
        written: list[str] = []
        for name, setting in settings.items():
            if name not in actions:
                hint = self._elsewhere(name) or self._nearest(name)
                raise UserError(f"{setting.origin}: there is no setting {name!r}{hint}")
            value = setting.value
            if hasattr(value, "tolist") and not isinstance(value, type):  # of NumPy
                value = value.tolist()
            try:
                own = _tokens(actions[name], value, takes_mapping=name in self._mappings)
                self.parse_known_args(own)
            except UserError as error:
                reason = re.sub(r"^argument \S+: ", "", str(error))  # argparse names the flag, we the setting
                raise UserError(f"{setting.origin}: {name}: {reason}") from error
            written += own
        return written

    def show_defaults(self, settings: Mapping[str, Setting]) -> None:
        """Let the help show the values of a recipe as the defaults that they are.

        Args:
            settings: Values by the names of the flags.
        """
        for action in self._actions:
            if action.dest in settings and action.default is not SUPPRESS:
                action.default = settings[action.dest].value

    def _unknown(self, token: str) -> str:
        """What is wrong with a token that nothing takes, and what to type."""
        if not token.startswith("-"):
            places = [f"a {name} as --{name}" for name in ("model", "text") if name in self._names()]
            advice = ", ".join(["put a value of several words into quotes", *places])
            return f"{token!r} belongs to no option: {advice}"
        name = token.lstrip("-").split("=")[0]
        hint = self._elsewhere(name.replace("-", "_")) or self._nearest(name, "--") or ". --help lists all"
        return f"unknown option {token!r}{hint}"

    def _names(self) -> set[str]:
        return {action.dest for action in self._actions} - {"help"}

    def _nearest(self, name: str, dashes: str = "") -> str:
        name = name.replace("-", "_")
        near = [_OTHER_NAMES[name]] if _OTHER_NAMES.get(name) in self._names() else []
        near = near or difflib.get_close_matches(name, self._names(), n=1)
        return f". Did you mean {dashes}{near[0]}?" if near else ""


def _check_utf8(name: str, value: Any) -> None:
    """Refuse what could stand in no file that is written: a name of bytes that are no UTF-8."""
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str) and item != item.encode(errors="replace").decode():
            raise UserError(f"{name} {item!r} is not UTF-8: rename it, or give a link to it that is")


def _tokens(action: Action, value: Any, takes_mapping: bool) -> list[str]:
    """One setting as tokens; `--name=value` keeps a value that starts with a dash a value."""
    flag = action.option_strings[0]
    if value is None or value == []:
        return []
    for item in value if isinstance(value, list | tuple) and action.nargs == "+" else ():
        if re.match(r"-[^\d.]", str(item)):
            raise UserError(f"{item!r} cannot be one of several values: a value that starts with a dash is a flag")
        if isinstance(item, list | tuple | dict):  # which would be taken as it is written in Python
            raise UserError(f"each of several values is a text or a number, found {_in_short(item)}")
    if isinstance(value, list | tuple) and (action.nargs == "+" or len(value) == 1):
        return [flag, *map(_written, value)] if action.nargs == "+" else [f"{flag}={_written(value[0])}"]
    if isinstance(value, list | tuple) or (isinstance(value, dict) and not takes_mapping):
        raise UserError(f"one value is wanted, found {_in_short(value)}")
    return [flag, _written(value)] if action.nargs == "+" else [f"{flag}={_written(value)}"]


def _written(value: Any) -> str:
    if isinstance(value, Enum):  # as transformers has strategies, schedules and optimisers
        value = value.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value, default=_as_plain)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Set | bytes) or (callable(value) and not isinstance(value, str)):
        raise UserError(f"a setting is a text, a number, true or false, or a path, found {_in_short(value)}")
    return str(value)


def _as_plain(value: Any) -> Any:
    """What JSON takes, of a number or an array of NumPy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise UserError(f"a setting is made of texts and numbers, found {_in_short(value)}")


def _in_short(value: Any) -> str:
    """A value in one line of bounded length."""
    return f"{' '.join(repr(value).split()):.80}"
