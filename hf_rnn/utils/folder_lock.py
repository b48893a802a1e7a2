"""Lock a folder against other runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

if sys.platform != "win32":  # Windows has no locks of folders
    import fcntl


@contextlib.contextmanager
def hold_folder(folder: str | Path) -> Iterator[None]:
    """Lock an existing folder until this block or the process ends.

    Raises:
        UserError: If another run has the lock; the two would mix their files.
    """
    with contextlib.ExitStack() as stack:
        if sys.platform != "win32":
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # in forked workers too
            except BlockingIOError as error:
                raise UserError(
                    f"output_dir {folder} is in use by another run: wait until it ends, or give another"
                ) from error
            except OSError:  # some file systems have no locks
                pass
        yield
