"""Optimizers for models with a sparse embedding: LazyAdamW, gradient clipping and learning rates per parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw
from transformers import TrainingArguments

from ..utils.errors import UserError

LAZY_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch")  # values of --optim that `LazyAdamW` replaces
_SPARSE_OPTIMIZERS = ("sgd", "adagrad")  # torch's own support sparse gradients, without weight decay only


class LazyAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) that updates only the rows in a sparse gradient.

    A parameter with a dense gradient is updated by torch's AdamW. If the gradient is sparse, only its rows are read
    and written, so a step costs what the batch holds, not what the vocabulary holds. AdamW
    keeps moving a row that is in no batch by its moments, and a rare word moves mostly that way. Here a row makes up
    for that movement when it is next touched. With g the gradient of row p, t the number of this step, k the steps
    since the row was last touched (t if never), and k' the k of that time:

        u = m / (1 - β₁ᵗ⁻ᵏ) / (√(v / (1 - β₂ᵗ⁻ᵏ)) + ε)    with the moments as they were left
        p = (1 - lr · weight_decay)ᵏ p - lr · (S(k - 1) - S(k' - 1)) · u
        m = β₁ᵏ m + (1 - β₁) g
        v = β₂ᵏ v + (1 - β₂) g²
        p = p - lr · (1 + S(k - 1)) · m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + ε)

    S(n) = r + r² + … + rⁿ with r = β₁ / √β₂ is the movement of AdamW in n steps without the row, in units of the last
    step: from one such step to the next m shrinks by β₁ and √v by √β₂. It is applied in advance, for as many steps as
    the row was absent before; the second line corrects the estimate when the row returns. The moments are those of
    AdamW, and the row is about where AdamW has it. If every step touches every row, S is 0 and this is AdamW. For
    r ≥ 1 the movement has no limit, and S is 0 too. `torch.optim.SparseAdam` omits the movement in between, and rare
    words learn several times more slowly.

    Arguments are those of `torch.optim.AdamW`; `fused` is for dense parameters.

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
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "fused": fused})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step, and return the result of `closure`, which recomputes the loss if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            dense = []
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    # torch's fused kernels expect the step beside the parameter, the others on the host
                    on_device = group["fused"] and not gradient.is_sparse
                    state["step"] = torch.zeros((), device=parameter.device if on_device else "cpu")
                    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                    state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                if gradient.is_sparse:
                    gradient = gradient.coalesce()
                    self._update_rows(parameter, gradient.indices()[0], gradient.values(), group)
                else:
                    dense.append(parameter)
            if dense:
                self._update_dense(dense, group)
        return loss

    def _update_dense(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
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
        """Apply the formula of the class to distinct rows and their gradients."""
        state = self.state[parameter]
        if "rows" not in state:  # last step and steps applied in advance, per row
            state["rows"] = torch.zeros(len(parameter), 2, dtype=torch.int32, device=parameter.device)
        state["step"] += 1
        precision = torch.float64 if values.dtype == torch.float64 else torch.float32
        now, rate = state["step"].to(parameter.device, precision), group["lr"]
        first, second = group["betas"]
        touched, ahead = state["rows"].index_select(0, rows).to(precision).unbind(1)
        gap = now - touched
        known = touched > 0  # a new row has nothing to make up for
        between = _sum_powers(first, second, gap - 1)
        missed = torch.where(known, between - _sum_powers(first, second, ahead), 0)
        mean, square, moved = (
            table.index_select(0, rows) for table in (state["exp_avg"], state["exp_avg_sq"], parameter)
        )

        def column(numbers: torch.Tensor) -> torch.Tensor:
            return numbers if numbers.dim() == 0 else numbers.view(-1, *[1] * (parameter.dim() - 1))

        def move(times: torch.Tensor, count: torch.Tensor, epsilon: torch.Tensor) -> None:
            """Take `times` steps of AdamW with the moments after `count` steps; √(1 - β₂ᵗ) is factored out."""
            root = _correct_bias(second, count).sqrt()
            far = mean * column(times * root / _correct_bias(first, count))
            moved.addcdiv_(far, square.sqrt().add_(column(epsilon * root)), value=-rate)

        if group["weight_decay"]:
            moved.mul_(column((1 - rate * group["weight_decay"]) ** gap))
        # a new row has moments of 0 and must not divide by an ε of 0
        move(missed, touched.clamp(min=1), torch.where(known, group["eps"], 1.0))
        mean.mul_(column(first**gap)).add_(values, alpha=1 - first)
        square.mul_(column(second**gap)).addcmul_(values, values, value=1 - second)
        move(1 + between, now, torch.full_like(now, group["eps"]))

        state["rows"].index_copy_(0, rows, torch.stack([now.expand_as(gap), gap - 1], dim=1).int())
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        parameter.index_copy_(0, rows, moved)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, and keep step numbers as integers, which torch would cast to the parameter's dtype."""
        super().load_state_dict(state_dict)
        numbers, parameters = (
            [each for group in groups for each in group["params"]]
            for groups in (state_dict["param_groups"], self.param_groups)
        )
        for number, parameter in zip(numbers, parameters, strict=True):
            if "rows" in (saved := state_dict["state"].get(number, {})):
                self.state[parameter]["rows"] = saved["rows"].to(parameter.device, copy=True)


