"""Compute recurrent cells whose input projection is already known, for inference on a CPU.

A *row* is the part of a cell's sums that depends on its input alone: W x + b, G parts of H numbers. Each class holds
one layer in all directions and computes it in two ways. `step` reads one token of each text of a batch, in torch.
`run` reads one whole text in NumPy, whose calls cost less than half of torch's: with one text the calls are most of
the work.

torch takes six times as long for a tanh as for a sigmoid, so `step` computes tanh(x) as 2 sigmoid(2x) - 1. The inner 2
is in rows and weights from the start: such a part of a row is *doubled*. NumPy has a fast tanh and no sigmoid, so
`run` computes sigmoid(x) as (1 + tanh(x / 2)) / 2 and halves rows and weights. Powers of two round nothing.

Legend: B texts that have a token at a step, T tokens of a text, N tokens of a batch, I input width, H hidden units per
direction, D directions, G parts of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...models.cells_rnn import Lstm, MinGru

_MINUS_ONE = torch.tensor(-1.0, device="cpu")
_ZERO, _QUARTER, _HALF, _ONE = (np.array(number, dtype=np.float32) for number in (0, 0.25, 0.5, 1))


def _tanh_of_doubled(doubled: Tensor, out: Tensor) -> Tensor:
    """Return tanh(x) of 2x, written to `out`."""
    return torch.add(_MINUS_ONE, torch.sigmoid(doubled, out=out), alpha=2, out=out)


def _multiply_add(base: Tensor, state: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write base + state @ weight to `out` in float32; the product is in the dtype of `weight`."""
    if weight.dtype == torch.float32:
        torch.addmm(base, state, weight, out=out)
    else:
        torch.add(base, state.to(weight.dtype) @ weight, out=out)


