"""`hf-rnn train`: train from flags on top of a recipe; print the finished folder and its scores."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..settings.fields import VERBS
from ..settings.flags import Flags
from ..settings.resolve import Settings, resolve
from .console import print_note

FLAGS = Flags(
    "train",
    VERBS["train"],
    "Train a model on labelled texts and save a finished folder, which every other verb reads.",
    "tickets.csv my-model --label_column category",
    words=("data_dir", "output_dir"),
    trains=True,
)


def run(argv: Sequence[str]) -> None:
    """Train, then print the scores: two lines at a terminal, else or with `--json` a JSON object.

    The object has the folder, its page on the Hub if it was pushed, and the scores by split, also
    of the linear model.
    """
    settings = read_flags(FLAGS, argv)
    from ..training.train import run_training

    print_result(settings, argv, run_training)


def read_flags(flags: Flags, argv: Sequence[str]) -> Settings:
    """Return the settings of a verb that trains."""
    return resolve(flags.read([word for word in argv if word != "--json"]), flags.verb, flags.check)


def print_result(settings: Settings, argv: Sequence[str], start: Callable[[Settings], Any]) -> None:
    """Run `start`, a training with these settings, and print its result; see [`run`]."""
    from ..training.folder import TrainingStopped

    _keep_freed_memory()
    is_main = os.environ.get("RANK", "0") == "0"
    try:
        result = start(settings)
    except TrainingStopped as stopped:
        if is_main:
            line = f"stopped by {stopped.signal.name}; {_describe_resume(settings, argv)}"
            print_note(f"hf-rnn {settings.verb}: {line}")
        _end_process_group()
        raise SystemExit(stopped.exit_code) from stopped
    _end_process_group()
    if not is_main:
        return
    if sys.stdout.isatty() and "--json" not in argv:
        print(result.summarize())
    else:
        print(json.dumps(_list_facts(result), ensure_ascii=False))


def _keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees; this may save a tenth of the time."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**28)  # M_TRIM_THRESHOLD, in bytes
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: its largest value


def _list_facts(result: Any) -> dict[str, Any]:
    """Return folder, page and scores of a training for JSON."""
    facts: dict[str, Any] = {"output_dir": str(result.folder)}
    if result.url is not None:
        facts["url"] = result.url
    for split, metrics in result.metrics.items():
        if split not in ("card", "data"):
            facts[split] = {
                name: value
                for name, value in metrics.items()
                if not isinstance(value, dict | list | None)
            }
    baselines = result.metrics.get("card", {}).get("baselines")
    if baselines:
        (facts["linear_model"],) = baselines.values()
    return facts


def _end_process_group() -> None:
    """Wait for the process that writes; torchrun ends all processes when the first one fails."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _describe_resume(settings: Settings, argv: Sequence[str]) -> str:
    training = settings.training
    folder = str(training.output_dir)
    if training.save_only_model:
        return "with save_only_model there is no checkpoint to resume from"

    words = ["hf-rnn", settings.verb, *_without(argv, "overwrite_output_dir", "resume"), "--resume"]
    spellings = (folder, f"--output_dir={folder}", f"--output-dir={folder}")
    if not any(word in spellings for word in argv):
        words += ["--output_dir", folder]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        words = ["torchrun", "...", *words]
    hidden = re.sub("(--hub[_-]token[= ])[^ ]+", r"\1...", shlex.join(words))  # a secret
    return f"to resume, type: {hidden}"


def _without(argv: Sequence[str], *flags: str) -> list[str]:
    """Return the words of a command without yes-or-no flags and their values."""
    words = []
    is_value = False  # whether the word is the value of a flag that was left out
    for word in argv:
        name, _, value = word.removeprefix("--").replace("-", "_").partition("=")
        is_left_out = word.startswith("--") and name.removeprefix("no_") in flags
        if not is_left_out and not (is_value and not word.startswith("-")):
            words.append(word)
        is_value = is_left_out and not value and not name.startswith("no_")
    return words
