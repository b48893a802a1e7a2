"""Values → pieces of Markdown that show them as they stand, whatever they hold."""

from __future__ import annotations

import re
from collections.abc import Sequence


def plain(text: str) -> str:
    """Return text on one line that Markdown shows as it stands."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return text as Markdown code, fenced by more backticks than it holds."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def block(language: str, content: str) -> str:
    """Return a block of code, fenced by more backticks than it holds."""
    fence = "`" * max(3, max(map(len, re.findall("`+", content)), default=0) + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, text to the left and numbers to the right.

    Args:
        header: Titles of the columns, Markdown already.
        rows: Cells, Markdown already, as many in each row as in the header.
    """
    numeric = [all(re.fullmatch(r"[\d.,%]+", row[column]) for row in rows) for column in range(len(header))]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
