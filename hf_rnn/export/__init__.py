"""Write what programs without Python run: an ONNX file, a page, a folder of transformers.js."""

from .exporter import export

__all__ = ["export"]
