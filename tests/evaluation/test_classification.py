"""Metrics against tables worked by hand, scikit-learn, and the interface of `evaluate`."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from hf_rnn.evaluation import (
    Accuracy,
    ConfusionMatrix,
    MacroF1,
    MacroRecall,
    PerClass,
    brier_score,
    classification_metrics,
    evaluate_logits,
    expected_calibration_error,
    reliability_table,
)
from hf_rnn.utils.errors import UserError

NAMES = ["negative", "neutral", "positive"]
CLASSES = [Accuracy, MacroF1, MacroRecall, PerClass, ConfusionMatrix]
REFERENCES = [0, 0, 0, 1, 1, 1, 1, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 1, 1, 0, 0, 1, 1]  # class 2 is never predicted


def test_table_worked_by_hand():
    measured = classification_metrics(np.array(PREDICTIONS), torch.tensor(REFERENCES), NAMES)
    assert measured["confusion_matrix"] == [[2, 1, 0], [2, 4, 0], [0, 1, 0]]
    assert measured["accuracy"] == 6 / 10
    assert measured["per_class"] == {
        "negative": {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "support": 3},
        "neutral": {"precision": 4 / 6, "recall": 4 / 6, "f1": 8 / 12, "support": 6},
        "positive": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    }
    assert measured["macro_recall"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert measured["macro_f1"] == pytest.approx((4 / 7 + 2 / 3 + 0) / 3)
    assert json.loads(json.dumps(measured)) == measured


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize(("size", "rows"), [(1, 3), (2, 1), (3, 40), (6, 15)])
def test_scikit_learn_gives_the_same_numbers(size, rows):
    predictions, references = np.random.default_rng(rows).integers(0, size, (2, rows)).tolist()
    measured = classification_metrics(predictions, references, [f"class {index}" for index in range(size)])
    options = {"labels": range(size), "zero_division": 0}
    scores = sklearn_metrics.precision_recall_fscore_support(references, predictions, average=None, **options)
    for row, *expected in zip(measured["per_class"].values(), *scores, strict=True):
        assert list(row.values()) == pytest.approx(expected)
    assert measured["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(references, predictions))
    averaged = sklearn_metrics.precision_recall_fscore_support(references, predictions, average="macro", **options)
    assert [measured["macro_recall"], measured["macro_f1"]] == pytest.approx(averaged[1:3])
    matrix = sklearn_metrics.confusion_matrix(references, predictions, labels=range(size))
    assert measured["confusion_matrix"] == matrix.tolist()


@pytest.mark.parametrize("kind", CLASSES)
def test_each_metric_alone(kind):
    metric = kind(NAMES)
    expected = {kind.key: classification_metrics(PREDICTIONS, REFERENCES, NAMES)[kind.key]}
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == expected
    for start in range(0, 10, 4):
        metric.add_batch(
            predictions=np.array(PREDICTIONS[start : start + 4]),
            references=torch.tensor(REFERENCES[start : start + 4]),
        )
    assert metric.compute() == expected


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0, 1], [0], "2 predictions and 1 references"),
        ([0, 3], [0, 1], r"predictions\[1\] is 3, but there are 3 classes: 0 = negative"),
        ([0.0, 1.7], [0, 1], "argmax"),
        ([[0.1, 0.9], [0.2, 0.8]], [0, 1], r"predictions have shape \(2, 2\)"),
        ([], [], "nothing to measure"),
    ],
)
def test_invalid_ids_are_refused(predictions, references, message):
    with pytest.raises(UserError, match=message):
        classification_metrics(predictions, references, NAMES)


def test_equal_names_are_refused():
    with pytest.raises(UserError, match="all different"):
        classification_metrics([0], [0], ["a", "a"])


def test_logits_that_are_not_finite():
    logits = np.array([[0.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]])
    with pytest.raises(UserError, match="2 of 3 rows"):
        evaluate_logits(logits, [0, 1, 0], ["a", "b"])
    measured = evaluate_logits(logits[:1], [1], ["a", "b"])
    assert measured["loss"] == pytest.approx(np.log1p(np.exp(-1)))
    assert (measured["rows"], measured["accuracy"]) == (1, 1)


# ---- probabilities ----

# true class, confidence, right: 0.9 yes, 0.7 no, 0.6 yes, 0.6 no
SHARES = [[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.6, 0.4]]
TRUE = [0, 1, 1, 1]


def test_probabilities_worked_by_hand():
    table = reliability_table(SHARES, TRUE, bins=5)  # edges at 0.2, 0.4, 0.6, 0.8
    assert table["share"] == [0, 0, 0.5, 0.25, 0.25]
    assert table["confidence"] == [None, None, pytest.approx(0.6), pytest.approx(0.7), pytest.approx(0.9)]
    assert table["accuracy"] == [None, None, 0.5, 0, 1]
    by_hand = 2 / 4 * abs(0.5 - 0.6) + 1 / 4 * abs(0 - 0.7) + 1 / 4 * abs(1 - 0.9)
    assert expected_calibration_error(SHARES, TRUE, bins=5) == pytest.approx(by_hand)
    assert expected_calibration_error(SHARES, TRUE, bins=1) == pytest.approx(abs(2 / 4 - 2.8 / 4))
    squares = [0.1**2 + 0.1**2, 0.7**2 + 0.7**2, 0.4**2 + 0.4**2, 0.6**2 + 0.6**2]
    assert brier_score(SHARES, TRUE) == pytest.approx(sum(squares) / 4)
    assert json.loads(json.dumps(table)) == table


@st.composite
def stated(draw):
    """Probabilities, true classes, and a number of bins."""
    count, size = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    parts = st.lists(st.floats(1e-3, 1), min_size=size, max_size=size)
    shares = np.array(draw(st.lists(parts, min_size=count, max_size=count)))
    true = draw(st.lists(st.integers(0, size - 1), min_size=count, max_size=count))
    return shares / shares.sum(axis=1, keepdims=True), np.array(true), draw(st.integers(1, 20))


@given(stated())
def test_calibration_error_and_brier_score_against_loops(case):
    shares, true, bins = case
    rows = [(max(row), float(row.argmax() == label)) for row, label in zip(shares, true, strict=True)]
    expected = 0.0
    for number in range(bins):
        inside = [
            row for row in rows if number / bins < row[0] and (row[0] <= (number + 1) / bins or number + 1 == bins)
        ]
        expected += abs(sum(confidence - right for confidence, right in inside)) / len(rows)
    assert expected_calibration_error(shares, true, bins) == pytest.approx(expected, abs=1e-9)
    squares = [((row - np.eye(len(row))[label]) ** 2).sum() for row, label in zip(shares, true, strict=True)]
    assert brier_score(shares, true) == pytest.approx(np.mean(squares))
