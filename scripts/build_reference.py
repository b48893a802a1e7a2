"""Write `hf_rnn/REFERENCE.md` and the types of `hf_rnn/settings/keywords.py` from the code.

python scripts/build_reference.py
"""

import enum
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import hf_rnn
from hf_rnn.cli import main
from hf_rnn.settings.fields import VERBS, DistillationArguments
from hf_rnn.settings.flags import Flags
from hf_rnn.settings.training_arguments import RnnTrainingArguments
from hf_rnn.settings.values import Declaration, list_settings, list_types

PAGE = Path(__file__).resolve().parents[1] / "hf_rnn" / "REFERENCE.md"
INTRODUCTION = """\
# Reference: flags and functions

Look up a flag of `hf-rnn` or a public name of the package.
`python scripts/build_reference.py` writes this page.

[Flags](#flags) · [Functions and classes](#functions-and-classes)

## Flags

A flag is also a keyword of the Python function and a line of a recipe.
The defaults are those without a recipe. `train`, `distill` and `pretrain` also take each field of
[`TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer), such as
`--eval_steps`."""
KEYWORDS = PAGE.parent / "settings" / "keywords.pyi"
KEYWORDS_HEAD = '''\
"""Keywords of `train`, `distill`, `pretrain` and the estimators, for type checkers and editors.

`python scripts/build_reference.py` writes this file from the dataclasses of the settings.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal, TypedDict

Text = str | PathLike[str]
'''
TYPES = {
    str: "Text",
    list: "Sequence[str]",
    dict: "Mapping[str, object]",
    bool: "bool",
    int: "int",
    float: "float",
}
FUNCTIONS = "\n## Functions and classes\n\nNames are imported from the module in the heading."


def find_flags(verb: str) -> Flags:
    """Return the flags of a verb of `hf-rnn`."""
    return importlib.import_module(f"hf_rnn.cli.{verb}").FLAGS


def escape_tags(text: str) -> str:
    """Return a text whose `<` outside code are not read as HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)


def describe_flag(name: str, declaration: Declaration) -> str:
    """Return a row of a table."""
    meaning = escape_tags(declaration.field.metadata["help"].replace("%%", "%").replace("|", "\\|"))
    choices: list[str] = []
    for value_type in list_types(declaration.hint):
        if get_origin(value_type) is Literal:
            choices += map(str, get_args(value_type))
    missing = [choice for choice in choices if choice not in meaning]
    if missing:
        meaning += f" ({', '.join(missing)})"
    default = declaration.field.default
    shown = "" if default in (None, "") else f"`{default}`"
    return f"| `--{name}` | {shown} | {meaning} |"


def describe_flags() -> Iterator[str]:
    """Yield the lines of the flags by verb; those of an earlier verb are listed once."""
    listed: set[tuple[str, str]] = set()
    for verb, meaning in main._VERBS.items():
        yield f"\n### `hf-rnn {verb}`\n\n{meaning[0].upper()}{meaning[1:]}.\n"
        flags = find_flags(verb)
        shared: list[str] = []
        rows: list[str] = []
        for name, declaration in flags.settings.items():
            key = (name, declaration.field.metadata["help"])
            if name in flags.unused:
                continue
            if key in listed:
                shared.append(f"`--{name}`")
            else:
                rows.append(describe_flag(name, declaration))
            listed.add(key)
        if len(shared) > 40:
            yield "Flags of `train`, and:\n"
        elif shared:
            yield f"Listed above: {', '.join(shared)}.\n"
        if rows:
            yield from ("| flag | default | meaning |", "|---|---|---|", *rows)


def format_text(docstring: str) -> str:
    """Return the text of a docstring as Markdown."""
    text = escape_tags(re.sub(r"\[`(?:~(?:\w+\.)*)?([\w.]+)`\]", r"`\1`", docstring))
    first, *sections = re.split(
        r"^(Args|Returns|Raises|Yields|Attributes|Example):$", text, flags=re.MULTILINE
    )
    lines = [first.strip()]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        body = textwrap.dedent(body.strip("\n"))
        rows = re.sub(r"\n\s+", " ", body).strip()
        if title == "Example":
            lines.append(f"```pycon\n{body.rstrip()}\n```")
        elif title in ("Args", "Raises", "Attributes"):
            lines.append(
                f"{title}:\n\n"
                + re.sub(r"^([\w.]+)( \(.*?\))?:", r"- `\1`:", rows, flags=re.MULTILINE)
            )
        else:
            lines.append(f"{title}: {' '.join(rows.split())}")
    return "\n\n".join(lines)


def describe_name(name: str, value: Any) -> Iterator[str]:
    """Yield the lines of a public name."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    yield f"\n#### `{name}`\n"
    if inspect.isfunction(value):
        written = re.sub(
            r"'|\btyping\.|\bcollections\.abc\.", "", f"{name}{inspect.signature(value)}"
        )
        lines = textwrap.fill(written, 110, subsequent_indent="    ", break_long_words=False)
        yield f"```python\n{lines}\n```\n"
    yield format_text(inspect.getdoc(value) or "")


