"""What the models return: to their callers, and the encoder to the heads on top of it.

Legend: B batch, T time, E embedding, H hidden per direction, D directions, L layers, C classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers.utils import ModelOutput

from .cells_rnn import CompactTexts


@dataclass
class RnnModelOutput(ModelOutput):
    """What [`RnnModel`] returns.

    Args:
        last_hidden_state (`(B, T, D * H)`): States of the last layer, zero where the mask is zero.
        final_hidden_state (`(L * D, B, H)`): h_n, at the last token read; only with `output_final_states=True`.
        final_cell_state (`(L * D, B, H)`): c_n of an LSTM; only with `output_final_states=True`.
        hidden_states (`tuple` of `(B, T, E)`, then L times `(B, T, D * H)`): Token vectors, then each layer's states;
            only with `output_hidden_states=True`.
    """

    last_hidden_state: torch.Tensor | None = None
    final_hidden_state: torch.Tensor | None = None
    final_cell_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class RnnSequenceClassifierOutput(ModelOutput):
    """What [`RnnForSequenceClassification`] returns.

    Args:
        loss (scalar): Only when labels are given.
        logits (`(B, C)`): Scores before softmax (before sigmoid for multi-label, the value itself for regression).
        pooling_weights (`(B, T)`): Weight of each token, each text's sum 1, or 0 where a text has no tokens; only with
            `pooling="attention"`.
        final_hidden_state (`(L * D, B, H)`): As in [`RnnModelOutput`].
        final_cell_state (`(L * D, B, H)`): As in [`RnnModelOutput`].
        hidden_states (`tuple`): As in [`RnnModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    pooling_weights: torch.Tensor | None = None
    final_hidden_state: torch.Tensor | None = None
    final_cell_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class EncodedTexts(NamedTuple):
    """What [`RnnModel`] hands to a head: states of the last layer that are compact; see [`CompactTexts`]."""

    texts: CompactTexts
    time: int  # places of the input, T; 0 is possible, while compact texts have at least 1
    states: list[torch.Tensor]  # of the last layer, (T, B, width) a direction as read, or one for both that is joined
    hidden_states: tuple[torch.Tensor, ...] | None  # as in `RnnModelOutput`; None unless wanted
    hidden: list[torch.Tensor]  # h_n (B, H), layer by layer and direction by direction; empty unless wanted
    cell: list[torch.Tensor]  # c_n (B, H) likewise, of an LSTM

    @property
    def last_hidden_state(self) -> torch.Tensor:
        """`torch.Tensor`: As in [`RnnModelOutput`]."""
        if self.hidden_states is not None:
            return self.hidden_states[-1]
        restored = self.texts.restore(self.states)
        return restored[:, :0] if self.time == 0 else restored

    def final_states(self) -> dict[str, torch.Tensor | None]:
        """h_n and c_n (L * D, B, H), by the names of the outputs."""
        return {
            "final_hidden_state": torch.stack(self.hidden) if self.hidden else None,
            "final_cell_state": torch.stack(self.cell) if self.cell else None,
        }
