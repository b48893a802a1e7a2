"""One teacher or cross-fitted ones → logits of texts: of a training text from the teacher that has not seen it.

A teacher knows the labels of the texts that it was fine-tuned on by heart, and what it says of them tells a student
little more than they do. Cross-fitted teachers (`folds.py`) each answer for the fold that they have not seen, and for
all other texts together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ...utils.errors import UserError
from ..checkpointing.fingerprints import hash_tokenizer
from .cross_fitting import fold_of, read_folds
from .logits import Answers
from .teacher import Teacher


@dataclass(frozen=True)
class Teachers:
    """Who is asked.

    Attributes:
        name: What they are called: a folder's name, or a repo id.
        members: One teacher, or several with the same labels and tokenizer, in the order of their folds.
    """

    name: str
    members: Sequence[Teacher]

    @classmethod
    def open(cls, name_or_path: str, **options: Any) -> Self:
        """Find a teacher, or a folder of cross-fitted ones, and read all of it but the weights.

        Args:
            name_or_path: A folder, or a repo id of the Hub, which is one teacher.
            options: Of [`Teacher.open`].

        Raises:
            UserError: When one of them cannot be used, or they do not belong together.
        """
        name_or_path = os.path.expanduser(name_or_path)
        folders = read_folds(Path(name_or_path))
        names = [str(folder) for folder in folders] or [name_or_path]
        members = [Teacher.open(name, **options) for name in names]
        first = members[0]
        for other in members[1:]:
            for what, one, another in (
                ("labels", first.label_names(), other.label_names()),
                ("tokenizer", hash_tokenizer(first.tokenizer), hash_tokenizer(other.tokenizer)),
            ):
                if one != another:
                    raise UserError(
                        f"the teachers {first.name} and {other.name} in {name_or_path} have not the same {what}: "
                        "make them anew with finetune_teacher.py --folds"
                    )
        return cls(Path(name_or_path).resolve().name if folders else first.name, members)

    @property
    def folds(self) -> int | None:
        """Their number; None of a single one."""
        return len(self.members) if len(self.members) > 1 else None


class JointAnswers:
    """The logits of teachers, from a cache or from the models. Of several one is in memory at a time.

    Args:
        teachers: Who is asked.
        cache: Folder.
        advance: Told of each number of answers that are there, which of several teachers all count.
    """

    def __init__(self, teachers: Teachers, cache: Path, advance: Callable[[int], Any] | None = None) -> None:
        self._members = [Answers(member, cache, advance) for member in teachers.members]

    @property
    def counts(self) -> tuple[int, int]:
        """How many answers a model had to give, and how many were kept."""
        asked = sum(member.asked for member in self._members)
        return asked, sum(member.answered for member in self._members) - asked

    def to_trained(self, texts: Sequence[str], sources: Sequence[str]) -> np.ndarray:
        """Return logits `(N, C)` for N texts, each from the teacher that has not seen its source.

        Args:
            texts: Training texts, or copies of them.
            sources: The training text that each comes from, itself perhaps.
        """
        if len(self._members) == 1:
            return self._members[0].to(texts)
        folds = np.array([fold_of(source, len(self._members)) for source in sources], dtype=np.int64)
        order = np.argsort(folds, kind="stable")
        parts = [
            self._let_go(member, [texts[row] for row in order if folds[row] == fold])
            for fold, member in enumerate(self._members)
        ]
        logits = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
        logits[order] = np.concatenate(parts)
        return logits

    def to_others(self, texts: Iterable[str]) -> np.ndarray:
        """Return logits `(N, C)` for N texts that none has seen: of several teachers the mean of log-probabilities.

        Args:
            texts: Read once for each teacher.
        """
        if len(self._members) == 1:
            return self._members[0].to(texts)
        answers = [torch.from_numpy(self._let_go(member, texts)).log_softmax(dim=1) for member in self._members]
        return torch.stack(answers).mean(dim=0).numpy()

    def _let_go(self, member: Answers, texts: Iterable[str]) -> np.ndarray:
        logits = member.to(texts)
        member.release()
        return logits
