"""Checks of texts from any source: each must be a str of valid Unicode; an invalid one is named by its position."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from typing import Any

from .errors import UserError

NO_TEXT = "no text"  # the reason of an empty or blank cell or line


def check_text(text: str) -> None:
    """Raise UserError for a text that is not Unicode, for example from a terminal with another encoding."""
    if (place := find_surrogate(text)) is not None:
        raise UserError(f"the text is not UTF-8 at character {place}: found {text!r:.60}")


def check_texts(texts: Iterable[Any], where: str = "texts", first: int = 0) -> None:
    """Raise UserError for a text that is not str or not Unicode, with its position, counted on from `first`."""
    for position, text in enumerate(texts, start=first):
        if not isinstance(text, str):
            raise UserError(f"{where}[{position}] is not a str: found {text!r:.80}; give '' for an empty text")
        if not text.isascii() and (place := find_surrogate(text)) is not None:
            problem = f"a lone surrogate at character {place} of {text!r:.80}"
            raise UserError(f"{where}[{position}] is not valid Unicode: {problem}; decode its file as UTF-8")


def list_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list; refuse other things than a list of valid texts, by position."""
    if isinstance(texts, str | bytes):
        raise UserError("texts must be a list of str, found one text: put it into a list, [text]")
    if isinstance(texts, Mapping | Set) or getattr(texts, "ndim", 1) != 1:
        raise UserError(f"texts must be a list of str, found a {type(texts).__name__}: give its texts as a list")
    listed = texts if type(texts) is list else list(out_of_arrow(texts))
    check_texts(listed)
    return listed


def out_of_arrow(values: Any) -> Any:
    """Return a column of Arrow as a list of Python objects; return anything else unchanged."""
    return values.to_pylist() if hasattr(values, "to_pylist") else values


def find_text_error(text: object) -> str:
    """Return why something cannot be answered, or an empty string for a text; [`NO_TEXT`] as training sees it."""
    if isinstance(text, str):
        if text.isascii() or find_surrogate(text) is None:
            return "" if text.strip() else NO_TEXT
        return f"not Unicode: found {text!r:.80}"
    if text is None or type(text).__name__ == "NAType" or (isinstance(text, float) and math.isnan(text)):
        return NO_TEXT
    return f"not a text: found {type(text).__name__} {text!r:.80}"


def find_surrogate(text: str) -> int | None:
    """Return the place of the first lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
