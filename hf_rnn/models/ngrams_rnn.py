"""The linear part of a classifier: scores for n-grams of tokens, fitted after the network.

A table has a row of weights per n-gram of the training texts. The hash of an n-gram selects a
bucket of rows, the shift of the bucket makes its n-grams fall on rows of their own, and two bytes
of another hash refuse nearly all n-grams that the table does not have (D. Belazzougui, F. Botelho
and M. Dietzfelbinger: Hash, displace, and compress. ESA 2009). `hf_rnn.linear.ngrams` fills it.

Legend: B batch, T time, R rows, C classes.
"""

import torch
from torch import Tensor, nn

from .cells_rnn import TokenOrder

NGRAMS = 3  # tokens in a row, at most
PRIME = 2**31 - 1  # hashes are below it
# multiply hashes: of an n-gram, and of its bucket, shift and check
FACTOR = 1_000_003
BUCKET_FACTOR = 1_540_483_477
STEP_FACTOR = 461_845_907
CHECK_FACTOR = 1_812_433_253
ROWS_PER_BUCKET = 4


class NgramScores(nn.Module):
    """Scores of the distinct n-grams of a text: their sum, divided by the root of its length.

    For a text with T tokens, whose set of n-grams of one to three tokens is G, the score of class c
    is `scale[c] / sqrt(T) * sum(weight[row(g), c] for g in G)`. An n-gram counts once, however
    often a text has it: on long texts this is better than a sum over all places.
    """

    weight: Tensor
    check: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, rows: int, num_labels: int) -> None:
        super().__init__()
        buckets = -(-rows // ROWS_PER_BUCKET)
        self.register_buffer("weight", torch.zeros(rows, num_labels, dtype=torch.int8))
        self.register_buffer("check", torch.zeros(rows, dtype=torch.int16))
        self.register_buffer("shift", torch.zeros(buckets, dtype=torch.int16))
        self.register_buffer("scale", torch.zeros(num_labels))

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return scores `(B, C)` of ids `(B, T)`, of the tokens where the mask is True."""
        order = TokenOrder(mask)
        ids = order.compact(input_ids).t()
        valid = order.valid.t()
        time = ids.shape[1]
        hashes = torch.zeros_like(ids)
        total = self.scale.new_zeros(mask.shape[0], self.weight.shape[1])
        for further in range(min(NGRAMS, time)):
            hashes = (hashes[:, : time - further] * FACTOR + ids[:, further:] + 1) % PRIME
            total = total + self._sum_weights(hashes, valid[:, further:])
        lengths = mask.sum(dim=1, keepdim=True).clamp(min=1).to(total.dtype)
        return total * self.scale / lengths.sqrt()

    def _sum_weights(self, hashes: Tensor, valid: Tensor) -> Tensor:
        """Return the sums `(B, C)` of the weights of distinct hashes `(B, T)`, where valid."""
        ordered = hashes.masked_fill(~valid, -1).sort(dim=1).values
        before = nn.functional.pad(ordered[:, :-1], (1, 0), value=-1)
        is_counted = ordered != before
        ordered = ordered.clamp(min=0)

        shift = self.shift[ordered * BUCKET_FACTOR % PRIME % len(self.shift)].long()
        step = 1 + ordered * STEP_FACTOR % PRIME
        rows = (ordered + shift * step) % len(self.weight)
        is_counted &= ordered * CHECK_FACTOR % PRIME % 2**16 - 2**15 == self.check[rows]
        weights = self.weight[rows].to(self.scale.dtype)
        return (weights * is_counted[..., None]).sum(dim=1)
