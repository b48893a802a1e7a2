"""`hf-rnn distill`: train a student; it has the flags of `train` and those of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.arguments.run_arguments import parse_argv_with
from ..training.distillation import DistillationArguments, distill
from .train import run_training


def run(argv: Sequence[str]) -> None:
    """Distil, then print one JSON object as `hf-rnn train` does."""
    arguments, further = parse_argv_with(DistillationArguments, argv, "hf-rnn distill")
    run_training("distill", argv, arguments.training, lambda: distill(*arguments, further))
