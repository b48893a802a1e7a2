"""A finished folder → ONNX files in it, once ONNX Runtime gives the model's answers."""

from .exporter import export

__all__ = ["export"]