def _sum_powers(first: float, second: float, count: torch.Tensor) -> torch.Tensor:
    """Return S(n) of [`LazyAdamW`] for n = `count`."""
    ratio = first / math.sqrt(second) if second else math.inf
    return ratio * (1 - ratio**count) / (1 - ratio) if ratio < 1 else torch.zeros_like(count)


def _correct_bias(beta: float, count: torch.Tensor) -> torch.Tensor:
    """Return 1 - beta ** count, without the digits that the difference loses for small counts."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))


def set_learning_rate(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, rate: float) -> None:
    """Move one parameter into a group with its own learning rate and otherwise the same settings.

    Call it before the first step. A parameter that the optimizer does not train is ignored.
    """
    for group in optimizer.param_groups:
        others = [other for other in group["params"] if other is not parameter]
        if len(others) < len(group["params"]):
            group["params"] = others
            optimizer.add_param_group({**group, "params": [parameter], "lr": rate})
            return


# ---- sparse gradients ----


def has_sparse_gradients(model: nn.Module) -> bool:
    """Return whether an embedding of a model trains with sparse gradients."""
    return any(
        isinstance(part, nn.Embedding) and part.sparse and part.weight.requires_grad for part in model.modules()
    )


def check_sparse_gradients(args: TrainingArguments) -> None:
    """Raise a [`UserError`] for an optimizer, or a weight decay with it, that fails on sparse gradients."""
    if args.optim in LAZY_OPTIMIZERS or (args.optim in _SPARSE_OPTIMIZERS and args.weight_decay == 0):
        return
    found = f"weight_decay {args.weight_decay}" if args.optim in _SPARSE_OPTIMIZERS else f"optim {args.optim.value}"
    raise UserError(
        f"sparse_embedding gives sparse gradients, unsupported here: found {found}; set sparse_embedding to false, or "
        f"optim to {LAZY_OPTIMIZERS[0]}"
    )


def clip_grad_norm(parameters: Iterator[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale gradients in place so that their total 2-norm is at most `max_norm`; return the norm before, a scalar.

    Like `torch.nn.utils.clip_grad_norm_`, which fails on sparse gradients. These are coalesced first, because a row
    that occurs twice in a batch is in them twice. A `max_norm` of infinity only measures.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norm = nn.utils.get_total_norm(values)
    if max_norm < float("inf"):
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # 1e-6 as in torch
        for gradient in values:
            gradient.mul_(scale.to(gradient.device))
    return norm
