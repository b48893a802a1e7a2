"""`TextStream`: a text that is still being written, with an answer after every piece.

Words are divided by white space, so a later letter can change the tokens of the last word only. All
tokens before it are read once: the state after them is kept. Those of the last word are read on a
copy of the state.

Legend: N streams, C classes, K numbers of a state.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..data.tokens import SPACES
from ..evaluation.scores import single_scores
from ..tasks import Answer, compute_scores, task_of
from ..utils.errors import UserError, check_texts, find_text_fault

if TYPE_CHECKING:
    from ..tasks import Metrics, Outputs
    from .engine import Engine, TokenIds
    from .predict import FastRnn

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of a text; answers are measured after each
_MARK = b"hf_rnn text stream 4\n"
_MOST_TOKENS = 1 << 53


@dataclass(frozen=True)
class _Header:
    """The facts in a saved state, before its numbers."""

    model: str  # a hash of weights, vocabulary and labels
    last_word: str
    tokens: int
    ended: bool
    target: float | None


class TextStream:
    """The answer of a streaming model to a text so far; made by [`FastRnn.stream`].

    After any pieces it is the answer of `FastRnn.predict` to the text so far, within 1e-5, wherever
    they were cut.

    Example:
        >>> stream = FastRnn.from_pretrained("out/chat").stream()
        >>> stream.feed("What a lov")
        {'label': 'positive', 'score': 0.61, 'tokens': 4}
        >>> stream.feed("ely day")["label"]
        'positive'
        >>> answer = stream.end()
    """

    def __init__(self, predictor: FastRnn, target: float | None = None) -> None:
        self._predictor = predictor
        self._target = target
        self.reset()

    def reset(self) -> None:
        """Start a new text."""
        self.last_word = ""  # with the white space before it; each piece reads it again
        self._tokens = 0  # before the last word
        self._ended = False
        self._logits, self._state = self._predictor.engine.advance([[]], None)  # (1, C) and (1, K)

    def feed(self, piece: str) -> Answer:
        """Read the next piece of the text, of any length, and return the answer to the text so far.

        It has the number of `tokens` read.

        Raises:
            UserError: For a piece that is not text, and after `end`.
        """
        return feed_many([self], [piece])[0]

    def feed_tokens(self, piece: str) -> Iterator[Answer]:
        """Read the next piece, and yield an answer after each token that no letter can change."""
        _check([self], [piece])
        final, _ = self._split(piece)
        for token in final:
            _advance([self], [[token]])
            scores = compute_scores(self._logits, self._predictor.config)
            answer = self._predictor.answer_scores(scores, self._target)[0]
            yield answer | {"tokens": self._tokens}

    def end(self) -> Answer:
        """Return the answer to the whole text, and refuse further pieces until `reset`."""
        answer = self.feed("\n")  # the last word ends here
        self._ended = True
        return answer

    def copy(self) -> TextStream:
        """Return a stream that continues the same text on its own."""
        return copy.copy(self)  # arrays are replaced, not changed

    def save(self) -> bytes:
        """Return the state, of a few kilobytes, for [`FastRnn.stream`] in any process.

        Its layout is the same for all engines.
        """
        header = _Header(self._identify(), self.last_word, self._tokens, self._ended, self._target)
        state = self._predictor.engine.export_states(self._state)
        numbers = np.concatenate([self._logits.ravel(), state.ravel()]).astype("<f4")
        content = json.dumps(asdict(header)).encode() + b"\n" + numbers.tobytes()
        return _MARK + hashlib.sha256(content).digest() + content

    def restore(self, saved: bytes) -> None:
        """Continue from a state of `save`.

        Raises:
            UserError: For other or damaged bytes, and for the state of another model.
        """
        header, numbers = _read_state(saved)
        if header.model != self._identify():
            raise UserError(
                "the state is of another model: load the model that saved it, or start a new stream"
            )
        engine = self._predictor.engine
        size = self._logits.size + engine.export_states(self._state).size
        if numbers.size != size or not np.isfinite(numbers).all():
            raise UserError(_DAMAGED)
        if header.target is not None:
            self._predictor.read_thresholds(header.target)
        self.last_word = header.last_word
        self._tokens = header.tokens
        self._ended = header.ended
        self._target = header.target
        self._logits, state = np.split(numbers[None], [self._logits.size], axis=1)
        self._state = engine.import_states(state)

    def _identify(self) -> str:
        """Return a hash of weights, vocabulary and labels, the same for all engines."""
        config = self._predictor.config
        facts = [self._predictor.fingerprint, config.vocab_size, list(config.id2label.values())]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def __reduce__(self) -> tuple[object, ...]:
        return _continue, (self._predictor, self.save())

    def _split(self, piece: str) -> tuple[list[int], list[int]]:
        """Take a piece; return its final tokens, and those of the last word, within the limit."""
        text = self.last_word + piece
        cut = max(0, *map(text.rfind, SPACES))
        self.last_word = text[cut:]
        final = self._tokenize(text[:cut])
        last = self._tokenize(text[cut:])
        room = max(0, self._predictor.tokenizer.model_max_length - self._tokens)
        final = final[:room]
        return final, last[: room - len(final)]

    def _tokenize(self, text: str) -> list[int]:
        return self._predictor.tokenize([text])[0] if text.strip(SPACES) else []


def _continue(predictor: FastRnn, saved: bytes) -> TextStream:
    stream = TextStream(predictor)
    stream.restore(saved)
    return stream


_DAMAGED = "the state is not the bytes of TextStream.save, or damaged: start a new stream"


def _read_state(saved: bytes) -> tuple[_Header, np.ndarray]:
    """Return the parts of a saved state; refuse other bytes, and values of wrong types."""
    place = len(_MARK) + hashlib.sha256().digest_size
    if not isinstance(saved, bytes):
        raise UserError(_DAMAGED)
    content = saved[place:]
    if saved[:place] != _MARK + hashlib.sha256(content).digest():
        raise UserError(_DAMAGED)
    facts, _, numbers = content.partition(b"\n")
    try:
        header = _Header(**json.loads(facts))
        values = np.frombuffer(numbers, "<f4").astype(np.float32)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(_DAMAGED) from error
    is_valid = (
        isinstance(header.model, str)
        and not find_text_fault(header.last_word)
        and type(header.tokens) is int
        and 0 <= header.tokens < _MOST_TOKENS
        and type(header.ended) is bool
        and (header.target is None or type(header.target) is float)
    )
    if not is_valid:
        raise UserError(_DAMAGED)
    return header, values


def feed_many(streams: Sequence[TextStream], pieces: Sequence[str]) -> list[Answer]:
    """Read the next piece of several texts in one call; return the answers of `feed` in order.

    Raises:
        UserError: For a piece that is not text, an ended stream, and streams of several models;
            nothing is read then.
    """
    _check(streams, pieces)
    if not streams:
        return []
    ends = _read_final(streams, pieces)
    predictor = streams[0]._predictor
    logits = np.concatenate([stream._logits for stream in streams])
    unfinished = [row for row, last in enumerate(ends) if last]
    if unfinished:
        states = np.concatenate([streams[row]._state for row in unfinished])
        tokens = [ends[row] for row in unfinished]
        logits[unfinished] = predictor.engine.advance(tokens, states)[0]
    answers = predictor.answer_scores(compute_scores(logits, predictor.config), streams[0]._target)
    for answer, stream, last in zip(answers, streams, ends, strict=True):
        answer["tokens"] = stream._tokens + len(last)
    return answers


def _read_final(streams: Sequence[TextStream], pieces: Sequence[str]) -> list[list[int]]:
    """Read the tokens of pieces that no later letter can change; return those of the last words."""
    growing = []
    tokens = []
    ends = []
    for stream, piece in zip(streams, pieces, strict=True):
        final, last = stream._split(piece)
        ends.append(last)
        if final:
            growing.append(stream)
            tokens.append(final)
    if growing:
        _advance(growing, tokens)
    return ends


def _advance(streams: Sequence[TextStream], tokens: TokenIds) -> None:
    """Read the next final tokens of several texts."""
    states = np.concatenate([stream._state for stream in streams])
    logits, states = streams[0]._predictor.engine.advance(tokens, states)
    for row, (stream, ids) in enumerate(zip(streams, tokens, strict=True)):
        stream._logits = logits[row : row + 1].copy()
        stream._state = states[row : row + 1].copy()
        stream._tokens += len(ids)


def _check(streams: Sequence[TextStream], pieces: Sequence[str]) -> None:
    is_repeated = len(streams) > 1 and len(set(map(id, streams))) < len(streams)
    if len(streams) != len(pieces) or is_repeated:
        found = f"found {len(streams)} streams and {len(pieces)} pieces"
        raise UserError(f"give each stream one piece: {found}")
    check_texts(pieces, "pieces")
    if len({(id(stream._predictor), stream._target) for stream in streams}) > 1:
        raise UserError(
            "the streams are of several models or targets: feed those of each on their own"
        )
    if any(stream._ended for stream in streams):
        raise UserError("the stream has ended: call reset() for a new text")


# ---- how early the answers are right ----


def measure_prefixes(
    engine: Engine,
    input_ids: TokenIds,
    labels: Outputs,
    threshold: float = 0.9,
) -> Metrics:
    """Return the scores of a streaming model of texts after shares of each text.

    For a task with one label, `early` has the share of texts whose answer reaches the score
    `threshold` (`reached`), and of these the mean share read by then, the share that keep the label
    to the end, and the accuracy of the labels.
    """
    task = task_of(engine.config)
    by_share = []
    for share in SHARES:
        ids = [row[: math.ceil(share * len(row))] for row in input_ids]
        logits, _ = engine.advance(ids, None)
        scores = task.evaluate(logits.astype(float), labels, engine.config)
        numbers = single_scores(scores)
        numbers.pop("loss", None)
        by_share.append({"share": share, **numbers})
    measured: Metrics = {"by_share": by_share}
    if task.one_label:
        measured["early"] = _measure_early(engine, input_ids, np.asarray(labels), threshold)
    return measured


def _measure_early(
    engine: Engine, input_ids: TokenIds, labels: np.ndarray, threshold: float
) -> dict[str, float]:
    """Return what the first answers with a score of at least the threshold are worth."""
    lengths = np.array([len(ids) for ids in input_ids])
    first, early = _find_early(engine, input_ids, lengths, threshold)
    reached = first > 0
    facts = {"threshold": threshold, "reached": float(reached.mean())}
    if reached.any():
        last = engine.advance(input_ids, None)[0].argmax(axis=1)
        facts["share_read"] = float((first[reached] / lengths[reached]).mean())
        facts["kept"] = float((early == last)[reached].mean())
        facts["accuracy"] = float((early == labels)[reached].mean())
    return facts


def _find_early(
    engine: Engine, input_ids: TokenIds, lengths: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens read until the first sure answer of each text, or 0, and its label."""
    first = np.zeros(len(lengths), int)
    early = np.zeros(len(lengths), int)
    _, states = engine.advance([()] * len(lengths), None)
    for place in range(lengths.max(initial=0)):
        rows = np.flatnonzero((lengths > place) & (first == 0))
        tokens = [[input_ids[row][place]] for row in rows.tolist()]
        logits, states[rows] = engine.advance(tokens, states[rows])
        probabilities = compute_scores(logits, engine.config)
        sure = probabilities.max(axis=1) >= threshold
        first[rows[sure]] = place + 1
        early[rows[sure]] = probabilities[sure].argmax(axis=1)
    return first, early
