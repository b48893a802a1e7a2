"""A trained classifier → the same function of token ids, faster on a CPU: what layer 1 reads of a token is a table.

The input projection of the first layer depends on the token alone, so it is computed once for each entry of the
vocabulary, biases included; what is left of a step is the recurrence, and for minGRU not even a matrix product.
Batches come packed (`packing.py`), so that only real tokens are computed. A text alone goes through NumPy
(`text_alone.py`), an LSTM's layer upon a layer through torch's kernel (`lstm_kernel.py`), and so do its long texts
where they are few. Texts, tokenizers and devices are the concern of `inference.py`.

Legend: N tokens of a batch, B its texts, T steps, V vocabulary, H hidden per direction, D directions, G parts of a
row, S width of a state (D * H), P of a pooled vector, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any, Literal, cast

import numpy as np
import torch
from torch.nn.functional import linear

from .cells_rnn import RnnLayer
from .configuration_rnn import RnnConfig
from .folded_cells import FOLDED_CELLS, FoldedCell, Views
from .lstm_kernel import LstmKernel
from .modeling_rnn import RnnForSequenceClassification
from .packing import PackedTexts
from .processor import multiplies_bfloat16
from .text_alone import runner_of

TableDtype = Literal["float32", "bfloat16", "int8"]
TABLE_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

_add: Any = np.add.reduce  # of any type: NumPy 2.5 types them otherwise than NumPy 2.4
_largest: Any = np.maximum.reduce

_PARTS = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4, "min_gru": 2}
# Rows of a small batch are looked up at once, those of a large one a step at a time, so that they stay in the cache.
_NUMBERS_AT_ONCE = 1 << 17
_ENTRIES_AT_ONCE = 8192  # of the vocabulary, while the table is computed in float32
_LONG = 512  # tokens from which a sum over a text in float32 would lose digits
_FEW_TEXTS, _FEW_OF_AN_LSTM = 8, 4  # are read sooner one after the other; an LSTM's only where it has one layer
_BFLOAT16_FROM = 128  # hidden units from which a product in bfloat16 gained anything; with 64 it did not


def table_bytes(config: RnnConfig, table_dtype: TableDtype = "float32") -> int:
    """Memory of the table: V * D * G * H numbers, G = 1 (RNN), 2 (minGRU), 3 (GRU) or 4 (LSTM), of 4, 2 or 1 bytes."""
    numbers = config.vocab_size * config.output_size * _PARTS[config.cell_type]
    return numbers * TABLE_DTYPES[table_dtype].itemsize


class FoldedClassifier:
    """[`RnnForSequenceClassification`] over packed token ids, on the CPU, for inference.

    Args:
        model: It belongs to this object: some of its weights are kept as they are, and must not change.
        table_dtype: How the table is stored. `"float32"` gives the model's own answers; `"bfloat16"` and `"int8"` (one
            scale a column) take half and a quarter of the memory and round. With `"bfloat16"`, and on a chip that has
            instructions for it, recurrent products of 128 and more units are in bfloat16 too.

    Attributes:
        memory (`int`): Bytes of the table, see [`table_bytes`].
    """

    @torch.no_grad()
    def __init__(self, model: RnnForSequenceClassification, table_dtype: TableDtype = "float32") -> None:
        config = model.config
        self.config = config
        self.memory = table_bytes(config, table_dtype)
        recurrent_dtype = torch.float32
        if table_dtype == "bfloat16" and config.hidden_size >= _BFLOAT16_FROM and multiplies_bfloat16():
            recurrent_dtype = torch.bfloat16
        fold = FOLDED_CELLS[config.cell_type]
        layers: list[list[Any]] = [
            [direction.cell for direction in cast(RnnLayer, layer).directions] for layer in model.rnn.layers
        ]
        self.cells = [fold(cells, recurrent_dtype) for cells in layers]
        self._runners = [runner_of(cell) for cell in self.cells]
        exact = config.cell_type == "lstm" and recurrent_dtype == torch.float32
        self._kernels = [LstmKernel(cells) if exact else None for cells in layers]
        if table_dtype != "float32":
            self._kernels[0] = None  # it would not read the rounded table
        self._embedding = model.rnn.embedding.weight.detach()
        self.table, self.scale = self._fold(model.rnn.embedding.weight, TABLE_DTYPES[table_dtype])
        rows = self.table.view(len(model.rnn.embedding.weight), -1)  # an entry's directions side by side
        self._float_table = rows.numpy() if rows.dtype == torch.float32 else None
        self.pooler = deepcopy(model.pooler).float().requires_grad_(False)
        self.activation = model.activation
        classifier = deepcopy(model.classifier).float().requires_grad_(False)
        self._weight, self._bias = classifier.weight, classifier.bias
        self._column_weight, self._row_bias = np.ascontiguousarray(self._weight.numpy().T), self._bias.numpy()
        self._pooling = config.pooling

    def _fold(self, embedding: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The table `(V * D, G * H)`, an entry's directions one below the other, and the scales of int8."""
        cell = self.cells[0]

        def rows_of(vectors: torch.Tensor) -> torch.Tensor:
            rows = torch.empty(len(vectors), cell.directions, cell.row_size)
            for direction in range(cell.directions):
                weight, bias = cell.input_weights[direction], cell.input_biases[direction]
                torch.addmm(bias, vectors.float(), weight, out=rows[:, direction])
            return cell.finish_rows(rows)

        parts = embedding.split(_ENTRIES_AT_ONCE)
        scale = None
        if dtype == torch.int8:
            largest = torch.stack([rows_of(part).abs_().amax(dim=0) for part in parts]).amax(dim=0)
            scale = largest.clamp_(min=1e-12).div_(127)  # (D, G * H)
        table = torch.empty(len(embedding), cell.directions, cell.row_size, dtype=dtype)
        for part, place in zip(parts, table.split(_ENTRIES_AT_ONCE), strict=True):
            rows = rows_of(part)
            place.copy_(rows if scale is None else rows.div_(scale).round_())
        return table.view(-1, cell.row_size), scale

    def logits(self, texts: PackedTexts) -> torch.Tensor:
        """Logits `(B, C)` of a packed batch; to be called in inference mode."""
        if not texts.sizes:
            return self._classify(torch.zeros(len(texts.lengths), self.pooler.output_size))
        if len(texts.lengths) <= self._few(texts) and texts.lengths[-1]:
            alone = [self.logits_of_one(texts.forward[texts.places(text)]) for text in range(len(texts.lengths))]
            return torch.from_numpy(np.concatenate(alone))
        return self._classify(self._read(texts))

    def _few(self, texts: PackedTexts) -> int:
        """How many texts are read sooner one after the other than together."""
        if self._kernels[-1] is None:
            return _FEW_TEXTS
        return 0 if self._kernel(0, 1, len(texts.sizes)) else _FEW_OF_AN_LSTM // len(self.cells)

    def _kernel(self, layer: int, texts: int, steps: int, tokens: int | None = None) -> LstmKernel | None:
        """Torch's kernel, where it reads so many texts of about so many tokens sooner, and pads few of them."""
        kernel = self._kernels[layer]
        if kernel is None or texts * steps > 2 * (texts * steps if tokens is None else tokens):
            return None
        beats = kernel.beats_steps if layer else kernel.beats_table
        return kernel if beats(texts, steps) else None

    def _read(self, texts: PackedTexts) -> torch.Tensor:
        """The pooled vectors `(B, P)`."""
        size = len(texts.lengths), len(texts.sizes), len(texts.forward)
        states: torch.Tensor | None = None  # all of the layer below, (N, D, H), as read
        views: Iterable[Views] = ()  # where they are not known yet: what that layer is to look at
        if kernel := self._kernel(0, *size):
            reads = [texts.forward, texts.backward][: self.cells[0].directions]
            ids = [torch.from_numpy(np.ascontiguousarray(read)) for read in reads]
            states = self._run_kernel(kernel, [self._embedding.index_select(0, read).float() for read in ids], texts)
        else:
            views = self._look_up(texts)
        for layer, cell in enumerate(self.cells[1:], start=1):
            if states is None:
                states = self._run_all(self.cells[layer - 1], views, texts)
            if kernel := self._kernel(layer, *size):
                joined = [self._join(states, texts, direction) for direction in range(cell.directions)]
                states = self._run_kernel(kernel, joined, texts)
            else:
                views, states = _split(cell, self._project(cell, states, texts), texts.sizes), None
        if self._pooling == "attention":
            return self._attend(self._run_all(self.cells[-1], views, texts) if states is None else states, texts)
        if states is None:
            return self._run_and_pool(self.cells[-1], views, texts)
        if len(texts.lengths) < len(texts.sizes) and texts.lengths[-1]:
            pooled = [self._pool_one(states[torch.from_numpy(texts.places(text))].numpy()) for text in range(size[0])]
            return torch.from_numpy(np.stack(pooled))
        return self._pool(states.split(texts.sizes), texts)

    def _run_kernel(self, kernel: LstmKernel, inputs: Sequence[torch.Tensor], texts: PackedTexts) -> torch.Tensor:
        """What each direction reads, `(N, E)` → all states `(N, D, H)`, as read; padded in between."""
        shape = len(texts.sizes), len(texts.lengths)
        if len(texts.padded) == shape[0] * shape[1]:  # all of one length
            states = kernel.run([read.view(*shape, -1) for read in inputs])
            return torch.stack(states, dim=2).flatten(0, 1)
        states = kernel.run([read.index_select(0, texts.unpadded).view(*shape, -1) for read in inputs])
        return torch.stack([state.flatten(0, 1).index_select(0, texts.padded) for state in states], dim=1)

    def logits_of_one(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Logits `(1, C)` of one text, the sooner the fewer calls there are, and those of NumPy cost least.

        Raises:
            IndexError: For an id that the vocabulary does not have.
        """
        ids = np.array(token_ids, dtype=np.int64)
        if not len(ids):
            return self.logits(PackedTexts.of_one(ids)).numpy()
        if min(ids.tolist()) < 0:
            raise IndexError("a token id is negative")  # which NumPy would take as one from the end
        states = self._read_one(ids)
        if self._pooling == "attention":
            return self._classify(self._attend(torch.from_numpy(states), PackedTexts.of_one(ids))).numpy()
        pooled = self._pool_one(states)[None]
        if self.config.classifier_activation != "linear":
            pooled = self.activation(torch.from_numpy(pooled)).numpy()
        return pooled @ self._column_weight + self._row_bias

    def _read_one(self, ids: np.ndarray) -> np.ndarray:
        """The last layer's states `(T, D, H)` of a text, as read."""
        if kernel := self._kernel(0, 1, len(ids)):
            states = _run_alone(kernel, self._embedding.index_select(0, torch.from_numpy(ids)).float())
        else:
            states = self._runners[0](_as_read(self._look_up_one(ids)))
        for layer, cell in enumerate(self.cells[1:], start=1):
            if kernel := self._kernel(layer, 1, len(ids)):
                both = cell.directions == 2
                joined = np.concatenate([states[:, 0], states[::-1, 1]], axis=1) if both else states[:, 0]
                states = _run_alone(kernel, torch.from_numpy(joined))
            else:
                rows = self._project(cell, torch.from_numpy(states), PackedTexts.of_one(ids)).float().numpy()
                states = self._runners[layer]([rows[:, direction] for direction in range(cell.directions)])
        return states

    def _pool_one(self, states: np.ndarray) -> np.ndarray:
        """The states `(T, D, H)` of a text → `(P,)`, where pooling is no attention."""
        parts = [states[-1]] if self._pooling == "last" else []
        if self._pooling in ("mean", "mean_max"):
            total = _add(states, dtype=np.float64 if len(states) > _LONG else np.float32)
            parts.append((total / len(states)).astype(np.float32, copy=False))
        if self._pooling in ("max", "mean_max"):
            parts.append(_largest(states))
        return np.concatenate(parts).reshape(-1)

    def _look_up_one(self, ids: np.ndarray) -> np.ndarray:
        """The rows `(T, D, G * H)` in float32 of the tokens as they stand in the text."""
        directions, width = self.cells[0].directions, self.cells[0].row_size
        if self._float_table is not None:
            return self._float_table.take(ids, axis=0).reshape(-1, directions, width)
        rows = self.table.view(-1, directions * width).index_select(0, torch.from_numpy(ids))
        return self._restored(rows).float().numpy()

    def _classify(self, pooled: torch.Tensor) -> torch.Tensor:
        return linear(self.activation(pooled), self._weight, self._bias)

    def _look_up(self, texts: PackedTexts) -> Iterator[Views]:
        """The views of each step's rows of the table, in memory that the next step may take."""
        cell, index = self.cells[0], self._places(texts)
        if len(index) * cell.row_size <= _NUMBERS_AT_ONCE:
            yield from _split(cell, self._restored(self.table.index_select(0, index)), texts.sizes)
            return
        room = self.table.new_empty(cell.directions * texts.sizes[0], cell.row_size)
        for step in index.split([cell.directions * size for size in texts.sizes]):
            rows = torch.index_select(self.table, 0, step, out=room[: len(step)])
            yield cell.views(self._restored(rows))

    def _places(self, texts: PackedTexts) -> torch.Tensor:
        """`(N * D,)`: the place in the table of what each direction reads."""
        if self.cells[0].directions == 1:
            return torch.from_numpy(texts.forward)
        return torch.from_numpy(np.stack([2 * texts.forward, 2 * texts.backward + 1], axis=1).reshape(-1))

    def _restored(self, stored: torch.Tensor) -> torch.Tensor:
        """Some of the table's rows as `(N, D, G * H)` in the dtype that the cell takes."""
        cell = self.cells[0]
        rows = stored.view(-1, cell.directions, cell.row_size).to(cell.row_dtype)
        return rows if self.scale is None else rows.mul_(self.scale)

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
        states = torch.empty(len(texts.forward), cell.directions, cell.hidden_size)
        for _ in self._run(cell, views, states.split(texts.sizes)):
            pass
        return states

    def _run_and_pool(self, cell: FoldedCell, views: Iterable[Views], texts: PackedTexts) -> torch.Tensor:
        """Pool while running, where the order of the states is of no matter: no state is kept."""
        hidden = torch.zeros(len(texts.lengths), cell.directions, cell.hidden_size)
        steps = self._run(cell, views, (hidden[:size] for size in texts.sizes))
        return self._pool(steps, texts, hidden)

    def _pool(
        self, steps: Iterable[torch.Tensor], texts: PackedTexts, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pool `(B, P)` the states of each step, `(texts that have it, D, H)`, where pooling is no attention.

        Args:
            steps: Their states.
            texts: That are read.
            hidden (`(B, D, H)`, *optional*): The memory in which the states lie as they come, each text's last in the
                end.
        """
        batch, pooling, last_cell = len(texts.lengths), self._pooling, self.cells[-1]
        shape = batch, last_cell.directions, last_cell.hidden_size
        last = torch.zeros(shape) if hidden is None else hidden
        total = torch.zeros(shape, dtype=_sum_dtype(texts)) if pooling in ("mean", "mean_max") else None
        highest = torch.full(shape, float("-inf")) if pooling in ("max", "mean_max") else None
        for state in steps:
            if total is not None:
                total[: len(state)].add_(state)
            if highest is not None:
                part = highest[: len(state)]
                torch.maximum(part, state, out=part)
            if hidden is None and pooling == "last":
                last[: len(state)] = state
        lengths = torch.from_numpy(texts.lengths)[:, None, None]
        parts = [last] if pooling == "last" else []
        if total is not None:
            parts.append(total.div_(lengths.clamp(min=1)).float())
        if highest is not None:
            parts.append(highest.masked_fill_(lengths == 0, 0))
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def _attend(self, states: torch.Tensor, texts: PackedTexts) -> torch.Tensor:
        """Attention pooling, see [`RnnPooler`]: `(N, D, H)` → `(B, S)`."""
        batch = len(texts.lengths)
        joined = self._join(states, texts, 0)  # (N, S)
        pooled = joined.new_zeros(batch, joined.shape[1], dtype=_sum_dtype(texts))
        scores = self.pooler.context(torch.tanh(self.pooler.projection(joined))).squeeze(-1)  # (N,)
        steps = torch.arange(len(texts.sizes)).repeat_interleave(torch.tensor(texts.sizes))
        padded = scores.new_full((len(texts.sizes), batch), float("-inf"))
        padded[steps, texts.texts] = scores
        weights = padded.softmax(dim=0, dtype=pooled.dtype)[steps, texts.texts]
        return pooled.index_add_(0, texts.texts, joined * weights[:, None]).float()


def _sum_dtype(texts: PackedTexts) -> torch.dtype:
    return torch.float64 if len(texts.sizes) > _LONG else torch.float32


def _as_read(rows: np.ndarray) -> list[np.ndarray]:
    """`(T, D, G * H)` as the tokens stand in the text → for each direction `(T, G * H)` as it reads them."""
    return [rows[:, 0], rows[::-1, 1]] if rows.shape[1] == 2 else [rows[:, 0]]


def _run_alone(kernel: LstmKernel, inputs: torch.Tensor) -> np.ndarray:
    """One text: `(T, E)` as its tokens stand → all states `(T, D, H)`, as read."""
    states = kernel.run([inputs[:, None], inputs.flip(0)[:, None]][: kernel.directions])
    return torch.cat(states, dim=1).numpy()


def _split(cell: FoldedCell, rows: torch.Tensor, sizes: list[int]) -> Iterator[Views]:
    """Rows `(N, D, G * H)` → the views of those of each step."""
    return zip(*(view.split(sizes) for view in cell.views(rows)), strict=True)
