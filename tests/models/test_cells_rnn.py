"""minGRU's recurrence against its steps, and an LSTM on a processor without bfloat16."""

import pytest
import torch
from torch.nn.functional import linear

from hf_rnn import RnnConfig, RnnForSequenceClassification
from hf_rnn.models import cells_rnn
from hf_rnn.models.cells_rnn import MinGru

IDS = torch.tensor([[5, 7, 2, 7, 3, 5], [4, 4, 1, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])


@pytest.mark.parametrize("eager", [True, False], ids=["steps", "scan"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("time", [1, 3, 70])
@pytest.mark.parametrize("steepness", [1, 1e4], ids=["", "gates of 0 and 1"])
def test_the_states_of_min_gru_and_their_gradients_are_those_of_its_formula(
    eager, backward, time, steepness, monkeypatch
):
    monkeypatch.setattr(cells_rnn, "runs_eagerly_on_cpu", lambda _: eager)
    torch.manual_seed(time)
    cell = MinGru(4, 3).double()
    with torch.no_grad():
        cell.weight_ih_l0[:3] *= steepness
    inputs = torch.randn(time, 2, 4, dtype=torch.double, requires_grad=True)
    initial = torch.randn(1, 2, 3, dtype=torch.double, requires_grad=True)
    valid = torch.arange(time)[:, None] < torch.tensor([time, time // 2])
    found, last = cell(inputs, initial, valid, backward)

    expected, state = [torch.empty(0)] * time, initial[0]
    for place in range(time)[:: -1 if backward else 1]:
        gate, candidate = linear(inputs[place], cell.weight_ih_l0, cell.bias_ih_l0).chunk(2, dim=-1)
        update = gate.sigmoid() * valid[place, :, None]
        state = expected[place] = (1 - update) * state + update * candidate
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(last[0], state, rtol=1e-9, atol=1e-9)
    wanted = [inputs, initial, *cell.parameters()]
    gradients = [torch.autograd.grad(states.sin().sum(), wanted) for states in (found, torch.stack(expected))]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_trace_that_would_fix_the_number_of_steps_is_refused():
    with pytest.raises(RuntimeError, match="use `hf-rnn export`"):
        torch.jit.trace(MinGru(3, 3), torch.rand(3, 2, 3))


@pytest.mark.parametrize("training", [True, False])
def test_autocast_leaves_an_lstm_in_float32_on_a_cpu_without_the_precision(training, monkeypatch):
    """There oneDNN's LSTM raises."""
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: False)
    torch.manual_seed(3)
    sizes = {"vocab_size": 13, "embedding_size": 6, "hidden_size": 5, "num_labels": 3}
    model = RnnForSequenceClassification(RnnConfig(cell_type="lstm", **sizes)).train(training)
    expected = model.rnn(IDS, MASK, output_final_states=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.rnn(IDS, MASK, output_final_states=True)
        model(IDS, MASK, labels=torch.tensor([0, 2])).loss.backward()
    torch.testing.assert_close(found.to_tuple(), expected.to_tuple(), rtol=0, atol=0)
