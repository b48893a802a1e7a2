"""`hf-rnn pretrain`: teach a recurrent encoder the states of another encoder; print the folder and its figures."""

from __future__ import annotations

from collections.abc import Sequence

from ..settings.arguments import ModelArguments, PretrainingArguments
from ..settings.merge import make_parser, read_flags
from .train import run_training

_UNUSED = (  # settings of labelled texts and of heads for them
    "pooling", "classifier_activation", "pair_encoding", "crf", "word_forms", "label_smoothing_factor",
    "class_weight_power", "head_learning_rate", "calibrate", "few_rows", "card_examples", "baselines", "max_minutes",
    "block_size", "metric_for_best_model", "load_best_model_at_end", "early_stopping_patience", "push_to_hub",
)  # fmt: skip


def run(argv: Sequence[str]) -> None:
    """Pretrain, then print the result as `hf-rnn train` does."""
    parser = make_parser(
        "hf-rnn pretrain",
        PretrainingArguments,
        kinds=(ModelArguments,),
        unused=_UNUSED,
        description="Teach a recurrent encoder the states of another encoder, from texts without labels.",
        example="my-sentence-encoder tweets.txt my-encoder",
    )
    flags = read_flags(parser, argv)
    from ..training.pretrain import pretrain

    run_training("pretrain", argv, flags, pretrain)
