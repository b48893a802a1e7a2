"""Residual blocks: deep recurrent networks. One block mixes along time, then along features.

A block reads and returns a stream x of states, `(T, B, R)`:

    u = conv(norm(x))
    x = x + W_o (act(W_g u) * [forward ; backward])     forward, backward: a cell of `CELLS` over u
    x = x + W_2 act(W_1 norm(x))

Pre-norm branches: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture". A
gated recurrence with a short convolution and an MLP: De et al. 2024, "Griffin"
(arxiv.org/abs/2402.19427), section 2; Feng et al. 2024, "Were RNNs All We Needed?"
(arxiv.org/abs/2410.01201), appendix C.

Legend: B batch, T time, E embedding, R residual stream, H hidden per direction, D directions, K
kernel, L layers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .cells_rnn import RnnLayer, TokenOrder, runs_eagerly_on_cpu
from .configuration_rnn import RnnConfig

# an import of transformers' own takes seconds
ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}
_BITS = 2**16  # numbers that 16 bits can be
# tokens: at first, units of a residual block remember from about one token to this number
LONGEST_MEMORY = 100.0


class Dropout(nn.Dropout):
    """Dropout that draws 16 random bits per element on a CPU, in a fifth of torch's time."""

    def forward(self, inputs: Tensor, stream: Tensor | None = None) -> Tensor:
        """Return the inputs, a share p of them zero and the rest scaled; added to any `stream`."""
        if not (self.training and self.p and runs_eagerly_on_cpu(inputs)):
            outputs = super().forward(inputs)
            return outputs if stream is None else stream + outputs
        dropped = min(round(self.p * _BITS), _BITS - 1)
        words = torch.empty(inputs.numel() // 4 + 1, dtype=torch.int64, device="cpu")
        words.random_(-(2**63), None)
        numbers = words.view(torch.int16)[: inputs.numel()].view(inputs.shape).float()
        numbers.add_(_BITS / 2 + 1 - dropped).clamp_(0, 1).mul_(_BITS / (_BITS - dropped))
        factors = numbers.to(inputs.dtype)
        return inputs * factors if stream is None else torch.addcmul(stream, inputs, factors)


class ShortConvolution(nn.Module):
    """A depthwise convolution along time: each feature is a weighted sum of K neighbouring tokens.

    In a model of two directions the K tokens are centred; in one direction they end at the token
    itself, and the K - 1 tokens before a text can be given (`before`), so that a text can be read
    in pieces.
    """

    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        self.size = config.conv_kernel
        self.is_causal = not config.bidirectional
        self.weight = nn.Parameter(torch.empty(self.size, config.stream_size))
        self.ahead = 0 if self.is_causal else self.size // 2  # tokens read after the token itself

    def identity(self) -> Tensor:
        """Return the weights `(K, R)` that keep the inputs."""
        weight = torch.zeros_like(self.weight)
        weight[self.size - 1 - self.ahead] = 1
        return weight

    def forward(self, inputs: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sums `(T, B, R)`, and the inputs with their neighbours `(K - 1 + T, B, R)`.

        Inputs `(T, B, R)` are zero at padding; `before` is `(K - 1, B, R)`, or None for zero.
        """
        if before is None:
            wide = nn.functional.pad(inputs, (0, 0, 0, 0, self.size - 1 - self.ahead, self.ahead))
        else:
            wide = torch.cat([before.to(inputs.dtype), inputs])
        time = inputs.shape[0]
        sums = wide[:time] * self.weight[0]
        for place in range(1, self.size):
            sums = torch.addcmul(sums, wide[place : place + time], self.weight[place])
        return sums, wide


class ResidualBlock(nn.Module):
    """One block; see the formula at the top of this file.

    The last layer of each branch starts divided by sqrt(2 L), so that the stream keeps its scale
    (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3).
    """

    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        size = config.stream_size
        states = config.num_directions * config.hidden_size
        inner = config.intermediate_size or 2 * size
        self.input_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.conv = ShortConvolution(config) if config.conv_kernel > 1 else None
        self.mixer = RnnLayer(config, size)
        self.gate_proj = nn.Linear(size, states)
        self.out_proj = nn.Linear(states, size)
        self.mlp_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.up_proj = nn.Linear(size, inner)
        self.down_proj = nn.Linear(inner, size)
        for layer in (self.out_proj, self.down_proj):
            layer.init_scale = (2 * config.num_hidden_layers) ** -0.5
        self.activation = ACTIVATIONS[config.hidden_act]()
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self,
        stream: Tensor,
        order: TokenOrder,
        h_0: Sequence[Tensor | None],
        c_0: Sequence[Tensor | None],
        conv_0: Tensor | None,
        output_final_states: bool,
    ) -> tuple[Tensor | None, ...]:
        """Return the stream `(T, B, R)`, D times h_n and c_n, and the convolution's last inputs.

        `h_0` and `c_0` have `(B, H)` or None per direction; `conv_0` is `(B, K - 1, R)` or None.
        """
        inputs, wide = self.read(stream, order, conv_0)
        states, *final = self.mixer(inputs, order, h_0, c_0, output_final_states)
        mixed = states * self.activation(self.gate_proj(inputs))
        stream = self.dropout(self.out_proj(mixed), stream)

        inner = self.activation(self.up_proj(self.mlp_norm(stream)))
        stream = self.dropout(self.down_proj(inner), stream)

        conv_n = None
        if output_final_states and self.conv is not None and self.conv.is_causal:
            conv_n = order.last_inputs(wide, self.conv.size - 1).transpose(0, 1)
        return stream, *final, conv_n

    def read(self, stream: Tensor, order: TokenOrder, conv_0: Tensor | None = None) -> Any:
        """Return the inputs of cell and gate `(T, B, R)`, and those of the convolution."""
        inputs = self.input_norm(stream)
        if self.conv is None:
            return inputs, None
        if not order.is_full:
            inputs = inputs * order.valid[:, :, None].to(inputs.dtype)
        return self.conv(inputs, None if conv_0 is None else conv_0.transpose(0, 1))


class TokenProjection(nn.Module):
    """Normalise token vectors `(..., E)` and project them to the residual stream `(..., R)`.

    The table may be narrow: Lan et al. 2020, "ALBERT" (https://arxiv.org/abs/1909.11942), section
    3.1.
    """

    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.embedding_dropout)
        self.projection = nn.Linear(config.embedding_size, config.stream_size)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project."""
        return self.projection(self.dropout(self.norm(vectors)))
