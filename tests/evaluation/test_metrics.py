"""Metrics against tables worked by hand, scikit-learn, row-by-row loops, and evaluate's own interface."""

import json
import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
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
    expected_calibration_error,
    reliability_table,
)
from hf_rnn.utils.errors import UserError

NAMES = ["negative", "neutral", "positive"]
CLASSES = [Accuracy, MacroF1, MacroRecall, PerClass, ConfusionMatrix]
REFERENCES = [0, 0, 0, 1, 1, 1, 1, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 1, 1, 0, 0, 1, 1]  # class 2 is never predicted


def test_table_worked_by_hand():
    measured = classification_metrics(PREDICTIONS, REFERENCES, NAMES)
    assert measured["confusion_matrix"] == [[2, 1, 0], [2, 4, 0], [0, 1, 0]]
    assert measured["accuracy"] == 6 / 10
    assert measured["per_class"] == {
        "negative": {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "support": 3},
        "neutral": {"precision": 4 / 6, "recall": 4 / 6, "f1": 8 / 12, "support": 6},
        "positive": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    }
    assert measured["macro_recall"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert measured["macro_f1"] == pytest.approx((4 / 7 + 2 / 3 + 0) / 3)


@st.composite
def labelled(draw):
    size = draw(st.integers(1, 6))
    pairs = draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), min_size=1, max_size=40))
    return size, [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(labelled())
@settings(max_examples=100, deadline=None)
def test_scikit_learn_gives_the_same_numbers(case):
    size, predictions, references = case
    names = [f"class {index}" for index in range(size)]
    measured = classification_metrics(predictions, references, names)
    options = {"labels": range(size), "zero_division": 0}
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        references, predictions, average=None, **options
    )
    for index, name in enumerate(names):
        row = measured["per_class"][name]
        expected = [precision[index], recall[index], f1[index]]
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(expected)
        assert row["support"] == support[index]
    assert measured["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(references, predictions))
    averaged = sklearn_metrics.precision_recall_fscore_support(references, predictions, average="macro", **options)
    assert [measured["macro_recall"], measured["macro_f1"]] == pytest.approx(averaged[1:3])
    matrix = sklearn_metrics.confusion_matrix(references, predictions, labels=range(size))
    assert measured["confusion_matrix"] == matrix.tolist()


def test_of_many_classes_only_the_cells_that_are_not_0():
    """Of 50,000 a matrix of counts would be 20 GB; the same rows under fewer names are the same numbers."""
    many = classification_metrics(PREDICTIONS, REFERENCES, [f"class {index}" for index in range(50_000)])
    few = classification_metrics(PREDICTIONS, REFERENCES, NAMES)
    assert many["confusion_cells"] == [[1, 1, 4], [0, 0, 2], [1, 0, 2], [0, 1, 1], [2, 1, 1]]
    assert "confusion_matrix" not in many and "confusion_cells" not in few
    assert many["accuracy"] == few["accuracy"]
    assert list(many["per_class"].values())[:3] == list(few["per_class"].values())
    matrix = ConfusionMatrix([f"class {index}" for index in range(1_001)])
    found = np.array(matrix.compute(predictions=PREDICTIONS, references=REFERENCES)["confusion_matrix"])
    assert found.shape == (1_001, 1_001), "who asks for it alone gets it"
    assert found[:3, :3].tolist() == few["confusion_matrix"] and found.sum() == len(REFERENCES)
    at_most = classification_metrics(PREDICTIONS, REFERENCES, [f"class {index}" for index in range(1_000)])
    assert np.shape(at_most["confusion_matrix"]) == (1_000, 1_000)


def test_numbers_survive_json():
    measured = classification_metrics(np.array(PREDICTIONS), torch.tensor(REFERENCES), NAMES)
    assert json.loads(json.dumps(measured)) == measured == classification_metrics(PREDICTIONS, REFERENCES, NAMES)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_metric_alone(kind):
    metric = kind(NAMES)
    expected = {kind.key: classification_metrics(PREDICTIONS, REFERENCES, NAMES)[kind.key]}
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == expected
    for start in range(0, 10, 4):  # collected in batches, from arrays and tensors, a second time
        metric.add_batch(
            predictions=np.array(PREDICTIONS[start : start + 4]),
            references=torch.tensor(REFERENCES[start : start + 4]),
        )
    assert metric.compute() == expected
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == expected


def test_combined_metrics_are_all_the_metrics():
    combined = evaluate.combine([kind(NAMES) for kind in CLASSES])
    measured = combined.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert measured == classification_metrics(PREDICTIONS, REFERENCES, NAMES)
    for predicted, true in zip(PREDICTIONS, REFERENCES, strict=True):
        combined.add(predicted, true)
    assert combined.compute() == measured


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0, 1], [0], "2 predictions and 1 references"),
        ([0, 3], [0, 1], r"predictions\[1\] is 3, but there are 3 classes: 0 = negative"),
        ([0, 1], [-100, 1], r"references\[0\] is -100"),
        ([0.0, 1.7], [0, 1], r"predictions have shape \(2,\) and type float64.*argmax"),
        ([[0.1, 0.9], [0.2, 0.8]], [0, 1], r"predictions have shape \(2, 2\)"),
        ([[1], [1, 2]], [0, 1], "predictions have shape"),
        (["negative"], [0], "predictions have shape.*label2id"),
        ([None], [0], "predictions have shape"),
        ([], [], "nothing to measure"),
    ],
)
def test_refusals_say_what_was_found(predictions, references, message):
    for measure in (
        lambda: classification_metrics(predictions, references, NAMES),
        lambda: MacroF1(NAMES).compute(predictions=predictions, references=references),
    ):
        with pytest.raises(UserError, match=message):
            measure()


