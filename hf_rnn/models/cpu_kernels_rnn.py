"""The recurrences of torch's tanh RNN, GRU and LSTM as loops of our own, for training on a CPU.

Torch's kernels take token vectors and project them themselves. Where few distinct tokens make up a batch, most of that
work is done many times over: these loops take what is projected already, one row a distinct token, and gather. They
also do fewer, larger steps than torch's RNN and GRU, which on a CPU record every small operation for autograd.
Measured on one core, forward and backward of a model: with distinct tokens at 64 texts and more 1.3 to 2 times the
speed of torch's own; without them 1.05 (256 units) to 1.15 times (64 units) for RNN and GRU, more for small batches.
An LSTM without distinct tokens is slower than torch's kernel and stays there.

The formulas are torch's own (https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html and its neighbours),
the gradients backpropagation through time (Werbos 1990, "Backpropagation Through Time: What It Does and How to Do
It"). Local derivatives are taken for many steps at once, as many as a cache holds, which for large batches makes the
backward pass 1.15 to 1.25 times as fast; what must go step by step is one product of matrices and a few elementwise
operations in place. tanh(a) is taken as 2 sigmoid(2 a) - 1, for torch's sigmoid is several times as fast.

Legend: B batch, T time, H hidden, G gates (1, 3 for a GRU, 4 for an LSTM), N rows of projected vectors.
"""

from collections.abc import Iterator
from typing import Any

import torch

from .distinct_rnn import DistinctTokens, gather_rows, scatter_rows

# What distinct tokens must save an LSTM before its loop beats torch's kernel: so many multiplications, and this share
# of all of the layer's. Measured: 0.97 times its speed at 21 million, 1.1 at 48 million, 1.3 at 107 million.
_LSTM_SAVING, _LSTM_SHARE = 40e6, 0.3
_NUMBERS_AT_ONCE = 1 << 19  # of gates, in backward passes
_MINUS_ONE = torch.tensor(-1.0, device="cpu")  # whatever the default is


def may_loop(weight: torch.Tensor) -> bool:
    """Whether the loops serve here: full precision on a CPU, gradients wanted, and nothing that changes functions."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()  # torch.func has no name for it
    )


def distinct_pays(cell_type: str, places: int, distinct: int, input_size: int, hidden_size: int) -> bool:
    """Whether a layer gains by distinct tokens, of which `places` in the batch are `distinct`."""
    saved = (places - distinct) * input_size * 4 * hidden_size
    whole = places * (input_size + hidden_size) * 4 * hidden_size
    return cell_type != "lstm" or saved >= max(_LSTM_SAVING, _LSTM_SHARE * whole)


def run_loop(cell_type: str, inputs: torch.Tensor | DistinctTokens, weights: list[torch.Tensor]) -> torch.Tensor:
    """Run one layer in one direction from a state of zero.

    Args:
        cell_type: `rnn_tanh`, `gru` or `lstm`.
        inputs (`(T, B, I)` or distinct tokens): What the layer reads.
        weights: W_ih `(G * H, I)`, W_hh `(G * H, H)`, b_ih and b_hh `(G * H,)`, as torch orders them.

    Returns:
        The states `(T, B, H)`.
    """
    vectors, rows = (inputs.vectors, inputs.rows) if isinstance(inputs, DistinctTokens) else (inputs, None)
    w_ih, w_hh, b_ih, b_hh = weights
    if cell_type == "gru":  # the last third of b_hh stands inside the reset gate's product
        outer, inner = b_hh.tensor_split([2 * w_hh.shape[1]])
        bias = b_ih + torch.nn.functional.pad(outer, (0, len(inner)))
        return _Gru.apply(torch.nn.functional.linear(vectors, w_ih, bias), rows, w_hh, inner)
    loop = _Lstm if cell_type == "lstm" else _Tanh
    return loop.apply(torch.nn.functional.linear(vectors, w_ih, b_ih + b_hh), rows, w_hh)


def _gather(projected: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """(N, G * H) → (T, B, G * H) by rows `(T, B)`; without rows a copy of what has that shape already."""
    return projected.clone(memory_format=torch.contiguous_format) if rows is None else gather_rows(projected, rows)


def _scatter(gradient: torch.Tensor, rows: torch.Tensor | None, count: int) -> torch.Tensor:
    """The gradient (T, B, G * H) of what was gathered → that of the N = `count` rows projected."""
    return gradient if rows is None else scatter_rows(gradient, rows, count)


def _tanh_from_double(doubled: torch.Tensor) -> torch.Tensor:
    """2 a → tanh(a), in place."""
    return _twice_less_one(doubled.sigmoid_())


def _twice_less_one(values: torch.Tensor) -> torch.Tensor:
    """Make 2 a - 1 of a, in place and in one call."""
    return torch.add(_MINUS_ONE, values, alpha=2, out=values)


def _parts(gates: torch.Tensor) -> Iterator[slice]:
    """The steps of gates (T, B, G * H) from the last to the first, many in parts that stay in the second cache."""
    time, numbers = gates.shape[0], gates.numel()
    most = time if numbers <= 2 * _NUMBERS_AT_ONCE else max(1, _NUMBERS_AT_ONCE * time // numbers)
    for end in range(time, 0, -most):
        yield slice(max(0, end - most), end)


def _before(states: torch.Tensor, part: slice) -> torch.Tensor:
    """What each step of a part found: the states (T, B, H) of the steps before; the first step found none."""
    return states[max(part.start, 1) - 1 : part.stop - 1]


def _of_weight(gradient: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Gradient of W_hh: that of its products (T, B, G * H), each times the state (B, H) a step before."""
    batch = states.shape[1]
    return gradient.flatten(0, 1)[batch:].t() @ states.flatten(0, 1)[: states.shape[0] * batch - batch]


