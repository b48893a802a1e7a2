"""Compute the logits of residual blocks of minGRU from packed texts: no padded place is computed.

All that depends on one token alone is a row of a table: the projected token vector. Everything else is three large
products per block, over all tokens of the batch together, and one multiply-add per step and direction.

Legend: R residual stream, W pooled vector; the rest as in `packing.py` and `cells.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import layer_norm, linear

from ...models.configuration_rnn import RnnConfig
from ...utils.cpu_features import multiplies_bfloat16
from .packing import PackedTexts

BLOCK_POOLINGS = ("last", "mean", "max", "mean_max")
_TOKENS_PER_BATCH = 2048  # larger batches leave the cache
_ROWS_AT_ONCE = 8192

_IN_PLACE: dict[type, Callable[[torch.Tensor], torch.Tensor]] = {
    torch.nn.SiLU: partial(torch.nn.functional.silu, inplace=True),
    torch.nn.ReLU: torch.relu_,
}


def block_table_bytes(config: RnnConfig, dtype: torch.dtype) -> int:
    """Return the size of the table in bytes: V * R numbers."""
    return config.vocab_size * config.stream_size * dtype.itemsize


def copy_float(weight: torch.Tensor) -> torch.Tensor:
    """Return a copy in float32, which later training does not change."""
    return weight.detach().float().clone()


def copy_norm(norm: torch.nn.LayerNorm) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return layer normalisation with a copy of the weights."""
    weight, bias, eps = copy_float(norm.weight), copy_float(norm.bias), norm.eps
    return lambda inputs: layer_norm(inputs, weight.shape, weight, bias, eps)


class Product:
    """A linear layer, computed in `dtype`: bfloat16 if the processor has instructions for it, float32 otherwise."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> None:
        self._is_low = dtype == torch.bfloat16 and multiplies_bfloat16()
        self._weight, self._bias = copy_float(weight).t().contiguous(), copy_float(bias)
        if self._is_low:
            self._weight, self._bias = copy_float(weight).bfloat16(), self._bias.bfloat16()

    def __call__(self, inputs: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Write the products of `(N, I)` to `out` `(N, O)`, and return it."""
        if self._is_low:
            return out.copy_(linear(inputs.bfloat16(), self._weight, self._bias))
        return torch.addmm(self._bias, inputs, self._weight, out=out)

    def add_to(self, stream: torch.Tensor, inputs: torch.Tensor) -> None:
        """Add the products to the stream `(N, O)`, in place."""
        if self._is_low:
            stream += linear(inputs.bfloat16(), self._weight, self._bias)
        else:
            stream.add_(self._bias).addmm_(inputs, self._weight)


