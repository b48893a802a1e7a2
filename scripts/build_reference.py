"""Write `hf_rnn/REFERENCE.md` (flags and public names) and `hf_rnn/settings/keywords.py` (types) from the code.

python scripts/build_reference.py
"""

import importlib
import inspect
import pkgutil
import re
import textwrap
from argparse import Action
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

import hf_rnn
from hf_rnn.cli import main
from hf_rnn.data import TableArguments
from hf_rnn.settings.arguments import (
    ABOUT,
    DataArguments,
    DistillationArguments,
    ModelArguments,
    PretrainingArguments,
)
from hf_rnn.settings.parser import SettingsParser
from hf_rnn.settings.training_arguments import RnnTrainingArguments

PAGE = Path(__file__).resolve().parents[1] / "hf_rnn" / "REFERENCE.md"
INTRODUCTION = """\
# Reference: flags and functions

Look up a flag of `hf-rnn` or a public name of the package. `python scripts/build_reference.py` writes this page.

[Flags](#flags) · [Functions and classes](#functions-and-classes)

## Flags

A flag is also a keyword of the Python function and a line of a recipe. The defaults are those without a recipe.
`train`, `distill` and `pretrain` also take each field of
[`TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer), such as `--eval_steps`."""
KEYWORDS = PAGE.parent / "settings" / "keywords.py"
KEYWORDS_HEAD = '''\
# fmt: off
"""Keywords of `train`, `distill`, `pretrain` and the estimators, for type checkers and scikit-learn.

`python scripts/build_reference.py` writes this file from the dataclasses of the settings.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypedDict

Flag = bool | None
Whole = int | None
Number = float | None
Share = float | str | None
Text = str | PathLike[str] | None
Texts = Sequence[str] | None
Recipe = str | PathLike[str] | Mapping[str, Any] | None
'''
FUNCTIONS = "\n## Functions and classes\n\nNames are imported from the module in the heading."


@cache
def find_parser(verb: str) -> SettingsParser:
    """Return the parser of a verb of `hf-rnn`."""
    with patch.object(SettingsParser, "parse_flags", autospec=True, side_effect=StopIteration) as read:
        try:
            importlib.import_module(f"hf_rnn.cli.{verb}").run([])
        except StopIteration:
            return read.call_args.args[0]
    raise RuntimeError(f"hf-rnn {verb} reads no flags")


def escape_tags(text: str) -> str:
    """Return a text whose `<` outside code are not read as HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)


def describe_flag(action: Action) -> str:
    """Return a row of a table."""
    meaning = escape_tags((action.help or "").replace("%%", "%").replace("|", "\\|"))
    if missing := [choice for choice in action.choices or () if choice not in meaning]:
        meaning += f" ({', '.join(missing)})"
    default = "" if action.default in (None, "") else f"`{action.default}`"
    return f"| `{action.option_strings[0]}` | {default} | {meaning} |"


def describe_flags() -> Iterator[str]:
    """Yield the lines of the flags by verb; those of an earlier verb are listed once."""
    listed: set[tuple[str, str | None]] = set()
    for verb, meaning in main._VERBS.items():
        yield f"\n### `hf-rnn {verb}`\n\n{meaning[0].upper()}{meaning[1:]}.\n"
        parser = find_parser(verb)
        actions = [action for name, action in parser.flags.items() if name not in parser.unused]
        shared = [f"`{action.option_strings[0]}`" for action in actions if (action.dest, action.help) in listed]
        if shared:
            yield "Flags of `train`, and:\n" if len(shared) > 40 else f"Listed above: {', '.join(shared)}.\n"
        if new := [action for action in actions if (action.dest, action.help) not in listed]:
            yield from ("| flag | default | meaning |", "|---|---|---|", *map(describe_flag, new))
        listed |= {(action.dest, action.help) for action in actions}


def format_text(docstring: str) -> str:
    """Return the text of a docstring as Markdown."""
    text = escape_tags(re.sub(r"\[`(?:~(?:\w+\.)*)?([\w.]+)`\]", r"`\1`", docstring))
    first, *sections = re.split(r"^(Args|Returns|Raises|Yields|Attributes|Example):$", text, flags=re.MULTILINE)
    lines = [first.strip()]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        body = textwrap.dedent(body.strip("\n"))
        rows = re.sub(r"\n\s+", " ", body).strip()
        if title == "Example":
            lines.append(f"```pycon\n{body.rstrip()}\n```")
        elif title in ("Args", "Raises", "Attributes"):
            lines.append(f"{title}:\n\n" + re.sub(r"^([\w.]+)( \(.*?\))?:", r"- `\1`:", rows, flags=re.MULTILINE))
        else:
            lines.append(f"{title}: {' '.join(rows.split())}")
    return "\n\n".join(lines)


def describe_name(name: str, value: Any) -> Iterator[str]:
    """Yield the lines of a public name."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    yield f"\n#### `{name}`\n"
    if inspect.isfunction(value):
        written = re.sub(r"'|\btyping\.|\bcollections\.abc\.", "", f"{name}{inspect.signature(value)}")
        yield f"```python\n{textwrap.fill(written, 110, subsequent_indent='    ', break_long_words=False)}\n```\n"
    yield format_text(inspect.getdoc(value) or "")


