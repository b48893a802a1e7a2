"""One file, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there, so that whoever looks finds the old one or the new one.

    Args:
        path: Its place, in a folder that is there.
        content: All of it.

    Raises:
        OSError: When it cannot be written; the old file is as it was.
    """
    beside = path.with_name(f".{path.name}.unfinished")  # hidden: never shared
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
