"""`hf-rnn distill`: train a student; it has the flags of `train` and those of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.arguments.distillation_arguments import DistillationArguments
from ..training.arguments.run_arguments import parse
from .train import run_training


def run(argv: Sequence[str]) -> None:
    """Distil, then print the result as `hf-rnn train` does."""
    arguments = parse(
        argv,
        "hf-rnn distill",
        DistillationArguments,
        description="Train a small classifier from labelled texts and the answers of a teacher.",
        example="data/tweets my-student --teacher my-bert --unlabeled tweets.txt",
    )
    from ..training.distillation import distill

    run_training("distill", argv, arguments[2], lambda: distill(*arguments))
