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
from ..tasks import compute_scores
from ..utils.errors import check_text
from .engines.torch import compute_logits

_TOKENIZING = Lock()  # each call of a tokenizer changes how it truncates, for all threads

_MOST_TOKENS = 256  # left out one by one: 256 runs of 256 tokens take a second or two on one core
_SMALLEST_SCALE = 0.02  # share of the score; smaller effects are never shown at full strength


@dataclass(frozen=True)
class Piece:
    """A token, by the part of the text that it was made from."""

    start: int  # its first character in the text
    end: int  # the character after its last
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

    def highlight(self) -> list[tuple[str, float | None]]:
        """Return the text in parts, each with its effect from -1 to 1, for `gradio.HighlightedText`."""
        largest = max((abs(piece.effect or 0.0) for piece in self.pieces), default=0.0)
        # the effect that is shown at full strength
        scale = max(largest, _SMALLEST_SCALE * abs(self.scores[self.label])) or 1.0
        parts: list[tuple[str, float | None]] = []
        place = 0
        for piece in self.pieces:
            parts.append((self.text[place : piece.start], None))
            effect = None if piece.effect is None else piece.effect / scale
            parts.append((self.text[piece.start : piece.end], effect))
            place = piece.end
        return [part for part in (*parts, (self.text[place:], None)) if part[0]]


def explain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Explanation:
    """Predict the label of a text by a model in evaluation mode, and measure the effect of its first tokens.

    Raises:
        UserError: For a text that is not valid Unicode, and for logits that are not finite.
    """
    check_text(text)
    with _TOKENIZING:
        encoded = tokenizer(text, truncation=True, return_offsets_mapping=tokenizer.is_fast)
        tokens = len(tokenizer(text, verbose=False)["input_ids"])
    ids = encoded["input_ids"]
    variants = [ids[:place] + ids[place + 1 :] for place in range(min(len(ids), _MOST_TOKENS))]
    logits = compute_logits(model, tokenizer, [ids, *variants])  # (1 + variants, C)
    check_finite_logits(logits)
    scores = compute_scores(logits.numpy(), model.config)
    label = int(scores[0].argmax())
    effects = (scores[0, label] - scores[1:, label]).tolist()
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    by_label = dict(zip(names, scores[0].tolist(), strict=True))
    pieces = tuple(_find_pieces(tokenizer, text, encoded, [*effects, *[None] * (len(ids) - len(effects))]))
    return Explanation(text, by_label, names[label], pieces, tokens, len(ids))


def words_read(tokenizer: PreTrainedTokenizerBase, text: str, encoded: BatchEncoding) -> list[str] | None:
    """Return the word behind each token as the normaliser left it; None if the tokenizer does not provide words."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None:
        return None
    normalized = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized)]
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    places = encoded.word_ids()
    if any(place is not None and place >= len(words) for place in places):
        return None  # added tokens, such as marks of capitals, cut the text into further words
    return [token if place is None else words[place] for place, token in zip(places, tokens, strict=True)]


def _find_pieces(
    tokenizer: PreTrainedTokenizerBase, text: str, encoded: BatchEncoding, effects: Sequence[float | None]
) -> list[Piece]:
    """Return the tokens that were made from characters of the text.

    If a rule replaces `@name` by `<user>`, or `soooo` by `soo`, the offsets lack characters. So a whole word begins
    after the previous token or the last space.
    """
    if "offset_mapping" not in encoded:  # tokenizers without a backend, such as ByT5's
        return []
    is_word_level = type(tokenizer.backend_tokenizer.model).__name__ == "WordLevel"
    whole_words = is_word_level and words_read(tokenizer, text, encoded) is not None
    pieces, last = [], 0
    for (start, end), effect in zip(encoded["offset_mapping"], effects, strict=True):
        if whole_words and text[last:end].strip() and not text[end - 1].isspace():
            start = end - len(text[last:end].split()[-1])
        end += text[end : end + 1] == "\ufe0f"  # asks for a coloured picture of the sign before
        if (start := max(start, last)) < end:
            pieces.append(Piece(start, end, effect))
            last = end
    return pieces