class FusedCell:
    """The weights of one layer in all directions, its `step` and its `run`.

    `cells` are modules of type `module`, one per direction. The recurrent product is in float32, or in bfloat16 where
    the processor multiplies in it.
    """

    module: ClassVar[type[nn.Module]]  # the module that this class computes
    order: ClassVar[tuple[int, ...]]  # the place of each part of a row in the weights of `module`
    doubled: ClassVar[int | None] = None  # the part of a row that is stored doubled

    def __init__(self, cells: Sequence[Any], recurrent_dtype: torch.dtype = torch.float32) -> None:
        self.directions = len(cells)
        self.hidden_size: int = cells[0].hidden_size
        self.row_size = len(self.order) * self.hidden_size
        self._input_weights = [self._reorder(cell.weight_ih_l0).t().contiguous() for cell in cells]
        self._input_biases = [self._reorder(self._input_bias(cell)) for cell in cells]
        if hasattr(cells[0], "weight_hh_l0"):
            weights = [self._reorder(cell.weight_hh_l0).t() for cell in cells]
            self._recurrent = torch.stack(weights).to(recurrent_dtype)  # (D, H, G * H)

    def _input_bias(self, cell: Any) -> Tensor:
        """Return all biases that can be added before the recurrent product."""
        return cell.bias_ih_l0.float() + cell.bias_hh_l0.float()

    def _reorder(self, weight: Tensor) -> Tensor:
        parts = weight.detach().float().chunk(len(self.order))
        return torch.cat([parts[place] * (1 + (number == self.doubled)) for number, place in enumerate(self.order)])

    def project(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the rows `(N, D, G * H)` of inputs `(N, I)`, one tensor per direction."""
        rows = torch.empty(len(inputs[0]), self.directions, self.row_size, dtype=torch.float32, device="cpu")
        for direction, vectors in enumerate(inputs):
            torch.addmm(self._input_biases[direction], vectors, self._input_weights[direction], out=rows[:, direction])
        return rows

    def start(self, shape: Sequence[int]) -> list[Tensor]:
        """Return tensors that the steps over one batch share, with B first; `shape` is `(B, D, H)`."""
        return []

    def step(self, rows: Tensor, previous: Tensor | None, output: Tensor, shared: list[Tensor]) -> None:
        """Write h_t to `output` `(B, D, H)`.

        `rows` `(B, D, G * H)` are overwritten. `previous` is h_(t-1), zero when absent, and may share memory with
        `output`; `shared` is from `start`, cut to B texts.
        """
        raise NotImplementedError

    def run(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Return all states `(T, D, H)` of one text from rows `(T, G * H)` per direction, as each reads it."""
        raise NotImplementedError

    def _add_recurrent(self, rows: Tensor, previous: Tensor | None) -> Tensor:
        """Add W h_(t-1) to rows in place."""
        if previous is not None:
            for direction, weight in enumerate(self._recurrent):
                part = rows[:, direction]
                _multiply_add(part, previous[:, direction], weight, out=part)
        return rows

    def _numpy_weights(self, factor: np.ndarray) -> np.ndarray:
        """Return the recurrent weights `(G, D, H, H)` times a factor."""
        weights = self._recurrent.float().numpy()
        parts = weights.reshape(*weights.shape[:2], -1, self.hidden_size).transpose(2, 0, 1, 3)
        return np.multiply(parts, factor, order="C")

    def _arrange(self, rows: Sequence[np.ndarray], factor: np.ndarray = _HALF) -> np.ndarray:
        """Return rows as `(T, G, D, 1, H)` times a factor, so that each call of `run` sees memory without gaps."""
        time = len(rows[0])
        arranged = np.empty((time, len(self.order), self.directions, 1, self.hidden_size), dtype=np.float32)
        for direction, given in enumerate(rows):
            np.multiply(given.reshape(time, -1, self.hidden_size), factor, arranged[:, :, direction, 0])
        return arranged


class FusedTanh(FusedCell):
    """h = tanh(row + W h)."""

    module = nn.RNN
    order = (0,)
    doubled: ClassVar[int | None] = 0
    _factor: ClassVar[np.ndarray] = _HALF
    _squash: ClassVar[Any] = np.tanh  # a ufunc, which is not bound as a method

    def __init__(self, cells: Sequence[Any], recurrent_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(cells, recurrent_dtype)
        self._weights = self._numpy_weights(self._factor)[0]

    def step(self, rows: Tensor, previous: Tensor | None, output: Tensor, shared: list[Tensor]) -> None:
        """As in [`FusedCell`]."""
        _tanh_of_doubled(self._add_recurrent(rows, previous), out=output)

    def run(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """As in [`FusedCell`]."""
        weights, matmul, add, squash = self._weights, np.matmul, np.add, self._squash
        states = self._arrange(rows, self._factor)[:, 0]  # h_t replaces its row
        sums = np.empty(states.shape[1:], dtype=np.float32)
        previous = None
        for state in states:
            if previous is not None:
                matmul(previous, weights, sums)
                add(state, sums, state)
            squash(state, state)
            previous = state
        return states[:, :, 0]


class FusedRelu(FusedTanh):
    """h = max(0, row + W h)."""

    doubled = None
    _factor = _ONE

    def step(self, rows: Tensor, previous: Tensor | None, output: Tensor, shared: list[Tensor]) -> None:
        """As in [`FusedCell`]."""
        torch.clamp_min(self._add_recurrent(rows, previous), 0, out=output)

    @staticmethod
    def _squash(sums: np.ndarray, state: np.ndarray) -> None:
        np.maximum(sums, _ZERO, out=state)


class FusedGru(FusedCell):
    """r, z = sigmoid(rows + W h); n = tanh(row + r * (W h + b)); h = n + z * (h - n).

    r multiplies W h + b of the candidate n, so that neither can be added to its row.
    """

    module = nn.GRU
    order = (0, 1, 2)
    doubled = 2

    def __init__(self, cells: Sequence[Any], recurrent_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(cells, recurrent_dtype)
        biases = [self._reorder(cell.bias_hh_l0.float() - self._outer_bias(cell)) for cell in cells]
        self._inner_bias = torch.stack(biases)  # (D, 3 * H), zero except for the candidate
        self._weights = self._numpy_weights(_HALF)
        self._numpy_bias = self._inner_bias.numpy()[:, None, 2 * self.hidden_size :] * _HALF  # (D, 1, H)

    def _outer_bias(self, cell: Any) -> Tensor:
        """Return the recurrent biases that can be added to rows, all but the candidate's."""
        bias = cell.bias_hh_l0.detach().to(torch.float32, copy=True)
        bias[2 * self.hidden_size :] = 0
        return bias

    def _input_bias(self, cell: Any) -> Tensor:
        return cell.bias_ih_l0.float() + self._outer_bias(cell)

    def start(self, shape: Sequence[int]) -> list[Tensor]:
        """Return room for W h + b."""
        return [torch.empty(*shape[:-1], self.row_size, dtype=torch.float32, device="cpu")]

    def step(self, rows: Tensor, previous: Tensor | None, output: Tensor, shared: list[Tensor]) -> None:
        """As in [`FusedCell`]."""
        (sums,) = shared
        if previous is None:
            sums.copy_(self._inner_bias)
        else:
            for direction, (bias, weight) in enumerate(zip(self._inner_bias, self._recurrent, strict=True)):
                _multiply_add(bias, previous[:, direction], weight, out=sums[:, direction])
        split = 2 * self.hidden_size
        gates, candidate = rows[..., :split], rows[..., split:]
        reset, update = gates.add_(sums[..., :split]).sigmoid_().chunk(2, dim=-1)
        _tanh_of_doubled(candidate.addcmul_(reset, sums[..., split:]), out=candidate)
        if previous is None:
            torch.addcmul(candidate, candidate, update, value=-1, out=output)
        else:
            torch.lerp(candidate, previous, update, out=output)

    def run(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """As in [`FusedCell`]."""
        weights, bias = self._weights, self._numpy_bias
        steps = self._arrange(rows)
        states = np.empty((len(steps), *steps.shape[2:]), dtype=np.float32)
        sums = np.zeros(steps.shape[1:], dtype=np.float32)
        gate_sums, inner = sums[:2], sums[2]
        previous = np.zeros_like(inner)
        matmul, add, multiply, tanh = np.matmul, np.add, np.multiply, np.tanh
        for number, (row, state) in enumerate(zip(steps, states, strict=True)):
            gates, (reset, update, candidate) = row[:2], row
            if number:
                matmul(previous, weights, sums)
                add(gates, gate_sums, gates)
            tanh(gates, gates)
            add(multiply(gates, _HALF, gates), _HALF, gates)
            multiply(add(inner, bias, inner), reset, inner)
            tanh(add(candidate, inner, candidate), candidate)
            np.subtract(previous, candidate, state)
            add(multiply(state, update, state), candidate, state)
            previous = state
        return states[:, :, 0]


class FusedLstm(FusedCell):
    """i, f, o = sigmoid(rows + W h); g = tanh(row + W h); c = f * c + i * g; h = o * tanh(c).

    `step` computes all four as one sigmoid and keeps 2c. `run` computes all four as one tanh and keeps c and 2h.
    """

    module = Lstm
    order = (0, 1, 3, 2)  # i, f, o, g
    doubled = 3

    def __init__(self, cells: Sequence[Any], recurrent_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(cells, recurrent_dtype)
        self._weights = self._numpy_weights(_QUARTER)

    def start(self, shape: Sequence[int]) -> list[Tensor]:
        """Return 2c of zero, and room for tanh(c)."""
        doubled = torch.zeros(*shape, dtype=torch.float32, device="cpu")
        return [doubled, torch.empty_like(doubled)]

    def step(self, rows: Tensor, previous: Tensor | None, output: Tensor, shared: list[Tensor]) -> None:
        """As in [`FusedCell`]."""
        enter, keep, leave, candidate = self._add_recurrent(rows, previous).sigmoid_().chunk(4, dim=-1)
        torch.add(_MINUS_ONE, candidate, alpha=2, out=candidate)
        doubled, squashed = shared
        doubled.mul_(keep).addcmul_(enter, candidate, value=2)
        torch.mul(leave, _tanh_of_doubled(doubled, out=squashed), out=output)

    def run(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """As in [`FusedCell`]."""
        weights, steps = self._weights, self._arrange(rows)
        states = np.empty((len(steps), *steps.shape[2:]), dtype=np.float32)
        room = np.zeros((5, *states.shape[1:]), dtype=np.float32)  # 2i, 2f, 2o, g, c at the end of a step
        sums, gates, entering, leave, joined, memory = room[:4], room[:3], room[:2], room[2], room[3:], room[4]
        products = np.empty_like(joined)
        entered, kept = products
        squashed = np.empty_like(memory)
        matmul, add, multiply, tanh = np.matmul, np.add, np.multiply, np.tanh
        previous = None
        for row, state in zip(steps, states, strict=True):
            if previous is None:
                tanh(row, sums)
            else:
                matmul(previous, weights, sums)
                tanh(add(sums, row, sums), sums)
            add(gates, _ONE, gates)
            multiply(entering, joined, products)  # 2i * g and 2f * c
            multiply(add(entered, kept, memory), _HALF, memory)
            multiply(leave, tanh(memory, squashed), state)
            previous = state
        return np.multiply(states, _HALF, states)[:, :, 0]


class FusedMinGru(FusedCell):
    """h = a * h + b with a = 1 - z and b = z * h~, which depend on the input alone: a row is a and b."""

    module = MinGru
    order = (0, 1)

    def _input_bias(self, cell: Any) -> Tensor:
        return cell.bias_ih_l0

    def project(self, inputs: Sequence[Tensor]) -> Tensor:
        """As in [`FusedCell`]."""
        rows = super().project(inputs)
        decay, addend = rows.chunk(2, dim=-1)
        update = decay.sigmoid()
        addend.mul_(update)
        torch.sub(1, update, out=decay)
        return rows

    def step(self, rows: Tensor, previous: Tensor | None, output: Tensor, shared: list[Tensor]) -> None:
        """As in [`FusedCell`]."""
        decay, addend = rows.chunk(2, dim=-1)
        if previous is None:
            output.copy_(addend)
        else:
            torch.addcmul(addend, decay, previous, out=output)

    def run(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """As in [`FusedCell`]."""
        decays, states = self._arrange(rows, _ONE).swapaxes(0, 1)[:, :, :, 0]  # h_t replaces b
        kept = np.empty(states.shape[1:], dtype=np.float32)
        previous = None
        for decay, state in zip(decays, states, strict=True):
            if previous is not None:
                np.add(state, np.multiply(decay, previous, kept), state)
            previous = state
        return states


FUSED_CELLS: dict[str, type[FusedCell]] = {  # by `config.cell_type`
    "rnn_tanh": FusedTanh,
    "rnn_relu": FusedRelu,
    "gru": FusedGru,
    "lstm": FusedLstm,
    "min_gru": FusedMinGru,
}
