"""From one state a token to one vector a text; masked tokens have no part in it.

Legend: B batch, T time, S width of a state (directions x hidden), P width of the pooled vector.
"""

import torch
from torch import nn

from .configuration_rnn import RnnConfig


class RnnPooler(nn.Module):
    """Pool the states of each text.

    `attention` weighs each state by the softmax of context · tanh(W state + b) (Yang et al. 2016, "Hierarchical
    Attention Networks for Document Classification", equations 5 to 7).

    Args:
        config ([`RnnConfig`]): Gives the kind of pooling and the widths.
    """

    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.bidirectional = config.bidirectional
        self.output_size = config.output_size * (2 if config.pooling == "mean_max" else 1)
        if config.pooling == "attention":
            self.projection = nn.Linear(config.output_size, config.output_size)
            self.context = nn.Linear(config.output_size, 1, bias=False)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pool.

        Args:
            states (`(B, T, S)`): T is at least 1; what stands where the mask is False is not looked at.
            mask (`torch.BoolTensor` of shape `(B, T)`): True at real tokens.

        Returns:
            The pooled vectors `(B, P)`, zero for a text without tokens, and for attention the weights `(B, T)`, else
            None.
        """
        if self.pooling == "last":
            return self._last(states, mask), None
        if self.pooling == "attention":
            scores = self.context(torch.tanh(self.projection(states))).squeeze(-1)  # (B, T)
            weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=1) * mask
            return (weights[:, :, None] * states).sum(dim=1), weights
        parts = []
        real = mask[:, :, None].to(states.dtype)
        if self.pooling in ("mean", "mean_max"):
            wide = torch.promote_types(states.dtype, torch.float32)  # float16 ends at 65,504
            mean = (states * real).sum(dim=1, dtype=wide) / real.sum(dim=1, dtype=wide).clamp(min=1)
            parts.append(mean.to(states.dtype))
        if self.pooling in ("max", "mean_max"):
            barred = torch.zeros_like(real).masked_fill_(~mask[:, :, None], float("-inf"))
            highest = (states + barred).amax(dim=1)
            parts.append(highest.masked_fill(~mask.any(dim=1, keepdim=True), 0))
        return torch.cat(parts, dim=-1), None

    def _last(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Each direction's state after the last token that it read: the last place forwards, the first backwards."""
        steps = torch.arange(mask.shape[1], device=mask.device)
        rows = torch.arange(mask.shape[0], device=mask.device)
        last = states[rows, (steps * mask).amax(dim=1)]
        if self.bidirectional:
            half = states.shape[-1] // 2
            first = states[rows, mask.to(torch.uint8).argmax(dim=1)]
            last = torch.cat([last[:, :half], first[:, half:]], dim=-1)
        return last.masked_fill(~mask.any(dim=1, keepdim=True), 0)
