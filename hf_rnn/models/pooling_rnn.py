"""Poolings: the states of a text's tokens → one vector per text. Masked tokens have no influence.

A new pooling is a subclass of [`RnnPooler`] and one entry in [`POOLERS`].

Legend: B batch, T time, S width of a state (directions x hidden), P width of the pooled vector.
"""

import torch
from torch import Tensor, nn

from .configuration_rnn import RnnConfig
from .settings_rnn import RnnSettings, look_up


class RnnPooler(nn.Module):
    """Base of all poolings: a subclass defines `forward(states, mask)`.

    Attributes:
        output_size (`int`): Width of the pooled vector, P; a subclass sets it where it is not S.
    """

    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        self.output_size = config.output_size
        self.bidirectional = config.bidirectional

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pool states `(B, T, S)` by a mask `(B, T)`, True at real tokens; T is at least 1.

        Returns the pooled vectors `(B, P)`, zero for a text without tokens, and the tokens' weights
        `(B, T)`, or None for a pooling that does not weigh tokens. Values at masked places are
        arbitrary finite numbers.
        """
        raise NotImplementedError

    def merge(self, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        """Return the pooled vectors `(B, P)` of texts from those of their two parts.

        `share` `(B, 1)` is the share of the tokens that are in the second part.
        """
        raise ValueError(
            f"{type(self).__name__} needs a whole text: choose pooling mean, max, mean_max or last"
        )

    def carry(self, pooled: Tensor, mask: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add the pooled vectors `(B, P)` of tokens to those of the tokens before them.

        Returns the pooled vectors of all tokens, and what the next call needs as `before`,
        `(B, 1 + P)`: the number of tokens read and their pooled vector; None at the start of texts.
        """
        if before is None:
            before = pooled.new_zeros(len(pooled), 1 + pooled.shape[1])
        old = before[:, 1:]
        new = pooled.to(old.dtype)
        count = mask.sum(dim=1, keepdim=True).to(before.dtype)
        total = before[:, :1] + count

        merged = self.merge(old, new, count / total.clamp(min=1))
        merged = torch.where(before[:, :1] > 0, merged, new)
        merged = torch.where(count > 0, merged, old)
        return merged.to(pooled.dtype), torch.cat([total, merged], dim=1)


class LastPooler(RnnPooler):
    """Each direction's state after the last token that it read, which is the first backwards."""

    def merge(self, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        return second

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        steps = torch.arange(mask.shape[1], device=mask.device)
        rows = torch.arange(mask.shape[0], device=mask.device)
        last = states[rows, (steps * mask).amax(dim=1)]
        if self.bidirectional:
            half = states.shape[-1] // 2
            first = states[rows, mask.to(torch.uint8).argmax(dim=1)]
            last = torch.cat([last[:, :half], first[:, half:]], dim=-1)
        return last.masked_fill(~mask.any(dim=1, keepdim=True), 0), None


class MeanPooler(RnnPooler):
    """The mean of a text's states."""

    def merge(self, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        return first + (second - first) * share

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        real = mask[:, :, None].to(states.dtype)
        wide = torch.promote_types(states.dtype, torch.float32)  # float16 ends at 65,504
        mean = (states * real).sum(dim=1, dtype=wide) / real.sum(dim=1, dtype=wide).clamp(min=1)
        return mean.to(states.dtype), None


class MaxPooler(RnnPooler):
    """The largest value of each unit."""

    def merge(self, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        return torch.maximum(first, second)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        barred = torch.zeros_like(mask, dtype=states.dtype).masked_fill_(~mask, float("-inf"))
        highest = (states + barred[:, :, None]).amax(dim=1)
        return highest.masked_fill(~mask.any(dim=1, keepdim=True), 0), None


class MeanMaxPooler(RnnPooler):
    """Mean and maximum, side by side."""

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.output_size = 2 * config.output_size
        # a tuple: they have no weights to save
        self.poolers = MeanPooler(config), MaxPooler(config)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        return torch.cat([pooler(states, mask)[0] for pooler in self.poolers], dim=-1), None

    def merge(self, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        halves = zip(self.poolers, first.chunk(2, dim=1), second.chunk(2, dim=1), strict=True)
        return torch.cat([pooler.merge(old, new, share) for pooler, old, new in halves], dim=1)


class AttentionPooler(RnnPooler):
    """Mean of the states, weighted by the softmax of context · tanh(W state + b).

    Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", equations 5 to
    7.
    """

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.projection = nn.Linear(config.output_size, config.output_size)
        self.context = nn.Linear(config.output_size, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.context(torch.tanh(self.projection(states))).squeeze(-1)  # (B, T)
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=1) * mask
        return (weights[:, :, None] * states).sum(dim=1), weights


POOLERS: dict[str, type[RnnPooler]] = {
    "last": LastPooler,
    "mean": MeanPooler,
    "max": MaxPooler,
    "mean_max": MeanMaxPooler,
    "attention": AttentionPooler,
}


def find_pooler(config: RnnSettings) -> type[RnnPooler]:
    """Return the class of a configuration's pooling; raise a ValueError if it is unknown."""
    return look_up("pooling", config.pooling, POOLERS)
