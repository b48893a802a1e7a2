"""The input embedding of any transformers model as a source of word vectors.

Only the table is read, from `model.safetensors`. A word is split as the model's tokenizer splits it after
another word.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from ...hub.model_folder import nested_model, read_config
from ...utils.errors import UserError, reason_of

_WEIGHTS = "model.safetensors"
_DTYPES = ("F16", "BF16", "F32", "F64")  # weights that are not quantised
_BEFORE = "a "  # precedes a word while it is split
_BATCH = 1000  # words split at a time


@dataclass(frozen=True)
class ModelTable:
    """The input embedding of a model: tensor `key` of the file `weights`, with `size` numbers (E) per vector."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    weights: Path
    key: str
    size: int

    @classmethod
    def find(cls, folder: Path, name: str) -> Self:
        """Find the table in a model's folder, which has the files of the tokenizer too."""
        if not (folder / "config.json").is_file():
            nested = nested_model(folder)
            advice = "give the folder of a transformers model, or a file of vectors"
            raise UserError(f"{name} has no config.json: {advice if nested is None else f'did you mean {nested}?'}")
        try:
            config = read_config(f"the model {name}", folder)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            with torch.device("meta"):
                model = AutoModel.from_config(config, trust_remote_code=False)
            table = model.get_input_embeddings().weight
            own = next(key for key, weight in model.named_parameters() if weight is table)
            weights, key, shape = _find_weight(folder, own)
        except UserError:
            raise
        except Exception as error:  # damaged files make the libraries raise any exception
            raise UserError(f"the vectors of {name} cannot be loaded: {reason_of(error):.1000}") from error
        rows = max(tokenizer.get_vocab().values(), default=-1) + 1
        if len(shape) != 2 or shape[0] < rows:
            raise UserError(f"{name}: {key} has shape {tuple(shape)}, but the tokenizer's ids need {rows:,} rows")
        return cls(name, tokenizer, weights, key, shape[1])

    def first_words(self, limit: int) -> list[str]:
        """Return the first whole words of the vocabulary, in the order of their ids."""
        special = set(self.tokenizer.all_special_ids)
        ordered = sorted(set(self.tokenizer.get_vocab().values()) - special)
        found: list[str] = []
        for first in range(0, len(ordered), _BATCH):
            ids = ordered[first : first + _BATCH]
            tokens = self.tokenizer.convert_ids_to_tokens(ids)
            words = [self.tokenizer.convert_tokens_to_string([token]).strip() for token in tokens]
            pieces = self._split(words)
            found += [word for index, word in enumerate(words) if word and pieces[index] == [ids[index]]]
            if len(found) >= limit:
                break
        return found[:limit]

    def read(self, wanted: Collection[str]) -> tuple[int, dict[str, np.ndarray]]:
        """Return the size of the vectors, and those of the words that are one piece to the model's tokenizer."""
        words = list(wanted)
        whole = {word: pieces[0] for word, pieces in zip(words, self._split(words), strict=True) if len(pieces) == 1}
        rows = self.read_rows(whole.values())
        return self.size, {word: rows[index] for word, index in whole.items()}

    def compose(self, words: Collection[str]) -> dict[str, np.ndarray]:
        """Return for each word the mean of the vectors of its pieces; unknown words are left out."""
        split = {word: pieces for word, pieces in zip(words, self._split(list(words)), strict=True) if pieces}
        rows = self.read_rows(index for pieces in split.values() for index in pieces)
        return {word: np.mean([rows[index] for index in pieces], axis=0) for word, pieces in split.items()}

    def read_rows(self, ids: Iterable[int]) -> dict[int, np.ndarray]:
        """Return rows of the table by id, float32 `(E,)`."""
        wanted = sorted(set(ids))
        with safe_open(self.weights, framework="pt") as file:
            rows = file.get_tensor(self.key)[wanted].float().numpy()
        return dict(zip(wanted, rows, strict=True))

    def _split(self, words: Sequence[str]) -> list[list[int]]:
        """Return the ids of the pieces of each word; none if a piece is unknown."""
        split = []
        for first in range(0, len(words), _BATCH):
            batch = words[first : first + _BATCH]
            if not self.tokenizer.is_fast:
                split += [self.tokenizer.encode(word, add_special_tokens=False) for word in batch]
                continue
            texts = [_BEFORE + word for word in batch]
            encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
            for ids, places in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                split.append([index for index, (_, end) in zip(ids, places, strict=True) if end > len(_BEFORE)])
        special = set(self.tokenizer.all_special_ids)
        return [[] if special & set(pieces) else pieces for pieces in split]


def _find_weight(folder: Path, own: str) -> tuple[Path, str, list[int]]:
    """Return the file that contains a weight, its name there, which may have a prefix, and its shape."""
    shards = folder / f"{_WEIGHTS}.index.json"
    if shards.is_file():
        files = json.loads(shards.read_text(encoding="utf-8"))["weight_map"]
    elif (folder / _WEIGHTS).is_file():
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            files = dict.fromkeys(file.keys(), _WEIGHTS)
    else:
        raise UserError(f"{folder} has no {_WEIGHTS}: save the model in this format")
    named = [key for key in files if key == own or key.endswith(f".{own}")]
    if not named:
        raise UserError(f"{folder}: {_WEIGHTS} has no {own}, the model's token embedding")
    key = min(named, key=len)
    with safe_open(folder / files[key], framework="pt") as file:
        stored = file.get_slice(key)
        if (dtype := stored.get_dtype()) not in _DTYPES:
            raise UserError(f"{folder}: {key} is quantised ({dtype}): give the model without quantisation")
        return folder / files[key], key, stored.get_shape()
