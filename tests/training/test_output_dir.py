"""The output folder: what stands in the way of a run there, and what a run replaces, all or nothing."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hf_rnn import train
from hf_rnn.hub.model_folder import MODELLING_FILES, FinishedFolder
from hf_rnn.training import output_dir
from hf_rnn.utils.errors import UserError

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


def held(folder):
    return {path.relative_to(folder.root).as_posix() for path in folder.root.rglob("*") if path.is_file()}


def check(folder, **options):
    return output_dir.check_output_dir(folder, **{"overwrite": False, "resume": False, **options})


# ---- before a run ----


@pytest.mark.skipif(sys.platform == "win32", reason="it has no locks of folders")
def test_two_runs_at_once_do_not_share_a_folder(texts_dir, tmp_path):
    """The second is refused before its first step, and takes it over once the first has ended, in whatever way."""
    small = {"data_dir": str(texts_dir), "output_dir": str(tmp_path / "out"), "num_train_epochs": 1, "use_cpu": True}
    folder = FinishedFolder(tmp_path / "out")
    folder.root.mkdir()
    for ending in (contextlib.nullcontext, lambda: pytest.raises(KeyboardInterrupt)):
        with ending(), output_dir.hold(folder):
            with pytest.raises(UserError, match="another run is training into output_dir .*out: wait until it ends"):
                train(**small, overwrite_output_dir=True)
            if ending is not contextlib.nullcontext:
                raise KeyboardInterrupt
    assert not list(folder.root.glob("checkpoints/checkpoint-*"))
    assert train(**small, overwrite_output_dir=True).folder == folder.root


@pytest.mark.skipif(sys.platform == "win32", reason="it has no locks of folders")
def test_a_process_that_a_killed_run_has_forked_holds_no_folder(tmp_path):
    """Premise: it lives on, as those that load batches do for some seconds."""
    code = (
        "import os, pathlib, sys, time; from hf_rnn import output_dir; from hf_rnn.hub.model_folder import FinishedFolder\n"
        "with output_dir.hold(FinishedFolder(pathlib.Path(sys.argv[1]))):\n"
        "    if (child := os.fork()) == 0:\n"
        "        time.sleep(60)\n"
        "    print(child, flush=True); time.sleep(60)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(run.stdout.readline())
    try:
        with pytest.raises(UserError, match="another run"), output_dir.hold(FinishedFolder(tmp_path)):
            pass
        run.kill()
        run.wait()
        os.kill(child, 0)  # it is there
        with output_dir.hold(FinishedFolder(tmp_path)):
            pass
    finally:
        run.kill()
        os.kill(child, signal.SIGKILL)
        run.stdout.close()


def test_what_a_run_that_came_to_nothing_left_stands_in_no_way(folder):
    put(folder, "rejected.jsonl", "teacher_cache/answers")
    folder.checkpoints.mkdir()
    assert check(folder) is None
    put(folder, "checkpoints/mine.txt")
    with pytest.raises(UserError, match=r"is not empty \(it holds checkpoints\)"):
        check(folder)


def test_of_what_stands_in_the_way_three_are_named(folder):
    put(folder, "c", "a", "b")
    with pytest.raises(UserError, match=r"\(it holds a, b, c\)"):
        check(folder)
    put(folder, "d")
    with pytest.raises(UserError, match=r"\(it holds a, b, c, \.\.\.\)"):
        check(folder)


@pytest.mark.parametrize(
    "mark",
    ["card_facts.json", "training_args.json", "checkpoints/checkpoint-3/rng_state.pth", ".unfinished-x/config.json"],
)
def test_any_mark_of_a_run_makes_its_files_those_of_a_run(folder, mark):
    put(folder, "config.json", mark)
    assert check(folder, overwrite=True) is None
    (folder.root / mark).unlink()
    if "/" in mark:
        (folder.root / mark).parent.rmdir()
    with pytest.raises(UserError, match=r"holds no run of hf-rnn, .* would replace: config.json"):
        check(folder, overwrite=True)


@pytest.mark.parametrize("name", sorted({*FINISHED} - {"card_facts.json", "training_args.json"}))
def test_each_file_of_ours_by_name_is_one_that_a_run_would_replace(folder, name):
    put(folder, name)
    with pytest.raises(UserError, match=f"would replace: {Path(name).name}"):
        check(folder, overwrite=True)


def test_what_a_checkpoint_must_have_is_handed_on(folder, monkeypatch):
    def find_newest(place, **needs):
        assert (place, needs) == (folder.checkpoints, {"processes": 3, "needs_best": True})
        return place / "checkpoint-7"

    monkeypatch.setattr("hf_rnn.training.checkpointing.manifest.find_newest", find_newest)
    put(folder, "config.json")
    assert check(folder, resume=True, processes=3, needs_best=True) == folder.checkpoints / "checkpoint-7"


@pytest.mark.parametrize("missing", [os.W_OK, os.X_OK])
def test_a_folder_must_be_open_for_writing_and_for_going_in(folder, monkeypatch, missing):
    new = folder.root / "a" / "b"
    assert output_dir.find_obstacle(new) is None
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & missing)  # root may do everything
    assert output_dir.find_obstacle(new) == folder.root


def test_nothing_that_a_run_reads_is_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(folder, "config.json", "onnx/model_int8.onnx", "checkpoints/checkpoint-1/model.safetensors", "notes.txt")
    link = FinishedFolder(tmp_path / "link")
    link.root.symlink_to(folder.root, target_is_directory=True)
    inside = ("checkpoints/checkpoint-1", "checkpoints/checkpoint-1/model.safetensors", "onnx/model_int8.onnx")
    for name in (
        "out",
        "./out/../out",
        "link",
        "out/config.json",
        "link/config.json",
        *(f"out/{it}" for it in inside),
    ):
        for target in (folder, link, FinishedFolder("out")):
            with pytest.raises(UserError, match=f"vectors {name} lies in the output_dir"):
                output_dir.check_apart(target, {"model": None, "vectors": name})
            texts = {"data_dir": name}
            if name.endswith(("out", "link")):
                output_dir.check_apart(folder, {}, texts)  # where texts stay
                continue
            with pytest.raises(UserError, match=f"data_dir {name} lies in the output_dir"):
                output_dir.check_apart(folder, {}, texts)
    elsewhere = {"a": None, "b": "", "c": "me/films", "d": "x" * 5000, "e": "out/notes.txt", "f": str(tmp_path)}
    output_dir.check_apart(folder, elsewhere)
    (tmp_path / "circle").symlink_to("circle")
    output_dir.check_apart(FinishedFolder(tmp_path / "circle"), elsewhere)


# ---- after it ----


def test_old_checkpoints_and_logs_go_and_nothing_else(folder):
    put(folder, *FINISHED, *MINE, "checkpoints/checkpoint-1/rng_state.pth", "checkpoints/runs/events")
    output_dir.remove_checkpoints(folder)
    assert held(folder) == {*FINISHED, *MINE}


def test_new_files_replace_all_old_ones(folder):
    put(folder, *FINISHED, *MINE, ".unfinished-1/config.json", "checkpoints/checkpoint-1/rng_state.pth")
    new = ("config.json", "model.safetensors", "onnx/model.onnx", "sub/vocab.txt")

    def write(unfinished):
        assert folder.root in unfinished.root.parents, "on the same disk"
        assert set(FINISHED) <= held(folder), "nothing is gone while they are written"
        put(unfinished, *new, content="new")
        return 7

    assert output_dir.fill(folder, write) == 7
    assert held(folder) == {*new, *MINE, "checkpoints/checkpoint-1/rng_state.pth"}
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
        assert held(folder) == {*FINISHED, "notes.txt"}
        assert {(folder.root / name).read_text() for name in FINISHED} == {"old"}

        killed = FinishedFolder(tmp_path / f"killed-{failing}")
        assert not killed.config.exists() or failing == 1, "it loads only when whole"
        kept = [FinishedFolder(path) for path in killed.root.glob(".unfinished-*/*")]
        wholes = [{*FINISHED} <= held(model) or held(model) >= NEW for model in (killed, *kept)]
        assert any(wholes)
    failing = None
    output_dir.fill(folder, lambda new: put(new, *NEW, content="new"))
    assert held(folder) == {*NEW, "notes.txt"}


def test_a_model_left_by_a_killed_replacement_is_named(trained, tmp_path):
    left = tmp_path / ".unfinished-x" / "old"
    shutil.copytree(trained.folder, left, ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match=r"move the files of .*\.unfinished-x.old to"):
        FinishedFolder(tmp_path).check()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_files_that_cannot_be_written_leave_the_old_ones(folder, error):
    put(folder, *FINISHED, *MINE)

    def write(unfinished):
        put(unfinished, "config.json", "model.safetensors", content="new")
        raise error

    with pytest.raises(UserError, match=r"could not be written to .*out: .*No space left on device.*\. Take a break"):
        output_dir.fill(folder, write, "Take a break")
    assert held(folder) == {*FINISHED, *MINE}
    assert folder.config.read_text() == "old"
    with pytest.raises(UserError, match="checkpoints are intact: .* --resume"):
        output_dir.fill(folder, write)


def test_whether_files_can_be_made_is_found_out_by_making_one(folder, monkeypatch):
    new = FinishedFolder(folder.root / "a" / "b")
    output_dir.make_writable(new)
    assert new.root.is_dir() and held(folder) == set()

    def full(**given):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(UserError, match="b cannot be written to: Read-only file system. Take another"):
        output_dir.make_writable(new)
