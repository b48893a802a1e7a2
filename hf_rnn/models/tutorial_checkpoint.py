"""Read a checkpoint of the tutorial's training loop.

Its network is embedding → recurrent layers → last output → ReLU → linear. Its file is a dictionary of `epoch`,
`model_state_dict` (`embedding.*`, `rnn_layer.*`, `linear_layer.*`), `optimizer_state_dict` and `loss`.
"""

from __future__ import annotations

import os
import re
from typing import Any, TypeVar

import torch

from .configuration_rnn import RnnConfig

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
    state = _read_state(path)
    layers = sum(re.fullmatch(r"rnn_layer\.weight_hh_l\d+", name) is not None for name in state)
    try:
        gate_rows, hidden_size = state["rnn_layer.weight_hh_l0"].shape
        vocab_size, embedding_size = state["embedding.weight"].shape
        classes = len(state["linear_layer.weight"])
    except KeyError as error:
        raise ValueError(f"{path}: model_state_dict lacks {error}; found {sorted(state)}") from error
    if gate_rows % hidden_size or gate_rows // hidden_size not in _GATES:
        shape = (gate_rows, hidden_size)
        raise ValueError(f"{path}: rnn_layer.weight_hh_l0 must be of an RNN, GRU or LSTM; found shape {shape}")
    found = {
        "vocab_size": vocab_size,
        "embedding_size": embedding_size,
        "cell_type": _GATES[gate_rows // hidden_size],
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "bidirectional": any(name.endswith("_reverse") for name in state),
        "pooling": "last",
        "classifier_activation": "relu",
    }
    if id2label or "label2id" not in settings:
        settings["id2label"] = id2label or {rank: f"RANK_{rank}" for rank in range(classes)}
    config = RnnConfig(**{**found, **settings})
    weights = {_rename(name): weight for name, weight in state.items()}
    weights["rnn.embedding.weight"] = weights["rnn.embedding.weight"][: config.vocab_size]
    model = kind(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its settings: {' '.join(str(error).split())}") from error
    return model.eval()


def _read_state(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    with open(path, "rb") as file:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # depending on the bytes torch raises anything, such as a KeyError for a text file
            found = f"found {type(error).__name__}; give the file that the tutorial's loop saved"
            raise ValueError(f"{path} is not a checkpoint that torch can load safely: {found}") from error
    if not isinstance(checkpoint, dict) or "model_state_dict" not in checkpoint:
        content = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path} has no 'model_state_dict', unlike a tutorial checkpoint: found {content}")
    return checkpoint["model_state_dict"]


def _rename(name: str) -> str:
    """Return the name in [`RnnForSequenceClassification`] of a weight of the tutorial's network."""
    if part := re.fullmatch(r"rnn_layer\.(\w+)_l(\d+)(_reverse)?", name):
        return f"rnn.layers.{part[2]}.directions.{int(part[3] is not None)}.cell.{part[1]}_l0"
    return name.replace("linear_layer.", "classifier.").replace("embedding.", "rnn.embedding.")
