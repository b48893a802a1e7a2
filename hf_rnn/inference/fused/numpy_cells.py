"""One text through a folded layer, step by step in NumPy: there the calls of a step cost half of what torch's do.

With nothing else in the batch a step is a product of one vector with a small matrix and a few calls on a few hundred
numbers, so that what counts is the price of a call. Hence the parts of a row lie one after the other, those of all
directions side by side, and each call sees memory without gaps. NumPy has a fast tanh and no sigmoid, which is
(1 + tanh(x / 2)) / 2: what goes into a gate is halved beforehand, and so is what [`FoldedCell`] doubled.

Legend: T tokens, H hidden per direction, D directions, G parts of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .cells import FoldedCell, FoldedGru, FoldedLstm, FoldedMinGru, FoldedRelu, FoldedTanh

Runner = Callable[[Sequence[np.ndarray]], np.ndarray]

_ZERO, _HALF, _ONE = (np.array(number, dtype=np.float32) for number in (0, 0.5, 1))


def runner_of(cell: FoldedCell) -> Runner:
    """Return what runs one layer over one text.

    It takes for each direction the rows `(T, G * H)` of a text of at least one token, in float32, as it reads them and
    in the order of the cell, and returns all states `(T, D, H)` as each direction read.
    """
    return _RUNNERS[type(cell)](cell)


def _recurrent(cell: FoldedCell, factor: np.ndarray = _HALF) -> np.ndarray:
    """The recurrent weights `(G, D, H, H)`, times a factor."""
    weights = cell.recurrent.float().numpy()
    parts = weights.reshape(*weights.shape[:2], -1, cell.hidden_size).transpose(2, 0, 1, 3)
    return np.multiply(parts, factor, order="C")


def _arrange(rows: Sequence[np.ndarray], cell: FoldedCell, factor: np.ndarray = _HALF) -> np.ndarray:
    """Rows as they come → `(T, G, D, 1, H)`, times a factor."""
    time, size = len(rows[0]), cell.hidden_size
    arranged = np.empty((time, len(cell.order), len(rows), 1, size), dtype=np.float32)
    for direction, given in enumerate(rows):
        np.multiply(given.reshape(time, -1, size), factor, arranged[:, :, direction, 0])
    return arranged


def _run_plain(cell: FoldedCell, squash: Callable[[np.ndarray, np.ndarray], object], factor: np.ndarray) -> Runner:
    weights = _recurrent(cell, factor)[0]

    def run(rows: Sequence[np.ndarray]) -> np.ndarray:
        states = _arrange(rows, cell, factor)[:, 0]  # h_t comes to lie where its row was
        sums = np.empty(states.shape[1:], dtype=np.float32)
        previous = None
        for state in states:
            if previous is not None:
                np.matmul(previous, weights, sums)
                np.add(state, sums, state)
            squash(state, state)
            previous = state
        return states[:, :, 0]

    return run


def _run_tanh(cell: FoldedCell) -> Runner:
    return _run_plain(cell, np.tanh, _HALF)


def _run_relu(cell: FoldedCell) -> Runner:
    return _run_plain(cell, lambda sums, state: np.maximum(sums, _ZERO, out=state), _ONE)


def _run_gru(cell: FoldedCell) -> Runner:
    assert isinstance(cell, FoldedGru)
    weights = _recurrent(cell)
    biases = cell.inner_bias.float().numpy()[:, None] * _HALF
    bias = biases[..., 2 * cell.hidden_size :]  # (D, 1, H): of the gates it is zero

    def run(rows: Sequence[np.ndarray]) -> np.ndarray:
        steps = _arrange(rows, cell)
        states = np.empty((len(steps), *steps.shape[2:]), dtype=np.float32)
        sums = np.zeros(steps.shape[1:], dtype=np.float32)
        for_gates, inner = sums[:2], sums[2]
        previous = np.zeros_like(inner)
        matmul, add, multiply, tanh = np.matmul, np.add, np.multiply, np.tanh
        for first, (row, state) in enumerate(zip(steps, states, strict=True)):
            gates, (reset, update, candidate) = row[:2], row
            if first:
                matmul(previous, weights, sums)
                add(gates, for_gates, gates)
            tanh(gates, gates)
            add(multiply(gates, _HALF, gates), _HALF, gates)
            multiply(add(inner, bias, inner), reset, inner)
            tanh(add(candidate, inner, candidate), candidate)
            np.subtract(previous, candidate, state)
            add(multiply(state, update, state), candidate, state)
            previous = state
        return states[:, :, 0]

    return run


def _run_lstm(cell: FoldedCell) -> Runner:
    weights = _recurrent(cell, _HALF * _HALF)  # what they multiply is 2h

    def run(rows: Sequence[np.ndarray]) -> np.ndarray:
        steps = _arrange(rows, cell)
        states = np.empty((len(steps), *steps.shape[2:]), dtype=np.float32)
        room = np.zeros((5, *states.shape[1:]), dtype=np.float32)  # 2i, 2f, 2o, g, c in the end
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
            multiply(entering, joined, products)  # i with g, f with c
            multiply(add(entered, kept, memory), _HALF, memory)
            multiply(leave, tanh(memory, squashed), state)
            previous = state
        return np.multiply(states, _HALF, states)[:, :, 0]

    return run


def _run_min_gru(cell: FoldedCell) -> Runner:
    def run(rows: Sequence[np.ndarray]) -> np.ndarray:
        decays, states = _arrange(rows, cell, _ONE).swapaxes(0, 1)[:, :, :, 0]
        kept = np.empty(states.shape[1:], dtype=np.float32)
        previous = None
        for decay, state in zip(decays, states, strict=True):  # the addend b becomes h where it lies
            if previous is not None:
                np.add(state, np.multiply(decay, previous, kept), state)
            previous = state
        return states

    return run


_RUNNERS: dict[type[FoldedCell], Callable[[FoldedCell], Runner]] = {
    FoldedTanh: _run_tanh,
    FoldedRelu: _run_relu,
    FoldedGru: _run_gru,
    FoldedLstm: _run_lstm,
    FoldedMinGru: _run_min_gru,
}