def _refuse_graph() -> None:
    """Refuse gradients of gradients, which what is done in place would make wrong without a word."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "in training on a CPU this model gives no gradients of gradients (create_graph=True): call model.eval(), "
            "where torch's own recurrences serve"
        )


class _Tanh(torch.autograd.Function):
    """h_t = tanh(x_t + W h_(t-1))."""

    @staticmethod
    def forward(ctx: Any, projected: torch.Tensor, rows: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
        states = _gather(projected, rows).mul_(2)
        steps = states.unbind(0)
        doubled = 2 * weight.t()
        for time, state in enumerate(steps):
            if time > 0:
                state.addmm_(steps[time - 1], doubled)
            _tanh_from_double(state)
        ctx.save_for_backward(rows, weight, states)
        ctx.count = projected.shape[0]
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        _refuse_graph()
        rows, weight, states = ctx.saved_tensors
        of_sums = gradients[0].clone(memory_format=torch.contiguous_format)  # of states first, step by step of sums
        steps, local = of_sums.unbind(0), (states * states).neg_().add_(1).unbind(0)
        for time in range(len(steps) - 1, -1, -1):
            if time + 1 < len(steps):
                steps[time].addmm_(steps[time + 1], weight)
            steps[time].mul_(local[time])
        return _scatter(of_sums, rows, ctx.count), None, _of_weight(of_sums, states)


class _Gru(torch.autograd.Function):
    """r, z = sigmoid(x + W h_(t-1)); n = tanh(x_n + r * (W_n h_(t-1) + b_n)); h_t = (1 - z) * n + z * h_(t-1)."""

    @staticmethod
    def forward(
        ctx: Any, projected: torch.Tensor, rows: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        size = weight.shape[1]
        gates = _gather(projected, rows)  # r, z, n in the end
        time, batch = gates.shape[:2]
        states, inner = gates.new_empty(2, time, batch, size).unbind(0)  # inner: W_n h_(t-1) + b_n
        product = gates.new_empty(batch, 3 * size)
        transposed, biases = weight.t(), torch.nn.functional.pad(bias, (2 * size, 0))
        reset, update, new = (part.unbind(0) for part in gates.split(size, dim=-1))
        both = gates[..., : 2 * size].unbind(0)
        before = gates.new_zeros(batch, size)
        for step in range(time):
            torch.addmm(biases, before, transposed, out=product)
            both[step].add_(product[:, : 2 * size]).sigmoid_()
            inner[step].copy_(product[:, 2 * size :])
            _tanh_from_double(new[step].addcmul_(reset[step], inner[step]).mul_(2))
            torch.lerp(new[step], before, update[step], out=states[step])
            before = states[step]
        ctx.save_for_backward(rows, weight, gates, states, inner)
        ctx.count = projected.shape[0]
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        _refuse_graph()
        rows, weight, gates, states, inner = ctx.saved_tensors
        time, batch, size = states.shape
        of_states = gradients[0].clone(memory_format=torch.contiguous_format)
        of_sums, of_products = torch.empty_like(gates), torch.empty_like(gates)
        steps, kept = of_states.unbind(0), gates[..., size : 2 * size].unbind(0)
        flat, by_gate = of_products.unbind(0), of_products.view(time, batch, 3, size).unbind(0)
        for part in _parts(gates):
            # by h_t, first the local derivatives of all gates' sums: on the input's side, then on the state's
            reset, update, new = gates[part].split(size, dim=-1)
            sums, products = of_sums[part], of_products[part]
            torch.sub(1, gates[part], out=sums).mul_(gates[part])
            of_reset, of_update, of_new = sums.split(size, dim=-1)
            torch.mul(new, new, out=of_new).neg_().add_(1).mul_(1 - update)
            of_reset.mul_(inner[part]).mul_(of_new)
            first = int(part.start == 0)  # which found zero
            of_update[first:].mul_(_before(states, part) - new[first:])
            of_update[:first].mul_(new[:first]).neg_()
            products.copy_(sums)
            products[..., 2 * size :].mul_(reset)
            for step in reversed(range(part.start, part.stop)):
                by_gate[step].mul_(steps[step][:, None])
                if step > 0:
                    steps[step - 1].addmm_(flat[step], weight).addcmul_(steps[step], kept[step])
            sums.unflatten(-1, (3, size)).mul_(of_states[part][:, :, None])
        of_bias = of_products[..., 2 * size :].sum(dim=(0, 1))
        return _scatter(of_sums, rows, ctx.count), None, _of_weight(of_products, states), of_bias


class _Lstm(torch.autograd.Function):
    """i, f, o = sigmoid(x + W h_(t-1)); g = tanh(x + W h_(t-1)); c_t = f * c_(t-1) + i * g; h_t = o * tanh(c_t)."""

    @staticmethod
    def forward(ctx: Any, projected: torch.Tensor, rows: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
        size = weight.shape[1]
        gates = _gather(projected, rows)  # i, f, g, o in the end, as torch orders them
        gates[..., 2 * size : 3 * size].mul_(2)  # so that one sigmoid serves all four
        doubled = weight.clone()
        doubled[2 * size : 3 * size].mul_(2)
        transposed = doubled.t()
        time, batch = gates.shape[:2]
        states, cells, squashed = gates.new_empty(3, time, batch, size).unbind(0)  # h, c, tanh(c)
        entry, forget, new, output = (part.unbind(0) for part in gates.split(size, dim=-1))
        for step, gate in enumerate(gates.unbind(0)):
            if step > 0:
                gate.addmm_(states[step - 1], transposed)
            gate.sigmoid_()
            torch.mul(entry[step], _twice_less_one(new[step]), out=cells[step])
            if step > 0:
                cells[step].addcmul_(forget[step], cells[step - 1])
            _tanh_from_double(torch.mul(cells[step], 2, out=squashed[step]))
            torch.mul(output[step], squashed[step], out=states[step])
        ctx.save_for_backward(rows, weight, gates, states, cells, squashed)
        ctx.count = projected.shape[0]
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        _refuse_graph()
        rows, weight, gates, states, cells, squashed = ctx.saved_tensors
        time, batch, size = states.shape
        of_states = gradients[0].clone(memory_format=torch.contiguous_format)
        of_sums, of_cell = torch.empty_like(gates), torch.zeros_like(of_states[0])
        by_gate = of_sums.view(time, batch, 4, size)
        by_cell, by_state = by_gate[:, :, :3].unbind(0), by_gate[:, :, 3].unbind(0)
        steps, flat, kept = of_states.unbind(0), of_sums.unbind(0), gates[..., size : 2 * size].unbind(0)
        for part in _parts(gates):
            # first the local derivatives of all gates' sums: of i, f, g by c_t, of o by h_t; and that of c_t by h_t
            entry, _, new, output = gates[part].split(size, dim=-1)
            sums, tanh = of_sums[part], squashed[part]
            torch.sub(1, gates[part], out=sums).mul_(gates[part])
            of_entry, of_forget, of_new, of_output = sums.split(size, dim=-1)
            of_entry.mul_(new)
            first = int(part.start == 0)  # which found zero
            of_forget[first:].mul_(_before(cells, part))
            of_forget[:first].zero_()
            torch.mul(new, new, out=of_new).neg_().add_(1).mul_(entry)
            of_output.mul_(tanh)
            local = (tanh * tanh).neg_().add_(1).mul_(output).unbind(0)
            for step in reversed(range(part.start, part.stop)):
                if step + 1 < time:
                    steps[step].addmm_(flat[step + 1], weight)
                    of_cell.mul_(kept[step + 1])
                of_cell.addcmul_(steps[step], local[step - part.start])
                by_cell[step].mul_(of_cell[:, None])
                by_state[step].mul_(steps[step])
        return _scatter(of_sums, rows, ctx.count), None, _of_weight(of_sums, states)
