"""Measure the effect of each token of a text on the predicted label, and show it as HTML.

It is the loss in score of the label when only this token is left out ("erasure", Li, Monroe and Jurafsky 2016,
"Understanding Neural Networks through Representation Erasure"). In the HTML everything from a text or a model is
escaped, template signs included; there is no script.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.scores import check_finite_logits
from ..tasks.answers import compute_scores
from ..utils.text_checks import check_text
from .reference import compute_logits

_TOKENIZING = Lock()  # each call of a tokenizer changes how it truncates, for all threads

MAX_TOKENS = 256  # left out one by one: 256 runs of 256 tokens take a second or two on one core

_FOR, _AGAINST = "37, 99, 235", "217, 119, 6"  # blue and amber, which colour-blind people can distinguish
_STRONGEST = 0.6  # opacity of the strongest token; dark and light letters are readable on it
_SMALLEST_SCALE = 0.02  # share of the score; smaller effects are never shown at full strength

_STYLE = """
<style>
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; line-height: 2; max-height: 22rem;
  overflow-y: auto; font-size: 1.05rem; }
.tokens mark { color: inherit; padding: 0.15em 0.1em; border-radius: 0.25em; }
.tokens .unknown, .legend u { text-decoration: underline dotted; text-underline-offset: 0.3em; }
.tokens small { opacity: 0.65; font-size: 0.72em; padding-inline-start: 0.3em; }
.tokens .unread { opacity: 0.45; }
.legend { padding-top: 0.9em; font-size: 0.85rem; opacity: 0.8; line-height: 1.7; }
.legend span { display: inline-block; margin-inline-end: 1.2em; }
.legend i { display: inline-block; width: 1.6em; height: 0.9em; border-radius: 0.2em; vertical-align: -0.1em; }
</style>
"""


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
    whole_words = type(tokenizer.backend_tokenizer.model).__name__ == "WordLevel"
    words = words_read(tokenizer, text, encoded) if whole_words else None
    pieces, last = [], 0
    for place, (start, end) in enumerate(encoded["offset_mapping"]):
        if words is not None and text[last:end].strip() and not text[end - 1].isspace():
            start = end - len(text[last:end].split()[-1])
        end += text[end : end + 1] == "\ufe0f"  # asks for a coloured picture of the sign before
        if (start := max(start, last)) < end:
            in_vocabulary = encoded["input_ids"][place] != tokenizer.unk_token_id
            pieces.append(Piece(start, end, words[place] if words else None, in_vocabulary, effects[place]))
            last = end
    return pieces


def escape(text: str) -> str:
    """Escape a text for HTML that goes through a page's templates: `$`, `{`, `}` and the backquote too."""
    return html.escape(text).translate({ord(sign): f"&#{ord(sign)};" for sign in "${}`\\"})


def colour(explanation: Explanation) -> str:
    """Return an explanation as HTML, each token on a colour that shows its effect, with a legend."""
    if not explanation.pieces:
        note = "The model finds no words in this text: this is its prediction for an empty one."
        if explanation.tokens:
            note = "The tokenizer does not provide the places of its tokens in the text."
        return f'{_STYLE}<div class="legend">{note}</div>'
    largest = max(abs(piece.effect or 0.0) for piece in explanation.pieces)
    # the effect that is shown at full strength
    scale = max(largest, _SMALLEST_SCALE * abs(explanation.scores[explanation.label])) or 1.0
    marked, place = [], 0
    for piece in explanation.pieces:
        marked.append(_between(explanation.text[place : piece.start]))
        marked.append(_mark(piece, explanation.text[piece.start : piece.end], scale))
        place = piece.end
    marked.append(_between(explanation.text[place:]))
    words = f'<div class="tokens" dir="auto">{"".join(marked)}</div>'
    return f'{_STYLE}{words}<div class="legend">{_legend(explanation)}</div>'


def _between(text: str) -> str:
    """Return the characters between two tokens."""
    return escape(text) if not text.strip() else f'<span class="unread">{escape(text)}</span>'


def _mark(piece: Piece, shown: str, scale: float) -> str:
    notes, style, read = [], "", ""
    if piece.effect is not None:
        strength = _STRONGEST * min(abs(piece.effect) / scale, 1)
        style = f' style="background: rgba({_FOR if piece.effect >= 0 else _AGAINST}, {strength:.3f})"'
        notes.append(f"{piece.effect:+.3f}")
    if not piece.in_vocabulary:
        notes.append("not in the vocabulary")
    if piece.word is not None and piece.word.lower() != shown.lower():
        notes.append(f"read as {piece.word}")
        if not shown.lower().startswith(piece.word.lower()):  # no note for `so` of `sooo`
            read = f"<small>{escape(piece.word)}</small>"
    unknown = "" if piece.in_vocabulary else ' class="unknown"'
    return f'<mark{unknown}{style} title="{escape(", ".join(notes))}">{escape(shown)}{read}</mark>'


def _legend(explanation: Explanation) -> str:
    label = escape(explanation.label)
    swatch = '<i style="background: rgba({}, {})"></i>'
    items = [f"{swatch.format(_FOR, _STRONGEST)} speaks for <b>{label}</b>: without the word its score is lower"]
    items.append(f"{swatch.format(_AGAINST, _STRONGEST)} speaks against it")
    if any(not piece.in_vocabulary for piece in explanation.pieces):
        items.append("<u>dotted</u> unknown to the model")
    lines = [" ".join(f"<span>{item}</span>" for item in items)]
    if explanation.tokens > explanation.read:
        lines.append(f"The model reads the first {explanation.read} of the {explanation.tokens} words.")
    explained = sum(piece.effect is not None for piece in explanation.pieces)
    if explained < len(explanation.pieces):
        lines.append(f"Colours are computed for the first {explained} words only.")
    return "<br>".join(lines)
