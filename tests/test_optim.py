"""LazyAdamW against torch's own optimisers, each where they must agree."""

import copy
import io

import pytest
import torch
from torch import nn

from hf_rnn.optim import LazyAdamW, set_learning_rate

ROWS, WIDTH = 7, 5


def make_parts(*, sparse, dtype=torch.float64):
    """An embedding and a linear layer on it, the same for each call."""
    torch.manual_seed(0)
    return nn.ModuleList([nn.Embedding(ROWS, WIDTH, sparse=sparse), nn.Linear(WIDTH, 3)]).to(dtype)


def make_steps(count, *, everyone):
    """Ids a step; some stand twice in it, and with `everyone` none is missing."""
    generator = torch.Generator().manual_seed(1)
    steps = [torch.randint(ROWS, (4,), generator=generator) for _ in range(count)]
    return [torch.cat([torch.arange(ROWS), ids]) for ids in steps] if everyone else steps


def take_steps(parts, optimizer, steps):
    for ids in steps:
        parts.zero_grad()
        (parts[1](parts[0](ids)) ** 2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [True, None])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_where_each_step_touches_each_row_it_is_adamw(fused, weight_decay, dtype, tolerance):
    ours, theirs = make_parts(sparse=True, dtype=dtype), make_parts(sparse=False, dtype=dtype)
    settings = {"lr": 0.01, "weight_decay": weight_decay, "betas": (0.8, 0.99), "fused": fused}
    steps = make_steps(20, everyone=True)
    take_steps(ours, LazyAdamW(ours.parameters(), **settings), steps)
    take_steps(theirs, torch.optim.AdamW(theirs.parameters(), **settings), steps)
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("betas", [(0.0, 0.99), (0.8, 0.0)])
def test_without_one_of_the_averages_it_is_adamw_too(betas):
    """Five steps only: where each is divided by its own size, torch's own rounding grows with each."""
    ours, theirs = make_parts(sparse=True), make_parts(sparse=False)
    steps = make_steps(5, everyone=True)
    take_steps(ours, LazyAdamW(ours.parameters(), betas=betas), steps)
    take_steps(theirs, torch.optim.AdamW(theirs.parameters(), betas=betas), steps)
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("fused", [True, None])
@pytest.mark.parametrize("dense", [range(1), range(3, 6), range(0, 8, 2)], ids=["first", "middle", "in_turn"])
def test_dense_gradients_between_sparse_ones(fused, dense):
    """As of a loss that also looks at the whole table; each step touches each row, so that all is AdamW."""
    ours, theirs = make_parts(sparse=True), make_parts(sparse=False)
    settings = {"lr": 0.01, "weight_decay": 0.1, "fused": fused}
    optimizers = LazyAdamW(ours.parameters(), **settings), torch.optim.AdamW(theirs.parameters(), **settings)
    kinds = set()
    for number, ids in enumerate(make_steps(8, everyone=True)):
        for parts, optimizer in zip((ours, theirs), optimizers, strict=True):
            parts.zero_grad()
            (parts[1](parts[0](ids)) ** 2).sum().backward()
            if number in dense:
                parts[0].weight.grad = parts[0].weight.grad.to_dense() + parts[0].weight.detach()
            if parts is ours:
                kinds.add(parts[0].weight.grad.is_sparse)
            optimizer.step()
    assert kinds == {True, False}, "premise"
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_where_each_step_touches_each_row_it_is_sparse_adam():
    """Its bias correction counts all steps: the same here. Its epsilon stands elsewhere: none to speak of."""
    ours, theirs = (nn.Embedding(ROWS, WIDTH, sparse=True).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = (
        LazyAdamW(ours.parameters(), eps=1e-30, weight_decay=0),
        torch.optim.SparseAdam(theirs.parameters(), eps=1e-30),
    )
    for ids in make_steps(20, everyone=True):
        for embedding, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (embedding(ids) ** 3).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-12, rtol=0)


def test_each_row_is_adamw_over_the_steps_that_touch_it():
    """The reference: a parameter and an AdamW of its own for each row, told of its own steps only."""
    embedding = nn.Embedding(ROWS, WIDTH, sparse=True).double()
    rows = [nn.Parameter(row.clone()) for row in embedding.weight.detach()]
    settings = {"lr": 0.01, "weight_decay": 0.1}
    optimizer = LazyAdamW(embedding.parameters(), **settings)
    alone = [torch.optim.AdamW([row], **settings) for row in rows]
    steps, touched = make_steps(30, everyone=False), []
    for ids in steps:
        optimizer.zero_grad()
        (embedding(ids) ** 3).sum().backward()
        optimizer.step()
        for row in ids.unique().tolist():
            rows[row].grad = None
            (int((ids == row).sum()) * rows[row] ** 3).sum().backward()
            alone[row].step()
            touched.append(row)
    counts = [touched.count(row) for row in range(ROWS)]
    assert len(set(counts)) > 3 and min(counts) > 0, "rows differ in how often they are touched"
    assert any(len(ids.unique()) < len(ids) for ids in steps), "and stand twice in a gradient"
    for row, expected in enumerate(rows):
        torch.testing.assert_close(embedding.weight[row], expected, atol=1e-12, rtol=0)


