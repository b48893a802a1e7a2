"""A cell, a pooling, a head and a normaliser that are registered from outside work like the package's own."""

import numpy as np
import pytest
import torch
from conftest import invent_rows, write_rows
from tokenizers import normalizers
from torch import nn
from transformers import AutoModelForSequenceClassification

from hf_rnn import FastRnn, RnnForSequenceClassification, train
from hf_rnn.hub.model_folder import load_model
from hf_rnn.models import auto
from hf_rnn.models.cells_rnn import CELLS, RecurrentCell
from hf_rnn.models.pooling_rnn import POOLERS, RnnPooler
from hf_rnn.tasks import TASKS
from hf_rnn.tasks.sequence_classification import SequenceClassification
from hf_rnn.tokenizers.normalizers import NORMALIZERS, build_normalizer
from hf_rnn.utils.errors import UserError


class AveragingCell(RecurrentCell):
    """h_t = (h_(t-1) + W x_t) / 2: nothing that the package has."""

    calls = 0

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.projection = nn.Linear(input_size, hidden_size)

    def forward(self, inputs, state=None):
        type(self).calls += 1
        projected, states = self.projection(inputs), []
        previous = torch.zeros_like(projected[0]) if state is None else state[0]
        for vectors in projected:
            previous = (previous + vectors) / 2
            states.append(previous)
        return torch.stack(states), previous[None]


class FirstPooler(RnnPooler):
    """The state at the first token, twice: wider than a state."""

    calls = 0

    def __init__(self, config):
        super().__init__(config)
        self.output_size = 2 * config.output_size

    def forward(self, states, mask):
        type(self).calls += 1
        first = states[torch.arange(len(states)), mask.to(torch.uint8).argmax(dim=1)] * mask.any(dim=1, keepdim=True)
        return torch.cat([first, first], dim=-1), None


SETTINGS = {"recipe": "scratch", "embedding_size": 8, "hidden_size": 6, "num_train_epochs": 1, "use_cpu": True}
EXTENSIONS = [("cell_type", CELLS, AveragingCell), ("pooling", POOLERS, FirstPooler)]


@pytest.fixture
def registered(monkeypatch):
    for _, registry, kind in EXTENSIONS:
        monkeypatch.setitem(registry, "test_only", kind)
        monkeypatch.setattr(kind, "calls", 0)


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "data").mkdir()
    for name, count in (("train", 60), ("dev", 12)):
        write_rows(tmp_path / "data" / f"{name}.tsv", invent_rows(count, seed=count))
    return tmp_path / "data"


@pytest.mark.parametrize(("setting", "kind"), [(setting, kind) for setting, _, kind in EXTENSIONS])
def test_it_trains_and_predicts(setting, kind, registered, data_dir, tmp_path):
    train(data_dir=str(data_dir), output_dir=str(tmp_path / "model"), **SETTINGS, **{setting: "test_only"})
    assert kind.calls > 0, "the class was used, and no other in its place"
    model, tokenizer = load_model(tmp_path / "model")
    assert getattr(model.config, setting) == "test_only"
    assert any(isinstance(module, kind) for module in model.modules())

    texts = ["the miro box", "selk", "", "a door and sand"]
    alone = torch.cat([model(**tokenizer([text], return_tensors="pt")).logits for text in texts])
    for side in ("left", "right"):
        batch = tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
        torch.testing.assert_close(model(**batch).logits, alone, atol=1e-6, rtol=1e-5)
    fast = FastRnn(model, tokenizer)
    torch.testing.assert_close(torch.from_numpy(fast.predict_proba(texts)), alone.softmax(-1), atol=1e-6, rtol=1e-5)


class Deeper(RnnForSequenceClassification):
    def __init__(self, config):
        super().__init__(config)
        size = self.classifier.in_features
        self.classifier = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, config.num_labels))
        self.post_init()


class DeeperTask(SequenceClassification):
    name, architecture = "deeper", "Deeper"


def test_a_second_head_of_an_auto_class_leaves_the_first(trained, data_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "deeper", DeeperTask())
    try:
        auto.register_head(Deeper, "AutoModelForSequenceClassification")
        train(task="deeper", data_dir=str(data_dir), output_dir=str(tmp_path / "model"), **SETTINGS)
        folders = {Deeper: tmp_path / "model", RnnForSequenceClassification: trained.folder}
        for kind, folder in folders.items():
            loaded, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
            assert type(loaded) is type(load_model(folder)[0]) is kind
            assert not info["missing_keys"] and not info["unexpected_keys"]
        assert FastRnn.from_pretrained(tmp_path / "model").predict(["miro"])
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
        from hf_rnn.inference.onnx import export

        with pytest.raises(UserError, match="found the head Deeper"):
            export(tmp_path / "model")
    finally:
        del auto.HEADS["Deeper"]
        auto.register_heads()


def build_shout(lowercase):
    """Cut off exclamation marks as words."""
    rewrite, words = build_normalizer("none", lowercase)
    return normalizers.Sequence([rewrite, normalizers.Replace("!", " ! ")]), words


def test_a_normaliser_trains_predicts_and_exports(data_dir, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="normalizer='shout' is unknown"):
        train(data_dir=str(data_dir), output_dir=str(tmp_path / "model"), normalizer="shout", **SETTINGS)
    monkeypatch.setitem(NORMALIZERS, "shout", build_shout)
    train(data_dir=str(data_dir), output_dir=str(tmp_path / "model"), normalizer="shout", **SETTINGS)
    monkeypatch.undo()  # the model needs no registry
    model, tokenizer = load_model(tmp_path / "model")
    assert tokenizer.convert_ids_to_tokens(tokenizer("Miro!box")["input_ids"]) == ["miro", "<unk>", "box"]
    texts = ["the miro!box", "selk!", "", "a door and sand"] * 30
    with torch.no_grad():
        expected = torch.cat([model(**tokenizer([text], return_tensors="pt")).logits for text in texts]).softmax(-1)
    np.testing.assert_allclose(FastRnn(model, tokenizer).predict_proba(texts), expected, atol=1e-6)
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from hf_rnn.inference.onnx import export

    export(tmp_path / "model")
    found = FastRnn.from_pretrained(tmp_path / "model", backend="onnx").predict_proba(texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
