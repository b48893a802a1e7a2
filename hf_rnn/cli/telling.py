"""A line on stderr beside the results."""

from __future__ import annotations

import contextlib
import sys


def tell(line: str) -> None:
    """Print a line on stderr; where its disk is full or its reader has left, the results and the exit code still tell.

    Args:
        line: Of no use to a program.
    """
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
