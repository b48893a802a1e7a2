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
from ..linear.ngrams import hash_ngrams
from ..tasks import compute_scores, score_kind
from ..utils.errors import UserError, check_text

if TYPE_CHECKING:
    from .predict import FastRnn

_MOST_WORDS = 256  # left out one by one
_MARKS = "\u0300-\u036f\ufe0f"  # belong to the letter or the picture before
_WORD = re.compile(rf"\w[\w'’{_MARKS}-]*|([^\w\s])(?:\1|[{_MARKS}])*")


@dataclass(frozen=True)
class Explanation:
    """The scores of a text, and what its words and phrases add to the logit of the best label."""

    text: str
    scores: np.ndarray  # (1, C)
    words: list[tuple[int, int]]  # places of the words in the text
    shares: list[tuple[int, int, float]]  # first and last word of a phrase, and what it adds

    def phrases(self, most: int) -> list[list[object]]:
        """Return the phrases with the largest numbers as `[phrase, number]`, repeats added up."""
        numbers = defaultdict[str, float](float)
        for first, last, number in self.shares:
            quote = self.text[self.words[first][0] : self.words[last][1]]
            numbers[" ".join(quote.split())] += number
        ordered = sorted(numbers.items(), key=lambda item: -abs(item[1]))
        return [[phrase, round(number, 3)] for phrase, number in ordered[:most]]

    def parts(self) -> Iterator[tuple[str, float | None]]:
        """Yield the whole text in parts: words with their numbers, and None for what is between.

        Each word of a phrase has an equal part of its number.
        """
        numbers: dict[int, float] = {}
        for first, last, number in self.shares:
            for word in range(first, last + 1):
                numbers[word] = numbers.get(word, 0.0) + number / (last + 1 - first)
        place = 0
        for word, (start, end) in enumerate(self.words):
            if start > place:
                yield self.text[place:start], None
            yield self.text[start:end], numbers.get(word)
            place = end
        if place < len(self.text):
            yield self.text[place:], None


def explain_spans(model: FastRnn, text: str) -> Explanation:
    """Explain the answer to a text; see [`FastRnn.explain`]."""
    check_explains(model)
    check_text(text)
    table = model.engine.read_ngrams()
    encoded = model.tokenizer([text], truncation=True, return_offsets_mapping=True)
    ids = np.array(encoded["input_ids"][0], np.int64)
    words, word_of = _find_words(text, encoded["offset_mapping"][0])
    left_out = range(min(len(words), _MOST_WORDS))
    variants = [ids.tolist(), *(ids[word_of != word].tolist() for word in left_out)]
    logits = model.logits(variants)
    check_finite_logits(logits[:1])
    scores = compute_scores(logits[:1], model.config)
    direction = np.eye(logits.shape[1])[scores[0].argmax()]
    if score_kind(model.config) == "softmax":
        direction -= direction.mean()  # the logit above the mean of all labels

    if table is not None:
        logits = logits - table.score(variants)
    whole, *without = (logits @ direction).tolist()
    shares = [(word, word, whole - without[word]) for word in left_out]
    if table is not None:
        ngrams = hash_ngrams(ids, np.array([len(ids)]))
        _, distinct = np.unique(ngrams.hashes, return_index=True)
        rows = table.find_rows(ngrams.hashes)
        added = table.weight[rows] * table.scale @ direction / math.sqrt(max(1, len(ids)))
        for place in distinct[rows[distinct] >= 0].tolist():
            first = ngrams.places[place]
            members = word_of[first : first + ngrams.sizes[place]]
            if members.min() >= 0:
                shares.append((int(members.min()), int(members.max()), float(added[place])))
    return Explanation(text, scores, words, shares)


def check_explains(model: FastRnn) -> None:
    """Raise a [`UserError`] for a model whose answers cannot be explained."""
    if model.task.per_token:
        raise UserError("a tagger marks words itself: explain is for labels and numbers of texts")
    if model.config.sep_token_id is not None:
        raise UserError("explain is for single texts: this model reads pairs")


def _find_words(
    text: str, offsets: list[tuple[int, int]]
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return the places of words as they are written, and the word of each token.

    It is -1 for a token without letters of the text. Without spaces between words, a token is a
    word.
    """
    words: list[tuple[int, int]] = []
    word_of: list[int] = []
    for start, end in offsets:
        last = words[-1][1] if words else 0
        if start >= last:
            # a token such as <user> has the place of its last letter alone
            skipped = re.split(r"\s", text[last:start])[-1]
            match = _WORD.search(text, start - len(skipped))
            if match is None or match.start() >= end:
                word_of.append(-1)
                continue
            is_wide = unicodedata.east_asian_width(match[0][0]) in "WF"
            words.append((match.start(), end if is_wide else max(end, match.end())))
        word_of.append(len(words) - 1)
    return words, np.array(word_of, int)
