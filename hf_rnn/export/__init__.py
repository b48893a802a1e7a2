"""A finished folder → ONNX files in it, once ONNX Runtime gives the model's answers."""

from .exporting import export

__all__ = ["export"]
