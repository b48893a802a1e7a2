"""`hf-rnn pretrain`: teach a recurrent encoder a teacher's sentence vectors; print the folder and its figures."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.pretraining.run import parse, pretrain
from .train import run_training


def run(argv: Sequence[str]) -> None:
    """Pretrain, then print one JSON object as `hf-rnn train` does."""
    arguments = parse(argv, "hf-rnn pretrain")
    run_training("pretrain", argv, arguments[2], lambda: pretrain(*arguments))
