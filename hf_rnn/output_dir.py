"""The output folder of a training run: looked at before it, filled after it, and never half-finished in between.

Finished files are written beside their places and moved there at the end, `config.json` last: without it nothing
loads. What else lies in the folder is left alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from .errors import UserError
from .folder import FinishedFolder

REJECTED_ROWS = "rejected.jsonl"  # left by a run that stopped at its data; stands in no other run's way


def check_output_dir(folder: FinishedFolder, *, overwrite: bool, resume: bool) -> Path | None:
    """Refuse a folder that holds something already, unless the user says what is to be done with it.

    Args:
        folder: Where the finished model is to go.
        overwrite: Whether to replace what is there.
        resume: Whether to go on from the newest checkpoint there.

    Returns:
        The checkpoint to go on from, None to start anew.

    Raises:
        UserError: When the folder is in the way, or there is nothing to go on from.
    """
    if folder.root.exists() and not folder.root.is_dir():
        raise UserError(f"output_dir {folder.root} is a file: give a folder")
    if resume:
        newest = get_last_checkpoint(str(folder.checkpoints)) if folder.checkpoints.is_dir() else None
        if newest is None:
            raise UserError(f"there is no checkpoint in {folder.checkpoints}: leave out --resume to start anew")
        return Path(newest)
    if folder.root.is_dir() and not overwrite:
        found = sorted(path.name for path in folder.root.iterdir() if path.name != REJECTED_ROWS)
        if found:
            holds = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            advice = "--overwrite_output_dir replaces an earlier run, --resume goes on with it"
            raise UserError(f"output_dir {folder.root} is not empty (it holds {holds}). Take another, or: {advice}")
    return None


def clear(folder: FinishedFolder) -> None:
    """Remove what an earlier run left, and nothing else that may be in the folder."""
    for path in _finished_files(folder):
        path.unlink(missing_ok=True)
    if folder.checkpoints.exists():
        shutil.rmtree(folder.checkpoints)


def fill(folder: FinishedFolder, write: Callable[[FinishedFolder], None]) -> None:
    """Fill the root of a finished folder, all or nothing.

    Args:
        folder: Where the files go; an earlier run's are replaced.
        write: Writes the files into the folder that it is given.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.root) as beside:
        unfinished = FinishedFolder(Path(beside))
        write(unfinished)
        for path in _finished_files(folder):
            path.unlink(missing_ok=True)
        for path in sorted(unfinished.root.iterdir(), key=lambda path: path.name == folder.config.name):
            path.replace(folder.root / path.name)


def _finished_files(folder: FinishedFolder) -> list[Path]:
    """What training writes at the root, `config.json` first."""
    named = [getattr(folder, name) for name, kind in vars(FinishedFolder).items() if isinstance(kind, property)]
    files = [path for path in named if path not in (folder.config, folder.checkpoints)]
    return [folder.config, *files, *folder.root.glob("*_rnn.py")]
