"""`hf-rnn distill`: train a student; it has the flags of `train` and those of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from ..settings.fields import VERBS
from ..settings.flags import Flags
from .train import print_result, read_flags

FLAGS = Flags(
    "distill",
    VERBS["distill"],
    "Train a small classifier from labelled texts and the answers of a teacher.",
    "data/tweets my-bert my-student --unlabeled tweets.txt",
    words=("data_dir", "teacher", "output_dir"),
    needed=2,
    unused=(  # settings of other tasks than sequence-classification
        "task", "text_pair_column", "label_columns", "label_separator", "crf", "word_forms",
        "tie_word_embeddings", "block_size", "few_rows",
    ),
    trains=True,
)  # fmt: skip


def run(argv: Sequence[str]) -> None:
    """Distil, then print the result as `hf-rnn train` does."""
    settings = read_flags(FLAGS, argv)
    from ..training.distill import run_distillation

    print_result(settings, argv, run_distillation)
