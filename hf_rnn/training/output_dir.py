"""Check the output folder before a training run and fill it with the finished model afterwards.

The new model is written to a subfolder. When it is complete, renames put it in the place of an earlier one. Other
files in the folder stay.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..hub.model_folder import MODELLING_FILES, UNFINISHED, FinishedFolder
from ..utils.errors import UserError, is_write_error
from .checkpointing import manifest as checkpoints
from .training_arguments import RnnTrainingArguments

Written = TypeVar("Written")

REJECTED_ROWS = "rejected.jsonl"  # left by a run that stopped at its data
TEACHER_CACHE = "teacher_cache"  # left by a run that stopped after asking its teacher; the next one uses it
_RESUME = "The checkpoints are intact: make room there, then repeat the command with --resume"


def check_output_dir(folder: FinishedFolder, args: RnnTrainingArguments) -> Path | None:
    """Refuse a folder with files, unless the user chose to overwrite an earlier run there or to resume it.

    Return the newest valid checkpoint to resume from, see [`find_newest`]; None to start. Raises a [`UserError`] when
    the folder cannot be used, or has no checkpoint to resume from.
    """
    if (obstacle := find_obstacle(folder.root)) is not None:
        raise UserError(f"output_dir {folder.root} is not writable: found {obstacle} in its way; give another")
    if args.resume:
        kept = [name for name in (TEACHER_CACHE,) if (folder.root / name).is_dir()]
        if kept and not checkpoints.list_checkpoints(folder.checkpoints):
            raise UserError(
                f"there is no checkpoint in {folder.checkpoints} yet: leave out --resume; what the teacher has "
                f"computed is kept in {kept[0]} and used again"
            )
        needs_best = bool(args.load_best_model_at_end)
        return checkpoints.find_newest(folder.checkpoints, processes=args.world_size, needs_best=needs_best)
    present = sorted(path.name for path in folder.root.glob("*") if not _is_leftover(folder, path))
    if args.overwrite_output_dir:
        marks = (folder.card_facts.name, folder.training_args.name, "checkpoints/checkpoint-*", f"{UNFINISHED}*")
        taken = [path.name for path in _finished_files(folder) if path.exists()]
        if taken and not any(True for mark in marks for _ in folder.root.glob(mark)):
            raise UserError(
                f"output_dir {folder.root} holds no run of hf-rnn, and files that one would replace: "
                f"{', '.join(taken[:3])}. Give another"
            )
    elif present:
        raise UserError(
            f"output_dir {folder.root} is not empty (it holds {', '.join(present[:3])}): give another, or "
            "--overwrite_output_dir to replace an earlier run, or --resume to continue it"
        )
    return None


def find_obstacle(folder: Path) -> Path | None:
    """Return the path that prevents writing to a folder, which may be missing itself; None if nothing does."""
    paths = (folder, *folder.absolute().parents)
    nearest = next((path for path in paths if path.exists()), paths[-1])
    return None if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK) else nearest


def _is_leftover(folder: FinishedFolder, path: Path) -> bool:
    """Return whether a run that failed early left this."""
    if path == folder.checkpoints:
        return path.is_dir() and not any(path.iterdir())
    return path.name in (REJECTED_ROWS, TEACHER_CACHE)


def check_apart(output_dir: str | None, sources: Mapping[str, str | None]) -> None:
    """Refuse an output folder that is a model, teacher or file that the run reads, by a [`UserError`]."""
    for setting, name in sources.items():
        if name and os.path.exists(name) and os.path.realpath(name) == os.path.realpath(str(output_dir)):
            raise UserError(f"{setting} {name} is the output_dir and would be replaced: give another")


def remove_checkpoints(folder: FinishedFolder, logs: bool = True) -> None:
    """Remove the checkpoints and TensorBoard's logs of an earlier run; its finished model and other files stay."""
    for checkpoint in checkpoints.list_checkpoints(folder.checkpoints):
        checkpoints.remove(checkpoint)
    if logs:
        shutil.rmtree(folder.checkpoints / "runs", ignore_errors=True)


def tidy(folder: FinishedFolder) -> None:
    """Remove the checkpoints of a finished run, and their folder unless it has logs or files of the user."""
    remove_checkpoints(folder, logs=False)
    with contextlib.suppress(OSError):
        folder.checkpoints.rmdir()


def fill(folder: FinishedFolder, write: Callable[[FinishedFolder], Written], remedy: str = _RESUME) -> Written:
    """Write a finished model to a folder, or leave the folder as it was; return the result of `write`.

    `write` writes the new files to a subfolder. The old files move out, then the new ones in. `config.json` moves out
    first and in last: the folder loads only when it is whole. A process that is killed during the moves leaves one of
    the two models whole in its subfolder. When files cannot be written, for example to a full disk, a [`UserError`]
    ends with `remedy`.
    """
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder.root) as beside:
            new, old = FinishedFolder(Path(beside, "new")), FinishedFolder(Path(beside, "old"))
            new.root.mkdir()
            written = write(new)
            files = [path for path in new.root.rglob("*") if path.is_file()]
            files.sort(key=lambda path: path == new.config)
            incoming = {path: folder.root / path.relative_to(new.root) for path in files}
            outgoing = dict.fromkeys([*_finished_files(folder), *incoming.values()])
            moves = [(path, old.root / path.relative_to(folder.root)) for path in outgoing if path.exists()]
            moves += incoming.items()
            try:
                for source, target in moves:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source.replace(target)
            except BaseException:
                for source, target in reversed(moves):
                    if target.exists() and not source.exists():
                        target.replace(source)
                raise
    except Exception as error:
        if not is_write_error(error):
            raise
        raise UserError(f"the finished model could not be written to {folder.root}: {error}. {remedy}") from error
    with contextlib.suppress(OSError):  # missing, or it holds a file of the user
        folder.onnx_model.parent.rmdir()
    for leftover in folder.root.glob(f"{UNFINISHED}*"):  # from a run that was killed while it wrote
        shutil.rmtree(leftover)
    return written


def _finished_files(folder: FinishedFolder) -> list[Path]:
    """Return the files of a finished folder, `config.json` first, without checkpoints."""
    files = [path for path in folder.named_files() if path not in (folder.config, folder.checkpoints)]
    return [folder.config, *files, *(folder.root / name for name in MODELLING_FILES)]
