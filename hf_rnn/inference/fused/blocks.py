"""Compute the logits of residual blocks of minGRU from packed texts: no padded place is computed.

All that depends on one token alone is a row of a table: the projected token vector. Everything else is three large
products per block, over all tokens of the batch together, and one multiply-add per step and direction.

Legend: R residual stream, W pooled vector; the rest as in `packing.py` and `cells.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

Product = Callable[[torch.Tensor], torch.Tensor]


def block_table_bytes(config: RnnConfig, dtype: torch.dtype) -> int:
    """Return the size of the table in bytes: V * R numbers."""
    return config.vocab_size * config.stream_size * dtype.itemsize


def copy_float(weight: torch.Tensor) -> torch.Tensor:
    """Return a copy in float32, which later training does not change."""
    return weight.detach().float().clone()


def copy_norm(norm: torch.nn.LayerNorm) -> Product:
    """Return layer normalisation with a copy of the weights."""
    weight, bias, eps = copy_float(norm.weight), copy_float(norm.bias), norm.eps
    return lambda inputs: layer_norm(inputs, weight.shape, weight, bias, eps)


def make_product(weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> Product:
    """Return a function from inputs `(N, I)` to float32 `(N, O)`: a linear layer, computed in `dtype`.

    bfloat16 is used if the processor has instructions for it, float32 otherwise.
    """
    if dtype == torch.bfloat16 and multiplies_bfloat16():
        low, low_bias = weight.bfloat16(), bias.bfloat16()
        return lambda inputs: linear(inputs.bfloat16(), low, low_bias).float()
    transposed = weight.t().contiguous()
    return lambda inputs: torch.addmm(bias, inputs, transposed)


class FusedBlock:
    """One residual block over packed states."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        cells = [direction.cell for direction in block.mixer.directions]
        self.states = len(cells) * cells[0].hidden_size  # D * H
        # update gates of all directions, then candidates, then the gate
        parts = [(cell.weight_ih_l0.float().chunk(2), cell.bias_ih_l0.float().chunk(2)) for cell in cells]
        weights = [part[0][kind] for kind in (0, 1) for part in parts] + [block.gate_proj.weight.float()]
        biases = [part[1][kind] for kind in (0, 1) for part in parts] + [block.gate_proj.bias.float()]
        self.mix = make_product(torch.cat(weights), torch.cat(biases), dtype)
        layers = (block.out_proj, block.up_proj, block.down_proj)
        self.out, self.up, self.down = (
            make_product(copy_float(layer.weight), copy_float(layer.bias), dtype) for layer in layers
        )
        self.norms = [copy_norm(norm) for norm in (block.input_norm, block.mlp_norm)]
        self.kernel = None if block.conv is None else copy_float(block.conv.weight)
        self.ahead = 0 if block.conv is None else block.conv.ahead
        self.is_causal = len(cells) == 1
        self.activation = block.activation

    def run(self, stream: torch.Tensor, sizes: list[int]) -> None:
        """Add both branches to the stream `(N, R)`, in place."""
        inputs = self.norms[0](stream)
        if self.kernel is not None:
            inputs = self._convolve(inputs, sizes)
        mixed, size = self.mix(inputs), self.states
        update = mixed[:, :size].sigmoid_()
        states, keep = mixed[:, size : 2 * size].mul_(update), update.neg_().add_(1)
        self._recur(states, keep, sizes)
        stream += self.out(self.activation(mixed[:, 2 * size :]).mul_(states))
        stream += self.down(self.activation(self.up(self.norms[1](stream))))

    def _convolve(self, inputs: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """Return the weighted sums of neighbours, which are rows of earlier and later steps."""
        kernel: Any = self.kernel
        behind = len(kernel) - 1 - self.ahead
        sums, steps = inputs * kernel[behind], inputs.split(sizes)
        places = sums.split(sizes)
        for place, weight in enumerate(kernel):
            distance = place - behind
            if distance < 0:
                for before, target in zip(steps, places[-distance:], strict=False):
                    target.addcmul_(before[: len(target)], weight)
            elif distance > 0:
                for after, target in zip(steps[distance:], places, strict=False):
                    target[: len(after)].addcmul_(after, weight)
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
        for block in self._blocks:
            block.run(stream, texts.sizes)
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
