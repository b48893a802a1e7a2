"""Token ids of texts → batches without padding: time first, the longest text first, shrinking as texts end.

Only arithmetic on ids and lengths; no weights here.

Legend: N tokens of a batch, B texts of a batch, T tokens of its longest text; b some texts of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch


@dataclass(frozen=True)
class TokenIds:
    """Token ids of many texts, in one array.

    Attributes:
        token_ids: The ids of all texts, each text's in a row, in any order of the texts.
        starts (`(B,)`): Where each text begins in them.
        lengths (`(B,)`): Its tokens; 0 is possible.
    """

    token_ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of_lists(cls, input_ids: Sequence[Sequence[int]]) -> TokenIds:
        """From the ids of each text alone."""
        lengths = np.fromiter(map(len, input_ids), dtype=np.int64, count=len(input_ids))
        ends = np.cumsum(lengths)
        count = int(ends[-1]) if len(ends) else 0
        token_ids = np.fromiter(chain.from_iterable(input_ids), dtype=np.int64, count=count)
        return cls(token_ids, ends - lengths, lengths)

    def cut(self, limit: int, truncation_side: str) -> TokenIds:
        """At most `limit` tokens of each text: its last ones where `truncation_side` is `left`, else its first."""
        lengths = np.minimum(self.lengths, min(limit, len(self.token_ids)))  # a limit may be beyond all numbers
        moved = self.lengths - lengths if truncation_side == "left" else 0
        return TokenIds(self.token_ids, self.starts + moved, lengths)

    def merged(self, other: TokenIds, places: np.ndarray) -> TokenIds:
        """With the texts of another one among them, which come to stand at `places`, ascending."""
        own = np.ones(len(self.lengths) + len(places), dtype=bool)
        own[places] = False
        starts, lengths = np.empty((2, len(own)), dtype=np.int64)
        starts[own], lengths[own] = self.starts, self.lengths
        starts[places], lengths[places] = other.starts + len(self.token_ids), other.lengths
        return TokenIds(np.concatenate([self.token_ids, other.token_ids]), starts, lengths)


@dataclass(frozen=True)
class PackedTexts:
    """Texts of descending length, read in step: place p belongs to a step, and within the step to a text.

    A direction's tokens are *as read*: the backward direction has each text's last token at its first step. Both
    directions read as many tokens at a step, so they share the places.

    Attributes:
        lengths (`(B,)`): Tokens of each text, descending; 0 is possible.
        forward (`(N,)`): Token ids as the forward direction reads them.
        backward (`(N,)`): Token ids as the backward direction reads them.
        sizes: How many texts have a token at each of the T steps; adds up to N.
    """

    lengths: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    sizes: list[int]

    @classmethod
    def of_one(cls, token_ids: Sequence[int] | np.ndarray) -> PackedTexts:
        """A text alone."""
        forward = np.array(token_ids, dtype=np.int64)
        return cls(np.array([len(forward)]), forward, forward[::-1], [1] * len(forward))

    @classmethod
    def pack(cls, token_ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> PackedTexts:
        """Arrange texts.

        Args:
            token_ids: The ids of all texts, one after the other, in any order of the texts.
            starts (`(B,)`): Where each text begins in them.
            lengths (`(B,)`): Its tokens; descending.
        """
        if len(lengths) == 1:
            return cls.of_one(token_ids[starts[0] : starts[0] + lengths[0]])
        sizes = np.bincount(lengths)[::-1].cumsum()[:-1][::-1]  # (T,): texts that are longer than t
        first = sizes.cumsum() - sizes
        texts = np.arange(sizes.sum()) - np.repeat(first, sizes)  # (N,), as what follows
        steps = np.repeat(np.arange(len(sizes)), sizes)
        forward = token_ids[starts[texts] + steps]
        backward = token_ids[(starts + lengths - 1)[texts] - steps]
        return cls(lengths, forward, backward, sizes.tolist())

    @cached_property
    def texts(self) -> torch.Tensor:
        """`(N,)`: the text that each place belongs to."""
        return torch.from_numpy(np.concatenate([np.arange(size) for size in self.sizes]))

    @cached_property
    def flip(self) -> torch.Tensor:
        """`(N,)`: the place at which the other direction reads the same token; its own inverse."""
        texts = self.texts.numpy()
        return torch.from_numpy(self._first[self.lengths[texts] - 1 - self._steps] + texts)

    def padded_places(self, group: slice) -> torch.Tensor:
        """`(T * b,)`: the places of some texts, the first of T tokens, step by step; 0 where one has ended."""
        lengths = self.lengths[group]
        texts = np.arange(len(self.lengths))[group]
        first = self._first[: lengths[0], None]
        return torch.from_numpy(np.where(np.arange(lengths[0])[:, None] < lengths, first + texts, 0).reshape(-1))

    @cached_property
    def _first(self) -> np.ndarray:
        """`(T,)`: the first place of each step."""
        return np.cumsum([0, *self.sizes[:-1]])

    @cached_property
    def _steps(self) -> np.ndarray:
        """`(N,)`: the step that each place belongs to."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


def pack_batches(
    texts: TokenIds, tokens_per_batch: int, texts_per_batch: int = 1, most_tokens: int = 0
) -> Iterator[tuple[torch.Tensor, PackedTexts]]:
    """Sort texts by length and cut them into batches.

    Args:
        texts: Their token ids.
        tokens_per_batch: So many tokens make a batch; a text with more of them is a batch of its own.
        texts_per_batch: So many texts may, where they are longer, that enough of them share each step,
        most_tokens: as long as they have no more tokens than this.

    Yields:
        The positions `(B,)` of the texts of a batch, and the batch. Every text comes exactly once.
    """
    order = np.argsort(-texts.lengths, kind="stable")
    lengths, starts = texts.lengths[order], texts.starts[order]
    read = np.cumsum(lengths)
    first = 0
    while first < len(order):
        before = read[first - 1] if first else 0
        of_tokens, of_texts = np.searchsorted(read, [before + tokens_per_batch, before + most_tokens], side="right")
        last = max(first + 1, int(of_tokens), min(first + texts_per_batch, int(of_texts)))
        batch = slice(first, last)
        yield torch.from_numpy(order[batch]), PackedTexts.pack(texts.token_ids, starts[batch], lengths[batch])
        first = last
