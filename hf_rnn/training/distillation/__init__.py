"""Any sequence classifier of transformers → a recurrent student that learns from labels and from its answers."""

from ..arguments.distillation_arguments import DistillationArguments
from .api import distill

__all__ = ["DistillationArguments", "distill"]
