"""Predict with a finished model: `FastRnn` from its weights, `OnnxClassifier` from its ONNX file, without torch.

`BatchPredictor` answers columns of data, for engines of many processes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch_predictor import BatchPredictor
    from .onnx.runtime import OnnxClassifier
    from .predictor import FastRnn, Tagger

_HOME = {
    "BatchPredictor": "batch_predictor",
    "FastRnn": "predictor",
    "OnnxClassifier": "onnx.runtime",
    "Tagger": "predictor",
}
__all__ = ["BatchPredictor", "FastRnn", "OnnxClassifier", "Tagger"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
