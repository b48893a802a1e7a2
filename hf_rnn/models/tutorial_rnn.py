"""Read the checkpoint that the tutorial's training loop saves.

Its network is embedding → recurrent layers → last output → ReLU → linear; its file is a dictionary of `epoch`,
`model_state_dict` (`embedding.*`, `rnn_layer.*`, `linear_layer.*`), `optimizer_state_dict` and `loss`.
"""

import os
import re
from typing import Any

import torch

_GATES = {1: "rnn_tanh", 3: "gru", 4: "lstm"}
_MATRICES = ("embedding.weight", "rnn_layer.weight_hh_l0", "linear_layer.weight")  # of which sizes are read off


def read_tutorial_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Settings and weights of a tutorial checkpoint.

    Args:
        path (`str` or `os.PathLike`): The file; read with `weights_only=True`, so no code in it runs.

    Returns:
        Fields of `RnnConfig` that the weights tell, and the state dict of `RnnForSequenceClassification`.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is not such a checkpoint; the message names the file.
    """
    with open(path, "rb") as file:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # by the bytes that it meets torch raises anything, of a text file a KeyError
            raise ValueError(
                f"{path} is not a checkpoint that torch can load safely (weights_only=True), as what the tutorial's "
                f"loop saved is: {type(error).__name__}"
            ) from error
    state = checkpoint.get("model_state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path} has no 'model_state_dict', as a tutorial checkpoint does; found {found}")
    if not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()):
        raise ValueError(f"{path}: model_state_dict holds more than tensors by name")
    layers = sum(re.fullmatch(r"rnn_layer\.weight_hh_l\d+", name) is not None for name in state)
    bidirectional = any(name.endswith("_reverse") for name in state)
    names = _list_names(max(layers, 1), bidirectional)
    if missing := names.keys() - state.keys():
        raise ValueError(f"{path}: model_state_dict lacks {sorted(missing)}; it holds {sorted(state)}")
    if others := sorted(state.keys() - names.keys()):
        raise ValueError(f"{path}: model_state_dict holds {others[0]!r}, which the tutorial's network does not have")
    for name in _MATRICES:
        if state[name].ndim != 2 or not state[name].numel():
            raise ValueError(f"{path}: {name} of shape {tuple(state[name].shape)} is no matrix of weights")

    gate_rows, hidden_size = state["rnn_layer.weight_hh_l0"].shape
    if gate_rows % hidden_size or gate_rows // hidden_size not in _GATES:
        raise ValueError(
            f"{path}: rnn_layer.weight_hh_l0 of shape {(gate_rows, hidden_size)} belongs to no RNN, GRU or LSTM"
        )
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
    """The weights of the tutorial's network, and what they are called in `RnnForSequenceClassification`."""
    names = {f"linear_layer.{kind}": f"classifier.{kind}" for kind in ("weight", "bias")}
    names["embedding.weight"] = "rnn.embedding.weight"
    for layer in range(layers):
        for direction, ending in enumerate(("", "_reverse")[: 1 + bidirectional]):
            cell = f"rnn.layers.{layer}.directions.{direction}.cell"
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                names[f"rnn_layer.{part}_l{layer}{ending}"] = f"{cell}.{part}_l0"
    return names
