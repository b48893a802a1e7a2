"""Recurrent cells, and the layers that run them over texts without reading padding.

A new cell is a subclass of [`RecurrentCell`] and one entry in [`CELLS`].

Texts are compact, see [`TokenOrder`]: the forward direction then needs no mask, and the backward
one reads each text reversed within its own length. So torch's fused kernels run both. No length is
needed on the host: all of it is mask and gather, which compiles, exports and runs on any device.

Legend: B batch, T time, I input width, H hidden per direction, D directions, L layers, R residual
stream.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .configuration_rnn import RnnConfig
from .settings_rnn import RnnSettings, look_up

State = Tensor | tuple[Tensor, Tensor] | None  # h, or (h, c), each (1, B, H); None is zero
# saturates a gate to exactly 0 or 1 next to any sane sum of other inputs, and fits into float16
_SATURATION = 1e4


def runs_eagerly_on_cpu(tensor: Tensor) -> bool:
    """Return whether code may look at values: on a CPU, and not while a graph is recorded."""
    if tensor.device.type != "cpu":
        return False
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def gather_rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """Return rows (T, B) of vectors (N, I), `(T, B, I)`."""
    return vectors.index_select(0, rows.reshape(-1)).view(*rows.shape, vectors.shape[1])


class TokenOrder:
    """The order of a batch's tokens in its compact form, and the way there and back.

    `mask` (B, T) is True at real tokens, in any pattern; `valid` (T, B) at their compact places. A
    batch without tokens, T = 0, has one compact place, which torch's kernels need. `is_full` is
    True if there is no padding; False can also mean that this is not known.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.has_places = mask.shape[1] > 0
        if not self.has_places:
            mask = nn.functional.pad(mask, (0, 1))
        may_ask = runs_eagerly_on_cpu(mask)  # elsewhere, to ask would wait
        self.is_full = may_ask and bool(mask.all())
        # (B, T): real tokens first; None for a batch padded on the right, which is compact
        self._order = None
        if self.is_full:  # needs no indices: generation makes such a batch for each token
            self.valid = mask.t()
            return

        batch, time = mask.shape
        steps = torch.arange(time, device=mask.device)[:, None]  # (T, 1)
        self.lengths = mask.sum(dim=1)
        self.valid = steps < self.lengths
        self._column = torch.arange(batch, device=mask.device)
        # (T, B): its own inverse
        self._flipped = torch.where(self.valid, self.lengths - 1 - steps, steps)
        if not (may_ask and torch.equal(mask.t(), self.valid)):
            places = steps[:, 0]  # distinct keys: ONNX has no stable sort
            self._order = torch.argsort(torch.where(mask, places, places + time), dim=1)

    def compact(self, batch_first: Tensor) -> Tensor:
        """Reorder (B, T) or (B, T, I) to (T, B) or (T, B, I), real tokens first."""
        is_wide = batch_first.dim() == 3
        if not self.has_places:
            batch_first = nn.functional.pad(batch_first, (0, 0, 0, 1) if is_wide else (0, 1))
        order = self._order
        if order is not None:
            if is_wide:
                order = order[:, :, None].expand_as(batch_first)
            batch_first = batch_first.gather(1, order)
        return batch_first.transpose(0, 1)

    def flip(self, inputs: Tensor) -> Tensor:
        """Reverse each text of (T, B, I) within its length; its own inverse."""
        return inputs.flip(0) if self.is_full else self._gather(inputs, self._flipped)

    def restore(self, states: Tensor) -> Tensor:
        """Return states (T, B, H) as (B, T, H) in the original places, zero at padding."""
        if not self.has_places:
            return states.transpose(0, 1)[:, :0]
        if self.is_full:
            return states.transpose(0, 1)
        if self._order is None:
            return (states * self.valid[:, :, None].to(states.dtype)).transpose(0, 1)
        places = (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)  # ONNX has no sum of bools
        rows = places * states.shape[1] + self._column[:, None]
        restored = gather_rows(states.flatten(0, 1), rows)
        return restored * self.mask[:, :, None].to(states.dtype)

    def last(self, states: Tensor, initial: Tensor | None) -> Tensor:
        """Return the state (B, H) after the last token, or the initial one of an empty text."""
        if self.is_full:
            return states[-1]
        final = self._gather(states, (self.lengths - 1).clamp(min=0))
        is_empty = (self.lengths == 0)[:, None]
        if initial is None:
            return final.masked_fill(is_empty, 0)
        return torch.where(is_empty, initial.to(final.dtype), final)

    def last_inputs(self, wide: Tensor, count: int) -> Tensor:
        """Return the last `count` places `(count, B, R)` of each text, from `(count + T, B, R)`."""
        if self.is_full:
            return wide[-count:]
        steps = torch.arange(count, device=wide.device)[:, None]
        return self._gather(wide, steps + self.lengths)

    def _gather(self, states: Tensor, steps: Tensor) -> Tensor:
        """Return the states `(..., B, H)` of (T, B, H) at steps `(..., B)`."""
        return gather_rows(states.flatten(0, 1), steps * states.shape[1] + self._column)


