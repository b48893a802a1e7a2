"""`RnnClassifier` with several labels per text, and `RnnRegressor`, compared with scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.base import clone

from hf_rnn import RnnClassifier, RnnRegressor
from hf_rnn.utils.errors import UserError

WORDS = ["miro", "selk", "box", "sand", "door"]
SETTINGS = {"recipe": "scratch", "embedding_size": 16, "hidden_size": 8, "num_train_epochs": 6, "learning_rate": 0.02,
            "min_frequency": 1,
            "per_device_train_batch_size": 16, "word_dropout": 0, "embedding_dropout": 0, "use_cpu": True,
            "verbose": False}  # fmt: skip


def invent(count, seed):
    chance = np.random.default_rng(seed)
    texts = [" ".join(chance.choice(WORDS, 5)) for _ in range(count)]
    return texts, np.array([[word in text for word in ("miro", "selk")] for text in texts], dtype=int)


@pytest.fixture(scope="module")
def sets():
    texts, matrix = invent(200, 0)
    return RnnClassifier(**SETTINGS).fit(texts, matrix)


def test_a_matrix_of_labels(sets, tmp_path):
    texts, matrix = invent(60, 1)
    found, shares = sets.predict(texts), sets.predict_proba(texts)
    assert found.shape == shares.shape == matrix.shape and found.dtype == int
    assert sets.classes_.tolist() == [0, 1]
    assert sets.score(texts, matrix) == metrics.accuracy_score(matrix, found) > 0.8
    assert metrics.average_precision_score(matrix, shares) > 0.95
    sets.save_pretrained(tmp_path / "saved")
    again = RnnClassifier.from_pretrained(tmp_path / "saved")
    assert (again.predict(texts) == found).all() and again.classes_.tolist() == [0, 1]


def test_a_frame_names_the_labels():
    texts, matrix = invent(30, 2)
    frame = pd.DataFrame(matrix, columns=["good, or so", "bad"])
    classifier = clone(RnnClassifier(**{**SETTINGS, "num_train_epochs": 1})).fit(texts, frame, eval_set=(texts, frame))
    assert classifier.classes_.tolist() == ["good, or so", "bad"]
    assert classifier.predict([]).shape == (0, 2) if classifier.predict([]).size == 0 else True


@pytest.mark.parametrize(
    ("y", "message"),
    [([[0, 2], [1, 0]], "0 and 1 in 2 columns"), ([[0, 1]], "length")],
)
def test_bad_matrices_are_refused(y, message):
    with pytest.raises(UserError, match=message):
        RnnClassifier(**SETTINGS).fit(["a b", "c d"], y)
    with pytest.raises(UserError, match="sample_weight"):
        RnnClassifier(**SETTINGS).fit(["a b", "c d"], [[0, 1], [1, 0]], sample_weight=[1, 2])


def test_numbers(tmp_path):
    texts, matrix = invent(200, 3)
    numbers = 1000 + matrix @ [30, -10]
    regressor = RnnRegressor(**SETTINGS).fit(texts, numbers)
    tests, matrix = invent(60, 4)
    found, true = regressor.predict(tests), 1000 + matrix @ [30, -10]
    assert found.shape == (60,)
    assert (
        regressor.score(tests, true) == pytest.approx(metrics.r2_score(true, found))
        and metrics.r2_score(true, found) > 0.8
    )
    regressor.save_pretrained(tmp_path / "saved")
    assert np.array_equal(RnnRegressor.from_pretrained(tmp_path / "saved").predict(tests), found)
    with pytest.raises(UserError, match="for the task regression"):
        RnnClassifier.from_pretrained(tmp_path / "saved")
