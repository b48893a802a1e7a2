"""The recurrent cells when what they read of a token is known already: one step over a shrinking batch, in place.

Each class holds one layer in all its directions. A *row* is the part of a cell's sums that depends on its input alone,
gates in the order that the class likes; whoever runs a layer hands over rows and gets states, see `classifier.py`.
For inference only: nothing here records gradients. A text alone goes another way, `numpy_cells.py`.

torch takes six times as long for a tanh as for a sigmoid, so tanh(x) is 2 sigmoid(2x) - 1, the 2 of what goes into it
being in rows and weights from the start: a *doubled* part. As a power of two it rounds nothing.

Legend: B texts alive at a step, I input width, H hidden per direction, D directions, G parts of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

Views = tuple[torch.Tensor, ...]

_MINUS_ONE = torch.tensor(-1.0, device="cpu")  # whatever the default is


def _tanh_of_half(doubled: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """2x → tanh(x)."""
    return torch.add(_MINUS_ONE, torch.sigmoid(doubled, out=out), alpha=2, out=out)


class FoldedCell:
    """One layer's weights in all directions, and its step.

    Args:
        cells: torch's modules or [`MinGru`], one a direction.
        recurrent_dtype: Of the recurrent product: float32, or bfloat16 on a chip that multiplies in it. States and all
            else are float32.

    Attributes:
        row_dtype (`torch.dtype`): In which `step` takes rows.
        input_weights (D times `(I, G * H)`): From the layer's input to rows.
        input_biases (D times `(G * H,)`): Added to them: all biases that the formula lets come in here.
    """

    order: ClassVar[tuple[int, ...]]  # torch's place of each part of a row
    doubled: ClassVar[int | None] = None  # the part that comes doubled, by its place in `order`

    def __init__(self, cells: Sequence[Any], recurrent_dtype: torch.dtype = torch.float32) -> None:
        self.directions = len(cells)
        self.hidden_size: int = cells[0].hidden_size
        self.recurrent_dtype = recurrent_dtype
        self.row_dtype = recurrent_dtype
        self.input_weights = [self._reorder(cell.weight_ih_l0).t().contiguous() for cell in cells]
        self.input_biases = [self._reorder(self._input_bias(cell)) for cell in cells]
        if hasattr(cells[0], "weight_hh_l0"):
            weights = [self._reorder(cell.weight_hh_l0).t() for cell in cells]
            self.recurrent = torch.stack(weights).to(recurrent_dtype)  # (D, H, G * H)

    @property
    def row_size(self) -> int:
        """`int`: Width of a row, G * H."""
        return len(self.order) * self.hidden_size

    def _input_bias(self, cell: Any) -> torch.Tensor:
        return cell.bias_ih_l0.float() + cell.bias_hh_l0.float()

    def _reorder(self, weight: torch.Tensor) -> torch.Tensor:
        """Put the parts of dimension 0 into this class's order, and double what comes doubled."""
        parts = weight.detach().float().chunk(len(self.order))
        return torch.cat([parts[place] * (1 + (number == self.doubled)) for number, place in enumerate(self.order)])

    def finish_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Do to float32 rows `(..., G * H)`, in place, what does not wait for a state."""
        return rows

    def start(self, shape: Sequence[int]) -> list[torch.Tensor]:
        """Memory of this shape that the steps over one batch share; what must start at zero is zero."""
        return []

    def views(self, rows: torch.Tensor) -> Views:
        """Rows, and the parts of them that `step` looks at; taken of many steps at once where steps are small."""
        return (rows,)

    def step(
        self, views: Views, previous: torch.Tensor | None, output: torch.Tensor, memory: list[torch.Tensor]
    ) -> None:
        """Compute h_t.

        Args:
            views: Of the rows read at this step; overwritten.
            previous (`(B, D, H)`, *optional*): h_(t-1); absent at the first step, where it is zero.
            output (`(B, D, H)`): Gets h_t; may be the same memory as `previous`.
            memory: Of `start`, cut to B texts.
        """
        raise NotImplementedError

    def _add_recurrent(self, views: Views, previous: torch.Tensor | None) -> Views:
        """Add W h_(t-1) to the rows, and return the views of the sum in float32."""
        rows = views[0]
        if previous is not None:
            state = previous.to(self.recurrent_dtype)
            for direction in range(self.directions):
                rows[:, direction].addmm_(state[:, direction], self.recurrent[direction])
        return views if rows.dtype == torch.float32 else self.views(rows.float())


class FoldedTanh(FoldedCell):
    """h = tanh(row + W h)."""

    order = (0,)
    doubled = 0

    def step(
        self, views: Views, previous: torch.Tensor | None, output: torch.Tensor, memory: list[torch.Tensor]
    ) -> None:
        """As in [`FoldedCell`]."""
        _tanh_of_half(self._add_recurrent(views, previous)[0], out=output)


class FoldedRelu(FoldedCell):
    """h = max(0, row + W h)."""

    order = (0,)

    def step(
        self, views: Views, previous: torch.Tensor | None, output: torch.Tensor, memory: list[torch.Tensor]
    ) -> None:
        """As in [`FoldedCell`]."""
        torch.clamp_min(self._add_recurrent(views, previous)[0], 0, out=output)


class FoldedGru(FoldedCell):
    """r, z = sigmoid(rows + W h); n = tanh(row + r * (W h + b)); h = n + z * (h - n).

    The b inside the product with r cannot go into the row, and so neither can the candidate's W h: it is kept apart.
    """

    order = (0, 1, 2)
    doubled = 2

    def __init__(self, cells: Sequence[Any], recurrent_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(cells, recurrent_dtype)
        self.row_dtype = torch.float32
        biases = [self._reorder(cell.bias_hh_l0.float() - self._outer_bias(cell)) for cell in cells]
        self.inner_bias = torch.stack(biases).detach().to(recurrent_dtype)  # (D, 3 * H), zero but for the candidate

    def _outer_bias(self, cell: Any) -> torch.Tensor:
        bias = cell.bias_hh_l0.detach().to(torch.float32, copy=True)
        bias[2 * self.hidden_size :] = 0
        return bias

    def _input_bias(self, cell: Any) -> torch.Tensor:
        return cell.bias_ih_l0.float() + self._outer_bias(cell)

    def start(self, shape: Sequence[int]) -> list[torch.Tensor]:
        """W h + b."""
        return [torch.empty(*shape[:-1], self.row_size, dtype=self.recurrent_dtype, device="cpu")]

    def views(self, rows: torch.Tensor) -> Views:
        """Rows, both gates, r, z, candidate."""
        reset, update, candidate = rows.chunk(3, dim=-1)
        return rows, rows[..., : 2 * self.hidden_size], reset, update, candidate

    def step(
        self, views: Views, previous: torch.Tensor | None, output: torch.Tensor, memory: list[torch.Tensor]
    ) -> None:
        """As in [`FoldedCell`]."""
        rows, gates, reset, update, candidate = views
        (sums,) = memory
        if previous is None:
            sums.copy_(self.inner_bias)
        else:
            state = previous.to(self.recurrent_dtype)
            for direction, bias in enumerate(self.inner_bias):
                part = sums[:, direction]
                torch.addmm(bias, state[:, direction], self.recurrent[direction], out=part)
        sums = sums.float()
        split = 2 * self.hidden_size
        gates.add_(sums[..., :split]).sigmoid_()
        _tanh_of_half(candidate.addcmul_(reset, sums[..., split:]), out=candidate)
        if previous is None:
            torch.addcmul(candidate, candidate, update, value=-1, out=output)
        else:
            torch.lerp(candidate, previous, update, out=output)


class FoldedLstm(FoldedCell):
    """i, f, o = sigmoid(rows + W h); g = tanh(row + W h); c = f * c + i * g; h = o * tanh(c).

    All four are one sigmoid, and c is kept doubled.
    """

    order = (0, 1, 3, 2)
    doubled = 3

    def start(self, shape: Sequence[int]) -> list[torch.Tensor]:
        """The doubled cell state 2c, and room for tanh(c)."""
        cells = torch.zeros(*shape, dtype=torch.float32, device="cpu")
        return [cells, torch.empty_like(cells)]

    def views(self, rows: torch.Tensor) -> Views:
        """Rows, i, f, o, g."""
        return rows, *rows.chunk(4, dim=-1)

    def step(
        self, views: Views, previous: torch.Tensor | None, output: torch.Tensor, memory: list[torch.Tensor]
    ) -> None:
        """As in [`FoldedCell`]."""
        rows, enter, keep, leave, candidate = self._add_recurrent(views, previous)
        rows.sigmoid_()
        torch.add(_MINUS_ONE, candidate, alpha=2, out=candidate)
        doubled, squashed = memory
        doubled.mul_(keep).addcmul_(enter, candidate, value=2)
        torch.mul(leave, _tanh_of_half(doubled, out=squashed), out=output)


class FoldedMinGru(FoldedCell):
    """h = a * h + b with a = 1 - z and b = z * h~, both known from the input."""

    order = (0, 1)

    def __init__(self, cells: Sequence[Any], recurrent_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(cells, torch.float32)  # there is no recurrent product

    def _input_bias(self, cell: Any) -> torch.Tensor:
        return cell.bias_ih_l0

    def finish_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """From the sums of z and h~ to a and b."""
        decay, addend = rows.chunk(2, dim=-1)
        update = decay.sigmoid()
        addend.mul_(update)
        torch.sub(1, update, out=decay)
        return rows

    def views(self, rows: torch.Tensor) -> Views:
        """Decay a, addend b."""
        return tuple(rows.chunk(2, dim=-1))

    def step(
        self, views: Views, previous: torch.Tensor | None, output: torch.Tensor, memory: list[torch.Tensor]
    ) -> None:
        """As in [`FoldedCell`]."""
        decay, addend = views
        if previous is None:
            output.copy_(addend)
        else:
            torch.addcmul(addend, decay, previous, out=output)


FOLDED_CELLS: dict[str, type[FoldedCell]] = {
    "rnn_tanh": FoldedTanh,
    "rnn_relu": FoldedRelu,
    "gru": FoldedGru,
    "lstm": FoldedLstm,
    "min_gru": FoldedMinGru,
}


def split_views(cell: FoldedCell, rows: torch.Tensor, sizes: list[int]) -> Iterator[Views]:
    """Rows `(N, D, G * H)` → the views of those of each step."""
    return zip(*(view.split(sizes) for view in cell.views(rows)), strict=True)
