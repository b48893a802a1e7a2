"""Checkpoints that are complete or absent: a manifest written last, the newest valid one found, old ones removed.

A checkpoint is the Trainer's folder `checkpoint-STEP` and in it `manifest.json`, which names every other file with its
size and SHA-256, and says what the run was made from. It is written when all else is on the disk, so that a run that
is killed at any moment leaves either a whole checkpoint or one that nobody takes for one. Only files here; the Trainer
writes and reads the states in them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...utils.errors import UserError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
_ADAPTER = "adapter_model.safetensors"  # of a model that PEFT wraps nothing else is saved
_VERSION = 1
_ANEW = "--overwrite_output_dir instead of --resume starts anew"


class DamagedCheckpoint(UserError):
    """A checkpoint that is not as it was written.

    Attributes:
        reason: In what.
    """

    def __init__(self, reason: str, checkpoint: Path) -> None:
        self.reason = reason
        super().__init__(
            f"{checkpoint} cannot be used: {reason}. "
            "Give another, or resume_from_checkpoint=True for the newest whole one"
        )


def step_of(checkpoint: Path) -> int:
    """Return the optimiser steps that a checkpoint was saved after, -1 for what is no checkpoint's name."""
    found = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", checkpoint.name)
    return int(found.group(1)) if found else -1


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, valid or not, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if step_of(path) >= 0 and path.is_dir()), key=step_of)[::-1]


# ---- the manifest ----


