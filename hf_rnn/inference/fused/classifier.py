"""Which way a batch or a text goes through a folded model, and its logits.

What is left of a step, where layer 1 has a table, is the recurrence, and for minGRU not even a matrix product. Where
steps have little to do batches go through the layers as they are, and so do those of an LSTM upon a layer; a text
alone goes through NumPy.

Legend: N tokens of a batch, B its texts, T steps, H hidden per direction, D directions, G parts of a row, S width of a
state (D * H), P of a pooled vector, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from torch.nn.functional import linear

from ...models.cells_rnn import RnnLayer
from ...models.modeling_rnn import RnnForSequenceClassification
from ...utils.cpu_features import multiplies_bfloat16
from .cells import FOLDED_CELLS, FoldedCell, Views, split_views
from .lstm_kernel import LstmKernel
from .packing import PackedTexts
from .padded_layers import PaddedLayers
from .single_text import LONG, MOST_OF_A_FEW, TextAlone, few_texts
from .table import FoldedTable, TableDtype, table_bytes

_BFLOAT16_FROM = 128  # hidden units from which a product in bfloat16 gained anything; with 64 it did not


class FoldedClassifier:
    """[`RnnForSequenceClassification`] over packed token ids, on the CPU, for inference.

    Args:
        model: It belongs to this object: some of its weights are kept as they are, and must not change.
        table_dtype: How the table is stored. `"float32"` gives the model's own answers; `"bfloat16"` and `"int8"` (one
            scale a column) take half and a quarter of the memory and round. With these, and on a chip that has
            instructions for it, recurrent products of 128 and more units are in bfloat16.

    Attributes:
        table ([`FoldedTable`]): Of layer 1.
        memory (`int`): Bytes of the table, see [`table_bytes`].
    """

    @torch.no_grad()
    def __init__(self, model: RnnForSequenceClassification, table_dtype: TableDtype = "float32") -> None:
        config = model.config
        self.config = config
        self.memory = table_bytes(config, table_dtype)
        recurrent_dtype = torch.float32
        if table_dtype != "float32" and config.hidden_size >= _BFLOAT16_FROM and multiplies_bfloat16():
            recurrent_dtype = torch.bfloat16
        fold = FOLDED_CELLS[config.cell_type]
        layers: list[list[Any]] = [
            [direction.cell for direction in cast(RnnLayer, layer).directions] for layer in model.rnn.layers
        ]
        self.cells = [fold(cells, recurrent_dtype) for cells in layers]
        self.table = FoldedTable(self.cells[0], model.rnn.embedding.weight.detach(), table_dtype)
        self._pooler = deepcopy(model.pooler).float().requires_grad_(False)
        self._pooling = config.pooling
        self._padded = PaddedLayers(model.rnn, self._pooler)
        self._may_take_table = table_dtype == "float32"  # what is rounded must stay so
        self._may_take_upper = config.cell_type == "lstm" and recurrent_dtype == torch.float32
        kernels = [
            LstmKernel(cells) if self._may_take_upper and (number or self._may_take_table) else None
            for number, cells in enumerate(layers)
        ]
        self._alone = TextAlone(self.cells, kernels, self.table, model.rnn.embedding.weight.detach(), self._pooler)
        self.activation = model.activation
        classifier = deepcopy(model.classifier).float().requires_grad_(False)
        self._weight, self._bias = classifier.weight, classifier.bias
        self._column_weight, self._row_bias = np.ascontiguousarray(self._weight.numpy().T), self._bias.numpy()

    def are_few(self, input_ids: Sequence[Sequence[int]]) -> bool:
        """Whether these texts are read sooner one after the other, by [`logits_of_one`], than together."""
        if not 0 < len(input_ids) <= MOST_OF_A_FEW:
            return False
        longest = max(map(len, input_ids))
        return len(input_ids) <= max(1, few_texts(self.config, longest, rounded=not self._may_take_table))

    def logits_of_one(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Logits `(1, C)` of one text.

        Raises:
            IndexError: For an id that the vocabulary does not have.
        """
        ids = np.array(token_ids, dtype=np.int64)
        if not len(ids):
            return self.logits(PackedTexts.of_one(ids)).numpy()
        if min(ids.tolist()) < 0:
            raise IndexError("a token id is negative")  # which NumPy would take as one from the end
        pooled = self._alone.pooled(ids)[None]
        if self.config.classifier_activation != "linear":
            pooled = self.activation(torch.from_numpy(pooled)).numpy()
        return pooled @ self._column_weight + self._row_bias

    def logits(self, texts: PackedTexts) -> torch.Tensor:
        """Logits `(B, C)` of a packed batch; to be called in inference mode.

        Raises:
            IndexError: For an id that the vocabulary does not have.
        """
        return linear(self.activation(self._pool(texts)), self._weight, self._bias)

    def _pool(self, texts: PackedTexts) -> torch.Tensor:
        """The pooled vectors `(B, P)`."""
        if not texts.sizes:  # no token at all
            return torch.zeros(len(texts.lengths), self._pooler.output_size, dtype=torch.float32, device="cpu")
        if self._may_take_table and self._padded.beats_table(texts):
            return self._padded.pool(texts)
        if self._may_take_upper and len(self.cells) > 1:
            return self._padded.pool(texts, self._run_all(self.cells[0], self.table.look_up(texts), texts), 1)
        views: Iterable[Views] = self.table.look_up(texts)
        for below, cell in zip(self.cells, self.cells[1:], strict=False):
            states = self._run_all(below, views, texts)
            views = split_views(cell, self._project(cell, states, texts), texts.sizes)
        if self._pooling == "attention":
            return self._padded.pool(texts, self._run_all(self.cells[-1], views, texts), len(self.cells))
        return self._run_and_pool(self.cells[-1], views, texts)

    def _project(self, cell: FoldedCell, states: torch.Tensor, texts: PackedTexts) -> torch.Tensor:
        """From the states `(N, D, H)` of the layer below to rows `(N, D, G * H)`."""
        rows = states.new_empty(len(states), cell.directions, cell.row_size)
        for direction in range(cell.directions):
            inputs = self._join(states, texts, direction)
            torch.addmm(cell.input_biases[direction], inputs, cell.input_weights[direction], out=rows[:, direction])
        return cell.finish_rows(rows).to(cell.row_dtype)

    def _join(self, states: torch.Tensor, texts: PackedTexts, reader: int) -> torch.Tensor:
        """(N, D, H), each direction as it read → (N, S), both about the token that direction `reader` reads there."""
        if states.shape[1] == 1:
            return states[:, 0]
        parts = list(states.unbind(1))
        parts[1 - reader] = parts[1 - reader].index_select(0, texts.flip)
        return torch.cat(parts, dim=1)

    def _run(
        self, cell: FoldedCell, views: Iterable[Views], outputs: Iterable[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """Take all steps, and yield each step's h_t `(B, D, H)`, which lies in its element of `outputs`."""
        previous = None
        for of_step, output in zip(views, outputs, strict=True):
            if previous is None:
                memory = cell.start(output.shape)
            elif len(previous) != len(output):
                previous, memory = previous[: len(output)], [room[: len(output)] for room in memory]
            cell.step(of_step, previous, output, memory)
            yield output
            previous = output

    def _run_all(self, cell: FoldedCell, views: Iterable[Views], texts: PackedTexts) -> torch.Tensor:
        """All states `(N, D, H)`, as read."""
        states = torch.empty(len(texts.forward), cell.directions, cell.hidden_size, dtype=torch.float32, device="cpu")
        for _ in self._run(cell, views, states.split(texts.sizes)):
            pass
        return states

    def _run_and_pool(self, cell: FoldedCell, views: Iterable[Views], texts: PackedTexts) -> torch.Tensor:
        """Pool while running, where the order of the states is of no matter: no state is kept."""
        batch, pooling = len(texts.lengths), self._pooling
        # each text's last in the end
        hidden = torch.zeros(batch, cell.directions, cell.hidden_size, dtype=torch.float32, device="cpu")
        sums = torch.float64 if len(texts.sizes) > LONG else torch.float32
        total = torch.zeros_like(hidden, dtype=sums) if pooling in ("mean", "mean_max") else None
        highest = torch.full_like(hidden, float("-inf")) if pooling in ("max", "mean_max") else None
        for state in self._run(cell, views, (hidden[:size] for size in texts.sizes)):
            if total is not None:
                total[: len(state)].add_(state)
            if highest is not None:
                part = highest[: len(state)]
                torch.maximum(part, state, out=part)
        lengths = torch.from_numpy(texts.lengths)[:, None, None]
        parts = [hidden] if pooling == "last" else []
        if total is not None:
            parts.append(total.div_(lengths.clamp(min=1)).float())
        if highest is not None:
            parts.append(highest.masked_fill_(lengths == 0, 0))
        return torch.cat([part.flatten(1) for part in parts], dim=1)
