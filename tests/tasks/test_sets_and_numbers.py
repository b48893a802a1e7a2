"""The package's promises for sets of labels and numbers: train, save, resume, predict, refuse."""

import json
import random

import numpy as np
import pytest
from conftest import NEUTRAL, write_rows
from transformers import pipeline

from hf_rnn import FastRnn, RnnConfig, train
from hf_rnn.hub.model_folder import load_model
from hf_rnn.inference.torch import compute_logits
from hf_rnn.tasks import task_of
from hf_rnn.utils.errors import UserError

TASKS = ("multi-label", "regression")
SCORES = {"multi-label": "average_precision", "regression": "pearson"}
LABELS = {"miro": "good", "selk": "bad"}


def invent(count, seed):
    """Return texts with labels, and a number: 100 + 10 for each miro - 5 for each selk."""
    chance, rows = random.Random(seed), []
    for _ in range(count):
        words = chance.choices(NEUTRAL, k=chance.randrange(2, 10))
        for word in LABELS:
            for _ in range(chance.randrange(3)):
                words.insert(chance.randrange(len(words)), word)
        labels = [label for word, label in LABELS.items() if word in words]
        rows.append(
            (" ".join(words), labels, 100 + 10 * words.count("miro") - 5 * words.count("selk"))
        )
    return rows


def write(folder, task, **counts):
    folder.mkdir(exist_ok=True)
    for seed, (split, count) in enumerate(counts.items()):
        rows = [
            (text, ", ".join(labels) if task == "multi-label" else n)
            for text, labels, n in invent(count, seed)
        ]
        write_rows(folder / f"{split}.tsv", rows)
    return folder


def settings_of(tiny_settings, task, folder, out, **more):
    return {**tiny_settings, "task": task, "data_dir": str(folder), "output_dir": str(out), **more}


@pytest.fixture(scope="module", params=TASKS)
def case(request, tiny_settings, tmp_path_factory):
    """A task, its data, and a finished run."""
    folder = tmp_path_factory.mktemp(request.param)
    data = write(folder / "data", request.param, train=300, dev=80, test=80)
    more = {"num_train_epochs": 5, "learning_rate": 0.04}
    settings = settings_of(tiny_settings, request.param, data, folder / "out", **more)
    return request.param, data, train(**settings)


def test_it_learns_the_rule_in_the_unit_of_the_data(case):
    task, _, result = case
    assert result.metrics["test"][SCORES[task]] > 0.9
    assert f"{SCORES[task]} " in repr(result)
    config = RnnConfig.from_pretrained(result.folder)
    assert task_of(config).name == task
    if task == "regression":
        assert result.metrics["test"]["mae"] < 4
        assert config.target_scale is None and config.id2label == {0: "value"}
    else:
        assert set(config.label2id) == {"good", "bad"} and len(config.label_thresholds) == 2


def test_every_way_to_the_answer_agrees(case, command):
    task, data, result = case
    texts = [text for text, _, _ in invent(70, seed=9)] + [""]
    model, tokenizer = load_model(result.folder)
    logits = compute_logits(model, tokenizer, tokenizer(texts, truncation=True)["input_ids"])
    assert np.allclose(FastRnn.from_pretrained(result.folder).text_logits(texts), logits, atol=1e-4)
    scores = logits if task == "regression" else logits.sigmoid()
    lines = pipeline("text-classification", str(result.folder), top_k=None)(texts)
    for row, line in zip(scores.tolist(), lines, strict=True):
        found = {each["label"]: each["score"] for each in line}
        assert [found[name] for name in model.config.id2label.values()] == pytest.approx(
            row, abs=1e-4
        )
    code, out, _ = command("predict", "--model", result.folder, "--text", texts[0])
    answer = json.loads(out)
    if task == "regression":
        assert answer == {"values": {"value": pytest.approx(scores[0, 0].item(), abs=1e-3)}}
    else:
        names = model.config.id2label
        held = [names[n] for n, at in enumerate(model.config.label_thresholds) if scores[0, n] > at]
        assert answer["labels"] == held and set(answer["scores"]) == set(names.values())
    code, out, _ = command(
        "evaluate", "--model", result.folder, "--data_dir", data, "--split", "test"
    )
    found = json.loads(out)
    for name, value in result.metrics["test"].items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5)


def test_a_constant_is_refused(tiny_settings, tmp_path):
    settings = {
        **tiny_settings,
        "task": "regression",
        "data_dir": None,
        "output_dir": str(tmp_path),
    }
    with pytest.raises(UserError, match="same number"):
        train(**settings, train=[(f"a box {number}", 5.0) for number in range(60)])


