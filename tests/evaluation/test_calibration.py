"""Calibration: the best temperature, and the answers of a calibrated model."""

import logging

import numpy as np
import pytest
import torch
from conftest import invent_rows, write_rows
from safetensors.torch import load_file
from scipy.special import logsumexp, softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rnn import train
from hf_rnn.evaluation.calibration import fit_temperature
from hf_rnn.utils.errors import UserError


def cross_entropy(logits, labels):
    return np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])


def test_no_temperature_fits_better():
    """Labels are drawn from softmax(logits / 3)."""
    chance = np.random.default_rng(0)
    logits = chance.normal(scale=2.0, size=(900, 4))
    labels = (softmax(logits / 3, axis=1).cumsum(axis=1) < chance.random((900, 1))).sum(axis=1).clip(max=3)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(3, rel=0.25)
    loss = cross_entropy(logits / found, labels)
    assert all(loss <= cross_entropy(logits / other, labels) for other in np.geomspace(0.05, 20, 999))
    assert fit_temperature(1000 * logits, labels) == pytest.approx(20, rel=1e-3), "the limit"


def test_rows_that_decide_nothing(caplog):
    with caplog.at_level(logging.WARNING, "hf_rnn"):
        assert fit_temperature([[3.0, 0.0], [2.0, 1.0]], [0, 0]) == 1
    assert "all 2 rows are right" in caplog.text
    with pytest.raises(UserError, match="1 of 2 rows"):
        fit_temperature(np.array([[0.0, np.nan], [1, 2]]), np.array([0, 1]))


@pytest.fixture(scope="module")
def runs(tiny_settings, tmp_path_factory):
    """The same training without and with calibration, and its validation file, where every fourth label is wrong."""
    root = tmp_path_factory.mktemp("calibrated")
    write_rows(root / "train.tsv", invent_rows(240, 1))
    wrong = {"bad": "good", "good": "plain", "plain": "bad"}
    rows = [(text, wrong[label] if n % 4 == 3 else label) for n, (text, label) in enumerate(invent_rows(120, 2))]
    write_rows(root / "dev.tsv", rows)
    common = {**tiny_settings, "data_dir": str(root), "num_train_epochs": 2, "baselines": False}
    return [train(**common, output_dir=str(root / str(flag)), calibrate=flag) for flag in (False, True)], rows


def answer(result, rows):
    """Return the logits of a saved model in float64, and the true labels."""
    model = AutoModelForSequenceClassification.from_pretrained(result.folder)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    with torch.no_grad():
        logits = model(**tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")).logits
    return logits.double().numpy(), np.array([model.config.label2id[label] for _, label in rows])


def test_only_the_last_layer_is_scaled_and_the_metrics_are_its_own(runs):
    (plain, calibrated), rows = runs
    found = calibrated.metrics["calibration"]
    assert abs(found["temperature"] - 1) > 0.05, "premise: there is something to calibrate"
    (before, labels), (after, _) = (answer(result, rows) for result in (plain, calibrated))
    np.testing.assert_allclose(after, before / found["temperature"], atol=1e-5)
    weights, scaled = (load_file(result.folder / "model.safetensors") for result in (plain, calibrated))
    changed = {name for name, weight in weights.items() if not torch.equal(weight, scaled[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    one, other = (result.metrics["validation"]["confusion_matrix"] for result in (plain, calibrated))
    assert one == other
    assert found["fitted_on"] == "validation" and "calibration" not in plain.metrics
    for when, logits in (("before", before), ("after", after)):
        measured = found["splits"]["validation"][when]
        assert measured["loss"] == pytest.approx(cross_entropy(logits, labels), abs=1e-5)
        squares = (softmax(logits, axis=1) - np.eye(3)[labels]) ** 2
        assert measured["brier"] == pytest.approx(squares.sum(axis=1).mean(), abs=1e-5)
