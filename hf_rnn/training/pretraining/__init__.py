"""Pretraining: teach a recurrent encoder the token states and sentence vectors of another encoder, without labels."""

from ..arguments.pretraining_arguments import PretrainingArguments
from .run import PretrainingResult, pretrain

__all__ = ["PretrainingArguments", "PretrainingResult", "pretrain"]
