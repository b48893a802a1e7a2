"""LazyAdamW against torch's own optimisers, each where they must agree."""

import copy
import io

import pytest
import torch
from torch import nn

from hf_rnn.training.optimizers import LazyAdamW, set_learning_rate

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


def follow(kind, steps, *, sparse, **settings):
    """A table after steps whose gradients do not hang on it, the same in each call; its optimiser; how far it went."""
    torch.manual_seed(0)
    embedding = nn.Embedding(ROWS, WIDTH, sparse=sparse).double()
    start = embedding.weight.detach().clone()
    optimizer = kind(embedding.parameters(), **settings)
    for ids in steps:
        optimizer.zero_grad()
        (embedding(ids) * (torch.randn(len(ids), WIDTH).double() + 0.5)).sum().backward()
        optimizer.step()
    return embedding.weight.detach(), optimizer.state[embedding.weight], embedding.weight.detach() - start


@pytest.mark.parametrize(("weight_decay", "tolerance"), [(0.0, 1e-9), (0.1, 1e-3)])
def test_rows_come_back_to_where_adamw_has_them(weight_decay, tolerance):
    """After two steps with all rows nothing is taken in advance; decay stands before the way between, not within it.

    The premise: torch's corrections of the moments' start are one by then.
    """
    every = torch.arange(ROWS)
    middle = [ids[: 1 + number % 3] for number, ids in enumerate(make_steps(60, everyone=False))]
    assert any(len(ids.unique()) < len(ids) for ids in middle), "premise: some stand twice in a gradient"
    counts = torch.cat([ids.unique() for ids in middle]).bincount(minlength=ROWS)
    assert counts.min() > 0 and counts.max() < 40, "premise: each is away, and comes back"
    settings = {"lr": 0.01, "betas": (0.6, 0.9), "eps": 1e-30, "weight_decay": weight_decay}
    steps = [*[every] * 400, *middle, every, every]
    found, state, _ = follow(LazyAdamW, steps, sparse=True, **settings)
    expected, theirs, _ = follow(torch.optim.AdamW, steps, sparse=False, **settings)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(state[name], theirs[name], atol=1e-12, rtol=0)


def test_rare_rows_go_as_far_as_by_adamw():
    """From the first step on, with torch's own settings; SparseAdam leaves them behind."""
    steps = [torch.tensor([0, 1 + number // 40 % (ROWS - 1)][: 1 + (number % 40 == 7)]) for number in range(1200)]
    counts = torch.cat(steps).bincount()
    assert counts.tolist() == [1200] + [5] * (ROWS - 1), "premise: one in each step, the others in one of 240"
    ways = [
        follow(LazyAdamW, steps, sparse=True, weight_decay=0)[2],
        follow(torch.optim.SparseAdam, steps, sparse=True)[2],
        follow(torch.optim.AdamW, steps, sparse=False, weight_decay=0)[2],
    ]
    lengths = [way.norm(dim=1) for way in ways]
    torch.testing.assert_close(ways[0][0], ways[2][0], atol=1e-9, rtol=0)
    off = ((ways[0] - ways[2]).norm(dim=1) / lengths[2])[1:]
    assert off.max() < 0.1, off
    assert (lengths[1] / lengths[2])[1:].max() < 0.5, "premise: not every optimiser of sparse rows does"


def test_where_the_way_between_has_no_end_rows_wait():
    """β₁ above √β₂: what remains of a step grows without a gradient."""
    steps = [torch.tensor([0]), *[torch.tensor([1])] * 500, torch.tensor([0])]
    found, _, way = follow(LazyAdamW, steps, sparse=True, lr=0.01, betas=(0.9, 0.5), weight_decay=0)
    assert found.isfinite().all() and way[0].abs().max() < 0.05
    assert way[2:].count_nonzero() == 0


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99), (0.8, 0.0)])
def test_without_an_epsilon_a_new_row_is_a_number(betas):
    """Which has moments of zero, and nothing to make good."""
    steps = [torch.tensor([0]), torch.tensor([0]), torch.tensor([0, 1]), torch.tensor([1])]
    found, _, way = follow(LazyAdamW, steps, sparse=True, eps=0.0, betas=betas)
    assert found.isfinite().all() and way[:2].all()


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
        if name != "step":
            kept = (values == state[name]).view(ROWS, -1).all(dim=1)
            assert kept.tolist() == [row != 3 for row in range(ROWS)], name


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
    """bfloat16 counts to 256 only: neither steps nor rows' steps may be cast to the parameter's dtype."""
    steps = make_steps(8, everyone=False)
    parts = make_parts(sparse=True, dtype=dtype)
    optimizer = LazyAdamW(parts.parameters(), lr=0.01, fused=fused)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    take_steps(parts, optimizer, steps[:4])
    optimizer.state[parts[0].weight]["step"] += 512
    optimizer.state[parts[0].weight]["rows"][:, 0] += 511
    scheduler.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed_parts = copy.deepcopy(parts)
    resumed = LazyAdamW(resumed_parts.parameters(), lr=1.0, fused=fused)
    saved = torch.load(file, weights_only=True)
    resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["lr"] == 0.005
    take_steps(parts, optimizer, steps[4:])
    take_steps(resumed_parts, resumed, steps[4:])
    for found, expected in zip(resumed_parts.parameters(), parts.parameters(), strict=True):
        assert torch.equal(found, expected)
        assert resumed.state[found]["step"].dtype == torch.float32
    rows = resumed.state[resumed_parts[0].weight]["rows"]
    assert rows.dtype == torch.int32 and rows.equal(optimizer.state[parts[0].weight]["rows"]) and rows.max() > 512
    assert saved["state"][0]["rows"].max() < rows.max(), "a copy went on"


def test_a_state_of_an_older_version_is_refused():
    """It held a number of steps a row, and failed in the first step, by the shapes of tensors."""
    parts = make_parts(sparse=True)
    optimizer = LazyAdamW(parts.parameters())
    take_steps(parts, optimizer, make_steps(2, everyone=True))
    state = copy.deepcopy(optimizer.state_dict())
    assert "rows" in state["state"][0], "premise: the table's"
    del state["state"][0]["rows"]
    state["state"][0]["step"] = torch.full((ROWS,), 2.0)
    other = LazyAdamW(make_parts(sparse=True).parameters())
    with pytest.raises(ValueError, match="an older LazyAdamW wrote them"):
        other.load_state_dict(state)
    assert not other.state, "nothing was loaded by half"


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
