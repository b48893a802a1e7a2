"""`hf-rnn train`: flags on top of a recipe, to a finished folder; prints where it is and what it reached."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence

import datasets

from ..arguments import Arguments, parse_argv
from ..stopping import TrainingStopped
from ..training import train


def run(argv: Sequence[str]) -> None:
    """Train, then print one JSON object: the folder, its page on the Hub if it was pushed, and the scores by split.

    Raises:
        UserError: For a mistake in flags, recipe or data.
        SystemExit: After SIGTERM (143) or Ctrl-C (130); a line on stderr tells the command that goes on.
    """
    arguments = parse_argv(argv)
    datasets.disable_progress_bars()  # of reading and tokenizing: too quick to watch; training has its own
    # said at every checkpoint on common file systems, and of no consequence: their numbers order them as well
    logging.getLogger("transformers.trainer_utils").addFilter(
        lambda record: "mtime may not be reliable" not in record.getMessage()
    )
    try:
        result = train(*arguments)
    except TrainingStopped as stopped:
        if arguments.training.process_index == 0:
            print(_how_to_go_on(stopped, argv, arguments), file=sys.stderr)
        raise SystemExit(stopped.exit_code) from stopped
    if arguments.training.process_index > 0:  # of several processes one tells
        return
    scores = {
        split: {name: value for name, value in metrics.items() if not isinstance(value, dict | list)}
        for split, metrics in result.metrics.items()
    }
    where = {"output_dir": str(result.folder)} | ({} if result.url is None else {"url": result.url})
    print(json.dumps({**where, **scores}, ensure_ascii=False))


def _how_to_go_on(stopped: TrainingStopped, argv: Sequence[str], arguments: Arguments) -> str:
    command = ["hf-rnn", "train", *argv]
    if arguments.training.overwrite_output_dir:
        command.append("--overwrite_output_dir=false")
    if not arguments.training.resume:
        command.append("--resume")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        command[:1] = ["torchrun", "...", "hf-rnn"]
    return f"hf-rnn train: {stopped}; to go on, type: {shlex.join(command)}"
