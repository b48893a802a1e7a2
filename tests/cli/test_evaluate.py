"""`hf-rnn evaluate`: rows without training, answers in a file, and the share without a person."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import invent_rows

from hf_rnn import (
    FastRnn,
    RnnConfig,
    RnnForSequenceClassification,
    RnnForTokenClassification,
    train,
    train_tokenizer,
)
from hf_rnn.inference.kernel import load_library

SETTINGS = {
    "recipe": "scratch",
    "embedding_size": 16,
    "hidden_size": 8,
    "learning_rate": 0.02,
    "use_cpu": True,
}
SETTINGS |= {"per_device_train_batch_size": 16, "num_train_epochs": 6, "baselines": False}


def write_table(path, rows):
    pd.DataFrame(rows, columns=["message", "category"]).to_csv(path, index=False)
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
    return train(
        str(table), str(tmp_path_factory.mktemp("evaluated") / "model"), **SETTINGS, **columns
    )


def measure(command, *arguments):
    code, out, err = command("evaluate", *arguments)
    assert code == 0, err
    return json.loads(out), err


@pytest.mark.parametrize("form", ["same.csv", "shuffled.csv", "longer.jsonl", "frame.parquet"])
def test_rows_that_were_trained_on_are_counted_and_not_scored(
    command, model, table, tmp_path, form
):
    """In a table of any name, order and format; with held-out scores while training."""
    expected, frame = model.metrics["validation"], pd.read_csv(table)
    frame["message"] = frame["message"].str.upper() + " "
    if form == "longer.jsonl":
        frame = pd.concat(
            [pd.DataFrame({"message": ["miro and more"], "category": ["good"]}), frame]
        )
    frame, path = (
        frame if form == "same.csv" else frame.sample(frac=1, random_state=0),
        tmp_path / form,
    )
    writers = {
        "jsonl": lambda path: frame.to_json(path, orient="records", lines=True),
        "parquet": frame.to_parquet,
    }
    writers.get(form.split(".")[1], lambda path: frame.to_csv(path, index=False))(path)
    found, err = measure(command, model.folder, path)
    trained = model.metrics["data"]["rows"]["train"]
    assert (found["split"], found["rows_trained_on"], found["rows"]) == (
        form,
        trained,
        len(frame) - trained,
    )
    assert (
        f"{trained} of {len(frame)} rows were trained on; "
        f"the scores are of the other {found['rows']}" in err
    )
    splits = {
        split: measure(command, model.folder, path, "--split", split)
        for split in ("dev", "train", "test")
    }
    assert f"train: {trained} of {trained} rows were trained on; new texts" in splits["train"][1]
    dev, train_rows, test = (part for part, _ in splits.values())
    assert [part["rows_trained_on"] for part in (dev, train_rows, test)] == [0, trained, trained]
    assert [part["rows"] for part in (dev, train_rows, test)] == [
        found["rows"],
        trained,
        len(frame),
    ]
    assert dev["loss"] == pytest.approx(found["loss"])
    assert train_rows["without_a_person"] is None, "it is of other rows"
    assert test["without_a_person"] == dev["without_a_person"], "of unseen rows"
    if form != "longer.jsonl":
        assert found["confusion_matrix"] == expected["confusion_matrix"]
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)


def test_another_table_is_a_split_of_its_name(command, model, table, tmp_path):
    other = write_table(
        tmp_path / "other.csv", [(f"{text} other", label) for text, label in invent_rows(40, 5)]
    )
    found, err = measure(command, model.folder, other)
    assert (found["split"], found["rows_trained_on"], found["rows"]) == ("other.csv", 0, 40)
    assert "text from column 'message'" in err and found["accuracy"] > 0.6, (
        "and not from the column `text`"
    )
    code, _, err = command("evaluate", model.folder, other, "--split", "validation")
    assert code == 2 and "no row is known to be trained on" in err
    folder = shutil.copytree(model.folder, tmp_path / "old")
    (folder / "training_rows.npy").unlink()
    found, err = measure(command, folder, table)
    assert (
        found["rows_trained_on"] is None
        and found["rows"] == 300
        and "may have been trained on" in err
    )


def test_rows_of_the_start_and_rows_that_were_learned_last_count(command, model, table, tmp_path):
    """Also after a warm start on other rows, without those of a start that does not know them."""
    other = write_table(
        tmp_path / "other.csv", [(f"{text} other", label) for text, label in invent_rows(90, 5)]
    )
    settings = {**SETTINGS, "recipe": "finetune", "num_train_epochs": 1}
    settings = {
        name: value
        for name, value in settings.items()
        if name not in ("embedding_size", "hidden_size")
    }
    few = train(
        str(other),
        str(tmp_path / "few"),
        model_name_or_path=str(model.folder),
        few_rows=32,
        **settings,
    )
    assert few.metrics["data"]["learned_held_out"], "premise"
    found, err = measure(command, few.folder, other)
    assert (
        found["rows_trained_on"] == found["rows"] == 90 and "90 of 90 rows were trained on" in err
    )
    found, err = measure(command, few.folder, table)
    assert found["rows_trained_on"] == model.metrics["data"]["rows"]["train"] == 300 - found["rows"]
    assert found["without_a_person"]["share"] <= 1 and "unknown" not in err
    (folder := shutil.copytree(model.folder, tmp_path / "pushed")).joinpath(
        "training_rows.npy"
    ).unlink()
    again = train(
        str(other), str(tmp_path / "again"), model_name_or_path=str(folder), few_rows=0, **settings
    )
    found, err = measure(command, again.folder, table)
    assert (
        found["rows_trained_on"] == 0
        and "started from pushed, and the rows that trained that one are unknown" in err
    )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_each_row_with_its_answer_worst_first(command, model, tmp_path, suffix):
    """With its other columns and its line; as the file has separator and encoding."""
    rows = [
        *((f"{text} café", label) for text, label in invent_rows(40, 5)),
        ('a "selk"; here', "good"),
    ]
    frame = pd.DataFrame(rows, columns=["message", "category"]).assign(
        number=range(41), score="mine"
    )
    frame.loc[20, "message"] = "two\nlines, café"
    frame.to_csv(tmp_path / "t.csv", index=False, sep=";", encoding="cp1252")
    answers = tmp_path / f"answers{suffix}"
    found, _ = measure(command, model.folder, tmp_path / "t.csv", "--output_file", answers)
    assert suffix == ".jsonl" or answers.read_bytes().startswith(b"\xef\xbb\xbf"), "for Excel"
    written = (
        pd.read_csv(answers, sep=";") if suffix == ".csv" else pd.read_json(answers, lines=True)
    )
    added = [f"predicted_{name}" for name in ("line", "row", "answer", "score", "wrong")]
    assert list(written) == [*frame, *added]
    assert (written["predicted_row"] == written["number"] + 2).all()
    lines = written["number"] + 2 + (written["number"] > 20)
    assert (written["predicted_line"] == lines).all()
    pd.testing.assert_frame_equal(
        written[list(frame)].sort_values("number", ignore_index=True), frame
    )
    assert written["predicted_wrong"].mean() == pytest.approx(1 - found["accuracy"])
    assert (
        written["predicted_wrong"] == (written["category"] != written["predicted_answer"])
    ).all()
    fast = FastRnn.from_pretrained(model.folder)
    names = [fast.config.id2label[number] for number in range(fast.config.num_labels)]
    shares = fast.predict_proba(list(written["message"]))
    true = shares[range(len(rows)), [names.index(label) for label in written["category"]]]
    assert (np.diff(true) >= -1e-6).all() and written["predicted_wrong"][0]
    np.testing.assert_allclose(written["predicted_score"], shares.max(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("task", "label", "names"),
    [
        ("regression", "stars", ["answer_stars", "error"]),
        ("multi-label", "tags", ["answer", "wrong"]),
    ],
)
def test_numbers_and_sets_of_labels_are_graded_too(command, tmp_path, task, label, names):
    chance = np.random.default_rng(0)
    frame = pd.DataFrame({"text": [f"w{chance.integers(9)} w{number}" for number in range(60)]})
    frame["stars"] = frame["text"].str[1].astype(float)
    frame["tags"] = ["low,even" if text[1] in "02" else "odd" for text in frame["text"]]
    frame.to_csv(tmp_path / "t.csv", index=False)
    settings = {**SETTINGS, "task": task, "label_column": label}
    result = train(str(tmp_path / "t.csv"), str(tmp_path / "out"), **settings)
    flags = ("--label_column", label, "--output_file", tmp_path / "o.csv")
    found, _ = measure(command, result.folder, tmp_path / "t.csv", *flags)
    written = pd.read_csv(tmp_path / "o.csv")
    assert list(written) == [*frame, "line", "row", *names] and len(written) == found["rows"]
    assert found["rows"] == result.metrics["validation"]["rows"] == 60 - found["rows_trained_on"]
    if task == "regression":
        errors = (written["stars"] - written["answer_stars"]).abs()
        assert errors.is_monotonic_decreasing and errors.max() == pytest.approx(written["error"][0])
    else:
        answers = FastRnn.from_pretrained(result.folder).predict(list(written["text"]))
        expected = [",".join(answer["labels"]) for answer in answers]
        assert written["answer"].fillna("").tolist() == expected


NAMED = {"id2label": {0: "bad", 1: "good", 2: "plain"}}
TASKS = {
    "sequence-classification": NAMED,
    "multi-label": {
        **NAMED,
        "problem_type": "multi_label_classification",
        "label_thresholds": [0.3, 0.6, 0.5],
    },
    "regression": {"id2label": {0: "x", 1: "y"}, "problem_type": "regression"},
    "token-classification": {"id2label": {0: "O", 1: "B-x", 2: "I-x"}},
}
PROGRAM = """
import json, sys
from hf_rnn.cli.main import main
for flags in json.loads(sys.argv[1]):
    assert not main(["evaluate", *flags])
