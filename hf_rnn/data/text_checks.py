"""What a text must be, wherever texts come in: a str that is Unicode; what is none is named by its position."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..utils.errors import UserError


def check_text(text: str) -> None:
    """Refuse a text that is no Unicode, as a terminal hands over bytes that are not UTF-8.

    Raises:
        UserError: When it cannot be encoded.
    """
    place = _find_surrogate(text)
    if place is not None:
        raise UserError(f"the text is not UTF-8 at character {place}: {text!r:.60}")


def check_texts(texts: Iterable[Any], where: str = "texts", first: int = 0) -> None:
    """Refuse texts of which one is no str or no Unicode; an empty one is allowed.

    Args:
        texts: To look at, in their order.
        where: What they are called in messages.
        first: The position of the first of them.

    Raises:
        UserError: For what is no valid text, named by its position.
    """
    for position, text in enumerate(texts, start=first):
        if not isinstance(text, str):
            raise UserError(f"{where}[{position}] is not a str: found {text!r:.80}; give '' for an empty text")
        if not text.isascii() and (place := _find_surrogate(text)) is not None:
            found = f"a lone surrogate at character {place} of {text!r:.80}"
            raise UserError(f"{where}[{position}] is not valid Unicode: {found}; decode its file as UTF-8")


def out_of_arrow(values: Any) -> Any:
    """Return what a column of Arrow's holds as a list, for its own items are no str; all else as it is."""
    return values.to_pylist() if hasattr(values, "to_pylist") else values


def _find_surrogate(text: str) -> int | None:
    """Return where half a UTF-16 pair stands alone, from 0; None in a text that is Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
