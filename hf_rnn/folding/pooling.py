"""The model's own pooling, for inference: in float32, whatever the model's weights are in, and long sums in float64.

Legend: B batch, T time, S width of a state, P width of the pooled vector.
"""

from copy import deepcopy

import torch

from ..pooling_rnn import RnnPooler

LONG = 512  # tokens from which a sum over a text in float32 would lose digits


class InferencePooler:
    """[`RnnPooler`] without gradients.

    Args:
        pooler: It is copied.

    Attributes:
        pooler ([`RnnPooler`]): The copy in float32.
    """

    def __init__(self, pooler: RnnPooler) -> None:
        self.pooler = deepcopy(pooler).float().requires_grad_(False)
        self._exact = deepcopy(self.pooler).double()

    def __call__(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool `(B, T, S)` by a mask `(B, T)` to `(B, P)`, in float32."""
        if states.shape[1] > LONG:
            return self._exact(states.double(), mask)[0].float()
        return self.pooler(states, mask)[0]
