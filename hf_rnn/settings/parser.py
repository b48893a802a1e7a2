"""Flags of dataclasses: read, explained, converted and built. Nothing heavy is imported before a flag needs it."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import textwrap
from argparse import SUPPRESS, Action, Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from ..models.settings_rnn import check_range, setting
from ..utils.errors import UserError, reason_of

__all__ = ["Setting", "SettingsParser", "setting"]

_OTHER_NAMES = {  # that people know from other programs
    "batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs", "num_epochs": "num_train_epochs",
    "lr": "learning_rate", "model_name": "model_name_or_path", "no_cuda": "use_cpu",
}  # fmt: skip
_DISTILL_SETTINGS = ("augmentations", "soft_label_weight", "teacher", "unlabeled")
_WORDS = dict.fromkeys(("true", "yes", "1"), True) | dict.fromkeys(("false", "no", "0"), False)
_FEW_FLAGS = 18  # up to this number, the short help shows all
_MISSPELT = 0.8  # likeness to a flag, as difflib measures it; no other setting of transformers is as near


@dataclass(frozen=True)
class Setting:
    """A value as YAML, the command line or Python gave it, and its source: the file, or a word for anything else."""

    value: Any
    source: str
    line: int = 0  # in the file
    built_in: bool = False  # whether a recipe of this package sets the value

    @property
    def origin(self) -> str:
        """The source and line for messages."""
        return f"{self.source}:{self.line}" if self.line else self.source


class SettingsParser(argparse.ArgumentParser):
    """A parser of the fields of dataclasses, which separates reading flags from building the dataclasses.

    `--help` shows the essential and the common flags, `--help_all` all except those that are `unused` in this verb and
    the rare ones, which a dataclass names in `_rare`. `example` is a command line without the name of the verb. A verb
    that trains has `by_recipe`, which returns the settings that recipes set, and also takes each field of
    `TrainingArguments`, which is imported only for such a flag.
    """

    def __init__(
        self,
        kinds: type | Sequence[type],
        *,
        example: str = "",
        unused: Collection[str] = (),
        by_recipe: Callable[[], Collection[str]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(add_help=False, allow_abbrev=False, formatter_class=_format_help, **options)
        self.kinds = [kinds] if isinstance(kinds, type) else list(kinds)
        self.example, self.unused, self.by_recipe = f"{self.prog} {example}", unused, by_recipe
        self.flags: dict[str, Action] = {}
        self._about: dict[str, Mapping[str, Any]] = {}
        self._rare: set[str] = set()
        self._groups: dict[str, Any] = {"essentials": self.add_argument_group("essentials")}
        for kind in self.kinds:
            self.declare(kind)
        for name in ("-h", "--help", "--help_all"):
            self.add_argument(name, dest=name, action="store_true", help=SUPPRESS)

    def declare(self, kind: type) -> None:
        """Add a flag for each new field of a dataclass, whose class names the group in the help."""
        hints = get_type_hints(kind)
        self._rare.update(getattr(kind, "_rare", ()))
        for known in fields(kind):
            if known.name in self.flags or not known.init:
                continue
            value, about = _value_type(hints[known.name]), known.metadata
            read = {"lower": str.lower, "share": share, "path": os.path.expanduser}.get(about.get("reads", ""), value)
            options: dict[str, Any] = {"type": read, "metavar": {int: "N", float: "X"}.get(value, "TEXT")}
            if choices := about.get("choices") or (get_args(value) if get_origin(value) is Literal else None):
                options = {"type": str.lower, "choices": choices, "metavar": "|".join(choices)}
            elif value is list:
                options |= {"action": "append"} if about.get("word") else {"nargs": "+"}
                options |= {"type": str} if read is list else {}
            elif value is bool:
                options = {"type": _read_bool, "nargs": "?", "const": True, "metavar": "yes|no"}
                self.add_argument(f"--no_{known.name}", dest=known.name, action="store_false", help=SUPPRESS)
            title = getattr(kind, "_argument_group_name", "flags")
            title = "essentials" if about.keys() & {"first", "required", "word"} else title
            group = self._groups.get(title) or self._groups.setdefault(title, self.add_argument_group(title))
            options |= {"default": None if known.default is MISSING else known.default, "help": about.get("help", "")}
            self.flags[known.name] = group.add_argument(f"--{known.name}", **options)
            self._about[known.name] = about

    def error(self, message: str) -> NoReturn:
        """Raise a [`UserError`] in place of printing all flags."""
        raise UserError(message.removeprefix("argument "))

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Build the dataclasses from flags alone."""
        flags = self.parse_flags(argv)
        self.check_required(flags)
        return self.build(flags, *self.kinds)

    def parse_flags(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values of the flags that are given; print the help and raise `SystemExit` for `--help`.

        A word without a flag is the value of the next required setting, then of those with `word`. Raises a
        [`UserError`] for an unknown flag or an invalid value.
        """
        argv = [re.sub(r"^--\w[\w-]*", lambda flag: f"--{flag[0][2:].replace('-', '_')}", token) for token in argv]
        for flag in ("--help_all", "--help", "-h"):
            if flag in argv:
                self._print_help(whole=flag == "--help_all")
        values, rest = self._read(argv)
        if self.by_recipe and (names := _flag_names(rest)) and not self._advise(names[0], _MISSPELT):
            from transformers import TrainingArguments

            self.declare(TrainingArguments)
            values, rest = self._read(argv)
        for name in _flag_names(rest):
            raise UserError(f"unknown option --{name}{self._advise(name) or '. --help_all lists all'}")
        for token in rest:
            self._place(token, values)
        return values

    def _read(self, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        # argparse sets no default for an attribute that exists
        namespace, rest = self.parse_known_args(argv, Namespace(**dict.fromkeys(self.flags)))
        return {name: value for name in self.flags if (value := getattr(namespace, name)) is not None}, rest

    def _place(self, token: str, values: dict[str, Any]) -> None:
        """Take a word without a flag as the value of a setting."""
        words = [name for name, about in self._about.items() if about.get("word")]
        several = [name for name in words if isinstance(self.flags[name], argparse._AppendAction)]
        free = [*self._missing(values), *(name for name in words if name not in values), *several]
        if not free:
            raise UserError(f"{token!r} belongs to no option: put a value of several words into quotes")
        value = self._convert(self.flags[free[0]], token)
        values[free[0]] = [*values.get(free[0], []), *value] if free[0] in several else value

    def _missing(self, values: Mapping[str, Any]) -> list[str]:
        """Return the required settings without a value, or that of their substitute."""
        given = {name for name, value in values.items() if value is not None}
        required = {name: about["required"] for name, about in self._about.items() if about.get("required")}
        return [name for name, other in required.items() if not {name, other} & given]

    def check_required(self, values: Mapping[str, Any]) -> None:
        """Raise a [`UserError`] with all required settings that are missing."""
        if missing := [f"--{name}" for name in self._missing(values)]:
            words = " ".join([self.prog, *(str(values.get(name) or name.upper()) for name in self._missing({}))])
            verb = "is" if len(missing) == 1 else "are"
            raise UserError(f"{' and '.join(missing)} {verb} missing: type {words}, such as: {self.example}")

    def _print_help(self, whole: bool) -> NoReturn:
        """Print the flags by group; of many flags, the short help shows the essential and the common ones."""
        used = {name: about for name, about in self._about.items() if name not in {*self.unused, *self._rare}}
        whole = whole or len(used) <= _FEW_FLAGS
        shown = {
            name for name, about in used.items() if whole or about.keys() & {"first", "required", "word", "common"}
        }
        by_recipe = self.by_recipe() if self.by_recipe else ()
        for name, action in self.flags.items():
            text = str(action.help) if whole else str(action.help).split(";")[0]
            if "(default" not in str(action.help):
                default = action.default not in (None, False, "") and f" (default: {action.default})"
                text += " (recipe)" if name in by_recipe else default or ""
            action.help = text if name in shown else SUPPRESS
        words = [f"[{name.upper()}]" for name, about in used.items() if about.get("word")]
        self.usage = " ".join([self.prog, *map(str.upper, self._missing({})), *words, "[flags]"])
        self.description = f"{textwrap.fill(str(self.description), 80)}\n\nexample: {self.example}"
        more = ["(recipe): the recipe sets it. Each field of TrainingArguments is a flag too."] if by_recipe else []
        more += [f"--help_all lists {len(used) - len(shown)} more flags."] if len(used) > len(shown) else []
        more += [f"hf_rnn/REFERENCE.md lists {rare} rare ones."] if (rare := len(self._about) - len(used)) else []
        self.epilog = "\n".join([*filter(None, [self.epilog]), *more])
        print(self.format_help().strip())  # noqa: T201 - the purpose
        raise SystemExit(0)

    def convert(self, settings: Mapping[str, Setting]) -> dict[str, Any]:
        """Return the values of a recipe or of keywords as flags would give them.

        Raises a [`UserError`], which starts with the origin, for an unknown setting or an invalid value.
        """
        converted = {}
        for name, given in settings.items():
            if name not in self.flags:
                raise UserError(f"{given.origin}: there is no setting {name!r}{self._advise(name).replace('--', '')}")
            try:
                converted[name] = self._convert(self.flags[name], given.value)
            except (UserError, argparse.ArgumentError) as error:
                raise UserError(f"{given.origin}: {name}: {getattr(error, 'message', error)}") from error
        return converted

    def _convert(self, action: Action, value: Any) -> Any:
        """Convert a value by the type of its flag."""
        value = value.tolist() if hasattr(value, "tolist") else getattr(value, "value", value)  # NumPy, or an Enum
        if type(value) is dict:  # such as lr_scheduler_kwargs
            return value
        is_list = action.nargs == "+" or isinstance(action, argparse._AppendAction)
        items = value if isinstance(value, list | tuple) and (is_list or len(value) == 1) else [value]
        if not all(isinstance(item, str | int | float | os.PathLike) for item in items):
            raise UserError(f"expected one value: found {' '.join(repr(value).split()):.80}")
        converted = [self._get_value(action, str(item)) for item in items]
        for item in converted:
            self._check_value(action, item)
        return converted if is_list else converted[0]

    def build(self, settings: Mapping[str, Any], *kinds: type) -> tuple[Any, ...]:
        """Return dataclasses with these values; raise a [`UserError`] for a value that one refuses."""
        try:
            for name in self._about.keys() & settings.keys():
                check_range(name, settings[name], self._about[name])
            names = [{known.name for known in fields(kind)} & settings.keys() for kind in kinds]
            return tuple(kind(**{n: settings[n] for n in own}) for kind, own in zip(kinds, names, strict=True))
        except UserError:
            raise
        except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
            raise UserError(reason_of(error)) from error

    def _advise(self, name: str, likeness: float = 0.6) -> str:
        """Return the nearest flags of a name as a question, or the verb that has it."""
        if name in _DISTILL_SETTINGS:
            return ": it belongs to hf-rnn distill"
        near = [other for other in self.flags if other.endswith(f"_{name}")]  # such as dropout
        if len(near) < 2:
            known = [*self.flags, *(other for other in _OTHER_NAMES if _OTHER_NAMES[other] in self.flags), "help_all"]
            near = [_OTHER_NAMES.get(other, other) for other in difflib.get_close_matches(name, known, 1, likeness)]
        return f". Did you mean {' or '.join(f'--{other}' for other in near)}?" if near else ""


def _value_type(hint: Any) -> Any:
    """Return the type of the values of a field: the first one of alternatives, and text if it is not simple."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    first = next(kind for kind in kinds if kind is not NoneType)
    if get_origin(first) is list:
        return list
    return first if first in (bool, int, float) or get_origin(first) is Literal else str


def _format_help(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=80)


def _flag_names(tokens: Sequence[str]) -> list[str]:
    return [token.lstrip("-").split("=")[0] for token in tokens if token.startswith("-")]


def share(text: str) -> float:
    """Return a share as a number, from 0.01 or 1%."""
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def _read_bool(text: str) -> bool:
    if text.casefold() not in _WORDS:
        raise argparse.ArgumentTypeError(f"expected true or false: found {text!r}")
    return _WORDS[text.casefold()]
