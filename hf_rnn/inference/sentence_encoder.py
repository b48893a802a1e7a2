"""`SentenceEncoder`: texts → the sentence vectors of a pretrained encoder, as fast as a CPU allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from ..hub.loading import find_folder, load_without_weights
from ..hub.model_folder import FinishedFolder, name_damage
from ..models.auto import head_class
from ..utils.errors import UserError
from .fused.classifier import FUSED_HEAD
from .predictor import MEMORY_LIMIT, FastRnn, TableDtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROJECTION = "2_Dense/model.safetensors"


def load_sentence_model(name_or_path: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a sentence encoder as a classifier, whose logits are its vectors before normalisation, and its tokenizer.

    Raises:
        UserError: For a folder without an encoder's projection.
    """
    name, folder = str(name_or_path), find_folder(name_or_path)
    if not (folder / PROJECTION).is_file():
        raise UserError(f"{name} has no {PROJECTION}: give an encoder of hf-rnn pretrain")
    config, tokenizer = load_without_weights(name, FinishedFolder(folder))
    with name_damage(name, PROJECTION):
        top = {
            key.replace("linear.", "classifier."): weight.float()
            for key, weight in load_file(folder / PROJECTION).items()
        }
        if not json.loads((folder / "1_Pooling" / "config.json").read_text("utf-8"))["pooling_mode_mean_tokens"]:
            raise UserError(f"{name} has another pooling than mean: load it with sentence-transformers")
    with name_damage(name, "model.safetensors"):
        encoder = {f"rnn.{key}": weight.float() for key, weight in load_file(folder / "model.safetensors").items()}
        config.pooling, config.classifier_activation = "mean", "linear"
        config.num_labels = len(top["classifier.bias"])
        config.architectures = [FUSED_HEAD]
        model = head_class(FUSED_HEAD)(config).eval()
        model.load_state_dict({**encoder, **top})
    return model, tokenizer


class SentenceEncoder:
    """The vectors of [`SentenceTransformer`] for an encoder of `hf-rnn pretrain`, through the fused path.

    Example:
        >>> encoder = SentenceEncoder.from_pretrained("encoder")
        >>> encoder.encode(["so good", "so bad"]).shape
        (2, 384)
    """

    def __init__(self, network: FastRnn) -> None:
        self._network = network

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, table_dtype: TableDtype = "float32", memory_limit: int = MEMORY_LIMIT
    ) -> SentenceEncoder:
        """Load an encoder: a folder, or a repo of the Hub; the other settings are those of [`FastRnn`].

        Raises:
            UserError: For a folder without an encoder's projection.
        """
        model, tokenizer = load_sentence_model(name_or_path)
        return cls(FastRnn(model, tokenizer, table_dtype, memory_limit))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors `(N, S)` of texts in float32, in their order."""
        with torch.inference_mode():
            return normalize(self._network.text_logits(texts), dim=-1).numpy()
