"""Loss, perplexity and bits per character of a language model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel


@torch.inference_mode()
def sum_losses(model: PreTrainedModel, streams: Any) -> np.ndarray:
    """Read a text from its start, and return the sum of the losses in nats, tokens, and characters.

    `streams` are `TokenStreams`. The model is in evaluation mode; its state is carried from piece to piece.
    """
    total, cache = 0.0, None
    for batch in streams:
        ids, labels = (batch[name].to(model.device) for name in ("input_ids", "labels"))
        output = model(ids, shift_labels=labels, cache=cache, use_cache=True, num_items_in_batch=1)
        total, cache = total + output.loss.item(), output.cache
    return np.array([total, streams.tokens, streams.characters])


def text_metrics(sums: np.ndarray) -> dict[str, float]:
    """Return loss in nats per token, perplexity and bits per character from the result of [`sum_losses`]."""
    total, tokens, characters = map(float, sums)
    loss = total / tokens
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_character": total / math.log(2) / characters,
    }
