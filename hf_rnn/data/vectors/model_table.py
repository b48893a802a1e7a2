"""The input embedding of any transformers model as a source of word vectors.

A word is split as the model's tokenizer splits it after another word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from ...hub.model_folder import nested_model, read_config
from ...utils.errors import UserError, reason_of

_BEFORE = "a "  # precedes a word while it is split
_BATCH = 1000  # words split at a time


@dataclass(frozen=True)
class ModelTable:
    """The input embedding of a model, float32 `(V, E)`, and its tokenizer."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    table: np.ndarray

    @classmethod
    def find(cls, folder: Path, name: str) -> Self:
        """Load the table of a model's folder, which has the files of the tokenizer too."""
        if not (folder / "config.json").is_file():
            nested = nested_model(folder)
            advice = "give the folder of a transformers model, or a file of vectors"
            raise UserError(f"{name} has no config.json: {advice if nested is None else f'did you mean {nested}?'}")
        try:
            read_config(f"the model {name}", folder)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, info = AutoModel.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
            weight = model.get_input_embeddings().weight
            key = next(key for key, parameter in model.named_parameters() if parameter is weight)
            table = weight.detach().float().numpy()
        except UserError:
            raise
        except Exception as error:  # damaged files make the libraries raise any exception
            raise UserError(f"the vectors of {name} cannot be loaded: {reason_of(error):.1000}") from error
        if key in info["missing_keys"]:
            raise UserError(f"{name} has no {key}, the model's token embedding: give another model")
        if len(table) <= (last := max(tokenizer.get_vocab().values(), default=-1)):
            raise UserError(f"{name}: {key} has {len(table):,} rows, but the tokenizer's ids need {last + 1:,}")
        return cls(name, tokenizer, table)

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
        return self.table.shape[1], {word: rows[index] for word, index in whole.items()}

    def compose(self, words: Collection[str]) -> dict[str, np.ndarray]:
        """Return for each word the mean of the vectors of its pieces; unknown words are left out."""
        split = {word: pieces for word, pieces in zip(words, self._split(list(words)), strict=True) if pieces}
        rows = self.read_rows(index for pieces in split.values() for index in pieces)
        return {word: np.mean([rows[index] for index in pieces], axis=0) for word, pieces in split.items()}

    def read_rows(self, ids: Iterable[int]) -> dict[int, np.ndarray]:
        """Return rows of the table by id, float32 `(E,)`."""
        return {index: self.table[index] for index in ids}

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
