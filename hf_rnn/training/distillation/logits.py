"""Logits of teachers for texts, cached on disk in blocks: a stopped run continues where it was."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ...utils.atomic_write import write_whole
from ...utils.errors import UserError
from .teacher import Teacher, Teachers, fold_of

logger = logging.getLogger(__name__)

BLOCK_TEXTS = 2_000  # texts per file; a killed run loses at most one file
_LOGITS = "logits"


class Answers:
    """Logits of teachers, from the cache or from the models; at most one model is in memory.

    Args:
        teachers: One teacher, or cross-fitted ones.
        cache: Folder of the cache. A file is named after a hash of the teacher and its texts.
        advance: Is called with each number of texts that a teacher is done with.

    Attributes:
        computed: Texts that a model has read.
        cached: Texts whose logits were in the cache.
    """

    def __init__(self, teachers: Teachers, cache: Path, advance: Callable[[int], Any] = lambda count: None) -> None:
        self.computed = self.cached = 0
        self._teachers, self._cache, self._advance = teachers, cache, advance
        self._loaded: tuple[Teacher, torch.nn.Module] | None = None

    def for_training(self, texts: Sequence[str], sources: Sequence[str]) -> np.ndarray:
        """Return logits `(N, C)` of N texts, each from the teacher that has not seen its source.

        Args:
            texts: Training texts, or copies of them.
            sources: The training text of each.
        """
        members = self._teachers.members
        folds = np.array([fold_of(source, len(members)) for source in sources])
        logits = np.empty((len(texts), members[0].config.num_labels), dtype=np.float32)
        for fold, member in enumerate(members):
            rows = np.flatnonzero(folds == fold).tolist()
            logits[rows] = self._look_up(member, [texts[row] for row in rows])
        return logits

    def for_others(self, texts: Sequence[str]) -> np.ndarray:
        """Return logits `(N, C)` of N unseen texts; of several teachers, the mean of their log-probabilities."""
        logits = [self._look_up(member, texts) for member in self._teachers.members]
        if len(logits) == 1:
            return logits[0]
        return torch.stack([torch.from_numpy(one).log_softmax(dim=1) for one in logits]).mean(dim=0).numpy()

    def _look_up(self, teacher: Teacher, texts: Sequence[str]) -> np.ndarray:
        blocks = [np.empty((0, teacher.config.num_labels), dtype=np.float32)]
        for start in range(0, len(texts), BLOCK_TEXTS):
            block = texts[start : start + BLOCK_TEXTS]
            path = self._cache / f"{_hash(teacher, block)}.safetensors"
            logits = _read(path)
            if logits is None:
                logits = compute_answers(teacher, self._load(teacher), block, self._advance)
                _write(path, logits)
                self.computed += len(block)
            else:
                self._advance(len(block))
                self.cached += len(block)
            blocks.append(logits)
        return np.concatenate(blocks)

    def _load(self, teacher: Teacher) -> torch.nn.Module:
        if self._loaded is None or self._loaded[0] is not teacher:
            self._loaded = None  # frees the memory first
            self._loaded = teacher, teacher.load()
        return self._loaded[1]


def _hash(teacher: Teacher, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(teacher.fingerprint.encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _read(path: Path) -> np.ndarray | None:
    """Return the logits in a file of the cache, None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        return load(path.read_bytes())[_LOGITS]
    except (SafetensorError, KeyError):
        logger.warning("%s is damaged: its logits are computed again", path)
        return None


def _write(path: Path, logits: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({_LOGITS: logits}))
    except OSError as error:
        raise UserError(
            f"the teacher's logits cannot be written to {path.parent}: {error.strerror}; give another teacher_cache"
        ) from error


@torch.inference_mode()
def compute_answers(
    teacher: Teacher, model: torch.nn.Module, texts: Sequence[str], advance: Callable[[int], Any] = lambda count: None
) -> np.ndarray:
    """Run a teacher's model on texts, batched by length.

    Args:
        teacher: Tokenizer, batch size, device and precision.
        model: The loaded model.
        texts: N texts.
        advance: Is called with the size of each finished batch.

    Returns:
        Logits `(N, C)` in float32, C in the order of the teacher's ids.

    Raises:
        UserError: For logits that are not finite.
    """
    tokenizer, limit = teacher.tokenizer, teacher.max_length
    length = {"truncation": True, "max_length": limit} if limit is not None else {}
    accepted = inspect.signature(model.forward).parameters
    encoded = {name: rows for name, rows in tokenizer(list(texts), **length).items() if name in accepted}
    order = sorted(range(len(texts)), key=lambda row: len(encoded["input_ids"][row]))
    logits = np.empty((len(texts), teacher.config.num_labels), dtype=np.float32)
    for start in range(0, len(order), teacher.batch_size):
        rows = order[start : start + teacher.batch_size]
        batch: Any = {name: [values[row] for row in rows] for name, values in encoded.items()}
        if tokenizer.pad_token_id is not None:
            batch = tokenizer.pad(batch, return_tensors="pt")
        inputs = {name: torch.as_tensor(values).long().to(teacher.device) for name, values in batch.items()}
        with torch.autocast(teacher.device.type, torch.bfloat16, enabled=teacher.bf16):
            answers = model(**inputs, return_dict=True).logits
        logits[rows] = answers.float().cpu().numpy()
        advance(len(rows))
    if not (finite := np.isfinite(logits).all(axis=1)).all():
        text = texts[int(np.flatnonzero(~finite)[0])]
        raise UserError(f"the teacher {teacher.name} has logits that are not finite: found some for {text!r:.80}")
    return logits
