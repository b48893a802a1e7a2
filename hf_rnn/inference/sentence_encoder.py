"""`SentenceEncoder`: texts → the sentence vectors of a pretrained encoder, as fast as a CPU allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..hub.model_folder import FinishedFolder, find_folder, load_without_weights, name_damage
from ..models.auto import head_class
from ..utils.errors import UserError
from .engines import InferenceOptions, Precision
from .engines.native import read_file, read_stored, read_weights
from .native.network import CLASSIFIER, to_float
from .predictor import FastRnn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..tasks.base import Config

PROJECTION = "2_Dense/model.safetensors"


def load_sentence_model(name_or_path: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a sentence encoder as a classifier, whose logits are its vectors before normalisation, and its tokenizer.

    Raises:
        UserError: For a folder without an encoder's projection.
    """
    import torch

    name, folder = str(name_or_path), FinishedFolder(find_folder(name_or_path))
    config, tokenizer = load_without_weights(name, folder)
    with name_damage(name, "model.safetensors"):
        weights = _read_encoder(name, folder, config)
        model = head_class(CLASSIFIER)(config).eval()
        model.load_state_dict({key: torch.tensor(to_float(weight)) for key, weight in weights.items()})
    return model, tokenizer


def _read_encoder(name: str, folder: FinishedFolder, config: Config) -> dict[str, np.ndarray]:
    """Return the weights of an encoder as those of a classifier, and set its head in `config`."""
    projection = folder.root / PROJECTION
    if not projection.is_file():
        raise UserError(f"{name} has no {PROJECTION}: give an encoder of hf-rnn pretrain")
    with name_damage(name, PROJECTION):
        top = {key.replace("linear.", "classifier."): weight for key, weight in read_file(projection).items()}
        pooling = json.loads((folder.root / "1_Pooling" / "config.json").read_text("utf-8"))
        if not (pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean"):  # old, new layout
            raise UserError(f"{name} has another pooling than mean: load it with sentence-transformers")
    config.pooling, config.classifier_activation, config.token_ngrams = "mean", "linear", 0
    config.num_labels, config.architectures = len(top["classifier.bias"]), [CLASSIFIER]
    return {**{f"rnn.{key}": weight for key, weight in read_weights(folder).items()}, **top}


class SentenceEncoder:
    """The vectors of `SentenceTransformer` for an encoder of `hf-rnn pretrain`, without torch.

    Example:
        >>> encoder = SentenceEncoder.from_pretrained("encoder")
        >>> encoder.encode(["so good", "so bad"]).shape
        (2, 384)
    """

    def __init__(self, network: FastRnn) -> None:
        self._network = network

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, precision: Precision = "float32") -> SentenceEncoder:
        """Load an encoder: a folder, or a repo of the Hub; `precision` is as in [`FastRnn`].

        Raises:
            UserError: For a folder without an encoder's projection.
        """
        name, folder = str(name_or_path), FinishedFolder(find_folder(name_or_path))
        stored = read_stored(name, folder, InferenceOptions(precision=precision), _read_encoder)
        model, tokenizer = stored or load_sentence_model(name_or_path)
        return cls(FastRnn(model, tokenizer, precision))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors `(N, S)` of texts in float32, in their order."""
        vectors = self._network.text_logits(texts)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
