"""`hf-rnn train`: train from flags on top of a recipe; print the finished folder and its scores."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import torch

from ..training.arguments.run_arguments import parse_argv
from ..training.arguments.training_arguments import RnnTrainingArguments
from ..training.checkpointing.interrupt import TrainingStopped
from ..training.train import train
from ..utils.process_state import leave_out_file_times
from .console import print_note


def run(argv: Sequence[str]) -> None:
    """Train, then print one JSON object: the folder, its page on the Hub if it was pushed, and the scores by split."""
    arguments = parse_argv(argv)
    run_training("train", argv, arguments.training, lambda: train(*arguments))


def run_training(verb: str, argv: Sequence[str], settings: RnnTrainingArguments, start: Callable[[], Any]) -> None:
    """Run `start`, a training with these settings, and print its result; see [`run`]."""
    datasets.disable_progress_bars()  # those of reading and tokenizing
    leave_out_file_times()
    try:
        result = start()
    except TrainingStopped as stopped:
        if settings.process_index == 0:
            print_note(f"hf-rnn {verb}: stopped by {stopped.signal.name}; {_describe_resume(verb, argv, settings)}")
        _end_process_group()
        raise SystemExit(stopped.exit_code) from stopped
    _end_process_group()
    if settings.process_index == 0:
        scores = {
            split: {name: value for name, value in metrics.items() if not isinstance(value, dict | list | None)}
            for split, metrics in result.metrics.items()
        }
        where = {"output_dir": str(result.folder)} | ({} if result.url is None else {"url": result.url})
        print(json.dumps({**where, **scores}, ensure_ascii=False))


def _end_process_group() -> None:
    """Wait for the process that writes; torchrun ends all processes when the first one fails."""
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
