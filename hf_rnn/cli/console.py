"""What people read at a terminal: a line on stderr beside the results, and texts of others without commands to it."""

from __future__ import annotations

import contextlib
import re
import sys

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed


def without_controls(text: str) -> str:
    """Return a text with escapes for what a terminal would obey: names and labels are others' to choose."""
    return _CONTROLS.sub(lambda control: ascii(control.group())[1:-1], text)


def tell(line: str) -> None:
    """Print a line on stderr; where its disk is full or its reader has left, the results and the exit code still tell.

    Args:
        line: Of no use to a program.
    """
    with contextlib.suppress(OSError):
        print(without_controls(line), file=sys.stderr, flush=True)
