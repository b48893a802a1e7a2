"""Read the checkpoint that the tutorial's training loop saves.

Its network is embedding → recurrent layers → last output → ReLU → linear; its file is a dictionary of `epoch`,
`model_state_dict` (`embedding.*`, `rnn_layer.*`, `linear_layer.*`), `optimizer_state_dict` and `loss`.
"""

import os
import pickle
import re
from typing import Any

import torch

_GATES = {1: "rnn_tanh", 3: "gru", 4: "lstm"}


def read_tutorial_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Settings and weights of a tutorial checkpoint.

    Args:
        path (`str` or `os.PathLike`): The file; read with `weights_only=True`, so no code in it runs.

    Returns:
        Fields of `RnnConfig` that the weights tell, and the state dict of `RnnForSequenceClassification`.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is not such a checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is not a checkpoint that torch can load safely (weights_only=True): {error}"
        ) from error
    state = checkpoint.get("model_state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path} has no 'model_state_dict', as a tutorial checkpoint does; found {found}")
    needed = {"embedding.weight", "rnn_layer.weight_ih_l0", "rnn_layer.weight_hh_l0", "linear_layer.weight"}
    if missing := needed - set(state):
        raise ValueError(f"{path}: model_state_dict lacks {sorted(missing)}; it holds {sorted(state)}")

    weights, layers = {}, 0
    for name, tensor in state.items():
        if match := re.fullmatch(r"rnn_layer\.(weight|bias)_(ih|hh)_l(\d+)(_reverse)?", name):
            kind, side, layer, backward = match.groups()
            layers = max(layers, int(layer) + 1)
            weights[f"rnn.layers.{layer}.directions.{int(bool(backward))}.cell.{kind}_{side}_l0"] = tensor
        elif name == "embedding.weight":
            weights["rnn.embedding.weight"] = tensor
        elif name in ("linear_layer.weight", "linear_layer.bias"):
            weights[name.replace("linear_layer", "classifier")] = tensor
        else:
            raise ValueError(f"{path}: model_state_dict holds {name!r}, which the tutorial's network does not have")
    gate_rows, hidden_size = state["rnn_layer.weight_hh_l0"].shape
    if gate_rows // hidden_size not in _GATES:
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
        "bidirectional": any(name.endswith("_reverse") for name in state),
        "pooling": "last",
        "classifier_activation": "relu",
        "num_labels": state["linear_layer.weight"].shape[0],
    }
    return settings, weights
