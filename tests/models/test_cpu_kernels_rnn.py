"""The loops of our own against torch's kernels: the same states, the same gradients, and only where they serve."""

import copy
import itertools
import warnings
from unittest import mock

import pytest
import torch
from conftest import import_anew
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hf_rnn import RnnConfig, RnnForSequenceClassification
from hf_rnn.models import cpu_kernels_rnn as recurrence_rnn
from hf_rnn.models import modeling_rnn
from hf_rnn.models.cpu_kernels_rnn import distinct_pays, run_loop
from hf_rnn.models.distinct_rnn import DistinctTokens

KERNELS = {"rnn_tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
CELLS = ["rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru"]
WITH_DISTINCT = ["rnn_tanh", "gru", "lstm", "min_gru"]
WITH_RECURRENT_WEIGHTS = CELLS[:-1]
EXACT = {"atol": 1e-12, "rtol": 1e-10}
IDS = torch.tensor([[5, 7, 2, 7, 3, 5], [4, 4, 1, 1, 1, 1], [8, 0, 6, 5, 1, 1], [1, 1, 1, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
LABELS = torch.tensor([0, 2, 1, 1])


def weights_of(kernel):
    return [getattr(kernel, f"{kind}_l0") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def gradients(output, weighting, parameters):
    return torch.autograd.grad((output * weighting).sum(), parameters)


@settings(max_examples=25, deadline=None)
@given(
    cell=st.sampled_from(list(KERNELS)),
    time=st.integers(1, 6),
    batch=st.integers(1, 5),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 9)),
    at_once=st.sampled_from([1, 30, 1 << 19]),
    seed=st.integers(0, 2**31),
)
def test_states_and_gradients_are_those_of_torch(cell, time, batch, sizes, at_once, seed):
    """Backward passes in parts of one step, of some, or of all."""
    width, hidden, distinct = sizes
    torch.manual_seed(seed)
    kernel = KERNELS[cell](width, hidden).double()
    vectors = torch.randn(distinct, width, dtype=torch.double, requires_grad=True)
    rows = torch.randint(distinct, (time, batch))
    weighting = torch.randn(time, batch, hidden, dtype=torch.double)
    parameters = [vectors, *weights_of(kernel)]
    states = kernel(vectors[rows])[0]
    expected = states.detach(), gradients(states, weighting, parameters)
    for inputs in (vectors[rows], DistinctTokens(vectors, rows)):
        with mock.patch.object(recurrence_rnn, "_NUMBERS_AT_ONCE", at_once):
            states = run_loop(cell, inputs, weights_of(kernel))
            found = states.detach(), gradients(states, weighting, parameters)
        torch.testing.assert_close(found, expected, **EXACT)


def test_backward_passes_take_each_step_once_the_last_first():
    for time, batch in ((1, 1), (7, 3), (10, 5), (9, 0)):
        gates = torch.empty(time, batch, 4)
        for at_once in (1, 12, 25, 60, 120, 1000):
            with mock.patch.object(recurrence_rnn, "_NUMBERS_AT_ONCE", at_once):
                parts = list(recurrence_rnn._parts(gates))
            steps = [step for part in parts for step in reversed(range(part.start, part.stop))]
            assert steps == list(range(time))[::-1]
            if gates.numel() > 2 * at_once:
                assert all(gates[part].numel() <= max(at_once, gates[0].numel()) for part in parts)
            else:
                assert len(parts) == 1


@pytest.mark.parametrize("cell", KERNELS)
def test_large_inputs_saturate_as_in_torch(cell):
    torch.manual_seed(0)
    kernel = KERNELS[cell](3, 4)
    inputs = (1000 * torch.randn(5, 2, 3)).requires_grad_()
    states = run_loop(cell, inputs, weights_of(kernel))
    torch.testing.assert_close(states, kernel(inputs)[0], atol=1e-5, rtol=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients(states, 1.0, [inputs, *weights_of(kernel)]))


@pytest.mark.parametrize("cell", KERNELS)
def test_imported_under_another_default_device_it_is_the_same(cell):
    torch.manual_seed(0)
    kernel, inputs = KERNELS[cell](3, 4), torch.randn(5, 2, 3, requires_grad=True)
    parameters = [inputs, *weights_of(kernel)]
    states = import_anew(recurrence_rnn, torch.device("meta")).run_loop(cell, inputs, weights_of(kernel))
    found, expected = ((each, gradients(each, 1.0, parameters)) for each in (states, kernel(inputs)[0]))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("cell", KERNELS)
def test_gradcheck(cell):
    torch.manual_seed(0)
    kernel = KERNELS[cell](3, 2).double()
    vectors = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    rows = torch.tensor([[0, 3], [1, 0], [0, 0]])

    def run(vectors, *weights):
        return run_loop(cell, DistinctTokens(vectors, rows), list(weights))

    assert torch.autograd.gradcheck(run, (vectors, *weights_of(kernel)))


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("cell", KERNELS)
def test_gradients_of_gradients_are_refused(cell, distinct):
    """By whatever way they are asked for: what autograd calls leave out would be silently wrong."""
    torch.manual_seed(0)
    kernel = KERNELS[cell](3, 2).double()
    vectors = torch.randn(4, 2, 3, dtype=torch.double, requires_grad=True)

    def run(vectors):
        rows = torch.arange(8).view(4, 2)
        inputs = DistinctTokens(vectors.flatten(0, 1), rows) if distinct else vectors
        return run_loop(cell, inputs, weights_of(kernel)).square().sum()

    with pytest.raises(RuntimeError, match=r"call model\.eval\(\)"):
        torch.autograd.grad(run(vectors), vectors, create_graph=True)
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\)"):
        torch.autograd.functional.hvp(run, vectors.detach(), torch.ones_like(vectors))
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\)"):
        torch.autograd.functional.jvp(run, vectors.detach(), torch.ones_like(vectors))


def make(cell, dtype=torch.double, **changes):
    torch.manual_seed(3)
    settings = {
        "vocab_size": 13,
        "embedding_size": 6,
        "hidden_size": 5,
        "cell_type": cell,
        "num_labels": 3,
        "word_dropout": 0.3,
        **changes,
    }
    return RnnForSequenceClassification(RnnConfig(**settings)).to(dtype).train()


@pytest.fixture
def distinct_tokens(monkeypatch):
    """Let an LSTM gain by distinct tokens however small it is, and count how often the model makes some."""
    made = []

    class Counted(DistinctTokens):
        def __new__(cls, *parts):
            made.append(parts)
            return DistinctTokens(*parts)

    monkeypatch.setattr(modeling_rnn, "distinct_pays", lambda *sizes: True)
    monkeypatch.setattr(modeling_rnn, "DistinctTokens", Counted)
    return made


@pytest.fixture
def without_loops(monkeypatch):
    """A function that runs another one on torch's kernels alone."""

    def run(function):
        with monkeypatch.context() as patch:
            for room in (modeling_rnn, recurrence_rnn, __import__("hf_rnn.models.cells_rnn").models.cells_rnn):
                patch.setattr(room, "may_loop", lambda weight: False)
            return function()

    return run


def train_step(model, ids=IDS, mask=MASK, **more):
    """Loss and gradients by name; the dropouts draw the same every time."""
    model.zero_grad()
    torch.manual_seed(11)
    loss = model(ids, mask, labels=LABELS, **more).loss
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.detach(), {name: grad.to_dense() if grad.is_sparse else grad for name, grad in found.items()}


@pytest.mark.parametrize("cell", CELLS)
def test_derivatives_of_evaluation_are_those_of_small_differences(cell):
    model = make(cell, pooling="mean").eval()
    vectors, direction = torch.randn(2, 2, 4, 6, dtype=torch.double, generator=torch.Generator().manual_seed(5))

    def logits(vectors):
        return model(inputs_embeds=vectors, attention_mask=MASK[:2, :4]).logits

    def slope(vectors):
        return torch.autograd.functional.jacobian(lambda z: logits(z).square().sum(), vectors)

    step = 1e-5 * direction
    forward = (logits(vectors + step) - logits(vectors - step)) / 2e-5
    torch.testing.assert_close(
        torch.autograd.functional.jvp(logits, vectors, direction)[1], forward, rtol=1e-6, atol=1e-8
    )
    second = (slope(vectors + step) - slope(vectors - step)) / 2e-5
    found = torch.autograd.functional.hvp(lambda z: logits(z).square().sum(), vectors, direction)[1]
    torch.testing.assert_close(found, second, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("cell", CELLS)
def test_functional_gradients_of_training_are_those_of_autograd(cell, distinct_tokens):
    model = make(cell, word_dropout=0.0)
    _, expected = train_step(model)
    distinct_tokens.clear()
    parameters = dict(model.named_parameters())
    found = torch.func.grad(lambda weights: torch.func.functional_call(model, weights, (IDS, MASK, LABELS)).loss)(
        parameters
    )
    assert not distinct_tokens, "torch.func follows no loop of ours"
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("cell", "layers", "bidirectional"), list(itertools.product(CELLS, [1, 2], [False, True])), ids=str
)
def test_a_training_step_is_that_of_the_plain_path(cell, layers, bidirectional, distinct_tokens, without_loops):
    model = make(cell, num_hidden_layers=layers, bidirectional=bidirectional, pooling="mean_max")
    plain = without_loops(lambda: train_step(model))
    assert not distinct_tokens, "premise: the plain path"
    looped = train_step(model)
    assert len(distinct_tokens) == (cell in WITH_DISTINCT), "premise: the other path"
    torch.testing.assert_close(looped, plain, **EXACT)
    assert any(grad.abs().max() > 1e-3 for grad in looped[1].values())


@pytest.mark.parametrize("cell", WITH_DISTINCT)
@pytest.mark.parametrize(
    "changes",
    [
        {"sparse_embedding": True},
        {"freeze_embedding": True},
        {"recurrent_dropout": 0.2, "hidden_dropout": 0.2, "num_hidden_layers": 2},
        {"word_dropout": 0.0, "pooling": "attention"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_training_step_with_other_settings(cell, changes, distinct_tokens, without_loops):
    if cell == "min_gru":
        changes = {name: value for name, value in changes.items() if name != "recurrent_dropout"}
    model = make(cell, **changes)
    plain = without_loops(lambda: train_step(model))
    looped = train_step(model)
    assert len(distinct_tokens) == 1
    torch.testing.assert_close(looped, plain, **EXACT)


@pytest.mark.parametrize("cell", WITH_DISTINCT)
def test_single_precision_is_within_a_millionth(cell, distinct_tokens, without_loops):
    model = make(cell, dtype=torch.float32, num_hidden_layers=2)
    plain, looped = without_loops(lambda: train_step(model)), train_step(model)
    torch.testing.assert_close(looped, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_never_changes_a_gradient(cell, distinct_tokens):
    model = make(cell)
    expected = train_step(model)
    wider, mask = (nn.functional.pad(tensor, (2, 3)) for tensor in (IDS, MASK))
    torch.testing.assert_close(train_step(model, wider, mask), expected, **EXACT)
    filled = torch.where(mask == 1, wider, 9)  # what stands at masked places is never read
    torch.testing.assert_close(train_step(model, filled, mask), expected, **EXACT)


@pytest.mark.parametrize("cell", WITH_DISTINCT)
@pytest.mark.parametrize(
    "case", ["embedding_dropout", "eval", "no_grad", "states", "final", "hidden", "hook", "embeds", "half"]
)
def test_vectors_stay_at_their_places_where_they_must(cell, case, distinct_tokens):
    model = make(cell, dtype=torch.float32, embedding_dropout=0.5 if case == "embedding_dropout" else 0.0)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    if case == "eval":
        model.eval()
    if case == "states":
        inputs["initial_hidden_state"] = torch.zeros(2, 4, 5)
    if case == "final":
        inputs["output_final_states"] = True
    if case == "hidden":
        inputs["output_hidden_states"] = True
    if case == "embeds":
        inputs["inputs_embeds"] = model.rnn.embedding(inputs.pop("input_ids"))
    if case == "hook":
        model.rnn.embedding.register_forward_hook(lambda module, given, vectors: vectors)
    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=case == "half")
    with half, torch.set_grad_enabled(case != "no_grad"):
        assert model(**inputs).logits.isfinite().all()
    assert not distinct_tokens


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_autocast_leaves_an_lstm_in_float32_on_a_processor_without_the_precision(precision, training, monkeypatch):
    """There oneDNN's LSTM, which autocast hands the rounded weights to, raises."""
    monkeypatch.setattr("hf_rnn.models.cells_rnn._LSTM_PRECISIONS", frozenset())
    model = make("lstm", dtype=torch.float32, word_dropout=0.0).train(training)
    expected = model.rnn(IDS, MASK, output_final_states=True)
    with torch.autocast("cpu", precision):
        found = model.rnn(IDS, MASK, output_final_states=True)
        plain = model.rnn(IDS, MASK).last_hidden_state
        half = model.rnn(attention_mask=MASK, inputs_embeds=model.rnn.embedding(IDS).to(precision))
        model(IDS, MASK, labels=LABELS).loss.backward()
    for name in ("last_hidden_state", "final_hidden_state", "final_cell_state"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
    torch.testing.assert_close(plain, expected.last_hidden_state, rtol=0, atol=1e-6)
    torch.testing.assert_close(half.last_hidden_state, expected.last_hidden_state, rtol=0, atol=0.02)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("cell", WITH_DISTINCT)
def test_a_compiled_step_is_the_same(cell, distinct_tokens, without_loops):
    model = make(cell, word_dropout=0.0)
    expected = train_step(model)
    assert len(distinct_tokens) == 1
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    compiled(IDS, MASK, labels=LABELS).loss.backward()
    assert len(distinct_tokens) == 1, "a graph has no distinct tokens, whose number is not known beforehand"
    found = {name.removeprefix("_orig_mod."): weight.grad for name, weight in compiled.named_parameters()}
    torch.testing.assert_close(found, expected[1], **EXACT)


@pytest.mark.parametrize("cell", WITH_RECURRENT_WEIGHTS)
def test_a_traced_step_is_the_same(cell, distinct_tokens):
    """On other texts than those that it was traced with."""
    model = make(cell, word_dropout=0.0)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(ids, mask).logits

    with warnings.catch_warnings(action="ignore", category=torch.jit.TracerWarning):
        traced = torch.jit.trace(Logits(), (IDS, MASK))
    assert not distinct_tokens
    ids, mask = IDS.flip(0), MASK.flip(0)
    expected = model(ids, mask).logits
    torch.testing.assert_close(traced(ids, mask), expected, **EXACT)


def test_an_lstm_gains_only_by_much():
    tweets = {"places": 64 * 20, "input_size": 300}
    assert distinct_pays("lstm", distinct=480, hidden_size=128, **tweets)
    assert not distinct_pays("lstm", distinct=1280, hidden_size=128, **tweets), "all distinct"
    assert not distinct_pays("lstm", distinct=480, hidden_size=8, **tweets), "a small layer"
    assert not distinct_pays("lstm", distinct=480, hidden_size=2048, **tweets), "most work is recurrent"
    assert all(distinct_pays(cell, 20, 20, 300, 128) for cell in ("rnn_tanh", "gru", "min_gru"))
