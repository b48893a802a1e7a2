"""The classifier in the manner of scikit-learn."""

from .rnn_classifier import NotFittedError, RnnClassifier, setting_names

__all__ = ["NotFittedError", "RnnClassifier", "setting_names"]
