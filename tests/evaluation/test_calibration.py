"""Calibration: against other minimisers, Bayes' rule worked by hand, and what the saved model itself answers."""

import json
import logging
import re

import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from safetensors.torch import load_file
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp, softmax
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_rnn import train
from hf_rnn.evaluation import calibration
from hf_rnn.evaluation.calibration import (
    Calibration,
    fit_calibration,
    learned_prior,
    measure_scores,
    read_prior,
    weigh_rows,
)
from hf_rnn.training.arguments.run_arguments import parse_settings
from hf_rnn.training.calibrate_run import check_calibration
from hf_rnn.training.class_weights import weigh_classes
from hf_rnn.utils.errors import UserError


def draw_rows(count, classes, temperature, seed, scale=2.0):
    """Logits, and labels drawn from softmax(logits / temperature)."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(scale=scale, size=(count, classes))
    shares = softmax(logits / temperature, axis=1)
    return logits, (shares.cumsum(axis=1) < chance.random((count, 1))).sum(axis=1).clip(max=classes - 1)


def cross_entropy(logits, labels, weights=None):
    return np.average(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels], weights=weights)


# ---- the temperature ----


@pytest.mark.parametrize(("count", "classes", "true"), [(20, 2, 1.0), (300, 3, 0.4), (300, 3, 3.0), (900, 28, 1.5)])
def test_temperature_is_the_one_another_minimiser_finds(count, classes, true):
    logits, labels = draw_rows(count, classes, true, seed=count)
    found = fit_calibration(logits, labels)
    other = minimize_scalar(
        lambda log: cross_entropy(logits / np.exp(log), labels),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found.temperature == pytest.approx(np.exp(other.x), rel=1e-5)
    assert found.shift == (0.0,) * classes
    grid = [cross_entropy(logits / temperature, labels) for temperature in np.geomspace(0.05, 20, 2_000)]
    assert cross_entropy(found.apply(logits), labels) <= min(grid) + 1e-12


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
def test_a_known_temperature_is_recovered(true):
    logits, labels = draw_rows(20_000, 4, true, seed=1)
    assert fit_calibration(logits, labels).temperature == pytest.approx(true, rel=0.04)


def test_temperature_under_a_shift_and_weights_is_the_one_another_minimiser_finds():
    logits, labels = draw_rows(500, 3, 2.0, seed=4)
    learned, target = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    found = fit_calibration(logits, labels, learned, target)
    shift = np.log(target / learned)
    weights = np.array([target[label] / np.mean(labels == label) for label in labels])
    other = minimize_scalar(
        lambda inverse: cross_entropy(logits * inverse + shift, labels, weights),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found.temperature == pytest.approx(1 / other.x, rel=1e-5)
    np.testing.assert_allclose(found.shift, shift)


@pytest.mark.parametrize("true", [0.5, 3.0])
def test_of_many_rows_and_classes_a_dozen_looks_tell_the_temperature(monkeypatch, true):
    """Halving its range takes forty, each over all logits; here they are also looked at in pieces."""
    logits, labels = draw_rows(2_000, 30, true, seed=5)
    whole = fit_calibration(logits, labels).temperature
    monkeypatch.setattr(calibration, "_MOST_STEPS", 12)
    monkeypatch.setattr(calibration, "_BLOCK", 70)
    assert fit_calibration(logits, labels).temperature == pytest.approx(whole, rel=1e-12)
    other = minimize_scalar(
        lambda inverse: cross_entropy(logits * inverse, labels), bounds=(0.05, 20), options={"xatol": 1e-10}
    )
    assert whole == pytest.approx(1 / other.x, rel=1e-5)


@st.composite
def logits_and_labels(draw):
    count, classes = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    numbers = st.floats(-50, 50)
    row = st.lists(numbers, min_size=classes, max_size=classes)
    logits = draw(st.lists(row, min_size=count, max_size=count))
    return np.array(logits), np.array(draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)))


@given(logits_and_labels())
@settings(max_examples=150, deadline=None)
def test_any_rows_give_a_temperature_that_is_no_worse_than_none(case):
    logits, labels = case
    found = fit_calibration(logits, labels)
    assert 0.05 * (1 - 1e-9) <= found.temperature <= 20 * (1 + 1e-9)
    after = found.apply(logits)
    np.testing.assert_array_equal(after[np.arange(len(labels)), logits.argmax(axis=1)], after.max(axis=1))
    assert cross_entropy(after, labels) <= cross_entropy(logits, labels) + 1e-9
    measured = measure_scores(after, labels)
    assert 0 <= measured["ece"] <= 1 and 0 <= measured["brier"] <= 2
    assert measured["loss"] == pytest.approx(cross_entropy(after, labels), abs=1e-9)


def test_the_reliability_table_counts_rows_by_their_weights():
    logits = np.log([[0.9, 0.1], [0.6, 0.4]])
    share = measure_scores(logits, [0, 1], np.array([3.0, 1.0]))["reliability"]["share"]
    assert share[13] == pytest.approx(0.75), "of 15 bins that of 0.9"


def test_a_row_that_is_held_for_impossible_has_a_finite_loss():
    assert 700 < measure_scores([[0.0, 2000.0]], [0])["loss"] < 800


# ---- in the weights ----


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 20.0])
def test_folded_layer_gives_the_calibrated_logits(temperature):
    torch.manual_seed(0)
    layer, inputs = nn.Linear(16, 5), torch.randn(200, 16)
    before = layer(inputs).detach()
    Calibration(temperature, (0.0,) * 5).fold_into(layer)
    after = layer(inputs).detach()
    torch.testing.assert_close(after, before / temperature, rtol=1e-5, atol=1e-5)
    assert torch.equal(after.argmax(1), before.argmax(1))
    assert layer.weight.dtype == torch.float32 and layer.weight.requires_grad


def test_folded_layer_holds_the_shift_too():
    torch.manual_seed(1)
    layer, inputs = nn.Linear(8, 3), torch.randn(50, 8)
    before = layer(inputs).detach().numpy()
    calibration = Calibration(1.7, (0.5, -1.25, 0.25))
    calibration.fold_into(layer)
    np.testing.assert_allclose(layer(inputs).detach().numpy(), before / 1.7 + [0.5, -1.25, 0.25], atol=1e-5)
    np.testing.assert_allclose(layer(inputs).detach().numpy(), calibration.apply(before), atol=1e-5)


# ---- shares of the classes ----


def test_the_correction_is_bayes_rule_worked_by_hand():
    """Two classes, three kinds of text. The network knows P(class | kind) in training exactly, so T is 1."""
    likelihood = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])  # P(kind | class)
    learned, target = np.array([0.4, 0.6]), np.array([0.9, 0.1])
    joint = learned[:, None] * likelihood
    logits_of_kind = np.log(joint / joint.sum(axis=0)).T + 5  # a constant changes no probability
    counts = np.rint(likelihood * [[1_000], [3_000]]).astype(int)  # validation rows, a third mix
    labels = np.repeat([0, 0, 0, 1, 1, 1], counts.ravel())
    kinds = np.repeat([0, 1, 2, 0, 1, 2], counts.ravel())

    found = fit_calibration(logits_of_kind[kinds], labels, learned, target)
    assert found.temperature == pytest.approx(1, abs=1e-6)
    # P(class 0 | kind) = 0.9 P(kind | 0) / (0.9 P(kind | 0) + 0.1 P(kind | 1))
    by_hand = [0.45 / (0.45 + 0.01), 0.27 / (0.27 + 0.03), 0.18 / (0.18 + 0.06)]
    np.testing.assert_allclose(softmax(found.apply(logits_of_kind), axis=1)[:, 0], by_hand, atol=1e-6)
    assert logits_of_kind.argmax(axis=1)[2] == 1 and found.apply(logits_of_kind).argmax(axis=1)[2] == 0, (
        "it may differ"
    )


def test_rows_count_so_that_classes_have_their_target_shares():
    labels, target = np.array([0, 0, 0, 1, 2, 2]), [0.2, 0.5, 0.3]
    weights = weigh_rows(labels, target)
    np.testing.assert_allclose(np.bincount(labels, weights) / 6, target)
    np.testing.assert_allclose(weigh_rows(labels, [3 / 6, 1 / 6, 2 / 6]), np.ones(6))
    assert weigh_rows(labels, None).tolist() == [1] * 6
    assert np.isfinite(weigh_rows(np.array([0, 2]), target)).all(), "a split without a class of the three"


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_what_a_weighted_loss_learns_is_the_weighted_prior(power):
    """A network that sees nothing of the text ends at the shares it was taught: minimise its loss and look."""
    counts = [50, 20, 5]
    weights = weigh_classes(counts, power).numpy()
    labels = np.repeat(range(3), counts)

    def loss(logits):
        return cross_entropy(np.tile([*logits, 0], (len(labels), 1)), labels, weights[labels])

    fitted = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(learned_prior(counts, weights), softmax([*fitted, 0]), atol=1e-5)
    if power == 0:
        np.testing.assert_allclose(learned_prior(counts), np.array(counts) / 75)
    if power == 1:
        np.testing.assert_allclose(learned_prior(counts, weights), [1 / 3] * 3, rtol=1e-6)


NAMES = ["bad", "good", "a=b"]


@pytest.mark.parametrize(
    "prior",
    [
        ["good=0.3", "bad=0.2", "a=b=0.5"],
        ['{"bad": 0.2, "good": 0.3, "a=b": 0.5}'],
        [' {"bad": 0.2, "a=b": 5e-1, "good": "0.3"}'],
        {"a=b": 0.5, "bad": 0.2, "good": 0.3},
    ],
)
def test_a_prior_may_be_written_in_several_ways(prior):
    np.testing.assert_allclose(read_prior(prior, NAMES), [0.2, 0.3, 0.5])


def test_shares_may_be_rounded():
    np.testing.assert_allclose(read_prior(["bad=0.33", "good=0.33", "a=b=0.33"], NAMES), [1 / 3] * 3)
    assert read_prior(["bad=0.33", "good=0.33", "a=b=0.34"], NAMES).sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (["bad=0.5", "good=0.5"], "target_prior names bad, good, and the classes are bad, good, a=b: give each"),
        (["bad=0.2", "good=0.3", "ugly=0.5"], "target_prior names bad, good, ugly, and the classes are"),
        (["bad=0", "good=0.5", "a=b=0.5"], "must hold shares above 0 that sum to 1"),
        (["bad=-0.5", "good=1", "a=b=0.5"], "must hold shares above 0 that sum to 1"),
        (["bad=0.5", "good=0.5", "a=b=0.5"], "must hold shares above 0 that sum to 1"),
        (["bad=0.3", "good=0.3", "a=b=0.3"], "must hold shares above 0 that sum to 1"),
        (["bad=0.34", "good=0.34", "a=b=0.34"], "must hold shares above 0 that sum to 1"),
        (["bad=20", "good=30", "a=b=50"], "must hold shares above 0 that sum to 1"),
        (["bad=nan", "good=0.5", "a=b=0.5"], "must hold shares above 0 that sum to 1"),
        (["bad=inf", "good=0.5", "a=b=0.5"], "must hold shares above 0 that sum to 1"),
        (["bad=x", "good=0.5", "a=b=0.5"], "holds what is no number"),
        (["bad=", "good=0.5", "a=b=0.5"], "holds what is no number"),
        (['{"bad": null, "good": 0.5, "a=b": 0.5}'], "holds what is no number"),
        (['{"bad": 0.2,'], "is no JSON"),
        (["bad"], "target_prior 'bad' is no share of a class: give name=share"),
        (["bad=0.5", "bad=0.5"], "names a class twice"),
        ([""], "the classes are bad, good"),
        ([], "target_prior names no class"),
    ],
)
def test_a_prior_that_cannot_be_meant(prior, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_prior(prior, NAMES)


@pytest.mark.parametrize("count", [2, 3, 6, 7, 9, 11, 28, 150])
def test_the_example_of_a_refusal_can_be_typed(count):
    names = [f"class{index}" for index in range(count)]
    with pytest.raises(UserError) as caught:
        read_prior([], names)
    example = str(caught.value).split("such as ")[1].split()
    np.testing.assert_allclose(read_prior(example, names), np.full(count, 1 / count), rtol=1e-9)


# ---- rows that tell little or nothing ----


def test_rows_that_are_all_right_leave_the_scores_as_they_are(caplog):
    """The colder the likelier, without end: such a temperature would make every score 1."""
    logits, _ = draw_rows(30, 3, 1.0, seed=5)
    for labels in (logits.argmax(axis=1), logits[:1].argmax(axis=1)):
        assert fit_calibration(logits[: len(labels)], labels) == Calibration(1.0, (0.0,) * 3)
        assert f"each of the {len(labels)} rows is right: that tells no temperature" in caplog.text
    almost = logits.argmax(axis=1)
    almost[0] = logits[0].argmin()
    assert fit_calibration(logits, almost).temperature != 1


def test_a_network_that_cannot_tell_is_made_unsure(caplog):
    logits = np.array([[4.0, -4.0], [-4.0, 4.0]] * 20)
    right, wrong = np.array([0, 1] * 20), np.array([1, 0] * 20)
    assert fit_calibration(logits, wrong).temperature == pytest.approx(20)
    assert caplog.messages == ["the temperature is at its bound, 20: scores hardly tell right from wrong, or none"]
    half = np.where(np.arange(40) < 20, right, wrong)
    assert softmax(fit_calibration(logits, half).apply(logits), axis=1).max() < 0.61, "as hot as it goes: 8 / 20"
    assert fit_calibration(logits[:1], wrong[:1]).temperature == pytest.approx(20)


def test_a_network_that_is_right_and_unsure_is_not_told_that_it_is_wrong(caplog):
    labels = np.array([0, 1] * 50)
    logits = 0.01 * np.eye(2)[labels]
    labels[0] = 1  # one of a hundred is wrong
    found = fit_calibration(logits, labels)
    assert found.temperature == pytest.approx(0.05)
    assert softmax(found.apply(logits), axis=1).max() < 0.6, "premise: 0.99 would be right"
    assert caplog.messages == [
        "the temperature is at its bound, 0.05: scores are far lower than it is right, and stay too low; train it for "
        "longer"
    ]


def test_logits_that_are_all_alike_stay():
    assert fit_calibration(np.full((4, 3), 7.0), np.array([0, 1, 2, 0])).temperature == 1


def test_a_class_that_validation_lacks():
    logits, labels = draw_rows(200, 3, 2.0, seed=6)
    kept = labels != 2
    assert fit_calibration(logits[kept], labels[kept]).temperature > 1
    with pytest.raises(UserError, match="the validation rows have none of class 2, which target_prior gives a share"):
        fit_calibration(logits[kept], labels[kept], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6])
    with pytest.raises(UserError, match="the training rows have none of class 1"):
        fit_calibration(logits, labels, [0.6, 0.0, 0.4], [0.2, 0.2, 0.6])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "there must be rows, each with one class"),
        (np.zeros((4, 3)), np.zeros(3, int), "there must be rows, each with one class"),
        (np.zeros((4, 3)), np.zeros((4, 3)), "there must be rows, each with one class"),  # several labels a row
        (np.zeros((4, 1)), np.zeros(4), r"labels of shape \(4,\), float64"),  # regression
        (np.array([[0.0, np.nan], [1, 2]]), np.array([0, 1]), "1 of 2 rows have logits that are not finite"),
        (np.array([[0.0, np.inf], [np.nan, 2]]), np.array([0, 1]), "2 of 2 rows .* did the training diverge"),
    ],
)
def test_what_cannot_be_calibrated(logits, labels, message):
    with pytest.raises(UserError, match=message):
        fit_calibration(logits, labels)


def make_settings(**changes):
    return parse_settings({"data_dir": "x", "output_dir": "y", "calibrate": True, **changes}).training


def test_mistakes_that_are_found_before_the_training():
    rows = {"validation": None}
    with pytest.raises(UserError, match="calibrate needs rows that are not trained on: give a validation split"):
        check_calibration(make_settings(), {"train": None}, LABELS, [1, 1, 1])
    assert check_calibration(make_settings(calibrate=False), {"train": None}, LABELS, [1, 1, 1]) is None
    assert check_calibration(make_settings(), rows, LABELS, [1, 0, 1]) is None
    train_shares = check_calibration(make_settings(target_prior="train"), rows, LABELS, [1, 2, 5])
    np.testing.assert_allclose(train_shares, [1 / 8, 2 / 8, 5 / 8])
    given = make_settings(target_prior={"plain": 0.7, "good": 0.2, "bad": 0.1})
    np.testing.assert_allclose(check_calibration(given, rows, LABELS, [1, 2, 5]), [0.1, 0.2, 0.7])
    with pytest.raises(UserError, match=f"the training rows have none of class '{LABELS[1]}'"):
        check_calibration(given, rows, LABELS, [1, 0, 5])
    with pytest.raises(UserError, match="target_prior is part of the calibration: add calibrate"):
        make_settings(calibrate=False, target_prior="train")


# ---- in a training run ----


@pytest.fixture(scope="module")
def noisy_dir(tmp_path_factory):
    """The invented texts, bad ones rare in train, and every fourth label of dev and test another one."""
    folder = tmp_path_factory.mktemp("noisy")
    rows = invent_rows(240, 1)
    write_rows(folder / "train.tsv", [row for number, row in enumerate(rows) if row[1] != "bad" or number % 2])
    for name, seed in (("dev", 2), ("test", 3)):
        wrong = {"bad": "good", "good": "plain", "plain": "bad"}
        rows = invent_rows(120, seed)
        write_rows(
            folder / f"{name}.tsv",
            [(text, wrong[label] if number % 4 == 3 else label) for number, (text, label) in enumerate(rows)],
        )
    return folder


COUNTS = np.array([40, 80, 80])  # of bad, good, plain in train


@pytest.fixture(scope="module")
def runs(tiny_settings, noisy_dir, tmp_path_factory):
    """One and the same training: as it is, calibrated, and calibrated for other shares."""
    root = tmp_path_factory.mktemp("calibrated")
    common = {**tiny_settings, "data_dir": str(noisy_dir), "class_weight_power": 0.7}
    target = {"bad": 0.6, "good": 0.1, "plain": 0.3}
    return {
        "plain": train(**common, output_dir=str(root / "plain")),
        "calibrated": train(**common, output_dir=str(root / "calibrated"), calibrate=True),
        "shares": train(**common, output_dir=str(root / "shares"), calibrate=True, target_prior=target),
    }


def answers(result, noisy_dir, split):
    """Logits of the saved model, loaded as anybody would, in float64, and true labels."""
    model = AutoModelForSequenceClassification.from_pretrained(result.folder)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    lines = (noisy_dir / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    with torch.no_grad():
        logits = model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits
    return logits.double().numpy(), np.array([model.config.label2id[label] for label in labels])


def measure_by_loops(logits, labels, weights):
    """ECE in 15 bins and Brier score, a row at a time."""
    shares = softmax(logits, axis=1)
    bins = [[0.0, 0.0, 0.0] for _ in range(15)]
    brier = 0.0
    for row, label, weight in zip(shares, labels, weights, strict=True):
        confidence = max(row)
        found = next(number for number in range(15) if confidence <= (number + 1) / 15 or number == 14)
        for place, value in enumerate((1.0, confidence, float(row.argmax() == label))):
            bins[found][place] += weight * value
        brier += weight * sum((share - (index == label)) ** 2 for index, share in enumerate(row))
    total = sum(weights)
    return sum(abs(right - confident) for _, confident, right in bins) / total, brier / total


def test_the_saved_model_answers_with_calibrated_logits(runs, noisy_dir):
    temperature = runs["calibrated"].metrics["calibration"]["temperature"]
    assert abs(temperature - 1) > 0.05, "premise: there is something to calibrate"
    for split in ("dev", "test"):
        (before, _), (after, _) = (answers(runs[name], noisy_dir, split) for name in ("plain", "calibrated"))
        np.testing.assert_allclose(after, before / temperature, atol=1e-5)
        np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))
    before, after = (load_file(runs[name].folder / "model.safetensors") for name in ("plain", "calibrated"))
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    configs = [json.loads((runs[name].folder / "config.json").read_text()) for name in ("plain", "calibrated")]
    assert configs[0] == configs[1], "no new key: whoever loads it needs to know nothing"


def test_answers_that_count_are_those_of_before(runs):
    for split in ("validation", "test"):
        plain, calibrated = (runs[name].metrics[split] for name in ("plain", "calibrated"))
        assert calibrated["confusion_matrix"] == plain["confusion_matrix"]
        assert calibrated["loss"] == pytest.approx(
            runs["calibrated"].metrics["calibration"]["splits"][split]["after"]["loss"], abs=1e-5
        )
    assert runs["calibrated"].metrics["validation"]["loss"] < runs["plain"].metrics["validation"]["loss"]


def test_other_shares_are_in_the_weights_too(runs, noisy_dir):
    """z / T + log(target / learned), the learned shares being those of the rows as the loss weighed them."""
    found = runs["shares"].metrics["calibration"]
    mass = COUNTS * (200 / (3 * COUNTS)) ** 0.7
    shift = np.log(np.array([0.6, 0.1, 0.3]) / (mass / mass.sum()))
    (before, _), (after, _) = (answers(runs[name], noisy_dir, "dev") for name in ("plain", "shares"))
    np.testing.assert_allclose(after, before / found["temperature"] + shift, atol=1e-5)
    assert found["target_prior"] == pytest.approx({"bad": 0.6, "good": 0.1, "plain": 0.3})


@pytest.mark.parametrize("name", ["calibrated", "shares"])
def test_metrics_are_what_plain_numpy_finds(runs, noisy_dir, name):
    found = json.loads((runs[name].folder / "metrics.json").read_text(encoding="utf-8"))["calibration"]
    assert found == runs[name].metrics["calibration"]
    assert found["fitted_on"] == "validation" and set(found["splits"]) == {"validation", "test"}
    target = np.array([0.6, 0.1, 0.3])
    for split, file in (("validation", "dev"), ("test", "test")):
        for when, run in (("before", "plain"), ("after", name)):
            logits, labels = answers(runs[run], noisy_dir, file)
            weights = np.ones(len(labels))
            if name == "shares":
                weights = np.array([target[label] / np.mean(labels == label) for label in labels])
            ece, brier = measure_by_loops(logits, labels, weights)
            measured = found["splits"][split][when]
            assert measured["brier"] == pytest.approx(brier, abs=1e-5)
            assert measured["ece"] == pytest.approx(ece, abs=1e-5)
            assert measured["loss"] == pytest.approx(cross_entropy(logits, labels, weights), abs=1e-5)
            assert sum(measured["reliability"]["share"]) == pytest.approx(1)
    fitted = found["splits"]["validation"]
    assert fitted["after"]["loss"] < fitted["before"]["loss"]


def test_card_and_figure_tell_the_same(runs):
    found = runs["calibrated"].metrics["calibration"]
    card = (runs["calibrated"].folder / "README.md").read_text(encoding="utf-8")
    assert f"(temperature {found['temperature']:.3f}, part of the weights)" in card
    for split in ("validation", "test"):
        before, after = (found["splits"][split][when] for when in ("before", "after"))
        assert (
            f"on the {split} split the expected calibration error went from {before['ece']:.3f} to "
            f"{after['ece']:.3f}, the Brier score from {before['brier']:.3f} to {after['brier']:.3f}"
        ) in card
    assert "](<reliability.png>)" in card
    height, width, _ = imread(runs["calibrated"].folder / "reliability.png").shape
    assert min(height, width) > 300
    shares = (runs["shares"].folder / "README.md").read_text(encoding="utf-8")
    assert "of which these shares are: `bad` 60.0%, `good` 10.0%, `plain` 30.0%" in shares
    plain = runs["plain"].folder
    assert "Its scores are not calibrated" in (plain / "README.md").read_text(encoding="utf-8")
    assert not (plain / "reliability.png").exists()
    assert "calibration" not in json.loads((plain / "metrics.json").read_text(encoding="utf-8"))


def test_a_pipeline_gives_calibrated_scores(runs, noisy_dir):
    classify = pipeline("text-classification", str(runs["calibrated"].folder), top_k=None, device="cpu")
    (scores,) = classify(["the miro door"])
    model = AutoModelForSequenceClassification.from_pretrained(runs["plain"].folder)
    tokenizer = AutoTokenizer.from_pretrained(runs["plain"].folder)
    with torch.no_grad():
        logits = model(**tokenizer("the miro door", return_tensors="pt")).logits[0].double().numpy()
    expected = softmax(logits / runs["calibrated"].metrics["calibration"]["temperature"])
    found = {score["label"]: score["score"] for score in scores}
    assert found == pytest.approx(
        {model.config.id2label[index]: share for index, share in enumerate(expected)}, abs=1e-5
    )


def test_train_shares_undo_the_class_weights(tiny_settings, noisy_dir, tmp_path, runs):
    result = train(
        **{
            **tiny_settings,
            "data_dir": str(noisy_dir),
            "class_weight_power": 0.7,
            "output_dir": str(tmp_path / "out"),
        },
        calibrate=True,
        target_prior="train",
    )
    found = result.metrics["calibration"]
    assert found["target_prior"] == pytest.approx({"bad": 0.2, "good": 0.4, "plain": 0.4})
    (before, _), (after, _) = answers(runs["plain"], noisy_dir, "dev"), answers(result, noisy_dir, "dev")
    shift = after - before / found["temperature"]
    # log(n_c / (n_c w_c)), up to a constant, which changes no probability: w_c = n_c ** -0.7 up to a factor
    np.testing.assert_allclose(
        shift - shift[:, :1], np.tile(0.7 * np.log(COUNTS / COUNTS[0]), (len(shift), 1)), atol=1e-5
    )


def test_a_stream_is_calibrated_as_a_table_is(tiny_settings, noisy_dir, tmp_path):
    settings = {**tiny_settings, "data_dir": str(noisy_dir), "streaming": True, "num_train_epochs": 1}
    target = ["bad=0.6", "good=0.1", "plain=0.3"]
    result = train(**settings, output_dir=str(tmp_path / "out"), calibrate=True, target_prior=target)
    logits, labels = answers(result, noisy_dir, "dev")
    weights = np.array([np.array([0.6, 0.1, 0.3])[label] / np.mean(labels == label) for label in labels])
    measured = result.metrics["calibration"]["splits"]["validation"]["after"]
    assert measured["loss"] == pytest.approx(cross_entropy(logits, labels, weights), abs=1e-5)


def test_validation_rows_that_lack_a_class(tiny_settings, noisy_dir, tmp_path, caplog):
    for path in noisy_dir.glob("*.tsv"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if path.stem != "dev" or not line.endswith("\tplain\n")]
        (tmp_path / path.name).write_text("".join(kept), encoding="utf-8")
    settings = {**tiny_settings, "data_dir": str(tmp_path), "num_train_epochs": 1}
    with caplog.at_level(logging.WARNING, "hf_rnn"):
        train(**settings, output_dir=str(tmp_path / "out"), calibrate=True)
    assert "validation has no row of 'plain': how sure the model may be of it" in caplog.text


def test_a_rule_that_is_learned_without_a_mistake(tiny_settings, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "hf_rnn"):
        result = train(**tiny_settings, output_dir=str(tmp_path / "out"), calibrate=True)
    assert result.metrics["validation"]["accuracy"] == 1, "premise: the tiny settings learn the rule"
    found = result.metrics["calibration"]
    assert found["temperature"] == 1
    assert found["splits"]["validation"]["before"] == found["splits"]["validation"]["after"]
    assert "each of the 60 rows is right" in caplog.text


def test_mistakes_on_the_command_line(command, noisy_dir, tmp_path):
    write_rows(tmp_path / "train.tsv", invent_rows(30, 1))
    write_rows(tmp_path / "dev.tsv", [row for row in invent_rows(30, 2) if row[1] != "bad"])
    for folder, flags, message in (
        (noisy_dir, ["--calibrate", "--target_prior", "bad=0.5", "ugly=0.5"], "names bad, ugly, and the classes are"),
        (
            noisy_dir,
            ["--calibrate", "--target_prior", "bad=0", "good=0.5", "plain=0.5"],
            "shares above 0 that sum to 1",
        ),
        (noisy_dir, ["--calibrate", "--target_prior", "bad=1", "good=1", "plain=1"], "shares above 0 that sum to 1"),
        (noisy_dir, ["--target_prior", "train"], "target_prior is part of the calibration: add calibrate"),
        (tmp_path, ["--calibrate", "--target_prior", "train"], "the validation rows have none of class 'bad'"),
    ):
        code, out, err = command("train", "--data_dir", folder, "--output_dir", tmp_path / "out", *flags)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        assert message in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
