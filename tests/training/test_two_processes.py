"""Training in two processes equals training in one: the same weights, scores and files.

gloo on CPUs. torch sometimes aborts such processes at their very end (`terminate called without an
active exception`), so their files are checked, not their exit codes.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time

import pytest
import torch
from conftest import LABELS, invent_rows, write_rows

from hf_rnn.cli.main import main
from hf_rnn.hub.model_folder import FinishedFolder, load_model

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ROWS = {"train": 240, "dev": 61, "test": 67}
# rows per step in all processes; rows per evaluation batch in each
PER_STEP, PER_EVALUATION = 16, 8

SETTINGS = {
    "recipe": "scratch",
    "embedding_size": 16,
    "hidden_size": 8,
    "min_frequency": 1,
    "word_dropout": 0,
}
SETTINGS |= {
    "embedding_dropout": 0,
    "num_train_epochs": 3,
    "per_device_eval_batch_size": PER_EVALUATION,
}
SETTINGS |= {"learning_rate": 0.02, "train_sampling_strategy": "sequential", "baselines": False}


@pytest.fixture(scope="module")
def noisy_dir(tmp_path_factory):
    """Texts with a random label in every sixth row, so that no score is perfect."""
    folder, chance = tmp_path_factory.mktemp("noisy"), random.Random(0)
    for number, (split, count) in enumerate(ROWS.items()):
        rows = invent_rows(count, seed=number)
        rows = [
            (text, chance.choice(LABELS) if chance.random() < 1 / 6 else label)
            for text, label in rows
        ]
        write_rows(folder / f"{split}.tsv", rows)
    return folder


def command_line(output_dir, *further, processes=2, **settings):
    settings = {
        **SETTINGS,
        "output_dir": output_dir,
        "per_device_train_batch_size": PER_STEP // processes,
        **settings,
    }
    return ["train", *(f"--{name}={value}" for name, value in settings.items()), *further]


def run_two(*arguments, **settings):
    """Train in two processes; return the finished folder and the output."""
    line = command_line(*arguments, **settings)
    command = [sys.executable, *TORCHRUN, "-m", "hf_rnn", *line]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    folder = FinishedFolder(arguments[0])
    assert folder.config.is_file(), done.stderr
    return folder, done.stdout


def run_both(root, **settings):
    """Train in this process, then in two; return the folders, and the output of the latter."""
    assert main(command_line(root / "1" / "model", processes=1, **settings)) == 0
    two, out = run_two(root / "2" / "model", **settings)
    return FinishedFolder(root / "1" / "model"), two, out


def read_scores(folder, split="test"):
    """Return the scores of a split, except the loss of taggers, a mean over other batches."""
    scores = json.loads(folder.metrics.read_text())[split]
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def test_two_processes_train_the_model_of_one(noisy_dir, tmp_path, monkeypatch, _figures):
    """The same weights, scores and files, each row counted once; one process prints the result."""
    monkeypatch.setattr("hf_rnn.training.save.draw_figures", _figures)
    one, two, out = run_both(tmp_path, data_dir=noisy_dir)
    assert ROWS["dev"] % (2 * PER_EVALUATION), "premise: the last evaluation batch is not full"
    for split in ("validation", "test"):
        assert read_scores(two, split) == pytest.approx(read_scores(one, split), abs=1e-4)
    metrics = [json.loads(folder.metrics.read_text()) for folder in (one, two)]
    assert metrics[0]["test"]["confusion_matrix"] == metrics[1]["test"]["confusion_matrix"]
    assert metrics[0]["training"]["loss"] == pytest.approx(metrics[1]["training"]["loss"], abs=1e-4)
    assert metrics[0]["test"]["accuracy"] > 0.6, "premise: it learns"
    assert {path.name for path in one.root.iterdir()} == {path.name for path in two.root.iterdir()}
    for path in (one.config, one.tokenizer, one.tokenizer_config):
        assert (two.root / path.name).read_bytes() == path.read_bytes()
    records = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [record["output_dir"] for record in records] == [str(two.root)]
    weights = load_model(two.root)[0].state_dict()
    torch.testing.assert_close(weights, load_model(one.root)[0].state_dict(), atol=1e-3, rtol=0)


TAGS = {"recipe": "token-classification-scratch", "hidden_dropout": 0, "classifier_dropout": 0}
TEXT = {"recipe": "lm", "block_size": 16, "classifier_dropout": 0}


@pytest.mark.parametrize(
    ("task", "settings"), [("token-classification", TAGS), ("causal-lm", TEXT)]
)
def test_taggers_and_language_models_have_the_same_scores(task, settings, tagged_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tagged_dir, data)
    for path in data.glob("*.conll"):
        path.with_suffix(".txt").write_text(path.read_text())
    one, two, _ = run_both(tmp_path, **settings, task=task, data_dir=data)
    expected = read_scores(one)  # the last batch has other rows
    assert read_scores(two) == pytest.approx(expected, rel=1e-2) and len(expected) > 2


def test_a_stopped_run_resumes_bit_for_bit(noisy_dir, tmp_path):
    """SIGTERM to the launcher in the second epoch; batches of similar lengths."""
    settings = {
        "data_dir": noisy_dir,
        "train_sampling_strategy": "group_by_length",
        "word_dropout": 0.2,
    }
    settings |= {"num_train_epochs": 8, "early_stopping_patience": 0}
    whole, _ = run_two(tmp_path / "whole", **settings)
    command = [
        sys.executable,
        *TORCHRUN,
        "-m",
        "hf_rnn",
        *command_line(tmp_path / "cut", **settings),
    ]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("cut/checkpoints/checkpoint-15")) and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert "--resume" in err and not (tmp_path / "cut" / "config.json").exists(), err
    resumed, _ = run_two(tmp_path / "cut", "--resume", **settings)
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()
