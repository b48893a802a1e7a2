"""A finished folder → fast predictions with the model's own answers."""

from .predictor import FastRnn

__all__ = ["FastRnn"]
