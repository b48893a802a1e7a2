"""Decide whether a model can be fused, and compute its logits from packed texts or from one text.

The input projection of layer 1, biases included, is a table with a row for every vocabulary entry.

Legend: V vocabulary size, S width of a state, P width of a pooled vector, C classes; the rest as in `cells.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear

from ...models.configuration_rnn import RnnConfig
from ...utils.cpu_features import multiplies_bfloat16
from ...utils.errors import UserError
from .blocks import BLOCK_POOLINGS, FusedBlocks, block_table_bytes
from .cells import FUSED_CELLS, FusedCell
from .packing import PackedTexts

FUSED_HEAD = "RnnForSequenceClassification"
FUSED_POOLINGS = ("last", "mean", "max", "mean_max", "attention")
_KNOWN_CODE = ("hf_rnn.models.", "torch.nn.", "transformers.activations")  # modules that fusing does not change

_BFLOAT16_UNITS = 128  # recurrent products in bfloat16 are used from this number of hidden units
_ADD: Any = np.add.reduce  # faster than the methods of arrays; NumPy's types of these differ between versions
_MAXIMUM: Any = np.maximum.reduce
_LONG_TEXT = 512  # tokens; float32 sums of more states lose digits

FEW_TEXTS = 8  # up to these, NumPy one by one is faster than a batch (measured on one core)

TableDtype = Literal["float32", "bfloat16", "int8"]
TABLE_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

_COMPUTED_AT_ONCE = 1 << 19  # numbers in float32, which stay in the L2 cache until they are rounded


def table_bytes(config: RnnConfig, table_dtype: TableDtype = "float32") -> int:
    """Return the size of the table in bytes: V * D * G * H numbers, G = 1 (RNN), 2 (minGRU), 3 (GRU), 4 (LSTM)."""
    if config.block_type == "residual":
        return block_table_bytes(config, TABLE_DTYPES[table_dtype])
    numbers = config.vocab_size * config.output_size * len(FUSED_CELLS[config.cell_type].order)
    return numbers * TABLE_DTYPES[table_dtype].itemsize


class ProjectionTable:
    """The rows of all vocabulary entries, see [`FusedCell`].

    Attributes:
        stored (`(V * D, G * H)`): The rows; the directions of an entry are adjacent.
        scale (`(D, G * H)`): The factor of each column of int8; None for the other dtypes.
    """

    def __init__(self, cell: FusedCell, embedding: torch.Tensor, table_dtype: TableDtype = "float32") -> None:
        self._cell = cell
        dtype = TABLE_DTYPES[table_dtype]

        def compute_rows(vectors: torch.Tensor) -> torch.Tensor:
            return cell.project([vectors.float()] * cell.directions)

        parts = embedding.split(max(1, _COMPUTED_AT_ONCE // (cell.directions * cell.row_size)))
        self.scale: torch.Tensor | None = None
        if dtype == torch.int8:
            largest = torch.stack([compute_rows(part).abs_().amax(dim=0) for part in parts]).amax(dim=0)
            self.scale = largest.clamp_(min=1e-12).div_(127)
        table = torch.empty(len(embedding), cell.directions, cell.row_size, dtype=dtype, device="cpu")
        for part, place in zip(parts, table.split(len(parts[0])), strict=True):
            rows = compute_rows(part)
            place.copy_(rows if self.scale is None else rows.div_(self.scale).round_())
        self.stored = table.view(-1, cell.row_size)
        self._floats = self.stored.view(len(embedding), -1).numpy() if dtype == torch.float32 else None

    def look_up(self, texts: PackedTexts) -> Iterator[torch.Tensor]:
        """Yield the rows `(B, D, G * H)` of each step; the next step may overwrite them."""
        directions = self._cell.directions
        index = texts.forward
        if directions == 2:
            index = np.stack([2 * texts.forward, 2 * texts.backward + 1], axis=1).reshape(-1)
        room = self.stored.new_empty(directions * texts.sizes[0], self._cell.row_size)
        for step in torch.from_numpy(index).split([directions * size for size in texts.sizes]):
            yield self._restore(torch.index_select(self.stored, 0, step, out=room[: len(step)]))

    def look_up_text(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return the rows `(T, G * H)` of one text for each direction, in float32, as that direction reads them."""
        directions, width = self._cell.directions, self._cell.row_size
        if self._floats is not None:
            rows = self._floats.take(ids, axis=0).reshape(-1, directions, width)
        else:
            rows = self._restore(self.stored.view(-1, directions * width)[torch.from_numpy(ids)]).numpy()
        return [rows[:, 0], rows[::-1, 1]] if directions == 2 else [rows[:, 0]]

    def _restore(self, stored: torch.Tensor) -> torch.Tensor:
        """Return stored rows as `(N, D, G * H)` in float32."""
        rows = stored.view(-1, self._cell.directions, self._cell.row_size).float()
        return rows if self.scale is None else rows.mul_(self.scale)


