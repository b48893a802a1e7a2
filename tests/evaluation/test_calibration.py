"""Calibration: the temperature against another minimiser, and the answers of a calibrated model."""

import json
import logging

import numpy as np
import pytest
import torch
from conftest import invent_rows, write_rows
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rnn import train
from hf_rnn.evaluation.calibration import fit_temperature
from hf_rnn.utils.errors import UserError


def draw_rows(count, classes, temperature, seed):
    """Return logits, and labels drawn from softmax(logits / temperature)."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(scale=2.0, size=(count, classes))
    shares = softmax(logits / temperature, axis=1)
    return logits, (shares.cumsum(axis=1) < chance.random((count, 1))).sum(axis=1).clip(max=classes - 1)


def cross_entropy(logits, labels):
    return np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])


@pytest.mark.parametrize(
    ("count", "classes", "true"),
    [
        (20, 2, 1.0),
        (300, 3, 3.0),
        (900, 28, 1.5),
    ],
)
def test_temperature_is_the_one_another_minimiser_finds(count, classes, true):
    logits, labels = draw_rows(count, classes, true, seed=count)
    other = minimize_scalar(
        lambda log: cross_entropy(logits / np.exp(log), labels),
        bounds=(np.log(0.05), np.log(20)),
        options={"xatol": 1e-10},
    )
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(other.x), rel=1e-5)
    assert fit_temperature(1000 * logits[:20], labels[:20]) <= 20


def test_rows_that_decide_nothing(caplog):
    with caplog.at_level(logging.WARNING, "hf_rnn"):
        assert fit_temperature([[3.0, 0.0], [2.0, 1.0]], [0, 0]) == 1
    assert "all 2 rows are right" in caplog.text
    with pytest.raises(UserError, match="1 of 2 rows"):
        fit_temperature(np.array([[0.0, np.nan], [1, 2]]), np.array([0, 1]))


# ---- in a training run ----


@pytest.fixture(scope="module")
def noisy_dir(tmp_path_factory):
    """The invented texts; every fourth label of dev and test is wrong."""
    folder = tmp_path_factory.mktemp("noisy")
    write_rows(folder / "train.tsv", invent_rows(240, 1))
    wrong = {"bad": "good", "good": "plain", "plain": "bad"}
    for name, seed in (("dev", 2), ("test", 3)):
        rows = enumerate(invent_rows(120, seed))
        write_rows(
            folder / f"{name}.tsv", [(text, wrong[label] if n % 4 == 3 else label) for n, (text, label) in rows]
        )
    return folder


@pytest.fixture(scope="module")
def runs(tiny_settings, noisy_dir, tmp_path_factory):
    """The same training without and with calibration."""
    root = tmp_path_factory.mktemp("calibrated")
    common = {**tiny_settings, "data_dir": str(noisy_dir), "num_train_epochs": 2, "baselines": False}
    return [train(**common, output_dir=str(root / str(flag)), calibrate=flag) for flag in (False, True)]


def answer(result, folder, split):
    """Return the logits of a saved model in float64, and the true labels."""
    model = AutoModelForSequenceClassification.from_pretrained(result.folder)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    lines = (folder / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    with torch.no_grad():
        logits = model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits
    return logits.double().numpy(), np.array([model.config.label2id[label] for label in labels])


def test_only_the_last_layer_is_scaled(runs, noisy_dir):
    plain, calibrated = runs
    temperature = calibrated.metrics["calibration"]["temperature"]
    assert abs(temperature - 1) > 0.05, "premise: there is something to calibrate"
    (before, _), (after, _) = (answer(result, noisy_dir, "test") for result in runs)
    np.testing.assert_allclose(after, before / temperature, atol=1e-5)
    before, after = (load_file(result.folder / "model.safetensors") for result in runs)
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    configs = [json.loads((result.folder / "config.json").read_text()) for result in runs]
    assert configs[0] == configs[1]
    for split in ("validation", "test"):
        assert calibrated.metrics[split]["confusion_matrix"] == plain.metrics[split]["confusion_matrix"]
    assert calibrated.metrics["validation"]["loss"] < plain.metrics["validation"]["loss"]


def test_metrics_are_those_of_the_saved_models(runs, noisy_dir):
    found = json.loads((runs[1].folder / "metrics.json").read_text(encoding="utf-8"))["calibration"]
    assert found == runs[1].metrics["calibration"]
    assert set(found) == {"temperature", "fitted_on", "splits"} and found["fitted_on"] == "validation"
    for split, file in (("validation", "dev"), ("test", "test")):
        for when, result in zip(("before", "after"), runs, strict=True):
            logits, labels = answer(result, noisy_dir, file)
            assert found["splits"][split][when]["loss"] == pytest.approx(cross_entropy(logits, labels), abs=1e-5)
            squares = (softmax(logits, axis=1) - np.eye(3)[labels]) ** 2
            assert found["splits"][split][when]["brier"] == pytest.approx(squares.sum(axis=1).mean(), abs=1e-5)
    assert "calibration" not in runs[0].metrics
