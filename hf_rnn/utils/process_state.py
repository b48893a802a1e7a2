"""Training inside somebody else's program: what it changes of the process is put back afterwards.

Random states, the libraries' bars and a few loggers. Threads that train take turns. Nothing here trains, and nothing
is hidden that a user could act upon.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

_CHECKPOINTS = logging.getLogger("transformers.trainer_utils")
_TRAINING = threading.RLock()


def _renew_lock() -> None:
    global _TRAINING
    _TRAINING = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)  # a thread that trained is not there to let go


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other thread trains: random states and accelerate's are the process's."""
    with _TRAINING:
        yield


@contextlib.contextmanager
def library_bars_off() -> Iterator[None]:
    """Hide transformers' bars of loading and writing, too quick to watch."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def contained(quiet: bool) -> Iterator[None]:
    """Let a training leave random states, bars and loggers of the process as they were."""
    import datasets

    bars, loading = datasets.are_progress_bars_disabled(), logging.getLogger("hf_rnn.data.loading")
    level, state, numpy_state = loading.level, random.getstate(), np.random.get_state()  # noqa: NPY002 - the Trainer seeds this one
    left_out = _says_something in _CHECKPOINTS.filters
    datasets.disable_progress_bars()
    leave_out_file_times()
    if quiet:
        loading.setLevel(logging.ERROR)  # that rows are held out is what the class says it does
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    try:
        with torch.random.fork_rng(devices), library_bars_off():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        loading.setLevel(level)
        if not left_out:
            _CHECKPOINTS.removeFilter(_says_something)
        if not bars:
            datasets.enable_progress_bars()


def leave_out_file_times() -> None:
    """Hide, until it is put back, what is said at every checkpoint on common file systems.

    It is of no consequence: the numbers of checkpoints order them as well as their times.
    """
    _CHECKPOINTS.addFilter(_says_something)


def _says_something(record: logging.LogRecord) -> bool:
    return "mtime may not be reliable" not in record.getMessage()
