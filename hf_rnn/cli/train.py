"""`hf-rnn train`: train from flags on top of a recipe; print the finished folder and its scores."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..settings.merge import make_parser, read_flags
from .console import print_note


def run(argv: Sequence[str]) -> None:
    """Train, then print the scores: two lines at a terminal, and one JSON object elsewhere or with `--json`.

    The object has the folder, its page on the Hub if it was pushed, and the scores by split, also of the linear model.
    """
    parser = make_parser(
        "hf-rnn train",
        description="Train a model on labelled texts and save a finished folder, which every other verb reads.",
        example="tickets.csv my-model --text_column message --label_column category",
    )
    flags = read_flags(parser, argv)
    from ..training.train import train

    run_training("train", argv, flags, train)


def run_training(verb: str, argv: Sequence[str], flags: Mapping[str, Any], start: Callable[..., Any]) -> None:
    """Run `start`, a training with these settings, and print its result; see [`run`]."""
    import datasets

    from ..training.checkpoints import TrainingStopped

    _keep_freed_memory()
    datasets.disable_progress_bars()  # those of reading and tokenizing
    is_main = os.environ.get("RANK", "0") == "0"
    try:
        result = start(**flags)
    except TrainingStopped as stopped:
        if is_main:
            print_note(f"hf-rnn {verb}: stopped by {stopped.signal.name}; {_describe_resume(verb, argv, flags)}")
        _end_process_group()
        raise SystemExit(stopped.exit_code) from stopped
    _end_process_group()
    if is_main:
        print(result.summarize() if sys.stdout.isatty() and "--json" not in argv else _to_json(result))


def _keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees: to return it and request it again may take a tenth of the time."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**28)  # M_TRIM_THRESHOLD, in bytes
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: its largest value


def _to_json(result: Any) -> str:
    scores = {
        split: {name: value for name, value in metrics.items() if not isinstance(value, dict | list | None)}
        for split, metrics in result.metrics.items()
        if split != "data"
    }
    card = getattr(result, "card", None)  # only a training has it
    if card is not None and card.baselines:
        (scores["linear_model"],) = card.baselines.values()
    where = {"output_dir": str(result.folder)} | ({} if result.url is None else {"url": result.url})
    return json.dumps({**where, **scores}, ensure_ascii=False)


def _end_process_group() -> None:
    """Wait for the process that writes; torchrun ends all processes when the first one fails."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _describe_resume(verb: str, argv: Sequence[str], flags: Mapping[str, Any]) -> str:
    if flags.get("save_only_model"):
        return "with save_only_model there is no checkpoint to resume from"
    more = ["--overwrite_output_dir=false"] * bool(flags.get("overwrite_output_dir"))
    folder = flags["output_dir"]
    named = any(token in (folder, f"--output_dir={folder}", f"--output-dir={folder}") for token in argv)
    more += ["--resume", *([] if named else ["--output_dir", folder])]
    command = shlex.join([*["torchrun", "..."] * ("TORCHELASTIC_RUN_ID" in os.environ), "hf-rnn", verb, *argv, *more])
    hidden = re.sub("(--hub[_-]token[= ])[^ ]+", r"\1...", command)  # a secret is not for a log
    return f"to resume, type: {hidden}"
