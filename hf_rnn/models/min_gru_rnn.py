"""minGRU: a gated cell whose gate and candidate see the input alone, so that time is a chain of multiply-adds.

Only the cell; directions, masks and layers are those of every cell, see `cells_rnn.py`. This file travels with every
checkpoint.

Legend: B batch, T time, I input width, H hidden per direction.
"""

import math
from typing import Any

import torch
from torch import nn

from .distinct_rnn import gather_rows


class MinGru(nn.Module):
    """One layer of minGRU in one direction, called as torch calls its own recurrent modules.

    By Feng et al. 2024, "Were RNNs All We Needed?" (https://arxiv.org/abs/2410.01201), section 3.1:

        z_t = sigmoid(W_z x_t + b_z)
        h~_t = W_h x_t + b_h
        h_t = (1 - z_t) * h_(t-1) + z_t * h~_t

    This is the paper's plain form. Its log-space form passes h~ through a positive function g, because a logarithm
    needs that; nothing here takes logarithms, so states may be negative.

    Args:
        input_size (`int`): Width of the input, I.
        hidden_size (`int`): Units, H.

    Attributes:
        weight_ih_l0 (`(2 * H, I)`): W_z, then W_h, named as in torch's recurrent modules.
        bias_ih_l0 (`(2 * H,)`): b_z, then b_h.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(2 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters from U(-k, k), k = H^-1/2, as torch does for its recurrent modules."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self, inputs: torch.Tensor, state: torch.Tensor | None = None, rows: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Read from the first place to the last.

        Args:
            inputs (`(T, B, I)`, or `(N, I)` with `rows`): T is at least 1.
            state (`(1, B, H)`, *optional*): h_0; zero when absent.
            rows (`(T, B)`, *optional*): Which of N distinct inputs stands where, see [`DistinctTokens`].

        Returns:
            The states `(T, B, H)` and the last of them `(1, B, H)`.
        """
        gate, candidate = nn.functional.linear(inputs, self.weight_ih_l0, self.bias_ih_l0).chunk(2, dim=-1)
        update = gate.sigmoid()
        decay, addend = 1 - update, update * candidate
        if rows is not None:
            decay, addend = gather_rows(decay, rows), gather_rows(addend, rows)
        initial = decay.new_zeros(decay.shape[1:]) if state is None else state[0].to(decay.dtype)
        states = linear_recurrence(decay, addend, initial)
        return states, states[-1:]


def linear_recurrence(decay: torch.Tensor, addend: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """h_t = decay_t * h_(t-1) + addend_t from h_0 on, element by element.

    Args:
        decay (`(T, B, H)`): T is at least 1.
        addend (`(T, B, H)`): Of the same dtype.
        initial (`(B, H)`): h_0.

    Returns:
        All h_t from t = 1 on, `(T, B, H)`.

    Raises:
        RuntimeError: Under `torch.jit.trace`, which would record a loop of so many steps.
    """
    # A loop does the least work, and on a CPU a step costs about a microsecond. On an accelerator each step would be a
    # launch, and a compiled or exported graph would hold every one of them; torch.func follows nothing done in place.
    if torch.jit.is_tracing():
        raise RuntimeError("torch.jit.trace would fix min_gru's number of steps: take `hf-rnn export`")
    changed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if decay.device.type == "cpu" and not changed:
        return _Loop.apply(decay, addend, initial)
    return parallel_scan(decay, addend, initial)


class _Loop(torch.autograd.Function):
    """The recurrence step by step, in place; backward is the same recurrence from the end."""

    @staticmethod
    def forward(decay: torch.Tensor, addend: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
        states = addend.clone()
        previous = initial
        for kept, state in zip(decay.unbind(0), states.unbind(0), strict=True):
            state.addcmul_(kept, previous)
            previous = state
        return states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        decay, _, initial = inputs
        ctx.save_for_backward(decay, output, initial)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        decay, states, initial = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients are wanted: nothing in place
            later = torch.cat([decay[1:], torch.zeros_like(decay[:1])])
            of_states = _Loop.apply(later.flip(0), gradients[0].flip(0), torch.zeros_like(initial)).flip(0)
        else:
            of_states = gradients[0].clone(memory_format=torch.contiguous_format)
            steps, kept = of_states.unbind(0), decay.unbind(0)
            for time in range(len(steps) - 1, 0, -1):
                steps[time - 1].addcmul_(kept[time], steps[time])
        of_decay = of_states * torch.cat([initial[None], states[:-1]])
        return of_decay, of_states, decay[0] * of_states[0]


def parallel_scan(decay: torch.Tensor, addend: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """As [`linear_recurrence`], in about log2(T) vectorised steps.

    Two neighbouring steps (a, b) and (a', b') are one step (a * a', a' * b + b'); combining every place with the one
    1, 2, 4, ... places before it leaves all prefixes (Hillis and Steele 1986, "Data Parallel Algorithms"; Blelloch
    1990, "Prefix Sums and Their Applications", section 1.4). No logarithm, no division: no sign or zero is special.
    """
    addend = torch.cat([torch.addcmul(addend[:1], decay[:1], initial[None]), addend[1:]])
    distance = 1
    while distance < decay.shape[0]:
        later = torch.addcmul(addend[distance:], decay[distance:], addend[:-distance])
        addend = torch.cat([addend[:distance], later])
        decay = torch.cat([decay[:distance], decay[distance:] * decay[:-distance]])
        distance *= 2
    return addend
