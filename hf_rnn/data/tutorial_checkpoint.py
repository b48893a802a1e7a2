"""Read a checkpoint of the tutorial's training loop.

Its network is embedding → recurrent layers → last output → ReLU → linear. Its file is a dictionary of `epoch`,
`model_state_dict` (`embedding.*`, `rnn_layer.*`, `linear_layer.*`), `optimizer_state_dict` and `loss`.
"""

from __future__ import annotations

import os
import re
from typing import Any, TypeVar

import torch

from ..models.configuration_rnn import RnnConfig

Model = TypeVar("Model", bound=torch.nn.Module)

_GATES = {1: "rnn_tanh", 3: "gru", 4: "lstm"}


def load_tutorial_checkpoint(
    kind: type[Model], path: str | os.PathLike, id2label: dict[int, str] | None = None, **settings: Any
) -> Model:
    """Build the model of a checkpoint saved by the tutorial's training loop.

    Sizes and cell are read from the weights. A bidirectional network pools the last states of both directions, torch's
    h_n.

    - Vocabulary: not in the file. Train the tokenizer on the same texts, `train_tokenizer(texts, min_frequency=3)`.
      The embedding may have a few rows more, such as 3,333 for 3,330 words: each look-up of an unknown word in
      torchtext's dictionary added it, with the id of `<unk>`, so no id reaches the rows at the end.
      `vocab_size=len(tokenizer)` drops them.
    - Labels: not in the file. torchtext numbered the classes by their frequency in the training rows, so they are
      called `RANK_0` (the most frequent), `RANK_1`, ... unless `id2label` names them: `{0: "1", 1: "0", 2: "2"}` for
      the tutorial's tweets, where 1 (positive) is the most frequent.

    Args:
        kind: [`RnnForSequenceClassification`] or a subclass.
        path: A dictionary with `model_state_dict`; read with `weights_only=True`, so that no code in it runs.
        id2label: Class names by id, the most frequent training label first.
        settings: Further fields of [`RnnConfig`] that the weights do not determine, such as `cell_type="rnn_relu"`.

    Raises:
        ValueError: When the file is not such a checkpoint, or its weights do not fit `settings`.
    """
    found, weights = read_tutorial_checkpoint(path)
    classes = found.pop("num_labels")
    if id2label or "label2id" not in settings:
        settings["id2label"] = id2label or {rank: f"RANK_{rank}" for rank in range(classes)}
    config = RnnConfig(**{**found, **settings})
    weights["rnn.embedding.weight"] = weights["rnn.embedding.weight"][: config.vocab_size]
    model = kind(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its settings: {' '.join(str(error).split())}") from error
    return model.eval()


def read_tutorial_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the settings that the weights determine, and the state dict of [`RnnForSequenceClassification`]."""
    with open(path, "rb") as file:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # depending on the bytes torch raises anything, such as a KeyError for a text file
            found = f"found {type(error).__name__}; give the file that the tutorial's loop saved"
            raise ValueError(f"{path} is not a checkpoint that torch can load safely: {found}") from error
    state = checkpoint.get("model_state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        content = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path} has no 'model_state_dict', unlike a tutorial checkpoint: found {content}")
    layers = sum(re.fullmatch(r"rnn_layer\.weight_hh_l\d+", name) is not None for name in state)
    bidirectional = any(name.endswith("_reverse") for name in state)
    names = _list_names(max(layers, 1), bidirectional)
    if missing := names.keys() - state.keys():
        raise ValueError(f"{path}: model_state_dict lacks {sorted(missing)}; found {sorted(state)}")
    if unknown := sorted(state.keys() - names.keys()):
        raise ValueError(f"{path}: model_state_dict holds {unknown[0]!r}, which the tutorial's network does not have")
    gate_rows, hidden_size = state["rnn_layer.weight_hh_l0"].shape
    if gate_rows % hidden_size or gate_rows // hidden_size not in _GATES:
        shape = (gate_rows, hidden_size)
        raise ValueError(f"{path}: rnn_layer.weight_hh_l0 must be of an RNN, GRU or LSTM; found shape {shape}")
    vocab_size, embedding_size = state["embedding.weight"].shape
    settings = {
        "vocab_size": vocab_size,
        "embedding_size": embedding_size,
        "cell_type": _GATES[gate_rows // hidden_size],
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "bidirectional": bidirectional,
        "pooling": "last",
        "classifier_activation": "relu",
        "num_labels": state["linear_layer.weight"].shape[0],
    }
    return settings, {ours: state[name] for name, ours in names.items()}


def _list_names(layers: int, bidirectional: bool) -> dict[str, str]:
    """Map the weights of the tutorial's network to their names in [`RnnForSequenceClassification`]."""
    names = {f"linear_layer.{kind}": f"classifier.{kind}" for kind in ("weight", "bias")}
    names["embedding.weight"] = "rnn.embedding.weight"
    for layer in range(layers):
        for direction, ending in enumerate(("", "_reverse")[: 1 + bidirectional]):
            cell = f"rnn.layers.{layer}.directions.{direction}.cell"
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                names[f"rnn_layer.{part}_l{layer}{ending}"] = f"{cell}.{part}_l0"
    return names
