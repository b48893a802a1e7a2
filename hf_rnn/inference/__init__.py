"""Predict with a finished model: `FastRnn` from its weights, `OnnxClassifier` from its ONNX file, without torch.

`BatchPredictor` answers columns of data, for engines of many processes.
"""

import warnings
from typing import Any

_MOVED = ("BatchPredictor", "FastRnn", "OnnxClassifier", "Tagger")  # for one release


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import hf_rnn

    warnings.warn(f"hf_rnn.inference.{name} is deprecated: import hf_rnn.{name}", FutureWarning, stacklevel=2)
    return getattr(hf_rnn, name)
