"""What layer 1 reads of a token, for every entry of the vocabulary: its input projection, biases included.

It depends on the token alone, so that at inference it is a table, in the order and with the factors of a
[`FoldedCell`].

Legend: N tokens of a batch, T tokens of a text, V vocabulary, H hidden per direction, D directions, G parts of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from ...models.configuration_rnn import RnnConfig
from .cells import FOLDED_CELLS, FoldedCell, Views, split_views
from .packing import PackedTexts

TableDtype = Literal["float32", "bfloat16", "int8"]
TABLE_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

# Rows of a small batch are looked up at once, those of a large one a step at a time, so that they stay in the cache.
_NUMBERS_AT_ONCE = 1 << 17
_COMPUTED_AT_ONCE = 1 << 19  # numbers in float32, which then stay in the second cache until they are rounded


def table_bytes(config: RnnConfig, table_dtype: TableDtype = "float32") -> int:
    """Memory of the table: V * D * G * H numbers, G = 1 (RNN), 2 (minGRU), 3 (GRU) or 4 (LSTM), of 4, 2 or 1 bytes."""
    numbers = config.vocab_size * config.output_size * len(FOLDED_CELLS[config.cell_type].order)
    return numbers * TABLE_DTYPES[table_dtype].itemsize


def table_work(config: RnnConfig, table_dtype: TableDtype = "float32") -> int:
    """Multiplications that the table takes to compute: as many a number as a vector has, for int8 twice."""
    numbers = table_bytes(config) // TABLE_DTYPES["float32"].itemsize
    return numbers * config.embedding_size * (2 if table_dtype == "int8" else 1)


class FoldedTable:
    """The rows of all entries.

    Args:
        cell: Of layer 1.
        embedding (`(V, E)`): The vectors of the entries.
        table_dtype: How rows are stored; int8 has one scale a column.

    Attributes:
        stored (`(V * D, G * H)`): An entry's directions one below the other.
        scale (`(D, G * H)`): By which int8 is multiplied; None for the others.
    """

    def __init__(self, cell: FoldedCell, embedding: torch.Tensor, table_dtype: TableDtype = "float32") -> None:
        self._cell = cell
        self.stored, self.scale = self._fold(embedding, TABLE_DTYPES[table_dtype])
        entries = self.stored.view(len(embedding), -1)  # an entry's directions side by side
        self._floats = entries.numpy() if entries.dtype == torch.float32 else None

    def _fold(self, embedding: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        cell = self._cell

        def rows_of(vectors: torch.Tensor) -> torch.Tensor:
            rows = torch.empty(len(vectors), cell.directions, cell.row_size, dtype=torch.float32, device="cpu")
            for direction in range(cell.directions):
                weight, bias = cell.input_weights[direction], cell.input_biases[direction]
                torch.addmm(bias, vectors.float(), weight, out=rows[:, direction])
            return cell.finish_rows(rows)

        entries = max(1, _COMPUTED_AT_ONCE // (cell.directions * cell.row_size))
        parts = embedding.split(entries)
        scale = None
        if dtype == torch.int8:
            largest = torch.stack([rows_of(part).abs_().amax(dim=0) for part in parts]).amax(dim=0)
            scale = largest.clamp_(min=1e-12).div_(127)  # (D, G * H)
        table = torch.empty(len(embedding), cell.directions, cell.row_size, dtype=dtype, device="cpu")
        for part, place in zip(parts, table.split(entries), strict=True):
            rows = rows_of(part)
            place.copy_(rows if scale is None else rows.div_(scale).round_())
        return table.view(-1, cell.row_size), scale

    def look_up(self, texts: PackedTexts) -> Iterator[Views]:
        """The views of each step's rows, in memory that the next step may take.

        Raises:
            IndexError: For an id that the vocabulary does not have.
        """
        cell, index = self._cell, self._places(texts)
        if len(index) * cell.row_size <= _NUMBERS_AT_ONCE:
            yield from split_views(cell, self._restored(self.stored.index_select(0, index)), texts.sizes)
            return
        room = self.stored.new_empty(cell.directions * texts.sizes[0], cell.row_size)
        for step in index.split([cell.directions * size for size in texts.sizes]):
            rows = torch.index_select(self.stored, 0, step, out=room[: len(step)])
            yield cell.views(self._restored(rows))

    def look_up_one(self, ids: np.ndarray) -> np.ndarray:
        """The rows `(T, D, G * H)` in float32 of the tokens as they stand in a text.

        Raises:
            IndexError: For an id that the vocabulary does not have; a negative one counts from its end.
        """
        directions, width = self._cell.directions, self._cell.row_size
        if self._floats is not None:
            return self._floats.take(ids, axis=0).reshape(-1, directions, width)
        rows = self.stored.view(-1, directions * width).index_select(0, torch.from_numpy(ids))
        return self._restored(rows).float().numpy()

    def _places(self, texts: PackedTexts) -> torch.Tensor:
        """`(N * D,)`: the place in the table of what each direction reads."""
        if self._cell.directions == 1:
            return torch.from_numpy(texts.forward)
        return torch.from_numpy(np.stack([2 * texts.forward, 2 * texts.backward + 1], axis=1).reshape(-1))

    def _restored(self, stored: torch.Tensor) -> torch.Tensor:
        """Some rows as `(N, D, G * H)` in the dtype that the cell takes."""
        rows = stored.view(-1, self._cell.directions, self._cell.row_size)
        if self.scale is not None:
            rows = rows.float().mul_(self.scale)
        return rows.to(self._cell.row_dtype)
