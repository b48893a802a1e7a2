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
    With g the gradient of such a row, p the row, and k how many steps have touched it, this one included:

        m = β₁ m + (1 - β₁) g
        v = β₂ v + (1 - β₂) g²
        p = (1 - lr · weight_decay) p - lr · m / (1 - β₁ᵏ) / (√(v / (1 - β₂ᵏ)) + ε)

    That is AdamW for the subsequence of steps in which the row occurs. Both moments are means over k gradients, which
    is why k corrects their start at zero and not the number of all steps, as `torch.optim.SparseAdam` has it: there
    a row first met late takes a first step of (1 - β₁) / √(1 - β₂) = 3.2 learning rates, here of one. Weight decay
    pulls a row when it is touched only. Where each step touches each row, all is AdamW.

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
                elif "step" in self.state[parameter] and self.state[parameter]["step"].dim():
                    # it was sparse before: now all rows are touched
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
            # named as in AdamW, so that loading a state leaves its dtype alone
            state["step"] = torch.zeros(len(parameter), device=parameter.device)
            _start_moments(state, parameter)
        elif not state["step"].dim():  # dense before, so that all rows have been touched as often
            state["step"] = state["step"].to(parameter.device).repeat(len(parameter))
        else:  # torch leaves it where it was loaded
            state["step"] = state["step"].to(parameter.device)
        first, second = group["betas"]

        count = state["step"].index_select(0, rows) + 1
        mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - first)
        square = state["exp_avg_sq"].index_select(0, rows).mul_(second).addcmul_(values, values, value=1 - second)
        state["step"].index_copy_(0, rows, count)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)

        count = count.view(-1, *[1] * (parameter.dim() - 1))
        if values.dtype == torch.float64:
            count = count.double()
        denominator = square.div_(_correction(second, count)).sqrt_().add_(group["eps"])
        update = mean.div_(_correction(first, count)).div_(denominator)
        moved = parameter.index_select(0, rows).mul_(1 - group["lr"] * group["weight_decay"])
        parameter.index_copy_(0, rows, moved.sub_(update, alpha=group["lr"]))


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
