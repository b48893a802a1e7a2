"""`TextStream`: a text that is still being written, with an answer after every piece.

Words are divided by white space, so a later letter can change the tokens of the last word only. All
tokens before it are read once: the state after them is kept. Those of the last word are read on a
copy of the state.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..data.tokens import SPACES
from ..tasks import Answer, compute_scores
from ..utils.errors import UserError, check_texts
from .native import NativeEngine

if TYPE_CHECKING:
    from .predict import FastRnn


class TextStream:
    """The answer of a streaming model to a text so far; made by [`FastRnn.stream`].

    After any pieces it is the answer of `FastRnn.predict` to the text so far, within 1e-5, wherever
    they were cut. A stream can be pickled, with its model.

    Example:
        >>> stream = FastRnn.from_pretrained("out/chat").stream()
        >>> stream.feed("What a lov")
        {'label': 'positive', 'score': 0.61, 'tokens': 4}
        >>> stream.feed("ely day")["label"]
        'positive'
        >>> answer = stream.end()
    """

    def __init__(self, predictor: FastRnn, target: float | None = None) -> None:
        if not isinstance(predictor.engine, NativeEngine):
            raise UserError(
                "the kernel reads streams, and torch has this model: load a folder on the device "
                "cpu, with a kernel that is built by python -m hf_rnn.inference.kernel"
            )
        self._predictor = predictor
        self._engine = predictor.engine
        self._target = target
        self.reset()

    def reset(self) -> None:
        """Start a new text."""
        self.last_word = ""  # with the white space before it; each piece reads it again
        self._tokens = 0  # before the last word
        self._ended = False
        self._logits, self._state = self._engine.advance([[]], None)  # (1, C) and (1, K)

    def feed(self, piece: str) -> Answer:
        """Read the next piece of the text, of any length, and return the answer to the text so far.

        It has the number of `tokens` read.

        Raises:
            UserError: For a piece that is not text, and after `end`.
        """
        final, last = self._split(piece)
        if final:
            self._advance(final)
        if not last:
            return self._answer(self._logits)
        logits, _ = self._engine.advance([last], self._state)
        answer = self._answer(logits)
        answer["tokens"] += len(last)
        return answer

    def feed_tokens(self, piece: str) -> Iterator[Answer]:
        """Read the next piece, and yield an answer after each token that no letter can change."""
        final, _ = self._split(piece)
        for token in final:
            self._advance([token])
            yield self._answer(self._logits)

    def end(self) -> Answer:
        """Return the answer to the whole text, and refuse further pieces until `reset`."""
        answer = self.feed("\n")  # the last word ends here
        self._ended = True
        return answer

    def copy(self) -> TextStream:
        """Return a stream that continues the same text on its own."""
        return copy.copy(self)  # arrays are replaced, not changed

    def _split(self, piece: str) -> tuple[list[int], list[int]]:
        """Take a piece; return its final tokens, and those of the last word, within the limit."""
        check_texts([piece], "pieces")
        if self._ended:
            raise UserError("the stream has ended: call reset() for a new text")
        text = self.last_word + piece
        cut = max(0, *map(text.rfind, SPACES))
        self.last_word = text[cut:]
        tokenize = self._predictor.tokenize
        # white space alone has no token
        final, last = [
            tokenize([part])[0] if part.strip(SPACES) else [] for part in (text[:cut], text[cut:])
        ]
        room = max(0, self._predictor.tokenizer.model_max_length - self._tokens)
        final = final[:room]
        return final, last[: room - len(final)]

    def _advance(self, tokens: list[int]) -> None:
        """Read final tokens."""
        self._logits, self._state = self._engine.advance([tokens], self._state)
        self._tokens += len(tokens)

    def _answer(self, logits: np.ndarray) -> Answer:
        """Return the answer of logits `(1, C)`, with the number of final tokens."""
        scores = compute_scores(logits, self._predictor.config)
        answer = self._predictor.answer_scores(scores, self._target)[0]
        answer["tokens"] = self._tokens
        return answer
