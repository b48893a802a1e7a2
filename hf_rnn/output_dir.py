"""The output folder of a training run: looked at before it, filled after it, and never half-finished in between.

Finished files are written beside their places and moved there at the end, `config.json` last: without it nothing
loads. What else lies in the folder is left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from . import checkpoints
from .errors import UserError
from .folder import MODELLING_FILES, FinishedFolder

_HELD: set[int] = set()  # descriptors of folders that this process has to itself
if sys.platform != "win32":  # which has no locks of folders
    import fcntl

    def _let_go() -> None:
        """Close what a forked process, such as one that loads batches, would hold on to when this one is killed."""
        while _HELD:
            os.close(_HELD.pop())

    os.register_at_fork(after_in_child=_let_go)

Written = TypeVar("Written")

REJECTED_ROWS = "rejected.jsonl"  # left by a run that stopped at its data; stands in no other run's way
TEACHER_CACHE = "teacher_cache"  # likewise: what a teacher said before a run stopped is of use to the next
_UNFINISHED = ".unfinished-"
_RESUME = "The checkpoints are intact: make room there, then repeat the command with --resume"


def check_output_dir(
    folder: FinishedFolder, *, overwrite: bool, resume: bool, processes: int = 1, needs_best: bool = False
) -> Path | None:
    """Refuse a folder that holds something already, unless the user says what is to be done with it.

    Args:
        folder: Where the finished model is to go.
        overwrite: Whether to replace what is there.
        resume: Whether to go on from the newest valid checkpoint there.
        processes: Of the run, see [`find_newest`].
        needs_best: Whether the best checkpoint is needed too.

    Returns:
        The checkpoint to go on from, None to start anew.

    Raises:
        UserError: When the folder is in the way, or there is nothing to go on from.
    """
    if folder.root.exists() and not folder.root.is_dir():
        raise UserError(f"output_dir {folder.root} is a file: give a folder")
    if (there := find_obstacle(folder.root)) is not None:  # before texts are read that may be many
        raise UserError(
            f"output_dir {folder.root} cannot be written to: {there} is no folder that you may write in. Take another"
        )
    if resume:
        return checkpoints.find_newest(folder.checkpoints, processes=processes, needs_best=needs_best)
    if folder.root.is_dir() and not overwrite:
        found = sorted(path.name for path in folder.root.iterdir() if not _stands_in_no_way(folder, path))
        if found:
            holds = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            advice = "--overwrite_output_dir replaces an earlier run, --resume goes on with it"
            raise UserError(f"output_dir {folder.root} is not empty (it holds {holds}). Take another, or: {advice}")
    if overwrite:
        _check_own(folder)
    return None


def find_obstacle(folder: Path) -> Path | None:
    """Return what stands in the way of writing to a folder that may have to be made; None where nothing does."""
    paths = (folder, *folder.absolute().parents)
    there = next((path for path in paths if path.exists()), paths[-1])  # on Windows a drive may be missing
    return None if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else there


def _stands_in_no_way(folder: FinishedFolder, path: Path) -> bool:
    """Whether a run that came to nothing left this in a folder."""
    if path == folder.checkpoints:
        return path.is_dir() and not any(path.iterdir())
    return path.name in (REJECTED_ROWS, TEACHER_CACHE)


def _check_own(folder: FinishedFolder) -> None:
    """Refuse to remove files that have the names of ours where no run has left its mark."""
    marks = (folder.card_facts, folder.training_args)
    if any(path.exists() for path in marks) or any(folder.checkpoints.glob("checkpoint-*")):
        return
    taken = [path for path in _finished_files(folder) if path.exists()]
    if folder.checkpoints.exists() and not _stands_in_no_way(folder, folder.checkpoints):
        taken.append(folder.checkpoints)
    if taken:
        raise UserError(
            f"output_dir {folder.root} holds no run of hf-rnn, and files that one would replace: "
            f"{', '.join(path.name for path in taken[:3])}. Take another"
        )


def check_apart(
    folder: FinishedFolder, sources: Mapping[str, str | None], texts: Mapping[str, str | None] | None = None
) -> None:
    """Refuse to replace what a run reads.

    Args:
        folder: Where the finished model is to go.
        sources: Names by setting: a path, or of no path an id on the Hub, or None.
        texts: The same of texts, which may lie in the output folder itself, where they stay.

    Raises:
        UserError: For the output folder itself, and for what would be removed there.
    """
    # of the system's own function, for that of Path raises where links go in a circle
    removed = {Path(os.path.realpath(path)) for path in (*_finished_files(folder), folder.checkpoints)}
    texts = texts or {}
    for setting, name in {**sources, **texts}.items():
        if not name or not os.path.exists(name):  # of Path it may raise, for a name that no file could have
            continue
        place = Path(os.path.realpath(name))
        is_root = place == Path(os.path.realpath(folder.root)) and setting not in texts
        if is_root or not removed.isdisjoint((place, *place.parents)):
            raise UserError(
                f"{setting} {name} lies in the output_dir, where the new model would replace it: "
                "give another output_dir"
            )


def clear(folder: FinishedFolder) -> None:
    """Remove what an earlier run left, and nothing else that may be in the folder."""
    _remove_finished(folder)
    for checkpoint in checkpoints.list_checkpoints(folder.checkpoints):
        checkpoints.remove(checkpoint)
    shutil.rmtree(folder.checkpoints / "runs", ignore_errors=True)  # TensorBoard's logs
    with contextlib.suppress(OSError):  # not there, or it holds something of the user's
        folder.checkpoints.rmdir()


def make_writable(folder: FinishedFolder) -> None:
    """Make the folder if need be, and find out before training whether files can be made there.

    Raises:
        UserError: When they cannot.
    """
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.root):
            pass
    except OSError as error:
        raise UserError(f"output_dir {folder.root} cannot be written to: {error.strerror}. Take another") from error


@contextlib.contextmanager
def hold(folder: FinishedFolder) -> Iterator[None]:
    """Keep other runs out of a folder that is there; the system lets go of it when the process ends, however it does.

    Raises:
        UserError: When another run has it: the two would take each other's checkpoints for their own.
    """
    if sys.platform == "win32":
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder.root, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.callback(_HELD.discard, descriptor)
            _HELD.add(descriptor)
        except BlockingIOError as error:
            raise UserError(
                f"another run is training into output_dir {folder.root}: wait until it ends, or take another"
            ) from error
        except OSError:  # not every file system has locks
            pass
        yield


def fill(folder: FinishedFolder, write: Callable[[FinishedFolder], Written], remedy: str = _RESUME) -> Written:
    """Fill the root of a finished folder, all or nothing.

    Args:
        folder: Where the files go; an earlier run's are replaced.
        write: Writes the files into the folder that it is given.
        remedy: What to do when they cannot be written.

    Returns:
        What `write` returned.

    Raises:
        UserError: When the disk is full or does not take them.
    """
    try:
        return _fill(folder, write)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the finished model could not be written to {folder.root}: {error}. {remedy}") from error


def _fill(folder: FinishedFolder, write: Callable[[FinishedFolder], Written]) -> Written:
    folder.root.mkdir(parents=True, exist_ok=True)
    for left in folder.root.glob(f"{_UNFINISHED}*"):  # by a run that was killed while it wrote
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=folder.root) as beside:
        unfinished = FinishedFolder(Path(beside))
        written = write(unfinished)
        _remove_finished(folder)
        files = [path for path in unfinished.root.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path == unfinished.config):
            place = folder.root / path.relative_to(unfinished.root)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
        return written


def _remove_finished(folder: FinishedFolder) -> None:
    """Remove the files of an earlier run and what was exported from it, and the folder of that when it is empty."""
    for path in _finished_files(folder):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or it holds something of the user's
        folder.onnx_model.parent.rmdir()


def _finished_files(folder: FinishedFolder) -> list[Path]:
    """What belongs to a finished folder but the checkpoints, `config.json` first."""
    files = [path for path in folder.named_files() if path not in (folder.config, folder.checkpoints)]
    return [folder.config, *files, *(folder.root / name for name in MODELLING_FILES)]
