"""One text and a model → its scores, and how much each token of the text has to do with them.

Two measures, both as old as they are plain. Where the model pools by attention, a token's weight in the pooled vector.
Elsewhere, what the probability of the predicted label loses when the token alone is left out ("erasure", Li, Monroe
and Jurafsky 2016, "Understanding Neural Networks through Representation Erasure"). Nothing here draws; nothing here
knows of pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ..data.text_checks import check_text
from ..evaluation.classification import check_finite_logits
from ..models.modeling_rnn import RnnForSequenceClassification
from .reference import compute_logits, compute_scores

_TOKENIZING = Lock()  # a tokenizer keeps how it cuts from one call to the next, whoever calls

MAX_TOKENS = 256  # left out one by one: 256 runs of 256 tokens take a second or two on one core

_JOINS = (
    "\ufe0f\u200d"  # ask for a coloured picture, and glue several into one: a sign on the screen with what is before
)


@dataclass(frozen=True)
class Piece:
    """A token, as the part of the user's text that it was made of.

    Attributes:
        start: Its first character in the text.
        end: The character after its last.
        word: What the model's vocabulary was asked for, such as `<url>`; None where the tokenizer cuts words further.
        known: Whether it is in the vocabulary.
        effect: Weight or effect; None for a token behind those that are explained.
    """

    start: int
    end: int
    word: str | None
    known: bool
    effect: float | None


@dataclass(frozen=True)
class Explanation:
    """What a model makes of a text.

    Attributes:
        text: The text.
        scores: By label, in the order of the ids.
        label: That of the highest score.
        measure: `attention`: effects are pooling weights, from 0 to 1, and sum to 1 with those of tokens that stand
            nowhere in the text, such as `[CLS]`. `leave_one_out`: an effect is the score of `label` less what it is
            without the token; negative where the token speaks against the label.
        pieces: The tokens that were read, in the order of the text.
        tokens: How many tokens the text has, those that are not read among them.
        max_length: How many are read at most.
        max_explained: How many are explained at most.
    """

    text: str
    scores: dict[str, float]
    label: str
    measure: Literal["attention", "leave_one_out"]
    pieces: tuple[Piece, ...]
    tokens: int
    max_length: int
    max_explained: int


def explain(
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    max_tokens: int = MAX_TOKENS,
) -> Explanation:
    """Label a text and measure what its tokens have to do with the label.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        text: Any text; that of a text without tokens is what the model says of an empty one.
        max_tokens: How many tokens are left out one by one at most, from the first. Weights come at no cost, and have
            no such bound.

    Raises:
        UserError: For a text that is no Unicode, and for logits that are not finite.
    """
    check_text(text)
    with _TOKENIZING:
        encoded = tokenizer(text, truncation=True, return_offsets_mapping=tokenizer.is_fast)
        tokens = len(tokenizer(text, verbose=False)["input_ids"])
    ids = encoded["input_ids"]
    attention = model.config.pooling == "attention"
    explained = len(ids) if attention else min(len(ids), max_tokens)
    variants = [] if attention else [ids[:place] + ids[place + 1 :] for place in range(explained)]
    logits = compute_logits(model, tokenizer, [ids, *variants])  # (1 + variants, C)
    check_finite_logits(logits)
    scores = compute_scores(model, logits)
    label = int(scores[0].argmax())
    effects = _weights(model, ids) if attention else (scores[0, label] - scores[1:, label]).tolist()
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    return Explanation(
        text=text,
        scores=dict(zip(names, scores[0].tolist(), strict=True)),
        label=names[label],
        measure="attention" if attention else "leave_one_out",
        pieces=_pieces(tokenizer, text, encoded, effects),
        tokens=tokens,
        max_length=tokenizer.model_max_length,
        max_explained=tokenizer.model_max_length if attention else max_tokens,
    )


@torch.inference_mode()
def _weights(model: RnnForSequenceClassification, ids: Sequence[int]) -> list[float]:
    """The pooling weight of each token."""
    if not ids:
        return []
    input_ids = torch.tensor([list(ids)], device=model.device)  # (1, T)
    return model(input_ids, torch.ones_like(input_ids), return_dict=True).pooling_weights[0].float().tolist()


def words_read(tokenizer: PreTrainedTokenizerBase, text: str, encoded: BatchEncoding) -> list[str] | None:
    """Return the word behind each token, as the normaliser left it: tells what an unknown token was.

    Args:
        tokenizer: The tokenizer.
        text: A text.
        encoded: What the tokenizer made of it.

    Returns:
        A word a token; None for a tokenizer of which that cannot be told.
    """
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
    """Find the characters behind each token; a token of the tokenizer's own has none."""
    ids, spans = encoded["input_ids"], encoded.get("offset_mapping")
    if spans is None:  # ByT5's, for one, tells no offsets
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
    """Give back to tokens what the normaliser took.

    Where a rule of it replaces `@name` by `<user>`, the offsets are those of the last character only: a word that is
    not what stands there has all the signs before it too, up to a space or another token. What follows a token and
    repeats its last sign (`soooo`) or joins it belongs to it.
    """
    widened: list[tuple[int, int]] = []
    floor = 0
    for place, ((start, end), word) in enumerate(zip(spans, words, strict=True)):
        if text[start:end].lower() != word.lower():
            while start > floor and not text[start - 1].isspace():
                start -= 1
        ceiling = spans[place + 1][0] if place + 1 < len(spans) else len(text)
        last = text[end - 1 : end].lower()
        while 0 < end < ceiling and (text[end].lower() == last or text[end] in _JOINS):
            end += 1
        widened.append((start, end))
        floor = end
    return widened