def find_unsupported_setting(config: Any) -> str | None:
    """Return the first setting that fusing does not support, in words; None if there is no such setting."""
    is_residual = getattr(config, "block_type", "plain") == "residual"
    kinds: Any = ("min_gru",) if is_residual else FUSED_CELLS
    poolings = BLOCK_POOLINGS if is_residual else FUSED_POOLINGS
    for name, known in (("cell_type", kinds), ("pooling", poolings)):
        if (found := getattr(config, name, None)) not in known:
            return f"{name} is {found!r}"
    if getattr(config, "siamese", False):
        return "pair_encoding is 'siamese'"
    if getattr(config, "target_scale", None) is not None:
        return "the model is a checkpoint that answers beside its last layer"
    return None


def find_unsupported_part(model: Any) -> str | None:
    """Return the first part of a model that fusing would not reproduce, in words; None if there is no such part.

    Fusing reads weights and calls no module. Every cell type, pooling and task must be declared (`FUSED_CELLS`,
    `FUSED_POOLINGS`, `Task.fused`), and nothing may be hooked, replaced or quantised.
    """
    if (unsupported := find_unsupported_setting(model.config)) is not None:
        return unsupported
    for name, module in model.named_modules():
        place = name or "the model"
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            return f"{place} has hooks"
        if "forward" in vars(module) and not hasattr(module, "_original_forward"):  # accelerate keeps the original
            return f"forward of {place} was replaced"
        if not f"{type(module).forward.__module__}.".startswith(_KNOWN_CODE):
            return f"{place} is {_name_type(module)}"
    if type(model).forward.__qualname__.partition(".")[0] != FUSED_HEAD:
        return f"the model is {_name_type(model)}"
    parts: list[tuple[str, Any, type[nn.Module]]] = [
        ("rnn.embedding", model.rnn.embedding, nn.Embedding),
        ("classifier", model.classifier, nn.Linear),
    ]
    for number, cells in enumerate(_list_cells(model)):
        kind = FUSED_CELLS[model.config.cell_type].module
        layer = f"rnn.layers.{number}{'.mixer' if getattr(model.config, 'block_type', 'plain') == 'residual' else ''}"
        parts += [(f"{layer}.directions.{side}.cell", cell, kind) for side, cell in enumerate(cells)]
    for name, part, kind in parts:
        if not isinstance(part, kind) or type(part).forward is not kind.forward:
            return f"{name} is {_name_type(part)}"
    for name, weight in model.named_parameters():
        if type(weight) not in (nn.Parameter, torch.Tensor):
            return f"{name} is {_name_type(weight)}"
    return None


def _list_cells(model: Any) -> list[list[nn.Module]]:
    """Return the cells of each layer, one per direction."""
    layers = [getattr(layer, "mixer", layer) for layer in model.rnn.layers]
    return [[direction.cell for direction in layer.directions] for layer in layers]


