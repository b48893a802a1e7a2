"""Explain an answer: the words and phrases of a text that count most for its label.

The linear part of a classifier is a sum over n-grams, so the share of each is exact. For the
network the number of a word is the loss in logit when only this word is left out ("erasure", Li,
Monroe and Jurafsky 2016, "Understanding Neural Networks through Representation Erasure").
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation.scores import check_finite_logits
from ..linear.ngrams import NgramTable, hash_ngrams
from ..tasks import Answer, compute_scores, score_kind
from ..utils.errors import UserError, check_text

if TYPE_CHECKING:
    from .predictor import Predictor

_MOST_WORDS = 256  # left out one by one
_WORD = re.compile(r"\w[\w'’-]*|[^\w\s]+")


@dataclass(frozen=True)
class _Reading:
    """The tokens of a text, and the words that they belong to."""

    text: str
    ids: list[int]
    spans: list[tuple[int, int]]  # places of the words in the text
    words: np.ndarray  # (T), the word of each token; -1 for a token without letters of the text

    def leave_out(self, word: int) -> list[int]:
        """Return the ids of all tokens but those of a word."""
        return np.array(self.ids, int)[self.words != word].tolist()

    def quote(self, first: int, last: int) -> str:
        """Return the words from one token to another; empty if a token belongs to no word."""
        words = self.words[first : last + 1]
        if words.min() < 0:
            return ""
        start = self.spans[words.min()][0]
        end = self.spans[words.max()][1]
        return " ".join(self.text[start:end].split())


def explain_text(model: Predictor, text: str, most: int = 8) -> Answer:
    """Return the answer with `because`: a list of `[phrase, number]`; see [`FastRnn.explain`]."""
    check_model(model)
    check_text(text)
    table = model.engine.read_ngrams()
    reading = _read(model, text)
    logits = model.logits([reading.ids])
    check_finite_logits(logits)
    scores = compute_scores(logits, model.config)
    direction = np.eye(logits.shape[1])[scores[0].argmax()]
    if score_kind(model.config) == "softmax":
        direction -= direction.mean()  # the logit above the mean of all labels

    numbers = defaultdict[str, float](float)
    for phrase, number in _measure_words(model, reading, table, direction):
        numbers[phrase] += number
    if table is not None:
        for phrase, number in _measure_ngrams(reading, table, direction):
            numbers[phrase] += number
    numbers.pop("", None)
    ordered = sorted(numbers.items(), key=lambda item: -abs(item[1]))
    because = [[phrase, round(number, 3)] for phrase, number in ordered[:most]]
    return {**model.answer_scores(scores)[0], "because": because}


def check_model(model: Predictor) -> None:
    """Raise a [`UserError`] for a model whose answers cannot be explained."""
    if model.task.per_token:
        raise UserError("a tagger marks words itself: explain is for labels and numbers of texts")
    if model.config.sep_token_id is not None:
        raise UserError("explain is for single texts: this model reads pairs")


def _read(model: Predictor, text: str) -> _Reading:
    """Return a text as tokens and words; without spaces between words, a token is a word."""
    encoded = model.tokenizer([text], truncation=True, return_offsets_mapping=True)
    spans: list[tuple[int, int]] = []
    words: list[int] = []
    for start, end in encoded["offset_mapping"][0]:
        last = spans[-1][1] if spans else 0
        if start >= last:
            # a token such as <user> has the place of its last letter alone
            skipped = re.split(r"\s", text[last:start])[-1]
            match = _WORD.search(text, start - len(skipped))
            if match is None or match.start() >= end:
                words.append(-1)
                continue
            is_wide = unicodedata.east_asian_width(match[0][0]) in "WF"
            spans.append((match.start(), end if is_wide else max(end, match.end())))
        words.append(len(spans) - 1)
    return _Reading(text, list(encoded["input_ids"][0]), spans, np.array(words, int))


def _measure_words(
    model: Predictor, reading: _Reading, table: NgramTable | None, direction: np.ndarray
) -> Iterator[tuple[str, float]]:
    """Yield the first words, with the loss of the network without each."""
    spans = reading.spans[:_MOST_WORDS]
    variants = [reading.ids, *map(reading.leave_out, range(len(spans)))]
    logits = model.logits(variants)
    if table is not None:
        logits = logits - table.score(variants)
    whole, *without = (logits @ direction).tolist()
    for (start, end), number in zip(spans, without, strict=True):
        yield reading.text[start:end], whole - number


def _measure_ngrams(
    reading: _Reading, table: NgramTable, direction: np.ndarray
) -> Iterator[tuple[str, float]]:
    """Yield the n-grams, as the words that have a part in them, with what each adds."""
    ids = np.array(reading.ids, np.int64)
    ngrams = hash_ngrams(ids, np.array([len(ids)]))
    _, distinct = np.unique(ngrams.hashes, return_index=True)
    rows = table.find_rows(ngrams.hashes)
    added = table.weight[rows] * table.scale @ direction / math.sqrt(max(1, len(ids)))
    for place in distinct[rows[distinct] >= 0].tolist():
        first = int(ngrams.places[place])
        yield reading.quote(first, first + int(ngrams.sizes[place]) - 1), float(added[place])
