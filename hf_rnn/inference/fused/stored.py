"""Read a saved classifier for fusing without `PreTrainedModel`, whose import takes longer than that of torch."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.activations import ACT2FN

from ...hub.model_folder import FinishedFolder
from ...models.cells_rnn import RnnLayer
from ...models.configuration_rnn import RnnConfig
from ...models.pooling_rnn import POOLERS


class StoredClassifier(nn.Module):
    """The modules of [`RnnForSequenceClassification`] that fusing reads; it has no forward."""

    device = torch.device("cpu")

    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.embedding_size] + [config.output_size] * (config.num_hidden_layers - 1)
        self.rnn: Any = nn.Module()
        self.rnn.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn.layers = nn.ModuleList(RnnLayer(config, size) for size in sizes)
        self.pooler: Any = POOLERS[config.pooling](config)
        self.activation = ACT2FN[config.classifier_activation]
        self.classifier = nn.Linear(self.pooler.output_size, config.num_labels)


def read_stored(folder: FinishedFolder, config: RnnConfig) -> StoredClassifier | None:
    """Return a saved classifier that can be fused, in float32 and evaluation mode.

    It is None where `config` or the files ask for the plain model, which also names a damage.
    """
    if (folder.root / "adapter_config.json").is_file() or config.num_hidden_layers > 1000:
        return None
    with torch.device("meta"):
        model = StoredClassifier(config)
    weights = {name: weight for path in folder.weight_files() for name, weight in load_file(path).items()}
    try:
        model.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    except RuntimeError:  # names or shapes that do not belong together
        return None
    return model.eval().requires_grad_(False)
