"""Checkpoints that are complete or invalid: write the manifest last, find the newest valid one, remove old ones.

A checkpoint is the Trainer's folder `checkpoint-STEP` plus `manifest.json`. The manifest holds the size and SHA-256 of
every other file and the fingerprints of the run. It is written last, so a run that is killed at any moment leaves
either a valid checkpoint or one without a manifest; what a power failure damages, the hashes reveal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...utils.atomic_write import write_whole
from ...utils.errors import UserError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_VERSION = 1
_RESTART = "--overwrite_output_dir instead of --resume trains from the start"
_STATES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


class DamagedCheckpoint(UserError):
    """A checkpoint that differs from what was written: `reason` is the difference."""

    def __init__(self, reason: str, checkpoint: Path) -> None:
        self.reason = reason
        advice = "Give another one, or resume_from_checkpoint=True for the newest valid one"
        super().__init__(f"{checkpoint} cannot be used: {reason}. {advice}")


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name, -1 for any other name."""
    prefix, _, step = checkpoint.name.rpartition("-")
    return int(step) if prefix == PREFIX_CHECKPOINT_DIR and step.isdecimal() else -1


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, valid or not, newest first."""
    paths = [path for path in folder.glob("*") if step_of(path) >= 0 and path.is_dir()]
    return sorted(paths, key=step_of, reverse=True)


# ---- the manifest ----


def write_manifest(
    checkpoint: Path,
    *,
    best_step: int | None = None,
    made_from: Mapping[str, Any] | None = None,
    progress: Mapping[str, Any] | None = None,
) -> None:
    """Write the manifest of a checkpoint, with the `best_step` so far and the fingerprints `made_from` of the run.

    `progress` has losses, counts and times of the run so far.
    """
    files = {
        path.relative_to(checkpoint).as_posix(): {"size": path.stat().st_size, "sha256": _hash_file(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    content = {"version": _VERSION, "best_step": best_step, "files": files}
    content |= {"made_from": dict(made_from or {}), "progress": dict(progress or {})}
    signed = {**content, "sha256": _digest(content)}
    write_whole(checkpoint / MANIFEST, json.dumps(signed, indent=1, sort_keys=True).encode())


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest: `best_step`, `files`, `made_from` and `progress`.

    Raises [`DamagedCheckpoint`] when it is missing or changed.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
        if manifest.pop("sha256") == _digest(manifest) and manifest["version"] == _VERSION:
            return manifest
        reason = f"{MANIFEST} is damaged"
    except FileNotFoundError:
        reason = f"it is incomplete, {MANIFEST} is missing" if checkpoint.is_dir() else "there is no such folder"
    except (ValueError, AttributeError, KeyError):
        reason = f"{MANIFEST} is damaged"
    raise DamagedCheckpoint(reason, checkpoint)


def verify(checkpoint: Path, *, contents: bool = True) -> dict[str, Any]:
    """Check a checkpoint against its manifest, and return the manifest.

    Without `contents` only sizes are compared, which is fast. Raises [`DamagedCheckpoint`] for a file that is missing
    or changed.
    """
    manifest = read_manifest(checkpoint)
    for name, recorded in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{name} is missing", checkpoint)
        if path.stat().st_size != recorded["size"] or (contents and _hash_file(path) != recorded["sha256"]):
            raise DamagedCheckpoint(f"{name} is damaged", checkpoint)
    return manifest


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---- resume ----


def find_newest(folder: Path, *, processes: int = 1, needs_best: bool = False) -> Path:
    """Return the newest checkpoint that a run can resume from, and log which ones are skipped and why.

    Each of the `processes` of the run needs the state of its random generators. A run that `needs_best` loads its best
    checkpoint at the end, which must be valid too. Raises a [`UserError`] when there is no valid checkpoint.
    """
    skipped = []
    for checkpoint in list_checkpoints(folder):
        whose = ""
        try:
            best_step = check_states(checkpoint, processes)["best_step"]
            if needs_best and best_step not in (None, step_of(checkpoint)):
                best = checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{best_step}")
                whose = f"its best, {best.name}: "
                verify(best)
        except DamagedCheckpoint as damaged:
            skipped.append(f"{checkpoint.name} ({whose}{damaged.reason})")
            continue
        if skipped:
            logger.warning("resuming from %s; skipped %s", checkpoint, ", ".join(skipped))
        return checkpoint
    if not skipped:
        raise UserError(f"there is no checkpoint in {folder}: leave out --resume. {_RESTART}")
    raise UserError(f"no checkpoint in {folder} can be resumed: found {', '.join(skipped)}. {_RESTART}")


def check_states(checkpoint: Path, processes: int = 1) -> dict[str, Any]:
    """Check that a checkpoint is valid and has every state, which the Trainer would reset silently.

    Return its manifest. Raises [`DamagedCheckpoint`] for a missing or changed file.
    """
    manifest = verify(checkpoint)
    generators = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    for name in (*_STATES, *generators):
        if name not in manifest["files"]:
            raise DamagedCheckpoint(f"it was saved without {name}", checkpoint)
    return manifest


# ---- remove ----


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its manifest first, so that an interrupted removal leaves nothing that seems valid."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    with suppress(OSError):
        shutil.rmtree(checkpoint)


def rotate(newest: Path, limit: int | None, *, needs_best: bool = True) -> None:
    """Remove old, incomplete and abandoned later checkpoints until `limit` are left; None keeps all.

    The newest and its best are kept in any case. If a run `needs_best` at its end, those that are their own best come
    next, because the others cannot be resumed without theirs.
    """
    if not limit:
        return
    last = step_of(newest)
    best_steps: dict[int, int] = {}  # by step of a valid checkpoint, newest first
    for checkpoint in list_checkpoints(newest.parent):
        with suppress(DamagedCheckpoint):
            best = verify(checkpoint, contents=False)["best_step"]
            if (step := step_of(checkpoint)) <= last:
                best_steps[step] = best if needs_best and best is not None else step
    first = {last: None, best_steps[last]: None}
    independent = [step for step, best in best_steps.items() if best == step]
    kept = list(dict.fromkeys([*first, *independent, *best_steps]))[: max(limit, len(first))]
    for checkpoint in list_checkpoints(newest.parent):
        if step_of(checkpoint) not in kept:
            remove(checkpoint)
