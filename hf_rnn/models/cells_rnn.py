"""One recurrent layer in one direction, and the layer made of one or two of them; padding never enters.

Texts arrive *compact*: time first, all real tokens at the front of each text, whatever padding there is behind them.
The forward direction then needs no mask at all, and the backward direction reads each text flipped within its own
length, so that both run in torch's fused kernels (minGRU in `min_gru_rnn.py`; in training on a CPU also the loops in
`cpu_kernels_rnn.py`). Nothing needs a length on the host.

Legend: B batch, T time, I input width, H hidden per direction, D directions, L layers.
"""

from typing import Any

import torch
from torch import nn

from .configuration_rnn import RnnConfig
from .cpu_kernels_rnn import may_loop, run_loop
from .distinct_rnn import DistinctTokens
from .min_gru_rnn import MinGru

# Large enough to saturate a gate to exactly 0 or 1 beside any sane sum of the others, small enough for float16.
_SATURATION = 1e4

_KERNELS: dict[str, Any] = {
    "rnn_tanh": torch.rnn_tanh,
    "rnn_relu": torch.rnn_relu,
    "gru": torch.gru,
    "lstm": torch.lstm,
}


def _lstm_precisions() -> frozenset[torch.dtype]:
    """In which precisions below float32 oneDNN, which torch's LSTM runs in on a CPU, computes on this one."""
    if not torch.backends.mkldnn.is_available():
        return frozenset()
    found = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return frozenset(precision for precision, there in found.items() if there)


_LSTM_PRECISIONS = _lstm_precisions()


def _make_cell(cell_type: str, input_size: int, hidden_size: int) -> nn.RNNBase | MinGru:
    if cell_type == "lstm":
        return nn.LSTM(input_size, hidden_size)
    if cell_type == "gru":
        return nn.GRU(input_size, hidden_size)
    if cell_type == "min_gru":
        return MinGru(input_size, hidden_size)
    return nn.RNN(input_size, hidden_size, nonlinearity=cell_type.removeprefix("rnn_"))


