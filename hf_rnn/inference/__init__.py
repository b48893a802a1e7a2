"""Predict with a finished model."""

from .predictor import FastRnn

__all__ = ["FastRnn"]
