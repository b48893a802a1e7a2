"""Scores, calibration, figures and a linear baseline of a trained model.

`modules` has the scores as modules of `evaluate`, which can be combined with others. Its import takes seconds.
"""

from .scores import classification_metrics

__all__ = ["classification_metrics"]
