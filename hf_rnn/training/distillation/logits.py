"""Logits of teachers for texts, cached on disk in blocks: a stopped run continues where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save

from ...utils.atomic_write import write_whole
from .teacher import Teacher, Teachers, fold_of, hash_texts

BLOCK_TEXTS = 2_000  # texts per file; a killed run loses at most one file
_LOGITS = "logits"


class Answers:
    """Logits of teachers, from the cache or from the models; at most one model is in memory.

    A file of the folder `cache` is named after a hash of the teacher and its texts. `advance` is called with each
    number of texts that a teacher is done with.
    """

    def __init__(self, teachers: Teachers, cache: Path, advance: Callable[[int], Any] = lambda count: None) -> None:
        self.computed = self.cached = 0  # texts that a model has read, and those with logits in the cache
        self._teachers, self._cache, self._advance = teachers, cache, advance
        self._loaded: tuple[Teacher, torch.nn.Module] | None = None

    def for_training(self, texts: Sequence[str], sources: Sequence[str]) -> np.ndarray:
        """Return logits `(N, C)` of training texts or copies, each from the teacher that has not seen its source.

        `sources` has the training text of each.
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
            path = self._cache / f"{hash_texts(block, teacher.fingerprint)}.safetensors"
            if path.is_file():
                logits = load_file(path)[_LOGITS]
                self._advance(len(block))
                self.cached += len(block)
            else:
                logits = teacher.compute(self._load(teacher), block, self._advance)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, save({_LOGITS: logits}))
                self.computed += len(block)
            blocks.append(logits)
        return np.concatenate(blocks)

    def _load(self, teacher: Teacher) -> torch.nn.Module:
        if self._loaded is None or self._loaded[0] is not teacher:
            self._loaded = None  # frees the memory first
            self._loaded = teacher, teacher.load()
        return self._loaded[1]