def test_refusals_of_the_metric_alone():
    with pytest.raises(UserError, match="add them first"):
        Accuracy(NAMES).compute()
    with pytest.raises(UserError, match="references have shape"):
        Accuracy(NAMES).compute(predictions=[0])
    with pytest.raises(UserError, match="all different"):
        classification_metrics([0], [0], ["a", "a"])
    with pytest.raises(UserError, match="prediction"):
        Accuracy(NAMES).add(prediction=1.7, reference=1)


def test_a_refused_batch_leaves_the_metric_as_it_was():
    metric = Accuracy(NAMES)
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    with pytest.raises(UserError):
        metric.add_batch(predictions=[0, 9], references=[0, 0])
    assert metric.compute() == {"accuracy": 0.5}


def test_global_random_state_is_left_alone():
    np.random.seed(3)  # noqa: NPY002 - the global state is what is tested
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    Accuracy(NAMES).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


PROCESS = """
import sys
__file__ = "hf-rnn"  # leaves out the models, which take seconds to import
import evaluate
from hf_rnn.evaluation import Accuracy, MacroF1
metric = evaluate.combine([Accuracy(["a", "b"]), MacroF1(["a", "b"])])
print(metric.compute(predictions=[0, 1], references=[0, 0])["accuracy"])
"""


