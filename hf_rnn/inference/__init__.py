"""Predict with a finished model: `FastRnn` from its weights, `OnnxClassifier` from its ONNX file."""

from typing import Any

from .predictor import FastRnn, Tagger

__all__ = ["FastRnn", "OnnxClassifier", "Tagger"]


def __getattr__(name: str) -> Any:
    if name != "OnnxClassifier":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .onnx.runtime import OnnxClassifier

    return OnnxClassifier
