"""`hf-rnn distill`: train a student; it has the flags of `train` and those of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.arguments.distillation_arguments import DistillationArguments
from ..training.arguments.run_arguments import make_parser, read_flags
from .train import run_training


def run(argv: Sequence[str]) -> None:
    """Distil, then print the result as `hf-rnn train` does."""
    parser = make_parser(
        "hf-rnn distill",
        DistillationArguments,
        description="Train a small classifier from labelled texts and the answers of a teacher.",
        example="data/tweets my-bert my-student --unlabeled tweets.txt",
    )
    flags = read_flags(parser, argv)
    from ..training.distillation import distill

    run_training("distill", argv, flags, distill)
