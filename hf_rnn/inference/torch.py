"""`TorchEngine`: logits of the plain model, on any device."""

from __future__ import annotations

import copy
import logging
import os
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..hub.model_folder import load_model, load_without_weights
from ..models.auto import head_class
from ..utils.errors import explain
from .engine import (
    CLASSIFIER,
    DEFAULTS,
    Engine,
    InferenceOptions,
    Source,
    TokenIds,
    batch_by_length,
    check_mode,
    hash_weights,
    pad_ids,
    pad_tokens,
)
from .kernel import SWITCH, load_library
from .native import read_ngrams, to_float
from .open import load_sentence_encoder, read_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data.tokens import Tokenizer
    from ..linear.ngrams import NgramTable

_LOGGER = logging.getLogger(__name__)

# per batch, padding included
_TEXTS = 256
_TOKENS = 8192
_MANY_TEXTS = 64  # from this number on, a missing kernel costs time that its user notices


class TorchEngine(Engine):
    """A model of torch in evaluation mode, and the tokenizer that pads for it."""

    model: PreTrainedModel
    is_plain = True

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
        if model.device.type == "cpu" and model.dtype.itemsize < torch.float32.itemsize:
            model = copy.deepcopy(model).float()  # as the kernel computes it
        self.config = model.config
        self.model = model
        self._tokenizer = tokenizer
        self.read_ngrams()  # a ValueError for a damaged table

    @cached_property
    def fingerprint(self) -> str:
        """As in [`Engine`]."""
        return hash_weights(read_memory(self.model))

    def read_ngrams(self) -> NgramTable | None:
        """As in [`Engine`]."""
        ngrams = getattr(self.model, "ngrams", None)
        weights = {} if ngrams is None else read_memory(ngrams)
        return read_ngrams({f"ngrams.{name}": values for name, values in weights.items()})

    def run(self, input_ids: TokenIds, options: InferenceOptions = DEFAULTS) -> np.ndarray:
        """As in [`Engine`]; about `tokens_per_batch` of the options are read at once."""
        check_mode(self.model)
        if len(input_ids) >= _MANY_TEXTS and self.model.device.type == "cpu":
            _warn_of_missing_kernel()
        with torch.autocast("cpu", enabled=False):
            tokens = options.tokens_per_batch or _TOKENS
            return compute_logits(self.model, self._tokenizer, input_ids, _TEXTS, tokens).numpy()


@cache
def _warn_of_missing_kernel() -> None:
    if load_library() is None and os.environ.get(SWITCH) != "0":
        _LOGGER.warning(
            "predicting by torch takes two to four times as long as the kernel, which is not "
            "built: install a wheel, or a C compiler and `python -m hf_rnn.inference.kernel`"
        )


@torch.inference_mode()
def compute_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: TokenIds,
    batch_size: int = 64,
    tokens_per_batch: int = 8192,
) -> torch.Tensor:
    """Return the logits `(N, C)` of a model in evaluation mode, in float32 on the CPU.

    A head that answers for each token gives `(N, T, C)`, zero after the tokens of a text.

    Batches have at most `batch_size` texts and `tokens_per_batch` tokens, padding included; a
    longer text runs alone.
    """
    if not len(input_ids):
        return torch.zeros(0, model.config.num_labels, dtype=torch.float32, device="cpu")
    order: list[int] = []
    parts: list[torch.Tensor] = []
    per_token = False
    for rows in batch_by_length(input_ids, tokens_per_batch, batch_size):
        texts = [input_ids[row] for row in rows]
        batch = np.stack(pad_ids(texts, tokenizer.pad_token_id or 0, tokenizer.padding_side))
        ids, mask = torch.from_numpy(batch).to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, return_dict=True).logits.float()
        per_token = logits.dim() == 3
        parts.append((logits[mask.bool()] if per_token else logits).cpu())
        order += rows
    logits = torch.cat(parts)
    if per_token:
        logits = torch.from_numpy(pad_tokens(logits.numpy(), [input_ids[row] for row in order]))
    logits[order] = logits.clone()
    return logits


def load_torch(
    source: Source, options: InferenceOptions
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a stored model and its tokenizer, as transformers loads them.

    Raises:
        UserError: For an incomplete or damaged model, and for an unknown or missing device.
    """
    if source.is_encoder:
        return load_sentence_model(source)
    return load_model(source.name, options.revision, options.device)


def load_sentence_model(
    source: Source,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a sentence encoder as a classifier, and its tokenizer; see [`Source`].

    Raises:
        UserError: For a folder without an encoder's projection.
    """
    config, tokenizer = load_without_weights(source.name, source.folder)
    with explain(f"{source.name} cannot be loaded, because of model.safetensors"):
        weights = load_sentence_encoder(source.name, source.folder, config)
        model = head_class(CLASSIFIER)(config).eval()
        rows = {key: torch.tensor(to_float(weight)) for key, weight in weights.items()}
        model.load_state_dict(rows)
    return model, tokenizer
