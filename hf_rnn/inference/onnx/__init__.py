"""Write the ONNX file of a finished folder, if it gives the model's answers; `backend="onnx"` runs it."""

from .exporter import export

__all__ = ["export"]
