"""Predict with a finished model: `FastRnn` from its weights, `OnnxClassifier` from its ONNX file.

`BatchPredictor` answers columns of data, for engines of many processes.
"""

from importlib import import_module
from typing import Any

from .predictor import FastRnn, Tagger

__all__ = ["BatchPredictor", "FastRnn", "OnnxClassifier", "Tagger"]

_LATER = {"BatchPredictor": ".batch_predictor", "OnnxClassifier": ".onnx.runtime"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name], __name__), name)
