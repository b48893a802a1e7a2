"""Features of this machine's processor."""

from typing import Any

import torch


def multiplies_bfloat16() -> bool | None:
    """Return whether the processor has bfloat16 instructions; without them bfloat16 is slower than float32.

    None when an older torch does not report it.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    supported = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return supported if capabilities else None
