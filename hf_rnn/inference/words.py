"""`WordReader`: the layer of a tagger that reads words. Legend: T tokens, W words of all texts."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from .engine import TAGGER, Arrays, Precision, TokenIds, Unsupported, check_ids, join_ids
from .native import TABLE, NativeEngine, Weights

if TYPE_CHECKING:
    from ..tasks import Config

# as in models/token_classification_rnn.py
_MARK = 2
_FIRST_FORMS = 5
_FORMS = 11
_LAYER = "words.layer."


@dataclass(frozen=True)
class Words:
    """The words of texts: marks of capitals, if any, and then other tokens."""

    ids: np.ndarray  # (T)
    is_mark: np.ndarray  # (T)
    is_start: np.ndarray  # whether a word starts (T)
    counts: np.ndarray  # words by text


class WordReader:
    """A layer over words, which reads the states at the ends of each, and its forms.

    Attributes:
        states: Width of the states of a token.
    """

    def __init__(
        self,
        config: Config,
        weights: Arrays,
        classifier: Arrays,
        precision: Precision,
    ) -> None:
        units = config.word_hidden_size
        self._size = config.hidden_size  # width of a state that one end of a word gives
        self.states = (1 + config.bidirectional) * self._size
        if config.block_type == "residual":
            self._size = config.residual_size or self._size
            self.states = self._size

        head = Weights({name: rows for name, rows in weights.items() if _LAYER not in name})
        self._codes = head.read_stored("words.codes", config.vocab_size)
        self._kinds = head.read_stored("words.kinds", config.vocab_size)
        self._forms = head.read_stored("words.forms", config.vocab_size, _FORMS)
        self._table = head.read("words.table.weight", config.word_forms, units)
        head.check_read()
        if {self._codes.dtype.kind, self._kinds.dtype.kind, self._forms.dtype.kind} != {"i"}:
            raise Unsupported("the forms of words are not whole numbers")

        settings = vars(config) | {
            "num_labels": int(config.num_labels),
            "crf": False,
            "word_forms": 0,
            "vocab_size": 1,
            "embedding_size": self.states + units,
            "hidden_size": units,
            "num_hidden_layers": 1,
            "block_type": "plain",
            "cell_type": "lstm",
        }
        layer = dict(classifier)
        layer[TABLE] = np.zeros((1, self.states + units), np.float32)  # it has no tokens
        for name, rows in weights.items():
            if name.startswith(_LAYER):
                layer[f"rnn.layers.0.{name.removeprefix(_LAYER)}"] = rows
        self._engine = NativeEngine(SimpleNamespace(**settings), layer, precision, TAGGER)

    def split(self, input_ids: TokenIds, lengths: np.ndarray) -> Words:
        """Return the words of texts of these lengths.

        Raises:
            IndexError: For an id outside the vocabulary.
        """
        ids = join_ids(input_ids, lengths)
        check_ids(ids, len(self._kinds))
        is_mark = self._kinds[ids] == _MARK
        is_start = self._kinds[ids] > 0
        is_start[1:] &= ~is_mark[:-1]
        is_start[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        texts = np.repeat(np.arange(len(lengths)), lengths)
        return Words(ids, is_mark, is_start, np.bincount(texts[is_start], minlength=len(lengths)))

    def score(
        self, words: Words, encoder: NativeEngine, lengths: np.ndarray, threads: int | None
    ) -> np.ndarray:
        """Return the emissions `(W, C)` of words, whose encoder does not read the marks."""
        states = np.zeros((len(words.ids), self.states), np.float32)
        texts = np.repeat(np.arange(len(lengths)), lengths)[~words.is_mark]
        ends = np.bincount(texts, minlength=len(lengths)).cumsum()
        unmarked = np.split(words.ids[~words.is_mark], ends[:-1])
        states[~words.is_mark] = encoder.compute([ids.tolist() for ids in unmarked], threads)
        return self._engine.run_vectors(self._describe(words, states), words.counts, threads)

    def _describe(self, words: Words, states: np.ndarray) -> np.ndarray:
        """Return the inputs `(W, ...)` of the layer: states at the ends of words, and forms."""
        ids = words.ids
        begins = np.flatnonzero(words.is_start)
        ends = np.append(begins[1:], len(ids))
        lengths = np.add.reduceat(~words.is_mark, begins, dtype=np.int64)
        # a word may have marks only
        first = np.where(lengths > 0, ends - lengths, begins)
        last = np.where(lengths > 0, ends - 1, begins)

        distance = np.arange(len(ids)) - first[np.cumsum(words.is_start) - 1]
        codes = np.where(words.is_mark, 0, self._codes[ids] * (2 * distance + 1))
        rows = [
            self._forms[ids[first]][:, :_FIRST_FORMS],
            self._forms[ids[last]][:, _FIRST_FORMS:],
            self._forms[ids[begins]][:, :1],
            np.add.reduceat(codes, begins)[:, None] % len(self._table),
        ]
        forms = self._table[np.concatenate(rows, axis=1)].sum(axis=1)
        # forwards the state at the last token, backwards that at the first
        sides = [states[last, : self._size], states[first, self._size :], forms]
        return np.concatenate(sides, axis=1)
