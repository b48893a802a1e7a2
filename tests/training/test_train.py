"""Training from data to a finished folder: contents, an earlier model, resuming, mistakes."""

import contextlib
import itertools
import json
import math
import pydoc
import shlex
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import LABELS, invent_rows, same_weights, write_rows
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score
from transformers import pipeline

from hf_rnn.cli.train import FLAGS
from hf_rnn.data.encode import encode
from hf_rnn.data.report import DataReport
from hf_rnn.data.splits import hash_texts, hold_out
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.settings.resolve import resolve
from hf_rnn.tasks import get_task
from hf_rnn.tokenizers.word_level import train_tokenizer
from hf_rnn.training.prepare import Extension, Run
from hf_rnn.training.rows import EpochRows
from hf_rnn.training.score import check_loss
from hf_rnn.training.train import train
from hf_rnn.training.trainer import RnnTrainer
from hf_rnn.utils.errors import UserError


@pytest.fixture
def short(tiny_settings, tmp_path):
    """Settings of one epoch."""
    return {**tiny_settings, "num_train_epochs": 1, "output_dir": str(tmp_path / "out")}


# ---- the finished folder ----


def test_the_folder_is_complete(trained, texts_dir):
    FinishedFolder(trained.folder).check_finished()
    names = {path.name for path in trained.folder.iterdir()}
    expected = {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
        "metrics.json", "training_args.json", "learning_curve.png", "confusion_matrix.png",
        "modeling_rnn.py", "configuration_rnn.py", "cells_rnn.py", "pooling_rnn.py",
    }  # fmt: skip
    assert expected <= names and "checkpoints" not in names
    assert not [
        name
        for name in names
        if name.endswith((".bin", ".pt", ".pth", ".pkl")) or name.startswith(".")
    ]
    for path in trained.folder.iterdir():
        if path.suffix in (".json", ".md"):
            text = path.read_text(encoding="utf-8")
            assert str(texts_dir.parent) not in text and str(trained.folder.parent) not in text, (
                path.name
            )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scores_are_those_of_the_weights_as_they_are_stored(dtype, short, texts_dir, command):
    result = train(**short, weights_dtype=dtype)
    stored = load_file(result.folder / "model.safetensors").values()
    assert {str(weight.dtype) for weight in stored} == {f"torch.{dtype}"}
    code, out, err = command(
        "evaluate", "--model", result.folder, "--data_dir", texts_dir, "--split", "test"
    )
    assert code == 0, err
    assert json.loads(out)["loss"] == pytest.approx(result.metrics["test"]["loss"], rel=1e-6)


def test_metrics_equal_sklearn_on_the_answers_of_the_pipeline(trained):
    rows = invent_rows(60, seed=3)
    classify = pipeline("text-classification", str(trained.folder), top_k=None, device="cpu")
    scores = [
        {one["label"]: one["score"] for one in answer}
        for answer in classify([text for text, _ in rows])
    ]
    true = [label for _, label in rows]
    answers = [max(answer, key=answer.get) for answer in scores]
    found = trained.metrics["test"]
    assert found["rows"] == len(rows) and found["accuracy"] == accuracy_score(true, answers) > 0.9
    assert found["macro_f1"] == pytest.approx(f1_score(true, answers, average="macro"))
    assert found["macro_recall"] == pytest.approx(recall_score(true, answers, average="macro"))
    shares = np.array([[answer[name] for name in LABELS] for answer in scores])
    assert found["loss"] == pytest.approx(
        log_loss(true, shares / shares.sum(axis=1, keepdims=True)), abs=1e-5
    )
    assert json.loads((trained.folder / "metrics.json").read_text()) == trained.metrics


