"""What this machine's processor can do."""

from typing import Any

import torch


def multiplies_bfloat16() -> bool | None:
    """Whether it has instructions for bfloat16, without which products in it are slower than in float32.

    None where torch cannot tell, as its older versions.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not capabilities:
        return None
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
