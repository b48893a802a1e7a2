"""`hf-rnn train`: train from flags on top of a recipe; print the finished folder and its scores."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..training.arguments.run_arguments import parse_argv
from ..training.arguments.training_arguments import RnnTrainingArguments
from .console import print_note


def run(argv: Sequence[str]) -> None:
    """Train, then print the scores: two lines at a terminal, elsewhere and with `--json` one JSON object.

    The object has the folder, its page on the Hub if it was pushed, and the scores by split.
    """
    arguments = parse_argv(
        argv,
        description="Train a model on labelled texts and save a finished folder, which every other verb reads.",
        example="data/tweets my-model",
    )
    from ..training.train import train

    run_training("train", argv, arguments.training, lambda: train(*arguments))


def run_training(verb: str, argv: Sequence[str], settings: RnnTrainingArguments, start: Callable[[], Any]) -> None:
    """Run `start`, a training with these settings, and print its result; see [`run`]."""
    import datasets

    from ..training.checkpointing.interrupt import TrainingStopped

    datasets.disable_progress_bars()  # those of reading and tokenizing
    try:
        result = start()
    except TrainingStopped as stopped:
        if settings.process_index == 0:
            print_note(f"hf-rnn {verb}: stopped by {stopped.signal.name}; {_describe_resume(verb, argv, settings)}")
        _end_process_group()
        raise SystemExit(stopped.exit_code) from stopped
    _end_process_group()
    if settings.process_index == 0:
        print(result.summarize() if sys.stdout.isatty() and "--json" not in argv else _to_json(result))


def _to_json(result: Any) -> str:
    scores = {
        split: {name: value for name, value in metrics.items() if not isinstance(value, dict | list | None)}
        for split, metrics in result.metrics.items()
    }
    where = {"output_dir": str(result.folder)} | ({} if result.url is None else {"url": result.url})
    return json.dumps({**where, **scores}, ensure_ascii=False)


def _end_process_group() -> None:
    """Wait for the process that writes; torchrun ends all processes when the first one fails."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _describe_resume(verb: str, argv: Sequence[str], settings: RnnTrainingArguments) -> str:
    if settings.save_only_model:
        return "with save_only_model there is no checkpoint to resume from"
    command = ["hf-rnn", verb]
    for token in argv:  # a token of the Hub does not belong into a log
        secret = re.fullmatch("--hub[_-]token", command[-1])
        command.append("..." if secret else re.sub("^(--hub[_-]token=).*", r"\1...", token))
    command += ["--overwrite_output_dir=false"] * settings.overwrite_output_dir
    command += ["--resume"] * (not settings.resume)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        command[:1] = ["torchrun", "...", "hf-rnn"]
    return f"to resume, type: {shlex.join(command)}"
