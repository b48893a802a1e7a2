"""`TextStream`: a text that is still being written, with an answer after every piece, at the cost of the piece alone.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.figures import plot_lines
from ..tasks import compute_scores, score_kind, task_of
from ..utils.errors import UserError, check_texts

if TYPE_CHECKING:
    from .engines import Engine
    from .predictor import Predictor

# rules that are measured: thresholds, and tokens
GUARDS, _MOST_IN_A_ROW = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99), 3
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of a text; answers are measured after each
_SPACES = " \t\n\r"  # for every tokenizer that `find_unstable_text` accepts
_MARK = b"hf_rnn text stream 3\n"
# Words that normalisers rewrite: handles, links, marks, combining and joined characters, spaces of
# all kinds.
HOSTILE = (
    "@user's http://x.y/z?a=b:) www.a.b, so-o-o 3.5% &amp;&lt; <pad> <unk> <<<MENTION>>> cafe\u0301 n\u0303o",
    "👩\u200d👩\u200d👧 👍🏽! 🇩🇪🇫🇷 ❤\ufe0f <3 :-) ;P x\u00a0y a\u3000b ไทย العربية 中文字 ﬁ ½ \u202etxet",
    "one\r\nline\n\n\ttab \x00 \x1f \ufeff end. I'm #tag a.b.c U.S.A. 12:30pm it''s ?!! [PAD] [UNK] ΟΔΟΣ ΣΟΦΟΣ",
)


def find_unstable_text(
    encode: Callable[[list[str]], list[list[int]]], texts: Iterable[str]
) -> str | None:
    """Return the first text whose tokens are not those of its words one after another; None if all are stable.

    Texts are cut before white space, as in a stream; white space alone must have no token.
    """
    if any(encode([*_SPACES])):
        return _SPACES
    for text in (*HOSTILE, *texts):
        cuts = [0, *(place for place, sign in enumerate(text) if sign in _SPACES), len(text)]
        words = [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
        whole, *pieces = encode([text, *words])
        if whole != [token for piece in pieces for token in piece]:
            return text
    return None


@dataclass
class Stop:
    """Stop a text, once, when the score of a label is at least `threshold` after `in_a_row` tokens in a row."""

    label: str
    threshold: float = 0.9
    in_a_row: int = 1
    reached: int = 0  # tokens in a row so far
    stopped: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold is a score from 0 to 1: found {self.threshold:g}")
        if self.in_a_row < 1:
            raise UserError(f"in_a_row is a number of tokens, at least 1: found {self.in_a_row}")

    def read(self, score: float) -> bool:
        """Return whether the text stops at its next token, after which the label has this score."""
        self.reached = self.reached + 1 if score >= self.threshold else 0
        self.stopped = self.reached == self.in_a_row
        return self.stopped


class TextStream:
    """The answer of a streaming model to a text so far; made by [`FastRnn.stream`].

    After any pieces it is the answer of `FastRnn.predict` to the text so far, within 1e-5, wherever
    they were cut. A stop looks at the answer after each token that no later letter can change, so
    it does not depend on the pieces.

    Example:
        >>> stream = FastRnn.from_pretrained("out/guard").stream()
        >>> stream.feed("What a lov")
        {'label': 'positive', 'score': 0.61, 'tokens': 4}
        >>> stream.feed("ely day")["label"]
        'positive'
        >>> answer = stream.end()
    """

    def __init__(
        self, predictor: Predictor, target: float | None = None, stop: Stop | None = None
    ) -> None:
        if stop is not None and stop.label not in predictor.config.label2id:
            raise UserError(
                f"stop must be one of {', '.join(predictor.config.label2id)}: found {stop.label!r}"
            )
        if stop is not None and score_kind(predictor.config) == "values":
            raise UserError(
                "stop is for a model of labels, and this one predicts numbers: leave it out"
            )
        self._predictor, self._target, self._stop = predictor, target, stop
        self.reset()

    def reset(self) -> None:
        """Start a new text."""
        self.last_word = ""  # with the white space before it; each piece reads it again
        self._tokens, self._characters, self._ended = 0, 0, False  # before the last word
        self._logits, self._state = self._predictor.engine.advance([[]], None)  # (1, C) and (1, K)
        if self._stop is not None:
            self._stop = Stop(self._stop.label, self._stop.threshold, self._stop.in_a_row)

    def feed(self, piece: str) -> dict[str, Any]:
        """Read the next piece of the text, of any length, and return the answer to the text so far.

        It has the number of `tokens` read, and at the place of the stop `stop`: the label with its
        score, and the number of `tokens` and of `characters` of the text up to there.

        Raises:
            UserError: For a piece that is not text, and after `end`.
        """
        return feed_many([self], [piece])[0]

    def feed_tokens(self, piece: str) -> Iterator[dict[str, Any]]:
        """Read the next piece, and yield an answer after each token that no later letter can change."""
        _check([self], [piece])
        final, _, text = self._split(piece)
        for place, token in enumerate(final):
            _advance([self], [[token]])
            scores = compute_scores(self._logits, self._predictor.config)
            answer = self._predictor.answer_scores(scores, self._target)[0]
            yield answer | {"tokens": self._tokens} | self._find_stop(text, place)

    def end(self) -> dict[str, Any]:
        """Return the answer to the whole text, and refuse further pieces until `reset`."""
        answer, self._ended = self.feed("\n"), True  # the last word ends here
        return answer

    def copy(self) -> TextStream:
        """Return a stream that continues the same text on its own."""
        other = copy.copy(self)  # arrays are replaced, not changed
        other._stop = copy.copy(self._stop)
        return other

    def save(self) -> bytes:
        """Return the state, of a few kilobytes, for [`FastRnn.stream`] in any process that has the same model."""
        facts = {
            "last_word": self.last_word,
            "tokens": self._tokens,
            "ended": self._ended,
            "model": self._identify(),
        }
        facts |= {
            "characters": self._characters,
            "target": self._target,
            "stop": self._stop and asdict(self._stop),
        }
        numbers = np.concatenate([self._logits.ravel(), self._state.ravel()]).astype("<f4")
        content = json.dumps(facts).encode() + b"\n" + numbers.tobytes()
        return _MARK + hashlib.sha256(content).digest() + content

    def restore(self, saved: bytes) -> None:
        """Continue from a state of `save`.

        Raises:
            UserError: For other or damaged bytes, and for the state of another model.
        """
        place = len(_MARK) + hashlib.sha256().digest_size
        head, content = (saved[:place], saved[place:]) if isinstance(saved, bytes) else (b"", b"")
        if head != _MARK + hashlib.sha256(content).digest():
            raise UserError(
                "the state is not the bytes of TextStream.save, or damaged: start a new stream"
            )
        header, numbers = content.split(b"\n", 1)
        facts, values = json.loads(header), np.frombuffer(numbers, "<f4").astype(np.float32)
        if facts["model"] != self._identify():
            raise UserError(
                "the state is of another model: load the model that saved it, or start a new stream"
            )
        self.last_word, self._tokens, self._ended = (
            facts["last_word"],
            facts["tokens"],
            facts["ended"],
        )
        self._characters, self._target = facts["characters"], facts["target"]
        self._stop = None if facts["stop"] is None else Stop(**facts["stop"])
        self._logits, self._state = np.split(values[None], [self._logits.size], axis=1)

    def _identify(self) -> str:
        """Return a hash of vocabulary, labels, width of a state, and the logits of a text without tokens."""
        predictor = self._predictor
        config, logits = predictor.config, predictor.engine.advance([[]], None)[0] + 0.0  # -0 is 0
        facts = config.vocab_size, list(config.id2label.values()), self._state.size
        return hashlib.sha256(
            json.dumps(facts).encode() + logits.astype("<f4").tobytes()
        ).hexdigest()[:16]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._predictor).stream, (self._predictor, self.save())

    def _split(self, piece: str) -> tuple[list[int], list[int], str]:
        """Take a piece; return its final tokens, those of the last word, up to the limit, and the final text."""
        text = self.last_word + piece
        cut = max(0, *map(text.rfind, _SPACES))
        self.last_word, self._characters = text[cut:], self._characters + cut
        room = self._predictor.tokenizer.model_max_length - self._tokens
        parts, tokenize = (text[:cut], text[cut:]), self._predictor.tokenize
        final, last = (tokenize([part])[0] if part.strip(_SPACES) else [] for part in parts)
        final = final[: max(0, room)]
        return final, last[: max(0, room - len(final))], text[:cut]

    def _find_stop(self, text: str, place: int) -> dict[str, Any]:
        """Return `stop` for an answer if the text stops after this token of `text`, the last one that was read."""
        if self._stop is None or self._stop.stopped:
            return {}
        label, config = self._stop.label, self._predictor.config
        score = float(compute_scores(self._logits, config)[0, config.label2id[label]])
        if not self._stop.read(score):
            return {}
        encoded = self._predictor.tokenizer([text], return_offsets_mapping=True, verbose=False)
        characters = self._characters - len(text) + encoded["offset_mapping"][0][place][1]
        return {
            "stop": {
                "label": label,
                "score": score,
                "tokens": self._tokens,
                "characters": characters,
            }
        }


def feed_many(streams: Sequence[TextStream], pieces: Sequence[str]) -> list[dict[str, Any]]:
    """Read the next piece of several texts in one call, and return the answers of [`TextStream.feed`] in their order.

    Raises:
        UserError: For a piece that is not text, an ended stream, and streams of several models;
            nothing is read then.
    """
    _check(streams, pieces)
    if not streams:
        return []
    predictor = streams[0]._predictor
    split = [stream._split(piece) for stream, piece in zip(streams, pieces, strict=True)]
    stops: list[dict[str, Any]] = [{} for _ in streams]
    turns = []  # the tokens of each text, one by one where a stop looks at each answer
    for stream, (final, _, _) in zip(streams, split, strict=True):
        is_watched = stream._stop is not None and not stream._stop.stopped
        turns.append([[token] for token in final] if is_watched else [final] * bool(final))
    for turn in range(max(map(len, turns))):
        rows = [row for row, tokens in enumerate(turns) if turn < len(tokens)]
        _advance([streams[row] for row in rows], [turns[row][turn] for row in rows])
        for row in rows:
            stops[row] |= streams[row]._find_stop(split[row][2], turn)
    logits = np.concatenate([stream._logits for stream in streams])
    unfinished = [row for row, (_, last, _) in enumerate(split) if last]
    if unfinished:
        states = np.concatenate([streams[row]._state for row in unfinished])
        logits[unfinished] = predictor.engine.advance(
            [split[row][1] for row in unfinished], states
        )[0]
    answers = predictor.answer_scores(compute_scores(logits, predictor.config), streams[0]._target)
    for answer, stream, (_, last, _), stop in zip(answers, streams, split, stops, strict=True):
        answer |= {"tokens": stream._tokens + len(last)} | stop
    return answers


def _advance(streams: Sequence[TextStream], tokens: Sequence[Sequence[int]]) -> None:
    """Read the next final tokens of several texts."""
    states = np.concatenate([stream._state for stream in streams])
    logits, states = streams[0]._predictor.engine.advance(tokens, states)
    for row, (stream, ids) in enumerate(zip(streams, tokens, strict=True)):
        stream._logits, stream._state = logits[row : row + 1].copy(), states[row : row + 1].copy()
        stream._tokens += len(ids)


def _check(streams: Sequence[TextStream], pieces: Sequence[str]) -> None:
    if len(streams) != len(pieces) or (
        len(streams) > 1 and len(set(map(id, streams))) < len(streams)
    ):
        raise UserError(
            f"give each stream one piece: found {len(streams)} streams and {len(pieces)} pieces"
        )
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
    input_ids: Sequence[Sequence[int]],
    labels: Sequence[Any],
    threshold: float = 0.9,
) -> dict[str, Any]:
    """Return the scores of a streaming model of texts after shares of each text.

    For a task with one label, `early` has the share of texts whose answer reaches the score
    `threshold` (`reached`), and of these the mean share read by then, the share that keep the label
    to the end, and the accuracy of the labels.
    """
    task, config, by_share = task_of(engine.config), engine.config, []
    for share in SHARES:
        ids = [row[: math.ceil(share * len(row))] for row in input_ids]
        scores = task.evaluate(engine.advance(ids, None)[0].astype(float), labels, config)
        numbers = {
            name: value
            for name, value in scores.items()
            if isinstance(value, float) and name != "loss"
        }
        by_share.append({"share": share, **numbers})
    if not task.one_label:
        return {"by_share": by_share}
    lengths = np.array([*map(len, input_ids)])
    # place from 1, and label there
    first, early = np.zeros(len(lengths), int), np.zeros(len(lengths), int)
    last = engine.advance(input_ids, None)[0].argmax(axis=1)
    states = engine.advance([()] * len(lengths), None)[1]
    for place in range(lengths.max(initial=0)):
        rows = np.flatnonzero((lengths > place) & (first == 0))
        tokens = [[input_ids[row][place]] for row in rows.tolist()]
        logits, states[rows] = engine.advance(tokens, states[rows])
        probabilities = compute_scores(logits, config)
        sure = probabilities.max(axis=1) >= threshold
        first[rows[sure]], early[rows[sure]] = place + 1, probabilities[sure].argmax(axis=1)
    reached = first > 0
    facts = {"threshold": threshold, "reached": float(reached.mean())}
    if reached.any():
        facts["share_read"] = float((first[reached] / lengths[reached]).mean())
        facts["kept"] = float((early == last)[reached].mean())
        facts["accuracy"] = float((early == np.asarray(labels))[reached].mean())
    return {"by_share": by_share, "early": facts}


# ---- a guard ----


def measure_guard(
    engine: Engine, input_ids: Sequence[Sequence[int]], is_bad: np.ndarray, label: int
) -> dict[str, Any]:
    """Return what a [`Stop`] of a label does to texts `(N)`, good and bad ones.

    `rules` has by threshold and answers in a row the false stops per 1,000 texts that are not bad,
    the share of bad texts that were missed, and the tokens read before a stop. `at_end` has the
    same of whole texts.
    """
    lengths = np.array([*map(len, input_ids)])
    # after each token
    scores = np.full((len(lengths), max(_MOST_IN_A_ROW, lengths.max(initial=0))), -1.0)
    logits, states = engine.advance([()] * len(lengths), None)
    last = compute_scores(logits, engine.config)[:, label]  # the answer to an empty text
    for place in range(lengths.max(initial=0)):
        rows = np.flatnonzero(lengths > place)
        logits, states[rows] = engine.advance(
            [[input_ids[row][place]] for row in rows.tolist()], states[rows]
        )
        scores[rows, place] = last[rows] = compute_scores(logits, engine.config)[:, label]
    rules, at_end = [], []
    for threshold in GUARDS:
        for in_a_row in range(1, _MOST_IN_A_ROW + 1):
            windows = np.lib.stride_tricks.sliding_window_view(scores, in_a_row, axis=1)
            stops: np.ndarray = windows.min(axis=-1) >= threshold
            stopped = stops.max(axis=1)
            tokens = stops.argmax(axis=1)[is_bad & stopped] + in_a_row
            median, most = (
                float(np.quantile(tokens, share)) if len(tokens) else None for share in (0.5, 0.9)
            )
            facts = {"threshold": threshold, "in_a_row": in_a_row, **_count_stops(stopped, is_bad)}
            rules.append({**facts, "tokens_median": median, "tokens_90": most})
        at_end.append({"threshold": threshold, **_count_stops(last >= threshold, is_bad)})
    return {
        "harmless": int((~is_bad).sum()),
        "bad": int(is_bad.sum()),
        "rules": rules,
        "at_end": at_end,
    }


def _count_stops(stopped: np.ndarray, is_bad: np.ndarray) -> dict[str, float | None]:
    false, caught = (
        float(stopped[rows].mean()) if rows.any() else None for rows in (~is_bad, is_bad)
    )
    per_thousand = None if false is None else 1000 * false
    return {"false_stops_per_1000": per_thousand, "missed": None if caught is None else 1 - caught}


def draw_guard(facts: Mapping[str, Any], path: Path) -> None:
    """Draw the share of bad texts that are caught against the false stops, by rule."""
    groups: dict[str, list[Mapping[str, Any]]] = {"at the end of the text": facts["at_end"]}
    for rule in facts["rules"]:
        groups.setdefault(f"{rule['in_a_row']} in a row", []).append(rule)
    lines = {
        name: [
            (rule["false_stops_per_1000"] or 0, 100 * (1 - (rule["missed"] or 0))) for rule in rules
        ]
        for name, rules in groups.items()
    }
    plot_lines(lines, "false stops per 1,000 harmless texts", "bad texts that are stopped, %", path)
