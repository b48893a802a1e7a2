"""What sparse gradients of an embedding ask for: an optimiser that takes them, and a norm that counts a row once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers import TrainingArguments

from ..utils.errors import UserError

# Of the optimisers that --optim names, those that take sparse gradients: torch's own, only without weight decay, and
# those in whose place `LazyAdamW` stands.
_SPARSE_OPTIMIZERS = ("sgd", "adagrad")
LAZY_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch")


def has_sparse_gradients(model: nn.Module) -> bool:
    """Whether some embedding of a model trains with sparse gradients."""
    return any(
        isinstance(part, nn.Embedding) and part.sparse and part.weight.requires_grad for part in model.modules()
    )


def check_sparse_gradients(args: TrainingArguments) -> None:
    """Refuse an optimiser that would fail on the gradients of `sparse_embedding=True`.

    Raises:
        UserError: When it is none that takes them; the message says what to change.
    """
    if args.optim in LAZY_OPTIMIZERS:
        return
    if args.optim not in _SPARSE_OPTIMIZERS:
        raise UserError(
            f"sparse_embedding gives sparse gradients, which optim {args.optim.value!r} does not take: "
            f"set sparse_embedding to false, or optim to {' or '.join(LAZY_OPTIMIZERS + _SPARSE_OPTIMIZERS)}"
        )
    if args.weight_decay != 0:
        raise UserError(
            f"sparse_embedding gives sparse gradients, which weight_decay {args.weight_decay} does not take: "
            f"set sparse_embedding to false, weight_decay to 0, or optim to {LAZY_OPTIMIZERS[0]}"
        )


def clip_grad_norm(parameters: Iterator[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale gradients, dense and sparse, so that their common 2-norm is at most `max_norm`.

    As `torch.nn.utils.clip_grad_norm_`, which knows no sparse gradients: these are coalesced first, for rows that a
    batch touched twice stand in them twice.

    Args:
        parameters: Their gradients are changed in place.
        max_norm: The greatest norm allowed; infinity only measures.

    Returns:
        The norm before scaling, a scalar.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norm = nn.utils.get_total_norm(values)
    if max_norm < float("inf"):
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # the small number is torch's own
        for gradient in values:
            gradient.mul_(scale.to(gradient.device))
    return norm
