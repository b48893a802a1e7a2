"""Texts without padding between their tokens: time first, the real tokens of each text at the front.

All by mask and gather: no length is needed on the host, so this compiles, exports and runs on any device.

Legend: B batch, T time, I width of an input, H hidden per direction, D directions, R residual stream.
"""

from typing import Any

import torch


def runs_eagerly_on_cpu(tensor: torch.Tensor) -> bool:
    """Return whether Python code may look at values: on a CPU, and not while a graph is recorded."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def gather_rows(vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows (T, B) of vectors (N, I), `(T, B, I)`."""
    return vectors.index_select(0, rows.reshape(-1)).view(*rows.shape, vectors.shape[1])


class CompactTexts:
    """The places of a batch's real tokens, and the index arithmetic between the batch and its compact form.

    `mask` (B, T) is True at real tokens, in any pattern, with T at least 1; `valid` (T, B) at their compact places.
    `is_full` is True if there is no padding; False can also mean that this is not known.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        batch, time = mask.shape
        self.mask = mask
        may_ask = runs_eagerly_on_cpu(mask)  # elsewhere, to ask would wait
        self.is_full = may_ask and bool(mask.all())
        self._order = None  # (B, T): real tokens first; None for a batch padded on the right, which is compact
        if self.is_full:  # needs no indices: generation makes such a batch for each token
            self.valid = mask.t()
            return
        self.lengths = mask.sum(dim=1)
        steps = torch.arange(time, device=mask.device)[:, None]  # (T, 1)
        self.valid = steps < self.lengths
        self._column = torch.arange(batch, device=mask.device)
        self._flipped = torch.where(self.valid, self.lengths - 1 - steps, steps)  # (T, B): its own inverse
        if not (may_ask and torch.equal(mask.t(), self.valid)):
            places = steps[:, 0]  # distinct keys: ONNX has no stable sort
            self._order = torch.argsort(torch.where(mask, places, places + time), dim=1)

    def compact(self, batch_first: torch.Tensor) -> torch.Tensor:
        """Reorder (B, T) or (B, T, I) to (T, B) or (T, B, I), real tokens first."""
        if self._order is not None:
            order = self._order if batch_first.dim() == 2 else self._order[:, :, None].expand_as(batch_first)
            batch_first = batch_first.gather(1, order)
        return batch_first.transpose(0, 1)

    def flip(self, inputs: Any) -> Any:
        """Reverse each text of (T, B, I) within its length; its own inverse."""
        if self.is_full:
            return inputs.flip(0)
        return gather_rows(inputs.flatten(0, 1), self._flipped * inputs.shape[1] + self._column)

    def restore(self, states: torch.Tensor) -> torch.Tensor:
        """Return states (T, B, H) as (B, T, H) in the original places, zero at padding."""
        if self.is_full:
            return states.transpose(0, 1)
        if self._order is None:
            return (states * self.valid[:, :, None].to(states.dtype)).transpose(0, 1)
        places = (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)  # ONNX has no sum of bools
        states = gather_rows(states.flatten(0, 1), places * states.shape[1] + self._column[:, None])
        return states * self.mask[:, :, None].to(states.dtype)

    def last(self, states: torch.Tensor, initial: torch.Tensor | None) -> torch.Tensor:
        """Return the state (B, H) of (T, B, H) after the last token, or the initial one for an empty text."""
        if self.is_full:
            return states[-1]
        final = gather_rows(states.flatten(0, 1), (self.lengths - 1).clamp(min=0) * states.shape[1] + self._column)
        empty = (self.lengths == 0)[:, None]
        return final.masked_fill(empty, 0) if initial is None else torch.where(empty, initial.to(final.dtype), final)

    def last_inputs(self, wide: torch.Tensor, count: int) -> torch.Tensor:
        """Return the last `count` places `(count, B, R)` of each text, from `(count + T, B, R)`."""
        if self.is_full:
            return wide[-count:]
        steps = torch.arange(count, device=wide.device)[:, None] + self.lengths
        return gather_rows(wide.flatten(0, 1), steps * wide.shape[1] + self._column)