def _name_type(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def fuse(model: Any, table_dtype: TableDtype = "float32") -> FusedClassifier | FusedBlocks:
    """Return the fused form of a model for which [`find_unsupported_part`] returns None.

    Raises:
        UserError: For residual blocks and int8.
    """
    if model.config.block_type == "plain":
        return FusedClassifier(model, table_dtype)
    if table_dtype == "int8":
        raise UserError(
            "table_dtype int8 is for plain layers, found residual blocks: take bfloat16, or hf-rnn export --quantize"
        )
    return FusedBlocks(model, TABLE_DTYPES[table_dtype])


class FusedClassifier:
    """A supported model over packed token ids, on the CPU, for inference.

    Args:
        model: One for which [`find_unsupported_part`] returns None; its weights must not change afterwards.
        table_dtype: The dtype of the table. `"float32"` gives the model's own answers; `"bfloat16"` and `"int8"` (one
            scale per column) take half and a quarter of the memory and round. With these, recurrent products of 128
            and more units are in bfloat16 where the processor has instructions for it.

    Attributes:
        table ([`ProjectionTable`]): The table of layer 1.
        memory (`int`): Bytes of the table.
        keeps_states (`bool`): Whether a batch keeps the states of all tokens, not only the last or pooled ones.
    """

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def __init__(self, model: Any, table_dtype: TableDtype = "float32") -> None:
        config = model.config
        self.memory = table_bytes(config, table_dtype)
        low = table_dtype != "float32" and config.cell_size >= _BFLOAT16_UNITS and multiplies_bfloat16()
        recurrent_dtype = torch.bfloat16 if low else torch.float32
        self.cells = [FUSED_CELLS[config.cell_type](cells, recurrent_dtype) for cells in _list_cells(model)]
        self.table = ProjectionTable(self.cells[0], model.rnn.embedding.weight.detach(), table_dtype)
        self._pooler = deepcopy(model.pooler).float().requires_grad_(False)
        self._pooling = config.pooling
        self.keeps_states = len(self.cells) > 1 or config.pooling == "attention"
        self._activation = None if config.classifier_activation == "linear" else model.activation
        classifier = deepcopy(model.classifier).float().requires_grad_(False)
        self._weight, self._bias = classifier.weight, classifier.bias
        self._numpy_weight, self._numpy_bias = np.ascontiguousarray(self._weight.numpy().T), self._bias.numpy()

    def single_logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """Return the logits `(1, C)` of one text, computed in NumPy."""
        ids = np.array(token_ids, dtype=np.int64)
        pooled = self._pool_text(ids)[None] if len(ids) else np.zeros((1, self._pooler.output_size), np.float32)
        if self._activation is not None:
            pooled = self._activation(torch.from_numpy(pooled)).numpy()
        return pooled @ self._numpy_weight + self._numpy_bias

    def _pool_text(self, ids: np.ndarray) -> np.ndarray:
        """Return the pooled vector `(P,)` of one text of at least one token."""
        if min(ids.tolist()) < 0:
            raise IndexError("a token id is negative")  # NumPy would count it from the end
        states = self.cells[0].run(self.table.look_up_text(ids))  # (T, D, H)
        return self._pool_further(states) if self.keeps_states else self._pool_states(states)

    @torch.autocast("cpu", enabled=False)
    def _pool_further(self, states: np.ndarray) -> np.ndarray:
        """Run the layers above the first one and pool, with torch where it is needed."""
        for cell in self.cells[1:]:
            inputs = torch.from_numpy(_join_text(states))
            rows = cell.project([inputs, inputs.flip(0)] if cell.directions == 2 else [inputs]).numpy()
            states = cell.run(list(rows.swapaxes(0, 1)))
        if self._pooling != "attention":
            return self._pool_states(states)
        inputs = torch.from_numpy(_join_text(states))[None]
        return self._pooler(inputs, torch.ones(inputs.shape[:2], dtype=torch.bool, device="cpu"))[0][0].numpy()

    def _pool_states(self, states: np.ndarray) -> np.ndarray:
        """Return the pooled vector `(P,)` of states `(T, D, H)`."""
        parts: list[np.ndarray] = [states[-1]] if self._pooling == "last" else []
        if self._pooling in ("mean", "mean_max"):
            total = _ADD(states, dtype=np.float64 if len(states) > _LONG_TEXT else np.float32)
            parts.append((total / len(states)).astype(np.float32, copy=False))
        if self._pooling in ("max", "mean_max"):
            parts.append(_MAXIMUM(states))
        return np.concatenate(parts).reshape(-1)

    def logits(self, texts: PackedTexts) -> torch.Tensor:
        """Return the logits `(B, C)` of a batch; call it in inference mode."""
        pooled = self._pool(texts)
        return linear(pooled if self._activation is None else self._activation(pooled), self._weight, self._bias)

    def _pool(self, texts: PackedTexts) -> torch.Tensor:
        """Return the pooled vectors `(B, P)`."""
        if not texts.sizes:
            return torch.zeros(len(texts.lengths), self._pooler.output_size, dtype=torch.float32, device="cpu")
        rows: Iterable[torch.Tensor] = self.table.look_up(texts)
        for below, cell in zip(self.cells, self.cells[1:], strict=False):
            states = self._run_all(below, rows, texts)
            inputs = [_join(states, texts, reader) for reader in range(cell.directions)]
            rows = cell.project(inputs).split(texts.sizes)
        if self._pooling == "attention":
            return self._pool_by_length(self._run_all(self.cells[-1], rows, texts), texts)
        return self._run_and_pool(self.cells[-1], rows, texts)

    def _run(
        self, cell: FusedCell, rows: Iterable[torch.Tensor], outputs: Iterable[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """Yield h_t `(B, D, H)` of each step, written to the element of `outputs`."""
        previous = None
        for step_rows, output in zip(rows, outputs, strict=True):
            if previous is None:
                shared = cell.start(output.shape)
            elif len(previous) != len(output):
                previous, shared = previous[: len(output)], [room[: len(output)] for room in shared]
            cell.step(step_rows, previous, output, shared)
            yield output
            previous = output

    def _run_all(self, cell: FusedCell, rows: Iterable[torch.Tensor], texts: PackedTexts) -> torch.Tensor:
        """Return all states `(N, D, H)`, as each direction reads."""
        states = torch.empty(len(texts.forward), cell.directions, cell.hidden_size, dtype=torch.float32, device="cpu")
        for _ in self._run(cell, rows, states.split(texts.sizes)):
            pass
        return states

    def _run_and_pool(self, cell: FusedCell, rows: Iterable[torch.Tensor], texts: PackedTexts) -> torch.Tensor:
        """Pool while running, so that no state is kept."""
        batch, pooling = len(texts.lengths), self._pooling
        hidden = torch.zeros(batch, cell.directions, cell.hidden_size, dtype=torch.float32, device="cpu")
        sum_dtype = torch.float64 if len(texts.sizes) > _LONG_TEXT else torch.float32
        total = torch.zeros_like(hidden, dtype=sum_dtype) if pooling in ("mean", "mean_max") else None
        highest = torch.full_like(hidden, float("-inf")) if pooling in ("max", "mean_max") else None
        for state in self._run(cell, rows, (hidden[:size] for size in texts.sizes)):
            if total is not None:
                total[: len(state)].add_(state)
            if highest is not None:
                part = highest[: len(state)]
                torch.maximum(part, state, out=part)
        lengths = torch.from_numpy(texts.lengths)[:, None, None]
        parts = [hidden] if pooling == "last" else []  # each text's last state, because later steps have fewer texts
        if total is not None:
            parts.append(total.div_(lengths.clamp(min=1)).float())
        if highest is not None:
            parts.append(highest.masked_fill_(lengths == 0, 0))
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def _pool_by_length(self, states: torch.Tensor, texts: PackedTexts) -> torch.Tensor:
        """Pool states `(N, D, H)` with the model's own pooler, texts of equal length together."""
        joined = _join(states, texts, 0)
        pooled = []
        for places in texts.places_by_length():
            mask = torch.ones(places.shape, dtype=torch.bool, device="cpu")
            no_tokens = torch.zeros(len(places), self._pooler.output_size, dtype=torch.float32, device="cpu")
            pooled.append(self._pooler(joined[places], mask)[0] if places.shape[1] else no_tokens)
        return torch.cat(pooled)


def _join(states: torch.Tensor, texts: PackedTexts, reader: int) -> torch.Tensor:
    """Return `(N, S)` from states `(N, D, H)`: both directions' states at the token that direction `reader` reads."""
    if states.shape[1] == 1:
        return states[:, 0]
    parts = list(states.unbind(1))
    parts[1 - reader] = parts[1 - reader].index_select(0, texts.flip)
    return torch.cat(parts, dim=1)


def _join_text(states: np.ndarray) -> np.ndarray:
    """Return `(T, S)` in the order of the text from states `(T, D, H)` as each direction reads."""
    if states.shape[1] == 1:
        return states[:, 0]
    return np.concatenate([states[:, 0], states[::-1, 1]], axis=1)
