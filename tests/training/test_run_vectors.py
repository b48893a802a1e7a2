"""Pretrained vectors in a training run, against tables known by hand."""

import numpy as np
import pytest
import torch
from conftest import invent_rows
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from vector_files import write_text

from hf_rnn import train
from hf_rnn.utils.errors import UserError

INVENTED = ("the", "box", "miro", "selk", "unheard")


@pytest.fixture(scope="module")
def vector_file(tmp_path_factory):
    """Vectors of 8 numbers for four words of the invented texts and one other word."""
    numbers = np.random.default_rng(3).normal(size=(len(INVENTED), 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("vectors") / "invented.txt"
    path.write_bytes(write_text(dict(zip(INVENTED, numbers.tolist(), strict=True))))
    return path, dict(zip(INVENTED, torch.from_numpy(numbers), strict=True))


@pytest.fixture
def train_with(tiny_settings, vector_file, tmp_path):
    """Train with the vectors; return the embedding by word, the other weights, and the result."""

    def run(name, **changes):
        settings = {key: value for key, value in tiny_settings.items() if key != "embedding_size"}
        settings |= {"vectors": str(vector_file[0]), "num_train_epochs": 1, "baselines": False}
        result = train(**{**settings, "output_dir": str(tmp_path / name), **changes})
        weights = load_file(result.folder / "model.safetensors")
        embedding = weights.pop(next(key for key in weights if key.endswith("embedding.weight")))
        vocabulary = AutoTokenizer.from_pretrained(result.folder).get_vocab()
        return {word: embedding[index] for word, index in vocabulary.items()}, weights, result

    return run


def test_frozen_vectors_stay_and_words_unseen_in_training_have_theirs(train_with, vector_file, caplog):
    caplog.set_level("INFO", "hf_rnn")
    embedding, _, result = train_with("frozen", freeze_embedding=True, widen_vocabulary=10)
    for word, vector in vector_file[1].items():
        torch.testing.assert_close(embedding[word], vector, rtol=0, atol=0)
    model = AutoModelForSequenceClassification.from_pretrained(result.folder)
    assert model.config.embedding_size == 8
    assert "vectors of invented.txt: 5 of 18 words (27.8%), " in caplog.text
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    with torch.no_grad():
        answers = [model(**tokenizer(text, return_tensors="pt")).logits for text in ("unheard", "unknown")]
    assert not torch.equal(*answers)
    tokens = [word for text, _ in invent_rows(240, 1) for word in text.split()]
    assert result.card.vectors == {
        "name": "invented.txt",
        "coverage_types": 5 / 18,  # 17 words of the texts, and unheard
        "coverage_tokens": pytest.approx(sum(token in INVENTED for token in tokens) / len(tokens)),
    }
    assert "invented.txt" in (result.folder / "README.md").read_text(encoding="utf-8")


def test_a_run_does_not_resume_with_other_vectors(train_with, vector_file, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_rnn.training.train.remove_checkpoints", lambda folder: None)
    train_with("run", max_steps=2)
    other = tmp_path / "other.txt"
    other.write_bytes(vector_file[0].read_bytes().replace(b"miro -", b"miro ").replace(b"miro ", b"miro 1", 1))
    with pytest.raises(UserError, match="the weights that training starts from"):
        train_with("run", vectors=str(other), resume=True, max_steps=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_size": 16}, "embedding_size is 16, .* 8 numbers"),
        ({"vectors": "absent.txt"}, "no vectors at absent.txt"),
    ],
)
def test_invalid_settings_are_refused_before_a_folder_is_made(train_with, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train_with("out", **changes)
    assert not list(tmp_path.iterdir())
