"""Pretraining: teach a recurrent encoder the token states and sentence vectors of another encoder, without labels."""

from ..settings import PretrainingArguments
from .run import PretrainingResult, pretrain

__all__ = ["PretrainingArguments", "PretrainingResult", "pretrain"]
