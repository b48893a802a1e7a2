"""`hf-rnn evaluate`: rows that were not trained on, each answer in a file, and the share without a person."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import invent_rows, write_rows

from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, RnnForTokenClassification, train, train_tokenizer
from hf_rnn.evaluation.calibration import share_at_accuracy
from hf_rnn.inference.native.library import load_library

SETTINGS = {"recipe": "scratch", "embedding_size": 16, "hidden_size": 8, "learning_rate": 0.02, "use_cpu": True}
SETTINGS |= {"per_device_train_batch_size": 16, "num_train_epochs": 6, "baselines": False}


def write_table(path, rows, **extra):
    pd.DataFrame({"message": [text for text, _ in rows], "category": [label for _, label in rows], **extra}).to_csv(
        path, index=False
    )
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """300 rows, a sixth of them with a random label."""
    rows = invent_rows(300, 1)
    rows = [
        (f"{text} word{number}", rows[number - 7][1] if number % 6 == 0 else label)
        for number, (text, label) in enumerate(rows)
    ]
    return write_table(tmp_path_factory.mktemp("tables") / "tickets.csv", rows)


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    columns = {"text_column": "message", "label_column": "category"}
    return train(str(table), str(tmp_path_factory.mktemp("evaluated") / "model"), **SETTINGS, **columns)


def measure(command, *arguments):
    code, out, err = command("evaluate", *arguments)
    assert code == 0, err
    return json.loads(out), err


def test_the_trained_table_is_scored_on_its_held_out_rows(command, model, table, tmp_path):
    """Under any name, the same rows as while training; no other rows are taken for them."""
    found, err = measure(command, model.folder, table)
    expected = model.metrics["validation"]
    assert (found["split"], found["rows_trained_on"], found["rows"]) == ("validation", 0, 30)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6) and found["accuracy"] == expected["accuracy"]
    assert "scoring the 30 rows of" in err and "that training held out" in err
    copy = shutil.copy(table, tmp_path / "copy.csv")
    for flags in ([copy], [table, "--split", "validation"]):
        assert measure(command, model.folder, *flags)[0]["confusion_matrix"] == expected["confusion_matrix"]
    found, _ = measure(command, model.folder, table, "--split", "train")
    assert found["rows_trained_on"] == found["rows"] == 270
    found, err = measure(command, model.folder, table, "--split", "test")
    assert found["rows_trained_on"] == 300 and "was trained on these 300 rows" in err


def test_another_table_is_a_split_of_its_name(command, model, table, tmp_path):
    other = write_table(tmp_path / "other.csv", invent_rows(40, 5), text="nothing")
    found, err = measure(command, model.folder, other)
    assert (found["split"], found["rows_trained_on"], found["rows"]) == ("other.csv", None, 40)
    assert "text from column 'message'" in err and found["accuracy"] > 0.6, "and not from the column `text`"
    code, _, err = command("evaluate", model.folder, other, "--split", "validation")
    assert code == 2 and "has no splits, and is not the table that the model was trained on" in err
    changed = write_table(tmp_path / "tickets.csv", invent_rows(40, 5))
    assert "tickets.csv has changed since training" in measure(command, model.folder, changed)[1]


def test_few_rows_have_learned_the_held_out_rows(command, tmp_path):
    table = write_table(tmp_path / "few.csv", invent_rows(60, 1))
    folder = train(str(table), str(tmp_path / "out"), few_rows=32, recipe="finetune", baselines=False).folder
    found, err = measure(command, folder, table)
    assert (found["split"], found["rows"], found["rows_trained_on"]) == ("validation", 6, 6)
    assert "the saved model has learned them too" in err


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_each_row_with_its_answer_worst_first(command, model, tmp_path, suffix):
    rows = [*invent_rows(40, 5), ('a "selk", here', "good")]
    answers = tmp_path / f"answers{suffix}"
    found, _ = measure(command, model.folder, write_table(tmp_path / "t.csv", rows), "--output_file", answers)
    written = pd.read_csv(answers) if suffix == ".csv" else pd.read_json(answers, lines=True)
    assert list(written) == ["text", "label", "answer", "score", "wrong"]
    assert sorted(zip(written["text"], written["label"], strict=True)) == sorted(rows)
    assert written["wrong"].mean() == pytest.approx(1 - found["accuracy"])
    assert (written["wrong"] == (written["label"] != written["answer"])).all()
    fast = FastRnn.from_pretrained(model.folder)
    names = [fast.config.id2label[number] for number in range(fast.config.num_labels)]
    shares = fast.predict_proba(list(written["text"]))
    true = shares[range(len(rows)), [names.index(label) for label in written["label"]]]
    assert (np.diff(true) >= -1e-6).all() and written["wrong"][0]
    np.testing.assert_allclose(written["score"], shares.max(axis=1), atol=1e-6)


def test_numbers_and_sets_of_labels_are_graded_too(command, tmp_path):
    chance = np.random.default_rng(0)
    frame = pd.DataFrame({"text": [f"w{chance.integers(9)} w{chance.integers(9)}" for _ in range(60)]})
    frame["stars"] = frame["text"].str[1].astype(float)
    frame["tags"] = ["low,even" if text[1] in "02" else "odd" for text in frame["text"]]
    frame.to_csv(tmp_path / "t.csv", index=False)
    for task, label, names in (
        ("regression", "stars", ["text", "stars", "answer_stars", "error"]),
        ("multi-label", "tags", ["text", "label", "answer", "wrong"]),
    ):
        settings = {**SETTINGS, "task": task, "label_column": label}
        folder = train(str(tmp_path / "t.csv"), str(tmp_path / task), **settings).folder
        flags = ("--label_column", label, "--output_file", tmp_path / "o.csv")
        found, _ = measure(command, folder, tmp_path / "t.csv", *flags)
        written = pd.read_csv(tmp_path / "o.csv")
        assert list(written) == names and len(written) == found["rows"] == 6
        if task == "regression":
            errors = (written["stars"] - written["answer_stars"]).abs()
            assert errors.is_monotonic_decreasing and errors.max() == pytest.approx(written["error"][0])


NAMED = {"id2label": {0: "bad", 1: "good", 2: "plain"}}
KINDS = {
    "sequence-classification": NAMED,
    "pairs": {**NAMED, "sep_token_id": 3, "pair_encoding": "joint"},
    "multi-label": {**NAMED, "problem_type": "multi_label_classification", "label_thresholds": [0.3, 0.6, 0.5]},
    "regression": {"id2label": {0: "x", 1: "y"}, "problem_type": "regression"},
    "token-classification": {"id2label": {0: "O", 1: "B-x", 2: "I-x"}},
}
ALL = """
import json, sys
from hf_rnn.cli.main import main
for flags in json.loads(sys.argv[1]):
    assert not main(["evaluate", *flags])
