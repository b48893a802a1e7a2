"""Scores, calibration, figures and a linear model beside the trained one. `modules` has the scores for `evaluate`."""

from .scores import classification_metrics

__all__ = ["classification_metrics"]
