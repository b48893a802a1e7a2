"""Training in two processes equals training in one: the same losses, numbers and files, each row counted once.

gloo on CPUs. torch sometimes aborts such processes at their very end (`terminate called without an active
exception`), so their files are checked, not their exit codes.
"""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import LABELS, invent_rows, write_rows

from hf_rnn.hub.loading import load_model
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.training.checkpointing import manifest as checkpoints

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ROWS = {"train": 240, "dev": 61, "test": 67}
PER_STEP, PER_EVALUATION = 16, 8  # rows per step in all processes; rows per evaluation batch in each

SETTINGS = {
    "recipe": "scratch",
    "embedding_size": 16,
    "hidden_size": 8,
    "min_frequency": 1,
    "word_dropout": 0,
    "embedding_dropout": 0,
    "num_train_epochs": 3,
    "per_device_eval_batch_size": PER_EVALUATION,
    "learning_rate": 0.02,
    "train_sampling_strategy": "sequential",
    "logging_strategy": "steps",
    "logging_steps": 1,
    "save_total_limit": 3,
}


@pytest.fixture(scope="module")
def noisy_dir(tmp_path_factory):
    """Texts with a random label in every sixth row, so that no score is perfect."""
    folder, chance = tmp_path_factory.mktemp("noisy"), random.Random(0)
    for number, (split, count) in enumerate(ROWS.items()):
        rows = invent_rows(count, seed=number)
        rows = [(text, chance.choice(LABELS) if chance.random() < 1 / 6 else label) for text, label in rows]
        write_rows(folder / f"{split}.tsv", rows)
    return folder


def launch(processes, *arguments):
    launcher = TORCHRUN if processes == 2 else []
    command = [sys.executable, *launcher, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def run_command(verb, processes, output_dir, *further, **settings):
    settings = {**SETTINGS, "output_dir": output_dir, "per_device_train_batch_size": PER_STEP // processes, **settings}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    done = launch(processes, "-m", "hf_rnn", verb, *flags, *further)
    folder = FinishedFolder(output_dir)
    assert folder.config.is_file(), done.stderr
    return folder, done


@pytest.fixture(scope="module")
def runs(noisy_dir, tmp_path_factory):
    """The finished folder and the finished process, by number of processes."""
    root = tmp_path_factory.mktemp("runs")
    return {
        processes: run_command("train", processes, root / str(processes) / "model", data_dir=noisy_dir)
        for processes in (1, 2)
    }


TAGS = {"recipe": "token-classification-scratch", "hidden_dropout": 0, "classifier_dropout": 0}
TEXT = {"recipe": "lm", "bptt": 16, "classifier_dropout": 0}


@pytest.mark.parametrize(("task", "settings"), [("token-classification", TAGS), ("causal-lm", TEXT)])
def test_taggers_and_language_models_have_the_same_losses(task, settings, tagged_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tagged_dir, data)
    for path in data.glob("*.conll"):
        path.with_suffix(".txt").write_text(path.read_text())
    settings = {**settings, "task": task, "data_dir": data}
    one, two = (run_command("train", n, tmp_path / str(n) / "model", **settings)[0] for n in (1, 2))
    losses = logged(one, "loss")
    assert logged(two, "loss") == pytest.approx(losses, abs=1e-4) and losses[-1] < losses[0]
    found, expected = (json.loads(folder.metrics.read_text())["test"] for folder in (two, one))
    if task == "token-classification":  # its evaluation loss is a mean over batches, which are others in two processes
        del found["loss"], expected["loss"]
        found, expected = ({k: v for k, v in scores.items() if isinstance(v, float)} for scores in (found, expected))
    assert len(found) > 2 and found == pytest.approx(expected, rel=1e-4)


def history(folder):
    newest = checkpoints.list_checkpoints(folder.checkpoints)[0]
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


def logged(folder, key):
    return [entry[key] for entry in history(folder) if key in entry]


def test_losses_and_scores_are_the_same(runs):
    one, two = (runs[processes][0] for processes in (1, 2))
    losses = logged(one, "loss")
    assert len(losses) == 3 * ROWS["train"] / PER_STEP and losses[-1] < losses[0] - 0.2, "premise: it learns"
    assert ROWS["dev"] % (2 * PER_EVALUATION), "premise: the last evaluation batch is filled up"
    for key in ("loss", "grad_norm", "train_accuracy", "learning_rate", "eval_accuracy", "eval_macro_f1"):
        assert logged(two, key) == pytest.approx(logged(one, key), abs=1e-5), key


def test_the_folders_are_the_same(runs):
    """Checkpoints are complete, and one process prints the result."""
    (one, _), (two, done) = runs[1], runs[2]
    assert {path.name for path in one.root.iterdir()} == {path.name for path in two.root.iterdir()}
    for processes, folder in ((1, one), (2, two)):
        steps = [checkpoints.step_of(path) for path in checkpoints.list_checkpoints(folder.checkpoints)]
        assert steps == [ROWS["train"] // PER_STEP * epoch for epoch in (3, 2, 1)]
        for checkpoint in folder.checkpoints.iterdir():
            checkpoints.check_states(checkpoint, processes)
    for path in (one.config, one.tokenizer, one.tokenizer_config):
        assert (two.root / path.name).read_bytes() == path.read_bytes()
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [record["output_dir"] for record in records] == [str(two.root)]
    weights = load_model(two.root)[0].state_dict()
    torch.testing.assert_close(weights, load_model(one.root)[0].state_dict(), atol=1e-4, rtol=0)


def test_a_resumed_run_equals_an_uninterrupted_one(runs, noisy_dir, tmp_path):
    whole, folder = runs[2][0], tmp_path / "model"
    shutil.copytree(whole.root, folder)
    shutil.rmtree(checkpoints.list_checkpoints(folder / "checkpoints")[0])
    (folder / "config.json").unlink()
    resumed, _ = run_command("train", 2, folder, "--resume", data_dir=noisy_dir)
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()
    for key in ("loss", "train_accuracy", "eval_loss"):
        assert logged(resumed, key) == logged(whole, key)
