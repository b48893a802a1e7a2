"""The architecture of a model to start from."""

from __future__ import annotations

from typing import Any

from ..hub.loading import find_folder, load_without_weights
from ..hub.model_folder import FinishedFolder
from ..models.configuration_rnn import RnnConfig
from ..utils.errors import UserError

# Settings that decide the shapes and the function of the weights; a recipe cannot change them.
ARCHITECTURE = (
    "cell_type",
    "embedding_size",
    "hidden_size",
    "num_hidden_layers",
    "bidirectional",
    "pooling",
    "classifier_activation",
)


def read_config(name_or_path: str) -> RnnConfig:
    """Return the configuration of a trained model.

    Args:
        name_or_path: A finished folder, or a repo id of the Hub.

    Raises:
        UserError: If it is not a model of this package.
    """
    return load_without_weights(name_or_path, FinishedFolder(find_folder(name_or_path)))[0]


def check_architecture(name: str, start: RnnConfig, wanted: Any) -> None:
    """Refuse settings that contradict the architecture of the model to start from.

    Args:
        name: Name of that model.
        start: Its configuration.
        wanted: Has the settings as attributes.

    Raises:
        UserError: For the first difference.
    """
    for setting in ARCHITECTURE:
        found, asked = getattr(start, setting), getattr(wanted, setting)
        if found != asked:
            raise UserError(f"{setting} of the model {name} is {found}: found {asked} in the settings; leave it out")
