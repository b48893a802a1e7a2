"""`hf-rnn pretrain`: teach a recurrent encoder the states of another; print folder and figures."""

from __future__ import annotations

from collections.abc import Sequence

from ..settings.fields import VERBS
from ..settings.flags import Flags
from .train import print_result, read_flags

FLAGS = Flags(
    "pretrain",
    VERBS["pretrain"],
    "Teach a recurrent encoder the states of another encoder, from texts without labels.",
    "my-sentence-encoder tweets.txt my-encoder",
    words=("teacher", "input", "output_dir"),
    needed=2,
    unused=(  # settings of labelled texts and of heads for them
        "pooling", "classifier_activation", "crf", "word_forms", "label_smoothing_factor",
        "class_weight_power", "head_learning_rate", "calibrate", "few_rows", "card_examples",
        "baselines", "max_minutes", "block_size", "metric_for_best_model",
        "early_stopping_patience", "push_to_hub",
    ),
    trains=True,
)  # fmt: skip


def run(argv: Sequence[str]) -> None:
    """Pretrain, then print the result as `hf-rnn train` does."""
    settings = read_flags(FLAGS, argv)
    from ..training.pretrain import run_pretraining

    print_result(settings, argv, run_pretraining)
