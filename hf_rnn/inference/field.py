"""`Field`: the conditional random field of a tagger. Legend: T tokens, B texts, C tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .native import Weights

_FORBIDDEN = np.float32(-1e4)
_TEXTS_AT_ONCE = 256
_PARTNERS = {"B-": "I-", "I-": "B-"}


def find_partners(names: Sequence[str]) -> np.ndarray:
    """Return by tag that of I-X for B-X and of B-X for I-X `(C)`; the tag itself without one."""
    others = [_PARTNERS.get(name[:2], name[:2]) + name[2:] for name in names]
    numbers = {name: tag for tag, name in enumerate(names)}
    return np.array([numbers.get(other, tag) for tag, other in enumerate(others)])


@dataclass(frozen=True)
class Field:
    """The scores of tags at the start of a text `(C)`, of pairs `(C, C)`, and at its end `(C)`."""

    first: np.ndarray
    pairs: np.ndarray
    last: np.ndarray

    @classmethod
    def read(cls, weights: Weights, names: Sequence[str]) -> Field:
        """Read a field; I-X may only follow B-X and I-X, if both are tags."""
        size = len(names)
        is_inside = np.array([name.startswith("I-") for name in names])
        is_bound = is_inside & (find_partners(names) != np.arange(size))
        types = np.array([name[1:] for name in names])
        is_forbidden = is_bound & (types[:, None] != types)
        return cls(
            weights.read("crf.first", size) + _FORBIDDEN * is_bound,
            weights.read("crf.transitions", size, size) + _FORBIDDEN * is_forbidden,
            weights.read("crf.last", size),
        )

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
            (self.first, self.pairs.T, times),
            (self.last, self.pairs, times[::-1]),
        ):
            states = np.empty_like(emissions)  # the best score of the tags on one side of a token
            states[order[0]] = start
            for before, time in pairwise(order):
                sums = states[before] + emissions[before]
                reached = ((sums - sums.max(axis=-1, keepdims=True))[:, None] + step).max(axis=-1)
                states[time] = np.where(valid[before][:, None], reached, states[before])
            best += states
        return best - best.max(axis=-1, keepdims=True)
