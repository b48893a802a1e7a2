"""One hash for weights, settings and texts. Nothing heavy is imported here."""

from __future__ import annotations

import hashlib
from typing import Any


def digest(*parts: Any) -> str:
    """Return the SHA-256 of texts, bytes and arrays one after another, in 64 hex digits.

    Those of weights and texts are stored in finished folders.
    """
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()
