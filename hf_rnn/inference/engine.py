"""Engines: token ids → logits, in C (`native`) or by the plain model (`torch`).

An engine knows neither texts nor labels: `FastRnn` prepares texts and forms answers, the same for
all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from ..utils.errors import UserError
from ..utils.hashing import digest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..hub.model_folder import FinishedFolder
    from ..linear.ngrams import NgramTable
    from ..tasks import Config

# in `architectures`
CLASSIFIER = "RnnForSequenceClassification"
TAGGER = "RnnForTokenClassification"
TokenIds: TypeAlias = Sequence[Sequence[int]]  # by text
Arrays: TypeAlias = Mapping[str, np.ndarray]  # by name
Precision = Literal["float32", "int16", "int8"]


@dataclass(frozen=True)
class InferenceOptions:
    """The choices of a user about loading and computing.

    Args:
        revision: Branch, tag or commit of a repo.
        precision: `"float32"` answers as the model does (logits within 1e-5). `"int16"` computes
            the products of matrices in 16 bits, which is faster: logits within 3e-3. `"int8"` is
            the fastest on processors with AVX-512 VNNI, and int16 on others: logits within about
            0.1, so that labels near a tie change. Without AVX2, as on ARM, both are float32.
        tokens_per_batch: About how many tokens the plain model reads at once.
        device: `cpu` is the fast path; None is the accelerator, if there is one.
        threads: Threads for many texts, which do not change the answers; None is `OMP_NUM_THREADS`,
            or all processors.
    """

    revision: str | None = None
    precision: Precision = "float32"
    tokens_per_batch: int | None = None
    device: str | torch.device | None = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        choices = get_args(Precision)
        if self.precision not in choices:
            found = f"found {self.precision!r}"
            raise UserError(f"precision must be one of {', '.join(choices)}: {found}")


DEFAULTS = InferenceOptions()


class Unsupported(ValueError):
    """An engine does not compute a model; the message is the reason."""


@dataclass(frozen=True)
class Source:
    """A model to open an engine from."""

    name: str  # as the user gave it, for messages
    folder: FinishedFolder
    # a sentence encoder is a classifier, whose logits are its vectors before normalisation
    is_encoder: bool = False


class Engine(ABC):
    """Compute the logits of a model from token ids."""

    config: Config
    model: PreTrainedModel | None = None  # the model of torch, where it is in memory
    is_plain = False  # whether torch computes

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all weights as they were loaded: one for all engines and numbers of files."""
        raise NotImplementedError

    @abstractmethod
    def run(self, input_ids: TokenIds, options: InferenceOptions = DEFAULTS) -> np.ndarray:
        """Return the logits `(N, C)` of texts in float32.

        Those of a tagger are of tokens, `(N, T, C)`, zero after a text.

        Raises:
            IndexError: For an id outside the vocabulary.
        """

    def read_ngrams(self) -> NgramTable | None:
        """Return the linear part of a classifier; None for a model without one."""
        return None


def hash_weights(weights: Arrays) -> str:
    """Return the fingerprint of weights by name."""
    parts: list[Any] = []
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name])
        parts.append(f"{name} {values.dtype.str} {values.shape}")
        parts.append(values.reshape(-1).view(np.uint8))
    return digest(*parts)[:16]


def check_mode(model: PreTrainedModel) -> None:
    """Raise a ValueError for a model in training mode."""
    if model.training:
        raise ValueError(
            "the model is in training mode, where dropout changes its answers: call model.eval()"
        )


def check_ids(ids: np.ndarray, count: int) -> None:
    """Raise an IndexError for token ids in int64 unless they are from 0 to `count` - 1."""
    # a negative id is a large one
    if ids.size and ids.view(np.uint64).max() >= count:
        raise IndexError(
            f"token ids must be from 0 to {count - 1}: found {ids.min()} and {ids.max()}"
        )


def find_lengths(input_ids: TokenIds) -> np.ndarray:
    """Return the numbers of tokens of texts in int64."""
    return np.fromiter(map(len, input_ids), np.int64, len(input_ids))


def join_ids(input_ids: TokenIds, lengths: np.ndarray) -> np.ndarray:
    """Return the ids of texts of these lengths one after the other, in int64."""
    if len(input_ids) == 1:  # in less time
        return np.array(input_ids[0], np.int64)
    return np.fromiter(chain.from_iterable(input_ids), np.int64, int(lengths.sum()))


def pad_ids(
    input_ids: TokenIds, padding: int = 0, side: str = "right"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and the mask of texts, int64 `(N, T)`."""
    lengths = find_lengths(input_ids)[:, None]
    places = np.arange(lengths.max(initial=0))
    mask = places < lengths if side == "right" else places[::-1] < lengths
    ids = np.full(mask.shape, padding, np.int64)
    ids[mask] = join_ids(input_ids, lengths)
    return ids, mask.astype(np.int64)


def pad_tokens(logits: np.ndarray, input_ids: TokenIds) -> np.ndarray:
    """Return the logits `(sum of T, C)` of all tokens as `(N, T, C)`, zero after a text."""
    lengths = find_lengths(input_ids)
    padded = np.zeros((len(lengths), int(lengths.max(initial=0)), logits.shape[1]), np.float32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = logits
    return padded


def batch_by_length(
    input_ids: TokenIds, tokens_per_batch: int, texts_per_batch: int | None = None
) -> Iterator[list[int]]:
    """Yield batches of row numbers, shortest first; one longer than `tokens_per_batch` is alone."""
    batch: list[int] = []
    for row in sorted(range(len(input_ids)), key=lambda row: len(input_ids[row])):
        is_large = (len(batch) + 1) * len(input_ids[row]) > tokens_per_batch
        if batch and (is_large or len(batch) == texts_per_batch):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