import datasets
heavy = {"torch", "transformers", "evaluate"} & set(sys.modules)
assert not heavy or heavy == {"torch"} and datasets.__version__ < "5", heavy  # it imports torch
"""


@pytest.mark.skipif(load_library() is None, reason="the kernel is not built")
def test_torch_is_not_needed_and_gives_the_same_scores_files_and_notes(
    command, tmp_path, monkeypatch
):
    frame, runs = pd.DataFrame(invent_rows(60, 3), columns=["text", "label"]), []
    frame.assign(x=range(60), y=np.cos(range(60))).to_csv(tmp_path / "rows.csv", index=False)
    words = (
        row.text.replace(" ", " O\n") + (" B-x" if row.label == "bad" else " O")
        for row in frame.itertuples()
    )
    (tmp_path / "test.conll").write_text("\n\n".join(words))
    tokenizer = train_tokenizer(frame["text"], min_frequency=1, model_max_length=9)
    for task, settings in TASKS.items():
        torch.manual_seed(0)
        head = (
            RnnForTokenClassification
            if task == "token-classification"
            else RnnForSequenceClassification
        )
        model = head(RnnConfig(vocab_size=len(tokenizer), hidden_size=8, **settings))
        model.classifier.weight.data *= 10
        for part in (model, tokenizer):
            part.save_pretrained(tmp_path / task)
        if task == "token-classification":
            data = [tmp_path / "test.conll"]
        else:
            data = [
                tmp_path / "rows.csv",
                "--text_column",
                "text",
                "--output_file",
                tmp_path / f"{task}-answers.csv",
            ]
            data += (
                ["--label_columns", "x", "y"]
                if task == "regression"
                else ["--label_column", "label"]
            )
        runs.append([str(word) for word in (tmp_path / task, *data)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(runs)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = {path: pd.read_csv(path) for path in tmp_path.glob("*-answers.csv")}
    # now torch computes
    monkeypatch.setattr("hf_rnn.inference.native.load_library", lambda: None)
    notes = ""
    for flags, line in zip(runs, done.stdout.splitlines(), strict=True):
        expected, err = measure(command, *flags)
        notes += err
        pd.testing.assert_frame_equal(
            *map(pd.json_normalize, (json.loads(line), expected)), rtol=1e-6, atol=1e-6
        )
    assert (
        len(written) == 3
        and done.stderr == notes
        and "longer than 9 tokens and were truncated" in notes
    )
    for path, table in written.items():
        pd.testing.assert_frame_equal(table, pd.read_csv(path), rtol=0, atol=1e-5)


def test_a_terminal_gets_a_summary(command, model, tmp_path, monkeypatch):
    rows = [(f"{text} new", label) for text, label in invent_rows(60, 5)]
    path = write_table(tmp_path / "new.csv", rows)
    expected, _ = measure(command, model.folder, path)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, out, _ = command("evaluate", model.folder, path)
    assert (
        code == 0 and f"accuracy {expected['accuracy']:.3f}" in out and len(out.splitlines()) <= 3
    )
    assert f"{expected['without_a_person']['share']:.0%} of the texts need no person" in out
