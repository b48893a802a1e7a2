"""A linear-chain conditional random field (Lafferty, McCallum and Pereira 2001) on top of scores per token and tag.

A tagging of a text has the score of its tags at their tokens (emissions), of each pair of neighbouring tags
(transitions), and of its first and last tag. The loss is exact, by the forward algorithm; so is the best tagging, by
the Viterbi algorithm.

Texts are compact: time first, the tokens of each text at the front. Legend: T time, B batch, C tags.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

_FORBIDDEN = -1e4  # finite, so that no score becomes NaN; far below the scores of a model


class Crf(nn.Module):
    """Scores of tag sequences; `transitions[i, j]` belongs to tag j after tag i."""

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(tags))
        self.last = nn.Parameter(torch.zeros(tags))
        self.transitions = nn.Parameter(torch.zeros(tags, tags))

    def losses(self, emissions: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood of each text `(B,)`.

        Args:
            emissions: `(T, B, C)`.
            labels: Tags `(T, B)`; a negative one is not known, and the likelihood sums over its tags.
            valid: `(T, B)`, False behind the tokens of a text.
        """
        tags = torch.arange(emissions.shape[-1], device=labels.device)
        other = (labels >= 0)[..., None] & (labels[..., None] != tags)
        both = torch.cat([emissions.masked_fill(other, _FORBIDDEN), emissions], dim=1)  # (T, 2 B, C)
        prefixes = self._sums(both, valid.repeat(1, 2), torch.logsumexp)
        known, all_taggings = (prefixes[-1] + self.last).logsumexp(dim=-1).chunk(2)
        return torch.where(valid.any(dim=0), all_taggings - known, 0.0)

    def best_scores(self, emissions: torch.Tensor, valid: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """Return for each token and tag the score of the best tagging with this tag there `(T, B, C)`.

        Its largest value per token, which is subtracted, belongs to the best tagging of the whole text. Tags whose
        names are B-X and I-X only form taggings where I-X follows B-X or I-X.
        """
        first, pairs = (part.to(emissions) for part in forbidden(tuple(names)))
        before = self._sums(emissions, valid, torch.amax, first, pairs)
        after = [self.last.expand_as(emissions[0])]
        step = self.transitions + pairs
        for scores, read in zip(emissions[1:].flip(0), valid[1:].flip(0), strict=True):
            reached = (step + (scores + after[-1])[:, None]).amax(dim=-1)
            after.append(torch.where(read[:, None], reached, after[-1]))
        best = torch.stack(before) + torch.stack(after[::-1])
        return best - best.amax(dim=-1, keepdim=True)

    def _sums(
        self, emissions: torch.Tensor, valid: torch.Tensor, reduce: Any, first: Any = 0.0, pairs: Any = 0.0
    ) -> list[torch.Tensor]:
        """Return the reduced scores of all taggings of the first tokens that end with a tag: T times `(B, C)`."""
        sums = [self.first + first + emissions[0]]
        step = (self.transitions + pairs).T
        for scores, read in zip(emissions[1:], valid[1:], strict=True):
            reached = reduce(sums[-1][:, None] + step, dim=-1) + scores
            sums.append(torch.where(read[:, None], reached, sums[-1]))
        return sums


@lru_cache(maxsize=16)
def forbidden(names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return penalties for a first tag `(C,)` and a pair of tags `(C, C)` that no IOB2 tagging has; 0 elsewhere."""
    inside = {name: name[2:] for name in names if name.startswith("I-") and f"B-{name[2:]}" in names}
    first = torch.tensor([_FORBIDDEN * (name in inside) for name in names])
    pairs = [
        [_FORBIDDEN * (name in inside and before[1:] != f"-{inside[name]}") for name in names] for before in names
    ]
    return first, torch.tensor(pairs)