class CompactTexts:
    """Where the real tokens of a batch lie, and the index arithmetic that follows from it.

    A direction's states are *as read*: place 0 holds the first token that the direction read, so the backward
    direction's states stand flipped until they are joined or restored.

    Args:
        mask (`torch.BoolTensor` of shape `(B, T)`): True at real tokens, in any pattern; T is at least 1.

    Attributes:
        lengths (`(B,)`): Real tokens in each text.
        valid (`(T, B)`): True where a compact place holds a real token.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        batch, time = mask.shape
        self.lengths = mask.sum(dim=1)
        steps = torch.arange(time, device=mask.device)[:, None]  # (T, 1)
        self.valid = steps < self.lengths
        self._mask = mask
        self._column = torch.arange(batch, device=mask.device)
        self._order = _real_first(mask)  # (B, T): real tokens first, in order
        self._flipped = torch.where(self.valid, self.lengths - 1 - steps, steps)  # (T, B): an involution

    def compact(self, batch_first: torch.Tensor) -> torch.Tensor:
        """(B, T) or (B, T, I) → (T, B) or (T, B, I), real tokens first."""
        if batch_first.dim() == 2:
            return batch_first.gather(1, self._order).t()
        return batch_first.gather(1, self._order[:, :, None].expand_as(batch_first)).transpose(0, 1)

    def uncompact(self, ids: torch.Tensor) -> torch.Tensor:
        """(T, B) → (B, T), each in the place that `compact` took it from; its inverse."""
        return ids.new_empty(self._order.shape).scatter_(1, self._order, ids.t())

    def show(self, directions: list[torch.Tensor], shown: list[torch.Tensor]) -> torch.Tensor:
        """Append what `restore` makes of states, and return what was made of that in turn: joined, (T, B, D * H).

        So that what is shown is part of the graph, and has gradients.
        """
        shown.append(self.restore(directions))
        return self.compact(shown[-1])

    def flip(self, states: torch.Tensor) -> torch.Tensor:
        """(T, B, I) → the same, each text reversed within its length; its own inverse."""
        rows = (self._flipped * states.shape[1] + self._column).reshape(-1)
        return states.flatten(0, 1).index_select(0, rows).view(states.shape)

    def flip_tokens(self, tokens: DistinctTokens) -> DistinctTokens:
        """As `flip`, which here moves no vector."""
        return DistinctTokens(tokens.vectors, self.flip(tokens.rows[:, :, None]).squeeze(-1))

    def join(self, directions: list[torch.Tensor]) -> torch.Tensor:
        """D times (T, B, H) as read → (T, B, D * H), compact."""
        if len(directions) == 1:
            return directions[0]
        return torch.cat([directions[0], self.flip(directions[1])], dim=-1)

    def restore(self, directions: list[torch.Tensor]) -> torch.Tensor:
        """D times (T, B, H) as read → (B, T, D * H) in the original places, zero where there is no token."""
        batch, time = self._mask.shape
        width = directions[0].shape[-1]
        forward = self._places()
        rows = [forward * batch + self._column[:, None]]
        if len(directions) == 2:
            backward = (self.lengths[:, None] - 1 - forward).clamp(min=0)
            rows.append((time + backward) * batch + self._column[:, None])
        stacked = torch.cat([states.flatten(0, 1) for states in directions])
        restored = stacked.index_select(0, torch.stack(rows, dim=-1).reshape(-1))
        return restored.view(batch, time, len(rows) * width).masked_fill_(~self._mask[:, :, None], 0)

    def restore_weights(self, weights: torch.Tensor) -> torch.Tensor:
        """(B, T) compact, a number a token → (B, T) in the original places, zero where there is no token."""
        return weights.gather(1, self._places()).masked_fill(~self._mask, 0)

    def _places(self) -> torch.Tensor:
        """(B, T): the compact place of the token at each original place."""
        return (self._mask.long().cumsum(dim=1) - 1).clamp(min=0)  # ONNX has no sum of bools

    def last(self, states: torch.Tensor, initial: torch.Tensor | None) -> torch.Tensor:
        """(T, B, H) as read → (B, H) after the last token read; the initial state (or zero) where a text has none."""
        rows = (self.lengths - 1).clamp(min=0) * states.shape[1] + self._column
        final = states.flatten(0, 1).index_select(0, rows)
        empty = (self.lengths == 0)[:, None]
        return final.masked_fill(empty, 0) if initial is None else torch.where(empty, initial.to(final.dtype), final)


def _real_first(mask: torch.Tensor) -> torch.Tensor:
    """(B, T) → the places of the real tokens, in order, and then those of the others, `(B, T)`."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # ONNX has no sort that is stable: keys without ties
        steps = torch.arange(mask.shape[1], device=mask.device)
        return torch.argsort(torch.where(mask, steps, steps + mask.shape[1]), dim=1)
    return torch.argsort(mask, dim=1, descending=True, stable=True)  # sooner


