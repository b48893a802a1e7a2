"""The junction end to end: from TSV files to a finished folder, whatever stood there and whatever goes wrong."""

import base64
import contextlib
import copy
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import pydoc
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows, may_train, write_rows
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast, pipeline

import hf_rnn.hub.card.files
import hf_rnn.training.trainer
from hf_rnn import FastRnn
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.training.arguments.run_arguments import parse_settings
from hf_rnn.training.arguments.training_arguments import RnnTrainingArguments
from hf_rnn.training.checkpointing import manifest as checkpoints
from hf_rnn.training.checkpointing import resumable_trainer
from hf_rnn.training.checkpointing.fingerprints import compare
from hf_rnn.training.checks import check_loss
from hf_rnn.training.distillation import distill
from hf_rnn.training.train import train
from hf_rnn.utils.errors import UserError
from hf_rnn.utils.process_state import one_at_a_time


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def copy_of_trained(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "copy")
    return tmp_path / "copy"


# ---- what comes out ----


def test_the_folder_is_finished(trained):
    FinishedFolder(trained.folder).check_finished()
    names = {path.name for path in trained.folder.iterdir()}
    expected = {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json",
        "training_args.json", "learning_curve.png", "confusion_matrix.png", "modeling_rnn.py", "configuration_rnn.py",
        "cells_rnn.py", "pooling_rnn.py", "checkpoints",
    }  # fmt: skip
    assert expected <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl")) or name.startswith(".")]
    assert len({path.stat().st_mode for path in trained.folder.iterdir() if path.is_file()}) == 1, "all can be read"


def test_the_result_is_shown_in_a_line(trained):
    """Whoever calls `train` last in a cell of a notebook sees it."""
    scores = trained.metrics["test"]
    told = f"test: accuracy {scores['accuracy']:.3f}, macro_f1 {scores['macro_f1']:.3f}, macro_recall "
    assert repr(trained).startswith(f"TrainingResult(folder={str(trained.folder)!r}; validation: accuracy ")
    assert told in repr(trained) and len(repr(trained)) < 300
    shown = repr(dataclasses.replace(trained, metrics={"training": {}}, url="https://hf.co/me/name"))
    assert shown == f"TrainingResult(folder={str(trained.folder)!r}; url='https://hf.co/me/name')"


