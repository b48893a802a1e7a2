"""The output folder: what prevents a run there, and what a run replaces, all or nothing."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from hf_rnn import train
from hf_rnn.hub.model_folder import MODELLING_FILES, FinishedFolder
from hf_rnn.training import output_dir
from hf_rnn.utils.errors import UserError
from hf_rnn.utils.folder_lock import hold_folder

FINISHED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json")
FINISHED += ("card_facts.json", "training_args.json", "learning_curve.png", "confusion_matrix.png", "reliability.png")
FINISHED += ("onnx/model.onnx", "onnx/model_int8.onnx", *MODELLING_FILES)
MINE = ("notes.txt", "my_rnn.py", "runs/mine", "onnx/mine.txt", "checkpoints/mine.txt")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return FinishedFolder(tmp_path / "out")


def put(folder, *names, content="old"):
    for name in names:
        (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / name).write_text(content)


def list_files(folder):
    return {path.relative_to(folder.root).as_posix() for path in folder.root.rglob("*") if path.is_file()}


def check(folder, overwrite=False):
    return output_dir.check_output_dir(folder, SimpleNamespace(overwrite_output_dir=overwrite, resume=False))


# ---- before a run ----


@pytest.mark.parametrize("cache", [output_dir.TEACHER_CACHE])
def test_a_resume_before_the_first_checkpoint_names_what_is_kept(folder, cache):
    put(folder, f"{cache}/vectors.npy")
    with pytest.raises(UserError, match=f"leave out --resume; what the teacher has computed is kept in {cache}"):
        output_dir.check_output_dir(folder, SimpleNamespace(overwrite_output_dir=False, resume=True))
    assert check(folder) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks of folders")
def test_two_runs_at_once_do_not_share_a_folder(texts_dir, folder):
    """The second one is refused before its first step, and can start when the first has ended in any way."""
    settings = {"data_dir": str(texts_dir), "output_dir": str(folder.root), "num_train_epochs": 1, "use_cpu": True}
    with pytest.raises(KeyboardInterrupt), hold_folder(folder.root):
        with pytest.raises(UserError, match="in use by another run"):
            train(**settings, overwrite_output_dir=True)
        raise KeyboardInterrupt
    assert not list(folder.root.glob("checkpoints/checkpoint-*"))
    with hold_folder(folder.root):
        pass


@pytest.mark.parametrize("mark", ["card_facts.json", "checkpoints/checkpoint-3/rng_state.pth"])
def test_only_files_of_an_earlier_run_are_replaced(folder, mark):
    for name in sorted({*FINISHED} - {"card_facts.json", "training_args.json"}):
        put(folder, name, mark)
        assert check(folder, overwrite=True) is None
        (folder.root / mark).unlink()
        if "/" in mark:
            (folder.root / mark).parent.rmdir()
        with pytest.raises(UserError, match=f"holds no run .*{Path(name).name}"):
            check(folder, overwrite=True)
        (folder.root / name).unlink()


@pytest.mark.parametrize("missing", [os.W_OK, os.X_OK])
def test_a_folder_that_cannot_be_written_is_refused_before_texts_are_read(folder, monkeypatch, missing):
    put(folder, "file")
    new = folder.root / "a" / "b"
    assert output_dir.find_obstacle(new) is None
    with pytest.raises(UserError, match=f"not writable: found {folder.root / 'file'}"):
        train(data_dir=str(folder.root), output_dir=str(folder.root / "file" / "a"))
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & missing)  # root may do everything
    assert output_dir.find_obstacle(new) == folder.root


def test_a_run_does_not_replace_a_model_that_it_reads(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder.root, target_is_directory=True)
    for name in ("out", "./out/../out", "link"):
        with pytest.raises(UserError, match=f"teacher {name} is the output_dir"):
            output_dir.check_apart("out", {"model": None, "vectors": "me/films", "teacher": name})


# ---- after a run ----


def test_only_old_checkpoints_and_logs_are_removed(folder):
    put(folder, *FINISHED, *MINE, "checkpoints/checkpoint-1/rng_state.pth", "checkpoints/runs/events")
    output_dir.remove_checkpoints(folder)
    assert list_files(folder) == {*FINISHED, *MINE}


def test_new_files_replace_all_old_ones(folder):
    put(folder, *FINISHED, *MINE, ".unfinished-1/config.json", "checkpoints/checkpoint-1/rng_state.pth")
    new = ("config.json", "model.safetensors", "onnx/model.onnx", "sub/vocab.txt")

    def write(unfinished):
        assert folder.root in unfinished.root.parents, "on the same disk"
        assert set(FINISHED) <= list_files(folder), "the old model is complete while the new one is written"
        put(unfinished, *new, content="new")
        return 7

    assert output_dir.fill(folder, write) == 7
    assert list_files(folder) == {*new, *MINE, "checkpoints/checkpoint-1/rng_state.pth"}
    assert {(folder.root / name).read_text() for name in new} == {"new"}


NEW = {"config.json", "model.safetensors", "README.md", "a.txt"}


def test_a_failed_rename_restores_the_old_model(folder, tmp_path, monkeypatch):
    """And a process killed before a rename leaves one model whole, with no mixture of the two that loads."""
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
            output_dir.fill(folder, lambda new: put(new, *NEW, content="new"))
        assert list_files(folder) == {*FINISHED, "notes.txt"}
        assert {(folder.root / name).read_text() for name in FINISHED} == {"old"}

        killed = FinishedFolder(tmp_path / f"killed-{failing}")
        assert not killed.config.exists() or failing == 1, "it loads only when whole"
        kept = [FinishedFolder(path) for path in killed.root.glob(".unfinished-*/*")]
        assert any({*FINISHED} <= list_files(model) or list_files(model) >= NEW for model in (killed, *kept))
    failing = None
    output_dir.fill(folder, lambda new: put(new, *NEW, content="new"))
    assert list_files(folder) == {*NEW, "notes.txt"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_failed_write_leaves_the_old_files(folder, error):
    put(folder, *FINISHED, *MINE)

    def write(unfinished):
        put(unfinished, "config.json", "model.safetensors", content="new")
        raise error

    with pytest.raises(UserError, match=r"could not be written to .*out: .*No space left on device.*\. Take a break"):
        output_dir.fill(folder, write, "Take a break")
    assert list_files(folder) == {*FINISHED, *MINE} and folder.config.read_text() == "old"
