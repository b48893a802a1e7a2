"""The tutorial's network, written here in plain torch, and its checkpoints: the independent reference."""

import pickle

import pytest
import torch
from torch import nn

from hf_rnn import RnnForSequenceClassification

KINDS = {"rnn_tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
LABELS = {0: "neutral", 1: "positive", 2: "negative"}
IDS = torch.tensor([[4, 82, 73, 45, 21], [27, 2, 15, 48, 21], [49, 0, 18, 15, 21], [19, 14, 2, 98, 21]])
TARGETS = torch.tensor([1, 0, 2, 1])


class TutorialNetwork(nn.Module):
    """Time first, as in the tutorial; the last output represents the text."""

    def __init__(self, cell, layers, vocab_size=100, embedding_size=30, hidden_size=8, bidirectional=False):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size, padding_idx=1, sparse=True)
        self.rnn_layer = KINDS[cell](embedding_size, hidden_size, layers, bidirectional=bidirectional)
        self.linear_layer = nn.Linear(hidden_size * (1 + bidirectional), 3)

    def forward(self, ids):
        output, _ = self.rnn_layer(self.embedding(ids.t()))
        return nn.functional.log_softmax(self.linear_layer(torch.relu(output[-1])), dim=-1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


def make_checkpoint(path, cell="rnn_tanh", layers=2, **settings):
    """Save what the tutorial's loop saves after one step of its optimiser."""
    torch.manual_seed(123)
    network = TutorialNetwork(cell, layers, **settings)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    loss = nn.NLLLoss()(network(IDS), TARGETS)
    loss.backward()
    optimizer.step()
    state = {"epoch": 4, "model_state_dict": network.state_dict(), "loss": loss.item()}
    torch.save({**state, "optimizer_state_dict": optimizer.state_dict()}, path)
    return network


load = RnnForSequenceClassification.from_tutorial_checkpoint


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_same_log_softmax_loss_and_gradients(cell, layers, path):
    network = make_checkpoint(path, cell, layers)
    model = load(path, id2label=LABELS)
    expected = network(IDS)
    output = model(IDS, labels=TARGETS)
    torch.testing.assert_close(output.logits.log_softmax(-1), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(output.loss, nn.NLLLoss()(expected, TARGETS), atol=1e-6, rtol=0)
    config = model.config
    assert (config.cell_type, config.num_hidden_layers, config.id2label) == (cell, layers, LABELS)

    network.zero_grad()
    nn.NLLLoss()(network(IDS), TARGETS).backward()
    output.loss.backward()
    torch.testing.assert_close(model.classifier.weight.grad, network.linear_layer.weight.grad, atol=1e-6, rtol=1e-5)
    gradient = network.embedding.weight.grad.to_dense()
    torch.testing.assert_close(model.rnn.embedding.weight.grad, gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("cell", KINDS)
def test_a_bidirectional_network_has_the_same_states(cell, path):
    network = make_checkpoint(path, cell, bidirectional=True)
    expected = network.rnn_layer(network.embedding(IDS.t()))[0].transpose(0, 1)
    torch.testing.assert_close(load(path).rnn(IDS).last_hidden_state, expected, atol=1e-6, rtol=0)


def test_it_becomes_an_ordinary_model(path, tmp_path):
    network = make_checkpoint(path, "gru")
    model = load(path)
    assert not model.training
    assert model.config.id2label == {rank: f"RANK_{rank}" for rank in range(3)}, "ids are not the data's labels"
    model.save_pretrained(tmp_path / "model")
    again = RnnForSequenceClassification.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again(IDS).logits.log_softmax(-1), network(IDS), atol=1e-6, rtol=0)


def test_the_first_loss_of_the_source(path):
    """Seed 123, 3,333 rows, the first sorted batch: the number that the source printed, within a step of float32."""
    torch.manual_seed(123)
    network = TutorialNetwork("rnn_tanh", 2, vocab_size=3333, embedding_size=300, hidden_size=50)
    torch.save({"model_state_dict": network.state_dict()}, path)
    ids = [[191, 14, 2, 598, 21], [4, 82, 73, 145, 21], [1273, 2, 215, 48, 21], [49, 0, 18, 215, 21]]
    for settings in ({}, {"vocab_size": 3330}):  # no id reaches the last three rows
        model = load(path, id2label={0: "1", 1: "0", 2: "2"}, **settings)
        loss = model(torch.tensor(ids), labels=torch.tensor([0, 1, 0, 0])).loss.item()
        assert loss == pytest.approx(1.115674614906311, rel=0, abs=2**-23)
        assert model.get_input_embeddings().weight.shape == (settings.get("vocab_size", 3333), 300)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_is_not_run(path):
    path.write_bytes(pickle.dumps({"model_state_dict": print}))
    with pytest.raises(ValueError, match="checkpoint.pt is not a checkpoint that torch can load safely"):
        load(path)
