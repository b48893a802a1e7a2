"""One file, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there, so that whoever looks finds the old one or the new one.

    Args:
        path: Its place, in a folder that is there.
        content: All of it.

    Raises:
        OSError: When it cannot be written; the old file is as it was.
    """
    # hidden: never shared; of this call alone, for another process may be writing the same file
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.unfinished")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or the name might reach the disk before the content does
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
