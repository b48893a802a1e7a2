"""Decisions of `hf-rnn evaluate`: thresholds for a target, texts of no class."""

import json
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
from conftest import LABELS, invent_rows, write_rows
from sklearn.metrics import roc_auc_score

from hf_rnn import FastRnn, train
from hf_rnn.data.typos import mistype_rows
from hf_rnn.evaluation.decisions import choose_thresholds, needs_person

SETTINGS = {
    "recipe": "scratch",
    "embedding_size": 16,
    "hidden_size": 8,
    "learning_rate": 0.02,
    "use_cpu": True,
}
SETTINGS |= {"per_device_train_batch_size": 16, "num_train_epochs": 6, "baselines": False}


def mislabel(rows, every=9):
    """Return rows, some with the label of another."""
    return [
        (f"{text} w{number}", rows[number - 4][1] if number % every == 0 else label)
        for number, (text, label) in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def first(tmp_path_factory, _figures):
    folder, splits = (
        tmp_path_factory.mktemp("decide") / "model",
        {"train": (500, 1), "validation": (300, 2)},
    )
    rows = {split: mislabel(invent_rows(*numbers)) for split, numbers in splits.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_rnn.training.save.draw_figures", _figures)
        return train(**rows, output_dir=folder, **SETTINGS)


@pytest.fixture
def folder(first, tmp_path):
    return shutil.copytree(first.folder, tmp_path / "model")


def write(path, rows):
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    return str(path)


def evaluate(command, *arguments):
    code, out, err = command("evaluate", *map(str, arguments))
    assert code == 0, err
    return json.loads(out), err


def read(folder, rows):
    scores = FastRnn.from_pretrained(folder).predict_proba([text for text, _ in rows]).astype(float)
    return scores, np.array([LABELS.index(label) for _, label in rows])


def test_training_chooses_thresholds_on_its_validation_rows(first):
    """For three targets, as the card says; the picture is beside the others."""
    scores, labels = read(first.folder, mislabel(invent_rows(300, 2)))
    stored = json.loads((first.folder / "thresholds.json").read_text())["targets"]
    assert [*stored] == ["0.9", "0.95", "0.99"] and (first.folder / "coverage.png").is_file()
    card = (first.folder / "README.md").read_text()
    for target, facts in stored.items():
        chosen = choose_thresholds(scores, labels, LABELS, float(target))
        assert facts["by_label"] == {
            name: pytest.approx(limit, abs=1e-4) for name, limit in chosen.by_label.items()
        }
        assert facts["chosen_on"]["share"] == pytest.approx(chosen.chosen_on.share, abs=0.01)
        assert f"| {target} | {facts['repeated']['share']:.1%} |" in card


def test_a_target_is_chosen_on_rows_and_measured_on_others(command, folder, tmp_path):
    rows, others = mislabel(invent_rows(200, 3)), mislabel(invent_rows(150, 4))
    paths = write(tmp_path / "rows.csv", rows), write(tmp_path / "others.csv", others)
    code, _, err = command("predict", folder, "--text", "so good", "--target", "0.8")
    assert code == 2 and len(err.splitlines()) == 1 and "hf-rnn evaluate" in err
    found, err = evaluate(command, folder, paths[0], "--target", "0.8")
    alone = found["without_a_person"]
    scores, labels = read(folder, rows)
    chosen = choose_thresholds(scores, labels, LABELS, 0.8)
    assert {name: facts["threshold"] for name, facts in alone["by_label"].items()} == pytest.approx(
        chosen.by_label, abs=1e-4
    )
    assert (alone["share"], alone["chosen_on"]["share"]) == (
        chosen.repeated.share,
        chosen.chosen_on.share,
    )
    again, _ = evaluate(command, folder, paths[0], "--target", "0.8")
    assert again["without_a_person"] == alone, "the same rows again"
    measured = evaluate(command, folder, paths[1], "--target", "0.8")[0]["without_a_person"]
    scores, labels = read(folder, others)
    sure = ~needs_person(chosen.by_label, LABELS, scores)
    assert (
        measured["share"] == pytest.approx(sure.mean(), abs=0.01)
        and measured["chosen_on"] == alone["chosen_on"]
    )
    assert measured["accuracy"] == pytest.approx(
        (scores.argmax(axis=1) == labels)[sure].mean(), abs=0.01
    )
    answer = json.loads(command("predict", folder, "--text", others[0][0], "--target", "0.8")[1])
    assert answer["for_a_person"] == (not sure[0])
    before = (folder / "thresholds.json").read_text()
    evaluate(command, folder, paths[1])
    assert (folder / "thresholds.json").read_text() == before, "nothing is written unless asked for"


def test_mistakes_have_one_line(command, folder, tmp_path):
    path = write(tmp_path / "rows.csv", [row for row in invent_rows(60, 5) if row[1] != LABELS[0]])
    code, _, err = command("evaluate", folder, path, "--target", "1.5")
    assert code == 2 and err.splitlines()[-1].count("target") == 1
    _, err = evaluate(command, folder, path, "--target", "0.7")
    assert f"no rows of label {LABELS[0]} here: no threshold can be chosen" in err
    assert (
        json.loads((folder / "thresholds.json").read_text())["targets"]["0.7"]["by_label"][
            LABELS[0]
        ]
        is None
    )
    for flags in (("--none_label", LABELS[0]), ("--none_label", "unknown")):
        code, _, err = command("evaluate", folder, path, *flags)
        assert code == 2 and flags[0][2:] in err.splitlines()[-1]
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    code, _, err = command("evaluate", folder, path, "--target", "0.9")
    assert code == 2 and "thresholds of other weights" in err.splitlines()[-1]
    code, _, err = command("evaluate", folder, path, "--choose")
    assert code == 2 and "add --target" in err.splitlines()[-1]


def test_texts_of_no_class_beside_rows_that_were_all_learned(command, tmp_path):
    """As a small desk leaves them: all rows with a class were trained on, and the table says so."""
    rows = invent_rows(60, 4)
    train(train=rows, validation=rows, output_dir=str(tmp_path / "out"), **SETTINGS)
    path = write(tmp_path / "labels.csv", [*rows, ("zzz qqq", "none"), ("zzz", "none")])
    found, err = evaluate(command, tmp_path / "out", path, "--none_label", "none")
    assert found["none"]["rows"] == 2 and found["rows"] == found["rows_trained_on"] == 60


def test_texts_of_no_class(command, folder, tmp_path):
    rows = invent_rows(90, 6)
    strange = [(f"zzz qqq {number}", "other") for number in range(30)]
    found, _ = evaluate(
        command, folder, write(tmp_path / "rows.csv", rows + strange), "--none_label", "other"
    )
    model = FastRnn.from_pretrained(folder)
    highest = model.predict_proba([text for text, _ in rows + strange]).max(axis=1)
    expected = roc_auc_score([1] * 90 + [0] * 30, highest)
    answers = model.predict([text for text, _ in rows + strange], target=0.95)
    sure = np.array([not answer["for_a_person"] for answer in answers])
    right = np.array(
        [
            answer["label"] == label
            for answer, (_, label) in zip(answers, rows + strange, strict=True)
        ]
    )
    alone = sure[90:].mean()
    assert found["none"] == {
        "label": "other",
        "rows": 30,
        "auroc": pytest.approx(expected, abs=2e-3),
        "alone": alone,
        "accuracy_with_new": right[sure].mean() if sure.any() else None,
    }
    assert found["rows"] == 90 and found["accuracy"] > 0.8, (
        "the other scores are of texts with a class"
    )


def test_scores_of_mistyped_rows(command, first, tmp_path):
    """They are those of a file with these mistakes."""
    rows = invent_rows(120, 9)
    write_rows(tmp_path / "test.tsv", rows)
    found, _ = evaluate(command, first.folder, tmp_path, "--typos", "0", "0.5")
    assert found["typos"]["0"]["accuracy"] == found["accuracy"]
    texts = mistype_rows(
        datasets.Dataset.from_dict({"text": [text for text, _ in rows]}), 0.5, "evaluate"
    )["text"][:]
    assert sum(text != before for text, (before, _) in zip(texts, rows, strict=True)) > 90
    answers = FastRnn.from_pretrained(first.folder).predict(texts)
    right = np.mean(
        [answer["label"] == label for answer, (_, label) in zip(answers, rows, strict=True)]
    )
    assert found["typos"]["0.5"]["accuracy"] == pytest.approx(right)
    card = (first.folder / "README.md").read_text()
    assert (
        f"| this model, 20% of words mistyped |  | {first.metrics['typos']['accuracy']:.3f} |"
        in card
    )
