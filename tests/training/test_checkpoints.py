"""Checkpoints are whole or not valid, and a run that goes on from one is the run that never stopped."""

import json
import logging
import os
import pickle
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import invent_rows, write_rows
from datasets import Dataset, DatasetDict
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import hf_rnn.training.save
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.models.modeling_rnn import RnnForSequenceClassification
from hf_rnn.training.arguments.run_arguments import parse_settings
from hf_rnn.training.build_trainer import make_trainer
from hf_rnn.training.checkpointing.interrupt import SavePoints, StopRequest, TrainingStopped
from hf_rnn.training.checkpointing.manifest import (
    DamagedCheckpoint,
    check_weights,
    find_newest,
    list_checkpoints,
    read_manifest,
    remove,
    rotate,
    step_of,
    verify,
    write_manifest,
)
from hf_rnn.training.train import train
from hf_rnn.utils.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "fault_injection.py"
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


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARMS = {"truncated": truncate, "deleted": Path.unlink, "a bit flipped": flip}


# ---- files ----


def test_files_are_flushed_as_windows_wants_it(tmp_path, monkeypatch):
    """There only what is open for writing can be flushed."""
    fcntl = pytest.importorskip("fcntl", reason="tells on POSIX how a file is open")
    flush, flushed = os.fsync, []

    def fsync(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode):
            if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(9, "Bad file descriptor")
            flushed.append(handle)
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    make_checkpoint(tmp_path, 1)
    assert len(flushed) > 1


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be flushed there")
def test_files_folders_and_last_the_manifest_are_flushed(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    checkpoint = make_checkpoint(tmp_path, 1)
    assert {path.stat().st_ino for path in (tmp_path, checkpoint, *checkpoint.iterdir())} <= set(flushed)
    last = (checkpoint / "manifest.json", checkpoint, tmp_path)
    assert flushed[-3:] == [path.stat().st_ino for path in last], "of the last file, its name comes after it"


def test_a_checkpoint_is_valid_as_it_was_written(tmp_path):
    checkpoint = make_checkpoint(tmp_path, 8, best_step=4)
    manifest = verify(checkpoint)
    assert manifest["best_step"] == 4
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {
        name: (checkpoint / name).stat().st_size for name in FILES
    }
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted([*FILES, "manifest.json"])


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_any_damage_is_found_and_the_one_before_is_taken(tmp_path, caplog, name, harm):
    older, newest = make_checkpoint(tmp_path, 9), make_checkpoint(tmp_path, 10)
    assert find_newest(tmp_path) == newest, "by number, not by name"
    HARMS[harm](newest / name)
    with pytest.raises(DamagedCheckpoint):
        verify(newest)
    with caplog.at_level(logging.WARNING):
        assert find_newest(tmp_path) == older
    (line,) = caplog.messages
    told = "was not written to its end" if (name, harm) == ("manifest.json", "deleted") else name
    assert "checkpoint-9" in line and "skipped checkpoint-10" in line and told in line
    HARMS[harm](older / name)
    with pytest.raises(UserError, match=r"no checkpoint in .* checkpoint-10 \(.*checkpoint-9 \(.*--overwrite"):
        find_newest(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_what_was_saved_without_a_state_is_not_gone_on_from(tmp_path, name):
    make_checkpoint(tmp_path, 8, files=[other for other in FILES if other != name])
    with pytest.raises(UserError, match=rf"checkpoint-8 \(it was saved without {name}"):
        find_newest(tmp_path)


def test_an_adapters_weights_are_weights(tmp_path):
    """Those of a model that PEFT wraps: the rest of the weights is in no checkpoint."""
    saved = make_checkpoint(tmp_path, 8, files=["adapter_model.safetensors", *FILES[1:]])
    assert find_newest(tmp_path) == saved


@pytest.mark.parametrize(("state", "missing"), [("rng_state.pth", "rng_state_0"), ("rng_state_0.pth", "rng_state_1")])
def test_each_process_needs_its_random_state(tmp_path, state, missing):
    make_checkpoint(tmp_path, 8, files=[*FILES[:4], state])
    with pytest.raises(UserError, match=f"saved without {missing}.pth"):
        find_newest(tmp_path, processes=2)


def test_a_damaged_best_checkpoint_is_not_loaded_at_the_end(tmp_path):
    best = make_checkpoint(tmp_path, 1, best_step=1)
    newest = make_checkpoint(tmp_path, 2, best_step=1)
    assert find_newest(tmp_path, needs_best=True) == newest
    flip(best / "model.safetensors")
    assert find_newest(tmp_path) == newest
    with pytest.raises(UserError, match=r"of its best, checkpoint-1, model.safetensors is damaged"):
        find_newest(tmp_path, needs_best=True)


def test_a_manifest_that_says_something_else(tmp_path):
    checkpoint = make_checkpoint(tmp_path, 8, best_step=4)
    path = checkpoint / "manifest.json"
    for text in (path.read_text().replace('"best_step": 4', '"best_step": 8'), "[]", "{}", "1", "", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(DamagedCheckpoint, match="manifest.json is damaged"):
            read_manifest(checkpoint)


def test_a_manifest_of_another_version(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("hf_rnn.training.checkpointing.manifest._VERSION", 2)
        checkpoint = make_checkpoint(tmp_path, 1)
    with pytest.raises(DamagedCheckpoint):
        verify(checkpoint)


@pytest.mark.parametrize(
    ("steps", "best", "limit", "kept"),
    [
        ([1, 2, 3], {}, 2, [2, 3]),
        ([1, 2, 3], {}, None, [1, 2, 3]),
        ([1, 2, 3], {3: 1, 2: 1, 1: 1}, 2, [1, 3]),  # the best stays
        ([1, 2, 3], {3: 1, 2: 1, 1: 1}, 1, [1, 3]),
        ([1, 2, 3], {3: 3, 2: 1, 1: 1}, 2, [1, 3]),  # of 2, the best would be gone
        ([1, 2, 3], {3: 3, 2: 1, 1: 1}, 1, [3]),
        ([1, 2, 3, 4], {4: 4, 3: 1, 2: 1, 1: 1}, 3, [1, 3, 4]),
    ],
)
def test_which_checkpoints_are_kept(tmp_path, steps, best, limit, kept):
    for step in steps:
        make_checkpoint(tmp_path, step, best.get(step))
    rotate(tmp_path / f"checkpoint-{steps[-1]}", limit)
    assert list_checkpoints(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in sorted(kept)[::-1]]


def test_where_the_last_epoch_is_kept_no_checkpoint_leans_on_the_best(tmp_path):
    for step in (1, 2, 3, 4):
        make_checkpoint(tmp_path, step, best_step=1 if step < 4 else 9)  # which was measured, and not saved
    rotate(tmp_path / "checkpoint-4", 3, needs_best=False)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-3", "checkpoint-2"]


def test_what_is_not_whole_is_never_kept_in_place_of_what_is(tmp_path):
    for step in (1, 2, 4, 5):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-4" / "manifest.json").unlink()  # killed while it was written; 5 is of an undone future
    (tmp_path / "checkpoint-2" / "optimizer.pt").unlink()
    (tmp_path / "runs").mkdir()
    rotate(make_checkpoint(tmp_path, 3), 2)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-3", "runs"}


def test_what_leans_on_a_damaged_best_checkpoint_is_not_kept(tmp_path):
    make_checkpoint(tmp_path, 3, best_step=3)
    make_checkpoint(tmp_path, 4, best_step=3)
    truncate(tmp_path / "checkpoint-3" / "optimizer.pt")
    rotate(make_checkpoint(tmp_path, 5, best_step=5), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_a_file_that_is_called_as_a_checkpoint_is_left_alone(tmp_path):
    (tmp_path / "checkpoint-7").write_text("mine")
    make_checkpoint(tmp_path, 6)
    rotate(make_checkpoint(tmp_path, 8), 1)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-7", "checkpoint-8"}


def test_a_manifest_that_was_half_written_is_no_file_of_the_next(tmp_path):
    checkpoint = make_checkpoint(tmp_path, 8)
    (checkpoint / "manifest.json").rename(checkpoint / ".manifest.json")  # killed before its last step
    write_manifest(checkpoint)
    assert set(verify(checkpoint)["files"]) == set(FILES)


def test_killed_while_it_is_removed_a_checkpoint_is_not_whole(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    checkpoint = make_checkpoint(tmp_path, 1)
    monkeypatch.setattr(shutil, "rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        remove(checkpoint)
    with pytest.raises(DamagedCheckpoint, match="it was not written to its end"):
        read_manifest(checkpoint)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DamagedCheckpoint, match="checkpoint-9 cannot be used: there is no such folder"):
        read_manifest(tmp_path / "checkpoint-9")


def test_of_a_link_only_the_link_is_removed(tmp_path):
    elsewhere = make_checkpoint(tmp_path / "elsewhere", 7)
    (tmp_path / "checkpoint-7").symlink_to(elsewhere)
    rotate(make_checkpoint(tmp_path, 8), 1)
    assert not (tmp_path / "checkpoint-7").is_symlink()
    assert set(verify(elsewhere)["files"]) == set(FILES)


# ---- runs ----


def outcome(folder):
    """What two equal runs share: weights, scores, log, and the last states; times are not among it."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["training"].pop("seconds")
    newest = list_checkpoints(folder / "checkpoints")[0]
    state = json.loads((newest / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["RunningLoss"]["attributes"].pop("seconds") > 0
    log = [
        {name: value for name, value in entry.items() if not name.endswith(("runtime", "per_second"))}
        for entry in state["log_history"]
    ]
    files = {name: (newest / name).read_bytes() for name in FILES if name != "trainer_state.json"}
    return {
        **files,
        "weights": (folder / "model.safetensors").read_bytes(),
        "metrics": metrics,
        "log": log,
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


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They take longer than the training here, and nothing hangs on them."""
    monkeypatch.setattr(hf_rnn.training.save, "draw_figures", lambda *args: {})


@pytest.fixture
def copy_of_trained(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("step", [22, 30])  # within the second epoch of 15 steps, and in its last step
def test_a_stopped_run_goes_on_bit_for_bit(trained, tiny_settings, tmp_path, monkeypatch, step):
    settings = {**tiny_settings, "output_dir": str(tmp_path / "out")}
    stopped = run_until(step, settings, monkeypatch)
    assert stopped.checkpoint == tmp_path / "out" / "checkpoints" / f"checkpoint-{step}"
    assert stopped.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "left as it was"
    torch.rand(7)  # nothing may hang on where the generators stand
    assert outcome(train(**settings, resume=True).folder) == outcome(trained.folder)


def test_a_stopped_call_tells_how_to_go_on(tiny_settings, tmp_path, monkeypatch):
    """In Python's words: they are followed as they stand."""
    settings = {**tiny_settings, "output_dir": str(tmp_path / "out")}
    told = str(run_until(2, {**settings, "overwrite_output_dir": True}, monkeypatch))
    assert told == ("stopped by SIGTERM; to go on, repeat the call with resume=True and overwrite_output_dir=False")
    goes_on = {"resume": True, "overwrite_output_dir": False}
    assert str(run_until(4, {**settings, **goes_on}, monkeypatch)) == "stopped by SIGTERM; to go on, repeat the call"
    alone = {**settings, "output_dir": str(tmp_path / "alone"), "save_only_model": True}
    assert str(run_until(2, alone, monkeypatch)).endswith("; with save_only_model there is nothing to go on from")


def test_workers_are_of_no_matter(tiny_settings, tmp_path, monkeypatch):
    settings = {**tiny_settings, "num_train_epochs": 3, "dataloader_num_workers": 2}
    whole = train(**settings, output_dir=str(tmp_path / "whole")).folder
    run_until(22, {**settings, "output_dir": str(tmp_path / "out")}, monkeypatch)
    assert outcome(train(**settings, output_dir=str(tmp_path / "out"), resume=True).folder) == outcome(whole)


def test_saving_by_steps_misses_no_evaluation(tiny_settings, tmp_path, monkeypatch):
    """The step that is saved is also an epoch's last: its evaluation and its log line come first."""
    settings = {**tiny_settings, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 15}
    settings |= {"load_best_model_at_end": False, "early_stopping_patience": 0}
    whole = train(**settings, output_dir=str(tmp_path / "whole")).folder
    shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "checkpoint-45")
    assert outcome(train(**settings, resume=True, output_dir=str(tmp_path / "cut")).folder) == outcome(whole)
    assert [entry["epoch"] for entry in outcome(whole)["log"] if "eval_loss" in entry] == [1, 2, 3]


def test_a_run_that_stopped_early_takes_no_step_more(tiny_settings, tmp_path):
    settings = {**tiny_settings, "learning_rate": 0.0, "num_train_epochs": 9, "early_stopping_patience": 2}
    settings["output_dir"] = str(tmp_path / "out")
    first = train(**settings)
    assert first.metrics["training"]["epochs"] == 3, "nothing is learned, so the first epoch is the best"
    before = outcome(first.folder)
    (first.folder / "config.json").unlink()
    (first.folder / ".unfinished-1").mkdir()  # as if killed while it wrote the finished folder
    assert outcome(train(**settings, resume=True).folder) == before
    assert not (first.folder / ".unfinished-1").exists()


def test_another_run_is_not_gone_on_with(copy_of_trained, tiny_settings, tmp_path, caplog):
    settings = {**tiny_settings, "output_dir": str(copy_of_trained)}
    with pytest.raises(
        UserError, match=r"has changed: label_smoothing_factor \(was .*, now 0.3\)\. .*--resume_anyway"
    ):
        train(**{**settings, "label_smoothing_factor": 0.3}, resume=True)
    for changed in (
        {"learning_rate": 0.01},
        {"optim": "sgd"},
        {"adam_beta1": 0.1},
    ):  # the optimiser's state has its own
        with pytest.raises(UserError, match=f"What is saved there says {next(iter(changed))}, for all steps to come"):
            train(**{**settings, **changed}, resume_anyway=True)
    with pytest.raises(UserError, match=r"has changed: word_dropout \(was 0\.\d, now 0.25\)"):
        train(**settings, word_dropout=0.25, resume=True)
    shutil.copytree(tiny_settings["data_dir"], tmp_path / "texts")
    rows = invent_rows(240, seed=1)
    write_rows(tmp_path / "texts" / "train.tsv", [(rows[0][0], "good"), *rows[1:]])
    with pytest.raises(UserError, match=r"has changed: the texts or their labels\."):
        train(**{**settings, "data_dir": str(tmp_path / "texts")}, resume=True)
    with pytest.raises(UserError, match=r"is of another model: .* has shape .*the settings of the first run"):
        train(**{**settings, "hidden_size": 9}, resume_anyway=True)
    assert outcome(copy_of_trained)["metrics"]["training"]["epochs"] == 4, "all that is left as it was"
    result = train(**{**settings, "num_train_epochs": 5}, resume_anyway=True)
    assert result.metrics["training"]["epochs"] == 5
    assert "num_train_epochs (was 4.0, now 5.0)" in caplog.text


@pytest.fixture
def trainer(copy_of_trained, tiny_settings):
    """As a caller of [`RnnTrainer`] has one, without `train`."""
    arguments = parse_settings({**tiny_settings, "output_dir": str(copy_of_trained)})
    model = RnnForSequenceClassification.from_pretrained(copy_of_trained)
    rows = Dataset.from_dict({"input_ids": [[2, 3]], "labels": [0]})
    tokenizer = AutoTokenizer.from_pretrained(copy_of_trained)
    examples = DatasetDict(train=rows, validation=rows)
    return make_trainer(model, tokenizer, examples, arguments.training, FinishedFolder(copy_of_trained))


def test_the_trainer_itself_goes_on_from_whole_checkpoints_only(copy_of_trained, trainer):
    for checkpoint in list_checkpoints(copy_of_trained / "checkpoints"):
        (checkpoint / "optimizer.pt").unlink()
        with pytest.raises(UserError, match=f"{checkpoint} cannot be used: optimizer.pt is missing. Give another"):
            trainer.train(str(checkpoint))
    with pytest.raises(UserError, match="no checkpoint in .* can be gone on from"):
        trainer.train(resume_from_checkpoint=True)


def test_nobody_goes_on_towards_a_best_checkpoint_that_is_damaged(copy_of_trained, trainer, tiny_settings):
    newest, *older = list_checkpoints(copy_of_trained / "checkpoints")
    write_manifest(newest, best_step=step_of(older[0]), made_from=read_manifest(newest)["made_from"])
    for checkpoint in older:
        flip(checkpoint / "model.safetensors")
    told = f"{newest.name} .of its best, {older[0].name}, model.safetensors is damaged"
    with pytest.raises(UserError, match=told):
        train(**tiny_settings, output_dir=str(copy_of_trained), resume=True)
    with pytest.raises(UserError, match=told):
        trainer.train(resume_from_checkpoint=True)


def test_what_does_not_change_the_steps_may_change(trained, tiny_settings, tmp_path):
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


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_states_are_data_and_never_run(copy_of_trained, tiny_settings, tmp_path, name):
    newest = list_checkpoints(copy_of_trained / "checkpoints")[0]
    if name == "rng_state.pth":  # of a finished run it is not read
        shutil.rmtree(newest)
        newest = list_checkpoints(copy_of_trained / "checkpoints")[0]
    manifest = read_manifest(newest)
    torch.save(Trap(tmp_path / "trapped"), newest / name)
    write_manifest(newest, best_step=manifest["best_step"], made_from=manifest["made_from"])  # forged too
    with pytest.raises(UserError, match="the states in .* do not go with this run"):
        train(**tiny_settings, resume=True, output_dir=str(copy_of_trained))
    assert not (tmp_path / "trapped").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "trapped")))
    assert (tmp_path / "trapped").exists(), "the trap works"


def test_weights_of_another_model(trained):
    newest = list_checkpoints(trained.folder / "checkpoints")[0]
    with pytest.raises(UserError, match=r"0.bias has shape None there, \(1,\) now"):
        check_weights(newest, torch.nn.Sequential(torch.nn.Linear(2, 1)))


def test_weights_beyond_those_of_the_model(tmp_path):
    weights = {"0.weight": torch.zeros(1, 2), "0.bias": torch.zeros(1), "1.weight": torch.zeros(3)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1\.weight has shape \(3,\) there, None now"):
        check_weights(tmp_path, torch.nn.Sequential(torch.nn.Linear(2, 1)))


def test_weights_that_cannot_be_read(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="model.safetensors cannot be read: .*--overwrite_output_dir instead of"):
        check_weights(tmp_path, torch.nn.Linear(2, 1))


def test_a_disk_that_does_not_take_it(tiny_settings, tmp_path, monkeypatch):
    settings = {**tiny_settings, "output_dir": str(tmp_path / "out")}
    save = torch.save

    full = ["checkpoint-45"]

    def fail(content, path, *args, **kwargs):
        if full[0] in str(path):
            raise OSError(28, "No space left on device")
        return save(content, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(
            UserError, match=r"checkpoint-45 could not be written: .*No space left on device.*--resume"
        ):
            train(**settings)
    names = [path.name for path in list_checkpoints(tmp_path / "out" / "checkpoints")]
    assert names[0] == "checkpoint-30" and "checkpoint-45" not in names
    verify(tmp_path / "out" / "checkpoints" / "checkpoint-30")
    full[0] = "checkpoint-15"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(UserError, match=r"Nothing was saved before: make room there, then repeat the command$"):
            train(**settings | {"output_dir": str(tmp_path / "first")})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
@pytest.mark.parametrize(
    ("full", "named", "left"),
    [
        ("checkpoint-30", "checkpoint-30", ["checkpoint-15"]),
        (".unfinished-", "out", ["checkpoint-15", "checkpoint-30"]),
    ],
    ids=["checkpoint", "finished model"],
)
def test_a_disk_that_is_full_when_the_tokenizer_is_written(tiny_settings, tmp_path, monkeypatch, full, named, left):
    """Premise: tokenizers raises a bare Exception."""
    save = PreTrainedTokenizerFast.save_pretrained

    def fail(self, folder, *args, **kwargs):
        if full in str(folder):
            self.backend_tokenizer.save("/dev/full")
        return save(self, folder, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fail)
    with pytest.raises(UserError, match="could not be written.*: No space left") as refused:
        train(**{**tiny_settings, "num_train_epochs": 2}, output_dir=str(tmp_path / "out"))
    assert named in str(refused.value)
    assert sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir()) == left
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoints"]


def test_a_folder_that_cannot_be_made_is_found_before_texts_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_rnn.data.loading.load_tsv", None)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match=f"out cannot be written to: {file} is no folder that you may write in"):
        train(data_dir=str(tmp_path), output_dir=str(file / "a" / "out"))
    monkeypatch.setattr(
        "hf_rnn.training.output_dir.os.access", lambda path, mode: path != tmp_path
    )  # root may do everything
    with pytest.raises(UserError, match=f"out cannot be written to: {tmp_path} is no folder that you may write in"):
        train(data_dir=str(tmp_path), output_dir=str(tmp_path / "a" / "out"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_a_folder_that_takes_no_files_is_found_before_training(tiny_settings):
    with pytest.raises(UserError, match="output_dir /proc/self/out cannot be written to"):
        train(**tiny_settings, output_dir="/proc/self/out")


# ---- the command ----


def test_ctrl_c_tells_the_command_that_goes_on(command, tiny_settings, trained, tmp_path, monkeypatch):
    flags = [f"--{name}={value}" for name, value in tiny_settings.items()]
    flags.append(f"--output_dir={tmp_path / 'an out'}")
    with monkeypatch.context() as patch:
        patch.setattr(SavePoints, "on_step_begin", signal_at(20, signal.SIGINT))
        code, out, err = command("train", *flags, "--hub_token", "hf_secret", "--hub-token=hf_secret")
    assert (code, out) == (130, "")
    assert "hf_secret" not in err and " --hub_token ... --hub-token=... " in err
    (line,) = [line for line in err.splitlines() if "--resume" in line]
    assert line.startswith("hf-rnn train: stopped by SIGINT; to go on, type: hf-rnn train ")
    assert f"'--output_dir={tmp_path / 'an out'}'" in line and line.endswith(" --resume")
    code, _, err = command("train", *flags, "--resume")
    assert code == 0, err
    assert outcome(tmp_path / "an out") == outcome(trained.folder)


def test_the_command_that_goes_on_overwrites_nothing(command, tiny_settings, tmp_path, monkeypatch):
    """Where torchrun started the processes, it does so again."""
    flags = [f"--{name}={value}" for name, value in tiny_settings.items()]
    flags += [f"--output_dir={tmp_path / 'out'}", "--overwrite_output_dir"]
    with monkeypatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "1")
        patch.setattr(SavePoints, "on_step_begin", signal_at(20, signal.SIGINT))
        _, _, err = command("train", *flags)
    typed = shlex.split(err.splitlines()[-1].split("to go on, type: ")[1])
    assert typed[:4] == ["torchrun", "...", "hf-rnn", "train"]
    code, _, err = command(*typed[3:])
    assert code == 0, err


def test_without_the_state_of_the_optimiser_no_command_goes_on(command, tiny_settings, tmp_path, monkeypatch):
    flags = [f"--{name}={value}" for name, value in tiny_settings.items()]
    with monkeypatch.context() as patch:
        patch.setattr(SavePoints, "on_step_begin", signal_at(20, signal.SIGINT))
        code, _, err = command("train", *flags, "--output_dir", tmp_path / "out", "--save_only_model", "true")
    assert code == 130
    assert err.splitlines()[-1].endswith("with save_only_model there is nothing to go on from")


def inject(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=1500)
    assert done.returncode == 0, done.stderr
    return {row["fault"]: row for row in json.loads(done.stdout)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_a_run_killed_inside_a_write_goes_on():
    rows = inject("write", "--tries", 1, "--profiles", "steps")
    assert rows["kill -9 inside a write"]["survived"] == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_every_fault_many_times():
    rows = inject()
    assert sum(row["survived"] for fault, row in rows.items() if fault.startswith("kill")) == 25
    assert rows["kill -9 inside a write"]["survived"] >= 10
    assert not any(row["lost"] for row in rows.values())


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_request_interrupts_at_once(first):
    with StopRequest() as asked:
        signal.raise_signal(first)
        assert asked.number == first
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert asked.number == first


def test_a_request_is_of_the_time_that_it_was_entered():
    asked = StopRequest()
    with asked:
        signal.raise_signal(signal.SIGTERM)
    assert asked.number == signal.SIGTERM
    with asked:
        assert asked.number == 0


def test_in_a_thread_no_signal_is_noted():
    """Python allows handlers in the main thread only."""

    def enter():
        with StopRequest() as asked:
            return asked.entered

    with ThreadPoolExecutor() as threads:
        assert threads.submit(enter).result() is False
