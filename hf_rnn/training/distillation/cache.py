"""A teacher's logits on disk, under what they were computed from; a file is whole or absent, and checked when read."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ...utils.atomic_write import write_whole

logger = logging.getLogger(__name__)

BLOCK_TEXTS = 2_000  # texts whose logits are one file: what a run that is killed loses at most
_LOGITS = "logits"


@dataclass(frozen=True)
class LogitsCache:
    """A folder of logits.

    Attributes:
        folder: Made when it is first written to.
        source: What the logits come from beside the texts: a fingerprint of model, tokenizer and length.
    """

    folder: Path
    source: str

    def look_up(
        self, texts: Iterable[str], compute: Callable[[Sequence[str]], np.ndarray], num_labels: int
    ) -> np.ndarray:
        """Return the logits of texts; those that are not in the folder are computed and kept there.

        Args:
            texts: N texts, of which `BLOCK_TEXTS` at a time are looked at.
            compute: Returns float32 logits `(n, num_labels)` for n texts.
            num_labels: C.

        Returns:
            Logits `(N, C)`, float32.
        """
        remaining = iter(texts)
        blocks = [np.empty((0, num_labels), dtype=np.float32)]
        told = False
        while block := list(islice(remaining, BLOCK_TEXTS)):
            path = self.folder / f"{self._key(block)}.safetensors"
            logits = _read(path, (len(block), num_labels))
            if logits is None:
                logits = np.ascontiguousarray(compute(block), dtype=np.float32)
                failed = _write(path, logits)
                if failed is not None and not told:
                    told = True
                    logger.warning("the teacher's answers are not kept: %s cannot be written: %s", self.folder, failed)
            blocks.append(logits)
        return np.concatenate(blocks)

    def _key(self, texts: Sequence[str]) -> str:
        digest = hashlib.sha256(self.source.encode())
        for text in texts:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return digest.hexdigest()


def _write(path: Path, logits: np.ndarray) -> str | None:
    """Write a file, and return why it could not be."""
    metadata = {"sha256": hashlib.sha256(logits.tobytes()).hexdigest()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({_LOGITS: logits}, metadata))
    except OSError as error:
        return error.strerror
    return None


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return what a file holds, None when there is none or it cannot be used, which is said."""
    try:
        path.stat()
    except OSError:
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            logits = file.get_tensor(_LOGITS)
            recorded = (file.metadata() or {}).get("sha256")
        intact = logits.shape == shape and logits.dtype == np.float32
        if intact and hashlib.sha256(logits.tobytes()).hexdigest() == recorded:
            return logits
    except OSError as error:
        logger.warning("%s cannot be read: %s; the teacher is asked again", path, error.strerror or error)
        return None
    except (SafetensorError, ValueError, KeyError, TypeError):
        pass
    logger.warning("%s is damaged: the teacher is asked again", path)
    return None
