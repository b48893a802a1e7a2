"""The guide "To add a task": a class and an entry of `TASKS`, which each path uses."""

import json

import numpy as np
import pytest

from hf_rnn import BatchPredictor, FastRnn, RnnConfig, train
from hf_rnn.cli.main import main
from hf_rnn.hub.model_folder import load_model
from hf_rnn.tasks import TASKS, get_task, task_of
from hf_rnn.tasks.sequence_classification import SequenceClassification
from hf_rnn.utils.errors import UserError


class Ordinal(SequenceClassification):
    """Sort each text into classes in an order, such as stars; answers have the expected rank."""

    name = "ordinal"
    scores = {**SequenceClassification.scores, "mean_distance": False}
    settings = {"metric_for_best_model": "mean_distance"}

    def answers(self, scores, config, texts=(), encoded=None):
        ranks = (scores @ np.arange(config.num_labels)).tolist()
        return [
            {**answer, "rank": rank}
            for answer, rank in zip(super().answers(scores, config), ranks, strict=True)
        ]

    def answer_types(self, config):
        types = super().answer_types(config)
        return {**types, "rank": types["score"]}

    def measure(self, predictions, references, config):
        distance = float(np.abs(np.subtract(predictions, references)).mean())
        return {
            **super().measure(predictions, references, config),
            "mean_distance": distance,
        }


@pytest.fixture(scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "ordinal", Ordinal())
        yield


@pytest.fixture(scope="module")
def ordinal(registered, tiny_settings, tmp_path_factory):
    settings = {**tiny_settings, "num_train_epochs": 2, "task": "ordinal"}
    return train(**settings, output_dir=str(tmp_path_factory.mktemp("ordinal") / "out"))


def test_it_trains_and_names_itself(ordinal, registered):
    assert json.loads((ordinal.folder / "config.json").read_text())["task"] == "ordinal"
    assert json.loads((ordinal.folder / "training_args.json").read_text())["task"] == "ordinal"
    assert "best `mean_distance`" in (ordinal.folder / "README.md").read_text()


def test_every_path_answers_by_it(ordinal, registered, tiny_settings, capsys):
    text = "the miro box"
    answer = FastRnn.from_pretrained(ordinal.folder).predict([text])[0]
    assert 0 < answer["rank"] < 2 and set(answer) == {"label", "score", "rank"}
    assert main(["predict", str(ordinal.folder), "--text", text]) in (0, None)
    assert json.loads(capsys.readouterr().out) == answer
    columns = BatchPredictor(ordinal.folder)({"text": [text]})
    assert columns == {
        "text": [text],
        **{name: [value] for name, value in answer.items()},
        "error": [""],
    }
    main(["evaluate", str(ordinal.folder), str(tiny_settings["data_dir"])])
    measured = json.loads(capsys.readouterr().out)["mean_distance"]
    assert measured == pytest.approx(ordinal.metrics["test"]["mean_distance"])


def test_a_model_of_an_unknown_task_is_refused(ordinal, registered, monkeypatch):
    monkeypatch.delitem(TASKS, "ordinal")
    with pytest.raises(UserError, match="'ordinal', which is not registered"):
        FastRnn.from_pretrained(ordinal.folder)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"task": "multi-label", "problem_type": "multi_label_classification"}, "multi-label"),
        ({"problem_type": "regression"}, "regression"),
        ({}, "sequence-classification"),
        ({"task": "sequence-classification", "problem_type": "regression"}, "regression"),
        (
            {"task": "sequence-classification", "architectures": ["RnnForTokenClassification"]},
            "token-classification",
        ),
    ],
)
def test_head_and_type_of_problem_decide_without_a_valid_name(fields, name):
    """Older folders have no name; a model whose head was replaced has that of its start."""
    assert (
        task_of(RnnConfig(**{"architectures": ["RnnForSequenceClassification"], **fields})).name
        == name
    )


def test_unknown_names(trained):
    with pytest.raises(UserError, match="sequence-classification"):
        get_task("translation")
    config = load_model(trained.folder)[0].config
    config.architectures = ["RnnForTranslation"]
    with pytest.raises(UserError, match="RnnForTranslation"):
        task_of(config)
