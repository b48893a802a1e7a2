"""Shared by the verbs: the flags that name a model, and output for a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

INTERRUPTED = 130  # exit code after Ctrl-C, as a shell reports it

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # except tab and line feed


@dataclass
class ModelFlags:
    """Flags that name a model."""

    model: str = field(default="", metadata={"help": "finished folder, or id on the Hub", "required": True})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of an id on the Hub"})


def escape_controls(text: str) -> str:
    """Return a text with control characters escaped, which a terminal would execute."""
    return _CONTROLS.sub(lambda control: ascii(control.group())[1:-1], text)


def format_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows as aligned columns; those numbered in `right` are aligned at the right."""
    lines = [[escape_controls(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def print_note(line: str) -> None:
    """Print a line on stderr, beside the results."""
    print(escape_controls(line), file=sys.stderr, flush=True)
