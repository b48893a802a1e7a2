"""Recurrent cells, and the layers that run them over texts without reading padding.

A new cell is a subclass of [`RecurrentCell`] and one entry in [`CELLS`].

Texts are compact, see [`CompactTexts`]: the forward direction then needs no mask, and the backward
one reads each text reversed within its own length. So torch's fused kernels run both. No length is
needed on the host: all of it is mask and gather, which compiles, exports and runs on any device.

Legend: B batch, T time, I input width, H hidden per direction, D directions, L layers, R residual
stream.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
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
    """Return whether Python code may look at values: on a CPU, and not while a graph is recorded."""
    return (
        tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def gather_rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """Return rows (T, B) of vectors (N, I), `(T, B, I)`."""
    return vectors.index_select(0, rows.reshape(-1)).view(*rows.shape, vectors.shape[1])


class CompactTexts:
    """The places of a batch's real tokens, and the index arithmetic between the batch and its compact form.

    `mask` (B, T) is True at real tokens, in any pattern, with T at least 1; `valid` (T, B) at their
    compact places. `is_full` is True if there is no padding; False can also mean that this is not
    known.
    """

    def __init__(self, mask: Tensor) -> None:
        batch, time = mask.shape
        self.mask = mask
        may_ask = runs_eagerly_on_cpu(mask)  # elsewhere, to ask would wait
        self.is_full = may_ask and bool(mask.all())
        # (B, T): real tokens first; None for a batch padded on the right, which is compact
        self._order = None
        if self.is_full:  # needs no indices: generation makes such a batch for each token
            self.valid = mask.t()
            return
        self.lengths = mask.sum(dim=1)
        steps = torch.arange(time, device=mask.device)[:, None]  # (T, 1)
        self.valid = steps < self.lengths
        self._column = torch.arange(batch, device=mask.device)
        # (T, B): its own inverse
        self._flipped = torch.where(self.valid, self.lengths - 1 - steps, steps)
        if not (may_ask and torch.equal(mask.t(), self.valid)):
            places = steps[:, 0]  # distinct keys: ONNX has no stable sort
            self._order = torch.argsort(torch.where(mask, places, places + time), dim=1)

    def compact(self, batch_first: Tensor) -> Tensor:
        """Reorder (B, T) or (B, T, I) to (T, B) or (T, B, I), real tokens first."""
        if self._order is not None:
            order = (
                self._order
                if batch_first.dim() == 2
                else self._order[:, :, None].expand_as(batch_first)
            )
            batch_first = batch_first.gather(1, order)
        return batch_first.transpose(0, 1)

    def flip(self, inputs: Tensor) -> Tensor:
        """Reverse each text of (T, B, I) within its length; its own inverse."""
        if self.is_full:
            return inputs.flip(0)
        return gather_rows(inputs.flatten(0, 1), self._flipped * inputs.shape[1] + self._column)

    def restore(self, states: Tensor) -> Tensor:
        """Return states (T, B, H) as (B, T, H) in the original places, zero at padding."""
        if self.is_full:
            return states.transpose(0, 1)
        if self._order is None:
            return (states * self.valid[:, :, None].to(states.dtype)).transpose(0, 1)
        places = (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)  # ONNX has no sum of bools
        states = gather_rows(states.flatten(0, 1), places * states.shape[1] + self._column[:, None])
        return states * self.mask[:, :, None].to(states.dtype)

    def last(self, states: Tensor, initial: Tensor | None) -> Tensor:
        """Return the state (B, H) of (T, B, H) after the last token, or the initial one for an empty text."""
        if self.is_full:
            return states[-1]
        final = gather_rows(
            states.flatten(0, 1), (self.lengths - 1).clamp(min=0) * states.shape[1] + self._column
        )
        empty = (self.lengths == 0)[:, None]
        return (
            final.masked_fill(empty, 0)
            if initial is None
            else torch.where(empty, initial.to(final.dtype), final)
        )

    def last_inputs(self, wide: Tensor, count: int) -> Tensor:
        """Return the last `count` places `(count, B, R)` of each text, from `(count + T, B, R)`."""
        if self.is_full:
            return wide[-count:]
        steps = torch.arange(count, device=wide.device)[:, None] + self.lengths
        return gather_rows(wide.flatten(0, 1), steps * wide.shape[1] + self._column)


class RecurrentCell(nn.Module):
    """Base of all cells: one layer in one direction, with the interface of torch's recurrent modules.

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
        """Start with units that remember about 1 to `longest` tokens, evenly on a logarithmic scale.

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
        weights = [
            getattr(self, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        weights[1] = nn.functional.dropout(weights[1], dropout)
        size = weights[1].shape[1]
        if padding is not None:
            # One more input, 1 at padding only, whose weights set the gates there: still one fused
            # call.
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

    kernel, padding_gates = staticmethod(torch.rnn_relu), (-_SATURATION,)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, nonlinearity="relu")


class Gru(nn.GRU, TorchCell):
    """Torch's GRU."""

    kernel = staticmethod(torch.gru)
    gates, memory_gate = ("reset", "update", ""), (1, 1)


