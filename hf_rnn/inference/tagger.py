"""`TaggerEngine`: taggers of words, or with a conditional random field, over a network in C.

The layers above the network run in NumPy: the modules of torch would add seconds to a start.

Legend: T tokens of all texts, W words of all texts, B texts, C tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
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
    Unsupported,
    check_ids,
    find_lengths,
    join_ids,
    pad_tokens,
)
from .native import TABLE, NativeEngine, StoredEngine, Weights

if TYPE_CHECKING:
    from ..tasks import Config

_FORBIDDEN = np.float32(-1e4)
_TEXTS_AT_ONCE = 256
_PARTNERS = {"B-": "I-", "I-": "B-"}
# as in models/token_classification_rnn.py
_MARK = 2
_FIRST_FORMS = 5
_FORMS = 11
_LAYER = "words.layer."


class TaggerEngine(StoredEngine):
    """A tagger with a layer of words, a random field, or both; see [`NativeEngine`]."""

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
        self._words: WordLayer | None = None
        if config.word_forms:
            self._words = WordLayer(config, words, classifier, precision)
            words = {}
            # the encoder gives its states
            states = np.eye(self._words.states, dtype=np.float32)
            classifier = {"classifier.weight": states, "classifier.bias": np.zeros_like(states[0])}
            settings["num_labels"] = len(states)
        encoder = SimpleNamespace(**settings)
        self._encoder = NativeEngine(encoder, rest | words | classifier, precision, TAGGER)
        self._field = TagField(field, names) if config.crf else None
        field.check_read()

    def run(self, input_ids: TokenIds, options: InferenceOptions = DEFAULTS) -> np.ndarray:
        """As in [`Engine`]."""
        lengths = find_lengths(input_ids)
        if not lengths.any():
            return pad_tokens(np.zeros((0, len(self._partners)), np.float32), input_ids)
        if self._words is None:
            logits = self._encoder.compute(input_ids, options.threads)
            if self._field is not None:
                logits = self._field.score(logits, lengths)
            return pad_tokens(logits, input_ids)

        ids = join_ids(input_ids, lengths)
        emissions, is_start, counts = self._words.read(ids, lengths, self._encoder, options.threads)
        if self._field is not None:
            emissions = self._field.score(emissions, counts)
        logits = emissions[np.cumsum(is_start) - 1]
        # the further tokens of a word have I-X after B-X
        further = logits[~is_start]
        partners = further[:, self._partners]
        higher = np.maximum(further, partners)
        lower = np.minimum(further, partners)
        logits[~is_start] = np.where(self._is_inside, higher, lower)
        return pad_tokens(logits, input_ids)


def _take(weights: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Move the weights whose names start with a prefix to a dictionary of their own."""
    return {name: weights.pop(name) for name in list(weights) if name.startswith(prefix)}


def find_partners(names: Sequence[str]) -> np.ndarray:
    """Return by tag that of I-X for B-X and of B-X for I-X `(C)`; the tag itself without one."""
    others = [_PARTNERS.get(name[:2], name[:2]) + name[2:] for name in names]
    numbers = {name: tag for tag, name in enumerate(names)}
    return np.array([numbers.get(other, tag) for tag, other in enumerate(others)])


