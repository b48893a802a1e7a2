"""Loss, perplexity and bits per character of a language model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

_ROWS, _LEAST, _PIECE = 16, 4096, 256  # parts that are read side by side, their least length, and tokens of a step


@torch.inference_mode()
def sum_losses(model: PreTrainedModel, blocks: Any) -> np.ndarray:
    """Read a text from its start, and return the sum of the losses in nats, predicted tokens, and their characters.

    `blocks` are those of `encode_blocks`, which make one text. The model is in evaluation mode; its state is carried,
    so that almost every token has the whole text before it as context.
    """
    ids = torch.cat([torch.as_tensor(block) for block in blocks["input_ids"]])
    tokens = len(ids) - 1
    rows = max(1, min(_ROWS, tokens // _LEAST))
    length = -(-tokens // rows)
    inputs, labels = (
        torch.nn.functional.pad(part, (0, rows * length - tokens), value=fill).view(rows, length)
        for part, fill in ((ids[:-1], int(ids[-1])), (ids[1:], -100))
    )
    total, cache = 0.0, None
    for start in range(0, length, _PIECE):
        batch, targets = (part[:, start : start + _PIECE].to(model.device) for part in (inputs, labels))
        mask = torch.ones_like(batch)
        output = model(batch, mask, shift_labels=targets, cache=cache, use_cache=True, num_items_in_batch=1)
        total, cache = total + output.loss.item(), output.cache
    return np.array([total, tokens, sum(blocks["characters"]) * tokens / len(ids)])


def text_metrics(sums: np.ndarray) -> dict[str, float]:
    """Return loss in nats per token, perplexity and bits per character from the result of [`sum_losses`]."""
    total, tokens, characters = map(float, sums)
    loss = total / tokens
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_character": total / math.log(2) / characters,
    }
