"""Check the output folder before a training run and fill it with the finished model afterwards.

The new model is written to a subfolder. When it is complete, renames put it in the place of an earlier one. Other
files in the folder stay.
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

from ..hub.model_folder import MODELLING_FILES, UNFINISHED, FinishedFolder
from ..utils.errors import UserError, is_write_error
from .checkpointing import manifest as checkpoints

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
    """Refuse to replace files with the names of ours when there is no sign of an earlier run."""
    marks = [path for path in (folder.card_facts, folder.training_args) if path.exists()]
    if marks or any(folder.checkpoints.glob("checkpoint-*")) or any(folder.root.glob(f"{UNFINISHED}*")):
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


def remove_checkpoints(folder: FinishedFolder) -> None:
    """Remove the checkpoints and logs of an earlier run; its finished model and other files stay."""
    for checkpoint in checkpoints.list_checkpoints(folder.checkpoints):
        checkpoints.remove(checkpoint)
    shutil.rmtree(folder.checkpoints / "runs", ignore_errors=True)  # TensorBoard's logs


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
    """Write a finished model to a folder, or leave the folder as it was.

    Args:
        folder: Where the files go; those of an earlier run are replaced.
        write: Writes the files into the folder that it is given.
        remedy: What to do when they cannot be written.

    Returns:
        The result of `write`.

    Raises:
        UserError: When the files cannot be written, for example to a full disk.
    """
    try:
        return _fill(folder, write)
    except Exception as error:
        if not is_write_error(error):
            raise
        raise UserError(f"the finished model could not be written to {folder.root}: {error}. {remedy}") from error


def _fill(folder: FinishedFolder, write: Callable[[FinishedFolder], Written]) -> Written:
    """Write the new model to a subfolder, move the old files out, then the new ones in.

    `config.json` moves out first and in last: the folder loads only when it is whole. A process that is killed during
    the moves leaves one of the two models whole in its subfolder.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder.root) as beside:
        new, old = FinishedFolder(Path(beside, "new")), FinishedFolder(Path(beside, "old"))
        new.root.mkdir()
        written = write(new)
        files = sorted((path for path in new.root.rglob("*") if path.is_file()), key=lambda path: path == new.config)
        coming = {path: folder.root / path.relative_to(new.root) for path in files}
        leaving = dict.fromkeys([*_finished_files(folder), *coming.values()])
        moves = [(path, old.root / path.relative_to(folder.root)) for path in leaving if path.exists()]
        moves += coming.items()
        try:
            for source, target in moves:
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        except BaseException:
            for source, target in reversed(moves):
                if target.exists() and not source.exists():
                    target.replace(source)
            raise
    with contextlib.suppress(OSError):  # missing, or it holds a file of the user
        folder.onnx_model.parent.rmdir()
    for left in folder.root.glob(f"{UNFINISHED}*"):  # by a run that was killed while it wrote
        shutil.rmtree(left)
    return written


def _finished_files(folder: FinishedFolder) -> list[Path]:
    """What belongs to a finished folder but the checkpoints, `config.json` first."""
    files = [path for path in folder.named_files() if path not in (folder.config, folder.checkpoints)]
    return [folder.config, *files, *(folder.root / name for name in MODELLING_FILES)]
