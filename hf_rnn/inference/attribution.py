"""Measure the effect of each token of a text on the predicted label.

It is the loss in score of the label when only this token is left out ("erasure", Li, Monroe and Jurafsky 2016,
"Understanding Neural Networks through Representation Erasure").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.scores import check_finite_logits
from ..utils.text_checks import check_text
from .reference import compute_logits, compute_scores

_TOKENIZING = Lock()  # each call of a tokenizer changes how it truncates, for all threads

MAX_TOKENS = 256  # left out one by one: 256 runs of 256 tokens take a second or two on one core

_JOINERS = "\ufe0f\u200d"  # ask for a coloured picture, and join pictures into one; shown with the sign before


@dataclass(frozen=True)
class Piece:
    """A token, and the part of the text that it was made from."""

    start: int  # its first character in the text
    end: int  # the character after its last
    word: str | None  # is looked up in the vocabulary, such as `<url>`; None if the tokenizer cuts words further
    in_vocabulary: bool
    effect: float | None  # None for tokens after the explained ones


@dataclass(frozen=True)
class Explanation:
    """The prediction for a text, and the effects of its tokens.

    An effect is the score of `label` minus its score without the token; negative if the token is evidence against it.
    """

    text: str
    scores: dict[str, float]  # by label, in the order of the ids
    label: str  # the label with the highest score
    pieces: tuple[Piece, ...]  # the tokens that were read, in the order of the text
    tokens: int  # in the text, truncated ones included
    read: int  # tokens that the model reads


def explain(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int = MAX_TOKENS
) -> Explanation:
    """Predict the label of a text and measure the effect of its tokens.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        text: Any text.
        max_tokens: Most tokens that are left out one by one, from the first.

    Raises:
        UserError: For a text that is not valid Unicode, and for logits that are not finite.
    """
    check_text(text)
    with _TOKENIZING:
        encoded = tokenizer(text, truncation=True, return_offsets_mapping=tokenizer.is_fast)
        tokens = len(tokenizer(text, verbose=False)["input_ids"])
    ids = encoded["input_ids"]
    variants = [ids[:place] + ids[place + 1 :] for place in range(min(len(ids), max_tokens))]
    logits = compute_logits(model, tokenizer, [ids, *variants])  # (1 + variants, C)
    check_finite_logits(logits)
    scores = compute_scores(model, logits)
    label = int(scores[0].argmax())
    effects = (scores[0, label] - scores[1:, label]).tolist()
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    by_label = dict(zip(names, scores[0].tolist(), strict=True))
    return Explanation(text, by_label, names[label], _pieces(tokenizer, text, encoded, effects), tokens, len(ids))


def words_read(tokenizer: PreTrainedTokenizerBase, text: str, encoded: BatchEncoding) -> list[str] | None:
    """Return the word behind each token as the normaliser left it; None if the tokenizer does not provide words."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None:
        return None
    normalized = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized)]
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    places = encoded.word_ids()
    return [
        words[place] if place is not None and place < len(words) else token
        for place, token in zip(places, tokens, strict=True)
    ]


def _pieces(
    tokenizer: PreTrainedTokenizerBase, text: str, encoded: BatchEncoding, effects: Sequence[float]
) -> tuple[Piece, ...]:
    """Return the tokens that were made from characters of the text."""
    ids, spans = encoded["input_ids"], encoded.get("offset_mapping")
    if spans is None:  # tokenizers without a backend, such as ByT5's
        return ()
    whole_words = type(tokenizer.backend_tokenizer.model).__name__ == "WordLevel"
    words = words_read(tokenizer, text, encoded) if whole_words else None
    if words is not None:
        spans = _widen(text, spans, words)
    return tuple(
        Piece(
            start,
            end,
            words[place] if words is not None else None,
            ids[place] != tokenizer.unk_token_id,
            effects[place] if place < len(effects) else None,
        )
        for place, (start, end) in enumerate(spans)
        if start < end
    )


def _widen(text: str, spans: Sequence[tuple[int, int]], words: Sequence[str]) -> list[tuple[int, int]]:
    """Return spans extended by the characters that the normaliser removed.

    If a rule replaces `@name` by `<user>`, the offsets contain only its last character. So a word that differs from
    its span also gets the characters before it, up to a space or another token. Characters beside a token that repeat
    its own (`soooo`, `!!!!`), or join it, belong to it.
    """
    widened: list[tuple[int, int]] = []
    floor = 0
    for place, ((start, end), word) in enumerate(zip(spans, words, strict=True)):
        if text[start:end].lower() != word.lower():
            while start > floor and not text[start - 1].isspace():
                start -= 1
        first = text[start : start + 1].lower()
        while floor < start and text[start - 1].lower() == first:
            start -= 1
        ceiling = spans[place + 1][0] if place + 1 < len(spans) else len(text)
        last = text[end - 1 : end].lower()
        while 0 < end < ceiling and (text[end].lower() == last or text[end] in _JOINERS):
            end += 1
        widened.append((start, end))
        floor = end
    return widened
