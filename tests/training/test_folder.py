"""Checkpoints are whole, a resumed run is the same bit for bit, one run has a folder."""

import json
import multiprocessing
import os
import shlex
import shutil
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import invent_rows, run_until, signal_at, write_rows
from transformers.trainer_callback import TrainerState

from hf_rnn import train
from hf_rnn.hub.model_folder import MODELLING_FILES, FinishedFolder
from hf_rnn.training import folder as output
from hf_rnn.training.folder import list_checkpoints, lock_folder, replace_model
from hf_rnn.training.trainer import SavePoints
from hf_rnn.utils.errors import UserError

# ---- resume ----


def outcome(folder):
    """Return what two equal runs share: weights and metrics, without times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["training"].pop("seconds") > 0
    # the folder, figures of the fixture, and `save_total_limit` differ
    for name in ("name", "figures", "settings"):
        metrics["card"].pop(name, None)
    return (folder / "model.safetensors").read_bytes(), metrics


# within the second epoch of 15 steps, and in the last step
@pytest.mark.parametrize(
    ("whole", "settings", "step"),
    [
        ("trained", "tiny_settings", 22),
        pytest.param("trained", "tiny_settings", 60, marks=pytest.mark.slow),
        pytest.param("tagger", "tagger_settings", 14, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(request, tmp_path, caplog, whole, settings, step):
    caplog.set_level("INFO", "hf_rnn")
    trained, settings = request.getfixturevalue(whole), request.getfixturevalue(settings)
    settings, handler = (
        {**settings, "output_dir": str(tmp_path / "out")},
        signal.getsignal(signal.SIGTERM),
    )
    stopped = run_until(step, lambda: train(**settings))
    assert stopped.checkpoint == tmp_path / "out" / "checkpoints" / f"checkpoint-{step}"
    assert stopped.exit_code == 143 and "resume=True" in str(stopped)
    assert signal.getsignal(signal.SIGTERM) is handler
    moved = str((tmp_path / "out").rename(tmp_path / "moved"))
    torch.rand(7)  # the state of the generators must not matter
    resumed = train(**{**settings, "output_dir": moved, "save_total_limit": 5}, resume=True)
    assert f"resuming from {moved}/checkpoints/checkpoint-{step}" in caplog.text
    (weights, found), (expected, metrics) = outcome(resumed.folder), outcome(trained.folder)
    assert weights == expected
    loss = metrics["training"].pop("loss")
    assert found["training"].pop("loss") == pytest.approx(loss, rel=0.05)
    assert found == metrics


def test_a_run_that_stopped_early_takes_no_further_step(tiny_settings, tmp_path, monkeypatch):
    settings = {
        **tiny_settings,
        "learning_rate": 0.0,
        "num_train_epochs": 9,
        "early_stopping_patience": 2,
    }
    settings["output_dir"] = str(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("hf_rnn.training.train.replace_model", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(**settings)
    (tmp_path / "out" / ".unfinished-1").mkdir()  # as if killed while it wrote the finished folder
    result = train(**settings, resume=True)
    assert result.metrics["training"]["epochs"] == 3
    assert not (tmp_path / "out" / ".unfinished-1").exists()


def test_another_run_is_not_resumed(tiny_settings, tmp_path):
    settings = {**tiny_settings, "output_dir": str(tmp_path / "out")}
    run_until(16, lambda: train(**settings))
    shutil.copytree(tiny_settings["data_dir"], tmp_path / "texts")
    rows = invent_rows(240, seed=1)
    write_rows(tmp_path / "texts" / "train.tsv", [(rows[0][0], "good"), *rows[1:]])
    for change, message in (
        (
            {"label_smoothing_factor": 0.3},
            r"label_smoothing_factor \(was 0.1, now 0.3\)\. .*--overwrite_output_dir",
        ),
        ({"learning_rate": 0.01}, r"learning_rate \(was 0.02, now 0.01\)"),
        ({"data_dir": str(tmp_path / "texts")}, "the texts or their labels"),
        ({"hidden_size": 9}, r"hidden_size \(was 8, now 9\)"),
        ({"seed": 3}, r"seed \(was 42, now 3\)"),
    ):
        with pytest.raises(
            UserError, match=f"changed since .*checkpoint-16 was saved: .*{message}"
        ):
            train(**{**settings, **change}, resume=True)
    same = {"card_examples": True, "baselines": False, "tags": ["films"], "disable_tqdm": True}
    assert train(**settings, **same, resume=True).metrics["training"]["epochs"] == 4
    with pytest.raises(
        UserError, match="no checkpoint in .*leave out --resume, and --overwrite_output_dir"
    ):
        train(**settings, resume=True)


def test_a_run_that_was_killed_in_its_first_checkpoint_starts_again(tiny_settings, tmp_path):
    settings = {
        **tiny_settings,
        "output_dir": str(tmp_path / "out"),
        "num_train_epochs": 1,
        "baselines": False,
    }
    put(
        FinishedFolder(tmp_path / "out" / "checkpoints" / "checkpoint-1"),
        "model.safetensors",
        "stray",
    )
    with pytest.raises(UserError, match="leave out --resume$"):
        train(**settings, resume=True)
    assert train(**settings).metrics["training"]["epochs"] == 1


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])  # a full disk, and kill
def test_a_checkpoint_that_is_not_written_leaves_the_earlier_ones(
    tiny_settings, tmp_path, monkeypatch, kind
):
    settings, save = {**tiny_settings, "output_dir": str(tmp_path / "out")}, torch.save

    def fail(content, path, *args, **kwargs):
        if "checkpoint-45" in str(path):
            raise kind(28, "No space left on device")
        return save(content, path, *args, **kwargs)

    message = r"checkpoint-45 could not be written: .*No space left on device.*--resume"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(
            (UserError, KeyboardInterrupt), match=message if kind is OSError else None
        ):
            train(**settings)
    newest = list_checkpoints(tmp_path / "out" / "checkpoints")[0]
    assert newest.name == "checkpoint-30"
    state = json.loads((newest / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(newest)
    assert train(**settings, resume=True).metrics["training"]["steps"] == 60


def test_ctrl_c_prints_the_command_that_resumes(
    command, tiny_settings, trained, tmp_path, monkeypatch
):
    """Without tokens and without overwriting; under torchrun with torchrun."""
    flags = [f"--{name}={value}" for name, value in tiny_settings.items()]
    flags += [
        f"--output_dir={tmp_path / 'an out'}",
        "--overwrite-output-dir",
        "yes",
        "--hub_token",
        "hf_secret",
    ]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with signal_at(20, signal.SIGINT):
        code, out, err = command("train", *flags)
    monkeypatch.undo()
    assert (code, out) == (130, "") and "hf_secret" not in err
    (line,) = [line for line in err.splitlines() if "--resume" in line]
    typed = shlex.split(line.split(": ")[-1])
    assert typed[:4] == ["torchrun", "...", "hf-rnn", "train"]
    assert typed.count("--resume") == 1 and "yes" not in typed
    assert not [word for word in typed if word.startswith("--overwrite")]
    code, _, err = command(*typed[3:])
    assert code == 0, err
    assert outcome(tmp_path / "an out")[0] == outcome(trained.folder)[0]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_kill_leaves_a_run_that_resumes(tiny_settings, tmp_path):
    """SIGKILL at any moment of the saving; the resumed run ends with the same weights."""
    settings = {**tiny_settings, "num_train_epochs": 3}
    fork = multiprocessing.get_context("fork")
    expected = outcome(train(**settings, output_dir=str(tmp_path / "whole")).folder)[0]
    for moment in ("unfinished", "written", "first step after it", "last step"):
        folder = tmp_path / moment
        again = {**settings, "output_dir": str(folder)}
        process = fork.Process(target=train_until, args=(moment, again))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        saved = [path.name for path in list_checkpoints(folder / "checkpoints")]
        assert saved[0] == {"unfinished": "checkpoint-15"}.get(moment, "checkpoint-30")
        assert outcome(train(**again, resume=True).folder)[0] == expected


def train_until(moment, settings):
    """Train, and kill this process at a moment of the second checkpoint, or after it."""
    save = TrainerState.save_to_json

    def kill_at_save(state, path):
        if "checkpoint-30" in path and moment == "unfinished":
            Path(path).write_text('{"epoch": 2')
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, path)
        if "checkpoint-30" in path and moment == "written":
            os.kill(os.getpid(), signal.SIGKILL)

    def kill_at_step(self, args, state, control, **kwargs):
        steps = {"first step after it": 31, "last step": 44}
        if state.global_step == steps.get(moment):
            os.kill(os.getpid(), signal.SIGKILL)

    TrainerState.save_to_json = kill_at_save
    SavePoints.on_step_begin = kill_at_step
    train(**settings)


# ---- the output folder ----

FINISHED = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
    "metrics.json",
)
FINISHED += (
    "training_args.json",
    "learning_curve.png",
    "onnx/model.onnx",
    *MODELLING_FILES,
)
NEW = {"config.json", "model.safetensors", "README.md", "sub/vocab.txt"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return FinishedFolder(tmp_path / "out")


def put(folder, *names, content="old"):
    for name in names:
        (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / name).write_text(content)


def list_files(folder):
    return {
        path.relative_to(folder.root).as_posix()
        for path in folder.root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("recipe", ["scratch", "default"])  # with steps, and few rows without
def test_two_runs_at_once_do_not_share_a_folder(folder, recipe):
    """The second one is refused at its start, and deletes nothing of the first."""
    put(folder, ".unfinished-1/config.json", "checkpoints/checkpoint-1/optimizer.pt")
    settings = {
        "train": invent_rows(30, 1),
        "output_dir": str(folder.root),
        "recipe": recipe,
        "use_cpu": True,
    }
    with pytest.raises(KeyboardInterrupt), lock_folder(folder.root):
        with pytest.raises(UserError, match="out is in use by another run"):
            train(**settings, overwrite_output_dir=True)
        raise KeyboardInterrupt
    assert list_files(folder) == {
        ".unfinished-1/config.json",
        "checkpoints/checkpoint-1/optimizer.pt",
    }
    train(**settings, num_train_epochs=1, overwrite_output_dir=True)
    assert folder.config.is_file() and not list(folder.root.glob(".unfinished-*"))


@pytest.mark.parametrize("recipe", ["scratch", "default"])
def test_a_full_disk_at_the_end_gives_advice_that_works(folder, recipe, monkeypatch):
    settings = {
        "train": invent_rows(60, 1),
        "output_dir": str(folder.root),
        "recipe": recipe,
        "use_cpu": True,
    }
    settings |= {"num_train_epochs": 1, "baselines": False}
    with monkeypatch.context() as patch:
        error = OSError(28, "No space left on device")
        patch.setattr(
            "hf_rnn.training.save.save_tokenizer",
            lambda *args, **options: (_ for _ in ()).throw(error),
        )
        with pytest.raises(
            UserError, match=r"No space left.*\. Make room there, then repeat the command"
        ) as refused:
            train(**settings)
    resume = "--resume" in str(refused.value)
    assert resume == (recipe == "scratch"), "few rows have no checkpoint"
    assert train(**settings, resume=resume).folder == folder.root


@pytest.mark.parametrize("mark", ["training_args.json", "checkpoints/checkpoint-3/rng_state.pth"])
def test_only_files_of_an_earlier_run_are_replaced(folder, mark):
    put(folder, "README.md", mark)
    output.check_replaceable(folder, overwrite=True)
    with pytest.raises(UserError, match="is not empty"):
        output.check_replaceable(folder, overwrite=False)
    (folder.root / mark).unlink()
    if "/" in mark:
        (folder.root / mark).parent.rmdir()
    with pytest.raises(UserError, match="holds no run .*README.md"):
        output.check_replaceable(folder, overwrite=True)


def test_a_run_does_not_replace_a_model_that_it_reads(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder.root, target_is_directory=True)
    for name in ("out", "./out/../out", "link"):
        with pytest.raises(UserError, match=f"teacher {name} is the output_dir"):
            output.check_apart("out", {"model": None, "vectors": "me/films", "teacher": name})


def test_a_failed_rename_restores_the_old_model(folder, tmp_path, monkeypatch):
    """A process killed before a rename also leaves one model whole, with no mixture to load."""
    replace, calls = Path.replace, []

    def fail(path, target):
        calls.append(path)
        if len(calls) == failing:
            shutil.copytree(folder.root, tmp_path / f"killed-{failing}")
            raise OSError(5, "Input/output error")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    put(folder, *FINISHED, "notes.txt")
    for failing in range(1, len(FINISHED) + len(NEW) + 1):
        calls.clear()
        with pytest.raises(UserError, match="Input/output error"):
            replace_model(folder, lambda new: put(new, *NEW, content="new"))
        assert list_files(folder) == {*FINISHED, "notes.txt"}
        assert {(folder.root / name).read_text() for name in FINISHED} == {"old"}
        killed = FinishedFolder(tmp_path / f"killed-{failing}")
        assert not killed.config.exists() or failing == 1, "it loads only when whole"
        kept = [FinishedFolder(path) for path in killed.root.glob(".unfinished-*/*")]
        assert any(
            {*FINISHED} <= list_files(model) or list_files(model) >= NEW
            for model in (killed, *kept)
        )
