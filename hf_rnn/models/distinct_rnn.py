"""A batch's token vectors, each distinct token once, and where in the batch each stands.

What depends on the token alone, as the first layer's input projection does, need then be computed once a distinct
token: a batch of 64 tweets has 40 of them for 100 tokens, one of 256 has 24. Used in training; a table of the whole
vocabulary serves when predicting.

Legend: B batch, T time, I width, N distinct tokens.
"""

from typing import NamedTuple

import torch


class DistinctTokens(NamedTuple):
    """Distinct vectors and their places.

    Attributes:
        vectors (`(N, I)`): One a distinct token.
        rows (`torch.LongTensor` of shape `(T, B)`): The row of `vectors` that stands at each place.
    """

    vectors: torch.Tensor
    rows: torch.Tensor


def gather_rows(vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(N, I) at rows (T, B) → (T, B, I)."""
    return vectors.index_select(0, rows.reshape(-1)).view(*rows.shape, vectors.shape[1])


def scatter_rows(gradient: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """(T, B, I) at rows (T, B) → (N, I) for N = `count`, each row the sum of what stands at its places."""
    return gradient.new_zeros(count, gradient.shape[-1]).index_add_(0, rows.reshape(-1), gradient.flatten(0, 1))
