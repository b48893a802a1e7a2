"""Residual blocks and minGRU: their formulas, read plainly without padding, and padding itself."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv1d, layer_norm, linear, silu

from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnModel
from hf_rnn.models import cells_rnn
from hf_rnn.models.blocks_rnn import Dropout
from hf_rnn.models.cells_rnn import CELLS, MinGru

SIZES = {
    "vocab_size": 50,
    "embedding_size": 6,
    "hidden_size": 8,
    "residual_size": 10,
    "intermediate_size": 14,
}
LENGTHS = (7, 3, 1, 0)


def make_model(seed=0, **settings):
    torch.manual_seed(seed)
    config = RnnConfig(
        **{**SIZES, "block_type": "residual", "num_hidden_layers": 2, "pad_token_id": 0, **settings}
    )
    model = RnnModel(config).eval()
    with torch.no_grad():  # no weight is one that hides a mistake, such as an identity
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.embedding.weight[0] = 0
    return model


def read_cell(cell, inputs):
    """Return the states (T, H) of inputs (T, I) by the cell's equations, one token at a time."""
    if isinstance(cell, nn.RNNBase):
        return type(cell).forward(cell, inputs[:, None])[0][:, 0]
    state, states = torch.zeros(cell.hidden_size), []
    for token in inputs:
        gate, candidate = linear(token, cell.weight_ih_l0, cell.bias_ih_l0).chunk(2)
        state = (1 - gate.sigmoid()) * state + gate.sigmoid() * candidate
        states.append(state)
    return torch.stack(states)


def read_text(model, ids):
    """Return the states (T, R) of one text by the formula at the top of `blocks_rnn.py`."""

    def norm(layer, states):
        return layer_norm(states, states.shape[-1:], layer.weight, layer.bias, layer.eps)

    stream = model.projection.projection(norm(model.projection.norm, model.embedding.weight[ids]))
    for block in model.layers:
        inputs = norm(block.input_norm, stream)
        if block.conv is not None:
            ahead = block.conv.ahead
            padded = nn.functional.pad(inputs.T[None], (block.conv.size - 1 - ahead, ahead))
            inputs = conv1d(padded, block.conv.weight.T[:, None], groups=inputs.shape[-1])[0].T
        forward, *backward = [direction.cell for direction in block.mixer.directions]
        states = [read_cell(forward, inputs)] + [
            read_cell(cell, inputs.flip(0)).flip(0) for cell in backward
        ]
        mixed = torch.cat(states, dim=-1) * silu(
            linear(inputs, block.gate_proj.weight, block.gate_proj.bias)
        )
        stream = stream + linear(mixed, block.out_proj.weight, block.out_proj.bias)
        inner = silu(block.up_proj(norm(block.mlp_norm, stream)))
        stream = stream + block.down_proj(inner)
    return norm(model.norm, stream)


@pytest.mark.parametrize("side", ["left", "right", "holes"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("cell_type", CELLS)
def test_states_follow_the_formula_wherever_padding_is(cell_type, bidirectional, side):
    model = make_model(
        cell_type=cell_type, bidirectional=bidirectional, conv_kernel=4 if cell_type == "gru" else 3
    )
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (len(LENGTHS), 9), generator=generator)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        places = {
            "left": range(9 - length, 9),
            "right": range(length),
            "holes": range(0, 2 * length, 2),
        }[side]
        mask[row, [place % 9 for place in places]] = True
    output = model(ids, mask, output_final_states=True)
    for row, length in enumerate(LENGTHS):
        found = output.last_hidden_state[row]
        assert not found[~mask[row]].any()
        if length:
            torch.testing.assert_close(
                found[mask[row]], read_text(model, ids[row][mask[row]]), atol=2e-5, rtol=1e-4
            )
            alone = model(ids[row][mask[row]][None], output_final_states=True)
            torch.testing.assert_close(
                output.final_hidden_state[:, row], alone.final_hidden_state[:, 0]
            )


@pytest.mark.parametrize("cell_type", CELLS)
def test_a_text_may_be_read_in_pieces(cell_type):
    model = make_model(cell_type=cell_type, bidirectional=False)
    ids = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(2))
    whole, states, pieces = model(ids, output_final_states=True), {}, []
    for piece in ids.split([1, 5, 3], dim=1):
        output = model(piece, output_final_states=True, **states)
        pieces.append(output.last_hidden_state)
        names = ("hidden", "cell", "conv")
        states = {f"initial_{name}_state": getattr(output, f"final_{name}_state") for name in names}
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole.last_hidden_state)
    torch.testing.assert_close(output.final_conv_state, whole.final_conv_state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_dropout_drops_its_share_and_scales_the_rest(share, dtype):
    inputs, stream = (
        torch.ones(333, 301, dtype=dtype, requires_grad=True),
        torch.full((333, 301), 5.0),
    )
    layer = Dropout(share)
    torch.manual_seed(0)
    found = layer(inputs)
    found.sum().backward()
    assert torch.equal(inputs.grad, found.detach()), "what is dropped has no gradient"
    kept = found != 0
    torch.testing.assert_close(
        found[kept].float(), torch.full((kept.sum(),), 1 / (1 - share)), rtol=5e-3, atol=0
    )
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=0.006)  # four standard errors
    # neighbours are independent: both are kept in (1 - share) ** 2 of the cases
    for shift in (1, 4, 301):
        both = (kept.flatten()[shift:] & kept.flatten()[:-shift]).float().mean().item()
        assert both == pytest.approx((1 - share) ** 2, abs=0.01)
    torch.manual_seed(0)
    torch.testing.assert_close(layer(inputs, stream), stream + found)
    assert share == 0 or not torch.equal(layer(inputs), found)
    assert torch.equal(layer.eval()(inputs), inputs)


# ---- minGRU's recurrence against its steps, and an LSTM on a processor without bfloat16 ----


IDS = torch.tensor([[5, 7, 2, 7, 3, 5], [4, 4, 1, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])


@pytest.mark.parametrize("eager", [True, False], ids=["steps", "scan"])
@pytest.mark.parametrize("time", [1, 3, 70])
@pytest.mark.parametrize("steepness", [1, 1e4], ids=["", "gates of 0 and 1"])
def test_the_states_of_min_gru_and_their_gradients_are_those_of_its_formula(
    eager, time, steepness, monkeypatch
):
    monkeypatch.setattr(cells_rnn, "runs_eagerly_on_cpu", lambda _: eager)
    torch.manual_seed(time)
    cell = MinGru(4, 3).double()
    with torch.no_grad():
        cell.weight_ih_l0[:3] *= steepness
    inputs = torch.randn(time, 2, 4, dtype=torch.double, requires_grad=True)
    initial = torch.randn(1, 2, 3, dtype=torch.double, requires_grad=True)
    found, last = cell(inputs, initial)

    expected, state = [], initial[0]
    for vectors in inputs:
        gate, candidate = linear(vectors, cell.weight_ih_l0, cell.bias_ih_l0).chunk(2, dim=-1)
        state = (1 - gate.sigmoid()) * state + gate.sigmoid() * candidate
        expected.append(state)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(last[0], state, rtol=1e-9, atol=1e-9)
    wanted = [inputs, initial, *cell.parameters()]
    gradients = [
        torch.autograd.grad(states.sin().sum(), wanted) for states in (found, torch.stack(expected))
    ]
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
