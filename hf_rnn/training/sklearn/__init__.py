"""The scikit-learn estimators."""

from .estimator import RnnClassifier, RnnRegressor

__all__ = ["RnnClassifier", "RnnRegressor"]
