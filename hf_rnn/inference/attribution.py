"""Measure the effect of each token of a text on the predicted label.

It is the loss in score of the label when only this token is left out ("erasure", Li, Monroe and Jurafsky 2016,
"Understanding Neural Networks through Representation Erasure").
"""

from __future__ import annotations

from dataclasses import dataclass

from ..evaluation.scores import check_finite_logits
from ..tasks import compute_scores
from ..utils.errors import check_text
from .predictor import Predictor

_MOST_TOKENS = 256  # left out one by one


@dataclass(frozen=True)
class Explanation:
    """The prediction for a text, and the effects of its tokens.

    An effect is the score of `label` minus its score without the token; negative if the token is evidence against it.
    """

    scores: dict[str, float]  # by label, in the order of the ids
    label: str  # the label with the highest score
    parts: list[tuple[str, float | None]]  # the text; None between tokens, and for tokens after the explained ones
    tokens: int  # in the text, truncated ones included
    read: int  # tokens that the model reads


def explain(model: Predictor, text: str) -> Explanation:
    """Predict the label of a text, and measure the effect of its first tokens.

    Raises:
        UserError: For a text that is not valid Unicode, and for logits that are not finite.
    """
    check_text(text)
    encoded = model.tokenizer([text], truncation=True, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0]
    tokens = len(model.tokenizer([text], verbose=False)["input_ids"][0])
    variants = [ids[:place] + ids[place + 1 :] for place in range(min(len(ids), _MOST_TOKENS))]
    logits = model.logits([ids, *variants])  # (1 + variants, C)
    check_finite_logits(logits)
    scores, names = compute_scores(logits, model.config), list(model.config.id2label.values())
    best = int(scores[0].argmax())
    effects = [*(scores[0, best] - scores[1:, best]).tolist(), *[None] * (len(ids) - len(variants))]
    parts: list[tuple[str, float | None]] = []
    last = 0
    for (start, end), effect in zip(offsets, effects, strict=True):
        gap = text[last:start]
        if gap and not gap[-1].isspace():  # a token such as <user> has the place of its last letter alone
            start -= len(gap.split()[-1])
        start = max(start, last)
        end += text[end : end + 1] == "\ufe0f"  # asks for a coloured picture of the sign before
        if start < end:
            parts += [(text[last:start], None), (text[start:end], effect)]
            last = end
    parts = [(piece, effect) for piece, effect in (*parts, (text[last:], None)) if piece]
    return Explanation(dict(zip(names, scores[0].tolist(), strict=True)), names[best], parts, tokens, len(ids))