class RnnDirection(nn.Module):
    """One layer in one direction over compact texts, by torch's own cells and formulas or [`MinGru`].

    Recurrent dropout drops hidden-to-hidden *weights*, once a batch (DropConnect as in Merity et al. 2018,
    "Regularizing and Optimizing LSTM Language Models", section 4.1), so that the fused kernel stays.

    Args:
        config ([`RnnConfig`]): Gives cell type, hidden size and recurrent dropout.
        input_size (`int`): Width of the input, I.
    """

    def __init__(self, config: RnnConfig, input_size: int) -> None:
        super().__init__()
        self.cell_type = config.cell_type
        self.hidden_size = config.hidden_size
        self.recurrent_dropout = config.recurrent_dropout
        self.cell = _make_cell(config.cell_type, input_size, config.hidden_size)

    def forward(
        self,
        inputs: torch.Tensor | DistinctTokens,
        texts: CompactTexts,
        initial_hidden_state: torch.Tensor | None = None,
        initial_cell_state: torch.Tensor | None = None,
        output_cell_state: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the cell from the first compact place to the last.

        Args:
            inputs (`(T, B, I)`, or distinct tokens, read from a state of zero): Compact, already flipped when this is
                the backward direction.
            texts ([`CompactTexts`]): Where the real tokens are.
            initial_hidden_state (`(B, H)`, *optional*): h_0; zero when absent.
            initial_cell_state (`(B, H)`, *optional*): c_0 of an LSTM; zero when absent.
            output_cell_state (`bool`): Whether the LSTM's c at the last real token is wanted too.

        Returns:
            The states `(T, B, H)`, meaningful at real tokens only, and c_n `(B, H)` or None.

        Raises:
            ValueError: When recurrent dropout would thin weights that hooks on the cell make.
        """
        wants_cell_state = output_cell_state and self.cell_type == "lstm"
        if isinstance(inputs, DistinctTokens):
            if isinstance(self.cell, MinGru):
                return self.cell(inputs.vectors, rows=inputs.rows)[0], None
            return run_loop(self.cell_type, inputs, self._weights()), None
        from_zero = initial_hidden_state is None and initial_cell_state is None
        loops = self.cell_type in ("rnn_tanh", "gru") and not self.is_hooked()
        if self.training and from_zero and loops and may_loop(inputs):
            return run_loop(self.cell_type, inputs, self._weights()), None
        if self._is_cast_in_vain(inputs.device):
            inputs = inputs.to(next(self.cell.parameters()).dtype)
            with torch.autocast("cpu", enabled=False):
                return self._run_kernel(inputs, texts, initial_hidden_state, initial_cell_state, wants_cell_state)
        return self._run_kernel(inputs, texts, initial_hidden_state, initial_cell_state, wants_cell_state)

    def _run_kernel(
        self,
        inputs: torch.Tensor,
        texts: CompactTexts,
        initial_hidden_state: torch.Tensor | None,
        initial_cell_state: torch.Tensor | None,
        wants_cell_state: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run torch's own kernel, or [`MinGru`]."""
        state = self._initial_state(inputs, initial_hidden_state, initial_cell_state)
        held = self._gates_held_at_padding(wants_cell_state)
        if not self._is_dropping() and held is None:
            return self.cell(inputs, state)[0], None
        if self.is_hooked():
            return self._run_packed(inputs, texts, state, wants_cell_state)
        weights = self._weights()
        if held is not None:
            # One more input, 1 at padding only, whose weights saturate the gates there: still one fused call.
            inputs = torch.cat([inputs, (~texts.valid)[:, :, None].to(inputs.dtype)], dim=-1)
            column = weights[0].new_tensor(held).repeat_interleave(self.hidden_size)
            weights[0] = torch.cat([weights[0], column[:, None]], dim=1)
        if state is None:
            zeros = inputs.new_zeros(1, inputs.shape[1], self.hidden_size)
            state = (zeros, zeros) if self.cell_type == "lstm" else zeros
        # positional: states, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first
        result: Any = _KERNELS[self.cell_type](inputs, state, weights, True, 1, 0.0, self.training, False, False)
        return result[0], result[2][0] if wants_cell_state else None

    def _run_packed(
        self, inputs: torch.Tensor, texts: CompactTexts, state: Any, wants_cell_state: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Call the cell itself over packed texts, of which it reads no padding: slower, and its hooks run."""
        if self._is_dropping():
            raise ValueError(
                "recurrent_dropout thins the weights themselves, and hooks on a recurrent cell (such as those of "
                "torch.nn.utils.prune), or an adapter around it, would not see it: set "
                "recurrent_dropout=0, or remove the hooks or the adapter"
            )
        if inputs.shape[1] == 0:  # no text, which cannot be packed
            states, final = self.cell(inputs, state)
            return states, final[1][0] if wants_cell_state else None
        lengths = texts.lengths.clamp(min=1).cpu()
        outputs, final = self.cell(nn.utils.rnn.pack_padded_sequence(inputs, lengths, enforce_sorted=False), state)
        states = nn.utils.rnn.pad_packed_sequence(outputs, total_length=inputs.shape[0])[0]
        if not wants_cell_state:
            return states, None
        before = torch.zeros_like(final[1][0]) if state is None else state[1][0]
        return states, torch.where((texts.lengths == 0)[:, None], before, final[1][0])

    def is_hooked(self) -> bool:
        """Whether the cell must be called: its weights are made or watched by hooks, brought along, or elsewhere.

        Accelerate brings them along; an adapter around the cell, or a quantised one in its place, has them elsewhere.
        """
        cell: Any = self.cell
        hooks = (cell._forward_pre_hooks, cell._forward_hooks, cell._backward_pre_hooks, cell._backward_hooks)
        return any(hooks) or hasattr(self.cell, "_hf_hook") or not isinstance(self.cell, nn.RNNBase | MinGru)

    def _is_cast_in_vain(self, device: torch.device) -> bool:
        """Whether autocast would hand an LSTM over in a precision that this CPU has not, where the kernel fails."""
        return (
            self.cell_type == "lstm"
            and device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") not in _LSTM_PRECISIONS
        )

    def _gates_held_at_padding(self, wants_cell_state: bool) -> list[float] | None:
        """What padding adds to each gate's input, in the order of the weights, or None where it may do as it likes.

        The states at padding are never looked at, but two things must not happen there: an LSTM's c must come through
        unchanged when the kernel's last c is wanted (input gate 0, forget gate 1, so exactly c), and the unbounded
        units of `rnn_relu` must not grow until they overflow (they are pushed to 0).
        """
        if wants_cell_state:
            return [-_SATURATION, _SATURATION, 0.0, 0.0]
        return [-_SATURATION] if self.cell_type == "rnn_relu" else None

    def _is_dropping(self) -> bool:
        return self.training and self.recurrent_dropout > 0

    def _weights(self) -> list[torch.Tensor]:
        """W_ih, W_hh, b_ih, b_hh in the kernel's order, W_hh thinned where recurrent dropout is on."""
        weights = [getattr(self.cell, f"{kind}_l0") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if self._is_dropping():
            weights[1] = nn.functional.dropout(weights[1], self.recurrent_dropout)
        return weights

    def _initial_state(
        self, inputs: torch.Tensor, hidden: torch.Tensor | None, cell: torch.Tensor | None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None:
        if hidden is None and cell is None:
            return None
        zeros = inputs.new_zeros(inputs.shape[1], self.hidden_size)
        hidden = (zeros if hidden is None else hidden).to(inputs.dtype)[None]  # (1, B, H)
        if self.cell_type != "lstm":
            return hidden
        return hidden, (zeros if cell is None else cell).to(inputs.dtype)[None]


class RnnLayer(nn.Module):
    """One recurrent layer in one or two directions over compact texts.

    Args:
        config ([`RnnConfig`]): The model's settings.
        input_size (`int`): Width of the input, I.
    """

    def __init__(self, config: RnnConfig, input_size: int) -> None:
        super().__init__()
        self.directions = nn.ModuleList(RnnDirection(config, input_size) for _ in range(config.num_directions))

    def forward(
        self,
        inputs: torch.Tensor | DistinctTokens,
        texts: CompactTexts,
        initial_hidden_state: torch.Tensor | None = None,
        initial_cell_state: torch.Tensor | None = None,
        output_final_states: bool = False,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Read each text forwards and, when bidirectional, from its last real token backwards.

        Args:
            inputs (`(T, B, I)` or distinct tokens): Compact.
            texts ([`CompactTexts`]): Where the real tokens are.
            initial_hidden_state (`(D, B, H)`, *optional*): h_0 of this layer.
            initial_cell_state (`(D, B, H)`, *optional*): c_0 of this layer.
            output_final_states (`bool`): Whether h_n and c_n are wanted.

        Returns:
            A tensor a direction: the states `(T, B, H)` as read and, when wanted, h_n `(B, H)` and an LSTM's c_n `(B,
            H)`.
        """
        outputs, hidden, cell = [], [], []
        for number, direction in enumerate(self.directions):
            h_0 = None if initial_hidden_state is None else initial_hidden_state[number]
            c_0 = None if initial_cell_state is None else initial_cell_state[number]
            if number == 1:
                inputs = texts.flip_tokens(inputs) if isinstance(inputs, DistinctTokens) else texts.flip(inputs)
            states, c_n = direction(inputs, texts, h_0, c_0, output_final_states)
            outputs.append(states)
            if output_final_states:
                hidden.append(texts.last(states, h_0))
            if c_n is not None:
                cell.append(c_n)
        return outputs, hidden, cell
