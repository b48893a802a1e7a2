"""`hf-rnn pretrain`: teach a recurrent encoder the states of another encoder; print the folder and its figures."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.settings import read_flags
from ..training.teacher_settings import make_pretraining_parser
from .train import run_training


def run(argv: Sequence[str]) -> None:
    """Pretrain, then print the result as `hf-rnn train` does."""
    parser = make_pretraining_parser(
        "hf-rnn pretrain",
        description="Teach a recurrent encoder the states of another encoder, from texts without labels.",
        example="my-sentence-encoder tweets.txt my-encoder",
    )
    flags = read_flags(parser, argv)
    from ..training.pretrain import pretrain

    run_training("pretrain", argv, flags, pretrain)
