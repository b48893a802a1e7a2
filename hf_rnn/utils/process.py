"""Files, memory, imports and threads of a process. Nothing heavy is imported here.

A process may train as one of its parts, such as a notebook or a server: threads that train take
turns, and random states and progress bars are restored.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

_TRAINING = threading.RLock()
_AFTER_IMPORT: dict[str, Callable[[ModuleType], None]] = {}


# ---- files ----


def write_whole(path: Path, content: bytes) -> None:
    """Write a file at once; see [`replace_file`]."""
    with replace_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` and rename it at the end: readers see the old or the new.

    The new file has the permissions of the old one. A symbolic link stays, and the file that it
    names is replaced.

    Raises:
        OSError: When the file cannot be written; the old file is unchanged.
    """
    path = Path(os.path.realpath(path))
    # hidden, so that it is never shared; with a random name, as another process may write the file
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.unfinished")
    try:
        with open(temporary, "wb") as file:
            if path.exists():
                shutil.copymode(path, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())  # otherwise the name might reach the disk before the content
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as of a full disk
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


# ---- memory ----

_MOST_MAPPED = 256  # MB of mapped files in the memory of a process
_PAUSE = 0.02  # seconds


@cache
def limit_mapped_files() -> None:
    """Keep little of the mapped files of Arrow in memory, from now on; only Linux can.

    A page that was read once counts as memory of the process until another one needs the space.
    So a pass over a large table would take as much memory as the table. Pages that are dropped
    are still in the cache of the system.
    """
    if os.path.exists("/proc/self/maps"):
        threading.Thread(target=_drop_pages, daemon=True).start()


def _drop_pages() -> None:
    advise = ctypes.CDLL(None).madvise
    clock = threading.Event()  # never set
    while not clock.wait(_PAUSE):
        shared = int(Path("/proc/self/statm").read_text().split()[2])  # pages
        if shared * mmap.PAGESIZE < _MOST_MAPPED << 20:
            continue
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            pages, permissions, *_ = line.split()
            if line.endswith(".arrow") and permissions.startswith("r--"):
                start, end = (int(address, 16) for address in pages.split("-"))
                advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 4)  # MADV_DONTNEED


# ---- imports ----


def after_import(name: str, function: Callable[[ModuleType], None]) -> None:
    """Call a function with a module after each of its imports, or now if it is imported.

    The library wrapt does this too, and takes 0.05 s to import.
    """
    if name in sys.modules:
        function(sys.modules[name])
    _AFTER_IMPORT[name] = function


class _Finder:
    """Finds the modules of `_AFTER_IMPORT` as usual, with a loader that then calls the function."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in _AFTER_IMPORT else None  # type: ignore[arg-type]
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_call(module: ModuleType) -> None:
                execute(module)
                _AFTER_IMPORT[name](module)

            spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder)


# ---- training ----


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other thread trains: random states belong to the process."""
    with _TRAINING:
        yield


@contextlib.contextmanager
def library_bars_off() -> Iterator[None]:
    """Hide the progress bars of transformers and datasets."""
    import datasets
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    shown_by_datasets = not datasets.are_progress_bars_disabled()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if shown_by_datasets:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Restore random states and progress bars after a training run."""
    import random

    import numpy as np
    import torch

    state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the Trainer seeds this one
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    try:
        with torch.random.fork_rng(devices), library_bars_off():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def only_errors() -> Iterator[None]:
    """Log only errors of this package inside a `with` block: it repeats what was logged before."""
    package = logging.getLogger(__package__.partition(".")[0])
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)