def build_reference() -> str:
    """Return the page: the package, and the rooms that declare public names."""
    rooms = [info.name for info in pkgutil.iter_modules(hf_rnn.__path__) if info.ispkg]
    modules = [hf_rnn, *(importlib.import_module(f"hf_rnn.{room}") for room in rooms)]
    lines = [INTRODUCTION, *describe_flags(), FUNCTIONS]
    listed = {"__version__"}
    for module in modules:
        names = [name for name in getattr(module, "__all__", ()) if name not in listed]
        if names:
            lines.append(f"\n### `{module.__name__}`")
            for name in names:
                lines.extend(describe_name(name, getattr(module, name)))
            listed |= set(names)
    return "\n".join(lines) + "\n"


def describe_type(name: str, hint: Any) -> str:
    """Return the type of a keyword."""
    names = ["str"] if name == "fail_on_leak" else []  # a share such as 1%
    for kind in list_types(hint):
        origin = get_origin(kind) or kind
        if origin is Literal:
            names.append(f"Literal[{', '.join(map(repr, get_args(kind)))}]".replace("'", '"'))
        elif origin is Annotated or (inspect.isclass(origin) and issubclass(origin, enum.Enum)):
            names.append("Text")
        else:
            names.append(TYPES.get(origin, "object"))
    return " | ".join(dict.fromkeys([*names, "None"]))


def list_keywords(*kinds: type) -> dict[str, str]:
    """Return the names of the fields of dataclasses with their types as keywords."""
    types = {
        name: describe_type(name, declaration.hint)
        for name, declaration in list_settings(kinds).items()
    }
    return {**types, "recipe": "Text | Mapping[str, object] | None"} if "recipe" in types else types


def describe_keywords(name: str, base: str, meaning: str, keywords: Mapping[str, str]) -> str:
    """Return a class of keywords."""
    lines = [f"    {keyword}: {kind}" for keyword, kind in sorted(keywords.items())]
    return (
        "\n".join([f"\nclass {name}({base}, total=False):", f'    """{meaning}"""', "", *lines])
        + "\n"
    )


def build_keywords() -> str:
    """Return the module of the keywords."""
    train = list_keywords(*VERBS["train"], RnnTrainingArguments)
    del train["output_dir"]  # an argument
    pretrain = list_keywords(*VERBS["pretrain"], RnnTrainingArguments)
    more = {"random_state": "object", "verbose": "bool | None"}
    estimator = {name: {**train, **more}[name] for name in hf_rnn.RnnClassifier().get_params()}
    shared = {
        name: kind
        for name, kind in train.items()
        if kind == estimator.get(name) == pretrain.get(name)
    }
    further: list[dict[str, str]] = []
    for names in (estimator, train, pretrain):
        further.append({name: names[name] for name in names if name not in shared})
    classes = (
        ("RunKeywords", "TypedDict", "Settings of every training.", shared),
        ("EstimatorKeywords", "RunKeywords", "Parameters of the estimators.", further[0]),
        ("TrainKeywords", "RunKeywords", "Settings of [`train`].", further[1]),
        (
            "DistillKeywords",
            "TrainKeywords",
            "Settings of [`distill`].",
            list_keywords(DistillationArguments),
        ),
        ("PretrainKeywords", "RunKeywords", "Settings of [`pretrain`].", further[2]),
    )
    return KEYWORDS_HEAD + "".join(describe_keywords(*parts) for parts in classes)


if __name__ == "__main__":
    KEYWORDS.write_text(build_keywords(), encoding="utf-8")
    PAGE.write_text(build_reference(), encoding="utf-8")
    print(PAGE)
