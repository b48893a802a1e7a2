"""Flags of the command, read and explained; values stay words until `convert` of `values.py`."""

from __future__ import annotations

import os
import re
import textwrap
from argparse import SUPPRESS, ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args, get_origin

from ..hub.model_folder import check_name, find_built_in
from ..utils.errors import SettingError
from .values import (
    YES_OR_NO,
    Declaration,
    advise,
    convert,
    list_settings,
    list_their_names,
    list_types,
)

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
        """Return the values of given flags; for `--help`, print it and raise `SystemExit`."""
        words = [re.sub(r"^--\w[\w-]*", _spell, word) for word in argv]
        for flag in ("--help_all", "--help", "-h"):
            if flag in words:
                print(self.format_help(whole=flag == "--help_all"))  # noqa: T201 - the purpose
                raise SystemExit(0)
        for place, following in enumerate(words[1:]):
            flag = words[place]
            setting = self.settings.get(flag[2:]) if flag.startswith("--") else None
            is_switch = setting is not None and list_types(setting.hint)[0] is bool
            if is_switch and following.lower() not in YES_OR_NO:
                words[place] += "=yes"  # the next word is a text, or the like
        values, rest = _parse(self._make_parser({}), self.settings, words)
        if self._has_flags_of_transformers(rest):
            from transformers import HfArgumentParser, TrainingArguments

            parser = HfArgumentParser(TrainingArguments, allow_abbrev=False, exit_on_error=False)
            more, rest = _parse(parser, list_their_names(), rest)
            values |= more
        for word in rest:
            self._place(word, values)
        return values

    def _has_flags_of_transformers(self, words: Sequence[str]) -> bool:
        """Return whether there are flags of `TrainingArguments`; refuse other flags."""
        theirs = list_their_names() if self.trains else []
        names = [word.lstrip("-").partition("=")[0] for word in words if word.startswith("-")]
        for name in names:
            if name.removeprefix("no_") not in theirs:
                hint = advise(name, [*self.settings, *theirs], mark="--")
                raise SettingError(f"unknown option --{name}{hint or '. --help_all lists all'}")
        return bool(names)

    def _place(self, word: str, values: dict[str, Any]) -> None:
        """Add a word without a flag: the first of `words` without a value takes it."""
        optional = self.words[self.needed :]
        free = self._list_missing(values) + [name for name in optional if name not in values]
        free += [name for name in optional if self._is_list(name)]
        if not free:
            raise SettingError(
                f"{word!r} belongs to no option: put a value of several words into quotes"
            )
        name = free[0]
        values[name] = [*values.get(name, []), word] if self._is_list(name) else word

    def build(self, argv: Sequence[str]) -> Any:
        """Return the dataclass of a verb that has one, with the values of its flags."""
        values = self.read(argv)
        self.check(values)
        make = cast("type[Any]", self.classes)
        return make(
            **{name: convert(name, self.settings[name], value) for name, value in values.items()}
        )

    def check(self, values: Mapping[str, Any]) -> None:
        """Check settings that are missing, and missing folders, before a library is loaded.

        Raises:
            SettingError: For the first of them.
        """
        missing = [f"--{name}" for name in self._list_missing(values)]
        if missing:
            words = [str(values.get(name) or name.upper()) for name in self._list_missing({})]
            verb = "is" if len(missing) == 1 else "are"
            raise SettingError(
                f"{' and '.join(missing)} {verb} missing: type hf-rnn {self.verb} "
                f"{' '.join(words)}, such as: hf-rnn {self.verb} {self.example}"
            )
        for name in ("model_name_or_path", "tokenizer_name_or_path", "teacher"):
            path = str(values.get(name))
            if "/" in path and find_built_in(path) is None:
                check_name(path, name)
        folder = values.get("data_dir") or "."
        if not os.path.exists(folder):
            raise SettingError(
                f"data_dir {folder} does not exist: give the folder or file of your texts"
            )

    def _list_missing(self, values: Mapping[str, Any]) -> list[str]:
        """Return the needed settings without a value; `dataset_name` replaces `data_dir`."""
        named = {name for name in values if values[name] is not None}
        if "dataset_name" in named:
            named.add("data_dir")
        return [name for name in self.words[: self.needed] if name not in named]

    def _is_list(self, name: str) -> bool:
        return get_origin(list_types(self.settings[name].hint)[0]) is list

    def _make_parser(self, texts: Mapping[str, str]) -> ArgumentParser:
        """Return a parser whose help has some flags, with their texts."""
        parser = ArgumentParser(
            f"hf-rnn {self.verb}",
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
            formatter_class=_HelpFormatter,
        )
        titles = ["essentials", *(setting.group for setting in self.settings.values())]
        groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(titles)}
        for name, setting in self.settings.items():
            is_first = name in self.words or setting.field.metadata.get("shown") == "first"
            group = groups["essentials" if is_first else setting.group]
            value_type = list_types(setting.hint)[0]
            options: dict[str, Any] = {"metavar": _METAVARS.get(value_type, "TEXT")}
            if get_origin(value_type) is Literal:
                options["metavar"] = "|".join(get_args(value_type))
            if value_type is bool:
                options |= {"nargs": "?", "const": "yes"}
                parser.add_argument(
                    f"--no_{name}", dest=name, action="store_const", const="no", help=SUPPRESS
                )
            elif self._is_list(name) and name in self.words[self.needed :]:
                options["action"] = "append"
            elif self._is_list(name):
                options["nargs"] = "+"
            group.add_argument(f"--{name}", help=texts.get(name, SUPPRESS), **options)
        return parser

    def format_help(self, whole: bool) -> str:
        """Return the flags by group; of many, the short help has the common ones."""
        used = [name for name in self.settings if name not in self.unused]
        whole = whole or len(used) <= _FEW_FLAGS
        shown = [name for name in used if whole or self._is_common(name)]
        parser = self._make_parser({name: self._explain(name, whole) for name in shown})

        optional = [f"[{name.upper()}]" for name in self.words[self.needed :]]
        words = [name.upper() for name in self._list_missing({})]
        parser.usage = " ".join([parser.prog, *words, *optional, "[flags]"])
        example = f"example: {parser.prog} {self.example}"
        parser.description = f"{textwrap.fill(self.description, 80)}\n\n{example}"
        notes = [self.epilog] if self.epilog else []
        if self.trains:
            notes.append(
                "(recipe): the recipe sets it. Each field of TrainingArguments is a flag too."
            )
        if len(used) > len(shown):
            notes.append(f"--help_all lists {len(used) - len(shown)} more flags.")
        parser.epilog = "\n".join(notes)
        return parser.format_help().strip()

    def _is_common(self, name: str) -> bool:
        return name in self.words or "shown" in self.settings[name].field.metadata

    def _explain(self, name: str, whole: bool) -> str:
        """Return the help of a flag, in short up to the first semicolon, with its default."""
        from .recipe import list_recipe_settings

        field = self.settings[name].field
        help_text = field.metadata["help"]
        text = help_text if whole else help_text.split(";")[0]
        if "(default" in help_text:
            return text
        if self.trains and name in list_recipe_settings():
            return f"{text} (recipe)"
        if field.default in (None, False, ""):
            return text
        return f"{text} (default: {field.default})"


class _HelpFormatter(RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=80)


def _spell(flag: re.Match[str]) -> str:
    """Return a flag with underscores."""
    return f"--{flag[0][2:].replace('-', '_')}"


def _parse(
    parser: ArgumentParser, names: Collection[str], argv: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the flags that are given, and the other words."""
    try:  # argparse sets no default for an attribute that exists
        namespace, rest = parser.parse_known_args(argv, Namespace(**dict.fromkeys(names)))
    except ArgumentError as error:
        raise SettingError(str(error).removeprefix("argument ")) from error
    return {name: value for name, value in vars(namespace).items() if value is not None}, rest
