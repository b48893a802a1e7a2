"""The shared library of `kernel.c`: its structures, and its functions by ctypes.

Nothing is compiled when a program runs: an install does it, or `python -m hf_rnn.inference.kernel`.
Without the library every model answers through torch.
"""

from __future__ import annotations

import ctypes
import logging
import os
from functools import cache
from pathlib import Path

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_FLOAT = ctypes.c_float
# arguments of functions of the kernel: pointers and integers
_TYPES = {"p": _POINTER, "i": ctypes.c_int}
_ARGUMENTS = {"hf_rnn_run": "pppip", "hf_rnn_ngrams": "pppiip", "hf_rnn_linear": "ippipp"}
FOLDER = Path(__file__).parent
SWITCH = "HF_RNN_NATIVE"  # 0 turns the library off
_LOGGER = logging.getLogger(__name__)


def _fields(field_type: type, names: str) -> list[tuple[str, type]]:
    return [(name, field_type) for name in names.split()]


class Layer(ctypes.Structure):
    """A linear layer; see `kernel.c` for this and the next structures."""

    _fields_ = _fields(_POINTER, "weights bias scale start") + _fields(
        _INT, "inputs outputs is_short"
    )


class Norm(ctypes.Structure):
    """Weight and bias of a layer normalisation."""

    _fields_ = _fields(_POINTER, "weight bias")


class Block(ctypes.Structure):
    """A residual block, or a plain layer."""

    _fields_ = [
        *_fields(Norm, "input_norm mlp_norm"),
        ("conv", _POINTER),
        *_fields(Layer, "gate out up down keep candidate input"),
        ("hidden", Layer * 2),
    ]


class Model(ctypes.Structure):
    """A network: `Network` in `kernel.c`."""

    _fields_ = [
        *_fields(_POINTER, "blocks table"),
        ("norm", Norm),
        *_fields(Layer, "attention head"),
        *_fields(_POINTER, "context state"),
        *_fields(_INT, "count residual cell directions hidden row stream inner taps ahead pooling"),
        *_fields(_INT, "activation pooled carried"),
        ("epsilon", _FLOAT),
    ]


class NgramPart(ctypes.Structure):
    """The linear part of a classifier."""

    _fields_ = [
        *_fields(_POINTER, "weights check shift scale"),
        *_fields(ctypes.c_int64, "rows buckets"),
        ("labels", _INT),
    ]


@cache
def load_library() -> ctypes.CDLL | None:
    """Return the library; None if it was not built for this processor, or is turned off."""
    if os.environ.get(SWITCH) == "0":
        return None
    for path in sorted(FOLDER.glob("_kernel*")):
        if path.suffix in (".so", ".pyd", ".dylib"):
            try:
                library = ctypes.CDLL(str(path))
                if library.hf_rnn_size() != _measure_structures():
                    raise OSError(
                        "found another version; compile it by python -m hf_rnn.inference.kernel"
                    )
                library.hf_rnn_level(-1)
            except (OSError, AttributeError) as error:
                _LOGGER.warning("%s cannot be used: %s", path, error)
                continue
            for name, letters in _ARGUMENTS.items():
                getattr(library, name).argtypes = [_TYPES[letter] for letter in letters]
            library.hf_rnn_linear.restype = None
            return library
    return None


def _measure_structures() -> int:
    """Return a number from the sizes of the structures, as the kernel returns it for its own."""
    return 1000 * ctypes.sizeof(Block) + ctypes.sizeof(Model) + 1_000_000 * ctypes.sizeof(NgramPart)
