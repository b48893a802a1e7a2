"""Adam for models of which one part has sparse gradients: touched embedding rows beside dense weights.

One optimiser for all parameters, so that schedulers, clipping and checkpoints see what they always see. It chooses no
learning rates and knows no models; [`RnnTrainer`] takes it where torch's own AdamW would refuse the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adamw import adamw


class LazyAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) that leaves alone the rows a sparse gradient does not hold.

    A parameter with a dense gradient is updated by torch's own AdamW; one whose gradients are sparse in some steps and
    dense in others by the formula below, in a dense step for all rows. Of one with a sparse gradient only the rows in
    the gradient are read and written, so that a step costs what the batch holds and not what the vocabulary holds.
    AdamW itself goes on moving a row that no batch holds, by what its moments remember, and a rare word goes most of
    its way so. Here the row goes that way when it is touched. With g its gradient, p the row, t the number of this
    step, k the steps since it was touched before (t where it never was) and k' the k of that time:

        u = m / (1 - β₁ᵗ⁻ᵏ) / (√(v / (1 - β₂ᵗ⁻ᵏ)) + ε)    as it was left, and so for the next line
        p = (1 - lr · weight_decay)ᵏ p - lr · (S(k - 1) - S(k' - 1)) · u
        m = β₁ᵏ m + (1 - β₁) g
        v = β₂ᵏ v + (1 - β₂) g²
        p = p - lr · (1 + S(k - 1)) · m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + ε)

    S(n) = r + r² + … + rⁿ, with r = β₁ / √β₂, is what a step is followed by in n steps without the row, as shares of
    it: from one such step to the next m shrinks by β₁ and √v by √β₂. It is taken in advance for as many steps as the
    row was away before, and when the row comes back, the second line makes good what was too much or too little.
    So the moments are AdamW's own, and the row is about where AdamW has it; where each step touches each row, S is 0,
    and all is AdamW. `torch.optim.SparseAdam` takes a row's moments over the steps that touch it, and leaves out the
    way between, so that rare words learn several times more slowly. Where r ≥ 1 that way has no end, and S is 0 too.

    Args:
        params: Parameters or parameter groups, as for every torch optimiser.
        lr: Learning rate.
        betas: Decay of the two moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled.
        fused: Whether the dense parameters go through torch's fused kernel; None lets torch choose another.

    Raises:
        ValueError: For a value out of its range.

    Example:
        >>> embedding, linear = nn.Embedding(1_000_000, 100, sparse=True), nn.Linear(100, 3)
        >>> optimizer = LazyAdamW([*embedding.parameters(), *linear.parameters()], lr=1e-3, fused=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        fused: bool | None = None,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be at least 0 and below 1, found {betas}")
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, found {value}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "fused": fused})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Computes the loss and its gradients anew, if given.

        Returns:
            What `closure` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters, gradients = [], []
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse:
                    gradient = gradient.coalesce()
                    self._update_rows(parameter, gradient.indices()[0], gradient.values(), group)
                elif "rows" in self.state[parameter]:  # it was sparse before: now all rows are touched
                    every = torch.arange(len(parameter), device=parameter.device)
                    self._update_rows(parameter, every, gradient, group)
                else:
                    parameters.append(parameter)
                    gradients.append(gradient)
            if parameters:
                self._update_whole(parameters, gradients, group)
        return loss

    def _update_whole(
        self, parameters: list[torch.Tensor], gradients: list[torch.Tensor], group: dict[str, Any]
    ) -> None:
        """Torch's own AdamW."""
        states = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                # torch's kernels want it beside the parameter when fused, on the host otherwise
                state["step"] = torch.zeros((), device=parameter.device if group["fused"] else "cpu")
                _start_moments(state, parameter)
            states.append(state)
        adamw(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _update_rows(
        self, parameter: torch.Tensor, rows: torch.Tensor, values: torch.Tensor, group: dict[str, Any]
    ) -> None:
        """The formula in the class's docstring, for rows and their gradients; each row stands there once."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            _start_moments(state, parameter)
        if "rows" not in state:  # dense before, if at all: each step has touched all rows
            state["rows"] = torch.zeros(len(parameter), 2, dtype=torch.int32, device=parameter.device)
            state["rows"][:, 0] = state["step"]
        state["step"] += 1
        precision = torch.float64 if values.dtype == torch.float64 else torch.float32
        now, rate = state["step"].to(parameter.device, precision), group["lr"]
        first, second = group["betas"]
        touched, ahead = state["rows"].index_select(0, rows).to(precision).unbind(1)
        gap = now - touched
        met = touched > 0  # else there is nothing to make good
        between = _follow(first, second, gap - 1)
        missed = torch.where(met, between - _follow(first, second, ahead), 0)
        mean, square, moved = (
            values_of.index_select(0, rows) for values_of in (state["exp_avg"], state["exp_avg_sq"], parameter)
        )

        def column(numbers: torch.Tensor) -> torch.Tensor:
            """A number a row, beside the row's values; one for all as it is."""
            return numbers if numbers.dim() == 0 else numbers.view(-1, *[1] * (parameter.dim() - 1))

        def move(times: torch.Tensor, count: torch.Tensor, epsilon: torch.Tensor) -> None:
            """Go so many of AdamW's steps, by moments after `count` steps; √(1 - β₂ᵗ) goes out of the denominator."""
            root = _correction(second, count).sqrt()
            far = mean * column(times * root / _correction(first, count))
            moved.addcdiv_(far, square.sqrt().add_(column(epsilon * root)), value=-rate)

        if group["weight_decay"]:
            moved.mul_(column((1 - rate * group["weight_decay"]) ** gap))
        # where ε is 0, what was never touched must not divide by it
        move(missed, touched.clamp(min=1), torch.where(met, group["eps"], 1.0))
        mean.mul_(column(first**gap)).add_(values, alpha=1 - first)
        square.mul_(column(second**gap)).addcmul_(values, values, value=1 - second)
        move(1 + between, now, torch.full_like(now, group["eps"]))

        state["rows"].index_copy_(0, rows, torch.stack([now.expand_as(gap), gap - 1], dim=1).int())
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        parameter.index_copy_(0, rows, moved)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, as every torch optimiser does.

        Args:
            state_dict: What `state_dict()` returned.

        Raises:
            ValueError: For a state of an older version, from which a run cannot go on.
        """
        for saved in state_dict["state"].values():
            if torch.as_tensor(saved.get("step", 0)).dim() > 0:
                raise ValueError("an older LazyAdamW wrote them, which counted the steps of each row by themselves")
        super().load_state_dict(state_dict)
        numbers, parameters = (
            [one for group in groups for one in group["params"]]
            for groups in (state_dict["param_groups"], self.param_groups)
        )
        for number, parameter in zip(numbers, parameters, strict=True):
            if "rows" in (saved := state_dict["state"].get(number, {})):  # torch casts it to the parameter's dtype
                self.state[parameter]["rows"] = saved["rows"].to(parameter.device, copy=True)


def _follow(first: float, second: float, count: torch.Tensor) -> torch.Tensor:
    """S(n) of [`LazyAdamW`] for n = `count`: what follows a step in so many without a gradient, in such steps."""
    ratio = first / math.sqrt(second) if second else math.inf
    return ratio * (1 - ratio**count) / (1 - ratio) if ratio < 1 else torch.zeros_like(count)


def _correction(beta: float, count: torch.Tensor) -> torch.Tensor:
    """1 - beta ** count, without the digits that a small count would lose in the difference."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))


def _start_moments(state: dict[str, Any], parameter: torch.Tensor) -> None:
    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def set_learning_rate(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, rate: float) -> None:
    """Give one parameter a learning rate of its own: it moves into a group of its own, all else stays as in the old.

    Args:
        optimizer: Has not taken a step yet, and has no scheduler.
        parameter: Stands in one of its groups; one that is not trained stands in none and is left alone.
        rate: The learning rate.
    """
    for group in optimizer.param_groups:
        others = [other for other in group["params"] if other is not parameter]
        if len(others) < len(group["params"]):
            group["params"] = others
            optimizer.add_param_group({**group, "params": [parameter], "lr": rate})
            return
