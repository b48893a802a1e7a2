"""Read a saved classifier for fusing without `PreTrainedModel`, whose import takes longer than that of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ...hub.model_folder import FinishedFolder
from ...models.blocks_rnn import ResidualBlock, TokenProjection
from ...models.cells_rnn import RnnLayer
from ...models.configuration_rnn import RnnConfig
from ...models.pooling_rnn import find_pooler
from .classifier import FUSED_HEAD, find_unsupported_setting

# As transformers has them, whose module of activations takes long to import.
_ACTIVATIONS = {"linear": nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
_MOST_LAYERS = 100  # more take long to create, and are a damage


class StoredClassifier(nn.Module):
    """The modules of [`RnnForSequenceClassification`] that fusing reads; it has no forward."""

    device = torch.device("cpu")

    def __init__(self, config: RnnConfig, folder: Path, embedding: torch.Tensor) -> None:
        super().__init__()
        self.config, self.folder = config, folder
        sizes = [config.embedding_size] + [config.output_size] * (config.num_hidden_layers - 1)
        self.rnn: Any = nn.Module()
        self.rnn.embedding = nn.Embedding.from_pretrained(embedding)
        if config.block_type == "residual":
            self.rnn.projection = TokenProjection(config)
            self.rnn.norm = nn.LayerNorm(config.stream_size, eps=config.layer_norm_eps)
            self.rnn.layers = nn.ModuleList(ResidualBlock(config) for _ in sizes)
        else:
            self.rnn.layers = nn.ModuleList(RnnLayer(config, size) for size in sizes)
        self.pooler: Any = find_pooler(config)(config)
        self.activation = _ACTIVATIONS[config.classifier_activation]()
        self.classifier = nn.Linear(self.pooler.output_size, config.num_labels)


def read_stored(folder: FinishedFolder, config: RnnConfig) -> StoredClassifier | None:
    """Return a saved classifier that can be fused, in float32 and evaluation mode.

    It is None where `config` or the files ask for the plain model, whose loading names any damage.
    """
    is_other = config.architectures not in (None, [FUSED_HEAD]) or (folder.root / "adapter_config.json").is_file()
    if is_other or config.num_hidden_layers > _MOST_LAYERS or find_unsupported_setting(config) is not None:
        return None
    try:
        weights = {name: weight.float() for path in folder.weight_files() for name, weight in load_file(path).items()}
        embedding = weights["rnn.embedding.weight"]
        if embedding.shape != (config.vocab_size, config.embedding_size):
            return None
        with torch.random.fork_rng(devices=[]):  # new modules draw weights, which a device without memory makes slow
            model = StoredClassifier(config, folder.root, embedding)
        model.load_state_dict(weights, assign=True)
    except (KeyError, RuntimeError, OSError, SafetensorError):
        return None
    if not all(weight.isfinite().all() for weight in model.parameters()):
        return None
    return model.eval().requires_grad_(False)
