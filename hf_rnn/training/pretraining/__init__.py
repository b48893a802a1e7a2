"""Pretraining: teach a recurrent encoder the sentence vectors of another encoder, from texts without labels."""

from ..arguments.pretraining_arguments import PretrainingArguments
from .run import PretrainingResult, pretrain

__all__ = ["PretrainingArguments", "PretrainingResult", "pretrain"]
