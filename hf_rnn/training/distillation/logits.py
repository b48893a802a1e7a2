"""A teacher and texts → its logits: from the cache where they are kept, else from the model, batched by length."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...utils.errors import UserError, reason_of
from .cache import LogitsCache
from .teacher import Teacher


class Answers:
    """A teacher's logits, from a cache or from the model, which is loaded for the first that is not there.

    Args:
        teacher: Who is asked.
        folder: Of the cache.
        advance: Told of each number of texts that now have an answer.

    Attributes:
        answered: Texts that have an answer.
        asked: Those that the model itself has read.
    """

    def __init__(self, teacher: Teacher, folder: Path, advance: Callable[[int], Any] | None = None) -> None:
        self.answered = self.asked = 0
        self._advance = advance or (lambda count: None)
        self._teacher, self._cache = teacher, LogitsCache(folder, teacher.fingerprint)
        self._model: torch.nn.Module | None = None

    def to(self, texts: Iterable[str]) -> np.ndarray:
        """Return logits `(N, C)` in float32 for N texts, C in the order of the teacher's ids."""
        asked = self.asked
        logits = self._cache.look_up(texts, self._ask, self._teacher.config.num_labels)
        self._advance(len(logits) - (self.asked - asked))  # the others were told of as they came
        self.answered += len(logits)
        return logits

    def release(self) -> None:
        """Let the model go; the next text that is not in the cache loads it again."""
        self._model = None

    def _ask(self, texts: Sequence[str]) -> np.ndarray:
        if self._model is None:
            self._model = self._teacher.load()
        self.asked += len(texts)
        return compute_answers(self._teacher, self._model, texts, self._advance)


@torch.inference_mode()
def compute_answers(
    teacher: Teacher, model: torch.nn.Module, texts: Sequence[str], advance: Callable[[int], Any] = lambda count: None
) -> np.ndarray:
    """Run a teacher's model, batched by length.

    Args:
        teacher: Says how.
        model: As the teacher loads it.
        texts: N of them.
        advance: Told of each number of texts that now have an answer.

    Returns:
        Logits `(N, C)` in float32, C in the order of the teacher's ids.

    Raises:
        UserError: For a text that the model cannot read, and for logits that are not finite.
    """
    tokenizer, limit = teacher.tokenizer, teacher.max_length
    length = {"truncation": True, "max_length": limit} if limit is not None else {}
    accepted = inspect.signature(model.forward).parameters
    encoded = {name: rows for name, rows in tokenizer(list(texts), **length).items() if name in accepted}
    ids = encoded["input_ids"]
    order = sorted(range(len(texts)), key=lambda row: len(ids[row]))
    logits = np.empty((len(texts), teacher.config.num_labels), dtype=np.float32)
    for start in range(0, len(order), teacher.batch_size):
        rows = order[start : start + teacher.batch_size]
        batch: Any = {name: [values[row] for row in rows] for name, values in encoded.items()}
        if tokenizer.pad_token_id is not None:
            batch = tokenizer.pad(batch, return_tensors="pt")
        # a batch of empty texts only comes as a tensor of floats
        inputs = {name: torch.as_tensor(values).long().to(teacher.device) for name, values in batch.items()}
        try:
            with torch.autocast(teacher.device.type, torch.bfloat16, enabled=teacher.bf16):
                answers = model(**inputs, return_dict=True).logits
        except (RuntimeError, ValueError, IndexError) as error:  # some cannot read some texts, and say so in many ways
            first, more = texts[rows[0]], f" or one of the {len(rows) - 1} after it" if len(rows) > 1 else ""
            raise UserError(
                f"the teacher {teacher.name} cannot answer for {first!r:.80}{more}: {reason_of(error):.1000}"
            ) from error
        logits[rows] = answers.float().cpu().numpy()
        advance(len(rows))
    if not (finite := np.isfinite(logits).all(axis=1)).all():
        text = texts[int(np.flatnonzero(~finite)[0])]
        raise UserError(f"the teacher {teacher.name} gives logits that are not finite, for one to {text!r:.80}")
    return logits
