"""Predict with a finished model: `FastRnn` from its weights, `OnnxClassifier` from its ONNX file, without torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .onnx.runtime import OnnxClassifier
    from .predictor import FastRnn, Tagger

_HOME = {"FastRnn": "predictor", "OnnxClassifier": "onnx.runtime", "Tagger": "predictor"}
__all__ = ["FastRnn", "OnnxClassifier", "Tagger"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
