"""Protect a program that trains as one of its parts: a notebook, a server, threads.

Threads that train take turns. Afterwards random states, progress bars and loggers are as before.
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
    os.register_at_fork(after_in_child=_renew_lock)  # the thread that holds the lock does not exist in the child


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other thread trains: random states and accelerate's state belong to the process."""
    with _TRAINING:
        yield


@contextlib.contextmanager
def library_bars_off() -> Iterator[None]:
    """Hide the progress bars of transformers for loading and saving."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def contained(quiet: bool) -> Iterator[None]:
    """Restore random states, progress bars and loggers after a training run.

    Args:
        quiet: Whether to hide warnings about the loading of data.
    """
    import datasets

    bars, loading = datasets.are_progress_bars_disabled(), logging.getLogger("hf_rnn.data.loading")
    level, state, numpy_state = loading.level, random.getstate(), np.random.get_state()  # noqa: NPY002 - the Trainer seeds this one
    filtered = _is_about_something_else in _CHECKPOINTS.filters
    datasets.disable_progress_bars()
    leave_out_file_times()
    if quiet:
        loading.setLevel(logging.ERROR)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    try:
        with torch.random.fork_rng(devices), library_bars_off():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        loading.setLevel(level)
        if not filtered:
            _CHECKPOINTS.removeFilter(_is_about_something_else)
        if not bars:
            datasets.enable_progress_bars()


def leave_out_file_times() -> None:
    """Hide the warning of every checkpoint about modification times: their numbers order checkpoints as well."""
    _CHECKPOINTS.addFilter(_is_about_something_else)


def _is_about_something_else(record: logging.LogRecord) -> bool:
    return "mtime may not be reliable" not in record.getMessage()
