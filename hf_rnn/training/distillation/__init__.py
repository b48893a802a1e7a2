"""Distillation: any sequence classifier of transformers teaches a recurrent student."""

from ..teacher_settings import DistillationArguments
from .run import distill

__all__ = ["DistillationArguments", "distill"]