@pytest.mark.parametrize("task", TASKS)
def test_several_columns_are_labels(task, tiny_settings, tmp_path, command):
    (tmp_path / "data").mkdir()
    for split, count in (("train", 40), ("dev", 10)):
        lines = ["id\ttext\tgood\tbad\n"]
        for number, (text, labels, _) in enumerate(invent(count, seed=count)):
            values = [str(int(name in labels)) for name in ("good", "bad")]
            lines.append("\t".join([str(number), text, *values]) + "\n")
        (tmp_path / "data" / f"{split}.tsv").write_text("".join(lines))
    more = {"text_column": "text", "label_columns": ["bad,good"], "num_train_epochs": 1}
    result = train(**settings_of(tiny_settings, task, tmp_path / "data", tmp_path / "out", **more))
    config = RnnConfig.from_pretrained(result.folder)
    assert config.id2label == {0: "bad", 1: "good"}
    flags = ["--text_column", "text", "--label_columns", "good,bad", "--split", "dev"]
    code, out, _ = command(
        "evaluate", "--model", result.folder, "--data_dir", tmp_path / "data", *flags
    )
    score = "loss" if task == "multi-label" else "rmse"
    assert json.loads(out)[score] == pytest.approx(result.metrics["validation"][score], rel=1e-5), (
        "the order is free"
    )
    with (tmp_path / "data" / "train.tsv").open("a") as file:
        file.write("41\ta box\tyes\t1\n")
    with pytest.raises(UserError, match="train.tsv:42: .*'yes'.*column 'good'"):
        train(**settings_of(tiny_settings, task, tmp_path / "data", tmp_path / "out2", **more))


# ---- pairs ----


def invent_pairs(count, seed):
    """Return pairs of texts, and whether both contain the same of two words."""
    chance, rows = random.Random(seed), []
    for number in range(count):
        texts, first = [], chance.choice(["miro", "selk"])
        for word in (first, first if number % 2 else {"miro": "selk", "selk": "miro"}[first]):
            words = chance.choices(NEUTRAL, k=chance.randrange(1, 6))
            words.insert(chance.randrange(len(words)), word)
            texts.append(" ".join(words))
        rows.append((*texts, "same" if number % 2 else "other"))
    return rows


@pytest.fixture(scope="module")
def paired(tiny_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for split, count in (("train", 300), ("dev", 80)):
        rows = [("\t".join(texts), label) for *texts, label in invent_pairs(count, seed=count)]
        write_rows(folder / f"{split}.tsv", rows)
    more = {"text_pair_column": "1", "label_column": "2", "word_dropout": 0.0}
    more |= {"num_train_epochs": 6, "learning_rate": 0.05, "per_device_train_batch_size": 32}
    return train(
        **{**tiny_settings, "data_dir": str(folder), "output_dir": str(folder / "out"), **more}
    ), folder


def test_pairs_are_compared(paired, command):
    result, folder = paired
    assert result.metrics["validation"]["accuracy"] > 0.9
    model, tokenizer = load_model(result.folder)
    rows = invent_pairs(20, seed=7)
    ids = [tokenizer(first, second)["input_ids"] for first, second, _ in rows]
    logits = compute_logits(model, tokenizer, ids)
    fast = FastRnn.from_pretrained(result.folder)
    assert np.allclose(fast.text_logits([row[:2] for row in rows]), logits, atol=1e-4)
    found = pipeline("text-classification", str(result.folder))(
        [{"text": a, "text_pair": b} for a, b, _ in rows]
    )
    assert [each["label"] for each in found] == [
        each["label"] for each in fast.predict([row[:2] for row in rows])
    ]
    file = folder / "pairs.txt"
    file.write_text("".join(f"{first}\t{second}\n" for first, second, _ in rows) + "alone\n")
    code, out, _ = command("predict", "--model", result.folder, "--input", file)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and [line["label"] for line in lines[:-1]] == [each["label"] for each in found]
    assert lines[-1]["error"] == {
        "line": 21,
        "reason": "too few fields",
        "detail": "found 1 of 2 texts",
    }
    code, out, _ = command(
        "predict", "--model", result.folder, "--text", rows[0][0], "--text_pair", rows[0][1]
    )
    assert code == 0 and json.loads(out)["label"] == found[0]["label"]
    assert command("predict", "--model", result.folder, "--text", "alone")[0] == 2
