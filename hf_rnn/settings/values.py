"""Fields of dataclasses as settings: found by name, with typed values of flags and recipes.

Nothing heavy is imported here: a help, a mistake and a prediction are answered at once.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import Field, fields
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from ..models.settings_rnn import check_range
from ..utils.errors import SettingError

_OTHER_NAMES = {  # that people know from other programs
    "batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "lr": "learning_rate", "model_name": "model_name_or_path", "no_cuda": "use_cpu",
}  # fmt: skip
YES_OR_NO = dict.fromkeys(("true", "yes", "1"), True) | dict.fromkeys(("false", "no", "0"), False)
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}
_ANY_CASE = ("cell_type", "pooling")
_DISTILL_SETTINGS = ("augmentations", "soft_label_weight", "teacher", "unlabeled")


class Declaration(NamedTuple):
    """The declaration of a setting."""

    field: Field[Any]
    hint: Any  # its type
    group: str  # in the help


@cache
def list_settings(classes: Sequence[type]) -> dict[str, Declaration]:
    """Return the fields of dataclasses by name; the first class with a name declares it."""
    settings: dict[str, Declaration] = {}
    for declaring in classes:
        hints = get_type_hints(declaring, include_extras=True)
        group = getattr(declaring, "group", "model")
        for field in fields(declaring):
            if field.init:
                settings.setdefault(field.name, Declaration(field, hints[field.name], group))
    return settings


@cache
def list_their_names() -> list[str]:
    """Return the fields of `TrainingArguments`, from its source: the import takes a second."""
    spec = find_spec("transformers")
    path = Path(str(spec and spec.origin)).with_name("training_args.py")
    return re.findall(r"^    (\w+): .+ = ", path.read_text(encoding="utf-8"), re.MULTILINE)


def advise(name: str, names: Collection[str], mark: str = "") -> str:
    """Return the nearest settings of a name as a question, or the verb that has it."""
    if name in _DISTILL_SETTINGS:
        return ": it belongs to hf-rnn distill"
    near = [other for other in names if other.endswith(f"_{name}")]  # such as dropout
    if len(near) < 2:
        elsewhere = [other for other, ours in _OTHER_NAMES.items() if ours in names]
        matches = get_close_matches(name, [*names, *elsewhere], 1)
        near = [_OTHER_NAMES.get(match, match) for match in matches]
    if not near:
        return ""
    return f". Did you mean {' or '.join(f'{mark}{other}' for other in near)}?"


def list_types(hint: Any) -> list[Any]:
    """Return the alternatives of a type, without None."""
    alternatives = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [value_type for value_type in alternatives if value_type is not NoneType]


def convert(name: str, declaration: Declaration, value: Any, place: str = "") -> Any:
    """Return a value of a flag, a recipe or a keyword as its setting has it; None stays None.

    Raises:
        SettingError: For a value of another type, or outside its range; it begins with `place`.
    """
    # NumPy, or an Enum
    value = value.tolist() if hasattr(value, "tolist") else getattr(value, "value", value)
    types = list_types(declaration.hint)
    try:
        if value is not None and type(value) not in types:
            value = _read_as_any(name, types, value)
        check_range(name, value, declaration.field.metadata)
    except ValueError as error:
        raise SettingError(f"{place}{error}") from error
    return value.lower() if name in _ANY_CASE and value else value


def _read_as_any(name: str, types: Sequence[Any], value: Any) -> Any:
    """Return a value as the first type that fits, or raise a ValueError that names all."""
    for value_type in types:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return _read_as(value_type, value)
    expected = " or ".join(dict.fromkeys(map(_name_type, types)))
    raise ValueError(f"{name} must be {expected}; found {' '.join(repr(value).split()):.80}")


def _read_as(value_type: Any, value: Any) -> Any:
    """Return a value as a type, or raise a ValueError, TypeError or KeyError."""
    origin = get_origin(value_type) or value_type
    if origin is Annotated:
        inner, change = get_args(value_type)
        return change(_read_as(inner, value))
    if origin is list:
        (inner,) = get_args(value_type) or (str,)
        items = value if isinstance(value, list | tuple) else [value]
        return [_read_as(inner, item) for item in items]
    if origin is dict:
        return dict(value)
    if not isinstance(value, str | int | float | os.PathLike):
        raise TypeError
    return _read_text_as(origin, value_type, str(value))


def _read_text_as(origin: Any, value_type: Any, text: str) -> Any:
    """Return the value that a text spells, or raise a ValueError or KeyError."""
    if origin is bool:
        return YES_OR_NO[text.casefold()]
    if origin is int:
        return int(text)
    if origin is float:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if origin is Literal:
        return {str(choice): choice for choice in get_args(value_type)}[text.lower()]
    return text


def _name_type(value_type: Any) -> str:
    """Return a type in words, for a message."""
    origin = get_origin(value_type) or value_type
    if origin is Literal:
        return " or ".join(map(str, get_args(value_type)))
    return _NAMES.get(origin, "text")
