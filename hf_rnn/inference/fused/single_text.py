"""One text through all layers, the sooner the fewer calls there are, and those of NumPy cost least.

Legend: T tokens, H hidden per direction, D directions, G parts of a row, S width of a state (D * H), P of a pooled
vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...models.configuration_rnn import RnnConfig
from ...models.pooling_rnn import RnnPooler
from .cells import FoldedCell
from .lstm_kernel import LstmKernel
from .numpy_cells import runner_of
from .table import FoldedTable

_add: Any = np.add.reduce  # of any type: NumPy 2.5 types them otherwise than NumPy 2.4
_largest: Any = np.maximum.reduce

MOST_OF_A_FEW = 8
LONG = 512  # tokens from which one sum after the other, in float32, would lose digits


def few_texts(config: RnnConfig, longest: int, rounded: bool = False) -> int:
    """How many texts are read sooner one after the other than together.

    Measured on one core of an EPYC, with 64 to 256 units, one layer and two, texts of 20 and 200 tokens.

    Args:
        config: The model's.
        longest: Tokens of the longest of them.
        rounded: Whether the table is, for which the layers as they are, which read a few texts fast, do not stand in.
    """
    layers = config.num_hidden_layers
    if rounded and config.cell_type in ("gru", "lstm"):
        return MOST_OF_A_FEW // layers
    if config.cell_type == "lstm":
        return MOST_OF_A_FEW // 2 // layers if longest <= 40 else 0
    if config.cell_type == "gru":
        return MOST_OF_A_FEW // 2 * config.num_directions // layers
    return MOST_OF_A_FEW // 2 if config.cell_type == "min_gru" and layers > 1 and longest < 100 else MOST_OF_A_FEW


class TextAlone:
    """The layers and the pooling of a classifier, for one text.

    Args:
        cells: One a layer.
        kernels: For each layer torch's own, or None where it must not serve.
        table: What layer 1 reads of a token.
        embedding (`(V, E)`): What the kernel of layer 1 reads instead.
        pooler: The model's, in float32.
    """

    def __init__(
        self,
        cells: Sequence[FoldedCell],
        kernels: Sequence[LstmKernel | None],
        table: FoldedTable,
        embedding: torch.Tensor,
        pooler: RnnPooler,
    ) -> None:
        self._cells, self._kernels, self._table, self._embedding = cells, kernels, table, embedding
        self._runners = [runner_of(cell) for cell in cells]
        self._pooler, self._pooling = pooler, pooler.pooling

    def pooled(self, ids: np.ndarray) -> np.ndarray:
        """The pooled vector `(P,)` of a text of at least one token.

        Raises:
            IndexError: For an id that the vocabulary does not have; a negative one counts from its end.
        """
        states = self._read(ids)
        if self._pooling == "attention":
            joined = torch.from_numpy(_join(states))[None]
            return self._pooler(joined, torch.ones(joined.shape[:2], dtype=torch.bool, device="cpu"))[0].numpy()[0]
        parts = [states[-1]] if self._pooling == "last" else []
        if self._pooling in ("mean", "mean_max"):
            total = _add(states, dtype=np.float64 if len(states) > LONG else np.float32)
            parts.append((total / len(states)).astype(np.float32, copy=False))
        if self._pooling in ("max", "mean_max"):
            parts.append(_largest(states))
        return np.concatenate(parts).reshape(-1)

    def _read(self, ids: np.ndarray) -> np.ndarray:
        """The last layer's states `(T, D, H)`, each direction's as it reads."""
        kernel = self._kernels[0]
        if kernel is not None and kernel.beats_table(len(ids)):
            states = kernel.run(self._embedding.index_select(0, torch.from_numpy(ids)).float()).numpy()
        else:
            rows = self._table.look_up_one(ids)
            states = self._runners[0]([rows[:, 0], rows[::-1, 1]] if rows.shape[1] == 2 else [rows[:, 0]])
        for cell, kernel, runner in zip(self._cells[1:], self._kernels[1:], self._runners[1:], strict=True):
            inputs = torch.from_numpy(_join(states))
            if kernel is not None and kernel.beats_steps(len(ids)):
                states = kernel.run(inputs).numpy()
            else:
                states = runner(self._project(cell, inputs))
        return states

    def _project(self, cell: FoldedCell, inputs: torch.Tensor) -> list[np.ndarray]:
        """From `(T, S)` to the rows `(T, G * H)` of each direction, as it reads."""
        rows: list[np.ndarray] = []
        for weight, bias in zip(cell.input_weights, cell.input_biases, strict=True):
            of_direction = cell.finish_rows(torch.addmm(bias, inputs, weight)).numpy()
            rows.append(of_direction[::-1] if rows else of_direction)
        return rows


def _join(states: np.ndarray) -> np.ndarray:
    """`(T, D, H)`, each direction as it read → `(T, S)` as the tokens stand in the text."""
    if states.shape[1] == 1:
        return states[:, 0]
    return np.concatenate([states[:, 0], states[::-1, 1]], axis=1)
