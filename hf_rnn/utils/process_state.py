"""Protect a program that trains as one of its parts: a notebook, a server, threads.

Threads that train take turns. Afterwards random states and progress bars are as before.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

_TRAINING = threading.RLock()


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
def contained() -> Iterator[None]:
    """Restore random states and progress bars after a training run."""
    import datasets

    bars, state = datasets.are_progress_bars_disabled(), random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the Trainer seeds this one
    datasets.disable_progress_bars()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    try:
        with torch.random.fork_rng(devices), library_bars_off():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if not bars:
            datasets.enable_progress_bars()


def multiplies_bfloat16() -> bool | None:
    """Return whether the processor has bfloat16 instructions, or None when an older torch does not report it."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    supported = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return supported if capabilities else None