def build_reference() -> str:
    """Return the page: the package, and the rooms that declare public names."""
    rooms = [info.name for info in pkgutil.iter_modules(hf_rnn.__path__) if info.ispkg]
    modules = [hf_rnn, *(importlib.import_module(f"hf_rnn.{room}") for room in rooms)]
    lines, listed = [INTRODUCTION, *describe_flags(), FUNCTIONS], {"__version__"}
    for module in modules:
        if names := [name for name in getattr(module, "__all__", ()) if name not in listed]:
            lines.append(f"\n### `{module.__name__}`")
            for name in names:
                lines.extend(describe_name(name, getattr(module, name)))
            listed |= set(names)
    return "\n".join(lines) + "\n"


def list_keywords(*kinds: type) -> dict[str, str]:
    """Return the names of the fields of dataclasses with their types as keywords."""
    names: dict[str, str] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for known in fields(kind):
            types = {hints[known.name], *get_args(hints[known.name])}
            simple = {list[str]: "Texts", bool: "Flag", float: "Number", int: "Whole"}
            name = next((name for value, name in simple.items() if value in types), "Text")
            name = "Share" if known.metadata.get("reads") == "share" or known.name == "max_bad_rows" else name
            theirs = kind is RnnTrainingArguments and known.name not in ABOUT
            if known.init:
                names[known.name] = "Any" if theirs else "Recipe" if known.name == "recipe" else name
    return names


def describe_keywords(name: str, base: str, meaning: str, keywords: Mapping[str, str]) -> str:
    """Return a class of keywords."""
    body = "; ".join(f"{keyword}:·{kind}" for keyword, kind in sorted(keywords.items()))
    lines = textwrap.wrap(body, 114, break_long_words=False, break_on_hyphens=False)
    lines = [line.replace("·", " ").rstrip(";") for line in lines]
    return "\n    ".join([f"\n\nclass {name}({base}, total=False):", f'"""{meaning}"""\n', *lines]) + "\n"


def build_keywords() -> str:
    """Return the module of the keywords."""
    training, data = list_keywords(ModelArguments, RnnTrainingArguments), list_keywords(DataArguments)
    replaced = ("disable_tqdm", "hub_", "output_dir", "overwrite_output_dir", "push_to_hub", "resume")  # by methods
    outputs = {name: training.pop(name) for name in [*training] if name.startswith(replaced)}
    folder = {"output_dir": outputs.pop("output_dir")}  # for the others it is an argument
    files = {"task", "class_names", *list_keywords(TableArguments)}
    estimator = {name: data[name] for name in data if name not in files} | {"random_state": "Any", "verbose": "Flag"}
    pretraining = list_keywords(PretrainingArguments) | outputs | folder
    return KEYWORDS_HEAD + "".join(
        describe_keywords(*parts)
        for parts in (
            ("RunKeywords", "TypedDict", "Settings of every training.", training),
            ("EstimatorKeywords", "RunKeywords", "Parameters of the estimators.", estimator),
            ("TrainKeywords", "RunKeywords", "Settings of [`train`].", data | outputs),
            ("DistillKeywords", "TrainKeywords", "Settings of [`distill`].", list_keywords(DistillationArguments)),
            ("PretrainKeywords", "RunKeywords", "Settings of [`pretrain`].", pretraining),
        )
    )


if __name__ == "__main__":
    KEYWORDS.write_text(build_keywords(), encoding="utf-8")
    PAGE.write_text(build_reference(), encoding="utf-8")
    print(PAGE)
