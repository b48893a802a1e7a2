"""minGRU's recurrence, and the training loops on a CPU, compared with torch's kernels."""

import itertools

import pytest
import torch
from hf_rnn.models.cpu_kernels_rnn import DistinctTokens, run_loop
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hf_rnn import RnnConfig, RnnForSequenceClassification
from hf_rnn.models import cells_rnn, modeling_rnn
from hf_rnn.models.cells_rnn import CELLS, Lstm, linear_recurrence, parallel_scan

KERNELS = {"tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
WITH_DISTINCT = [name for name in CELLS if name != "rnn_relu"]
EXACT = {"atol": 1e-12, "rtol": 1e-10}
IDS = torch.tensor([[5, 7, 2, 7, 3, 5], [4, 4, 1, 1, 1, 1], [8, 0, 6, 5, 1, 1], [1, 1, 1, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
LABELS = torch.tensor([0, 2, 1, 1])


def weights_of(kernel):
    return [getattr(kernel, f"{kind}_l0") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


@pytest.mark.parametrize("compute", [linear_recurrence, parallel_scan])
@pytest.mark.parametrize("time", [1, 3, 70])
@pytest.mark.parametrize("closed", [False, True], ids=["", "gates of 0 and 1, decays below 0 and above 1"])
def test_the_recurrence_and_its_gradients_are_those_of_the_steps(compute, time, closed):
    generator = torch.Generator().manual_seed(time)
    decay = torch.rand(time, 2, 3, generator=generator, dtype=torch.double)
    decay = (4 * decay).round() - 1 if closed else decay
    addend = torch.randn(time, 2, 3, generator=generator, dtype=torch.double)
    initial = torch.randn(2, 3, generator=generator, dtype=torch.double)
    inputs = [tensor.requires_grad_() for tensor in (decay, addend, initial)]
    expected, state = [], initial
    for a, b in zip(decay, addend, strict=True):
        state = a * state + b
        expected.append(state)
    found, expected = compute(*inputs), torch.stack(expected)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(states.sin().sum(), inputs) for states in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_trace_that_would_fix_the_number_of_steps_is_refused():
    with pytest.raises(RuntimeError, match="use `hf-rnn export`"):
        torch.jit.trace(linear_recurrence, (torch.rand(3, 2, 3), torch.rand(3, 2, 3), torch.rand(2, 3)))


@given(
    cell=st.sampled_from(list(KERNELS)),
    time=st.integers(1, 6),
    batch=st.integers(1, 5),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 9)),
    seed=st.integers(0, 2**31),
)
def test_states_and_gradients_of_the_loops(cell, time, batch, sizes, seed):
    width, hidden, distinct = sizes
    torch.manual_seed(seed)
    kernel = KERNELS[cell](width, hidden).double()
    vectors = torch.randn(distinct, width, dtype=torch.double, requires_grad=True)
    rows = torch.randint(distinct, (time, batch))
    weighting = torch.randn(time + 1, batch, hidden, dtype=torch.double)
    before = torch.randn(2, batch, hidden, dtype=torch.double).requires_grad_().unbind(0)[: 1 + (cell == "lstm")]
    parameters = [vectors, *weights_of(kernel)]

    def with_gradients(states, last, *initial):
        loss = (states * weighting[:-1]).sum() + (last * weighting[-1]).sum()
        return states.detach(), last.detach(), torch.autograd.grad(loss, [*parameters, *initial])

    for initial in ((), before):
        given = [state[None] for state in initial]
        states, last = kernel(vectors[rows], *([tuple(given)] if len(given) > 1 else given))
        expected = with_gradients(states, last[1][0] if cell == "lstm" else last[0], *initial)
        for inputs in (vectors[rows], DistinctTokens(vectors, rows)):
            states, cells = run_loop(cell, inputs, weights_of(kernel), *initial)
            found = with_gradients(states, states[-1] if cells is None else cells[-1], *initial)
            torch.testing.assert_close(found, expected, **EXACT)


def make(cell, dtype=torch.double, **changes):
    torch.manual_seed(3)
    settings = {"vocab_size": 13, "embedding_size": 6, "hidden_size": 5, "num_labels": 3, "word_dropout": 0.3}
    return RnnForSequenceClassification(RnnConfig(cell_type=cell, **{**settings, **changes})).to(dtype).train()


@pytest.fixture
def distinct_tokens(monkeypatch):
    """Count the distinct tokens that the model makes, also for an LSTM this small."""
    made = []
    monkeypatch.setattr(Lstm, "distinct_gain", (0.0, 0.0))
    monkeypatch.setattr(modeling_rnn, "DistinctTokens", lambda *parts: made.append(1) or DistinctTokens(*parts))
    return made


@pytest.fixture
def without_loops(monkeypatch):
    """A function that runs another one on torch's kernels alone."""

    def run(function):
        with monkeypatch.context() as patch:
            for module in (modeling_rnn, cells_rnn):
                patch.setattr(module, "may_loop", lambda weight: False)
            return function()

    return run


def train_step(model, ids=IDS, mask=MASK):
    """Return loss and gradients by name; the dropouts draw the same every time."""
    model.zero_grad()
    torch.manual_seed(11)
    loss = model(ids, mask, labels=LABELS).loss
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.detach(), {name: grad.to_dense() if grad.is_sparse else grad for name, grad in found.items()}


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), list(itertools.product(CELLS, [1, 2], [False, True])))
def test_a_training_step_is_that_of_torchs_kernels(cell, layers, bidirectional, distinct_tokens, without_loops):
    model = make(cell, num_hidden_layers=layers, bidirectional=bidirectional)
    plain = without_loops(lambda: train_step(model))
    assert not distinct_tokens, "premise: the plain path"
    looped = train_step(model)
    assert len(distinct_tokens) == (cell in WITH_DISTINCT), "premise: the other path"
    torch.testing.assert_close(looped, plain, **EXACT)
    wider, mask = (nn.functional.pad(tensor, (2, 3)) for tensor in (IDS, MASK))
    torch.testing.assert_close(train_step(model, torch.where(mask == 1, wider, 9), mask), looped, **EXACT)


@pytest.mark.parametrize("cell", WITH_DISTINCT)
@pytest.mark.parametrize(
    "changes",
    [
        {"sparse_embedding": True},
        {"freeze_embedding": True, "pooling": "attention"},
        {"recurrent_dropout": 0.2, "hidden_dropout": 0.2, "num_hidden_layers": 2},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_training_step_with_other_settings(cell, changes, distinct_tokens, without_loops):
    if cell == "min_gru":
        changes = {name: value for name, value in changes.items() if name != "recurrent_dropout"}
    model = make(cell, **changes)
    plain = without_loops(lambda: train_step(model))
    torch.testing.assert_close(train_step(model), plain, **EXACT)
    assert len(distinct_tokens) == 1


@pytest.mark.parametrize("training", [True, False])
def test_autocast_leaves_an_lstm_in_float32_on_a_cpu_without_the_precision(training, monkeypatch):
    """There oneDNN's LSTM raises."""
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: False)
    model = make("lstm", torch.float32).train(training)
    model.config.word_dropout = 0.0
    expected = model.rnn(IDS, MASK, output_final_states=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.rnn(IDS, MASK, output_final_states=True)
        model(IDS, MASK, labels=LABELS).loss.backward()
    torch.testing.assert_close(found.to_tuple(), expected.to_tuple(), rtol=0, atol=0)
