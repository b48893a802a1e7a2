"""What in a model its folded form would not see, since that reads weights and calls no module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...models.cells_rnn import MinGru, RnnDirection, RnnLayer
from ...models.modeling_rnn import RnnForSequenceClassification, RnnModel
from ...models.pooling_rnn import AttentionPooler, LastPooler, MaxPooler, MeanMaxPooler, MeanPooler

_POOLERS = (LastPooler, MeanPooler, MaxPooler, MeanMaxPooler, AttentionPooler)
_CELLS = (nn.LSTM, nn.GRU, nn.RNN, MinGru)


def find_foreign_part(model: nn.Module) -> str | None:
    """Return what computes otherwise than this package's model with the same weights, in words, or None.

    That is a hook, or a module in the place of another: an adapter's layer, a quantised one, a head of one's own, a
    class with its own `forward`; or a weight that is more than numbers, as torchao's are. Parametrised weights are the
    module's own.
    """
    for name, module in model.named_modules():
        place = name or "the model"
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            return f"there are hooks on {place}"
        if "forward" in vars(module) and not hasattr(module, "_original_forward"):  # accelerate keeps it by that name
            return f"forward of {place} was replaced"
    if not _computes_as(model, RnnForSequenceClassification):
        return f"the model is {_name_kind(model)}"
    for name, part, *kinds in _parts(model):
        if not any(_computes_as(part, kind) for kind in kinds):
            return f"{name} is {_name_kind(part)}"
    for name, weight in model.named_parameters():
        if type(weight) not in (nn.Parameter, torch.Tensor):
            return f"{name} is {_name_kind(weight)}"
    return None


def _computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    return isinstance(module, kind) and type(module).forward is kind.forward


def _name_kind(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _parts(model: Any) -> Iterator[tuple[Any, ...]]:
    """Each part whose weights are read: its name, itself, and the kinds that it may be of."""
    yield "rnn", model.rnn, RnnModel
    yield "rnn.embedding", model.rnn.embedding, nn.Embedding
    yield "pooler", model.pooler, *_POOLERS
    for name, part in model.pooler.named_children():
        yield f"pooler.{name}", part, nn.Linear
    yield "classifier", model.classifier, nn.Linear
    for name, part in model.rnn.layers.named_modules():
        if isinstance(part, RnnLayer):
            yield f"rnn.layers.{name}", part, RnnLayer
        elif isinstance(part, RnnDirection):
            yield f"rnn.layers.{name}", part, RnnDirection
            yield f"rnn.layers.{name}.cell", part.cell, *_CELLS
