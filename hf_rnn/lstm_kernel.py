"""A layer through torch's own LSTM: a call costs more than a step of ours, a step of the kernel far less.

So it serves where steps have little to do, with few texts or one, and where no table spares the projection of tokens:
in layers upon a layer. Measured on one core of an EPYC: a call of the kernel takes 50 us a direction, and more of a
wide layer, whose weights it rearranges; a step 0.6 us a direction and its products. A step of `text_alone.py` takes
3.2 us and its products, one of `folded_cells.py` 18 us a direction, and projects nothing where a table does.

Legend: B texts, T steps, E input width, H hidden per direction, D directions.
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

    def beats_table(self, texts: int, steps: int) -> bool:
        """Whether this layer, as the first one, reads texts of about so many tokens faster than with a table.

        Projecting tokens must cost less than the steps save. Of a text alone, whose steps are cheap, it does with
        narrow vectors; the kernel's own product is faster than a step's, by what a projection of H numbers costs.
        """
        directions, hidden, width = self.directions, self._hidden_size, self._input_size
        if texts == 1:
            return steps >= 50 * directions and hidden <= 128 and directions * hidden * (width - hidden) <= 20_000
        return steps >= 10 and texts * hidden * width <= 200_000

    def beats_steps(self, texts: int, steps: int) -> bool:
        """Whether this layer, upon another, reads texts of about so many tokens faster than step by step."""
        return texts > 1 or 1300 * steps >= self.directions * self._hidden_size**2

    @property
    def directions(self) -> int:
        """`int`: D."""
        return len(self._weights)

    @torch.inference_mode()
    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return for each direction all states `(T, B, H)`, as it reads.

        Args:
            inputs (`(T, B, E)`, one a direction): As that direction reads them, from a state of zero.
        """
        zeros = torch.zeros(1, inputs[0].shape[1], self._hidden_size)
        return [
            # positional: states, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first
            torch.lstm(read, (zeros, zeros), weights, True, 1, 0.0, False, False, False)[0]
            for read, weights in zip(inputs, self._weights, strict=True)
        ]
