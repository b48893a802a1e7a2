"""Engines: token ids → logits. `native` computes in C, `torch` by the plain model, `onnx` in ONNX Runtime.

An engine knows neither texts nor labels: `Predictor` prepares texts and forms answers, the same for all of them.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ...utils.errors import UserError

if TYPE_CHECKING:
    import torch

    from ...tasks.base import Config

Precision = Literal["float32", "int16", "int8"]


@dataclass(frozen=True)
class InferenceOptions:
    """The choices of a user about loading and computing; [`FastRnn`] explains each."""

    revision: str | None = None
    backend: str = "torch"  # or `onnx` and `onnx_int8`, for the files of `hf-rnn export`
    precision: Precision = "float32"
    device: str | torch.device | None = "cpu"
    tokens_per_batch: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise UserError(f"precision must be one of {', '.join(get_args(Precision))}: found {self.precision!r}")


DEFAULTS = InferenceOptions()


class Engine(ABC):
    """Compute the logits of a model from token ids."""

    config: Config

    @abstractmethod
    def run(self, input_ids: Sequence[Sequence[int]], options: InferenceOptions) -> np.ndarray:
        """Return the logits `(N, C)` of texts in float32; of a tagger those of tokens, `(N, T, C)`, zero after a text.

        Raises:
            IndexError: For an id outside the vocabulary.
        """

    def advance(self, input_ids: Sequence[Sequence[int]], states: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits `(N, C)` of a streaming model after further tokens of texts, and the states `(N, K)`.

        `states` are those before these tokens, None at the start.
        """
        raise NotImplementedError

    def read_classifier(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and biases of the last layer in float32."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """The hash of labels and last layer, which binds the state of a stream to its model."""
        digest = hashlib.sha256(json.dumps([self.config.vocab_size, list(self.config.id2label.values())]).encode())
        for values in self.read_classifier():
            digest.update(np.ascontiguousarray(values, "<f4").tobytes())
        return digest.hexdigest()[:16]


def batch_by_length(
    input_ids: Sequence[Sequence[int]], tokens_per_batch: int, texts_per_batch: int | None = None
) -> Iterator[list[int]]:
    """Yield batches of row numbers, shortest rows first; a row longer than `tokens_per_batch` is alone."""
    batch: list[int] = []
    for row in sorted(range(len(input_ids)), key=lambda row: len(input_ids[row])):
        full = (len(batch) + 1) * len(input_ids[row]) > tokens_per_batch or len(batch) == texts_per_batch
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
