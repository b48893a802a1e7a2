"""Wrong labels that were planted, and the estimate of confident learning worked by hand."""

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from package_encoders import encoders  # noqa: F401 - a fixture that each test uses

from hf_rnn.quality.wrong_labels import _compare, find_wrong_labels
from hf_rnn.utils.errors import UserError

ROOT = Path(__file__).parents[2]
TOPICS = {
    "delivery": "parcel late courier package shipped delivery tracking arrived depot",
    "card": "card bank pin blocked payment declined cash machine contactless",
    "sport": "goal match team striker league referee football penalty keeper",
}


def invent(count, seed):
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        topic = draw.choice(sorted(TOPICS))
        words = draw.choices(TOPICS[topic].split(), k=5) + draw.choices(
            ["the", "my", "is", "a"], k=3
        )
        rows.append((" ".join(words), topic))
    return rows


def test_planted_labels_come_first(tmp_path, command):
    rows = invent(400, 0)
    draw = random.Random(1)
    wrong = set(draw.sample(range(400), 20))
    table = [
        (text, "card" if topic != "card" else "sport") if row in wrong else (text, topic)
        for row, (text, topic) in enumerate(rows)
    ]
    path = tmp_path / "tickets.csv"
    pd.DataFrame(table, columns=["text", "label"]).to_csv(path, index=False)
    output = tmp_path / "worst.csv"
    code, out, err = command("audit", path, "--labels", "--json", "--output_file", output)
    assert code == 0, err
    worst = pd.read_csv(output)
    assert len(worst) == 400 and set(worst["line"]) == set(range(2, 402))
    first = worst.head(20)
    assert set(first["line"] - 2) == wrong
    assert [rows[line - 2][1] for line in first["line"]] == first["suggested"].tolist()
    assert (first["neighbours"] >= 7).all()
    estimate = json.loads(out)["wrong_labels"]
    assert estimate["share"] == pytest.approx(0.05, abs=0.015)
    assert estimate["agreement"] == pytest.approx(0.95, abs=0.02)
    assert sum(pair["rows"] for pair in estimate["pairs"]) == pytest.approx(20, abs=6)


def test_the_estimate_is_that_of_confident_learning():
    """Six rows, thresholds .7 and .6: row 2 counts for class 1, row 5 for none."""
    first = np.array([0.9, 0.9, 0.3, 0.2, 0.4, 0.45])
    labels = np.array([0, 0, 0, 1, 1, 1])
    scores = np.stack([first, 1 - first], axis=1)
    columns, pairs = _compare(labels, scores, np.array(["a", "b"], dtype=object))
    # label a: two rows for a, one for b; label b: two rows for b
    assert pairs.to_dict("records") == [{"label": "a", "suggested": "b", "rows": 1}]
    assert columns["suggested"].tolist() == ["b"] * 3 + ["a"] * 3
    assert columns["score"].argmin() == 2


def test_labels_with_few_rows_are_not_judged(caplog):
    rows = [*invent(60, 2), ("a rare one", "rare")]
    names, labels = np.unique([label for _, label in rows], return_inverse=True)
    found = find_wrong_labels([text for text, _ in rows], labels, names.tolist())
    assert len(found.rows) == 60 and "not judged: rare" in caplog.text
    assert "rare" not in set(found.rows["suggested"])
    with pytest.raises(UserError, match="two labels"):
        find_wrong_labels(["a"] * 9, np.zeros(9, dtype=int), ["x"])


def test_equal_texts_do_not_vouch_for_each_other():
    """A wrong label that a text has three times is found, as the three are in one fold."""
    rows = invent(200, 3)
    text = "parcel courier tracking depot"
    rows += [(text, "sport")] * 3
    names, labels = np.unique([label for _, label in rows], return_inverse=True)
    found = find_wrong_labels([text for text, _ in rows], labels, names.tolist())
    assert set(found.rows["row"].head(3)) == {200, 201, 202}


def test_output_file_needs_labels(tmp_path, command):
    code, _, err = command("audit", ROOT / "data/tweets", "--output_file", tmp_path / "x.csv")
    assert code == 2 and "add --labels" in err