assert not {"torch", "transformers", "evaluate"} & set(sys.modules)
"""


@pytest.mark.skipif(load_library() is None, reason="the kernel is not built")
def test_torch_is_not_needed_and_gives_the_same_scores_files_and_notes(command, tmp_path, monkeypatch):
    rows, runs = invent_rows(60, 3), {}
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    tokenizer = train_tokenizer([*columns["text"], "<sep>"], min_frequency=1, model_max_length=9)
    for task, settings in KINDS.items():
        torch.manual_seed(0)
        head = RnnForTokenClassification if task == "token-classification" else RnnForSequenceClassification
        model = head(RnnConfig(vocab_size=len(tokenizer), hidden_size=8, **settings))
        model.classifier.weight.data *= 10
        model.save_pretrained(tmp_path / task)
        tokenizer.save_pretrained(tmp_path / task)
        frame, file = pd.DataFrame(columns), tmp_path / f"{task}.csv"
        if task == "pairs":
            frame["text_pair"] = columns["text"][::-1]
        if task == "regression":
            frame = frame.assign(x=range(60), y=np.cos(range(60)))
        flags = ["--output_file", str(tmp_path / f"{task}-answers.csv")]
        flags += {"pairs": ["--text_pair_column", "text_pair"], "regression": ["--label_columns", "x", "y"]}.get(
            task, []
        )
        if task == "token-classification":
            flags, file = [], tmp_path / "test.conll"
            words = (text.replace(" ", " O\n") + (" B-x" if label == "bad" else " O") for text, label in rows)
            file.write_text("\n\n".join(words))
        else:
            frame.to_csv(file, index=False)
        runs[task] = [str(tmp_path / task), str(file), *flags]
    done = subprocess.run(
        [sys.executable, "-c", ALL, json.dumps(list(runs.values()))], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    written = {path: pd.read_csv(path) for path in tmp_path.glob("*-answers.csv")}
    monkeypatch.setattr("hf_rnn.inference.native.network.load_library", lambda: None)  # now torch computes
    notes = ""
    for flags, line in zip(runs.values(), done.stdout.splitlines(), strict=True):
        expected, err = measure(command, *flags)
        notes += err
        pd.testing.assert_frame_equal(*map(pd.json_normalize, (json.loads(line), expected)), rtol=1e-6, atol=1e-6)
    assert len(written) == 4 and done.stderr == notes and "longer than 9 tokens and were truncated" in notes
    for path, table in written.items():
        pd.testing.assert_frame_equal(table, pd.read_csv(path), rtol=0, atol=1e-5)


def test_the_share_without_a_person():
    """By hand: right, right, wrong, right by falling confidence; equal scores are on one side."""
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    found = share_at_accuracy(scores, [0, 0, 1, 1], 0.95)
    assert found == {"accuracy": 1.0, "share": 0.5, "threshold": 0.8}
    assert share_at_accuracy(scores, [0, 0, 1, 1], 0.7) == {"accuracy": 0.75, "share": 1.0, "threshold": 0.6}
    assert share_at_accuracy(scores, [1, 0, 0, 1], 0.95) is None
    tied = share_at_accuracy([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], [0, 1, 0], 0.95)
    assert tied is None, "no threshold parts rows of one score"


def test_evaluate_prints_the_share_without_a_person(command, model, tmp_path):
    write_rows(tmp_path / "test.tsv", invent_rows(200, 9))
    found, _ = measure(command, model.folder, tmp_path)
    unsure = found["without_a_person"]
    answers = FastRnn.from_pretrained(model.folder).predict([text for text, _ in invent_rows(200, 9)])
    sure = [
        (answer["label"] == label)
        for answer, (_, label) in zip(answers, invent_rows(200, 9), strict=True)
        if answer["score"] >= unsure["threshold"] - 1e-6
    ]
    assert len(sure) / 200 == pytest.approx(unsure["share"]) and np.mean(sure) == pytest.approx(unsure["accuracy"])
    assert unsure["accuracy"] >= 0.95
