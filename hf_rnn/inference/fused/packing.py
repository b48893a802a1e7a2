"""Pack token ids of texts into batches without padding: time first, longest text first, fewer texts at later steps.

Legend: N tokens of a batch, B texts of a batch, T tokens of its longest text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch


@dataclass(frozen=True)
class PackedTexts:
    """Texts of descending length, one step after the other; a *place* is a step and a text that has a token there.

    Tokens are in the order that a direction reads them: the backward direction reads each text's last token at step
    0. Both directions read equally many tokens at each step, so they share the places.
    """

    lengths: np.ndarray  # (B,): tokens per text, descending, possibly 0
    forward: np.ndarray  # (N,): token ids in the order of the forward direction
    backward: np.ndarray  # (N,): token ids in the order of the backward direction
    sizes: list[int]  # texts that have a token at each of the T steps; the sum is N

    @classmethod
    def pack(cls, token_ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> PackedTexts:
        """Arrange texts of descending `lengths` whose first tokens are at `starts` of `token_ids`."""
        sizes = np.bincount(lengths)[::-1].cumsum()[:-1][::-1]  # (T,): texts longer than t
        texts = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)  # (N,)
        steps = np.repeat(np.arange(len(sizes)), sizes)
        forward = token_ids[starts[texts] + steps]
        backward = token_ids[(starts + lengths - 1)[texts] - steps]
        return cls(lengths, forward, backward, sizes.tolist())

    @cached_property
    def _first(self) -> np.ndarray:
        """`(T,)`: The first place of each step."""
        return np.cumsum([0, *self.sizes[:-1]])

    @cached_property
    def flip(self) -> torch.Tensor:
        """`(N,)`: The place where the other direction reads the same token; its own inverse."""
        texts = np.concatenate([np.arange(size) for size in self.sizes])
        steps = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return torch.from_numpy(self._first[self.lengths[texts] - 1 - steps] + texts)

    def neighbours(self, distance: int) -> torch.Tensor:
        """Return the place `(N,)` of the token this far after each token, forwards; N beyond the ends of a text."""
        steps = np.repeat(np.arange(len(self.sizes)), self.sizes)
        texts, others = np.arange(len(steps)) - self._first[steps], steps + distance
        inside = (others >= 0) & (others < self.lengths[texts])
        return torch.from_numpy(np.where(inside, self._first[np.where(inside, others, 0)] + texts, len(steps)))

    def places_by_length(self) -> Iterator[torch.Tensor]:
        """Yield the places `(b, t)` of the forward direction of all b texts of t tokens, longest texts first."""
        ends = np.flatnonzero(np.diff(self.lengths, append=-1)) + 1
        for texts in np.split(np.arange(len(self.lengths)), ends[:-1]):
            yield torch.from_numpy(self._first[: self.lengths[texts[0]]] + texts[:, None])


def pack_batches(
    input_ids: Sequence[Sequence[int]], most_tokens: int, most_texts: int
) -> Iterator[tuple[torch.Tensor, PackedTexts]]:
    """Sort texts by length, cut them into batches, and yield the positions `(B,)` of each batch's texts and the batch.

    A text of more than `most_tokens` is a batch of its own.
    """
    text_lengths = np.fromiter(map(len, input_ids), dtype=np.int64, count=len(input_ids))
    ends = np.cumsum(text_lengths)
    token_ids = np.fromiter(chain.from_iterable(input_ids), dtype=np.int64, count=int(text_lengths.sum()))
    order = np.argsort(-text_lengths, kind="stable")
    lengths, starts = text_lengths[order], (ends - text_lengths)[order]
    read = np.cumsum(lengths)
    first = 0
    while first < len(order):
        before = read[first - 1] if first else 0
        fitting = int(np.searchsorted(read, before + most_tokens, side="right"))
        last = max(first + 1, min(fitting, first + most_texts))
        batch = slice(first, last)
        yield torch.from_numpy(order[batch]), PackedTexts.pack(token_ids, starts[batch], lengths[batch])
        first = last
