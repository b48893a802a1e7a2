"""LazyAdamW against torch's own optimizers, where they must agree, and clipping against torch's on dense gradients."""

import copy
import io

import pytest
import torch
from torch import nn

from hf_rnn.training.optimizers import LazyAdamW

ROWS, WIDTH = 7, 5


def make_parts(*, sparse, dtype=torch.float64):
    """Return an embedding and a linear layer on it, the same for each call."""
    torch.manual_seed(0)
    return nn.ModuleList([nn.Embedding(ROWS, WIDTH, sparse=sparse), nn.Linear(WIDTH, 3)]).to(dtype)


def make_steps(count, *, all_rows):
    """Return the ids of each step, some of them twice; with `all_rows` every row is in every step."""
    generator = torch.Generator().manual_seed(1)
    steps = [torch.randint(ROWS, (4,), generator=generator) for _ in range(count)]
    return [torch.cat([torch.arange(ROWS), ids]) for ids in steps] if all_rows else steps


def take_steps(parts, optimizer, steps):
    for ids in steps:
        parts.zero_grad()
        (parts[1](parts[0](ids)) ** 2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [True, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_it_is_adamw_if_each_step_touches_each_row(fused, dtype, tolerance):
    ours, theirs = make_parts(sparse=True, dtype=dtype), make_parts(sparse=False, dtype=dtype)
    settings = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99), "fused": fused}
    steps = make_steps(20, all_rows=True)
    take_steps(ours, LazyAdamW(ours.parameters(), **settings), steps)
    take_steps(theirs, torch.optim.AdamW(theirs.parameters(), **settings), steps)
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def train_table(kind, steps, *, sparse, **settings):
    """Return a table after steps with fixed gradients, its optimizer's state, and how far each row moved."""
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
@pytest.mark.slow
def test_returning_rows_are_where_adamw_has_them(weight_decay, tolerance):
    """400 steps first, so that the corrections of the moments are one; decay precedes the movement in between."""
    everything = torch.arange(ROWS)
    middle = [ids[: 1 + number % 3] for number, ids in enumerate(make_steps(60, all_rows=False))]
    counts = torch.cat([ids.unique() for ids in middle]).bincount(minlength=ROWS)
    assert counts.min() > 0 and counts.max() < 40, "premise: each row is absent and returns"
    settings = {"lr": 0.01, "betas": (0.6, 0.9), "eps": 1e-30, "weight_decay": weight_decay}
    steps = [*[everything] * 400, *middle, everything, everything]
    found, state, _ = train_table(LazyAdamW, steps, sparse=True, **settings)
    expected, theirs, _ = train_table(torch.optim.AdamW, steps, sparse=False, **settings)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(state[name], theirs[name], atol=1e-12, rtol=0)


def test_only_touched_rows_change():
    parts = make_parts(sparse=True)
    optimizer = LazyAdamW(parts.parameters(), lr=0.1, weight_decay=0.5)
    take_steps(parts, optimizer, [torch.arange(ROWS)])
    weight = parts[0].weight
    before, state = weight.detach().clone(), copy.deepcopy(optimizer.state[weight])
    take_steps(parts, optimizer, [torch.tensor([3, 3])])
    assert (weight != before).all(dim=1).tolist() == [row == 3 for row in range(ROWS)]
    for name in state.keys() - {"step"}:
        kept = (optimizer.state[weight][name] == state[name]).view(ROWS, -1).all(dim=1)
        assert kept.tolist() == [row != 3 for row in range(ROWS)], name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_resumes_bit_for_bit(dtype):
    """bfloat16 counts to 256 only, so steps must not be cast to the parameter's dtype."""
    steps = make_steps(8, all_rows=False)
    parts = make_parts(sparse=True, dtype=dtype)
    optimizer = LazyAdamW(parts.parameters(), lr=0.01, fused=True)
    take_steps(parts, optimizer, steps[:4])
    optimizer.state[parts[0].weight]["step"] += 512
    optimizer.state[parts[0].weight]["rows"][:, 0] += 511
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    file.seek(0)
    saved, resumed_parts = torch.load(file, weights_only=True), copy.deepcopy(parts)
    resumed = LazyAdamW(resumed_parts.parameters(), lr=1.0, fused=True)
    resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["lr"] == 0.01
    take_steps(parts, optimizer, steps[4:])
    take_steps(resumed_parts, resumed, steps[4:])
    for found, expected in zip(resumed_parts.parameters(), parts.parameters(), strict=True):
        assert torch.equal(found, expected)
    rows = resumed.state[resumed_parts[0].weight]["rows"]
    assert rows.dtype == torch.int32 and rows.equal(optimizer.state[parts[0].weight]["rows"])
    assert saved["state"][0]["rows"].max() < rows.max(), "the loaded state is a copy"
