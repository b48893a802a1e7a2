"""A linear-chain conditional random field on top of scores per token and tag.

Lafferty, McCallum and Pereira 2001, "Conditional Random Fields".

A tagging of a text has the score of its tags at their tokens (emissions), of each pair of
neighbouring tags (transitions), and of its first and last tag. The loss is exact, by the forward
algorithm; so is the best tagging, by the Viterbi algorithm.

Texts are compact: time first, the tokens of each text at the front. Legend: T time, B batch, C
tags.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

_FORBIDDEN = -1e4  # finite, so that no score becomes NaN; far below the scores of a model
_LEAST = 1e-30  # has a finite logarithm


class Crf(nn.Module):
    """Scores of tag sequences; `transitions[i, j]` belongs to tag j after tag i."""

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(tags))
        self.last = nn.Parameter(torch.zeros(tags))
        self.transitions = nn.Parameter(torch.zeros(tags, tags))

    def forward(
        self,
        emissions: Tensor,
        valid: Tensor,
        labels: Tensor | None,
        names: Sequence[str],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return `losses` if there are labels, and `best_scores` if there are names."""
        losses = None if labels is None else self.losses(emissions, labels, valid)
        best = self.best_scores(emissions, valid, names) if names else None
        return losses, best

    def losses(self, emissions: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the negative log-likelihood of each text `(B,)`.

        Args:
            emissions: `(T, B, C)`.
            labels: Tags `(T, B)`; the likelihood sums over all tags where one is negative.
            valid: `(T, B)`, False behind the tokens of a text.
        """
        tags = torch.arange(emissions.shape[-1], device=labels.device)
        other = (labels >= 0)[..., None] & (labels[..., None] != tags)
        # (T, 2 B, C)
        both = torch.cat([emissions.masked_fill(other, _FORBIDDEN), emissions], dim=1)
        factors = self.transitions.exp()

        def add_step(sums: Tensor) -> Tensor:
            """Return log(sum_i exp(sums_i + transitions_ij)), as a product of matrices."""
            largest = sums.detach().amax(dim=-1, keepdim=True)
            return largest + ((sums - largest).exp() @ factors).clamp(min=_LEAST).log()

        sums = self._run(both, valid.repeat(1, 2), self.first, add_step)[-1]
        labelled, all_taggings = (sums + self.last).logsumexp(dim=-1).chunk(2)
        return torch.where(valid.any(dim=0), all_taggings - labelled, 0.0)

    def best_scores(self, emissions: Tensor, valid: Tensor, names: Sequence[str]) -> Tensor:
        """Return the score of the best tagging that has this tag at this token, `(T, B, C)`.

        Its largest value per token, which is subtracted, belongs to the best tagging of the whole
        text. Tags whose names are B-X and I-X only form taggings where I-X follows B-X or I-X.
        """
        first, pairs = map(emissions.new_tensor, forbidden(tuple(names)))
        step = self.transitions + pairs

        def reach(best: Tensor, pairs: Tensor) -> Tensor:
            """Return the best scores after one more tag, minus a number per text.

            Long sums would lose digits.
            """
            relative = best - best.amax(dim=-1, keepdim=True)
            return (relative[:, None] + pairs).amax(dim=-1)

        before = self._run(emissions, valid, self.first + first, lambda best: reach(best, step.T))
        after = [self.last.expand_as(emissions[0])]
        for scores, is_token in zip(emissions[1:].flip(0), valid[1:].flip(0), strict=True):
            after.append(torch.where(is_token[:, None], reach(scores + after[-1], step), after[-1]))
        best = torch.stack(before) + torch.stack(after[::-1])
        return best - best.amax(dim=-1, keepdim=True)

    @staticmethod
    def _run(
        emissions: Tensor,
        valid: Tensor,
        first: Tensor,
        step: Callable[[Tensor], Tensor],
    ) -> list[Tensor]:
        """Return the scores of the taggings that end with each tag after each token, T `(B, C)`."""
        sums = [first + emissions[0]]
        for scores, is_token in zip(emissions[1:], valid[1:], strict=True):
            sums.append(torch.where(is_token[:, None], step(sums[-1]) + scores, sums[-1]))
        return sums


@lru_cache(maxsize=16)
def forbidden(names: tuple[str, ...]) -> tuple[list[float], list[list[float]]]:
    """Return penalties for a first tag `(C,)` and a pair `(C, C)` that no IOB2 tagging has.

    The others are 0. They are lists: a tensor that is made while a graph is recorded cannot be used
    afterwards.
    """
    endings = [  # "-X" of a tag I-X that has a beginning B-X
        name[1:] if name.startswith("I-") and f"B{name[1:]}" in names else None for name in names
    ]
    first = [_FORBIDDEN if ending else 0.0 for ending in endings]
    pairs = []
    for before in names:
        allowed = (None, before[1:])
        pairs.append([0.0 if ending in allowed else _FORBIDDEN for ending in endings])
    return first, pairs