def test_a_first_step_in_single_precision_is_exact():
    """The second moment's correction is 0.001 then, which a difference of near numbers would give four digits of."""
    ours, theirs = nn.Embedding(ROWS, WIDTH, sparse=True), nn.Embedding(ROWS, WIDTH).double()
    for embedding, kind in ((ours, LazyAdamW), (theirs, torch.optim.AdamW)):
        nn.init.zeros_(embedding.weight)
        optimizer = kind(embedding.parameters(), lr=0.01)
        (embedding(torch.arange(ROWS)) * torch.arange(1, WIDTH + 1)).sum().backward()
        optimizer.step()
    assert theirs.weight.all(), "premise"
    torch.testing.assert_close(ours.weight.double(), theirs.weight, rtol=1e-6, atol=0)


def test_what_is_not_touched_is_not_changed():
    parts = make_parts(sparse=True)
    optimizer = LazyAdamW(parts.parameters(), lr=0.1, weight_decay=0.5)
    take_steps(parts, optimizer, [torch.arange(ROWS)])
    weight = parts[0].weight
    before, state = weight.detach().clone(), copy.deepcopy(optimizer.state[weight])
    take_steps(parts, optimizer, [torch.tensor([3, 3])])
    changed = (weight != before).all(dim=1)
    assert changed.tolist() == [row == 3 for row in range(ROWS)]
    for name, values in optimizer.state[weight].items():
        assert (values == state[name]).view(ROWS, -1).all(dim=1).tolist() == [row != 3 for row in range(ROWS)], name


def test_an_empty_gradient_is_no_step():
    embedding = nn.Embedding(ROWS, WIDTH, sparse=True, padding_idx=1)
    optimizer = LazyAdamW(embedding.parameters(), lr=0.1)
    before = embedding.weight.detach().clone()
    embedding(torch.tensor([1, 1])).sum().backward()
    assert embedding.weight.grad.coalesce().values().numel() == 0
    optimizer.step()
    assert torch.equal(embedding.weight, before)


def test_accumulated_gradients_are_those_of_one_batch():
    whole, halves = make_parts(sparse=True), make_parts(sparse=True)
    optimizers = [LazyAdamW(parts.parameters(), lr=0.01) for parts in (whole, halves)]
    for ids in make_steps(5, everyone=False):
        for parts, optimizer, pieces in zip((whole, halves), optimizers, ([ids], ids.split(2)), strict=True):
            parts.zero_grad()
            for piece in pieces:
                (parts[1](parts[0](piece)) ** 2).sum().backward()
            optimizer.step()
    for found, expected in zip(halves.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("fused", [True, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_goes_on_bit_for_bit(fused, dtype):
    """bfloat16 counts to 256 only: the counts of the rows must not be cast to the parameter's dtype."""
    steps = make_steps(8, everyone=False)
    parts = make_parts(sparse=True, dtype=dtype)
    optimizer = LazyAdamW(parts.parameters(), lr=0.01, fused=fused)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    take_steps(parts, optimizer, steps[:4])
    optimizer.state[parts[0].weight]["step"] += 512
    scheduler.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed_parts = copy.deepcopy(parts)
    resumed = LazyAdamW(resumed_parts.parameters(), lr=1.0, fused=fused)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.param_groups[0]["lr"] == 0.005
    take_steps(parts, optimizer, steps[4:])
    take_steps(resumed_parts, resumed, steps[4:])
    for found, expected in zip(resumed_parts.parameters(), parts.parameters(), strict=True):
        assert torch.equal(found, expected)
        assert resumed.state[found]["step"].dtype == torch.float32


def test_closure_and_values_out_of_range():
    parts = make_parts(sparse=True)
    optimizer = LazyAdamW(parts.parameters(), lr=0.01)

    def closure():
        optimizer.zero_grad()
        loss = (parts[1](parts[0](torch.arange(3))) ** 2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses[2] < losses[0]
    for settings in ({"lr": -1}, {"eps": float("nan")}, {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))} must"):
            LazyAdamW(parts.parameters(), **settings)


def test_a_learning_rate_of_ones_own_changes_nothing_else():
    table, linear = make_parts(sparse=False)
    groups = [
        {"params": [linear.bias], "weight_decay": 0.0},
        {"params": [linear.weight, table.weight], "weight_decay": 0.3},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.5, 0.6))
    set_learning_rate(optimizer, nn.Parameter(torch.zeros(1)), 7.0)
    assert len(optimizer.param_groups) == 2, "one that is not trained is left alone"
    set_learning_rate(optimizer, table.weight, 0.02)
    names = {linear.bias: "bias", linear.weight: "weight", table.weight: "table"}
    found = [
        ([names[each] for each in group["params"]], group["lr"], group["weight_decay"], group["betas"])
        for group in optimizer.param_groups
    ]
    assert found == [
        (["bias"], 0.1, 0.0, (0.5, 0.6)),
        (["weight"], 0.1, 0.3, (0.5, 0.6)),
        (["table"], 0.02, 0.3, (0.5, 0.6)),
    ]