def test_the_best_epoch_is_kept(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_rnn.training.train.remove_checkpoints", lambda folder: None)
    result = train(
        **{**tiny_settings, "learning_rate": 0.15, "save_total_limit": 9},
        output_dir=str(tmp_path / "out"),
    )
    states = [
        json.loads(path.read_text())
        for path in result.folder.glob("checkpoints/*/trainer_state.json")
    ]
    last = max(states, key=lambda state: state["global_step"])
    scores = {
        line["step"]: line["eval_macro_f1"]
        for line in last["log_history"]
        if "eval_macro_f1" in line
    }
    assert len(scores) == 4 and result.metrics["validation"]["macro_f1"] == max(scores.values())
    assert same_weights(
        result.folder, result.folder / "checkpoints" / f"checkpoint-{last['best_global_step']}"
    )


def test_the_record_of_the_data(short, texts_dir, tmp_path, trained):
    """With hashes of the rows that trained, and of no others."""
    record = trained.metrics["data"]
    assert record["name"] == texts_dir.name and record["files"]["train"] == "train.tsv"
    assert record["rows"] == {"train": 240, "validation": 60, "test": 60}
    assert record["held_out"] is None and not record["learned_held_out"]
    assert FinishedFolder(trained.folder).read_data_record() == record
    rows = invent_rows(60, 1)
    result = train(
        **{**short, "data_dir": None, "output_dir": str(tmp_path / "out")}, train=rows, max_steps=1
    )
    data, hashes = result.metrics["data"], np.load(result.folder / "training_rows.npy")
    assert data["held_out"] == {"share": 0.1, "seed": 0, "rows": data["rows"]["validation"]}
    held_out = hold_out(
        [text for text, _ in rows],
        np.array([sorted(LABELS).index(label) for _, label in rows]),
        0.1,
        0,
    )
    known = np.isin(hash_texts(text.upper() for text, _ in rows), hashes)
    assert (
        hashes.dtype == np.uint64
        and (known == ~held_out).all()
        and held_out.sum() == data["rows"]["validation"]
    )


def test_a_training_ends_by_the_clock_and_so_does_its_learning_rate(
    tiny_settings, tmp_path, monkeypatch
):
    """A step takes 0.05 seconds and its epoch 15 steps, so 3 seconds are four epochs."""
    settings = {
        **tiny_settings,
        "lr_scheduler_type": "linear",
        "baselines": False,
        "early_stopping_patience": 0,
    }
    del settings["num_train_epochs"]
    clock = itertools.count(0, 0.05)  # seconds; every step asks once
    monkeypatch.setattr("hf_rnn.training.folder.time.monotonic", lambda: next(clock))
    rates = []
    log = RnnTrainer.log
    monkeypatch.setattr(
        RnnTrainer,
        "log",
        lambda trainer, logs, *more: (rates.append(logs.get("learning_rate")), log(trainer, logs)),
    )
    result = train(**settings, max_minutes=0.05, output_dir=str(tmp_path / "out"))
    rates = [rate for rate in rates if rate is not None]
    training = result.metrics["training"]
    summary = result.summarize()
    assert f"{training['epochs']:.3g} epochs in" in summary and "of 0.05 minutes" in summary
    assert 2 < training["epochs"] < 4.1
    assert rates == sorted(rates, reverse=True) and 0 <= rates[-1] < 0.1 * rates[0]
    recorded = json.loads((result.folder / "training_args.json").read_text())
    assert recorded["num_train_epochs"] == training["epochs"] and "max_minutes" not in recorded


@pytest.mark.parametrize(
    ("rows", "changes", "least"),
    [(60, {}, 2), (60, {"tokenizer": "char"}, 1), (60, {"min_frequency": 3}, 3), (600, {}, 3)],
)
def test_few_rows_keep_rarer_tokens(short, rows, changes, least):
    """A word of only one text may be private."""
    texts = [
        (f"{text} rare{number // least}x", label)
        for number, (text, label) in enumerate(invent_rows(rows, 1))
    ]
    settings = {name: value for name, value in short.items() if name != "data_dir"}
    result = train(train=texts, max_steps=1, baselines=False, **{**settings, **changes})
    recorded = json.loads((result.folder / "training_args.json").read_text())
    assert recorded.get("min_frequency", 3) == least


def test_a_bad_run_claims_no_best_epoch_and_says_that_the_linear_model_is_better(short, caplog):
    result = train(**{**short, "learning_rate": 0.0}, load_best_model_at_end=False)
    assert (
        result.metrics["card"].get("best_metric") is None
        and "was kept" not in (result.folder / "README.md").read_text()
    )
    (line,) = [line for line in caplog.messages if "linear model" in line]
    (linear,) = result.metrics["card"]["baselines"].values()
    own = result.metrics["validation"]["macro_f1"]
    scores = f"macro_f1 {linear['validation']['macro_f1']:.3f} against {own:.3f}"
    assert f"better on validation, {scores}: use it, or try recipe default" in line
    assert "The linear model is better on validation" in (result.folder / "README.md").read_text(
        encoding="utf-8"
    )


# ---- ways to start a run ----


@pytest.mark.slow
def test_the_same_settings_give_the_same_model(trained, tiny_settings, texts_dir, tmp_path):
    """From the record of the run and from dataclasses; another seed gives another model."""
    filled = {"DATA": texts_dir, "MODEL/training_args.json": trained.folder / "training_args.json"}
    filled |= {"OUTPUT": tmp_path / "again"}
    words = [
        str(filled.get(word, word)) for word in shlex.split(trained.metrics["card"]["command"])
    ]
    again = train(**FLAGS.read(words[2:]), use_cpu=True)
    assert (
        words[:2] == ["hf-rnn", "train"]
        and trained.metrics["card"]["fill_in"]["DATA"] == f"here {texts_dir.name}"
    )
    assert again.metrics["validation"] == trained.metrics["validation"]
    parsed = train(**{**tiny_settings, "output_dir": str(tmp_path / "parsed")})
    assert all(same_weights(trained.folder, result.folder) for result in (again, parsed))
    seven = train(
        **{**tiny_settings, "num_train_epochs": 1}, seed=7, output_dir=str(tmp_path / "seven")
    )
    assert not same_weights(trained.folder, seven.folder)


# ---- an earlier model in the folder ----


def test_overwriting_replaces_the_old_run_and_nothing_else(copy, short):
    mine = [
        copy / name
        for name in ("notes.txt", "my_rnn.py", "runs/mine", "onnx/mine.txt", "checkpoints/mine.txt")
    ]
    theirs = [copy / "onnx/model.onnx", copy / ".unfinished-1/config.json"]
    for path in (*mine, *theirs):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    train(**{**short, "hidden_size": 5, "output_dir": str(copy)}, overwrite_output_dir=True)
    assert [path.read_text() for path in mine] == ["mine"] * len(mine) and not any(
        path.exists() for path in theirs
    )
    assert json.loads((copy / "config.json").read_text())["hidden_size"] == 5
    assert not list((copy / "checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize(
    "point", ["training.trainer.RnnTrainer.training_step", "training.save.write_card"]
)
def test_a_run_that_dies_leaves_the_old_model(copy, short, monkeypatch, point):
    """No checkpoint of the old run stays, which --resume could take for one of the new run."""
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    place, _, name = point.rpartition(".")
    owner = pydoc.locate(f"hf_rnn.{place}")
    original, calls = getattr(owner, name), []

    def die(*given, **named):
        calls.append(given)
        if len(calls) == 3 or name == "write_card":
            raise RuntimeError("died")
        return original(*given, **named)

    monkeypatch.setattr(owner, name, die)
    settings = {**short, "num_train_epochs": 3, "hidden_size": 5}
    with pytest.raises(RuntimeError, match="died"):
        train(**{**settings, "output_dir": str(copy)}, overwrite_output_dir=True)
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before
    for checkpoint in (copy / "checkpoints").glob("checkpoint-*"):
        assert json.loads((checkpoint / "config.json").read_text())["hidden_size"] == 5
    assert not list(copy.glob(".unfinished-*"))


def test_a_mistake_overwrites_nothing(copy, trained, tiny_settings, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    write_rows(bad / "train.tsv", [*invent_rows(30, seed=1), ("no label", "")])
    for mistake in (
        {"data_dir": str(bad)},
        # without lr_scheduler_kwargs, which only the Trainer notices
        {"lr_scheduler_type": "cosine_with_min_lr"},
        {"tokenizer_name_or_path": str(copy)},
    ):
        with pytest.raises(ValueError):
            train(**{**tiny_settings, **mistake}, overwrite_output_dir=True, output_dir=str(copy))
    assert same_weights(copy, trained.folder)


# ---- diverged runs ----


@pytest.mark.parametrize(
    "settings",
    [
        {
            "cell_type": "rnn_relu",
            "pooling": "last",
            "optim": "sgd",
            "learning_rate": 1e30,
            "max_grad_norm": 0,
        },
        {"learning_rate": 1000},
        {"embedding_initializer_range": 1e38},
    ],
    ids=["weights", "loss", "embedding"],
)
def test_a_diverged_run_is_not_finished(short, settings):
    with pytest.raises(UserError, match="learning_rate"):
        train(**{**short, "num_train_epochs": 3, **settings})
    assert not (Path(short["output_dir"]) / "config.json").exists()


@pytest.mark.parametrize(
    ("training", "validation", "outcome"),
    [
        (109, 109, None),
        (111, 1, None),
        (1, 111, "error"),
        (math.nan, 1, "error"),
        (111, None, "error"),
    ],
)
def test_a_loss_over_100_times_that_of_guessing_is_refused(training, validation, outcome):
    """ln(3) is 1.0986. A good validation loss shows that the kept epoch is fine."""
    splits = {} if validation is None else {"validation": {"loss": validation}}
    with (
        pytest.raises(UserError, match="diverged")
        if outcome == "error"
        else contextlib.nullcontext()
    ):
        check_loss({**splits, "training": {"loss": training}}, math.log(3))


# ---- mistakes ----


def test_rejected_rows_are_listed_and_leave_the_folder_usable(short, texts_dir, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(texts_dir, bad)
    with (bad / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("one\tplain\ttoo many\nno label\t\n")
    settings = {**short, "data_dir": str(bad)}
    with pytest.raises(UserError, match="train.tsv:241"):
        train(**settings)
    result = train(**settings, max_bad_rows="2")
    assert result.metrics["training"]["rows"] == 240
    assert len((result.folder / "rejected.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("data_dir", "nowhere", "nowhere"),
        ("metric_for_best_model", "macro_recal", "macro_recall"),
        ("dataloader_drop_last", True, "leaves rows out"),
        ("tokenizer_name_or_path", "./nowhere", "nowhere"),
        ("vectors", "absent.txt", "no vectors at absent.txt"),
    ],
)
def test_a_mistake_is_found_before_training(short, name, value, word):
    with pytest.raises(UserError, match=word):
        train(**{**short, name: value})
    assert not Path(short["output_dir"]).exists()


def test_leaks_are_reported_or_stop_a_run_before_it_makes_a_folder(short, tmp_path, caplog):
    """The last of the 60 rows of dev are the first of train, one with another label."""
    caplog.set_level("INFO", "hf_rnn")
    rows = [(f"{text} number{n}", label) for n, (text, label) in enumerate(invent_rows(240, 1))]
    (folder := tmp_path / "leaking").mkdir()
    write_rows(folder / "train.tsv", rows)
    dev = [(f"{text} other{n}", label) for n, (text, label) in enumerate(invent_rows(57, 2))]
    write_rows(folder / "dev.tsv", [*dev, (rows[0][0].upper(), "good"), *rows[1:3]])
    settings = {**short, "data_dir": str(folder), "max_steps": 1, "baselines": False}
    with pytest.raises(
        UserError, match="3 of 60 rows of validation repeat a row of train .5.00%"
    ) as refused:
        train(**settings, fail_on_leak=0.049, class_names=["bad", "good", "plain"])
    assert f"{folder / 'dev.tsv'}:58 repeats {folder / 'train.tsv'}:1" in str(refused.value)
    assert not Path(short["output_dir"]).exists()
    result = train(**settings, fail_on_leak=0.05)
    assert (
        rows[0][1] == "bad" and "repeat a row of train (5.00%, 1 with another label)" in caplog.text
    )
    assert "not in the vocabulary" not in caplog.text
    stored = json.loads((result.folder / "metrics.json").read_text())["card"]["audit"]["leaks"][
        "validation"
    ]["train"]
    assert stored == {"exact": 3, "exact_other_label": 1, "share": 0.05}
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| validation | 60 |"))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:5] == ["60", "0", "3", "1"]


@pytest.mark.parametrize(("words", "epochs"), [(6, 2), (200, 1)])
def test_many_rows_are_read_twice_and_many_long_ones_once(short, tmp_path, words, epochs):
    """The budget is one reading of the short texts."""
    rows = []
    for number in range(60):
        label = LABELS[number % 3]
        text = " ".join([label, str(number), *["sand"] * (words - 2)])
        rows.append((text, label))
    settings = {**short, "num_train_epochs": 5, "row_budget": 60, "baselines": False}
    settings.pop("data_dir", None)
    result = train(rows, validation=rows[:30], **settings)
    assert result.metrics["training"]["epochs"] == epochs


def test_an_epoch_draws_typos_and_windows_by_seed_epoch_and_row(tiny_settings):
    """Alone or in any batch; half of the rows keep their tokens; rows of a teacher stay clean."""
    settings = resolve({**tiny_settings, "typos": 0.5, "train_window": 4, "output_dir": "out"})
    rows = invent_rows(200, 1)
    texts = {"text": [text for text, _ in rows], "label": [0, 1] * 100}
    texts = datasets.DatasetDict(train=datasets.Dataset.from_dict(texts))
    task = get_task("sequence-classification")
    tokenizer = train_tokenizer(texts["train"]["text"][:], min_frequency=1)
    examples = encode(texts["train"], tokenizer)
    examples = datasets.concatenate_datasets([examples, examples])  # the second half is a teacher's
    run = Run(task, settings, texts, DataReport(), Extension(), None, None)
    drawn = EpochRows(run, tokenizer, examples)
    first, second = drawn.read_epoch(0), drawn.read_epoch(1)
    drawn.epoch = 0
    assert [row["input_ids"] for row in drawn.__getitems__([150, 3])] == [first[150], first[3]]
    clean = [ids == before for ids, before in zip(first, examples["input_ids"], strict=True)]
    assert 80 < sum(clean[:200]) < 130 and all(clean[200:]) and first != second
    cut = EpochRows(run, tokenizer, examples, window=4)
    assert max(map(len, cut.read_epoch(0))) == 4 < max(map(len, first))
    assert cut.read_epoch(0) == cut.read_epoch(0) != cut.read_epoch(1)
    assert {row["labels"] for row in cut.__getitems__([0, 2, 4])} == {0}