class RecurrentCell(nn.Module):
    """Base of all cells: one layer in one direction, with the interface of torch's modules.

    A subclass takes `(input_size, hidden_size)` and defines `forward(inputs, state)` with inputs
    `(T, B, I)`, T at least 1, and state `(1, B, H)` or None for zero. It returns the states `(T, B,
    H)` and the last state `(1, B, H)`. Padding follows the real tokens; states there are ignored,
    but must be finite. The defaults suit any such module.

    Attributes:
        has_cell_state (`bool`): Whether `state` is a pair (h, c), as for an LSTM.
        has_recurrent_dropout (`bool`): Whether recurrent dropout applies; needs the methods of
            [`TorchCell`].
        padding_gates (`tuple`, *optional*): Numbers to add to each gate's input at padding, which
            keep c unchanged (so that c_n can be returned) or unbounded states from overflowing;
            needs the methods of [`TorchCell`].
        gates (`tuple`): Names in the order of the weights, "" for a candidate; only with weights
            named as torch's.
        memory_gate (`tuple`, *optional*): Place in `gates` of the gate that keeps the state, and 1;
            or -1 if the gate replaces it.
    """

    has_cell_state = False
    has_recurrent_dropout = False
    padding_gates: tuple[float, ...] | None = None
    gates: tuple[str, ...] = ()
    memory_gate: tuple[int, int] | None = None

    def spread_memory(self, longest: float) -> None:
        """Start with units that remember about 1 to `longest` tokens, on a logarithmic scale.

        Tallec and Ollivier 2018, "Can recurrent neural networks warp time?"
        (https://arxiv.org/abs/1804.11188).
        """
        if self.memory_gate is None:
            return
        place, sign = self.memory_gate
        biases = cast(Tensor, self.bias_ih_l0)
        if not getattr(biases, "_is_hf_initialized", False):
            bias = biases.chunk(len(self.gates))[place]
            # A gate sigmoid(b) keeps a state for about 1 / (1 - sigmoid(b)) = 1 + exp(b) tokens.
            with torch.no_grad():
                bias.copy_(sign * torch.linspace(0, math.log(longest), len(bias)))


class TorchCell(RecurrentCell):
    """Mixin for torch's own modules, whose fused kernels also take weights as arguments."""

    has_recurrent_dropout = True
    kernel: Any

    def run_kernel(
        self, inputs: Tensor, state: State, dropout: float, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the states `(T, B, H)` and c_n `(1, B, H)`, or h_n for a cell without it.

        Recurrent dropout is on the weights W_hh, once per batch, so that the fused kernel can run
        (DropConnect as in Merity et al. 2018, "Regularizing and Optimizing LSTM Language Models",
        section 4.1). At `padding` `(T, B)` the gates are those of `padding_gates`.
        """
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self, f"{name}_l0") for name in names]
        weights[1] = nn.functional.dropout(weights[1], dropout)
        size = weights[1].shape[1]

        if padding is not None:
            # one more input, 1 at padding only, whose weights set the gates there, in a fused call
            inputs = torch.cat([inputs, padding[:, :, None].to(inputs.dtype)], dim=-1)
            column = weights[0].new_tensor(self.padding_gates).repeat_interleave(size)
            weights[0] = torch.cat([weights[0], column[:, None]], dim=1)

        if state is None:
            zeros = inputs.new_zeros(1, inputs.shape[1], size)
            state = (zeros, zeros) if self.has_cell_state else zeros
        # positional: states, weights, has_biases, num_layers, dropout, train, bidirectional,
        # batch_first
        results = self.kernel(inputs, state, weights, True, 1, 0.0, self.training, False, False)
        return results[0], results[-1]


class TanhRnn(nn.RNN, TorchCell):
    """Torch's RNN with tanh."""

    kernel = staticmethod(torch.rnn_tanh)


class ReluRnn(nn.RNN, TorchCell):
    """Torch's RNN with ReLU."""

    kernel = staticmethod(torch.rnn_relu)
    padding_gates = (-_SATURATION,)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, nonlinearity="relu")


