"""One text through a layer of torch's own LSTM: a call costs more than the steps of `text_alone.py`, a step less.

So it serves long texts, and layers upon a layer, which no table helps. Measured on one core of an EPYC: a step of
`text_alone.py` costs about 3.2 us and its products, one of the kernel 0.6 us a direction and its products, among them
the input projection; a call of the kernel 50 us a direction, and more of a wide layer, whose weights it rearranges.

Legend: T tokens, E input width, H hidden per direction, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


class LstmKernel:
    """A layer of an LSTM in one or two directions, for inference.

    Args:
        cells: One a direction. Weights in float32 are kept, not copied.
    """

    def __init__(self, cells: Sequence[nn.LSTM]) -> None:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")  # in the kernel's order
        self._weights = [[getattr(cell, name).detach().float() for name in names] for cell in cells]
        self._zero = torch.zeros(1, 1, cells[0].hidden_size)
        self._input_size, self._hidden_size = cells[0].input_size, cells[0].hidden_size

    def beats_table(self, steps: int) -> bool:
        """Whether this layer, as the first one, reads so many tokens faster than where their projection is looked up.

        Projecting tokens must cost less than the steps save: with wide vectors, or in two directions, it does not.
        """
        directions, hidden = len(self._weights), self._hidden_size
        projected = directions * hidden * (self._input_size - hidden)  # the kernel's own product is faster by the rest
        return steps >= 50 * directions and hidden <= 128 and projected <= 20_000

    def beats_steps(self, steps: int) -> bool:
        """Whether this layer, upon another, reads so many tokens faster than step by step."""
        return 1300 * steps >= len(self._weights) * self._hidden_size**2

    @torch.inference_mode()
    def run(self, inputs: torch.Tensor) -> np.ndarray:
        """Return all states `(T, D, H)`, as each direction reads.

        Args:
            inputs (`(T, E)`): As the tokens stand in the text, at least one.
        """
        start = self._zero, self._zero
        states = [
            # positional: states, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first
            torch.lstm(
                (inputs.flip(0) if backward else inputs)[:, None], start, weights, True, 1, 0.0, False, False, False
            )[0]
            for backward, weights in enumerate(self._weights)
        ]
        return torch.cat(states, dim=1).numpy()
