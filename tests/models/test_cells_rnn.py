"""minGRU's recurrence against its steps, and an LSTM on a processor without bfloat16."""

import pytest
import torch

from hf_rnn import RnnConfig, RnnForSequenceClassification
from hf_rnn.models.cells_rnn import linear_recurrence, parallel_scan

IDS = torch.tensor([[5, 7, 2, 7, 3, 5], [4, 4, 1, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])


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