def test_a_second_process_whose_home_cannot_be_written(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("a file where a folder would have to be: not even root can create anything below it")
    environment = {**os.environ, "HOME": str(blocker), "HF_HOME": str(blocker / "huggingface")}
    metric = Accuracy(NAMES)
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    second = subprocess.run(
        [sys.executable, "-c", PROCESS], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert second.stdout == "0.5\n", second.stderr
    assert metric.compute() == {"accuracy": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_written_to_a_home_that_can(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    assert Accuracy(NAMES).compute(predictions=[0], references=[0]) == {"accuracy": 1.0}
    assert not (tmp_path / "metrics").exists()


def test_several_evaluate_processes_share_files(tmp_path):
    metric = Accuracy(NAMES, num_process=2, process_id=0, cache_dir=str(tmp_path))
    assert not metric.keep_in_memory
    assert list(tmp_path.iterdir())  # the folder in which evaluate lets them meet


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


@pytest.mark.parametrize("bins", [1, 2, 3, 10, 15, 25, 49])
def test_an_edge_belongs_to_the_bin_below_it(bins):
    edges = [number / bins for number in range(1, bins + 1) if number / bins >= 0.5]
    for edge in edges:
        share = reliability_table([[edge, 1 - edge]], [0], bins)["share"]
        assert share[round(edge * bins) - 1] == 1, edge


def test_best_and_worst_probabilities():
    sure = np.eye(3)
    assert expected_calibration_error(sure, [0, 1, 2]) == brier_score(sure, [0, 1, 2]) == 0
    assert expected_calibration_error(sure, [1, 2, 0]) == 1
    assert brier_score(sure, [1, 2, 0]) == 2


@st.composite
def stated(draw):
    """Probabilities, true classes, whole weights, and a number of bins."""
    count, size = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    parts = st.lists(st.floats(1e-3, 1), min_size=size, max_size=size)
    shares = np.array(draw(st.lists(parts, min_size=count, max_size=count)))
    true = draw(st.lists(st.integers(0, size - 1), min_size=count, max_size=count))
    weights = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count).filter(any))
    return shares / shares.sum(axis=1, keepdims=True), np.array(true), np.array(weights), draw(st.integers(1, 20))


@given(stated())
@settings(max_examples=150, deadline=None)
def test_calibration_error_and_brier_score_against_loops(case):
    shares, true, weights, bins = case
    rows = [(max(row), float(row.argmax() == label)) for row, label in zip(shares, true, strict=True)]
    expected = 0.0
    for number in range(bins):
        inside = [
            row for row in rows if number / bins < row[0] and (row[0] <= (number + 1) / bins or number + 1 == bins)
        ]
        expected += abs(sum(confidence - right for confidence, right in inside)) / len(rows)
    error = expected_calibration_error(shares, true, bins)
    assert error == pytest.approx(expected, abs=1e-9)
    assert 0 <= error <= 1
    squares = [((row - np.eye(len(row))[label]) ** 2).sum() for row, label in zip(shares, true, strict=True)]
    assert brier_score(shares, true) == pytest.approx(np.mean(squares))
    assert 0 <= brier_score(shares, true) <= 2
    # one bin says least: |accuracy - mean confidence| overall
    assert expected_calibration_error(shares, true, 1) <= error + 1e-9
    # a weight is so many rows
    repeated, again = shares.repeat(weights, axis=0), true.repeat(weights)
    assert expected_calibration_error(shares, true, bins, weights) == pytest.approx(
        expected_calibration_error(repeated, again, bins), abs=1e-9
    )
    assert brier_score(shares, true, weights) == pytest.approx(brier_score(repeated, again))


@given(stated())
@settings(max_examples=50, deadline=None)
def test_brier_score_of_two_classes_is_twice_that_of_scikit_learn(case):
    shares, true, _, _ = case
    first = shares[:, 0]
    two, is_first = np.stack([first, 1 - first], axis=1), (true == 0).astype(int)
    theirs = sklearn_metrics.brier_score_loss(is_first, first, pos_label=1)
    assert brier_score(two, 1 - is_first) == pytest.approx(2 * theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("shares", "true", "options", "message"),
    [
        ([], [], {}, "probabilities have shape"),
        ([0.5, 0.5], [0, 1], {}, r"probabilities have shape \(2,\)"),
        ([[2.0, -1.0]], [0], {}, "must be from 0 to 1 and sum to 1"),
        ([[0.5, 0.6]], [0], {}, "give a softmax of the logits"),
        ([[float("nan"), 0.5]], [0], {}, "give a softmax of the logits"),
        ([[0.5, 0.5]], [2], {}, r"references\[0\] is 2, but there are 2 classes"),
        ([[0.5, 0.5]], [0, 1], {}, "1 rows of probabilities, 2 references and 2 weights"),
        ([[0.5, 0.5]], [0], {"sample_weight": [1, 2]}, "1 rows of probabilities, 1 references and 2 weights"),
        ([[0.5, 0.5]], [0], {"sample_weight": 1}, "1 references and 1 weights"),
        ([[0.5, 0.5]], [0], {"sample_weight": [0]}, "weights of rows must be finite, none below 0"),
        ([[0.5, 0.5]] * 2, [0, 1], {"sample_weight": [2, -1]}, "weights of rows must be finite, none below 0"),
        ([[0.5, 0.5]], [0], {"sample_weight": [float("nan")]}, "weights of rows must be finite, none below 0"),
    ],
)
def test_what_are_no_probabilities(shares, true, options, message):
    for measure in (reliability_table, expected_calibration_error, brier_score):
        with pytest.raises(UserError, match=message):
            measure(shares, true, **options)


def test_no_bins():
    with pytest.raises(UserError, match="bins must be at least 1, found 0"):
        expected_calibration_error(SHARES, TRUE, 0)
