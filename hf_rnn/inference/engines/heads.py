"""`TaggerEngine`: taggers of words, or with a conditional random field, over a network in C.

The arithmetic of these heads is NumPy's. Legend: T tokens of all texts, W words of all texts, C
tags, B texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain, pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import (
    DEFAULTS,
    TAGGER,
    Engine,
    InferenceOptions,
    Precision,
    Unsupported,
    hash_weights,
    pad_tokens,
)
from .native import TABLE, NativeEngine, Weights

if TYPE_CHECKING:
    from ...tasks import Config

_MARK, _FIRST_FORMS, _FORMS = 2, 5, 11  # as in models/token_classification_rnn.py
_FORBIDDEN = np.float32(-1e4)
_TEXTS_AT_ONCE = 256


class TaggerEngine(Engine):
    """A tagger with a reader of words, a random field, or both; the arguments are those of [`NativeEngine`]."""

    def __init__(
        self, config: Config, weights: Mapping[str, np.ndarray], precision: Precision = "float32"
    ) -> None:
        self.config, self._source, self.outputs = (
            config,
            (config, weights, precision),
            int(config.num_labels),
        )
        prefixes = ["words.layer."] * bool(config.word_forms) + ["words.", "crf.", "classifier."]
        rest, parts = dict(weights), {}
        for prefix in prefixes:
            parts[prefix] = {name: rest.pop(name) for name in list(rest) if name.startswith(prefix)}
        settings = {**vars(config), "num_labels": self.outputs, "crf": False, "word_forms": 0}
        top, head = parts["classifier."], Weights(parts["words."] | parts["crf."])
        self._size = config.hidden_size  # width of a state that one end of a word gives
        states = (1 + config.bidirectional) * self._size
        if config.block_type == "residual":
            self._size = states = config.residual_size or self._size
        self._reader: NativeEngine | None = None
        if config.word_forms:
            units, tokens = config.word_hidden_size, config.vocab_size
            sizes = {
                "vocab_size": 1,
                "embedding_size": states + units,
                "hidden_size": units,
                "num_hidden_layers": 1,
            }
            reader = SimpleNamespace(
                **{**settings, **sizes, "block_type": "plain", "cell_type": "lstm"}
            )
            layer = {
                f"rnn.layers.0.{name[12:]}": weight
                for name, weight in parts["words.layer."].items()
            }
            layer[TABLE] = np.zeros((1, states + units), np.float32)  # it has no tokens
            self._reader = NativeEngine(reader, layer | top, precision, TAGGER)
            self._codes, self._kinds = (
                head.read_stored(f"words.{name}", tokens) for name in ("codes", "kinds")
            )
            self._forms = head.read_stored("words.forms", tokens, _FORMS)
            self._table = head.read("words.table.weight", config.word_forms, units)
            if any(
                numbers.dtype.kind != "i" for numbers in (self._codes, self._kinds, self._forms)
            ):
                raise Unsupported("the forms of words are not whole numbers")
            square = np.eye(states, dtype=np.float32)
            top = {"classifier.weight": square, "classifier.bias": np.zeros_like(square[0])}
            settings["num_labels"] = states
        self._encoder = NativeEngine(SimpleNamespace(**settings), rest | top, precision, TAGGER)
        names, swap = (
            [config.id2label[tag] for tag in range(self.outputs)],
            {"B-": "I-", "I-": "B-"},
        )
        # B-X of I-X, and I-X of B-X
        others = [swap.get(name[:2], name[:2]) + name[2:] for name in names]
        self._partners = [
            names.index(other) if other in names else tag for tag, other in enumerate(others)
        ]
        self._inside = [name.startswith("I-") for name in names]
        # scores of first, pairs and last
        self._crf: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        if config.crf:
            bound = [
                name.startswith("I-") and other in names
                for name, other in zip(names, others, strict=True)
            ]
            pairs = [
                [bound[tag] and before[1:] != name[1:] for tag, name in enumerate(names)]
                for before in names
            ]
            first, last = (head.read(f"crf.{name}", self.outputs) for name in ("first", "last"))
            step = head.read("crf.transitions", self.outputs, self.outputs)
            self._crf = (
                first + _FORBIDDEN * np.array(bound),
                step + _FORBIDDEN * np.array(pairs),
                last,
            )
        head.check_read()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._source

    @cached_property
    def fingerprint(self) -> str:
        """As in [`Engine`]."""
        return hash_weights(self._source[1])

    def run(
        self, input_ids: Sequence[Sequence[int]], options: InferenceOptions = DEFAULTS
    ) -> np.ndarray:
        """As in [`Engine`]."""
        lengths = np.fromiter(map(len, input_ids), np.int64, len(input_ids))
        if self._reader is None:
            logits = self._score(self._encoder.compute(input_ids, options.threads), lengths)
        else:
            logits = self._tag_words(self._reader, input_ids, lengths, options.threads)
        return pad_tokens(logits, input_ids)

    def _tag_words(
        self,
        reader: NativeEngine,
        input_ids: Sequence[Sequence[int]],
        lengths: np.ndarray,
        threads: int | None,
    ) -> np.ndarray:
        """Return the logits `(T, C)` of all tokens by those of their words.

        A word is marks of capitals, if any, and then other tokens; the encoder does not read the
        marks.
        """
        ids, kinds = (
            np.fromiter(chain.from_iterable(input_ids), np.int64, int(lengths.sum())),
            self._kinds,
        )
        if not len(ids):
            return np.zeros((0, self.outputs), np.float32)
        if not 0 <= ids.min() <= ids.max() < len(kinds):
            raise IndexError(
                f"token ids must be from 0 to {len(kinds) - 1}: found {ids.min()} and {ids.max()}"
            )
        marks, starts = kinds[ids] == _MARK, kinds[ids] > 0
        states = np.zeros((len(ids), self._encoder.outputs), np.float32)
        unmarked = [[id for id in text if kinds[id] != _MARK] for text in input_ids]
        states[~marks] = self._encoder.compute(unmarked, threads)
        starts[1:] &= ~marks[:-1]
        starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        texts = np.repeat(np.arange(len(lengths)), lengths)
        counts = np.bincount(texts[starts], minlength=len(lengths))
        emissions = reader.run_vectors(self._describe(ids, states, starts, marks), counts, threads)
        logits = self._score(emissions, counts)[np.cumsum(starts) - 1]
        further = logits[~starts]  # those of a word with B-X have I-X
        other = further[:, self._partners]
        logits[~starts] = np.where(
            self._inside, np.maximum(further, other), np.minimum(further, other)
        )
        return logits

    def _describe(
        self, ids: np.ndarray, states: np.ndarray, starts: np.ndarray, marks: np.ndarray
    ) -> np.ndarray:
        """Return the inputs `(W, ...)` of the layer over words: states at its ends, and its forms."""
        begins, forms, table = np.flatnonzero(starts), self._forms, self._table
        ends, lengths = (
            np.append(begins[1:], len(ids)),
            np.add.reduceat(~marks, begins, dtype=np.int64),
        )
        # a word may have marks only
        first, last = np.where(lengths > 0, [ends - lengths, ends - 1], begins)
        distance = np.arange(len(ids)) - first[np.cumsum(starts) - 1]
        codes = np.where(marks, 0, self._codes[ids] * (2 * distance + 1))
        whole = np.add.reduceat(codes, begins)[:, None] % len(table)
        starts_of, ends_of = forms[ids[first]][:, :_FIRST_FORMS], forms[ids[last]][:, _FIRST_FORMS:]
        rows = np.concatenate([starts_of, ends_of, forms[ids[begins]][:, :1], whole], axis=1)
        places = zip(range(0, states.shape[1], self._size), (last, first), strict=False)
        sides = [states[tokens, start : start + self._size] for start, tokens in places]
        return np.concatenate([*sides, table[rows].sum(axis=1)], axis=1)

    def _score(self, emissions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return the logits of emissions: with a random field, the best tagging with each tag, minus the best one."""
        if self._crf is None:
            return emissions
        logits, ends = np.empty_like(emissions), np.cumsum(lengths)
        order = np.argsort(lengths, kind="stable")
        for texts in np.split(order, range(_TEXTS_AT_ONCE, len(order), _TEXTS_AT_ONCE)):
            valid = np.arange(lengths[texts].max(initial=0)) < lengths[texts][:, None]  # (B, T)
            places = ((ends - lengths)[texts][:, None] + np.arange(valid.shape[1]))[valid]
            padded = np.zeros((*valid.shape, self.outputs), np.float32)
            padded[valid] = emissions[places]
            if valid.shape[1]:
                logits[places] = find_best_tags(
                    padded.swapaxes(0, 1), valid.T, *self._crf
                ).swapaxes(0, 1)[valid]
        return logits


def find_best_tags(
    emissions: np.ndarray, valid: np.ndarray, first: np.ndarray, pairs: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """Return the scores `(T, B, C)` of a conditional random field, as `Crf.best_scores` does."""
    times, best = range(len(emissions)), emissions.copy()
    for start, step, order in ((first, pairs.T, times), (last, pairs, times[::-1])):
        states = np.empty_like(emissions)  # the best score of the tags on one side of each token
        states[order[0]] = start
        for before, time in pairwise(order):
            sums = states[before] + emissions[before]
            reached = ((sums - sums.max(axis=-1, keepdims=True))[:, None] + step).max(axis=-1)
            states[time] = np.where(valid[before][:, None], reached, states[before])
        best += states
    return best - best.max(axis=-1, keepdims=True)
