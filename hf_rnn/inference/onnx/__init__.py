"""Write and run the ONNX file of a finished folder; a file is written only if it gives the model's answers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporter import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .exporter import export  # not at import: loads torch, which `OnnxClassifier` does not need

    return export
