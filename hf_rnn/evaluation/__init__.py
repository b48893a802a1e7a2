"""Scores, calibration, decisions, figures, and a linear model beside the trained one."""

from .scores import classification_metrics

__all__ = ["classification_metrics"]