class Gru(nn.GRU, TorchCell):
    """Torch's GRU."""

    kernel = staticmethod(torch.gru)
    gates = ("reset", "update", "")
    memory_gate = (1, 1)


class Lstm(nn.LSTM, TorchCell):
    """Torch's LSTM."""

    kernel = staticmethod(torch.lstm)
    has_cell_state = True
    gates = ("input", "forget", "", "output")
    memory_gate = (1, 1)
    padding_gates = (-_SATURATION, _SATURATION, 0.0, 0.0)  # input gate 0, forget gate 1

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Any:  # type: ignore[override] # no packed texts
        """Run `nn.LSTM`; a single step is torch's cell: oneDNN would pack all weights for it."""
        if len(inputs) > 1 or state is None or torch.is_grad_enabled():
            return super().forward(inputs, state)
        if not runs_eagerly_on_cpu(inputs):
            return super().forward(inputs, state)
        h, c = torch.lstm_cell(inputs[0], (state[0][0], state[1][0]), *self.all_weights[0])
        return h[None], (h[None], c[None])


class MinGru(RecurrentCell):
    """Minimal GRU: gate and candidate depend on the input alone.

    So time is a chain of multiply-adds.

    Feng et al. 2024, "Were RNNs All We Needed?" (https://arxiv.org/abs/2410.01201), section 3.1:

        z_t = sigmoid(W_z x_t + b_z)
        h~_t = W_h x_t + b_h
        h_t = (1 - z_t) * h_(t-1) + z_t * h~_t

    The paper's log-space form needs positive candidates; here states may be negative.
    The weights, named as in torch's modules, are W_z, then W_h `(2 * H, I)`, and b_z, then b_h `(2
    * H,)`.
    """

    gates = ("update", "")
    memory_gate = (0, -1)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(2 * hidden_size))
        bound = hidden_size**-0.5  # as torch's modules
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read from the first place to the last."""
        if torch.jit.is_tracing():
            raise RuntimeError(
                "torch.jit.trace would fix min_gru's number of steps: use `hf-rnn export`"
            )
        sums = nn.functional.linear(inputs, self.weight_ih_l0, self.bias_ih_l0)
        zeros = sums.new_zeros(sums.shape[1], self.hidden_size)
        initial = zeros if state is None else state[0].to(sums.dtype)
        # A loop does the least work on a CPU; elsewhere each step would be a kernel launch or a
        # node of the graph.
        if runs_eagerly_on_cpu(sums):
            states = _MinGruSteps.apply(sums, initial)
        else:
            gate, candidate = sums.chunk(2, dim=-1)
            update = gate.sigmoid()
            states = parallel_scan(1 - update, update * candidate, initial)
        return states, states[-1:]


CELLS: dict[str, type[RecurrentCell]] = {
    "rnn_tanh": TanhRnn, "rnn_relu": ReluRnn, "gru": Gru, "lstm": Lstm, "min_gru": MinGru
}  # fmt: skip


def find_cell(config: RnnSettings) -> type[RecurrentCell]:
    """Return the class of a configuration's cell.

    Raises a ValueError if it is unknown or lacks the recurrent dropout that is set.
    """
    cell_class = look_up("cell_type", config.cell_type, CELLS)
    if config.recurrent_dropout > 0 and not cell_class.has_recurrent_dropout:
        raise ValueError(
            f"{config.cell_type} has no recurrent_dropout: found {config.recurrent_dropout}; "
            "set it to 0"
        )
    return cell_class


class _MinGruSteps(torch.autograd.Function):
    """The states of a minGRU step by step, from the sums `(T, B, 2 * H)` of gate and candidate.

    Backward is the same recurrence from the other end. With u for the gate after the sigmoid, c for
    the candidate, and G_t for the gradient of all that depends on h_t = h_(t-1) + u_t (c_t -
    h_(t-1)):

        G_(t-1) = g_(t-1) + (1 - u_t) G_t
        dL / dc_t = u_t G_t
        dL / d(sum of the gate) = (1 - u_t) u_t G_t (c_t - h_(t-1))
    """

    @staticmethod
    def forward(ctx: Any, sums: Tensor, initial: Tensor) -> Tensor:
        gate, candidate = sums.chunk(2, dim=-1)
        update = gate.sigmoid()
        states = torch.empty_like(update)
        state = initial
        steps = zip(candidate.unbind(0), update.unbind(0), states.unbind(0), strict=True)
        for target, share, place in steps:
            state = torch.lerp(state, target, share, out=place)
        ctx.save_for_backward(sums, update, states, initial)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        sums, update, states, initial = ctx.saved_tensors
        grad_sums = torch.empty_like(sums)
        grad_gate, grad_candidate = grad_sums.chunk(2, dim=-1)
        torch.sub(1, update, out=grad_gate)  # at first, the shares of the old states

        total = gradients[0].clone(memory_format=torch.contiguous_format)
        shares = grad_gate.unbind(0)
        totals = total.unbind(0)
        for place in range(len(totals) - 1, 0, -1):
            totals[place - 1].addcmul_(shares[place], totals[place])

        grad_initial = grad_gate[0] * total[0]
        torch.mul(total, update, out=grad_candidate)
        candidate = sums.chunk(2, dim=-1)[1]
        torch.sub(candidate[1:], states[:-1], out=total[1:])
        torch.sub(candidate[0], initial, out=total[0])
        grad_gate.mul_(grad_candidate).mul_(total)
        return grad_sums, grad_initial


def parallel_scan(decay: Tensor, addend: Tensor, initial: Tensor) -> Tensor:
    """Return h_t = decay_t * h_(t-1) + addend_t, `(T, B, H)` like both, from h_0 `(B, H)`.

    It takes about log2(T) steps.
    Two neighbouring steps (a, b) and (a', b') are one step (a * a', a' * b + b'). Combining every
    place with the one 1, 2, 4, ... places before it leaves all prefixes (Hillis and Steele 1986,
    "Data Parallel Algorithms").
    """
    addend = torch.cat([torch.addcmul(addend[:1], decay[:1], initial[None]), addend[1:]])
    distance = 1
    while distance < decay.shape[0]:
        later = torch.addcmul(addend[distance:], decay[distance:], addend[:-distance])
        addend = torch.cat([addend[:distance], later])
        decay = torch.cat([decay[:distance], decay[distance:] * decay[:-distance]])
        distance *= 2
    return addend


def _fails_under_autocast(inputs: Tensor) -> bool:
    """Return whether torch's LSTM would raise: this CPU's oneDNN lacks the dtype of autocast."""
    if inputs.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    dtype = "fp16" if torch.get_autocast_dtype("cpu") == torch.float16 else "bf16"
    return not getattr(torch.ops.mkldnn, f"_is_mkldnn_{dtype}_supported")()


class RnnDirection(nn.Module):
    """One layer in one direction over compact texts, from inputs of width `input_size`."""

    def __init__(self, config: RnnConfig, input_size: int, backward: bool) -> None:
        super().__init__()
        self.is_backward = backward
        self.cell_class = find_cell(config)
        self.recurrent_dropout = config.recurrent_dropout
        self.cell: Any = self.cell_class(input_size, config.hidden_size)

    def forward(
        self,
        inputs: Tensor,
        order: TokenOrder,
        h_0: Tensor | None,
        c_0: Tensor | None,
        output_final_states: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the states `(T, B, H)`, of use at real tokens only, and h_n and c_n `(B, H)`.

        Inputs are `(T, B, I)`; `h_0` and `c_0` are `(B, H)`, or None for zero.
        """
        if self.is_backward:
            inputs = order.flip(inputs)
        fails = issubclass(self.cell_class, Lstm) and _fails_under_autocast(inputs)
        if fails:
            inputs = inputs.to(next(self.cell.parameters()).dtype)
        state = self._join_state(h_0, c_0, inputs.dtype)
        has_cell_state = self.cell_class.has_cell_state
        sets_gates = self.cell_class.padding_gates is not None and not order.is_full
        is_needed = output_final_states or not has_cell_state
        padding = ~order.valid if sets_gates and is_needed else None
        with torch.autocast("cpu", enabled=False) if fails else nullcontext():
            states, last = self._run_cell(inputs, state, padding)
        h_n = order.last(states, h_0) if output_final_states else None
        c_n = last[0] if output_final_states and has_cell_state else None
        return order.flip(states) if self.is_backward else states, h_n, c_n

    def _join_state(self, h_0: Tensor | None, c_0: Tensor | None, dtype: torch.dtype) -> State:
        """Return the initial state of the cell; a part of it that is missing is zero."""
        some = c_0 if h_0 is None else h_0
        if some is None:
            return None
        h = torch.zeros_like(some) if h_0 is None else h_0
        if not self.cell_class.has_cell_state:
            return h.to(dtype)[None]
        c = torch.zeros_like(some) if c_0 is None else c_0
        return h.to(dtype)[None], c.to(dtype)[None]

    def _run_cell(
        self, inputs: Tensor, state: State, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the states `(T, B, H)`, and c_n `(1, B, H)`, or h_n for a cell without it.

        c_n is that after the last token if `padding` (T, B) is given.
        """
        dropout = self.recurrent_dropout if self.training else 0.0
        if dropout or padding is not None:
            self._check_kernel()
            return self.cell.run_kernel(inputs, state, dropout, padding)
        states, last = self.cell(inputs, state)
        return states, last[1] if self.cell_class.has_cell_state else last

    def _check_kernel(self) -> None:
        """Refuse the kernel for a cell that must be called, since it has hooks or is an adapter."""
        cell = self.cell
        names = ("forward_pre", "forward", "backward_pre", "backward")
        has_hooks = any(getattr(cell, f"_{name}_hooks") for name in names)
        if has_hooks or hasattr(cell, "_hf_hook") or not isinstance(cell, self.cell_class):
            raise ValueError(
                "recurrent_dropout, the last cell state and cell_type='rnn_relu' need a cell "
                "without hooks (such as those of torch.nn.utils.prune) or adapters: set "
                "recurrent_dropout=0 and output_final_states=False, use another cell, or remove "
                "the hooks"
            )


class RnnLayer(nn.Module):
    """One recurrent layer over compact texts, in one or two directions."""

    def __init__(self, config: RnnConfig, input_size: int) -> None:
        super().__init__()
        directions = [RnnDirection(config, input_size, backward=False)]
        if config.bidirectional:
            directions.append(RnnDirection(config, input_size, backward=True))
        self.directions = nn.ModuleList(directions)

    def forward(
        self,
        inputs: Tensor,
        order: TokenOrder,
        h_0: Sequence[Tensor | None],
        c_0: Sequence[Tensor | None],
        output_final_states: bool,
    ) -> tuple[Tensor, ...]:
        """Run each direction from its `h_0` and `c_0`.

        Returns states `(T, B, D * H)`, then D times h_n and c_n, as one flat tuple: reentrant
        checkpointing keeps gradients of tensors that are not nested only.
        """
        results = []
        for direction, h, c in zip(self.directions, h_0, c_0, strict=True):
            results.append(direction(inputs, order, h, c, output_final_states))
        states, h_n, c_n = zip(*results, strict=True)
        return torch.cat(states, dim=-1) if len(states) > 1 else states[0], *h_n, *c_n
