"""The gates that `hf-rnn inspect` draws are those that make the states."""

import pytest
import torch

from hf_rnn import RnnConfig, RnnForSequenceClassification
from hf_rnn.inference.engines.torch import read_gates


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_are_those_that_make_the_states(cell):
    """Rebuild the states from the gates; the backward direction reads from the end."""
    torch.manual_seed(1)
    config = RnnConfig(vocab_size=9, embedding_size=4, hidden_size=3, cell_type=cell, num_hidden_layers=2)
    model = RnnForSequenceClassification(config).eval()
    hidden = model(torch.tensor([[2, 3, 4, 5, 6]]), output_hidden_states=True).hidden_states
    found = {(title, name): torch.from_numpy(values) for title, name, values in read_gates(model, hidden)}
    names = {"lstm": ["input", "forget", "output"], "gru": ["reset", "update"]}[cell]
    assert [name for title, name in found if title == "layer 2, backward"] == [*(f"{n} gate" for n in names), "state"]
    for title in ("layer 2, forward", "layer 2, backward"):
        last = title.endswith("backward")
        inner = model.rnn.layers[1].directions[int(last)].cell
        states = found[title, "state"].flip(0) if last else found[title, "state"]
        gates = {
            name: found[title, f"{name} gate"].flip(0) if last else found[title, f"{name} gate"] for name in names
        }
        inputs = hidden[1][0].flip(0) if last else hidden[1][0]
        before, carry = torch.zeros(3), torch.zeros(3)
        for time, x in enumerate(inputs):
            if cell == "lstm":
                candidate = (x @ inner.weight_ih_l0.T + inner.bias_ih_l0)[6:9]
                candidate = (candidate + (before @ inner.weight_hh_l0.T + inner.bias_hh_l0)[6:9]).tanh()
                carry = gates["forget"][time] * carry + gates["input"][time] * candidate
                before = gates["output"][time] * carry.tanh()
            else:
                from_input = (x @ inner.weight_ih_l0.T + inner.bias_ih_l0)[6:]
                new = (
                    from_input + gates["reset"][time] * (before @ inner.weight_hh_l0.T + inner.bias_hh_l0)[6:]
                ).tanh()
                before = (1 - gates["update"][time]) * new + gates["update"][time] * before
            torch.testing.assert_close(before, states[time], atol=1e-5, rtol=1e-5)
