"""The weights that a training run starts from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.errors import shorten
from ..hub.model_folder import find_built_in, load_model
from ..models.auto import ENCODER, head_name

logger = logging.getLogger(__name__)

# prefixes of the weights that have a row per label
OUTPUT_LAYERS = ("classifier.", "lm_head.")


class WarmStart:
    """The weights of an encoder, or of a model with any head, to start from.

    The encoder always keeps its weights. A head of the same class does too; its output layer keeps
    the rows of labels with the same name. Everything else starts at random.
    """

    def __init__(self, name_or_path: str) -> None:
        self.name = name_or_path
        self.model, self.tokenizer = load_model(name_or_path, allow_encoder=True)

    def match_labels(self, model: PreTrainedModel) -> dict[int, int]:
        """Return the numbers in the start of the labels whose weights a new model can keep.

        The keys are the numbers of the labels in the new model.
        """
        old = self.model.config
        new = model.config
        same_inputs = (old.sep_token_id is None) == (new.sep_token_id is None)
        one_label = old.problem_type in (None, "single_label_classification")
        if not one_label or type(self.model) is not type(model) or not same_inputs:
            return {}
        return {
            number: old.label2id[name]
            for number, name in new.id2label.items()
            if name in old.label2id
        }

    @torch.no_grad()
    def copy_weights(self, new: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Copy the weights to a new model with a tokenizer."""
        weights = self.model.base_model.state_dict()
        weights["embedding.weight"] = self._fit_table(tokenizer, new.config.vocab_size)
        new.base_model.load_state_dict(weights)
        if type(self.model) is type(new):
            self._copy_head(new)

        config = self.model.config
        head = head_name(config)
        logger.info(
            "starting from %s: %s (%s, layers: %d, units: %d)",
            self.name,
            "an encoder" if head == ENCODER else head,
            config.cell_type,
            config.num_hidden_layers,
            config.hidden_size,
        )

    def _fit_table(self, tokenizer: PreTrainedTokenizerBase, size: int) -> torch.Tensor:
        """Return the table for a tokenizer, (size, E); a new token has the mean of the table."""
        table = self.model.get_input_embeddings().weight
        places = self.tokenizer.get_vocab()
        rows = list(range(size))
        for token, index in tokenizer.get_vocab().items():
            # spare rows behind the tokens of the start keep their place
            absent = index if index >= len(places) else len(table)
            rows[index] = places.get(token, absent)
        rows = [min(row, len(table)) for row in rows]
        return torch.cat([table, table.mean(dim=0, keepdim=True)])[rows]

    def _copy_head(self, new: PreTrainedModel) -> None:
        numbers = self.match_labels(new)
        absent = _list_new_labels(new, numbers)
        if absent:
            logger.info(
                "labels %s are not among those of %s (%s): their output weights start at random",
                shorten(absent),
                self.name,
                shorten(list(self.model.config.label2id)),
            )
        before = self.model.state_dict()
        after = new.state_dict()
        for name in before.keys() & after.keys():
            if name.startswith(OUTPUT_LAYERS):
                after[name][list(numbers)] = before[name][list(numbers.values())]
            elif not name.startswith((f"{new.base_model_prefix}.", "ngrams.")):
                after[name].copy_(before[name])

    def describe(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return what the card says of the start.

        The Hub id is None for a folder. A model that keeps the rows of some labels names the
        others.
        """
        is_local = find_built_in(self.name) is not None or Path(self.name).exists()
        name = Path(self.name).resolve().name if is_local else self.name
        numbers = self.match_labels(model)
        absent = _list_new_labels(model, numbers)
        facts: dict[str, Any] = {
            "name": name,
            "id": None if is_local else name,
            "keeps_classifier": not absent,
        }
        if absent and numbers:
            facts["new_labels"] = absent
        return facts


def _list_new_labels(model: PreTrainedModel, numbers: dict[int, int]) -> list[str]:
    return [name for number, name in model.config.id2label.items() if number not in numbers]
