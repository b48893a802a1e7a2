"""Distillation: any sequence classifier of transformers teaches a recurrent student."""

from ..arguments.distillation_arguments import DistillationArguments
from .run import distill

__all__ = ["DistillationArguments", "distill"]
