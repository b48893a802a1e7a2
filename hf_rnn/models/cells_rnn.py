"""Recurrent cells, and the layers that run them over texts without reading padding.

A new cell is a subclass of [`RecurrentCell`] and one entry in [`CELLS`].

Texts are processed *compact*: time first, the real tokens of each text at the front, padding behind them. The forward
direction then needs no mask, and the backward direction reads each text reversed within its own length. So torch's
fused kernels run both, and no length is needed on the host: this compiles, exports and runs on any device.

Legend: B batch, T time, I input width, H hidden per direction, D directions, L layers.
"""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .configuration_rnn import RnnConfig
from .settings_rnn import look_up

_SATURATION = 1e4  # saturates a gate to exactly 0 or 1 next to any sane sum of other inputs, and fits into float16


def gather_rows(vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows (T, B) of vectors (N, I), `(T, B, I)`."""
    return vectors.index_select(0, rows.reshape(-1)).view(*rows.shape, vectors.shape[1])


def runs_eagerly_on_cpu(tensor: torch.Tensor) -> bool:
    """Return whether Python code may look at values: on a CPU, and not while a graph is recorded."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


class RecurrentCell(nn.Module):
    """Base of all cells: one layer in one direction, with the interface of torch's recurrent modules.

    A subclass takes `(input_size, hidden_size)` and defines `forward(inputs, state)` with inputs `(T, B, I)`, T at
    least 1, and state `(1, B, H)` or None for zero. It returns the states `(T, B, H)` and the last state `(1, B, H)`.
    Padding follows the real tokens; states there are ignored, but must be finite. The defaults suit any such module.

    Attributes:
        has_cell_state (`bool`): Whether `state` is a pair (h, c), as for an LSTM.
        has_recurrent_dropout (`bool`): Whether recurrent dropout applies; needs the methods of [`TorchCell`].
        padding_gates (`tuple`, *optional*): Numbers to add to each gate's input at padding, which keep c unchanged (so
            that c_n can be returned) or unbounded states from overflowing; needs the methods of [`TorchCell`].
    """

    has_cell_state = False
    has_recurrent_dropout = False
    padding_gates: tuple[float, ...] | None = None

    def read_gates(self, inputs: torch.Tensor, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the gates `(T, B, H)` by name, from inputs `(T, B, I)` and the states `(T, B, H)` of a run."""
        return {}

    def memory_bias(self) -> tuple[torch.Tensor, float] | None:
        """Return the bias `(H,)` of the gate that keeps the state, and 1, or -1 if the gate replaces it; else None."""
        return None

    def spread_memory(self, longest: float) -> None:
        """Start with units that remember about 1 to `longest` tokens, evenly on a logarithmic scale.

        Tallec and Ollivier 2018, "Can recurrent neural networks warp time?" (https://arxiv.org/abs/1804.11188).
        """
        gate = self.memory_bias()
        if gate is None or getattr(self.bias_ih_l0, "_is_hf_initialized", False):
            return
        bias, sign = gate
        # A gate sigmoid(b) keeps a state for about 1 / (1 - sigmoid(b)) = 1 + exp(b) tokens.
        with torch.no_grad():
            bias.copy_(sign * torch.linspace(0, math.log(longest), len(bias)))


class TorchCell(RecurrentCell):
    """Mixin for torch's own modules, whose fused kernels also take weights as arguments."""

    bias_ih_l0: nn.Parameter
    has_recurrent_dropout = True
    kernel: Any
    gates: tuple[str, ...] = ()  # names in the order of the weights, "" for a candidate

    def list_weights(self, dropout: float) -> list[torch.Tensor]:
        """Return W_ih, W_hh, b_ih and b_hh, with recurrent dropout on W_hh.

        It drops weights, once per batch, so that the fused kernel can run (DropConnect as in Merity et al. 2018,
        "Regularizing and Optimizing LSTM Language Models", section 4.1).
        """
        weights = [getattr(self, f"{kind}_l0") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if dropout > 0:
            weights[1] = nn.functional.dropout(weights[1], dropout)
        return weights

    def read_gates(self, inputs: torch.Tensor, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the gates by name; see [`RecurrentCell`]."""
        before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
        w_ih, w_hh, b_ih, b_hh = self.list_weights(0.0)
        sums = nn.functional.linear(inputs, w_ih, b_ih) + nn.functional.linear(before, w_hh, b_hh)
        parts = sums.chunk(len(self.gates) or 1, dim=-1)
        return {name: part.sigmoid() for name, part in zip(self.gates, parts, strict=False) if name}

    def run_kernel(self, inputs: torch.Tensor, state: Any, weights: list[torch.Tensor]) -> Any:
        """Return the states `(T, B, H)`, h_n `(1, B, H)` and, for an LSTM, c_n."""
        if state is None:
            zeros = inputs.new_zeros(1, inputs.shape[1], weights[1].shape[1])
            state = (zeros, zeros) if self.has_cell_state else zeros
        # positional: states, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first
        return self.kernel(inputs, state, weights, True, 1, 0.0, self.training, False, False)


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
    gates = ("reset", "update", "")

    def memory_bias(self) -> tuple[torch.Tensor, float]:
        """Return the bias of the update gate, which keeps the state."""
        return self.bias_ih_l0.chunk(3)[1], 1.0


class Lstm(nn.LSTM, TorchCell):
    """Torch's LSTM."""

    kernel, has_cell_state = staticmethod(torch.lstm), True
    gates = ("input", "forget", "", "output")
    padding_gates = (-_SATURATION, _SATURATION, 0.0, 0.0)  # input gate 0, forget gate 1

    def memory_bias(self) -> tuple[torch.Tensor, float]:
        """Return the bias of the forget gate, which keeps the state."""
        return self.bias_ih_l0.chunk(4)[1], 1.0

    def forward(self, inputs: torch.Tensor, state: Any = None) -> Any:  # type: ignore[override] # no packed texts
        """Run as `nn.LSTM` does; a single step takes torch's cell, as oneDNN would pack all weights for it."""
        if len(inputs) > 1 or state is None or torch.is_grad_enabled() or not runs_eagerly_on_cpu(inputs):
            return super().forward(inputs, state)
        h, c = torch.lstm_cell(inputs[0], (state[0][0], state[1][0]), *self.list_weights(0.0))
        return h[None], (h[None], c[None])


class MinGru(RecurrentCell):
    """Minimal GRU: gate and candidate depend on the input alone, so time is a chain of multiply-adds.

    Feng et al. 2024, "Were RNNs All We Needed?" (https://arxiv.org/abs/2410.01201), section 3.1:

        z_t = sigmoid(W_z x_t + b_z)
        h~_t = W_h x_t + b_h
        h_t = (1 - z_t) * h_(t-1) + z_t * h~_t

    The paper's log-space form needs positive candidates; here states may be negative.
    The weights, named as in torch's modules, are W_z, then W_h `(2 * H, I)`, and b_z, then b_h `(2 * H,)`.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(2 * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)  # as torch's modules

    def read_gates(self, inputs: torch.Tensor, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the gate by name; see [`RecurrentCell`]."""
        sums = nn.functional.linear(inputs, self.weight_ih_l0, self.bias_ih_l0)
        return {"update": sums.chunk(2, dim=-1)[0].sigmoid()}

    def memory_bias(self) -> tuple[torch.Tensor, float]:
        """Return the bias of the update gate, which replaces the state."""
        return self.bias_ih_l0.chunk(2)[0], -1.0

    def forward(self, inputs: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Read from the first place to the last."""
        gate, candidate = nn.functional.linear(inputs, self.weight_ih_l0, self.bias_ih_l0).chunk(2, dim=-1)
        update = gate.sigmoid()
        decay, addend = 1 - update, update * candidate
        initial = decay.new_zeros(decay.shape[1:]) if state is None else state[0].to(decay.dtype)
        states = linear_recurrence(decay, addend, initial)
        return states, states[-1:]


def linear_recurrence(decay: torch.Tensor, addend: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """Return h_t = decay_t * h_(t-1) + addend_t for t = 1 to T, `(T, B, H)` like both, from h_0 `(B, H)`; T >= 1."""
    # A loop does the least work on a CPU; elsewhere each step would be a kernel launch or a node of the graph.
    if torch.jit.is_tracing():
        raise RuntimeError("torch.jit.trace would fix min_gru's number of steps: use `hf-rnn export`")
    return (_LinearRecurrence.apply if runs_eagerly_on_cpu(decay) else parallel_scan)(decay, addend, initial)


class _LinearRecurrence(torch.autograd.Function):
    """The recurrence step by step, in place; backward is the same recurrence from the end."""

    @staticmethod
    def forward(ctx: Any, decay: torch.Tensor, addend: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
        states, previous = addend.clone(), initial
        for kept, state in zip(decay.unbind(0), states.unbind(0), strict=True):
            state.addcmul_(kept, previous)
            previous = state
        ctx.save_for_backward(decay, states, initial)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        decay, states, initial = ctx.saved_tensors
        grad_states = gradients[0].clone(memory_format=torch.contiguous_format)
        steps, kept = grad_states.unbind(0), decay.unbind(0)
        for time in range(len(steps) - 1, 0, -1):
            steps[time - 1].addcmul_(kept[time], steps[time])
        grad_decay = grad_states * torch.cat([initial[None], states[:-1]])
        return grad_decay, grad_states, decay[0] * grad_states[0]


def parallel_scan(decay: torch.Tensor, addend: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """Compute [`linear_recurrence`] in about log2(T) vectorised steps.

    Two neighbouring steps (a, b) and (a', b') are one step (a * a', a' * b + b'). Combining every place with the one
    1, 2, 4, ... places before it leaves all prefixes (Hillis and Steele 1986, "Data Parallel Algorithms").
    """
    addend = torch.cat([torch.addcmul(addend[:1], decay[:1], initial[None]), addend[1:]])
    distance = 1
    while distance < decay.shape[0]:
        later = torch.addcmul(addend[distance:], decay[distance:], addend[:-distance])
        addend = torch.cat([addend[:distance], later])
        decay = torch.cat([decay[:distance], decay[distance:] * decay[:-distance]])
        distance *= 2
    return addend


CELLS: dict[str, type[RecurrentCell]] = {
    "rnn_tanh": TanhRnn, "rnn_relu": ReluRnn, "gru": Gru, "lstm": Lstm, "min_gru": MinGru
}  # fmt: skip


def find_cell(config: Any) -> type[RecurrentCell]:
    """Return the class of a configuration's cell; raise a ValueError if it is unknown or lacks recurrent dropout."""
    kind = look_up("cell_type", config.cell_type, CELLS)
    if config.recurrent_dropout > 0 and not kind.has_recurrent_dropout:
        raise ValueError(f"{config.cell_type} has no recurrent_dropout: found {config.recurrent_dropout}; set it to 0")
    return kind


class CompactTexts:
    """The places of a batch's real tokens, and the index arithmetic between the batch and its compact form.

    A direction's states are *as read*: place 0 holds the first token that the direction read, so the backward
    direction's states stay reversed until they are joined or restored.

    `mask` (B, T) is True at real tokens, in any pattern, with T at least 1; `valid` (T, B) at their compact places.
    `is_full` is True if there is no padding; False can also mean that this is not known.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        batch, time = mask.shape
        self.mask = mask
        may_ask = runs_eagerly_on_cpu(mask)  # elsewhere, to ask would wait
        self.is_full = may_ask and bool(mask.all())
        self._order = None  # (B, T): real tokens first; None for a batch padded on the right, which is compact
        if self.is_full:  # needs no indices: generation makes such a batch for each token
            self.valid = mask.t()
            return
        self.lengths = mask.sum(dim=1)
        steps = torch.arange(time, device=mask.device)[:, None]  # (T, 1)
        self.valid = steps < self.lengths
        self._column = torch.arange(batch, device=mask.device)
        self._flipped = torch.where(self.valid, self.lengths - 1 - steps, steps)  # (T, B): its own inverse
        if not (may_ask and torch.equal(mask.t(), self.valid)):
            places = steps[:, 0]  # distinct keys: ONNX has no stable sort
            self._order = torch.argsort(torch.where(mask, places, places + time), dim=1)

    def compact(self, batch_first: torch.Tensor) -> torch.Tensor:
        """Reorder (B, T) or (B, T, I) to (T, B) or (T, B, I), real tokens first."""
        if self._order is not None:
            order = self._order if batch_first.dim() == 2 else self._order[:, :, None].expand_as(batch_first)
            batch_first = batch_first.gather(1, order)
        return batch_first.transpose(0, 1)

    def flip(self, inputs: Any) -> Any:
        """Reverse each text of (T, B, I) within its length; its own inverse."""
        if self.is_full:
            return inputs.flip(0)
        return gather_rows(inputs.flatten(0, 1), self._flipped * inputs.shape[1] + self._column)

    def join(self, directions: list[torch.Tensor]) -> torch.Tensor:
        """Join D times (T, B, H) as read to (T, B, D * H), compact."""
        return directions[0] if len(directions) == 1 else torch.cat([directions[0], self.flip(directions[1])], dim=-1)

    def restore(self, directions: list[torch.Tensor]) -> torch.Tensor:
        """Join D times (T, B, H) as read to (B, T, D * H) in the original places, zero at padding."""
        states = self.join(directions)
        if self.is_full:
            return states.transpose(0, 1)
        if self._order is None:
            return (states * self.valid[:, :, None].to(states.dtype)).transpose(0, 1)
        places = (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)  # ONNX has no sum of bools
        states = gather_rows(states.flatten(0, 1), places * states.shape[1] + self._column[:, None])
        return states * self.mask[:, :, None].to(states.dtype)

    def last(self, states: torch.Tensor, initial: torch.Tensor | None) -> torch.Tensor:
        """Return the state (B, H) of (T, B, H) as read after the last token, or the initial one for an empty text."""
        if self.is_full:
            return states[-1]
        final = gather_rows(states.flatten(0, 1), (self.lengths - 1).clamp(min=0) * states.shape[1] + self._column)
        empty = (self.lengths == 0)[:, None]
        return final.masked_fill(empty, 0) if initial is None else torch.where(empty, initial.to(final.dtype), final)

    def last_inputs(self, wide: torch.Tensor, count: int) -> torch.Tensor:
        """Return the last `count` places `(count, B, R)` of each text, from `(count + T, B, R)`."""
        if self.is_full:
            return wide[-count:]
        steps = torch.arange(count, device=wide.device)[:, None] + self.lengths
        return gather_rows(wide.flatten(0, 1), steps * wide.shape[1] + self._column)


def _fails_under_autocast(inputs: torch.Tensor) -> bool:
    """Return whether oneDNN, which runs torch's LSTM on a CPU, would raise, since this CPU lacks autocast's dtype."""
    if inputs.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return False
    kind = "fp16" if torch.get_autocast_dtype("cpu") == torch.float16 else "bf16"
    return not getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")()


def has_hooks(module: Any) -> bool:
    """Return whether a module has hooks of torch (pruning) or accelerate, and so must be called."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks) or hasattr(module, "_hf_hook")


class RnnDirection(nn.Module):
    """One layer in one direction over compact texts, from inputs of width `input_size`."""

    def __init__(self, config: RnnConfig, input_size: int) -> None:
        super().__init__()
        self.kind = find_cell(config)
        self.hidden_size = config.hidden_size
        self.recurrent_dropout = config.recurrent_dropout
        self.cell: Any = self.kind(input_size, config.hidden_size)

    def forward(
        self, inputs: torch.Tensor, texts: CompactTexts, h_0: Any, c_0: Any, output_final_states: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return the states `(T, B, H)`, meaningful at real tokens only, and h_n and c_n, if asked for.

        Inputs are `(T, B, I)`, flipped for the backward direction. All other states are
        `(B, H)`, or None for zero.
        """
        dropout = self.recurrent_dropout if self.training else 0.0
        from_zero = h_0 is None and c_0 is None
        fails = issubclass(self.kind, Lstm) and _fails_under_autocast(inputs)
        inputs = inputs.to(next(self.cell.parameters()).dtype) if fails else inputs
        zeros = inputs.new_zeros(inputs.shape[1], self.hidden_size)
        h, c = ((zeros if state is None else state).to(inputs.dtype)[None] for state in (h_0, c_0))
        state = None if from_zero else (h, c) if self.kind.has_cell_state else h
        with torch.autocast("cpu", enabled=False) if fails else nullcontext():
            states, c_n = self._run(inputs, texts, state, dropout, output_final_states)
        return states, texts.last(states, h_0) if output_final_states else None, c_n

    def _run(
        self, inputs: torch.Tensor, texts: CompactTexts, state: Any, dropout: float, output_final_states: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Call the cell, or its kernel where weights or padding need a change; return the states and c_n."""
        wants_c = output_final_states and self.kind.has_cell_state
        gates = self.kind.padding_gates if wants_c or not self.kind.has_cell_state else None
        gates = None if texts.is_full else gates
        if not dropout and gates is None:
            states, last = self.cell(inputs, state)
            return states, last[1][0] if wants_c else None
        if self.must_call():
            raise ValueError(
                "recurrent_dropout, the last cell state and cell_type='rnn_relu' need a cell without hooks (such as "
                "those of torch.nn.utils.prune) or adapters: set recurrent_dropout=0 and output_final_states=False, "
                "use another cell, or remove the hooks"
            )
        cell: Any = self.cell  # a `TorchCell`
        weights = cell.list_weights(dropout)
        if gates is not None:
            # One more input, 1 at padding only, whose weights set the gates there: still one fused call.
            inputs = torch.cat([inputs, (~texts.valid)[:, :, None].to(inputs.dtype)], dim=-1)
            column = weights[0].new_tensor(gates).repeat_interleave(self.hidden_size)
            weights[0] = torch.cat([weights[0], column[:, None]], dim=1)
        result = cell.run_kernel(inputs, state, weights)
        return result[0], result[2][0] if wants_c else None

    def must_call(self) -> bool:
        """Return whether the cell must be called: it has hooks, or an adapter replaced it."""
        return has_hooks(self.cell) or not isinstance(self.cell, self.kind)


class RnnLayer(nn.Module):
    """One recurrent layer in one or two directions over compact texts, from inputs of width `input_size`."""

    def __init__(self, config: RnnConfig, input_size: int) -> None:
        super().__init__()
        self.directions = nn.ModuleList(RnnDirection(config, input_size) for _ in range(config.num_directions))

    def forward(self, inputs: torch.Tensor, texts: CompactTexts, h_0: Any, c_0: Any, output_final_states: bool) -> Any:
        """Run each direction, from its `h_0` and `c_0`, and return its results as three tuples."""
        results: list[Any] = []
        for direction, h, c in zip(self.directions, h_0, c_0, strict=True):
            inputs = texts.flip(inputs) if results else inputs
            results.append(direction(inputs, texts, h, c, output_final_states))
        return tuple(zip(*results, strict=True))
