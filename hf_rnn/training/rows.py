"""The training rows of an epoch: some are mistyped, and long ones are cut."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import datasets
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.typos import mistype_row
from .prepare import Run


class EpochRows(Dataset):
    """Training rows as an epoch reads them, drawn by seed, epoch and row.

    So a resumed run has the same rows. All rows were encoded once; those that are mistyped are
    encoded again when a batch needs them. A text with more than `window` tokens is cut to that
    many, from a random place; 0 cuts nothing. Rows behind those of `run` are never mistyped.
    """

    epoch = 0

    def __init__(
        self,
        run: Run,
        tokenizer: PreTrainedTokenizerBase,
        examples: datasets.Dataset,
        window: int = 0,
    ) -> None:
        settings = run.settings
        self.examples = examples
        self.window = window
        self._seed = settings.training.seed
        self._typos = settings.training.typos
        self._texts = run.texts["train"]
        if self._typos:
            self._encode = run.task.make_encoder(self._texts, tokenizer, settings.data.max_length)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of a batch."""
        rows = self.examples.__getitems__(list(places))
        draws = [random.Random(f"{self._seed} {self.epoch} {place}") for place in places]
        if self._typos:
            chosen = []
            for number, place in enumerate(places):
                if place < len(self._texts) and draws[number].random() < 0.5:
                    chosen.append(number)
            texts = self._texts.__getitems__([places[number] for number in chosen])
            mistyped = [
                mistype_row(row, self._typos, draws[number])
                for number, row in zip(chosen, texts, strict=True)
            ]
            for number, columns in zip(chosen, self._encode(mistyped), strict=True):
                rows[number] |= columns
        for row, draw in zip(rows, draws, strict=True):
            ids = row["input_ids"]
            if self.window and len(ids) > self.window:
                first = draw.randint(0, len(ids) - self.window)
                row["input_ids"] = ids[first : first + self.window]
        return rows

    def read_epoch(self, epoch: int) -> list[list[int]]:
        """Return the token ids of all rows in an epoch."""
        self.epoch = epoch
        return [row["input_ids"] for row in self.__getitems__(range(len(self)))]
