"""Compute logits from token ids in C, without torch: `kernel.c` by ctypes. `words` adds what taggers have on top.

`python -m hf_rnn.inference.native` compiles the kernel beside the package, where an install did not.
"""

from .library import SWITCH
from .network import MISSING, Network, Unsupported

__all__ = ["MISSING", "SWITCH", "Network", "Unsupported"]
