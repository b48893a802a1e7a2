"""One text through a layer of torch's own LSTM: a call costs more than a step of ours, a step of the kernel far less.

So it serves long texts, and layers upon a layer, where no table spares the projection of tokens. Measured on one core
of an EPYC: a call takes 50 us a direction, and more of a wide layer, whose weights it rearranges; a step 0.6 us a
direction and its products. A step of `numpy_cells.py` takes 3.2 us and its products, and projects nothing where a
table does.

Legend: T tokens, E input width, H hidden per direction, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        self._input_size, self._hidden_size = cells[0].input_size, cells[0].hidden_size

    def beats_table(self, steps: int) -> bool:
        """Whether this layer, as the first one, reads a text of so many tokens faster than with a table.

        With narrow vectors: the kernel's own product is faster than a step's, by what projecting H numbers costs.
        """
        directions, hidden, width = len(self._weights), self._hidden_size, self._input_size
        return steps >= 50 * directions and hidden <= 128 and directions * hidden * (width - hidden) <= 20_000

    def beats_steps(self, steps: int) -> bool:
        """Whether this layer, upon another, reads a text of so many tokens faster than step by step."""
        return 1300 * steps >= len(self._weights) * self._hidden_size**2

    @torch.inference_mode()
    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return all states `(T, D, H)`, each direction's as it reads, from a state of zero.

        Args:
            inputs (`(T, E)`): As the tokens stand in the text.
        """
        zeros = torch.zeros(1, 1, self._hidden_size, dtype=torch.float32, device="cpu")
        reads = [inputs, inputs.flip(0)][: len(self._weights)]
        states = [
            # positional: states, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first
            torch.lstm(read[:, None], (zeros, zeros), weights, True, 1, 0.0, False, False, False)[0]
            for read, weights in zip(reads, self._weights, strict=True)
        ]
        return torch.cat(states, dim=1)
