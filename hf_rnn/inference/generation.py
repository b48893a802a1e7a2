"""Continue a text with a language model: by the kernel in C, or by the plain model of torch.

All that is kept of a text is the state after it, so that a token costs one step, at any length of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .tokens import Tokenizer

_PIECE = 4096  # tokens that are read at once: all at once, 3 MB take 7 GB
_LEAST = 1e-3  # temperature; below it, the likeliest token is taken
_CONTEXT = 8  # tokens before new ones, on which the text of these can depend


class TextGenerator:
    """A language model that writes.

    Args:
        model: A model of torch in evaluation mode.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
        self._model, self.tokenizer = model, tokenizer
        ends = model.generation_config.to_dict().get("eos_token_id")
        self._ends = ends if isinstance(ends, list) else [ends]

    def stream(
        self,
        ids: Sequence[int],
        most: int,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Iterator[str]:
        """Yield the text of token ids, and its continuation by `most` tokens as it grows; see [`draw_token`].

        A token at the end of a text ends the continuation. An unknown token is never drawn.
        """

        def decode(tokens: Sequence[int]) -> str:
            return self.tokenizer.decode(tokens, skip_special_tokens=True)

        before: list[int] = []
        new: list[int] = []
        chance = np.random.default_rng(seed)
        draw = partial(draw_token, chance=chance, temperature=temperature, top_k=top_k, top_p=top_p)
        for piece in chain([ids], self._continue(ids, most, draw)):
            new += piece
            text = decode(before + new)[len(decode(before)) :]
            if text and not text.endswith("\ufffd"):  # a part of a character
                yield text
                before, new = new[-_CONTEXT:], []
        yield decode(before + new)[len(decode(before)) :]

    def _continue(self, ids: Sequence[int], most: int, draw: Callable[[np.ndarray], int]) -> Iterator[list[int]]:
        """Yield further tokens, each as a list."""
        state, unknown = None, self.tokenizer.unk_token_id
        for _ in range(most):
            for start in range(0, len(ids), _PIECE):
                logits, state = self._advance(ids[start : start + _PIECE], state)
            if unknown is not None:
                logits[unknown] = -np.inf
            ids = [draw(logits)]
            if ids[0] in self._ends:
                return
            yield ids

    def _advance(self, ids: Sequence[int], cache: Any) -> tuple[np.ndarray, Any]:
        import torch

        tokens = torch.tensor([list(ids)], device=self._model.device)
        with torch.no_grad():
            output = self._model(tokens, torch.ones_like(tokens), cache=cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1].float().cpu().numpy(), output.cache


def draw_token(
    logits: np.ndarray, chance: np.random.Generator, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> int:
    """Draw a token, with the probabilities of `generate` of transformers for these settings.

    Args:
        logits: Scores of the tokens (V).
        chance: Where numbers are drawn from.
        temperature: Divides the logits; below 0.001 the likeliest token is taken.
        top_k: Draw from this number of the likeliest tokens, and those that equal the last; 0 for all.
        top_p: Draw from the likeliest tokens with this probability in all.
    """
    if temperature < _LEAST:
        return int(logits.argmax())
    scores = logits.astype(np.float64) / temperature
    shares = np.exp(scores - scores.max())
    if 0 < top_k < len(shares):
        shares[shares < np.partition(shares, -top_k)[-top_k]] = 0
    shares /= shares.sum()
    if top_p < 1:
        order = np.argsort(-shares, kind="stable")
        shares[order[shares[order].cumsum() - shares[order] >= top_p]] = 0
    return int(chance.choice(len(shares), p=shares / shares.sum()))
