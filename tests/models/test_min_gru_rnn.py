"""The linear recurrence of minGRU: two ways to compute it, one answer. The cell's contract: test_modeling_rnn.py."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rnn import RnnConfig, RnnForSequenceClassification
from hf_rnn.models.cells_rnn import MinGru, linear_recurrence, parallel_scan


def draw(time, batch=2, hidden=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    decay = torch.rand(time, batch, hidden, generator=generator, dtype=dtype)
    addend = torch.randn(time, batch, hidden, generator=generator, dtype=dtype)
    return decay, addend, torch.randn(batch, hidden, generator=generator, dtype=dtype)


def by_hand(decay, addend, initial):
    states = []
    for a, b in zip(decay, addend, strict=True):
        initial = a * initial + b
        states.append(initial)
    return torch.stack(states)


@pytest.mark.parametrize("compute", [linear_recurrence, parallel_scan])
@given(time=st.integers(1, 70), seed=st.integers(0, 1000), closed=st.booleans())
@settings(max_examples=20, deadline=None)
def test_states_and_gradients_are_those_of_the_steps(compute, time, seed, closed):
    """`closed`: gates that are exactly 0 or 1, and decays that no sigmoid gives, below 0 and above 1."""
    decay, addend, initial = draw(time, seed=seed)
    if closed:
        decay = (4 * decay).round() - 1
    inputs = [tensor.requires_grad_() for tensor in (decay, addend, initial)]
    expected = by_hand(*inputs)
    states = compute(*inputs)
    torch.testing.assert_close(states, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(1), dtype=states.dtype)
    gradients = torch.autograd.grad((states * weight).sum(), inputs)
    for found, wanted in zip(gradients, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("compute", [linear_recurrence, parallel_scan])
def test_gradcheck(compute):
    assert torch.autograd.gradcheck(compute, [tensor.requires_grad_() for tensor in draw(5)])


@pytest.mark.parametrize("compute", [linear_recurrence, parallel_scan])
@pytest.mark.parametrize("time", [1, 2, 5])
def test_gradients_of_gradients(compute, time):
    inputs = [tensor.requires_grad_() for tensor in draw(time)]
    assert torch.autograd.gradgradcheck(compute, inputs)
    assert torch.autograd.gradcheck(
        lambda *inputs: torch.autograd.grad(compute(*inputs).square().sum(), inputs, create_graph=True), inputs
    )


def test_gradients_of_each_text_by_torchs_own_functions():
    """`torch.func`: a gradient is that of autograd, and under `vmap` that of each text alone."""
    decay, addend, initial = draw(4)

    def loss(decay, addend, initial):
        return linear_recurrence(decay, addend, initial).square().sum()

    expected = torch.autograd.grad(
        loss(*(part.requires_grad_() for part in (decay, addend, initial))), (decay, addend)
    )
    inputs = [tensor.detach() for tensor in (decay, addend, initial)]
    for found, wanted in zip(torch.func.grad(loss, argnums=(0, 1))(*inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    alone = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(1, 1, 0), out_dims=1)(
        *(tensor.unsqueeze(2 if tensor.dim() == 3 else 1) for tensor in inputs)
    )
    for found, wanted in zip(alone, expected, strict=True):
        torch.testing.assert_close(found.squeeze(2), wanted)


def test_a_trace_that_would_fix_the_number_of_steps_is_refused():
    told = DeprecationWarning, FutureWarning  # which one hangs on the Python
    with pytest.raises(RuntimeError, match="take `hf-rnn export`"), pytest.warns(told):
        torch.jit.trace(linear_recurrence, draw(3))


def test_the_loop_runs_on_a_cpu_and_the_scan_elsewhere(monkeypatch):
    calls = []
    monkeypatch.setattr("hf_rnn.models.cells_rnn.parallel_scan", lambda *inputs: calls.append("scan") or inputs[1])
    inputs = draw(3)
    linear_recurrence(*inputs)
    assert calls == []
    linear_recurrence(*(tensor.to("meta") for tensor in inputs))
    assert calls == ["scan"]


def test_compiles_whole_and_to_a_graph_that_does_not_hold_every_step():
    cell = MinGru(4, 3)
    inputs = torch.randn(300, 2, 4)
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(cell, backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(inputs)[0], cell(inputs)[0])
    assert len(graphs[0].graph.nodes) < 300, "premise: a step takes a node at least"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype):
    cell = MinGru(4, 3)
    inputs = torch.randn(9, 2, 4)
    expected = cell(inputs)[0]
    states, last = cell.to(dtype)(inputs.to(dtype), torch.zeros(1, 2, 3))  # a float32 state into another dtype
    assert states.dtype == dtype
    torch.testing.assert_close(states.float(), expected, atol=3e-2, rtol=3e-2)
    torch.testing.assert_close(last[0], states[-1])


def test_starts_as_torchs_cells_do():
    torch.manual_seed(0)
    model = RnnForSequenceClassification(RnnConfig(vocab_size=9, hidden_size=64, cell_type="min_gru"))
    for parameter in model.rnn.layers[0].parameters():
        assert parameter.abs().max() <= 64**-0.5
        assert parameter.std().item() == pytest.approx(64**-0.5 / 3**0.5, rel=0.2)  # of the uniform distribution


def test_recurrent_dropout_is_refused_with_a_reason():
    with pytest.raises(StrictDataclassError, match=r"(?s)has no hidden-to-hidden weights.*set recurrent_dropout to 0"):
        RnnConfig(cell_type="min_gru", recurrent_dropout=0.2)
