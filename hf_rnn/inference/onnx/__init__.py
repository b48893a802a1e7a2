"""Write the ONNX file of a finished folder, which `backend="onnx"` runs."""

from .exporter import export

__all__ = ["export"]
