"""Scores against tables worked by hand and scikit-learn, and calibration."""

import json
import logging

import evaluate
import numpy as np
import pytest
import torch
from conftest import invent_rows, write_rows
from safetensors.torch import load_file
from scipy import stats
from scipy.special import softmax
from sklearn import metrics

from hf_rnn import RnnConfig, train
from hf_rnn.evaluation import classification_metrics, scores
from hf_rnn.evaluation.calibration import fit_temperature, measure_scores
from hf_rnn.evaluation.modules import TaskScores
from hf_rnn.hub.model_folder import load_model
from hf_rnn.tasks import get_task
from hf_rnn.utils.errors import UserError

NAMES = ["negative", "neutral", "positive"]
REFERENCES = [0, 0, 0, 1, 1, 1, 1, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 1, 1, 0, 0, 1, 1]  # class 2 is never predicted


def test_table_worked_by_hand():
    measured = classification_metrics(np.array(PREDICTIONS), torch.tensor(REFERENCES), NAMES)
    assert measured["confusion_matrix"] == [[2, 1, 0], [2, 4, 0], [0, 1, 0]]
    assert measured["accuracy"] == 6 / 10
    assert measured["per_class"] == {
        "negative": {"precision": 2 / 4, "recall": 2 / 3, "f1": pytest.approx(4 / 7), "support": 3},
        "neutral": {"precision": 4 / 6, "recall": 4 / 6, "f1": pytest.approx(8 / 12), "support": 6},
        "positive": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    }
    assert measured["macro_recall"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert measured["macro_f1"] == pytest.approx((4 / 7 + 2 / 3 + 0) / 3)
    assert measured["absent_classes"] == 0 and json.loads(json.dumps(measured)) == measured


def test_means_are_over_the_classes_that_occur_as_in_scikit_learn():
    """The means of a split do not fall because a class is in neither its labels nor its answers."""
    true, predicted = [0, 0, 2, 2], [0, 2, 2, 4]
    measured = classification_metrics(predicted, true, list("abcde"))
    for name, score in (("macro_f1", metrics.f1_score), ("macro_recall", metrics.recall_score)):
        assert measured[name] == pytest.approx(
            score(true, predicted, average="macro", zero_division=0)
        )
    assert measured["absent_classes"] == 2 and measured["per_class"].keys() == set("abcde")


def draw_sets(names):
    chance = np.random.default_rng(0)
    logits = chance.normal(size=(80, names)).round(1)
    return logits, chance.random((80, names)) < [0.1, 0.3, 0.5, 0.9][:names]


def test_sets_of_labels():
    logits, true = draw_sets(4)
    measured, held = scores.label_set_metrics(logits, true, list("abcd"), 0), logits > 0
    assert measured["micro_f1"] == pytest.approx(metrics.f1_score(true, held, average="micro"))
    assert measured["macro_f1"] == pytest.approx(
        metrics.f1_score(true, held, average="macro", zero_division=0)
    )
    assert measured["subset_accuracy"] == pytest.approx((true == held).all(axis=1).mean())
    precision = metrics.average_precision_score(true, logits, average="macro")
    assert measured["average_precision"] == pytest.approx(precision)
    shares = 1 / (1 + np.exp(-logits))
    tuned = scores.label_set_metrics(
        shares, true, list("abcd"), scores.tune_thresholds(shares, true)
    )["per_label"]
    for number, name in enumerate("abcd"):
        cuts = np.unique(logits[:, number])[:-1] + 0.05
        best = max(metrics.f1_score(true[:, number], logits[:, number] > cut) for cut in cuts)
        assert tuned[name]["f1"] == pytest.approx(best)
        alone = scores.label_set_metrics(logits[:, [number]], true[:, [number]], [name], 0)[
            "per_label"
        ]
        assert alone[name] == pytest.approx(measured["per_label"][name])


def test_numbers():
    logits, true = draw_sets(4)
    numbers, guess = true @ [1.0, 2, 3, 4] + logits[:, 0], logits.sum(axis=1)
    measured = scores.number_metrics(guess[:, None], numbers[:, None], ["value"])
    assert measured["pearson"] == pytest.approx(stats.pearsonr(guess, numbers).statistic)
    assert measured["spearman"] == pytest.approx(stats.spearmanr(guess, numbers).statistic)
    assert measured["r2"] == pytest.approx(metrics.r2_score(numbers, guess))
    assert measured["rmse"] == pytest.approx(np.sqrt(((numbers - guess) ** 2).mean()))
    pair = scores.number_metrics(
        np.stack([guess, 0 * guess], 1), np.stack([numbers, numbers], 1), ["a", "b"]
    )
    assert (
        pair["per_value"]["a"] == pytest.approx(measured) and pair["per_value"]["b"]["pearson"] == 0
    )


def test_a_training_measures_through_evaluate(tiny_settings, tmp_path, monkeypatch, capsys):
    """Scores of each epoch, and those of the finished model."""
    compute = TaskScores.compute

    def measure(scores, **rows):
        """Add a score."""
        return {**compute(scores, **rows), "asked": 0.5}

    monkeypatch.setattr(TaskScores, "compute", measure)
    assert issubclass(TaskScores, evaluate.Metric)
    result = train(
        **{**tiny_settings, "num_train_epochs": 1, "baselines": False},
        output_dir=str(tmp_path / "out"),
    )
    assert result.metrics["validation"]["asked"] == 0.5
    assert "asked 0.500" in capsys.readouterr().err


def test_logits_that_are_not_finite():
    task, config = get_task("sequence-classification"), RnnConfig(id2label={0: "a", 1: "b"})
    logits = np.array([[0.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]])
    with pytest.raises(UserError, match="2 of 3 rows"):
        task.evaluate(logits, [0, 1, 0], config)
    measured = task.evaluate(logits[:1], [1], config)
    assert measured["loss"] == pytest.approx(np.log1p(np.exp(-1)))
    assert (measured["rows"], measured["accuracy"]) == (1, 1)


# ---- calibration: the best temperature, and the answers of a calibrated model ----


def test_probabilities_worked_by_hand():
    shares = np.array([[0.9, 0.1], [0.7, 0.3], [0.38, 0.62], [0.62, 0.38]])
    true = [0, 1, 1, 1]  # confidence 0.9 is right, 0.7 wrong, 0.62 right, 0.62 wrong
    measured = measure_scores(np.log(shares), true)
    assert measured["ece"] == pytest.approx(
        2 / 4 * abs(0.5 - 0.62) + 1 / 4 * abs(0 - 0.7) + 1 / 4 * abs(1 - 0.9)
    )
    assert measured["loss"] == pytest.approx(metrics.log_loss(true, shares))


def test_no_temperature_fits_better():
    """Labels are drawn from softmax(logits / 3)."""
    chance = np.random.default_rng(0)
    logits = chance.normal(scale=2.0, size=(900, 4))
    labels = (
        (softmax(logits / 3, axis=1).cumsum(axis=1) < chance.random((900, 1)))
        .sum(axis=1)
        .clip(max=3)
    )
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(3, rel=0.25)
    losses = [
        metrics.log_loss(labels, softmax(logits / other, axis=1))
        for other in (found, *np.geomspace(0.05, 20))
    ]
    assert losses[0] == min(losses)
    assert fit_temperature(1000 * logits, labels) == pytest.approx(20, rel=1e-3), "the limit"


def test_rows_that_decide_nothing(caplog):
    with caplog.at_level(logging.WARNING, "hf_rnn"):
        assert fit_temperature([[3.0, 0.0], [2.0, 1.0]], [0, 0]) == 1
    assert "all 2 rows are right" in caplog.text
    with pytest.raises(UserError, match="1 of 2 rows"):
        fit_temperature(np.array([[0.0, np.nan], [1, 2]]), np.array([0, 1]))


@pytest.fixture(scope="module")
def runs(tiny_settings, tmp_path_factory):
    """The same training with and without calibration; every fourth label of validation is wrong."""
    root = tmp_path_factory.mktemp("calibrated")
    write_rows(root / "train.tsv", invent_rows(240, 1))
    wrong = {"bad": "good", "good": "plain", "plain": "bad"}
    rows = [
        (text, wrong[label] if n % 4 == 3 else label)
        for n, (text, label) in enumerate(invent_rows(120, 2))
    ]
    write_rows(root / "dev.tsv", rows)
    common = {**tiny_settings, "data_dir": str(root), "num_train_epochs": 2, "baselines": False}
    return [
        train(**common, output_dir=str(root / str(flag)), calibrate=flag) for flag in (False, True)
    ], rows


def answer(result, rows):
    """Return the logits of a saved model in float64, and the true labels."""
    model, tokenizer = load_model(result.folder)
    with torch.no_grad():
        logits = model(
            **tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
        ).logits
    return logits.double().numpy(), np.array([model.config.label2id[label] for _, label in rows])


def test_only_the_last_layer_is_scaled_and_the_metrics_are_its_own(runs):
    (plain, calibrated), rows = runs
    found = calibrated.metrics["calibration"]
    assert abs(found["temperature"] - 1) > 0.05, "premise: there is something to calibrate"
    (before, labels), (after, _) = (answer(result, rows) for result in (plain, calibrated))
    np.testing.assert_allclose(after, before / found["temperature"], atol=1e-5)
    weights, scaled = (
        load_file(result.folder / "model.safetensors") for result in (plain, calibrated)
    )
    changed = {name for name, weight in weights.items() if not torch.equal(weight, scaled[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    one, other = (
        result.metrics["validation"]["confusion_matrix"] for result in (plain, calibrated)
    )
    assert one == other
    assert found["fitted_on"] == "validation" and "calibration" not in plain.metrics
    for measured, logits in zip(
        found["splits"]["validation"].values(), (before, after), strict=True
    ):
        shares = softmax(logits, axis=1)
        assert measured["loss"] == pytest.approx(metrics.log_loss(labels, shares), abs=1e-5)
        assert measured["brier"] == pytest.approx(
            ((shares - np.eye(3)[labels]) ** 2).sum(axis=1).mean(), abs=1e-5
        )
