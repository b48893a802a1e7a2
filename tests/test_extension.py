"""A cell, pooling, head or normaliser registered from outside works like the package's own."""

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

TEXTS = ["the miro!box", "selk!", "", "a door and sand"]


class AveragingCell(RecurrentCell):
    """h_t = (h_(t-1) + W x_t) / 2: nothing that the package has."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.projection = nn.Linear(input_size, hidden_size)

    def forward(self, inputs, state=None):
        projected, states = self.projection(inputs), []
        previous = torch.zeros_like(projected[0]) if state is None else state[0]
        for vectors in projected:
            previous = (previous + vectors) / 2
            states.append(previous)
        return torch.stack(states), previous[None]


class FirstPooler(RnnPooler):
    """The state at the first token, twice: wider than a state."""

    def __init__(self, config):
        super().__init__(config)
        self.output_size = 2 * config.output_size

    def forward(self, states, mask):
        first = states[torch.arange(len(states)), mask.to(torch.uint8).argmax(dim=1)] * mask.any(
            dim=1, keepdim=True
        )
        return torch.cat([first, first], dim=-1), None


@pytest.fixture
def train_small(tmp_path):
    """Train a small model with some settings; return its folder."""
    for name, count in (("train", 60), ("dev", 12)):
        write_rows(tmp_path / f"{name}.tsv", invent_rows(count, seed=count))
    settings = {
        "recipe": "scratch",
        "embedding_size": 8,
        "hidden_size": 6,
        "num_train_epochs": 1,
        "use_cpu": True,
    }
    folders = {"data_dir": str(tmp_path), "output_dir": str(tmp_path / "model")}
    return lambda **more: train(**settings, **folders, **more).folder


def probabilities(model, tokenizer):
    """Return those of each text, run alone by the plain model."""
    with torch.no_grad():
        logits = [model(**tokenizer([text], return_tensors="pt")).logits for text in TEXTS]
    return torch.cat(logits).softmax(-1).numpy()


@pytest.mark.parametrize(
    ("setting", "registry", "kind"),
    [("cell_type", CELLS, AveragingCell), ("pooling", POOLERS, FirstPooler)],
)
def test_it_trains_and_predicts(setting, registry, kind, train_small, monkeypatch):
    monkeypatch.setitem(registry, "test_only", kind)
    model, tokenizer = load_model(train_small(**{setting: "test_only"}))
    assert getattr(model.config, setting) == "test_only"
    assert any(isinstance(module, kind) for module in model.modules()), "and no other in its place"
    alone = probabilities(model, tokenizer)
    for side in ("left", "right"):
        batch = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
        np.testing.assert_allclose(model(**batch).logits.softmax(-1).detach(), alone, atol=1e-6)
    np.testing.assert_allclose(FastRnn(model, tokenizer).predict_proba(TEXTS), alone, atol=1e-6)


class Deeper(RnnForSequenceClassification):
    def __init__(self, config):
        super().__init__(config)
        size = self.classifier.in_features
        self.classifier = nn.Sequential(
            nn.Linear(size, size), nn.GELU(), nn.Linear(size, config.num_labels)
        )
        self.post_init()


class DeeperTask(SequenceClassification):
    name, architecture = "deeper", "Deeper"


def export_model(folder):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from hf_rnn.export import export

    return export(folder)


def test_a_second_head_of_an_auto_class_leaves_the_first(trained, train_small, monkeypatch):
    monkeypatch.setitem(TASKS, "deeper", DeeperTask())
    try:
        auto.register_head(Deeper, "AutoModelForSequenceClassification")
        deeper = train_small(task="deeper")
        for kind, folder in {Deeper: deeper, RnnForSequenceClassification: trained.folder}.items():
            loaded, info = AutoModelForSequenceClassification.from_pretrained(
                folder, output_loading_info=True
            )
            assert type(loaded) is type(load_model(folder)[0]) is kind
            assert not info["missing_keys"] and not info["unexpected_keys"]
        assert FastRnn.from_pretrained(deeper).predict(["miro"])
        with pytest.raises(UserError, match="found the head Deeper"):
            export_model(deeper)
    finally:
        del auto.HEADS["Deeper"]
        auto.register_heads()


def build_shout(lowercase):
    """Cut off exclamation marks as words."""
    rewrite, words = build_normalizer("none", lowercase)
    return normalizers.Sequence([rewrite, normalizers.Replace("!", " ! ")]), words


def test_a_normaliser_trains_predicts_and_exports(train_small, monkeypatch):
    with pytest.raises(UserError, match="normalizer='shout' is unknown"):
        train_small(normalizer="shout")
    with monkeypatch.context() as patch:
        patch.setitem(NORMALIZERS, "shout", build_shout)
        folder = train_small(normalizer="shout")
    model, tokenizer = load_model(folder)  # it needs no registry
    assert tokenizer.convert_ids_to_tokens(tokenizer("Miro!box")["input_ids"]) == [
        "miro",
        "<unk>",
        "box",
    ]
    expected = probabilities(model, tokenizer)
    np.testing.assert_allclose(FastRnn(model, tokenizer).predict_proba(TEXTS), expected, atol=1e-6)
    export_model(folder)