class Lstm(nn.LSTM, TorchCell):
    """Torch's LSTM."""

    kernel, has_cell_state = staticmethod(torch.lstm), True
    gates, memory_gate = ("input", "forget", "", "output"), (1, 1)
    padding_gates = (-_SATURATION, _SATURATION, 0.0, 0.0)  # input gate 0, forget gate 1

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Any:  # type: ignore[override] # no packed texts
        """Run `nn.LSTM`; for a single step run torch's cell, since oneDNN would pack all weights for it."""
        if (
            len(inputs) > 1
            or state is None
            or torch.is_grad_enabled()
            or not runs_eagerly_on_cpu(inputs)
        ):
            return super().forward(inputs, state)
        h, c = torch.lstm_cell(inputs[0], (state[0][0], state[1][0]), *self.all_weights[0])
        return h[None], (h[None], c[None])


class MinGru(RecurrentCell):
    """Minimal GRU: gate and candidate depend on the input alone, so time is a chain of multiply-adds.

    Feng et al. 2024, "Were RNNs All We Needed?" (https://arxiv.org/abs/2410.01201), section 3.1:

        z_t = sigmoid(W_z x_t + b_z)
        h~_t = W_h x_t + b_h
        h_t = (1 - z_t) * h_(t-1) + z_t * h~_t

    The paper's log-space form needs positive candidates; here states may be negative.
    The weights, named as in torch's modules, are W_z, then W_h `(2 * H, I)`, and b_z, then b_h `(2
    * H,)`.
    """

    gates, memory_gate = ("update", ""), (0, -1)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(2 * hidden_size))
        for parameter in self.parameters():
            # as torch's modules
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read from the first place to the last."""
        if torch.jit.is_tracing():
            raise RuntimeError(
                "torch.jit.trace would fix min_gru's number of steps: use `hf-rnn export`"
            )
        sums = nn.functional.linear(inputs, self.weight_ih_l0, self.bias_ih_l0)
        initial = (
            sums.new_zeros(sums.shape[1], self.hidden_size)
            if state is None
            else state[0].to(sums.dtype)
        )
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
    """Return the class of a configuration's cell; raise a ValueError if it is unknown or lacks recurrent dropout."""
    cell_class = look_up("cell_type", config.cell_type, CELLS)
    if config.recurrent_dropout > 0 and not cell_class.has_recurrent_dropout:
        raise ValueError(
            f"{config.cell_type} has no recurrent_dropout: found {config.recurrent_dropout}; set it to 0"
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
        states, state = torch.empty_like(update), initial
        for target, share, place in zip(
            candidate.unbind(0), update.unbind(0), states.unbind(0), strict=True
        ):
            state = torch.lerp(state, target, share, out=place)
        ctx.save_for_backward(sums, update, states, initial)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        sums, update, states, initial = ctx.saved_tensors
        grad_sums, total = (
            torch.empty_like(sums),
            gradients[0].clone(memory_format=torch.contiguous_format),
        )
        # at first, the shares of the old states
        grad_gate, grad_candidate = grad_sums.chunk(2, dim=-1)
        torch.sub(1, update, out=grad_gate)
        steps = [*zip(grad_gate.unbind(0), total.unbind(0), strict=True)]
        for (share, after), (_, before) in pairwise(reversed(steps)):
            before.addcmul_(share, after)
        grad_initial = grad_gate[0] * total[0]
        torch.mul(total, update, out=grad_candidate)
        candidate = sums.chunk(2, dim=-1)[1]
        torch.sub(candidate[1:], states[:-1], out=total[1:])
        torch.sub(candidate[0], initial, out=total[0])
        grad_gate.mul_(grad_candidate).mul_(total)
        return grad_sums, grad_initial


def parallel_scan(decay: Tensor, addend: Tensor, initial: Tensor) -> Tensor:
    """Return h_t = decay_t * h_(t-1) + addend_t, `(T, B, H)` like both, from h_0 `(B, H)`, in about log2(T) steps.

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
    """Return whether torch's LSTM would raise on this CPU, whose oneDNN lacks the dtype of autocast."""
    if (
        inputs.device.type != "cpu"
        or not torch.is_autocast_enabled("cpu")
        or not torch.backends.mkldnn.is_available()
    ):
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
        texts: CompactTexts,
        h_0: Tensor | None,
        c_0: Tensor | None,
        output_final_states: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the states `(T, B, H)`, meaningful at real tokens only, and h_n and c_n `(B, H)`, if asked for.

        Inputs are `(T, B, I)`; `h_0` and `c_0` are `(B, H)`, or None for zero.
        """
        inputs, cell_class = texts.flip(inputs) if self.is_backward else inputs, self.cell_class
        fails = issubclass(cell_class, Lstm) and _fails_under_autocast(inputs)
        inputs = inputs.to(next(self.cell.parameters()).dtype) if fails else inputs
        given, dtype = c_0 if h_0 is None else h_0, inputs.dtype
        state: State = None
        if given is not None:  # a part that is missing is zero
            h, c = (
                torch.zeros_like(given, dtype=dtype) if x is None else x.to(dtype)
                for x in (h_0, c_0)
            )
            state = (h[None], c[None]) if cell_class.has_cell_state else h[None]
        returns_c = output_final_states and cell_class.has_cell_state
        dropout = self.recurrent_dropout if self.training else 0.0
        needs_padding_gates = returns_c or not cell_class.has_cell_state
        sets_gates = (
            cell_class.padding_gates is not None and not texts.is_full and needs_padding_gates
        )
        with torch.autocast("cpu", enabled=False) if fails else nullcontext():
            if dropout or sets_gates:
                self._check_kernel()
                states, last = self.cell.run_kernel(
                    inputs, state, dropout, ~texts.valid if sets_gates else None
                )
            else:
                states, last = self.cell(inputs, state)
                last = last[1] if returns_c else last
        h_n = texts.last(states, h_0) if output_final_states else None
        return (
            texts.flip(states) if self.is_backward else states,
            h_n,
            last[0] if returns_c else None,
        )

    def _check_kernel(self) -> None:
        """Refuse the kernel for a cell that must be called, since it has hooks or is an adapter."""
        cell = self.cell
        hooks = (
            cell._forward_pre_hooks,
            cell._forward_hooks,
            cell._backward_pre_hooks,
            cell._backward_hooks,
        )
        if any(hooks) or hasattr(cell, "_hf_hook") or not isinstance(cell, self.cell_class):
            raise ValueError(
                "recurrent_dropout, the last cell state and cell_type='rnn_relu' need a cell without hooks (such as "
                "those of torch.nn.utils.prune) or adapters: set recurrent_dropout=0 and output_final_states=False, "
                "use another cell, or remove the hooks"
            )


class RnnLayer(nn.Module):
    """One recurrent layer in one or two directions over compact texts, from inputs of width `input_size`."""

    def __init__(self, config: RnnConfig, input_size: int) -> None:
        super().__init__()
        ways = (False, True)[: config.num_directions]
        self.directions = nn.ModuleList(
            RnnDirection(config, input_size, backward) for backward in ways
        )

    def forward(
        self,
        inputs: Tensor,
        texts: CompactTexts,
        h_0: Sequence[Tensor | None],
        c_0: Sequence[Tensor | None],
        output_final_states: bool,
    ) -> Any:
        """Run each direction from its `h_0` and `c_0`; return states `(T, B, D * H)`, then D times h_n and c_n.

        One flat tuple, because reentrant checkpointing keeps gradients of tensors that are not
        nested only.
        """
        starts = zip(self.directions, h_0, c_0, strict=True)
        results = [
            direction(inputs, texts, h, c, output_final_states) for direction, h, c in starts
        ]
        states, h_n, c_n = zip(*results, strict=True)
        return torch.cat(states, dim=-1) if len(states) > 1 else states[0], *h_n, *c_n
