"""`hf-rnn train`: flags on top of a recipe, to a finished folder; prints where it is and what it reached."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import datasets
from transformers.utils import logging as transformers_logging

from ..arguments import parse_argv
from ..training import train


def run(argv: Sequence[str]) -> None:
    """Train, then print one JSON object: the folder, and the scores by split.

    Raises:
        UserError: For a mistake in flags, recipe or data.
    """
    arguments = parse_argv(argv)
    # of reading, tokenizing and writing: too quick to watch; training has its own
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    # said at every checkpoint on common file systems, and of no consequence: their numbers order them as well
    logging.getLogger("transformers.trainer_utils").addFilter(
        lambda record: "mtime may not be reliable" not in record.getMessage()
    )
    result = train(*arguments)
    if arguments.training.process_index > 0:  # of several processes one tells
        return
    scores = {
        split: {name: value for name, value in metrics.items() if not isinstance(value, dict | list)}
        for split, metrics in result.metrics.items()
    }
    print(json.dumps({"output_dir": str(result.folder), **scores}, ensure_ascii=False))
