"""SparseAdamW is torch's AdamW for dense gradients and torch's SparseAdam for sparse ones."""

import copy
import io

import pytest
import torch
from torch import nn

from hf_rnn.training.optimizers import SparseAdamW

ROWS, WIDTH = 7, 5


@pytest.fixture
def parts():
    """Return an embedding with sparse gradients and a linear layer on it."""
    torch.manual_seed(0)
    return nn.ModuleList([nn.Embedding(ROWS, WIDTH, sparse=True), nn.Linear(WIDTH, 3)])


def take_steps(parts, *optimizers, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(6):
        parts.zero_grad()
        (parts[1](parts[0](torch.randint(ROWS - 1, (4,), generator=generator))) ** 2).sum().backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("fused", [True, None])
def test_steps_are_those_of_torch(parts, fused):
    theirs, last = copy.deepcopy(parts), parts[0].weight[-1].clone()
    settings = {"lr": 0.01, "betas": (0.8, 0.99)}
    take_steps(parts, SparseAdamW(parts.parameters(), **settings, weight_decay=0, fused=fused))
    dense = torch.optim.AdamW(theirs[1].parameters(), **settings, weight_decay=0)
    take_steps(theirs, torch.optim.SparseAdam(theirs[0].parameters(), **settings), dense)
    for found, expected in zip(parts.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)
    assert torch.equal(parts[0].weight[-1], last), "a row that is in no batch"


def test_a_saved_state_resumes_bit_for_bit(parts):
    optimizer = SparseAdamW(parts.parameters(), lr=0.01, fused=True)
    take_steps(parts, optimizer)
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    file.seek(0)
    resumed_parts = copy.deepcopy(parts)
    resumed = SparseAdamW(resumed_parts.parameters(), lr=1.0, fused=True)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for network, one in ((parts, optimizer), (resumed_parts, resumed)):
        take_steps(network, one, seed=2)
    for found, expected in zip(resumed_parts.parameters(), parts.parameters(), strict=True):
        assert torch.equal(found, expected)
