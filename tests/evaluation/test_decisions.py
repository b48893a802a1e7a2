"""Thresholds: right at the rate of the target on fresh rows, none by luck; a spoiled label costs its own share."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from hf_rnn.evaluation.decisions import (
    choose_thresholds,
    describe_costliest,
    find_threshold,
    is_above,
    measure_decisions,
    measure_labels,
    needs_person,
    read_thresholds,
    write_thresholds,
)
from hf_rnn.utils.errors import UserError


def draw(rows, classes, seed, spoiled=0.0):
    """Return scores of a classifier and true labels; a share of the answers with label 0 is wrong at any score."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 3.5
    scores = np.exp(2 * logits)
    scores /= scores.sum(axis=1, keepdims=True)
    wrong = (scores.argmax(axis=1) == 0) & (generator.random(rows) < spoiled)
    return scores, np.where(wrong, 1, labels)


def names(classes):
    return [f"label {number}" for number in range(classes)]


def find_bound(right, rows):
    return binomtest(right, rows).proportion_ci(0.8, "exact").low  # two-sided 80 % has 10 % below


def test_the_bound_is_that_of_scipy():
    for rows in (1, 2, 12, 44, 45, 300):
        for right in {0, rows // 2, rows - 1, rows}:
            for target in (0.5, 0.9, 0.95):
                assert is_above(np.array(right), np.array(rows), target) == (
                    find_bound(right, rows) >= target
                )


def test_a_threshold_is_the_lowest_with_the_bound():
    generator = np.random.default_rng(0)
    confidence = generator.choice(np.linspace(0.3, 1, 40), 300)  # with ties
    right = generator.random(300) < confidence
    above = [(limit, confidence >= limit) for limit in np.unique(confidence)]
    expected = [limit for limit, rows in above if find_bound(right[rows].sum(), rows.sum()) >= 0.8]
    assert find_threshold(confidence, right, 0.8) == expected[0]
    assert (
        find_threshold(confidence, ~right, 0.8) is None
        and find_threshold(confidence[:0], right[:0], 0.8) is None
    )


@pytest.mark.parametrize(("rows", "classes"), [(600, 4), (1500, 12), (900, 60)])
@pytest.mark.parametrize("target", [0.9, 0.95])
def test_answers_on_fresh_rows_are_right_at_the_rate_of_the_target(rows, classes, target):
    right = alone = 0.0
    for seed in range(5):
        chosen = choose_thresholds(*draw(rows, classes, seed), names(classes), target)
        scores, labels = draw(20_000, classes, seed + 100)
        found = measure_decisions(
            needs_person(chosen.by_label, names(classes), scores), scores, labels
        )
        assert chosen.repeated.share == pytest.approx(found.share, abs=0.2)
        right, alone = right + found.share * (found.accuracy or 0), alone + found.share
    assert right / alone >= target - 0.01 and alone / 5 > 0.25


def test_a_label_with_twelve_answers_has_no_threshold_of_luck():
    scores, labels = draw(600, 3, 0)
    few = np.full((12, 4), 0.001)
    few[:, 3] = 0.997
    scores = np.concatenate([np.pad(scores, ((0, 0), (0, 1))), few])
    labels = np.append(labels, [3] * 12)
    strict, lax = (
        choose_thresholds(scores, labels, names(4), target).by_label for target in (0.95, 0.8)
    )
    assert (
        strict["label 3"] is None and strict["label 0"] is not None and lax["label 3"] is not None
    )
    assert needs_person(strict, names(4), few).all()


def test_one_spoiled_label_costs_its_own_share_alone():
    """Its confident errors would leave hardly any answer above a single threshold."""
    scores, labels = draw(3000, 6, 1, spoiled=0.12)
    chosen = choose_thresholds(scores, labels, names(6), 0.985)
    single = find_threshold(scores.max(axis=1), scores.argmax(axis=1) == labels, 0.985)
    assert chosen.by_label["label 0"] is None
    assert chosen.repeated.share > 0.6 > 2 * (scores.max(axis=1) >= (single or 2)).mean()
    assert chosen.repeated.accuracy >= 0.98
    by_label = measure_labels(chosen.by_label, scores, labels, names(6))
    assert by_label["label 0"]["share"] == 0 and by_label["label 1"]["share"] > 0.5
    sentence = describe_costliest(by_label, 0.985)
    assert (
        sentence.startswith("'label 0' costs most")
        and str(by_label["label 0"]["answers"]) in sentence
    )


def test_labels_without_answers_or_rows_are_for_a_person():
    scores, labels = draw(300, 3, 0)
    chosen = choose_thresholds(np.pad(scores, ((0, 0), (0, 1))), labels, names(4), 0.9)
    assert chosen.by_label["label 3"] is None
    unknown = needs_person({}, names(2), np.array([[0.0, 1.0]]))
    assert unknown.tolist() == [True]
    empty = choose_thresholds(scores[:0], labels[:0], names(3), 0.9)
    assert set(empty.by_label.values()) == {None} and empty.repeated.accuracy is None


def test_thresholds_are_stored_by_target_and_bound_to_the_weights(tmp_path):
    weights, path = tmp_path / "model.safetensors", tmp_path / "thresholds.json"
    weights.write_bytes(b"weights")
    first, second = (
        choose_thresholds(*draw(400, 3, 0), names(3), target) for target in (0.9, 0.95)
    )
    assert read_thresholds(path, weights) == {}
    write_thresholds(path, weights, [first])
    write_thresholds(path, weights, [second])
    assert read_thresholds(path, weights) == {"0.9": first, "0.95": second}
    weights.write_bytes(b"others")
    with pytest.raises(UserError, match="thresholds of another model"):
        read_thresholds(path, weights)
    for content in ("{", "[]", json.dumps({"model": "", "targets": {"0.9": {"target": 0.9}}})):
        path.write_text(content)
        with pytest.raises(UserError, match="damaged"):
            read_thresholds(path, weights)


@pytest.mark.parametrize("target", [0.0, 1.0, 1.5, -1.0, float("nan")])
def test_a_target_is_an_accuracy(target):
    with pytest.raises(UserError, match=r"target is the accuracy .* such as 0\.95"):
        choose_thresholds(*draw(20, 2, 0), names(2), target)