def test_a_notebook_shows_scores_and_figures(trained, tmp_path):
    page = trained._repr_html_()
    assert f"{trained.metrics['test']['accuracy']:.3f}" in page and page.count("<img ") == 2
    figure = base64.b64encode((trained.folder / "confusion_matrix.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{figure}"' in page
    odd = dataclasses.replace(trained.card, class_counts={"<b>": 1, "c": 1, "d": 1}, results={})
    page = dataclasses.replace(trained, folder=tmp_path / "<i>", card=odd)._repr_html_()
    assert "<td>&lt;b&gt;</td>" in page and "<b>" not in page and "<i>" not in page and "<img" not in page
    assert all(
        f"<td>{count}</td>" in page for row in trained.metrics["validation"]["confusion_matrix"] for count in row
    )
    assert dataclasses.replace(trained, metrics={"training": {}})._repr_html_()


def test_it_has_learned_the_rule(trained):
    assert trained.metrics["validation"]["accuracy"] > 0.9, "the classes are equally many: chance is a third"


def test_metrics_against_sklearn_on_what_the_pipeline_says(trained):
    rows = invent_rows(60, seed=3)
    assert trained.metrics["test"]["rows"] == len(rows)
    classify = pipeline("text-classification", str(trained.folder), top_k=None, device="cpu")
    scores = [{one["label"]: one["score"] for one in answer} for answer in classify([text for text, _ in rows])]
    true = [label for _, label in rows]
    said = [max(answer, key=answer.get) for answer in scores]
    found = trained.metrics["test"]
    assert found["accuracy"] == accuracy_score(true, said)
    assert found["macro_f1"] == pytest.approx(f1_score(true, said, average="macro"))
    assert found["macro_recall"] == pytest.approx(recall_score(true, said, average="macro"))
    shares = np.array([[answer[name] for name in LABELS] for answer in scores])
    assert found["loss"] == pytest.approx(log_loss(true, shares / shares.sum(axis=1, keepdims=True)), abs=1e-5)
    assert json.loads((trained.folder / "metrics.json").read_text()) == trained.metrics


def test_labels_and_tokenizer_go_along(trained):
    model = AutoModelForSequenceClassification.from_pretrained(trained.folder)
    assert list(model.config.id2label.values()) == sorted(LABELS)
    tokenizer = AutoTokenizer.from_pretrained(trained.folder)
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.convert_ids_to_tokens(tokenizer("miro")["input_ids"]) == ["miro"]


def test_the_best_epoch_is_kept(trained):
    states = [json.loads(path.read_text()) for path in trained.folder.glob("checkpoints/*/trainer_state.json")]
    last = max(states, key=lambda state: state["global_step"])
    measured = {
        entry["step"]: entry["eval_macro_recall"] for entry in last["log_history"] if "eval_macro_recall" in entry
    }
    assert len(measured) == 4
    assert trained.metrics["validation"]["macro_recall"] == pytest.approx(max(measured.values()))
    best = trained.folder / "checkpoints" / f"checkpoint-{last['best_global_step']}"
    assert measured[last["best_global_step"]] == max(measured.values())
    assert same_weights(trained.folder, best)


def test_nothing_of_the_machine_is_told(trained, texts_dir):
    for path in trained.folder.iterdir():
        if path.suffix in (".json", ".md"):
            text = path.read_text(encoding="utf-8")
            assert str(texts_dir.parent) not in text and str(trained.folder.parent) not in text, path.name


def test_the_card_is_one(trained):
    card = ModelCard.load(trained.folder / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    reported = {(result.dataset_split, result.metric_name): result.metric_value for result in card.data.eval_results}
    assert reported["test", "accuracy"] == pytest.approx(trained.metrics["test"]["accuracy"], abs=1e-4)
    for figure in ("learning_curve.png", "confusion_matrix.png"):
        assert f"({figure})" in card.content or f"(<{figure}>)" in card.content


def test_training_args_repeat_the_run(trained, texts_dir, tmp_path):
    """As a recipe, with nothing else given than where from and where to."""
    again = train(
        recipe=str(trained.folder / "training_args.json"),
        data_dir=str(texts_dir),
        output_dir=str(tmp_path / "again"),
        use_cpu=True,
    )
    assert same_weights(trained.folder, again.folder)
    assert again.metrics["validation"] == trained.metrics["validation"]


def test_three_dataclasses_and_settings_by_name_are_the_same(trained, tiny_settings, tmp_path):
    arguments = parse_settings({**tiny_settings, "output_dir": str(tmp_path / "again")})
    assert same_weights(trained.folder, train(*arguments).folder)


def test_what_train_does_not_take(tiny_settings):
    arguments = parse_settings({**tiny_settings, "output_dir": "out"})
    with pytest.raises(TypeError, match="not both: found hidden_size"):
        train(*arguments, hidden_size=3)
    with pytest.raises(TypeError, match="or settings by name"):
        train(arguments.model)


def test_a_seed_of_its_own(trained, tiny_settings, tmp_path):
    assert not same_weights(trained.folder, train(**tiny_settings, seed=7, output_dir=str(tmp_path / "seven")).folder)


# ---- other ways in ----


def test_without_validation_and_test_files(tiny_settings, texts_dir, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    shutil.copy(texts_dir / "train.tsv", folder)
    result = train(
        **{**tiny_settings, "data_dir": str(folder), "num_train_epochs": 1}, output_dir=str(tmp_path / "out")
    )
    assert result.metrics["validation"]["rows"] == 24  # a tenth of 240
    assert result.metrics["training"]["rows"] == 216
    assert "test" not in result.metrics


def test_a_tokenizer_that_exists(trained, tiny_settings, tmp_path):
    settings = {**tiny_settings, "num_train_epochs": 1, "tokenizer_name_or_path": str(trained.folder), "max_length": 3}
    result = train(**settings, output_dir=str(tmp_path / "out"))
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(trained.folder).get_vocab()
    assert tokenizer("the box of dry sand", truncation=True)["input_ids"] == tokenizer("the box of")["input_ids"]


def test_a_tokenizer_whose_ids_have_gaps_and_that_gives_no_mask(tiny_settings, texts_dir, tmp_path):
    """Its table has a row for each id, those that mean nothing too; what is saved gives a mask."""
    words = ["<pad>", "<unk>", *{word for text, _ in invent_rows(60, seed=1) for word in text.split()}]
    backend = Tokenizer(WordLevel({word: 2 * number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokens = {"pad_token": "<pad>", "unk_token": "<unk>", "model_input_names": ["input_ids"]}
    PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(tmp_path / "words")
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("".join(f"{word} {number} 1 2\n" for number, word in enumerate(words[2:])))
    for number, more in enumerate(({}, {"vectors": str(vectors)})):
        settings = {**tiny_settings, "num_train_epochs": 1, "embedding_size": 3, **more}
        settings["tokenizer_name_or_path"] = str(tmp_path / "words")
        folder = train(**settings, output_dir=str(tmp_path / f"out{number}")).folder
        assert json.loads((folder / "config.json").read_text())["vocab_size"] == 2 * len(words) - 1
        text = invent_rows(60, seed=1)[0][0]
        (answer,) = FastRnn.from_pretrained(folder).predict([text])
        assert pipeline("text-classification", str(folder), device="cpu")(text)[0]["label"] == answer["label"]


def test_the_tutorials_recipe(tiny_settings, texts_dir, tmp_path):
    """Each epoch leaves a checkpoint that training resumes from."""
    settings = {"recipe": "tutorial", "data_dir": str(texts_dir), "num_train_epochs": 2, "use_cpu": True}
    settings |= {"embedding_size": 8, "learning_rate": 0.03}  # smaller, and no divergence to infinity
    result = train(**settings, output_dir=str(tmp_path / "out"))
    assert {path.name for path in (result.folder / "checkpoints").iterdir()} == {"checkpoint-60", "checkpoint-120"}
    config = json.loads((result.folder / "config.json").read_text())
    assert (config["cell_type"], config["sparse_embedding"], config["pooling"]) == ("rnn_tanh", True, "last")
    shutil.rmtree(result.folder / "checkpoints" / "checkpoint-120")
    resumed = train(**settings, resume=True, output_dir=str(tmp_path / "out"))
    assert resumed.metrics["training"]["steps"] == 120
    fresh = train(**settings, output_dir=str(tmp_path / "fresh"))
    assert same_weights(resumed.folder, fresh.folder)


def test_tensorboard_keeps_the_logs_of_the_new_run(tiny_settings, tmp_path):
    settings = {**tiny_settings, "num_train_epochs": 1, "report_to": "tensorboard", "overwrite_output_dir": True}
    logs = []
    for _ in range(2):
        folder = train(**settings, output_dir=str(tmp_path / "out")).folder
        logs.append({path.name for path in (folder / "checkpoints").rglob("events.out.tfevents*")})
    assert logs[0] and logs[1] and not logs[0] & logs[1]


def test_without_matplotlib(tiny_settings, tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise UserError("figures need matplotlib. Type: pip install 'hf-rnn[plots]'")

    monkeypatch.setattr(hf_rnn.training.save, "plot_learning_curve", refuse)
    monkeypatch.setattr(hf_rnn.training.save, "plot_confusion_matrix", refuse)
    folder = train(**{**tiny_settings, "num_train_epochs": 1}, output_dir=str(tmp_path / "out")).folder
    FinishedFolder(folder).check_finished()
    assert not list(folder.glob("*.png")) and "png" not in (folder / "README.md").read_text()
    assert "no learning_curve.png: figures need matplotlib" in caplog.text


def test_of_many_classes_no_matrix_is_kept(tiny_settings, tmp_path, monkeypatch):
    """Of 5,000 it is a file of 76 MB, nearly all zeros, and a figure in which nothing can be read."""
    monkeypatch.setattr(hf_rnn.evaluation.classification, "MOST_CLASSES", 2)
    result = train(**{**tiny_settings, "num_train_epochs": 1}, output_dir=str(tmp_path / "out"))
    found = json.loads((result.folder / "metrics.json").read_text())["test"]
    assert "confusion_matrix" not in found
    assert sum(count for _, _, count in found["confusion_cells"]) == 60
    assert not (result.folder / "confusion_matrix.png").exists()
    card = (result.folder / "README.md").read_text(), (result.folder / "card_facts.json").read_text()
    assert "confusion" not in "".join(card)
    FinishedFolder(result.folder).check_finished()


def test_every_row_is_measured_whatever_is_dropped_in_training(tiny_settings, tmp_path):
    settings = {**tiny_settings, "num_train_epochs": 1, "dataloader_drop_last": True, "per_device_eval_batch_size": 25}
    result = train(**settings, output_dir=str(tmp_path / "out"))
    assert [result.metrics[split]["rows"] for split in ("validation", "test")] == [60, 60]


def test_the_best_is_kept_where_evaluations_are_more_frequent_than_saves(tiny_settings, tmp_path):
    settings = {**tiny_settings, "num_train_epochs": 3, "eval_strategy": "steps", "save_strategy": "steps"}
    settings |= {"eval_steps": 1, "save_steps": 4, "learning_rate": 0.05, "early_stopping_patience": 0}
    settings |= {"per_device_train_batch_size": 32, "save_total_limit": 2}
    result = train(**settings, output_dir=str(tmp_path / "out"))
    newest = checkpoints.list_checkpoints(result.folder / "checkpoints")[0]
    state = json.loads((newest / "trainer_state.json").read_text())
    scores = {line["step"]: line["eval_macro_f1"] for line in state["log_history"] if "eval_macro_f1" in line}
    best = max(scores, key=scores.__getitem__)
    assert best % 4, "premise: the best evaluation is none of those that save anyway"
    assert result.metrics["validation"]["macro_f1"] == pytest.approx(scores[best])
    assert checkpoints.read_manifest(newest)["best_step"] == best
    checkpoints.find_newest(result.folder / "checkpoints", needs_best=True)


def test_where_the_last_epoch_is_kept_as_many_checkpoints_stay_as_asked(tiny_settings, tmp_path):
    """Though the best epoch, which nothing goes back to, was measured at steps that save none."""
    settings = {**tiny_settings, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 3}
    settings |= {"per_device_train_batch_size": 32, "early_stopping_patience": 0, "load_best_model_at_end": False}
    result = train(**settings, save_total_limit=4, output_dir=str(tmp_path / "out"))
    kept = checkpoints.list_checkpoints(result.folder / "checkpoints")
    manifest = checkpoints.read_manifest(kept[1])
    assert manifest["best_step"] % 3, "premise: the best evaluation has no checkpoint"
    assert [checkpoints.step_of(path) for path in kept] == [24, 21, 18, 15]


# ---- what stands in the output folder ----


def test_an_existing_folder_is_left_alone(copy_of_trained, tiny_settings):
    before = {path: path.stat().st_mtime_ns for path in copy_of_trained.rglob("*")}
    with pytest.raises(UserError, match=r"is not empty \(it holds README.md, .*--overwrite_output_dir .*--resume"):
        train(**tiny_settings, output_dir=str(copy_of_trained))
    assert {path: path.stat().st_mtime_ns for path in copy_of_trained.rglob("*")} == before


def test_overwriting_replaces_what_training_left_and_nothing_else(copy_of_trained, trained, tiny_settings):
    (copy_of_trained / "notes.txt").write_text("mine")
    (copy_of_trained / "confusion_matrix.png").write_text("old")
    mine = [copy_of_trained / "notes.txt", copy_of_trained / "train_rnn.py"]
    mine += [copy_of_trained / "checkpoints" / "notes.txt", copy_of_trained / "checkpoints" / "by_hand" / "a.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    settings = {**tiny_settings, "num_train_epochs": 1, "hidden_size": 5, "overwrite_output_dir": True}
    train(**settings, output_dir=str(copy_of_trained))
    assert [path.read_text() for path in mine] == ["mine"] * len(mine)
    assert json.loads((copy_of_trained / "config.json").read_text())["hidden_size"] == 5
    assert (copy_of_trained / "confusion_matrix.png").read_bytes() != b"old"
    assert len(list((copy_of_trained / "checkpoints").glob("checkpoint-*"))) == 1


@pytest.mark.parametrize(
    "point",
    [
        "hf_rnn.training.trainer.RnnTrainer.training_step",
        "hf_rnn.training.trainer.RnnTrainer.evaluate",
        "hf_rnn.training.trainer.RnnTrainer.predict",
        "hf_rnn.training.save.write_card",
        "pathlib.Path.replace",
    ],
)
def test_a_run_that_dies_leaves_the_old_model(copy_of_trained, trained, tiny_settings, monkeypatch, point):
    """And no checkpoint of the old run, which --resume would take for one of the new run."""
    before = {path.name: path.read_bytes() for path in copy_of_trained.iterdir() if path.is_file()}
    place, _, name = point.rpartition(".")
    owner = pydoc.locate(place)
    original, calls = getattr(owner, name), []

    def die(*given, **named):
        if name == "replace" and ".unfinished-" not in str(given):  # of a checkpoint
            return original(*given, **named)
        calls.append(given)
        if len(calls) == 3 or name in ("predict", "write_card"):
            raise RuntimeError("died")
        return original(*given, **named)

    monkeypatch.setattr(owner, name, die)
    settings = {**tiny_settings, "hidden_size": 5, "overwrite_output_dir": True, "report_to": "tensorboard"}
    with pytest.raises(RuntimeError, match="died"):
        train(**settings, output_dir=str(copy_of_trained))
    assert {path.name: path.read_bytes() for path in copy_of_trained.iterdir() if path.is_file()} == before
    for checkpoint in (copy_of_trained / "checkpoints").glob("checkpoint-*"):
        assert json.loads((checkpoint / "config.json").read_text())["hidden_size"] == 5
    assert not list(copy_of_trained.glob(".unfinished-*"))


def test_a_folder_that_is_called_as_a_recipe_is_none(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        settings = {**tiny_settings, "recipe": "fast", "cell_type": "min_gru", "num_train_epochs": 1}
        train(**settings, overwrite_output_dir=True, output_dir="fast")
    assert (tmp_path / "fast" / "config.json").is_file()


def test_a_mistake_overwrites_nothing(copy_of_trained, trained, tiny_settings, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    write_rows(bad / "train.tsv", [*invent_rows(30, seed=1), ("no label", "")])
    for mistake in (
        {"data_dir": str(bad)},
        {"hidden_size": 0},
        {"metric_for_best_model": "recall"},
        {"data_dir": "nowhere"},
        {"lr_scheduler_type": "cosine_with_min_lr"},  # which needs lr_scheduler_kwargs: the Trainer itself refuses
        {"optim": "galore_adamw", "optim_target_modules": "rnn"},  # whose package is not there
        {"label_smoothing_factor": 2.0},
        {"tokenizer_name_or_path": str(copy_of_trained)},
        {"model_name_or_path": str(copy_of_trained / "checkpoints" / "checkpoint-60")},
        {"vectors": str(copy_of_trained / "README.md")},
        {"recipe": str(copy_of_trained / "training_args.json")},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 512},
        {"dataloader_persistent_workers": True},
        {"use_liger_kernel": True},
        {"debug": "underflow_overflow"},
    ):
        with pytest.raises(UserError):
            train(**{**tiny_settings, **mistake}, overwrite_output_dir=True, output_dir=str(copy_of_trained))
    assert same_weights(copy_of_trained, trained.folder)
    assert (copy_of_trained / "checkpoints").is_dir()


def test_what_no_run_left_is_not_replaced(teacher, tiny_settings, tmp_path):
    """A folder of another model, or of other work, that has files with the names of ours."""
    for name, taken in (("README.md", "README.md"), ("checkpoints/mine.txt", "checkpoints")):
        path = tmp_path / taken.lower() / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        with pytest.raises(UserError, match=f"holds no run of hf-rnn, and files that one would replace: {taken}"):
            train(**tiny_settings, overwrite_output_dir=True, output_dir=str(tmp_path / taken.lower()))
        assert path.read_text() == "mine"
    model = shutil.copytree(teacher, tmp_path / "model")
    with pytest.raises(UserError, match="files that one would replace: config.json"):
        train(**tiny_settings, overwrite_output_dir=True, output_dir=str(model))
    notes = tmp_path / "notes" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("in no way")
    train(**{**tiny_settings, "num_train_epochs": 1}, overwrite_output_dir=True, output_dir=str(notes.parent))
    assert notes.read_text() == "in no way"


def test_a_training_that_diverged_is_not_called_finished(tiny_settings, tmp_path):
    settings = {**tiny_settings, "num_train_epochs": 1, "cell_type": "rnn_relu", "pooling": "last", "optim": "sgd"}
    settings |= {"learning_rate": 1e30, "max_grad_norm": 0}
    told = r"training diverged: .* take a smaller learning_rate than 1e\+30, or clip gradients with max_grad_norm 1"
    with pytest.raises(UserError, match=told):
        train(**settings, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out" / "config.json").exists()


def test_logits_that_are_not_finite_are_no_finished_model(tmp_path):
    """Though all weights are finite."""
    for split in ("train", "dev", "test"):
        lines = (Path(__file__).parents[2] / "data" / "tweets" / f"{split}.tsv").read_text("utf-8").split("\n")
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines[:80]) + "\n", "utf-8")
    settings = {"cell_type": "rnn_relu", "learning_rate": 100, "optim": "sgd", "max_grad_norm": 0, "use_cpu": True}
    with pytest.raises(UserError, match="80 of 80 rows have logits that are not finite.* lower learning_rate"):
        train(data_dir=str(tmp_path), output_dir=str(tmp_path / "out"), hidden_size=4, embedding_size=4, **settings)
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"calibrate": True},
        {"eval_strategy": "no", "load_best_model_at_end": False, "early_stopping_patience": 0},
    ],
    ids=["best epoch", "calibrated", "last epoch"],
)
def test_an_absurd_loss_is_no_finished_model(tiny_settings, tmp_path, changed):
    with pytest.raises(UserError, match="diverged: the validation loss is .* smaller learning_rate than 1000"):
        train(**{**tiny_settings, "learning_rate": 1000, **changed}, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("training", "validation", "told"),
    [(109, 109, None), (111, 1, "warns"), (1, 111, "validation loss"), (math.nan, 1, "training loss is nan")]
    + [(111, None, "training loss is 111")],
)
def test_a_loss_is_judged_by_that_of_guessing(trained, tiny_settings, caplog, training, validation, told):
    """Of three classes: ln(3) is 1.0986. A validation loss that is fine tells that the epoch kept is."""
    model = AutoModelForSequenceClassification.from_pretrained(trained.folder)
    arguments = parse_settings({**tiny_settings, "output_dir": "out"}).training
    metrics = {"training": {"loss": training}} | ({} if validation is None else {"validation": {"loss": validation}})
    refused = told not in (None, "warns")
    with pytest.raises(UserError, match=told) if refused else contextlib.nullcontext():
        check_loss(metrics, model, arguments)
    assert ("diverged" in caplog.text) == (told == "warns")


@pytest.mark.parametrize(
    ("name", "size"),
    [("weight_decay", 1e30), ("embedding_initializer_range", 1e38), ("embedding_learning_rate", 1e38)],
)
def test_a_training_that_diverged_blames_what_was_set(tiny_settings, tmp_path, name, size):
    """With gradients clipped already, as the recipe has it."""
    settings = {**tiny_settings, "num_train_epochs": 1, name: size}
    told = rf"take a smaller learning_rate than 0\.02, or take a smaller {name} than {re.escape(f'{size:g}')}$"
    with pytest.raises(UserError, match=told):
        train(**settings, output_dir=str(tmp_path / "out"))


def test_resuming_goes_on(copy_of_trained, trained, tiny_settings):
    newest = max((copy_of_trained / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(newest)  # as if it had been stopped in the fourth epoch
    (copy_of_trained / "config.json").unlink()
    result = train(**tiny_settings, resume=True, output_dir=str(copy_of_trained))
    assert result.metrics["training"]["steps"] == trained.metrics["training"]["steps"]
    assert result.metrics["validation"] == trained.metrics["validation"]
    assert same_weights(copy_of_trained, trained.folder)


def test_what_a_resumed_run_took_counts_what_it_took_before(tiny_settings, tmp_path, monkeypatch):
    """In `metrics.json` and card, beside epochs and steps that are the whole run's too."""
    hours = itertools.count()
    monkeypatch.setattr(resumable_trainer, "time", SimpleNamespace(monotonic=lambda: 3600.0 * next(hours)))
    folder = FinishedFolder(tmp_path / "out")
    settings = {**tiny_settings, "num_train_epochs": 3, "output_dir": str(folder.root)}
    first = train(**settings)
    assert first.metrics["training"]["seconds"] < 3600, "premise: the Trainer's clock is another"
    shutil.rmtree(checkpoints.list_checkpoints(folder.checkpoints)[0])
    for before in (2, 3):  # an hour to each save: of the second epoch, and in the second sitting of the third
        folder.config.unlink()
        resumed = train(**settings, resume=True)
        assert resumed.metrics["training"]["steps"] == first.metrics["training"]["steps"]
        assert resumed.metrics["training"]["seconds"] // 3600 == before
        assert re.search(rf"3 epochs, \d+ steps in {3600 * before:,} seconds", folder.card.read_text())


def test_resuming_batches_of_so_many_tokens(tiny_settings, tmp_path):
    """To the same weights, but not with another budget."""
    settings = {**tiny_settings, "num_train_epochs": 3, "tokens_per_batch": 130}
    whole = train(**settings, output_dir=str(tmp_path / "whole"))
    folder = FinishedFolder(tmp_path / "cut")
    shutil.copytree(whole.folder, folder.root)
    newest = checkpoints.list_checkpoints(folder.checkpoints)[0]
    assert whole.metrics["training"]["steps"] == int(newest.name.split("-")[1]) > 3, "premise: the last step is saved"
    shutil.rmtree(newest)
    folder.config.unlink()
    again = {"resume": True, "output_dir": str(folder.root)}
    with pytest.raises(UserError, match=r"has changed: tokens_per_batch \(was 130, now 131\)"):
        train(**{**settings, "tokens_per_batch": 131}, **again)
    resumed = train(**settings, **again)
    assert same_weights(resumed.folder, whole.folder)
    assert resumed.metrics["validation"] == whole.metrics["validation"]


def test_a_token_budget_is_no_budget_of_an_earlier_version(trained):
    """Whose checkpoints do not name it, as they name no setting that is newer than they are."""
    made_from = checkpoints.read_manifest(checkpoints.list_checkpoints(trained.folder / "checkpoints")[0])["made_from"]
    before, now = copy.deepcopy(made_from), copy.deepcopy(made_from)
    assert before["settings"].pop("tokens_per_batch", "absent") is None
    assert compare(trained.folder, before, now) == []
    now["settings"]["tokens_per_batch"] = 130
    assert compare(trained.folder, before, now) == ["tokens_per_batch (was null, now 130)"]


@pytest.mark.slow
def test_two_processes_with_a_token_budget_are_one_that_accumulates(tiny_settings, tmp_path):
    """Two batches a step either way, as their number is even (else two processes halve one of them).

    Judged by the files: torch sometimes aborts such processes when all is done.
    """
    settings = {**tiny_settings, "word_dropout": 0, "embedding_dropout": 0, "num_train_epochs": 2}
    settings |= {"tokens_per_batch": 130, "logging_strategy": "steps", "logging_steps": 1}
    losses = []
    for processes in (1, 2):
        folder = FinishedFolder(tmp_path / str(processes))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
        flags = {**settings, "gradient_accumulation_steps": 2 // processes, "output_dir": folder.root}
        command = [sys.executable, *launcher, "-m", "hf_rnn", "train"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert folder.config.is_file(), done.stderr
        newest = checkpoints.list_checkpoints(folder.checkpoints)[0]
        history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
        losses.append([entry["loss"] for entry in history if "loss" in entry])
    assert len(losses[0]) > 10 and losses[0][-1] < losses[0][0] - 0.2, "premise: it learns"
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_nothing_to_resume(tiny_settings, tmp_path):
    with pytest.raises(UserError, match="no checkpoint in .*out.checkpoints: leave out --resume"):
        train(**tiny_settings, resume=True, output_dir=str(tmp_path / "out"))


def test_an_output_folder_that_is_a_file(tiny_settings, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is a file"):
        train(**tiny_settings, output_dir=str(tmp_path / "out"))


@pytest.mark.parametrize("where", ["while training", "while finishing"])
def test_an_interrupted_run_does_not_look_finished(tiny_settings, tmp_path, monkeypatch, where):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    if where == "while training":
        monkeypatch.setattr(hf_rnn.training.trainer.RnnTrainer, "predict", interrupt)
    else:  # the weights are written by then, the card is not
        monkeypatch.setattr(hf_rnn.hub.card.files, "render", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(**{**tiny_settings, "num_train_epochs": 1}, output_dir=str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoints"]
    with pytest.raises(UserError, match="--resume"):
        FinishedFolder(tmp_path / "out").check()


def test_rejected_rows_stand_in_no_later_runs_way(tiny_settings, texts_dir, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(texts_dir, bad)
    with (bad / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("one\tplain\ttoo many\nno label\t\n")
    settings = {**tiny_settings, "num_train_epochs": 1, "data_dir": str(bad), "output_dir": str(tmp_path / "out")}
    with pytest.raises(UserError, match="train.tsv:241"):
        train(**settings)
    with pytest.raises(UserError, match="one bad row more"):
        train(**settings, max_bad_rows="1")
    result = train(**settings, max_bad_rows="2")
    assert result.metrics["training"]["rows"] == 240
    assert len((result.folder / "rejected.jsonl").read_text().splitlines()) == 2


def test_training_in_a_thread(tiny_settings, tmp_path):
    settings = {**tiny_settings, "num_train_epochs": 1, "output_dir": str(tmp_path / "out")}
    with ThreadPoolExecutor() as threads:
        result = threads.submit(train, **settings).result()
    FinishedFolder(result.folder).check_finished()


def test_trainings_in_threads_are_those_of_one_after_the_other(trained, tiny_settings, tmp_path):
    folders = [str(tmp_path / name) for name in ("one", "other")]
    with ThreadPoolExecutor() as threads:
        results = list(threads.map(lambda folder: train(**tiny_settings, output_dir=folder), folders))
    assert all(same_weights(trained.folder, result.folder) for result in results)


@pytest.mark.skipif(sys.platform == "win32", reason="it has no fork")
def test_a_fork_may_train_though_a_thread_that_it_lacks_does():
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(int(not may_train())))
    begun, done = threading.Event(), threading.Event()

    def hold():
        with one_at_a_time():
            begun.set()
            done.wait()

    with ThreadPoolExecutor() as threads:
        threads.submit(hold)
        begun.wait()
        assert not may_train(), "premise"
        child.start()
        done.set()
    child.join(20)
    child.kill()
    assert child.exitcode == 0


# ---- mistakes that need no data to be found ----


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"data_dir": None}, "data_dir is not set"),
        ({"data_dir": "nowhere"}, "data_dir nowhere does not exist"),
        ({"hidden_size": 0}, "^hidden_size must be at least 1, found 0"),
        ({"embedding_dropout": 1.5}, "^embedding_dropout must be at least 0 and below 1, found 1.5"),
        (
            {"metric_for_best_model": "macro_recal"},
            "metric_for_best_model 'macro_recal' is not known: take one of .*macro_recall",
        ),
        ({"greater_is_better": False}, "greater_is_better False would keep the worst epoch by macro_f1: leave it out"),
        (
            {"greater_is_better": True, "metric_for_best_model": "eval_loss"},
            "greater_is_better True would keep the worst epoch by eval_loss",
        ),
        ({"sparse_embedding": True, "optim": "adafactor"}, "sparse_embedding gives sparse gradients"),
        ({"tokenizer_name_or_path": "./nowhere"}, "no folder ./nowhere: give the folder of a tokenizer"),
        ({"normalizer": "tweeet"}, "tweet"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint 'x' cannot be followed: --resume goes on"),
        ({"label_names": ["a"]}, r"label_names \['a'\] cannot be followed"),
        ({"prediction_loss_only": True}, "prediction_loss_only True cannot be followed"),
        ({"gradient_checkpointing": True}, "checkpointing True cannot be followed"),
        ({"bf16_full_eval": True}, "bf16_full_eval True cannot be followed: it leaves the model in half precision"),
        (
            {"dataloader_persistent_workers": True, "dataloader_num_workers": 2},
            "persistent_workers True cannot be followed: .* would take other steps",
        ),
        pytest.param(
            {"dataloader_in_order": False, "dataloader_num_workers": 2},
            "dataloader_in_order False cannot be followed: .* another order each time",
            marks=pytest.mark.skipif(not hasattr(RnnTrainingArguments, "dataloader_in_order"), reason="not in 5.8"),
        ),
        ({"label_smoothing_factor": -0.1}, "label_smoothing_factor must be from 0 to 1, found -0.1"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm must be finite and not negative, found nan"),
        ({"weight_decay": float("inf")}, "weight_decay must be finite"),
        ({"adam_beta2": 1.0}, "adam_beta2 must be at least 0 and less than 1, found 1.0"),
        ({"max_steps": 0}, "max_steps must be greater than 0"),
        ({"eval_accumulation_steps": 0}, "eval_accumulation_steps must be at least 1, found 0"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers must be from 0 to 256, found -1"),
        ({"dataloader_num_workers": 257}, "dataloader_num_workers must be from 0 to 256, found 257"),
        (
            {"tokens_per_batch": 200, "streaming": True, "max_steps": 5},
            "a stream does not tell: leave out streaming, or tokens_per_batch",
        ),
    ],
)
def test_early_mistakes(tiny_settings, tmp_path, mistake, message):
    with pytest.raises(UserError, match=message):
        train(**{**tiny_settings, **mistake}, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"torch_compile_mode": "quick"}, "Unrecognized mode=quick, should be one of: default"),
        ({"torch_compile_backend": "foo"}, "is not a valid DynamoBackend"),
    ],
)
def test_what_the_compiler_does_not_know_is_told_before_training(tiny_settings, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        train(**{**tiny_settings, **settings}, output_dir=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("settings", "told"), [({"eval_delay": 99}, True), ({"load_best_model_at_end": False}, False)]
)
def test_where_the_last_epoch_is_kept_the_card_claims_no_best_one(tiny_settings, tmp_path, caplog, settings, told):
    result = train(**{**tiny_settings, **settings}, output_dir=str(tmp_path / "out"))
    assert result.card.best_metric is None
    assert "was kept" not in (result.folder / "README.md").read_text()
    assert ("no epoch was measured before training ended" in caplog.text) is told


def test_an_empty_output_dir_is_not_the_folder_one_is_in(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="output_dir is empty: give the folder"):
        train(**tiny_settings, output_dir="", overwrite_output_dir=True)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_a_newer_library_is_one_line(tiny_settings, trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "newer", ignore=shutil.ignore_patterns("checkpoints"))
    content = json.loads((tmp_path / "newer" / "tokenizer.json").read_text())
    content["model"]["type"] = "Unheard"
    (tmp_path / "newer" / "tokenizer.json").write_text(json.dumps(content))
    settings = {**tiny_settings, "tokenizer_name_or_path": str(tmp_path / "newer")}
    with pytest.raises(UserError, match="the tokenizer .*newer cannot be loaded: "):
        train(**settings, output_dir=str(tmp_path / "out"))


@pytest.mark.parametrize("way", ["tokenizer_name_or_path", "model_name_or_path", "vectors", "teacher"])
def test_a_damaged_tokenizer_is_told_with_its_file(tiny_settings, trained, tmp_path, way):
    """The library tells a line of a file, and not of which."""
    shutil.copytree(trained.folder, tmp_path / "torn", ignore=shutil.ignore_patterns("checkpoints"))
    torn = tmp_path / "torn" / "tokenizer.json"
    torn.write_text(torn.read_text()[:900])
    settings = {**tiny_settings, way: str(tmp_path / "torn"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"torn cannot be loaded, because of tokenizer\.json: .* line \d+"):
        (distill if way == "teacher" else train)(**settings)


def test_a_folder_of_models_is_no_tokenizer(tiny_settings, trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "crew" / "fold-1", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match=r"crew holds no tokenizer\. Did you mean .*fold-1\?"):
        train(**tiny_settings, tokenizer_name_or_path=str(tmp_path / "crew"), output_dir=str(tmp_path / "out"))


def test_result_is_frozen(trained):
    with pytest.raises(dataclasses.FrozenInstanceError):
        trained.folder = None
