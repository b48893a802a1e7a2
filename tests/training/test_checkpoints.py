"""Checkpoints are complete or invalid, and a resumed run equals an uninterrupted one, bit for bit."""

import json
import logging
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import invent_rows, write_rows

from hf_rnn.training.checkpointing.manifest import (
    DamagedCheckpoint,
    find_newest,
    list_checkpoints,
    read_manifest,
    remove,
    rotate,
    step_of,
    verify,
    write_manifest,
)
from hf_rnn.training.checkpointing.resumable_trainer import SavePoints, StopRequest, TrainingStopped
from hf_rnn.training.train import train
from hf_rnn.utils.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "inject_faults.py"
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth")


def make_checkpoint(folder, step, best_step=None, files=FILES):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in files:
        (checkpoint / name).write_bytes(f"{name} after {step} steps".encode())
    write_manifest(checkpoint, best_step=best_step)
    return checkpoint


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# ---- files ----


@pytest.mark.parametrize("damage", [truncate, Path.unlink, flip_bit])
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_any_damage_is_found_and_the_previous_checkpoint_is_used(tmp_path, caplog, name, damage):
    older, newest = make_checkpoint(tmp_path, 9), make_checkpoint(tmp_path, 10)
    assert find_newest(tmp_path) == newest, "by number, not by name"
    damage(newest / name)
    with caplog.at_level(logging.WARNING):
        assert find_newest(tmp_path) == older
    (line,) = caplog.messages
    assert "checkpoint-9" in line and "skipped checkpoint-10" in line and name in line
    damage(older / name)
    with pytest.raises(UserError, match=r"no checkpoint in .* checkpoint-10 \(.*checkpoint-9 \(.*--overwrite"):
        find_newest(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_without_a_state_is_not_resumed(tmp_path, name):
    make_checkpoint(tmp_path, 8, files=[other for other in FILES if other != name])
    with pytest.raises(UserError, match=rf"checkpoint-8 \(it was saved without {name}"):
        find_newest(tmp_path)


def test_each_process_needs_its_random_state(tmp_path):
    files = [*FILES[:4], "rng_state_0.pth"]
    make_checkpoint(tmp_path, 8, files=files)
    with pytest.raises(UserError, match=r"saved without rng_state_1.pth"):
        find_newest(tmp_path, processes=2)
    complete = make_checkpoint(tmp_path, 9, files=[*files, "rng_state_1.pth"])
    assert find_newest(tmp_path, processes=2) == complete


def test_a_damaged_best_checkpoint_is_not_loaded_at_the_end(tmp_path):
    best, newest = make_checkpoint(tmp_path, 1, best_step=1), make_checkpoint(tmp_path, 2, best_step=1)
    assert find_newest(tmp_path, needs_best=True) == newest
    flip_bit(best / "model.safetensors")
    assert find_newest(tmp_path) == newest
    with pytest.raises(UserError, match="its best, checkpoint-1: model.safetensors is damaged"):
        find_newest(tmp_path, needs_best=True)


@pytest.mark.parametrize(
    ("steps", "best", "limit", "kept"),
    [
        ([1, 2, 3], {}, 2, [2, 3]),
        ([1, 2, 3], {3: 1, 2: 1, 1: 1}, 2, [1, 3]),  # the best is kept
        ([1, 2, 3], {3: 3, 2: 1, 1: 1}, 2, [1, 3]),  # 2 would be useless without its best
    ],
)
def test_which_checkpoints_are_kept(tmp_path, steps, best, limit, kept):
    for step in steps:
        make_checkpoint(tmp_path, step, best.get(step))
    rotate(tmp_path / f"checkpoint-{steps[-1]}", limit)
    assert list_checkpoints(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in sorted(kept)[::-1]]


def test_incomplete_and_later_checkpoints_are_never_kept(tmp_path):
    for step in (1, 2, 4, 5):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-4" / "manifest.json").unlink()  # killed while it was written; 5 is of an abandoned run
    (tmp_path / "checkpoint-2" / "optimizer.pt").unlink()
    (tmp_path / "runs").mkdir()
    (tmp_path / "checkpoint-7").write_text("mine")
    rotate(make_checkpoint(tmp_path, 3), 2)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-3", "checkpoint-7", "runs"}


def test_interrupted_writes_and_removals_leave_nothing_valid(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    checkpoint = make_checkpoint(tmp_path, 8)
    (checkpoint / "manifest.json").unlink()  # killed before the last step
    with pytest.raises(DamagedCheckpoint, match="incomplete"):
        read_manifest(checkpoint)
    write_manifest(checkpoint)
    assert set(verify(checkpoint)["files"]) == set(FILES)
    monkeypatch.setattr(shutil, "rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        remove(checkpoint)
    with pytest.raises(DamagedCheckpoint, match="incomplete"):
        read_manifest(checkpoint)


# ---- signals ----


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_request_interrupts_at_once(first):
    with StopRequest() as request:
        signal.raise_signal(first)
        assert request.number == first
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert request.number == first
    with request:
        assert request.number == 0


# ---- runs ----


def outcome(folder):
    """Return what two equal runs share: weights, scores, log and last states, without times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["training"].pop("seconds")
    newest = list_checkpoints(folder / "checkpoints")[0]
    state = json.loads((newest / "trainer_state.json").read_text())
    progress = read_manifest(newest)["progress"]
    assert progress.pop("seconds") > 0
    log = [
        {name: value for name, value in entry.items() if not name.endswith(("runtime", "per_second"))}
        for entry in state["log_history"]
    ]
    return {
        **{name: (newest / name).read_bytes() for name in FILES if name != "trainer_state.json"},
        "weights": (folder / "model.safetensors").read_bytes(),
        "metrics": metrics,
        "log": log,
        "progress": progress,
        "callbacks": state["stateful_callbacks"],
        "best": (state["best_metric"], state["best_global_step"]),
    }


def signal_at(step, number=signal.SIGTERM):
    """Send this process a signal in the middle of a step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == step - 1:
            os.kill(os.getpid(), number)

    return on_step_begin


def run_until(step, settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(SavePoints, "on_step_begin", signal_at(step))
        with pytest.raises(TrainingStopped) as stopped:
            train(**settings)
    return stopped.value


@pytest.fixture
def copy_of_trained(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "copy")
    return tmp_path / "copy"


# within the second epoch of 15 steps, and in its last step
@pytest.mark.parametrize(
    ("whole", "settings", "step"),
    [
        ("trained", "tiny_settings", 22),
        pytest.param("trained", "tiny_settings", 30, marks=pytest.mark.slow),
        pytest.param("tagger", "tagger_settings", 14, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(request, tmp_path, monkeypatch, whole, settings, step):
    trained, settings = request.getfixturevalue(whole), request.getfixturevalue(settings)
    settings, handler = {**settings, "output_dir": str(tmp_path / "out")}, signal.getsignal(signal.SIGTERM)
    stopped = run_until(step, settings, monkeypatch)
    assert stopped.checkpoint == tmp_path / "out" / "checkpoints" / f"checkpoint-{step}"
    assert stopped.exit_code == 143 and "resume=True" in str(stopped)
    assert signal.getsignal(signal.SIGTERM) is handler
    torch.rand(7)  # the state of the generators must not matter
    assert outcome(train(**settings, resume=True).folder) == outcome(trained.folder)


@pytest.mark.slow
def test_a_run_with_workers_resumes_bit_for_bit(tiny_settings, tmp_path, monkeypatch):
    settings = {**tiny_settings, "num_train_epochs": 2, "dataloader_num_workers": 1}
    whole = train(**settings, output_dir=str(tmp_path / "whole")).folder
    run_until(22, {**settings, "output_dir": str(tmp_path / "out")}, monkeypatch)
    assert outcome(train(**settings, output_dir=str(tmp_path / "out"), resume=True).folder) == outcome(whole)


def test_a_run_that_stopped_early_takes_no_further_step(tiny_settings, tmp_path):
    settings = {**tiny_settings, "learning_rate": 0.0, "num_train_epochs": 9, "early_stopping_patience": 2}
    settings["output_dir"] = str(tmp_path / "out")
    first = train(**settings)
    assert first.metrics["training"]["epochs"] == 3
    before = outcome(first.folder)
    (first.folder / "config.json").unlink()
    (first.folder / ".unfinished-1").mkdir()  # as if killed while it wrote the finished folder
    assert outcome(train(**settings, resume=True).folder) == before
    assert not (first.folder / ".unfinished-1").exists()


def test_another_run_is_not_resumed(copy_of_trained, tiny_settings, tmp_path, caplog):
    settings = {**tiny_settings, "output_dir": str(copy_of_trained)}
    with pytest.raises(UserError, match=r"label_smoothing_factor \(was .*, now 0.3\)\. .*--resume_anyway"):
        train(**{**settings, "label_smoothing_factor": 0.3}, resume=True)
    with pytest.raises(UserError, match="learning_rate"):  # it is in the optimizer's state
        train(**{**settings, "learning_rate": 0.01}, resume_anyway=True)
    shutil.copytree(tiny_settings["data_dir"], tmp_path / "texts")
    rows = invent_rows(240, seed=1)
    write_rows(tmp_path / "texts" / "train.tsv", [(rows[0][0], "good"), *rows[1:]])
    with pytest.raises(UserError, match="the texts or their labels"):
        train(**{**settings, "data_dir": str(tmp_path / "texts")}, resume=True)
    with pytest.raises(UserError, match="does not match this run: .*size mismatch"):
        train(**{**settings, "hidden_size": 9}, resume_anyway=True)
    assert outcome(copy_of_trained)["metrics"]["training"]["epochs"] == 4, "nothing has changed"
    result = train(**{**settings, "num_train_epochs": 5}, resume_anyway=True)
    assert result.metrics["training"]["epochs"] == 5
    assert "num_train_epochs (was 4.0, now 5.0)" in caplog.text


def test_settings_without_effect_on_the_steps_may_change(trained, tiny_settings, tmp_path):
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(trained.folder, moved)
    shutil.copytree(tiny_settings["data_dir"], tmp_path / "texts")
    shutil.rmtree(list_checkpoints(moved / "checkpoints")[0])
    settings = {**tiny_settings, "data_dir": str(tmp_path / "texts"), "output_dir": str(moved), "save_total_limit": 5}
    assert outcome(train(**settings, resume=True).folder) == outcome(trained.folder)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_states_never_run_code(copy_of_trained, tiny_settings, tmp_path, name):
    newest, older = list_checkpoints(copy_of_trained / "checkpoints")
    if name == "rng_state.pth":  # a finished run does not read it
        shutil.rmtree(newest)
        newest = older
    manifest = read_manifest(newest)
    torch.save(Trap(tmp_path / "trapped"), newest / name)
    write_manifest(newest, best_step=manifest["best_step"], made_from=manifest["made_from"])
    with pytest.raises((UserError, pickle.UnpicklingError), match="Weights only load failed"):
        train(**tiny_settings, resume=True, output_dir=str(copy_of_trained))
    assert not (tmp_path / "trapped").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "trapped")))
    assert (tmp_path / "trapped").exists(), "premise: the trap works"


def test_a_full_disk_leaves_earlier_checkpoints(tiny_settings, tmp_path, monkeypatch):
    settings, save = {**tiny_settings, "output_dir": str(tmp_path / "out")}, torch.save

    def fail(content, path, *args, **kwargs):
        if "checkpoint-45" in str(path):
            raise OSError(28, "No space left on device")
        return save(content, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match=r"checkpoint-45 could not be written: .*No space left on device.*--resume"):
        train(**settings)
    newest = list_checkpoints(tmp_path / "out" / "checkpoints")[0]
    assert step_of(newest) == 30 and verify(newest)


# ---- the command ----


def test_ctrl_c_prints_the_command_that_resumes(command, tiny_settings, trained, tmp_path, monkeypatch):
    """Without tokens and without overwriting; under torchrun with torchrun."""
    flags = [f"--{name}={value}" for name, value in tiny_settings.items()]
    flags += [f"--output_dir={tmp_path / 'an out'}", "--overwrite_output_dir", "--hub_token", "hf_secret"]
    with monkeypatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "1")
        patch.setattr(SavePoints, "on_step_begin", signal_at(20, signal.SIGINT))
        code, out, err = command("train", *flags)
    assert (code, out) == (130, "") and "hf_secret" not in err
    (line,) = [line for line in err.splitlines() if "--resume" in line]
    typed = shlex.split(line.split(": ")[-1])
    assert typed[:4] == ["torchrun", "...", "hf-rnn", "train"]
    code, _, err = command(*typed[3:])
    assert code == 0, err
    assert outcome(tmp_path / "an out") == outcome(trained.folder)


def inject(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=1500)
    assert done.returncode == 0, done.stderr
    return {row["fault"]: row for row in json.loads(done.stdout)}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_every_fault_many_times():
    rows = inject()
    assert sum(row["survived"] for fault, row in rows.items() if fault.startswith("kill")) == 25
    assert rows["kill -9 inside a write"]["survived"] >= 10
    assert not any(row["lost"] for row in rows.values())
