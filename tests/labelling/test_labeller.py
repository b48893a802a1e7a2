"""The queue of texts: its order, its suggestions, and answers that no crash loses."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from package_encoders import encoders  # noqa: F401
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from hf_rnn import Labeller, SentenceEncoder
from hf_rnn.labelling.answers import Answer, AnswerFile
from hf_rnn.labelling.labeller import measure_accuracy
from hf_rnn.utils.errors import UserError

ROOT = Path(__file__).parents[2]
ROWS = [
    line.split("\t")
    for line in (ROOT / "data/tweets/train.tsv").read_text(encoding="utf-8").splitlines()
][:150]
TEXTS = [text for text, _ in ROWS]
LABELS = [label for _, label in ROWS]


def label(labeller, number):
    """Give the true label to the next texts; return their rows."""
    rows = []
    for _ in range(number):
        rows.append(labeller.next())
        assert labeller.next() == rows[-1]
        labeller.answer(rows[-1], LABELS[rows[-1]])
    return rows


def test_suggestions_are_those_of_logistic_regression():
    labeller = Labeller(TEXTS)
    rows = []
    for label_name in ("positive", "negative"):
        assert labeller.suggest(0) is None
        rows += [row for row in range(150) if LABELS[row] == label_name][:4]
        for row in rows[-4:]:
            labeller.answer(row, label_name)
    vectors = SentenceEncoder.from_pretrained("english").encode(TEXTS)
    model = LogisticRegression(C=10).fit(vectors[rows], [LABELS[row] for row in rows])
    for row, scores in enumerate(model.predict_proba(vectors)):
        suggestion = labeller.suggest(row)
        assert suggestion["score"] == pytest.approx(scores.max(), abs=2e-3)
        assert suggestion["label"] == model.classes_[scores.argmax()] or scores.max() < 0.502


def test_each_text_is_asked_once_and_blank_ones_never(tmp_path):
    texts = [*TEXTS[:70], "", "  "]
    labels = [None] * 70 + ["x", None]
    labels[5] = "positive"
    labeller = Labeller(texts, labels, tmp_path)
    rows = label(labeller, 69)
    assert sorted(rows) == [row for row in range(70) if row != 5]
    with pytest.raises(UserError, match="each of the 70 texts has an answer"):
        labeller.next()
    orders = {answer.order for answer in labeller.answers}
    assert orders == {"different", "random"}


def test_the_first_texts_represent_the_others():
    """Four themes of 30 texts: the first four are one of each, which random ones seldom are."""
    themes = ["my parcel is late", "the card was stolen", "a cat sleeps", "goals in the football"]
    texts = [f"{theme} {number}" for number in range(30) for theme in themes]
    for seed in range(5):
        labeller = Labeller(texts, seed=seed)
        chosen = set()
        for _ in range(4):
            row = labeller.next()
            chosen.add(row % 4)
            labeller.answer(row, themes[row % 4])
        assert len(chosen) == 4


def test_a_session_continues_where_it_ended(tmp_path):
    whole = Labeller(TEXTS, output_dir=tmp_path / "whole")
    label(whole, 60)
    parts = Labeller(TEXTS, output_dir=tmp_path / "parts")
    label(parts, 57)
    parts = Labeller(TEXTS, output_dir=tmp_path / "parts")
    assert parts.accuracy()["of"] > 0
    label(parts, 3)
    assert [answer.row for answer in parts.answers[:57]] == [
        answer.row for answer in whole.answers[:57]
    ]
    table = pd.read_csv(tmp_path / "parts" / "labels.csv", keep_default_na=False)
    assert table["row"].is_unique and len(table) == 60
    assert table["text"].tolist() == [TEXTS[row] for row in table["row"]]
    assert table["label"].tolist() == [LABELS[row] for row in table["row"]]


def test_undo_and_skip(tmp_path):
    labeller = Labeller(TEXTS, output_dir=tmp_path)
    assert labeller.undo() is None
    label(labeller, 8)
    before = (tmp_path / "labels.csv").read_bytes()
    row = labeller.next()
    labeller.answer(row, "a mistake")
    assert labeller.undo() == row == labeller.next()
    assert (tmp_path / "labels.csv").read_bytes() == before
    assert "a mistake" not in labeller.labels.values()
    labeller.answer(row, None)
    assert labeller.next() != row and row not in labeller.labels
    assert Labeller(TEXTS, output_dir=tmp_path).next() != row


def test_no_answer_is_lost_wherever_a_write_breaks_off(tmp_path):
    """The file cut after each of its bytes: whole answers are there, and the next one follows."""
    texts = ['a "quoted"\r\ntext', 'über 1,2\n3,"x"', "plain", ""]
    answers = [Answer(row, text, "ä, b", "2026", "", "random") for row, text in enumerate(texts)]
    path = tmp_path / "labels.csv"
    file = AnswerFile(path)
    ends = [path.stat().st_size]
    for answer in answers:
        file.append(answer)
        ends.append(path.stat().st_size)
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = max(sum(end <= size for end in ends) - 1, 0)
        file = AnswerFile(path)
        assert file.answers == answers[:whole]
        torn = path.with_suffix(".torn")
        assert (
            size in ends
            or size < ends[0]
            or (torn.exists() and content[:size].endswith(torn.read_bytes()))
        )
        torn.unlink(missing_ok=True)
        file.append(answers[0])
        with path.open(encoding="utf-8", newline="") as lines:
            rows = [row[1] for row in csv.reader(lines)]
        assert rows == ["text", *texts[:whole], texts[0]]


def test_a_file_that_others_changed_is_not_cut(tmp_path):
    path = tmp_path / "labels.csv"
    labeller = Labeller(TEXTS, output_dir=tmp_path)
    label(labeller, 3)
    other = Labeller(TEXTS, output_dir=tmp_path)
    label(other, 1)
    with pytest.raises(UserError, match="changed meanwhile"):
        labeller.answer(labeller.next(), "x")
    content = path.read_bytes()
    for damaged, message in (
        (content.replace(b',"different"\n', b"\n", 1), "damaged"),
        (b"text,label\na,b\n", "columns"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            Labeller(TEXTS, output_dir=tmp_path)
        assert path.read_bytes() == damaged
    path.write_bytes(content)
    with pytest.raises(UserError, match="another text"):
        Labeller(TEXTS[::-1], output_dir=tmp_path)


def test_only_random_texts_measure_the_accuracy():
    def answers(order, right, wrong):
        pairs = [("a", "a")] * right + [("b", "a")] * wrong
        return [Answer(0, "", given, "", suggested, order) for given, suggested in pairs]

    rows = answers("random", 9, 0) + answers("random", 41, 9) + answers("different", 0, 30)
    rows += [Answer(0, "", "a", "", "", "random"), Answer(0, "", "", "", "a", "random")]
    accuracy = measure_accuracy(rows)
    low, high = beta.ppf(0.025, 41, 10), beta.ppf(0.975, 42, 9)
    assert (accuracy["right"], accuracy["of"]) == (41, 50)
    assert np.allclose([accuracy["low"], accuracy["high"]], [low, high])
    assert measure_accuracy([]) == {"right": 0, "of": 0, "low": 0.0, "high": 1.0}


def test_mistakes_are_named():
    with pytest.raises(UserError, match="2 texts and 1 labels"):
        Labeller(["a", "b"], ["x"])
    with pytest.raises(UserError, match="no text without a label"):
        Labeller(["a", "b"], ["x", "y"])
    labeller = Labeller(["a", "b"])
    for row, given in ((2, "x"), (0, " ")):
        with pytest.raises(UserError):
            labeller.answer(row, given)
    labeller.answer(0, "x")
    with pytest.raises(UserError, match="undo"):
        labeller.answer(0, "y")
