"""`hf-rnn pretrain`: teach a recurrent encoder a teacher's sentence vectors; print the folder and its figures."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.arguments.pretraining_arguments import parse_pretraining
from .train import run_training


def run(argv: Sequence[str]) -> None:
    """Pretrain, then print the result as `hf-rnn train` does."""
    arguments = parse_pretraining(
        argv,
        "hf-rnn pretrain",
        description="Teach a recurrent encoder the vectors of a sentence encoder, from texts without labels.",
        example="sentence-transformers/all-MiniLM-L6-v2 texts.txt.gz my-encoder",
    )
    from ..training.pretraining import pretrain

    run_training("pretrain", argv, arguments[2], lambda: pretrain(*arguments))
