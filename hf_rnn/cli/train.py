"""`hf-rnn train`: flags on top of a recipe, to a finished folder; prints where it is and what it reached."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence

import datasets
import torch

from ..training.arguments.run_arguments import parse_argv
from ..training.arguments.training_arguments import RnnTrainingArguments
from ..training.checkpointing.interrupt import TrainingStopped
from ..training.train import TrainingResult, train
from ..utils.process_state import leave_out_file_times
from .console import tell


def run(argv: Sequence[str]) -> None:
    """Train, then print one JSON object: the folder, its page on the Hub if it was pushed, and the scores by split.

    Raises:
        UserError: For a mistake in flags, recipe or data.
        SystemExit: After SIGTERM (143) or Ctrl-C (130); a line on stderr tells the command that goes on.
    """
    arguments = parse_argv(argv)
    run_training("train", argv, arguments.training, lambda: train(*arguments))


def run_training(
    verb: str, argv: Sequence[str], settings: RnnTrainingArguments, start: Callable[[], TrainingResult]
) -> None:
    """Run a training and print what it reached, as [`run`] says.

    Args:
        verb: That was typed.
        argv: Its flags.
        settings: Of the training.
        start: Trains.
    """
    datasets.disable_progress_bars()  # of reading and tokenizing: too quick to watch; training has its own
    leave_out_file_times()
    try:
        result = start()
    except TrainingStopped as stopped:
        if settings.process_index == 0:
            tell(_how_to_go_on(verb, stopped, argv, settings))
        _leave_together()
        raise SystemExit(stopped.exit_code) from stopped
    _leave_together()
    if settings.process_index > 0:  # of several processes one tells
        return
    scores = {
        split: {name: value for name, value in metrics.items() if not isinstance(value, dict | list | None)}
        for split, metrics in result.metrics.items()
    }
    where = {"output_dir": str(result.folder)} | ({} if result.url is None else {"url": result.url})
    print(json.dumps({**where, **scores}, ensure_ascii=False))


def _leave_together() -> None:
    """Where several processes train, wait for the one that writes: torchrun ends all when the first of them fails.

    What torch keeps open between them is closed, for at the end of a process it may abort it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _how_to_go_on(verb: str, stopped: TrainingStopped, argv: Sequence[str], settings: RnnTrainingArguments) -> str:
    told = f"hf-rnn {verb}: stopped by {stopped.signal.name}"
    if settings.save_only_model:
        return f"{told}; with save_only_model there is nothing to go on from"
    command = ["hf-rnn", verb, *_without_token(argv)]
    if settings.overwrite_output_dir:
        command.append("--overwrite_output_dir=false")
    if not settings.resume:
        command.append("--resume")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        command[:1] = ["torchrun", "...", "hf-rnn"]
    return f"{told}; to go on, type: {shlex.join(command)}"


def _without_token(argv: Sequence[str]) -> list[str]:
    """The flags to show in a terminal's log, where a token has no business."""
    shown: list[str] = []
    for value in argv:
        flag, given, _ = value.partition("=")
        if shown and _is_token(shown[-1]):
            shown.append("...")
        else:
            shown.append(f"{flag}=..." if given and _is_token(flag) else value)
    return shown


def _is_token(flag: str) -> bool:
    return flag.replace("-", "_") == "__hub_token"
