"""Write a file completely or not at all, and remove what killed processes left."""

from __future__ import annotations

import atexit
import contextlib
import functools
import glob
import os
import shutil
import sys
import tempfile
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def write_whole(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path` and rename it, so that readers see the old file or the new one.

    The new file has the permissions of the old one. A symbolic link stays, and the file that it names is replaced.

    Raises:
        OSError: When the file cannot be written; the old file is unchanged.
    """
    path = Path(os.path.realpath(path))
    remove_abandoned(path.parent, f".*.{'?' * 16}.unfinished")
    while True:
        # hidden, so that it is never shared; a random name, because another process may write the same file
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.unfinished")
        with open(temporary, "wb") as file:
            try:
                if not hold(file.fileno(), temporary):
                    continue
                if path.exists():
                    shutil.copymode(path, temporary)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # otherwise the name might reach the disk before the content
                if sys.platform == "win32":  # it does not rename an open file
                    file.close()
                return os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)


def make_folder(parent: Path, prefix: str) -> Path:
    """Make a folder that is removed when the process ends, or after a kill by the next process that makes one."""
    remove_abandoned(parent, f"{prefix}*")
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if sys.platform == "win32" or hold(os.open(folder, os.O_RDONLY), folder):
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return folder


def hold(descriptor: int, path: Path) -> bool:
    """Lock a new file or folder until the descriptor closes; return whether it still exists."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    return path.exists()


@functools.cache  # once per process
def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove the files and folders of a pattern that no live process holds."""
    for name in glob.glob(pattern, root_dir=folder) if sys.platform != "win32" else ():
        with contextlib.suppress(OSError):  # it is held, or another process removes it
            descriptor = os.open(folder / name, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder / name) if os.path.isdir(folder / name) else os.unlink(folder / name)
            finally:
                os.close(descriptor)
