"""A packed batch of texts through layers of the model itself, padded, a few texts of about one length at a time.

A step of torch's kernels costs little beside one of `cells.py`, so that they serve where steps have little to
do, with a few texts. That of an LSTM (oneDNN on a CPU) projects and steps at once, and serves in layers upon a layer
too, where no table spares the projection; what a group of texts keeps between them stays in the cache.

Legend: N tokens of a batch, B texts of it, T steps; b texts of a group, E input width, H hidden per direction, D
directions, P of a pooled vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch

from ...models.cells_rnn import CompactTexts
from ...models.modeling_rnn import RnnModel
from ...models.pooling_rnn import RnnPooler
from .packing import PackedTexts

# Places of a group: with more, what is kept of it between two layers, or for attention, leaves the cache. A GRU or
# RNN, whose kernel takes the steps one call after the other, has more texts share them.
_PLACES, _PLACES_OF_SINGLE_CALLS = 3_072, 32_768
# Measured on one core of an EPYC, with vectors of 50 to 300 numbers and 32 to 256 units: steps of the table, which
# project nothing, catch up where a step has so much work, and an LSTM's where there are only so few of them.
_WORK_OF_AN_LSTM, _FEW_STEPS = 200_000, 10  # numbers of its texts' vectors, times H
_WORK_OF_A_STEP = 900  # numbers of its texts' states


class PaddedLayers:
    """The layers of a model, and its pooling, for inference.

    Args:
        model: In float32 it is used as it is, and must not change.
        pooler: The model's, in float32.
    """

    def __init__(self, model: RnnModel, pooler: RnnPooler) -> None:
        self._embedding = model.embedding.weight.detach()
        self._layers = model.layers if model.dtype == torch.float32 else deepcopy(model.layers).float()
        self._pooler = pooler
        self._config = model.config

    def beats_table(self, texts: PackedTexts) -> bool:
        """Whether the first layer too reads these texts, at least one token in all, faster than with a table."""
        config, steps = self._config, len(texts.sizes)
        texts_of_a_step = len(texts.forward) / steps
        if config.cell_type == "lstm":
            work = texts_of_a_step * config.embedding_size * config.hidden_size
            return steps >= _FEW_STEPS and work <= _WORK_OF_AN_LSTM
        return config.cell_type != "min_gru" and texts_of_a_step * config.output_size <= _WORK_OF_A_STEP

    def pool(self, texts: PackedTexts, states: torch.Tensor | None = None, layers: int = 0) -> torch.Tensor:
        """Return the pooled vectors `(B, P)`.

        Args:
            texts: At least one token in all.
            states (`(N, D, H)`, *optional*): Of the last of so many layers, each direction's as it reads.
            layers: That have run already.
        """
        takes_steps = layers < len(self._layers) and self._config.cell_type != "lstm"
        groups = _group(texts.lengths, _PLACES_OF_SINGLE_CALLS if takes_steps else _PLACES)
        return torch.cat([self._pool(texts, group, states, layers) for group in groups])

    def _pool(self, texts: PackedTexts, group: slice, states: torch.Tensor | None, layers: int) -> torch.Tensor:
        lengths = texts.lengths[group]
        if not lengths[0]:
            return torch.zeros(len(lengths), self._pooler.output_size, dtype=torch.float32, device="cpu")
        padded = CompactTexts(torch.from_numpy(np.arange(lengths[0]) < lengths[:, None]))
        places, shape = texts.padded_places(group), (lengths[0], len(lengths), -1)
        if states is None:
            ids = torch.from_numpy(texts.forward).index_select(0, places)
            read = [self._embedding.index_select(0, ids).float().view(shape)]
        else:
            read = [part.reshape(shape) for part in states.index_select(0, places).unbind(1)]
        for layer in self._layers[layers:]:
            read = layer(padded.join(read), padded)[0]
        return self._pooler(padded.join(read).transpose(0, 1), padded.valid.t())[0]


def _group(lengths: np.ndarray, most_places: int) -> Iterator[slice]:
    """Cut descending lengths into groups that have few places when padded, and no more padding than tokens."""
    first = 0
    while first < len(lengths):
        longest = int(lengths[first])
        some = lengths[first : first + max(1, most_places // max(1, longest))]
        filled = np.arange(1, len(some) + 1) * longest <= 2 * some.cumsum()
        last = first + int(filled.sum())
        yield slice(first, last)
        first = last
