"""`TaggerEngine`: taggers of words, or with a conditional random field, over a network in C.

Legend: T tokens of all texts, W words of all texts, C tags.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from .engine import (
    DEFAULTS,
    TAGGER,
    Arrays,
    InferenceOptions,
    Precision,
    TokenIds,
    count_tokens,
    pad_tokens,
)
from .field import Field, find_partners
from .native import NativeEngine, StoredEngine, Weights
from .words import WordReader

if TYPE_CHECKING:
    from ..tasks import Config


class TaggerEngine(StoredEngine):
    """A tagger with a reader of words, a random field, or both; see [`NativeEngine`]."""

    def __init__(self, config: Config, weights: Arrays, precision: Precision = "float32") -> None:
        super().__init__(config, weights, precision)
        names = [config.id2label[tag] for tag in range(config.num_labels)]
        self._partners = find_partners(names)
        self._is_inside = np.array([name.startswith("I-") for name in names])

        rest = dict(weights)
        words = _take(rest, "words.")
        field = Weights(_take(rest, "crf."))
        classifier = _take(rest, "classifier.")
        settings = vars(config) | {"num_labels": len(names), "crf": False, "word_forms": 0}
        self._words: WordReader | None = None
        if config.word_forms:
            self._words = WordReader(config, words, classifier, precision)
            words = {}
            # the encoder gives its states
            states = np.eye(self._words.states, dtype=np.float32)
            classifier = {"classifier.weight": states, "classifier.bias": np.zeros_like(states[0])}
            settings["num_labels"] = len(states)
        encoder = SimpleNamespace(**settings)
        self._encoder = NativeEngine(encoder, rest | words | classifier, precision, TAGGER)
        self._field = Field.read(field, names) if config.crf else None
        field.check_read()

    def run(self, input_ids: TokenIds, options: InferenceOptions = DEFAULTS) -> np.ndarray:
        """As in [`Engine`]."""
        lengths = count_tokens(input_ids)
        if not lengths.any():
            logits = np.zeros((0, len(self._partners)), np.float32)
        elif self._words is not None:
            logits = self._tag_words(self._words, input_ids, lengths, options.threads)
        else:
            emissions = self._encoder.compute(input_ids, options.threads)
            logits = self._score(emissions, lengths)
        return pad_tokens(logits, input_ids)

    def _score(self, emissions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return emissions if self._field is None else self._field.score(emissions, lengths)

    def _tag_words(
        self,
        reader: WordReader,
        input_ids: TokenIds,
        lengths: np.ndarray,
        threads: int | None,
    ) -> np.ndarray:
        """Return the logits `(T, C)` of all tokens: those of their words, with I-X after B-X."""
        words = reader.split(input_ids, lengths)
        emissions = reader.score(words, self._encoder, lengths, threads)
        logits = self._score(emissions, words.counts)[np.cumsum(words.is_start) - 1]
        further = logits[~words.is_start]
        partners = further[:, self._partners]
        higher = np.maximum(further, partners)
        lower = np.minimum(further, partners)
        logits[~words.is_start] = np.where(self._is_inside, higher, lower)
        return logits


def _take(weights: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Move the weights whose names start with a prefix to a dictionary of their own."""
    return {name: weights.pop(name) for name in list(weights) if name.startswith(prefix)}
