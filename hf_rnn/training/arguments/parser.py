"""Build dataclasses of settings from flags, recipes and keywords.

Every source becomes a dictionary of typed values; the dictionaries are merged and the dataclasses built once. A flag
and a value of a recipe are converted by the same type, that of the dataclass field. Nothing heavy is imported here: a
help or a misspelt flag is answered at once.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import textwrap
from argparse import SUPPRESS, Action, ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from ...models.settings_rnn import check_range, setting
from ...utils.errors import UserError, reason_of
from ..recipes import Setting

__all__ = ["SettingsParser", "expand_home", "setting"]

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
            for field in fields(kind):
                default = None if field.default is MISSING else field.default
                self._add(field.name, hints[field.name], default, field.metadata)
                self._titles[field.name] = getattr(kind, "_argument_group_name", "flags")
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
