"""Write `hf_rnn/REFERENCE.md`, the flags of the command and the public names, from the code.

    python scripts/build_reference.py

The text comes from the parsers of the verbs and from docstrings and signatures as they are written in the source.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import hf_rnn
from hf_rnn.cli import main
from hf_rnn.training.settings import SettingsParser, TrainerSettings

PAGE = Path(__file__).resolve().parents[1] / "hf_rnn" / "REFERENCE.md"
INTRODUCTION = """\
# Reference: flags and functions

Look up a flag of `hf-rnn` or a public name of the package. `python scripts/build_reference.py` writes this page.

[Flags](#flags) · [Functions and classes](#functions-and-classes)

## Flags

A flag is also a keyword of the Python function and a line of a recipe. The defaults are those without a recipe.
`train`, `distill` and `pretrain` also take the flags of
[`TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer), such as `--learning_rate`,
`--num_train_epochs`, `--per_device_train_batch_size` and `--seed`.
"""
FUNCTIONS = """
## Functions and classes

Names are imported from the module in the heading.
"""


class _ParserFound(Exception):
    """Carry the parser of a verb out of its `run`."""


@cache
def find_parser(verb: str) -> SettingsParser:
    """Return the parser of a verb of `hf-rnn`."""

    def stop(parser: SettingsParser, argv: Any) -> None:
        raise _ParserFound(parser)

    with patch.object(SettingsParser, "parse_flags", stop):
        try:
            importlib.import_module(f"hf_rnn.cli.{verb}").run([])
        except _ParserFound as stopped:
            return stopped.args[0]
    raise RuntimeError(f"hf-rnn {verb} reads no flags")


def find_own(parser: SettingsParser) -> list[Action]:
    """Return the flags of the package that the verb uses, without those that it takes over from the Trainer."""
    theirs = {field.name for field in fields(TrainerSettings)} | {*parser.unused}
    return [
        action
        for action in parser._actions
        if action.dest not in theirs and SUPPRESS not in (action.default, action.help)
    ]


def escape_tags(text: str) -> str:
    """Return a text whose `<` outside code are not read as HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)


def describe_flag(action: Action) -> str:
    """Return a row of a table."""
    meaning = escape_tags((action.help or "").replace("%%", "%").replace("|", "\\|"))
    choices = list(map(str, getattr(action.type, "choices", ())))
    if not all(choice in meaning for choice in choices):
        meaning += f" ({', '.join(choices)})"
    default = "" if action.default in (None, "") else f"`{action.default}`"
    return f"| `{action.option_strings[0]}` | {default} | {meaning} |"


def describe_flags() -> Iterator[str]:
    """Yield the lines of the flags, by verb."""
    listed: set[tuple[str, str | None]] = set()
    for verb, meaning in main._VERBS.items():
        yield f"\n### `hf-rnn {verb}`\n\n{meaning[0].upper()}{meaning[1:]}.\n"
        actions = find_own(find_parser(verb))
        shared = [f"`{action.option_strings[0]}`" for action in actions if (action.dest, action.help) in listed]
        if len(shared) > 40:
            yield "Flags of `train`, and:\n"
        elif shared:
            yield f"Listed above: {', '.join(shared)}.\n"
        if new := [action for action in actions if (action.dest, action.help) not in listed]:
            yield from ("| flag | default | meaning |", "|---|---|---|", *map(describe_flag, new))
        listed |= {(action.dest, action.help) for action in actions}


def format_text(docstring: str) -> str:
    """Return the text of a docstring as Markdown."""
    text = escape_tags(re.sub(r"\[`(?:~(?:\w+\.)*)?([\w.]+)`\]", r"`\1`", docstring))
    sections = re.split(r"^(Args|Returns|Raises|Yields|Attributes|Example):$", text, flags=re.MULTILINE)
    lines = [sections[0].strip()]
    for title, body in zip(sections[1::2], sections[2::2], strict=True):
        body = textwrap.dedent(body.strip("\n"))
        if title == "Example":
            lines.append(f"```pycon\n{body.rstrip()}\n```")
        elif title in ("Args", "Raises", "Attributes"):
            rows = re.sub(r"\n\s+", " ", body).strip().split("\n")
            lines.append(
                f"{title}:\n\n" + "\n".join(re.sub(r"^([\w.]+)( \(.*?\))?:", r"- `\1`:", row) for row in rows)
            )
        else:
            lines.append(f"{title}: {' '.join(body.split())}")
    return "\n\n".join(lines)


def format_signature(name: str, arguments: ast.arguments) -> str:
    """Return the signature of a function as it is written, without `self`."""
    written = re.sub(r"^(self|cls)(, )?", "", ast.unparse(arguments))
    return textwrap.fill(f"{name}({written})", 110, subsequent_indent="    ", break_long_words=False)


def format_call(method: ast.FunctionDef) -> str:
    """Return a method with the names of its arguments, or the name of a property."""
    if any(ast.unparse(decorator).endswith("property") for decorator in method.decorator_list):
        return method.name
    named = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
    return f"{method.name}({', '.join(argument.arg for argument in named if argument.arg not in ('self', 'cls'))})"


def describe_name(name: str, value: Any) -> Iterator[str]:
    """Yield the lines of a public name."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    node: Any = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    methods = {method.name: method for method in getattr(node, "body", ()) if isinstance(method, ast.FunctionDef)}
    start = node if inspect.isfunction(value) else methods.get("__init__")
    yield f"\n#### `{name}`\n"
    if start:
        yield f"```python\n{format_signature(name, start.args)}\n```\n"
    yield format_text(ast.get_docstring(node) or "")
    public = [method for method in methods.values() if not method.name.startswith("_") and ast.get_docstring(method)]
    if inspect.isclass(value) and public:
        yield ""
        for method in public:
            summary = format_text((ast.get_docstring(method) or "").split("\n\n")[0]).replace("\n", " ")
            yield f"- `{format_call(method)}`: {summary}"


def find_modules() -> list[ModuleType]:
    """Return the package and the rooms that declare public names."""
    modules = [
        importlib.import_module(f"hf_rnn.{info.name}") for info in pkgutil.iter_modules(hf_rnn.__path__) if info.ispkg
    ]
    return [hf_rnn, *(module for module in modules if getattr(module, "__all__", None))]


def build_reference() -> str:
    """Return the page."""
    lines, listed = [INTRODUCTION.rstrip(), *describe_flags(), FUNCTIONS.rstrip()], {"__version__"}
    for module in find_modules():
        if names := [name for name in module.__all__ if name not in listed]:
            lines.append(f"\n### `{module.__name__}`")
            for name in names:
                lines.extend(describe_name(name, getattr(module, name)))
            listed |= set(names)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(build_reference(), encoding="utf-8")
    print(PAGE)