class WordLayer:
    """A layer over words, which reads the states at the ends of each, and its forms.

    Attributes:
        states: Width of the states of a token.
    """

    def __init__(
        self, config: Config, weights: Arrays, classifier: Arrays, precision: Precision
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

    def read(
        self, ids: np.ndarray, lengths: np.ndarray, encoder: NativeEngine, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the emissions `(W, C)` of words, whether a token starts one, and words by text.

        A word has marks of capitals, if any, which the encoder does not read, and then other
        tokens.

        Raises:
            IndexError: For an id outside the vocabulary.
        """
        check_ids(ids, len(self._kinds))
        is_mark = self._kinds[ids] == _MARK
        is_start = self._kinds[ids] > 0
        is_start[1:] &= ~is_mark[:-1]
        is_start[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        texts = np.repeat(np.arange(len(lengths)), lengths)
        counts = np.bincount(texts[is_start], minlength=len(lengths))

        states = np.zeros((len(ids), self.states), np.float32)
        ends = np.bincount(texts[~is_mark], minlength=len(lengths)).cumsum()
        unmarked = [part.tolist() for part in np.split(ids[~is_mark], ends[:-1])]
        states[~is_mark] = encoder.compute(unmarked, threads)
        vectors = self._describe(ids, is_mark, is_start, states)
        return self._engine.run_vectors(vectors, counts, threads), is_start, counts

    def _describe(
        self, ids: np.ndarray, is_mark: np.ndarray, is_start: np.ndarray, states: np.ndarray
    ) -> np.ndarray:
        """Return the inputs `(W, ...)` of the layer: states at the ends of words, and forms."""
        begins = np.flatnonzero(is_start)
        ends = np.append(begins[1:], len(ids))
        lengths = np.add.reduceat(~is_mark, begins, dtype=np.int64)
        # a word may have marks only
        first = np.where(lengths > 0, ends - lengths, begins)
        last = np.where(lengths > 0, ends - 1, begins)

        distance = np.arange(len(ids)) - first[np.cumsum(is_start) - 1]
        codes = np.where(is_mark, 0, self._codes[ids] * (2 * distance + 1))
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


class TagField:
    """The conditional random field of a tagger.

    It has the scores of tags at the start of a text `(C)`, of pairs `(C, C)`, and at its end `(C)`.
    I-X may only follow B-X and I-X, if both are tags.
    """

    def __init__(self, weights: Weights, names: Sequence[str]) -> None:
        size = len(names)
        is_inside = np.array([name.startswith("I-") for name in names])
        is_bound = is_inside & (find_partners(names) != np.arange(size))
        types = np.array([name[1:] for name in names])
        is_forbidden = is_bound & (types[:, None] != types)
        self._first = weights.read("crf.first", size) + _FORBIDDEN * is_bound
        self._pairs = weights.read("crf.transitions", size, size) + _FORBIDDEN * is_forbidden
        self._last = weights.read("crf.last", size)

    def score(self, emissions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return the scores `(T, C)` of the best tagging with each tag, minus the best one.

        Args:
            emissions: Those of all tokens `(T, C)`.
            lengths: Numbers of tokens of the texts.
        """
        scores = np.empty_like(emissions)
        starts = np.cumsum(lengths) - lengths
        order = np.argsort(lengths, kind="stable")
        for texts in np.split(order, range(_TEXTS_AT_ONCE, len(order), _TEXTS_AT_ONCE)):
            times = np.arange(lengths[texts].max(initial=0))
            valid = times[:, None] < lengths[texts]  # (T, B)
            if not valid.any():
                continue
            places = (times[:, None] + starts[texts])[valid]
            padded = np.zeros((*valid.shape, emissions.shape[1]), np.float32)
            padded[valid] = emissions[places]
            scores[places] = self._find_best(padded, valid)[valid]
        return scores

    def _find_best(self, emissions: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return the scores `(T, B, C)`, as `Crf.best_scores` does."""
        times = range(len(emissions))
        best = emissions.copy()
        for start, step, order in (
            (self._first, self._pairs.T, times),
            (self._last, self._pairs, times[::-1]),
        ):
            states = np.empty_like(emissions)  # the best score of the tags on one side of a token
            states[order[0]] = start
            for before, time in pairwise(order):
                sums = states[before] + emissions[before]
                reached = ((sums - sums.max(axis=-1, keepdims=True))[:, None] + step).max(axis=-1)
                states[time] = np.where(valid[before][:, None], reached, states[before])
            best += states
        return best - best.max(axis=-1, keepdims=True)