def write_manifest(
    checkpoint: Path, *, best_step: int | None = None, made_from: Mapping[str, Any] | None = None
) -> None:
    """Flush a checkpoint's files to the disk, then say that it is complete.

    Args:
        checkpoint: Folder that holds every file already.
        best_step: Step of the best checkpoint so far, which this one leans on, None without one.
        made_from: Fingerprints of the run, see [`take_fingerprints`]; absent ones are never compared.

    Raises:
        OSError: When the disk is full or does not take it.
    """
    files = {}
    for path in _files(checkpoint):
        with path.open("r+b") as file:  # Windows flushes only what may be written to
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(checkpoint).as_posix()] = {"size": path.stat().st_size, "sha256": digest}
    content = {"version": _VERSION, "best_step": best_step, "files": files, "made_from": dict(made_from or {})}
    unfinished = checkpoint / f".{MANIFEST}"
    _sync_folder(checkpoint)
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump({**content, "sha256": _digest(content)}, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(checkpoint / MANIFEST)
    _sync_folder(checkpoint)
    _sync_folder(checkpoint.parent)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint's manifest says: `best_step`, `files` and `made_from`.

    Raises:
        DamagedCheckpoint: When it is not there or not as it was written.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        recorded = manifest.pop("sha256")
        intact = recorded == _digest(manifest) and manifest["version"] == _VERSION
    except FileNotFoundError:
        reason = "it was not written to its end" if checkpoint.is_dir() else "there is no such folder"
        raise DamagedCheckpoint(reason, checkpoint) from None
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise DamagedCheckpoint(f"{MANIFEST} is damaged", checkpoint)
    return manifest


def verify(checkpoint: Path, *, contents: bool = True) -> dict[str, Any]:
    """Make sure that a checkpoint is as it was written, and return its manifest.

    Args:
        checkpoint: The folder.
        contents: Whether to read every file; else only sizes are looked at, which is quick.

    Raises:
        DamagedCheckpoint: For a file that is missing, has another size, or other bytes.
    """
    manifest = read_manifest(checkpoint)
    for name, recorded in manifest["files"].items():
        path = checkpoint / name
        try:
            size = path.stat().st_size
            if size != recorded["size"]:
                raise DamagedCheckpoint(f"{name} has {size} bytes of {recorded['size']}", checkpoint)
            if not contents:
                continue
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != recorded["sha256"]:
                    raise DamagedCheckpoint(f"{name} is damaged", checkpoint)
        except FileNotFoundError:
            raise DamagedCheckpoint(f"{name} is missing", checkpoint) from None
        except OSError as error:
            raise DamagedCheckpoint(f"{name} cannot be read: {error.strerror}", checkpoint) from error
    return manifest


# ---- going on from one ----


def find_newest(folder: Path, *, processes: int = 1, needs_best: bool = False) -> Path:
    """Return the newest checkpoint that a run can go on from; one log line says what was skipped, and why.

    Args:
        folder: Where the checkpoints are.
        processes: Of the run; each has a random generator whose state must be there.
        needs_best: Whether the run ends with its best checkpoint, which then must be intact too.

    Raises:
        UserError: When there is none.
    """
    skipped = []
    for checkpoint in list_checkpoints(folder):
        try:
            check_states(checkpoint, processes)
            if needs_best:
                _check_best(checkpoint)
        except DamagedCheckpoint as damaged:
            skipped.append(f"{checkpoint.name} ({damaged.reason})")
            continue
        if skipped:
            logger.warning("going on from %s; skipped %s", checkpoint, ", ".join(skipped))
        return checkpoint
    if skipped:
        raise UserError(f"no checkpoint in {folder} can be gone on from: {', '.join(skipped)}. {_ANEW}")
    raise UserError(
        f"there is no checkpoint in {folder}: leave out --resume to start anew, or if there is more: {_ANEW}"
    )


def check_states(checkpoint: Path, processes: int = 1) -> None:
    """Make sure that a checkpoint is valid and has every state: the Trainer starts one anew whose file is not there.

    Raises:
        DamagedCheckpoint: When it is not so.
    """
    names = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    manifest = verify(checkpoint)
    weights = _ADAPTER if _ADAPTER in manifest["files"] else WEIGHTS
    for name in (weights, "optimizer.pt", "scheduler.pt", "trainer_state.json", *names):
        if name not in manifest["files"]:
            raise DamagedCheckpoint(f"it was saved without {name}", checkpoint)


def _check_best(checkpoint: Path) -> None:
    step = read_manifest(checkpoint)["best_step"]
    if step is None or step == step_of(checkpoint):
        return
    best = checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{step}")
    try:
        verify(best)
    except DamagedCheckpoint as damaged:
        raise DamagedCheckpoint(f"of its best, {best.name}, {damaged.reason}", checkpoint) from damaged


def check_weights(checkpoint: Path, model: torch.nn.Module) -> None:
    """Make sure that a checkpoint has all weights of a model in their shapes: the Trainer would keep fresh ones.

    Raises:
        UserError: When the model is another one.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    try:
        with safe_open(checkpoint / WEIGHTS, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{checkpoint / WEIGHTS} cannot be read: {error}. {_ANEW}") from error
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{checkpoint} is of another model: {name} has shape {found.get(name)} there, {expected.get(name)} "
                "now. Repeat the command with the settings of the first run"
            )


# ---- removing ----


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its manifest first: killed on the way, it leaves nothing that looks whole.

    Of a link only the link goes, not what lies elsewhere.
    """
    if checkpoint.is_symlink():
        checkpoint.unlink()
        return
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    if checkpoint.exists():
        shutil.rmtree(checkpoint)


def rotate(newest: Path, limit: int | None, *, needs_best: bool = True) -> None:
    """Remove the oldest checkpoints beside one that was just written.

    The newest and the best are kept whatever the limit. The next to be kept are those that a run could go on from if
    the newest were lost: whole, and with their own best among the kept. What is not whole goes, and what is of a
    later step, which a run left that was gone back from.

    Args:
        newest: The checkpoint just written, with its manifest.
        limit: So many are kept, all if None or under 1.
        needs_best: Whether the run ends with its best checkpoint; if not, none leans on another.
    """
    if limit is None or limit < 1:
        return
    best_steps: dict[Path, int] = {}
    for checkpoint in list_checkpoints(newest.parent):
        try:
            manifest = verify(checkpoint, contents=False)
        except DamagedCheckpoint:
            continue
        if step_of(checkpoint) <= step_of(newest):
            best = manifest["best_step"]
            best_steps[checkpoint] = best if needs_best and best is not None else step_of(checkpoint)
    kept = {newest} | {path for path in best_steps if step_of(path) == best_steps.get(newest)}
    alone = [path for path, best in best_steps.items() if best == step_of(path)]  # newest first, as the others
    for checkpoint in [*alone, *best_steps]:
        if len(kept) < limit and (checkpoint in alone or best_steps[checkpoint] in map(step_of, kept)):
            kept.add(checkpoint)
    for checkpoint in list_checkpoints(newest.parent):
        if checkpoint not in kept:
            remove(checkpoint)


# ---- bytes ----


def _files(checkpoint: Path) -> Iterator[Path]:
    names: Iterable[Path] = sorted(checkpoint.rglob("*"))
    return (path for path in names if path.is_file() and path.name not in (MANIFEST, f".{MANIFEST}"))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush a folder's own entries: a file's name is not in the file."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
