"""Flags of the command: read and explained. Values stay words here; `convert` in `values.py` gives them types."""

from __future__ import annotations

import os
import re
import textwrap
from argparse import SUPPRESS, ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args, get_origin

from ..hub.model_folder import check_name, find_built_in
from ..utils.errors import UserError
from .values import Declaration, advise, convert, list_settings, list_their_names, list_types

_FEW_FLAGS = 18  # up to this number, the short help shows all
_METAVARS = {bool: "yes|no", int: "N", float: "X"}


@dataclass(frozen=True)
class Flags:
    """The flags of a verb of `hf-rnn`: the fields of dataclasses.

    Words without a flag are the values of `words`, in this order; the first ones, `needed` by
    number, must be set. The help leaves out `unused` settings. A verb that `trains` has each field
    of `TrainingArguments` too.
    """

    verb: str
    classes: type | tuple[type, ...]
    description: str
    example: str
    words: tuple[str, ...]
    needed: int = 1
    unused: Collection[str] = ()
    epilog: str = ""
    trains: bool = False

    @property
    def settings(self) -> dict[str, Declaration]:
        """The fields by name, with their types."""
        return list_settings(self.classes if isinstance(self.classes, tuple) else (self.classes,))

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values of the flags that are given; print the help and raise `SystemExit` for `--help`."""
        rest = [
            re.sub(r"^--\w[\w-]*", lambda flag: f"--{flag[0][2:].replace('-', '_')}", word)
            for word in argv
        ]
        for flag in ("--help_all", "--help", "-h"):
            if flag in rest:
                print(self.format_help(whole=flag == "--help_all"))  # noqa: T201 - the purpose
                raise SystemExit(0)
        values, rest = _parse(self._make_parser({}), self.settings, rest)
        theirs = list_their_names() if self.trains else []
        unknown = [word.lstrip("-").partition("=")[0] for word in rest if word.startswith("-")]
        for name in unknown:
            if name.removeprefix("no_") not in theirs:
                hint = (
                    advise(name, [*self.settings, *theirs], mark="--") or ". --help_all lists all"
                )
                raise UserError(f"unknown option --{name}{hint}")
        if unknown:
            from transformers import HfArgumentParser, TrainingArguments

            parser = HfArgumentParser(TrainingArguments, allow_abbrev=False, exit_on_error=False)
            more, rest = _parse(parser, theirs, rest)
            values |= more
        for word in rest:  # the value of a setting
            free = self._list_missing(values) + [
                name for name in self.words[self.needed :] if name not in values
            ]
            free = free or [name for name in self.words[self.needed :] if self._is_list(name)]
            if not free:
                raise UserError(
                    f"{word!r} belongs to no option: put a value of several words into quotes"
                )
            values[free[0]] = [*values.get(free[0], []), word] if self._is_list(free[0]) else word
        return values

    def build(self, argv: Sequence[str]) -> Any:
        """Return the dataclass of a verb that has one, with the values of its flags."""
        values = self.read(argv)
        self.check(values)
        make = cast("type[Any]", self.classes)
        return make(
            **{name: convert(name, self.settings[name], value) for name, value in values.items()}
        )

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise a [`UserError`] for settings that are missing, and for missing folders, before a library is loaded."""
        if missing := [f"--{name}" for name in self._list_missing(values)]:
            words = [str(values.get(name) or name.upper()) for name in self._list_missing({})]
            line = f"type hf-rnn {' '.join([self.verb, *words])}, such as: hf-rnn {self.verb} {self.example}"
            raise UserError(
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: {line}"
            )
        for name in ("model_name_or_path", "tokenizer_name_or_path", "teacher"):
            if "/" in (path := str(values.get(name))) and find_built_in(path) is None:
                check_name(path, name)
        if not os.path.exists(folder := values.get("data_dir") or "."):
            raise UserError(
                f"data_dir {folder} does not exist: give the folder or file of your texts"
            )

    def _list_missing(self, values: Mapping[str, Any]) -> list[str]:
        """Return the needed settings without a value; `dataset_name` takes the place of `data_dir`."""
        named = {name for name in values if values[name] is not None}
        named |= {"data_dir"} if "dataset_name" in named else set()
        return [name for name in self.words[: self.needed] if name not in named]

    def _is_list(self, name: str) -> bool:
        return get_origin(list_types(self.settings[name][1])[0]) is list

    def _make_parser(self, texts: Mapping[str, str]) -> ArgumentParser:
        """Return a parser whose help has some flags, with their texts."""
        parser = ArgumentParser(
            f"hf-rnn {self.verb}",
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
            formatter_class=lambda prog: RawDescriptionHelpFormatter(
                prog, max_help_position=28, width=80
            ),
        )
        groups: dict[str, Any] = {"essentials": parser.add_argument_group("essentials")}
        for name, (field, hint, title) in self.settings.items():
            value_type, options = list_types(hint)[0], dict[str, Any]()
            options["metavar"] = (
                "|".join(get_args(value_type))
                if get_origin(value_type) is Literal
                else _METAVARS.get(value_type, "TEXT")
            )
            if self._is_list(name):
                options |= (
                    {"action": "append"} if name in self.words[self.needed :] else {"nargs": "+"}
                )
            elif value_type is bool:
                options |= {"nargs": "?", "const": "yes"}
                parser.add_argument(
                    f"--no_{name}", dest=name, action="store_const", const="no", help=SUPPRESS
                )
            title = (
                "essentials"
                if name in self.words or field.metadata.get("shown") == "first"
                else title
            )
            group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
            group.add_argument(f"--{name}", help=texts.get(name, SUPPRESS), **options)
        return parser

    def format_help(self, whole: bool) -> str:
        """Return the flags by group; of many, the short help has the essential and the common ones."""
        used = {
            name: field for name, (field, *_) in self.settings.items() if name not in self.unused
        }
        whole = whole or len(used) <= _FEW_FLAGS
        shown = [
            name for name in used if whole or name in self.words or "shown" in used[name].metadata
        ]
        by_recipe: Collection[str] = ()
        if self.trains:
            from .recipe import list_recipe_settings

            by_recipe = list_recipe_settings()
        texts = {}
        for name in shown:
            text, default = used[name].metadata["help"], used[name].default
            texts[name] = text if whole else text.split(";")[0]
            if "(default" not in text and name in by_recipe:
                texts[name] += " (recipe)"
            elif "(default" not in text and default not in (None, False, ""):
                texts[name] += f" (default: {default})"
        parser = self._make_parser(texts)
        optional = [f"[{name.upper()}]" for name in self.words[self.needed :]]
        parser.usage = " ".join(
            [parser.prog, *map(str.upper, self._list_missing({})), *optional, "[flags]"]
        )
        parser.description = (
            f"{textwrap.fill(self.description, 80)}\n\nexample: {parser.prog} {self.example}"
        )
        more = (
            ["(recipe): the recipe sets it. Each field of TrainingArguments is a flag too."]
            if self.trains
            else []
        )
        more += (
            [f"--help_all lists {len(used) - len(shown)} more flags."]
            if len(used) > len(shown)
            else []
        )
        parser.epilog = "\n".join([*filter(None, [self.epilog]), *more])
        return parser.format_help().strip()


def _parse(
    parser: ArgumentParser, names: Collection[str], argv: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the flags that are given, and the other words."""
    try:  # argparse sets no default for an attribute that exists
        namespace, rest = parser.parse_known_args(argv, Namespace(**dict.fromkeys(names)))
    except ArgumentError as error:
        raise UserError(str(error).removeprefix("argument ")) from error
    return {name: value for name, value in vars(namespace).items() if value is not None}, rest
