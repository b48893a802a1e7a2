"""The tutorial's network, written here in plain torch, and its checkpoints: the oracles."""

import pickle

import pytest
import torch
from torch import nn

from hf_rnn import RnnConfig, RnnForSequenceClassification

KINDS = {"rnn_tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
LABELS = {0: "neutral", 1: "positive", 2: "negative"}
IDS = torch.tensor([[4, 82, 73, 45, 21], [27, 2, 15, 48, 21], [49, 0, 18, 15, 21], [19, 14, 2, 98, 21]])
TARGETS = torch.tensor([1, 0, 2, 1])


class TutorialNetwork(nn.Module):
    """Time first, as the tutorial has it; the last output represents the text."""

    def __init__(self, cell, layers, vocab_size=100, embedding_size=30, hidden_size=8, bidirectional=False):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size, padding_idx=1, sparse=True)
        self.rnn_layer = KINDS[cell](embedding_size, hidden_size, layers, bidirectional=bidirectional)
        self.linear_layer = nn.Linear(hidden_size * (1 + bidirectional), 3)

    def forward(self, ids):
        output, _ = self.rnn_layer(self.embedding(ids.t()))
        return nn.functional.log_softmax(self.linear_layer(torch.relu(output[-1])), dim=-1)


def save_checkpoint(network, path, **changes):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    loss = nn.NLLLoss()(network(IDS), TARGETS)
    loss.backward()
    optimizer.step()
    checkpoint = {
        "epoch": 4,
        "model_state_dict": network.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": loss.item(),
    }
    torch.save({**checkpoint, **changes}, path)


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_same_weights_same_log_softmax_and_loss(cell, layers, tmp_path):
    torch.manual_seed(123)
    network = TutorialNetwork(cell, layers)
    save_checkpoint(network, tmp_path / "checkpoint.pt")
    model = RnnForSequenceClassification.from_tutorial_checkpoint(tmp_path / "checkpoint.pt", id2label=LABELS)
    expected = network(IDS)
    output = model(IDS, labels=TARGETS)
    torch.testing.assert_close(output.logits.log_softmax(-1), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(output.loss, nn.NLLLoss()(expected, TARGETS), atol=1e-6, rtol=0)
    assert model.config.cell_type == cell
    assert model.config.num_hidden_layers == layers
    assert model.config.id2label == LABELS

    # one step of the tutorial's optimiser from here is the same step
    network.zero_grad()
    nn.NLLLoss()(network(IDS), TARGETS).backward()
    output.loss.backward()
    torch.testing.assert_close(model.classifier.weight.grad, network.linear_layer.weight.grad, atol=1e-6, rtol=1e-5)
    ours = model.rnn.embedding.weight.grad
    torch.testing.assert_close(ours, network.embedding.weight.grad.to_dense(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("cell", KINDS)
def test_a_network_of_two_directions_has_the_same_states(cell, tmp_path):
    torch.manual_seed(123)
    network = TutorialNetwork(cell, layers=2, bidirectional=True)
    save_checkpoint(network, tmp_path / "checkpoint.pt")
    model = RnnForSequenceClassification.from_tutorial_checkpoint(tmp_path / "checkpoint.pt")
    expected = network.rnn_layer(network.embedding(IDS.t()))[0].transpose(0, 1)
    torch.testing.assert_close(model.rnn(IDS).last_hidden_state, expected, atol=1e-6, rtol=0)


def test_settings_that_weights_cannot_tell(tmp_path):
    network = TutorialNetwork("rnn_tanh", 1)
    save_checkpoint(network, tmp_path / "checkpoint.pt")
    model = RnnForSequenceClassification.from_tutorial_checkpoint(tmp_path / "checkpoint.pt", cell_type="rnn_relu")
    assert model.config.cell_type == "rnn_relu"
    assert not model.training


def test_it_becomes_an_ordinary_model(tmp_path):
    network = TutorialNetwork("gru", 2)
    save_checkpoint(network, tmp_path / "checkpoint.pt")
    model = RnnForSequenceClassification.from_tutorial_checkpoint(tmp_path / "checkpoint.pt")
    assert model.config.id2label == {rank: f"RANK_{rank}" for rank in range(3)}, "ids are no labels of the data"
    model.save_pretrained(tmp_path / "model")
    again = RnnForSequenceClassification.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again(IDS).logits.log_softmax(-1), network(IDS), atol=1e-6, rtol=0)


def test_files_that_are_something_else(tmp_path):
    load = RnnForSequenceClassification.from_tutorial_checkpoint
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError):
        load(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a checkpoint that torch can load safely"):
        load(path)
    path.write_bytes(pickle.dumps({"model_state_dict": print}))  # a callable: what weights_only refuses
    with pytest.raises(ValueError, match="weights_only=True"):
        load(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="no 'model_state_dict'.*found list"):
        load(path)
    torch.save({"weights": {}, "epoch": 1}, path)
    with pytest.raises(ValueError, match=r"found \['epoch', 'weights'\]"):
        load(path)
    network = TutorialNetwork("lstm", 1)
    state = network.state_dict()
    save_checkpoint(network, path, model_state_dict={k: v for k, v in state.items() if "linear" not in k})
    with pytest.raises(ValueError, match=r"lacks \['linear_layer.bias', 'linear_layer.weight'\]"):
        load(path)
    save_checkpoint(network, path, model_state_dict={**state, "conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="holds 'conv.weight'"):
        load(path)


# what torch.load says of these is a KeyError, an IndexError, a UnicodeDecodeError, a struct.error and an EOFError
@pytest.mark.parametrize("content", [b"the film was good\n", b"a film", b"\x58\x01\x00\x00\x00\xff.", b"GD", b""])
def test_a_file_of_any_bytes_is_refused_by_name(content, tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint.pt is not a checkpoint that torch can load") as caught:
        RnnForSequenceClassification.from_tutorial_checkpoint(path)
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


def without_bias(state):
    return {key: tensor for key, tensor in state.items() if "rnn_layer.bias" not in key}


HIDDEN, LINEAR = "rnn_layer.weight_hh_l0", "linear_layer.weight"


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (without_bias, {}, r"lacks \['rnn_layer.bias_hh_l0', 'rnn_layer.bias_hh_l1', 'rnn_layer.bias_ih_l0', "),
        (lambda state: without(state, "linear_layer.bias"), {}, r"lacks \['linear_layer.bias'\]"),
        (lambda state: without(state, "rnn_layer.weight_ih_l1"), {}, r"lacks \['rnn_layer.weight_ih_l1'\]"),
        (lambda state: {**state, HIDDEN: torch.zeros(4, 3)}, {}, r"of shape \(4, 3\) belongs to no RNN"),
        (lambda state: {**state, HIDDEN: torch.zeros(8, 0)}, {}, r"of shape \(8, 0\) is no matrix of weights"),
        (lambda state: {**state, HIDDEN: torch.zeros(8)}, {}, r"of shape \(8,\) is no matrix of weights"),
        (lambda state: {**state, LINEAR: torch.zeros(())}, {}, r"linear_layer.weight of shape \(\) is no matrix"),
        (lambda state: {**state, LINEAR: torch.zeros(3, 9)}, {}, "does not fit its settings: .*size mismatch"),
        (lambda state: {**state, LINEAR: 3}, {}, "holds more than tensors by name"),
        (lambda state: {**state, 3: torch.zeros(1)}, {}, "holds more than tensors by name"),
        (dict, {"hidden_size": 7}, "does not fit its settings: .*size mismatch"),
        (dict, {"id2label": {0: "no", 1: "yes"}}, "does not fit its settings: .*size mismatch for classifier.weight"),
        (dict, {"num_hidden_layers": 3}, "does not fit its settings: .*layers.2"),
    ],
)
def test_weights_that_make_no_such_network_are_told_in_one_message(change, settings, message, tmp_path):
    network, path = TutorialNetwork("rnn_tanh", 2), tmp_path / "checkpoint.pt"
    save_checkpoint(network, path, model_state_dict=change(network.state_dict()))
    with pytest.raises(ValueError, match=f"checkpoint.pt.*{message}") as caught:
        RnnForSequenceClassification.from_tutorial_checkpoint(path, **settings)
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)


def test_the_tutorials_own_sizes():
    """The recipe's network has as many parameters as the tutorial's: 3,330 x 300, two layers of 50, 3 classes."""
    config = RnnConfig(
        vocab_size=3330,
        embedding_size=300,
        cell_type="rnn_tanh",
        hidden_size=50,
        num_hidden_layers=2,
        bidirectional=False,
        pooling="last",
        classifier_activation="relu",
        num_labels=3,
    )
    network = TutorialNetwork("rnn_tanh", 2, vocab_size=3330, embedding_size=300, hidden_size=50)
    count = sum(p.numel() for p in network.parameters())
    assert (
        RnnForSequenceClassification(config).num_parameters() == count == 3330 * 300 + 50 * 350 + 50 * 100 + 200 + 153
    )
