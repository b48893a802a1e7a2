"""Write a file completely or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path` and rename it, so that readers see the old file or the new one.

    Raises:
        OSError: When the file cannot be written; the old file is unchanged.
    """
    # hidden, so that it is never shared; a random name, because another process may write the same file
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.unfinished")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise the name might reach the disk before the content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
