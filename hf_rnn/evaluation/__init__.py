"""Metrics, calibration, figures and a linear baseline of a trained classifier."""

from .classification import (
    SCORES,
    Accuracy,
    ConfusionMatrix,
    MacroF1,
    MacroRecall,
    PerClass,
    brier_score,
    classification_metrics,
    evaluate_logits,
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
    "evaluate_logits",
    "expected_calibration_error",
    "reliability_table",
]
