"""`hf-rnn distill`: train a student; it has the flags of `train` and those of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from ..settings.arguments import DistillationArguments
from ..settings.merge import make_parser, read_flags
from .train import run_training

_UNUSED = (  # settings of other tasks than sequence-classification
    "task", "text_pair_column", "pair_encoding", "label_columns", "label_separator", "crf", "word_forms",
    "tie_word_embeddings", "block_size", "few_rows",
)  # fmt: skip


def run(argv: Sequence[str]) -> None:
    """Distil, then print the result as `hf-rnn train` does."""
    parser = make_parser(
        "hf-rnn distill",
        DistillationArguments,
        description="Train a small classifier from labelled texts and the answers of a teacher.",
        example="data/tweets my-bert my-student --unlabeled tweets.txt",
        unused=_UNUSED,
    )
    flags = read_flags(parser, argv)
    from ..training.distill import distill

    run_training("distill", argv, flags, distill)
