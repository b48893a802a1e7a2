"""Predictions → named numbers: `evaluation` begins with logits, `baselines` with a linear model of the same texts."""

from .classification import (
    SCORES,
    Accuracy,
    ConfusionMatrix,
    MacroF1,
    MacroRecall,
    PerClass,
    brier_score,
    classification_metrics,
    expected_calibration_error,
    reliability_table,
)

__all__ = [
    "SCORES",
    "Accuracy",
    "ConfusionMatrix",
    "MacroF1",
    "MacroRecall",
    "PerClass",
    "brier_score",
    "classification_metrics",
    "expected_calibration_error",
    "reliability_table",
]
