"""A task is added by one class and one entry of `TASKS`; training and inference name no head."""

import json

import pytest

import hf_rnn
from hf_rnn import train
from hf_rnn.tasks import TASKS, get_task, task_of
from hf_rnn.tasks.sequence_classification import SequenceClassification
from hf_rnn.utils.errors import UserError


class Shouting(SequenceClassification):
    """Classify upper-case texts, and count the classes in the metrics."""

    name = "shouting"

    def vocabulary_texts(self, rows):
        return [text.upper() for text in rows["text"]]

    def encode(self, texts, tokenizer, max_length):
        return super().encode(texts.map(lambda row: {"text": row["text"].upper()}), tokenizer, max_length)

    def evaluate(self, predictions, labels, config):
        return {**super().evaluate(predictions, labels, config), "classes": config.num_labels}


def test_a_task_from_elsewhere_trains(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "shouting", Shouting())
    settings = {**tiny_settings, "num_train_epochs": 1, "lowercase": False, "task": "shouting"}
    result = train(**settings, output_dir=str(tmp_path / "out"))
    assert result.metrics["test"]["classes"] == 3
    vocabulary = json.loads((result.folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert "MIRO" in vocabulary and "miro" not in vocabulary
    assert json.loads((result.folder / "training_args.json").read_text())["task"] == "shouting"


def test_a_task_is_found_by_name_and_by_architecture(trained):
    config = hf_rnn.RnnConfig.from_pretrained(trained.folder)
    assert task_of(config).name == "sequence-classification"
    with pytest.raises(UserError, match="sequence-classification"):
        get_task("translation")
    config.architectures = ["RnnForTranslation"]
    with pytest.raises(UserError, match="RnnForTranslation"):
        task_of(config)
