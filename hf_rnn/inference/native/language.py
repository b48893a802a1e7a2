"""`LanguageNetwork`: a language model over [`Network`], which reads a text piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from .network import Matrix, Network, Unsupported, to_float

if TYPE_CHECKING:
    from ...tasks.base import Config

_MISSING = np.empty(0)


class LanguageNetwork:
    """Scores of the next token. The arguments are those of [`Network`]."""

    def __init__(self, config: Config, weights: Mapping[str, np.ndarray], precision: str, head: str) -> None:
        rest, self._pad = dict(weights), config.pad_token_id
        valid = self._pad is None or (type(self._pad) is int and 0 <= self._pad < config.vocab_size)
        if config.bidirectional is not False or not valid:
            raise Unsupported("a language model has one direction, and padding in its table")
        outputs, top = config.vocab_size, [rest.pop(f"lm_head.{part}", _MISSING) for part in ("weight", "bias")]
        self._top: Matrix | None = None
        if config.tie_word_embeddings:
            top[0] = rest.get("rnn.embedding.weight", _MISSING)
            if "projection.weight" in rest:  # NumPy computes the last layer
                if top[1].shape != (outputs,) or not np.isfinite(to_float(top[1])).all():
                    raise Unsupported("lm_head.bias has another shape, or NaN")
                outputs, self._top = config.embedding_size, (to_float(top[0]), to_float(top[1]))
                top = [rest.pop(f"projection.{part}", _MISSING) for part in ("weight", "bias")]
        rest["classifier.weight"], rest["classifier.bias"] = top
        plain = {"num_labels": outputs, "pooling": "last", "classifier_activation": "linear", "sep_token_id": None}
        self._network = Network(SimpleNamespace(**vars(config) | plain), rest, precision)

    def advance(self, ids: Sequence[int], state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits `(V)` of the token after further tokens of a text, and the state there.

        `state` is the one before these tokens, None at the start of a text.
        """
        if not len(ids):
            raise ValueError("a language model reads one token or more: found none")
        (logits,), state = self._network.advance([ids], state)
        if self._top is not None:
            logits = self._top[0] @ logits + self._top[1]
        if self._pad is not None:
            logits[self._pad] = np.finfo(np.float32).min
        return logits, state
