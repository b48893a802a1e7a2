"""Store the input projection of layer 1, biases included, for every vocabulary entry.

Legend: N tokens of a batch, T tokens of a text, V vocabulary size, H hidden units per direction, D directions, G parts
of a row, as in `cells.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from ...models.configuration_rnn import RnnConfig
from .cells import FUSED_CELLS, FusedCell
from .packing import PackedTexts

TableDtype = Literal["float32", "bfloat16", "int8"]
TABLE_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

_COMPUTED_AT_ONCE = 1 << 19  # numbers in float32, which stay in the L2 cache until they are rounded


def table_bytes(config: RnnConfig, table_dtype: TableDtype = "float32") -> int:
    """Return the size of the table in bytes: V * D * G * H numbers, G = 1 (RNN), 2 (minGRU), 3 (GRU), 4 (LSTM)."""
    numbers = config.vocab_size * config.output_size * len(FUSED_CELLS[config.cell_type].order)
    return numbers * TABLE_DTYPES[table_dtype].itemsize


class ProjectionTable:
    """The rows of all vocabulary entries, see [`FusedCell`].

    Args:
        cell: Layer 1.
        embedding (`(V, E)`): The vectors of the entries.
        table_dtype: The dtype of stored rows. int8 has one scale per column.

    Attributes:
        stored (`(V * D, G * H)`): The rows; the directions of an entry are adjacent.
        scale (`(D, G * H)`): The factor of each column of int8; None for the other dtypes.
    """

    def __init__(self, cell: FusedCell, embedding: torch.Tensor, table_dtype: TableDtype = "float32") -> None:
        self._cell = cell
        self.stored, self.scale = self._compute(embedding, TABLE_DTYPES[table_dtype])
        self._floats = self.stored.view(len(embedding), -1).numpy() if self.stored.dtype == torch.float32 else None

    def _compute(self, embedding: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        cell = self._cell

        def compute_rows(vectors: torch.Tensor) -> torch.Tensor:
            return cell.project([vectors.float()] * cell.directions)

        parts = embedding.split(max(1, _COMPUTED_AT_ONCE // (cell.directions * cell.row_size)))
        scale = None
        if dtype == torch.int8:
            largest = torch.stack([compute_rows(part).abs_().amax(dim=0) for part in parts]).amax(dim=0)
            scale = largest.clamp_(min=1e-12).div_(127)
        table = torch.empty(len(embedding), cell.directions, cell.row_size, dtype=dtype, device="cpu")
        for part, place in zip(parts, table.split(len(parts[0])), strict=True):
            rows = compute_rows(part)
            place.copy_(rows if scale is None else rows.div_(scale).round_())
        return table.view(-1, cell.row_size), scale

    def look_up(self, texts: PackedTexts) -> Iterator[torch.Tensor]:
        """Yield the rows `(B, D, G * H)` of each step; the next step may overwrite them.

        Raises:
            IndexError: For an id outside the vocabulary.
        """
        directions = self._cell.directions
        index = texts.forward
        if directions == 2:
            index = np.stack([2 * texts.forward, 2 * texts.backward + 1], axis=1).reshape(-1)
        room = self.stored.new_empty(directions * texts.sizes[0], self._cell.row_size)
        for step in torch.from_numpy(index).split([directions * size for size in texts.sizes]):
            yield self._restore(torch.index_select(self.stored, 0, step, out=room[: len(step)]))

    def look_up_text(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return the rows `(T, G * H)` of one text for each direction, in float32, as that direction reads them.

        Raises:
            IndexError: For an id outside the vocabulary; a negative one counts from its end.
        """
        directions, width = self._cell.directions, self._cell.row_size
        if self._floats is not None:
            rows = self._floats.take(ids, axis=0).reshape(-1, directions, width)
        else:
            rows = self._restore(self.stored.view(-1, directions * width)[torch.from_numpy(ids)]).numpy()
        return [rows[:, 0], rows[::-1, 1]][:directions] if directions == 2 else [rows[:, 0]]

    def _restore(self, stored: torch.Tensor) -> torch.Tensor:
        """Return stored rows as `(N, D, G * H)` in float32."""
        rows = stored.view(-1, self._cell.directions, self._cell.row_size).float()
        return rows if self.scale is None else rows.mul_(self.scale)
