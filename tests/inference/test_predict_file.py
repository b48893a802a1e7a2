"""A file of lines and its answers: equal to those of `predict`, and read back by an independent reader."""

import csv
import json

import pytest
from conftest import invent_rows

from hf_rnn import FastRnn
from hf_rnn.inference.predict_file import FORMATS, Answer, label_file, write_answers


@pytest.fixture(scope="module")
def learned(trained):
    return FastRnn.from_pretrained(trained.folder)


def list_answers(learned, path, **settings):
    return [answer for block in label_file(learned, path, **settings) for answer in block]


def test_labels_are_those_of_the_command(learned, trained, command, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_rnn.inference.predict_file._BLOCK", 7)
    texts = [text for text, _ in invent_rows(40, seed=6)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    found = list_answers(learned, tmp_path / "texts.txt")
    assert [answer.text for answer in found] == texts
    _, out, _ = command("predict", "--model", trained.folder, "--input", tmp_path / "texts.txt")
    records = [json.loads(line) for line in out.splitlines()]
    assert [answer.label for answer in found] == [record["label"] for record in records]
    assert [answer.score for answer in found] == pytest.approx([record["score"] for record in records], abs=1e-6)
    assert len(list_answers(learned, tmp_path / "texts.txt", max_lines=10)) == 10


def test_a_refused_line_keeps_its_place(learned, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"miro\nsand \xff\n\nselk")
    good, refused, empty, bad = list_answers(learned, tmp_path / "texts.txt")
    assert (good.label, bad.label) == ("good", "bad")
    assert empty.text == "" and empty.label is not None
    assert refused.label is refused.score is None
    assert refused.text == "sand \\xff" and refused.error.startswith("line 2: not UTF-8")


@pytest.mark.parametrize("kind", FORMATS)
def test_written_answers_are_read_back(tmp_path, kind):
    answers = [
        Answer('a "quoted", text\twith a tab', "good", 0.75),
        Answer("=1+1 \u05e9\u05dc\u05d5\u05dd \U0001f60a\rand on", "bad", 1.0),
        Answer("sand \\xff", error="line 3: not UTF-8: byte 0xff"),
        Answer("", "plain", 0.5),
    ]
    path = tmp_path / f"answers.{kind}"
    write_answers(answers, path)
    if kind == "jsonl":
        content = path.read_text(encoding="utf-8")
        assert "\u05e9\u05dc\u05d5\u05dd" in content and "null" not in content
        assert [Answer(**json.loads(line)) for line in content.split("\n")[:-1]] == answers
        return
    with path.open(encoding="utf-8", newline="") as stream:
        read = list(csv.DictReader(stream, dialect={"csv": "excel", "tsv": "excel-tab"}[kind]))
    assert read == [
        {name: "" if value is None else str(value) for name, value in vars(answer).items()} for answer in answers
    ]
