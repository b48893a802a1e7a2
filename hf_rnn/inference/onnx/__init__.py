"""Write and run the ONNX file of a finished folder; a file is written only if it gives the model's answers."""

from .exporter import export

__all__ = ["export"]
