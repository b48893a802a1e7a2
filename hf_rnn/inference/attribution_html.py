"""Render an explanation as HTML: the text, each token on a colour that shows its weight or effect.

Everything from a text or a model is escaped, template signs included; there is no script.
"""

from __future__ import annotations

import html

from .attribution import Explanation, Piece

_FOR, _AGAINST = "37, 99, 235", "217, 119, 6"  # blue and amber, which colour-blind people can distinguish
_STRONGEST = 0.6  # opacity of the strongest token; dark and light letters are readable on it
_SWATCH_FOR, _SWATCH_AGAINST = (
    f'<i style="background: rgba({colour}, {_STRONGEST})"></i>' for colour in (_FOR, _AGAINST)
)
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


def escape(text: str) -> str:
    """Escape a text for HTML that goes through a page's templates: `$`, `{`, `}` and the backquote too."""
    return html.escape(text).translate({ord(sign): f"&#{ord(sign)};" for sign in "${}`\\"})


def colour(explanation: Explanation) -> str:
    """Return an explanation as HTML without a script, with a legend of the colours."""
    if not explanation.pieces:
        note = "The model finds no words in this text: this is its prediction for an empty one."
        if explanation.tokens:
            note = "The tokenizer does not provide the places of its tokens in the text."
        return f'{_STYLE}<div class="legend">{note}</div>'
    largest = max((abs(piece.effect) for piece in explanation.pieces if piece.effect is not None), default=0.0)
    # the effect that is shown at full strength
    scale = max(largest, _SMALLEST_SCALE * abs(explanation.scores[explanation.label])) or 1.0
    marked, place = [], 0
    for piece in explanation.pieces:
        marked.append(_between(explanation.text[place : piece.start]))
        marked.append(_mark(piece, explanation, scale))
        place = piece.end
    marked.append(_between(explanation.text[place:]))
    words = f'<div class="tokens" dir="auto">{"".join(marked)}</div>'
    return f'{_STYLE}{words}<div class="legend">{_legend(explanation)}</div>'


def _between(text: str) -> str:
    """Return the characters between two tokens."""
    return escape(text) if not text.strip() else f'<span class="unread">{escape(text)}</span>'


def _mark(piece: Piece, explanation: Explanation, scale: float) -> str:
    shown = explanation.text[piece.start : piece.end]
    notes, style = [], ""
    if piece.effect is not None:
        strength = _STRONGEST * min(abs(piece.effect) / scale, 1)
        style = f' style="background: rgba({_FOR if piece.effect >= 0 else _AGAINST}, {strength:.3f})"'
        notes.append(f"{piece.effect:+.3f}")
    if not piece.in_vocabulary:
        notes.append("not in the vocabulary")
    read = ""
    if piece.word is not None and piece.word.lower() != shown.lower():
        notes.append(f"read as {piece.word}")
        if not shown.lower().startswith(piece.word.lower()):  # no note for `so` of `sooo`
            read = f"<small>{escape(piece.word)}</small>"
    mark = "" if piece.in_vocabulary else ' class="unknown"'
    return f'<mark{mark}{style} title="{escape(", ".join(notes))}">{escape(shown)}{read}</mark>'


def _legend(explanation: Explanation) -> str:
    label = escape(explanation.label)
    items = [f"{_SWATCH_FOR} speaks for <b>{label}</b>: without the word its score is lower"]
    items.append(f"{_SWATCH_AGAINST} speaks against it")
    if any(not piece.in_vocabulary for piece in explanation.pieces):
        items.append("<u>dotted</u> unknown to the model")
    lines = [" ".join(f"<span>{item}</span>" for item in items)]
    if explanation.tokens > explanation.read:
        lines.append(f"The model reads the first {explanation.read} of the {explanation.tokens} words.")
    explained = sum(piece.effect is not None for piece in explanation.pieces)
    if explained < len(explanation.pieces):
        lines.append(f"Colours are computed for the first {explained} words only.")
    return "<br>".join(lines)
