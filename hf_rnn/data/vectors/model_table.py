"""The input table of any transformers model → vectors of words, with the tokenizer that belongs to it.

Only rows that are needed are read, from `model.safetensors`; the model itself is never built with weights. A word is
cut as the model's tokenizer cuts it where it follows another word.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from ...hub.model_folder import because_of_damage, nested_model, read_config
from ...utils.errors import UserError, reason_of
from .vector_file import Table

_WEIGHTS = "model.safetensors"
_NUMBERS = ("F16", "BF16", "F32", "F64")  # how safetensors calls what needs no scale
_BEFORE = "a "  # what a word follows while it is cut
_BATCH = 1000  # words cut at a time
_ROWS = 1024  # of the table, read at a time


@dataclass(frozen=True)
class ModelTable:
    """The table that a model looks its tokens up in.

    Attributes:
        name: What the model is called.
        tokenizer: The model's own.
        weights: The file that holds the table.
        key: Its name in that file.
        size: Numbers of a vector, E.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    weights: Path
    key: str
    size: int

    @classmethod
    def find(cls, folder: Path, name: str) -> Self:
        """Find the table in a model's folder.

        Args:
            folder: With `config.json`, `model.safetensors` and the files of the tokenizer.
            name: What the model is called.

        Raises:
            UserError: When a part is missing or cannot be loaded.
        """
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
        except Exception as error:  # files that others wrote make the libraries raise anything, `Exception` itself too
            because = because_of_damage(folder)
            raise UserError(f"the vectors of {name} cannot be loaded{because}: {reason_of(error):.1000}") from error
        if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
            raise UserError(f"{name} has a tokenizer without a word: put its files into the folder, or give its own")
        rows = max(tokenizer.get_vocab().values(), default=-1) + 1
        if len(shape) != 2 or shape[0] < rows:
            raise UserError(f"{name}: {key} has shape {tuple(shape)}, and the tokenizer's ids need {rows:,} rows")
        return cls(name, tokenizer, weights, key, shape[1])

    def first_words(self, limit: int) -> list[str]:
        """Return the first whole words of the vocabulary, at most so many, in the order of their ids."""
        return list(islice(self._whole_words(), limit))

    def _whole_words(self) -> Iterator[str]:
        special = set(self.tokenizer.all_special_ids)
        ordered = sorted(set(self.tokenizer.get_vocab().values()) - special)  # they may have gaps
        for first in range(0, len(ordered), _BATCH):
            ids = ordered[first : first + _BATCH]
            tokens = self.tokenizer.convert_ids_to_tokens(ids)
            words = [self.tokenizer.convert_tokens_to_string([token]).strip() for token in tokens]
            for index, word, pieces in zip(ids, words, self._cut(words), strict=True):
                if word and pieces == [index]:
                    yield word

    def read(self, wanted: Collection[str]) -> Table:
        """Return the vectors of those of the words that are one piece to the model's tokenizer."""
        words = list(wanted)
        whole = {word: pieces[0] for word, pieces in zip(words, self._cut(words), strict=True) if len(pieces) == 1}
        rows = self.read_rows(whole.values())
        return Table(self.size, {word: rows[index] for word, index in whole.items()})

    def compose(self, words: Collection[str]) -> dict[str, np.ndarray]:
        """Return for each word the mean of the vectors of its pieces; unknown words are left out."""
        cut = {word: pieces for word, pieces in zip(words, self._cut(list(words)), strict=True) if pieces}
        rows = self.read_rows(index for pieces in cut.values() for index in pieces)
        return {word: np.mean([rows[index] for index in pieces], axis=0) for word, pieces in cut.items()}

    def read_rows(self, ids: Any) -> dict[int, np.ndarray]:
        """Return rows of the table by id, float32 `(E,)`.

        Raises:
            UserError: When one holds a number that is not finite.
        """
        rows = {}
        wanted = sorted(set(ids))
        with safe_open(self.weights, framework="pt") as file:
            table = file.get_slice(self.key)
            for first, places in groupby(wanted, lambda index: index - index % _ROWS):
                block = table[first : first + _ROWS].float().numpy()
                for index in places:
                    rows[index] = block[index - first].copy()
        for index, row in rows.items():
            if not np.isfinite(row).all():
                raise UserError(f"{self.name}: row {index} of {self.key} holds a number that is not finite")
        return rows

    def _cut(self, words: Sequence[str]) -> list[list[int]]:
        """Cut words into the ids of their pieces; a word that is unknown in part has none."""
        cut = []
        for first in range(0, len(words), _BATCH):
            batch = words[first : first + _BATCH]
            if self.tokenizer.is_fast:
                encoded = self.tokenizer(
                    [_BEFORE + word for word in batch], add_special_tokens=False, return_offsets_mapping=True
                )
                for ids, places in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                    cut.append([index for index, (_, end) in zip(ids, places, strict=True) if end > len(_BEFORE)])
            else:
                cut += [self.tokenizer.encode(word, add_special_tokens=False) for word in batch]
        special = set(self.tokenizer.all_special_ids)
        return [[] if special & set(pieces) else pieces for pieces in cut]


def _find_weight(folder: Path, own: str) -> tuple[Path, str, list[int]]:
    """Return the file that holds a weight, its name there, which may have the parts of a head before it, and shape."""
    shards = folder / f"{_WEIGHTS}.index.json"
    if shards.is_file():
        files = json.loads(shards.read_text(encoding="utf-8"))["weight_map"]
    elif (folder / _WEIGHTS).is_file():
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            files = dict.fromkeys(file.keys(), _WEIGHTS)
    else:
        raise UserError(f"{folder} has no {_WEIGHTS}, the only form in which weights are read here")
    named = [key for key in files if key == own or key.endswith(f".{own}")]
    if not named:
        raise UserError(f"{folder}: {_WEIGHTS} has no {own}, the model's table of tokens")
    key = min(named, key=len)
    try:
        with safe_open(folder / files[key], framework="pt") as file:
            stored = file.get_slice(key)
            if (dtype := stored.get_dtype()) not in _NUMBERS:
                raise UserError(f"{folder}: {key} is quantised ({dtype}): give the model as it was before")
            return folder / files[key], key, stored.get_shape()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / files[key]} cannot be read: {error}") from error
