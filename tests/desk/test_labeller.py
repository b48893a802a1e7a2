"""The queue of texts: its order, its suggestions, and answers that no crash loses."""

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from package_encoders import encoders  # noqa: F401
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from hf_rnn import Labeller, SentenceEncoder, load_tsv
from hf_rnn.desk.answers import Answer, AnswerFile, write_table
from hf_rnn.desk.labeller import measure_accuracy
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
    table = pd.read_json(tmp_path / "parts" / "answers.jsonl", lines=True)
    assert table["row"].is_unique and len(table) == 60
    assert table["text"].tolist() == [TEXTS[row] for row in table["row"]]
    assert table["label"].tolist() == [LABELS[row] for row in table["row"]]


def test_undo_and_skip(tmp_path):
    """Both are lines of their own; what is left is what `train` reads."""
    labeller = Labeller(TEXTS, output_dir=tmp_path)
    assert labeller.undo() is None
    rows = label(labeller, 8)
    path = tmp_path / "answers.jsonl"
    before = path.read_bytes()
    row = labeller.next()
    labeller.answer(row, "a mistake")
    assert labeller.undo() == row == labeller.next()
    assert path.read_bytes().startswith(before)
    assert "a mistake" not in labeller.labels.values()
    assert Labeller(TEXTS, output_dir=tmp_path).answers == labeller.answers
    labeller.answer(row, None)
    assert labeller.next() != row and row not in labeller.labels
    assert Labeller(TEXTS, output_dir=tmp_path).next() != row
    table = load_tsv(str(path))["train"]
    assert table["text"] == [TEXTS[row] for row in rows]
    assert table.features["label"].names == sorted({LABELS[row] for row in rows})


def test_no_answer_is_lost_wherever_a_write_breaks_off(tmp_path, caplog):
    """The file cut after each of its bytes: whole answers are there, and the next one follows."""
    texts = ['a "quoted"\r\ntext', 'über 1,2\n3,"x"', "plain", "plain"]
    answers = [Answer(row, text, "ä, b", "2026", "", "random") for row, text in enumerate(texts)]
    path = tmp_path / "answers.jsonl"
    file = AnswerFile(path, texts)
    ends = [0]
    for answer in answers:
        file.append(answer)
        ends.append(path.stat().st_size)
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = sum(end <= size + 1 for end in ends) - 1  # a line is whole without its end too
        caplog.clear()
        file = AnswerFile(path, texts)
        assert file.answers == answers[:whole]
        is_torn = size not in ends and size + 1 not in ends
        assert is_torn == (f"answers.jsonl:{whole + 1}" in caplog.text)
        file.append(answers[whole % 4])
        assert len(path.read_bytes().splitlines()) == whole + 1
        assert list(map(json.loads, path.read_bytes().splitlines()))[-1]["row"] == whole % 4


def test_answers_of_an_older_folder_are_taken_over_once(tmp_path, caplog):
    """As it was written, saved by a spreadsheet, with damaged rows: these are named."""
    lines = ["row,text,label,time,suggestion,order"]
    lines += [
        f'{row},"text {row}","b {row % 2}","2026-11-30T08:15:00.123","","random"'
        for row in range(9)
    ]
    old = "\n".join(lines) + "\n"
    texts = [f"text {row}" for row in range(9)]
    edited = old.replace("\n3,", "\nx,").replace('4,"text 4"', '4,"changed"')
    for number, (content, rows, fault) in enumerate(
        (
            (old, range(9), ""),
            ("\ufeff" + old.replace('","', ";").replace(",", ";").replace('"', ""), range(9), ""),
            (edited.replace("T08:15", "o'clock"), [0, 1, 2, 5, 6, 7, 8], "labels.csv:5"),
            (old[:-12], range(8), "labels.csv:10"),
            ("a;b\n1;2\n", [], ""),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "labels.csv").write_text(content, encoding="utf-8")
        caplog.clear()
        for _ in range(2):
            found = AnswerFile(folder / "answers.jsonl", texts).answers
            assert [answer.row for answer in found] == list(rows)
            assert all(answer.label == f"b {answer.row % 2}" for answer in found)
        assert fault in caplog.text
        assert (folder / "labels.csv").read_text(encoding="utf-8") == content


def damage(content, draw):
    """Return bytes with a part cut out, repeated, changed or added."""
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    end = min(end, start + 200)
    odd = [
        b"",
        b"\0",
        b"\xff",
        b"{}",
        b"[" * 9000,
        b"null",
        b"\n",
        b'"',
        b"9" * 5000,
        b"NaN",
        b",;\t",
    ]
    new = [b"", content[start:end] * 2, bytes(draw.randbytes(9)), draw.choice(odd)]
    return content[:start] + draw.choice(new) + content[draw.choice([start, end, len(content)]) :]


def test_a_damaged_folder_opens(tmp_path, cases=20):
    """Damaged lines are left out, and the next answer is kept: never an error."""
    texts = TEXTS[:30]
    labeller = Labeller(texts, output_dir=tmp_path)
    label(labeller, 12)
    labeller.undo()
    labeller.answer(labeller.next(), None)
    names = ("answers.jsonl", "vectors.npz", "labels.csv")
    whole = {name: (tmp_path / name).read_bytes() for name in names[:2]}
    whole["labels.csv"] = write_table(labeller.answers)
    draw = random.Random(0)
    for _ in range(cases):
        for name in names:
            (tmp_path / name).write_bytes(whole[name])
        name = draw.choice(names)
        (tmp_path / name).write_bytes(damage(whole[name], draw))
        if name == "labels.csv":
            (tmp_path / "answers.jsonl").unlink()
        opened = Labeller(texts, output_dir=tmp_path)
        number = len(opened.answers)
        assert number <= 12
        if opened.waiting:
            opened.answer(opened.next(), "next")
            answers = Labeller(texts, output_dir=tmp_path).answers
            assert len(answers) == number + 1 and answers[-1].label == "next"


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
    for row, given in ((2, "x"), (0, " "), (0, "x" * 201), (0, "\ud800")):
        with pytest.raises(UserError):
            labeller.answer(row, given)
    labeller.answer(0, "x" * 200)
    with pytest.raises(UserError, match="undo"):
        labeller.answer(0, "y")
