"""A trained model as the start of a training: its architecture, its tokenizer and its weights.

How it was trained is not taken over: that is what a recipe is for. Nor is a correction of the shares of its classes
(`target_prior`): training goes by the shares of its own rows, and a new correction would come on top.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedTokenizerBase

from ..hub.loading import find_folder, load_model, load_without_weights
from ..hub.model_folder import FinishedFolder, read_mapping
from ..models.configuration_rnn import RnnConfig
from ..models.modeling_rnn import RnnForSequenceClassification
from ..utils.errors import UserError

logger = logging.getLogger(__name__)

# What decides which weights there are and what they compute; the other settings are of training.
ARCHITECTURE = (
    "cell_type",
    "embedding_size",
    "hidden_size",
    "num_hidden_layers",
    "bidirectional",
    "pooling",
    "classifier_activation",
)
_CLASSIFIER = ("classifier.weight", "classifier.bias")


def read_config(name_or_path: str) -> RnnConfig:
    """Return the configuration of a trained model.

    Args:
        name_or_path: A finished folder, or a repo id of the Hub.

    Raises:
        UserError: When there is none, or it is no model of this package.
    """
    return load_without_weights(name_or_path, FinishedFolder(find_folder(name_or_path)))[0]


def check_architecture(name: str, start: RnnConfig, wanted: Any) -> None:
    """Refuse settings of another architecture than that of the model that is to be the start.

    Args:
        name: Of that model, for the message.
        start: Its configuration.
        wanted: Has the settings as attributes.

    Raises:
        UserError: For the first that differs.
    """
    for setting in ARCHITECTURE:
        found, asked = getattr(start, setting), getattr(wanted, setting)
        if found != asked:
            raise UserError(
                f"{setting} is {asked}, and {found} in the model {name}, which is to be the start: leave {setting} out"
            )


@dataclass(frozen=True)
class StartingModel:
    """A model to go on from.

    Attributes:
        name: A folder, or a repo id of the Hub.
        model: On the CPU.
        tokenizer: Its own.
        shift: What a correction of shares added to the logit of each class, by name; empty where there was none.
    """

    name: str
    model: RnnForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    shift: Mapping[str, float]

    @classmethod
    def load(cls, name_or_path: str, max_length: int | None) -> Self:
        """Load all of it.

        Args:
            name_or_path: A finished folder, or a repo id of the Hub.
            max_length: Tokens that are read of a text from now on; None leaves it as it is.

        Raises:
            UserError: When it is no whole model of this package.
        """
        folder = find_folder(name_or_path)
        # a folder of the cache is named after the commit: all is of one, whatever is pushed meanwhile
        model, tokenizer = load_model(name_or_path, None if Path(name_or_path).expanduser().is_dir() else folder.name)
        shift = _read_shift(FinishedFolder(folder), model.config)
        if max_length is not None:
            tokenizer.model_max_length = max_length
        return cls(name_or_path, model, tokenizer, shift)

    def keeps_classifier(self, config: RnnConfig) -> bool:
        """Whether the last layer serves a new model too: whether the classes have the same names, in any order."""
        own = self.model.config
        one_label = own.problem_type in (None, "single_label_classification")
        return one_label and set(own.label2id) == set(config.label2id)

    @torch.no_grad()
    def put_into(self, model: RnnForSequenceClassification) -> None:
        """Give a new model these weights; its last layer keeps its own where the classes are others.

        Args:
            model: With this tokenizer's vocabulary.

        Raises:
            UserError: When it has another architecture.
        """
        own, new = self.model.config, model.config
        check_architecture(self.name, own, new)
        weights = dict(self.model.state_dict())
        if self.keeps_classifier(new):
            rows = [own.label2id[new.id2label[number]] for number in range(new.num_labels)]
            weights |= {name: weights[name][rows] for name in _CLASSIFIER}
            if self.shift:
                logger.info("the correction of shares (target_prior) of %s is taken out of its weights", self.name)
                shift = [self.shift[new.id2label[number]] for number in range(new.num_labels)]
                bias = weights["classifier.bias"].double()
                weights["classifier.bias"] = bias - torch.tensor(shift, dtype=torch.float64)
        else:
            weights |= {name: model.state_dict()[name] for name in _CLASSIFIER}
            logger.info(
                "the classes %s are not those of %s (%s): the last layer starts anew",
                ", ".join(new.label2id),
                self.name,
                ", ".join(own.label2id),
            )
        model.load_state_dict(weights)

    def describe(self, config: RnnConfig) -> dict[str, Any]:
        """Return for a card the `name` it is known by and, of a model on the Hub, its `id`; and `keeps_classifier`.

        Args:
            config: Of the model that starts from it.
        """
        local = Path(self.name).exists()
        shown = Path(self.name).resolve().name if local else self.name
        return {"name": shown, "id": None if local else shown, "keeps_classifier": self.keeps_classifier(config)}

    def fingerprint(self) -> str:
        """Return a hash of the weights and of the names of the classes."""
        digest = hashlib.sha256(repr(sorted(self.model.config.label2id.items())).encode())
        if self.shift:
            digest.update(repr(sorted(self.shift.items())).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            digest.update(weight.contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()


def _read_shift(folder: FinishedFolder, config: RnnConfig) -> dict[str, float]:
    """What a calibration with `target_prior` left in the biases, as `metrics.json` tells."""
    if not folder.metrics.is_file():
        return {}
    calibration = read_mapping(folder.metrics, folder.metrics.read_bytes()).get("calibration")
    shift = calibration.get("shift") if isinstance(calibration, Mapping) else None
    if shift is None:
        return {}
    whole = isinstance(shift, Mapping) and set(shift) == set(config.label2id)
    if not whole or not all(isinstance(number, float) and math.isfinite(number) for number in shift.values()):
        raise UserError(f"{folder.metrics}: calibration.shift must hold a number for each class, found {shift!r:.200}")
    return dict(shift)