class FusedBlock:
    """One residual block over packed states."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        cells = [direction.cell for direction in block.mixer.directions]
        weights, biases = (
            [getattr(cell, f"{kind}_ih_l0").float().chunk(2) for cell in cells] for kind in ("weight", "bias")
        )
        # 1 - sigmoid(x) is sigmoid(-x)
        self.keep = Product(-torch.cat([gate for gate, _ in weights]), -torch.cat([gate for gate, _ in biases]), dtype)
        self.candidate = Product(
            torch.cat([part for _, part in weights]), torch.cat([part for _, part in biases]), dtype
        )
        layers = (block.gate_proj, block.out_proj, block.up_proj, block.down_proj)
        self.gate, self.out, self.up, self.down = (Product(layer.weight, layer.bias, dtype) for layer in layers)
        self.states, self.inner = len(cells) * cells[0].hidden_size, block.up_proj.out_features
        self.norms = [copy_norm(norm) for norm in (block.input_norm, block.mlp_norm)]
        self.kernel = None if block.conv is None else copy_float(block.conv.weight)
        self.ahead = 0 if block.conv is None else block.conv.ahead
        self.behind = 0 if block.conv is None else block.conv.size - 1 - block.conv.ahead
        self.is_causal = len(cells) == 1
        self.activation = _IN_PLACE.get(type(block.activation), block.activation)

    def run(
        self, stream: torch.Tensor, sizes: list[int], near: dict[int, torch.Tensor], room: list[torch.Tensor]
    ) -> None:
        """Add both branches to the stream `(N, R)`, in place.

        `near` has the places of neighbours by distance, and `room` is three times `(N, ...)` to compute in.
        """
        inputs = self.norms[0](stream)
        if self.kernel is not None:
            inputs = self._convolve(inputs, near)
        keep, states, gate = (part[:, : self.states] for part in room)
        self.keep(inputs, keep).sigmoid_()
        self.candidate(inputs, states).addcmul_(keep, states, value=-1)  # the share that the gate takes
        self._recur(states, keep, sizes)
        self.out.add_to(stream, self.activation(self.gate(inputs, gate)).mul_(states))
        inner = room[0][:, : self.inner]
        self.down.add_to(stream, self.activation(self.up(self.norms[1](stream), inner)))

    def _convolve(self, inputs: torch.Tensor, near: dict[int, torch.Tensor]) -> torch.Tensor:
        """Return the weighted sums of neighbours."""
        kernel: Any = self.kernel
        sums = inputs * kernel[self.behind]
        wide = torch.cat([inputs, inputs.new_zeros(1, inputs.shape[1])])
        for place, weight in enumerate(kernel):
            if place != self.behind:
                sums.addcmul_(wide.index_select(0, near[place - self.behind]), weight)
        return sums

    def _recur(self, states: torch.Tensor, keep: torch.Tensor, sizes: list[int]) -> None:
        """Turn the addends of the states `(N, D * H)` into the states h_t = keep_t * h_(t-1) + addend_t, in place."""
        half = keep.shape[1] if self.is_causal else keep.shape[1] // 2
        steps, kept = states[:, :half].split(sizes), keep[:, :half].split(sizes)
        for previous, step, factor in zip(steps, steps[1:], kept[1:], strict=False):
            step.addcmul_(factor, previous[: len(step)])
        if not self.is_causal:
            steps, kept = states[:, half:].split(sizes), keep[:, half:].split(sizes)
            for time in range(len(sizes) - 2, -1, -1):
                later = steps[time + 1]
                steps[time][: len(later)].addcmul_(kept[time][: len(later)], later)


class FusedBlocks:
    """A classifier of residual blocks of minGRU over packed token ids, on the CPU, for inference.

    Args:
        model: One that is supported; its weights must not change afterwards.
        dtype: That of the table, and of the products if the processor has instructions for it. float32 gives the
            model's own answers; bfloat16 rounds.

    Attributes:
        memory (`int`): Bytes of the table.
        tokens_per_batch (`int`): Tokens to run at once.
    """

    keeps_states, tokens_per_batch = True, _TOKENS_PER_BATCH

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        config, encoder = model.config, model.rnn
        self.memory = block_table_bytes(config, dtype)
        self._table = torch.empty(config.vocab_size, config.stream_size, dtype=dtype)
        rows = encoder.embedding.weight.split(_ROWS_AT_ONCE)
        for vectors, target in zip(rows, self._table.split(_ROWS_AT_ONCE), strict=True):
            target.copy_(encoder.projection(vectors))
        self._blocks = [FusedBlock(block, dtype) for block in encoder.layers]
        self._norm = copy_norm(encoder.norm)
        self._pooling, self._bidirectional = config.pooling, config.bidirectional
        self.pooled_size = model.pooler.output_size
        self._activation = None if config.classifier_activation == "linear" else model.activation
        self._weight, self._bias = copy_float(model.classifier.weight), copy_float(model.classifier.bias)

    def single_logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """Return the logits `(1, C)` of one text."""
        lengths, ids = np.array([len(token_ids)]), np.array(token_ids, dtype=np.int64)
        with torch.inference_mode():
            return self.logits(PackedTexts.pack(ids, np.array([0]), lengths)).numpy()

    def logits(self, texts: PackedTexts) -> torch.Tensor:
        """Return the logits `(B, C)` of a batch; call it in inference mode."""
        if texts.sizes:
            pooled = self._pool(self.encode(texts), texts)
        else:
            pooled = torch.zeros(len(texts.lengths), self.pooled_size)
        return linear(pooled if self._activation is None else self._activation(pooled), self._weight, self._bias)

    def encode(self, texts: PackedTexts) -> torch.Tensor:
        """Return the states `(N, R)` of all tokens, step by step."""
        if len(texts.forward) and texts.forward.min() < 0:
            raise IndexError("a token id is negative")
        stream = self._table.index_select(0, torch.from_numpy(texts.forward)).float()
        width = max(size for block in self._blocks for size in (block.states, block.inner))
        room = list(stream.new_empty(3, len(stream), width).unbind())
        first = self._blocks[0]
        near = {distance: texts.neighbours(distance) for distance in range(-first.behind, first.ahead + 1) if distance}
        for block in self._blocks:
            block.run(stream, texts.sizes, near, room)
        return self._norm(stream)

    def _pool(self, states: torch.Tensor, texts: PackedTexts) -> torch.Tensor:
        """Return the pooled vectors `(B, W)` of states `(N, R)`."""
        batch, width = len(texts.lengths), states.shape[1]
        steps, parts = states.split(texts.sizes), []
        if self._pooling == "last":
            last = torch.zeros(batch, width)
            for step in steps:
                last[: len(step)] = step
            if self._bidirectional:
                last[: len(steps[0]), width // 2 :] = steps[0][:, width // 2 :]
            return last
        if self._pooling in ("mean", "mean_max"):
            total = torch.zeros(batch, width, dtype=torch.float64 if len(steps) > 512 else torch.float32)
            for step in steps:
                total[: len(step)] += step
            lengths = torch.from_numpy(texts.lengths)[:, None]
            parts.append(total.div_(lengths.clamp(min=1)).float())
        if self._pooling in ("max", "mean_max"):
            highest = torch.full((batch, width), float("-inf"))
            for step in steps:
                rows = highest[: len(step)]
                torch.maximum(rows, step, out=rows)
            highest[len(steps[0]) :] = 0  # texts without tokens
            parts.append(highest)
        return torch.cat(parts, dim=-1)
