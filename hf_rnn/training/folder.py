"""The output folder of a run and its checkpoints: one run at a time, resumed exactly, or replaced.

A checkpoint is the Trainer's folder `checkpoint-STEP`; its last file has what decided the run. The
finished model is written beside an earlier one, whose place it then takes by renames.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import datasets
from filelock import FileLock, Timeout
from transformers import PreTrainedConfig, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import sort_checkpoints

from ..hub.card import OLDER_FACTS
from ..hub.model_folder import MODELLING_FILES, UNFINISHED, FinishedFolder
from ..settings.fields import AFTER_STEPS, is_recorded
from ..settings.training_arguments import RnnTrainingArguments
from ..utils.errors import ModelError, SettingError, is_write_error

Written = TypeVar("Written")

LOCK = ".lock"
REJECTED_ROWS = "rejected.jsonl"  # left by a run that stopped at its data
# left by a run that stopped after asking its teacher; the next one uses it
TEACHER_LOGITS = "teacher_logits.npz"


# ---- signals ----


class TrainingStopped(KeyboardInterrupt):
    """Training stopped after a signal; a KeyboardInterrupt, so no handler takes it for an error."""

    def __init__(self, number: int, checkpoint: Path | None) -> None:
        self.signal = signal.Signals(number)
        self.checkpoint = checkpoint  # to resume from; None when nothing was left to save
        self.exit_code = 128 + number  # as a shell reports this signal
        super().__init__(number, checkpoint)

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}; to resume, repeat the call with resume=True"


class StopRequest:
    """Note SIGTERM and Ctrl-C inside a `with` block as `number`.

    A Ctrl-C after either of them interrupts at once.

    The Trainer's own `enable_jit_checkpoint` ignores Ctrl-C, waits 3 seconds, and does not make
    processes agree.
    """

    number = 0  # the signal, 0 for none

    def __enter__(self) -> StopRequest:
        self.number = 0
        # Python allows handlers there only
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        self._handlers = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number:
            raise KeyboardInterrupt
        self.number = self.number or number


# ---- checkpoints ----


@dataclass(eq=False)
class RunRecord(TrainerCallback, ExportableState):
    """Two facts of a run for the Trainer's state, so that each checkpoint has them."""

    made_from: dict[str, Any] = field(default_factory=dict)  # see `fingerprint_run`
    seconds: float = 0.0  # training time before a resume

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        """Start the clock when the first step can start."""
        self._began = time.monotonic()

    def measure(self) -> float:
        """Return the seconds of training so far."""
        return self.seconds + time.monotonic() - self._began

    def state(self) -> dict[str, Any]:
        """Return the arguments to make this again."""
        return {"args": {"made_from": self.made_from, "seconds": self.measure()}, "attributes": {}}


def fingerprint_run(
    examples: Mapping[str, datasets.Dataset], config: PreTrainedConfig, settings: TrainingArguments
) -> dict[str, Any]:
    """Return what decides the steps and scores of a run by name: values, and a hash of the data."""
    digest = hashlib.sha256()
    for split, rows in examples.items():
        digest.update(f"{split} {rows.column_names} {len(rows)}".encode())
        for table in rows.with_format("arrow").iter(batch_size=10_000):
            for batch in table.replace_schema_metadata(None).combine_chunks().to_batches():
                digest.update(batch.serialize())
    decisive = {
        name: value
        for name, value in settings.to_dict().items()
        if is_recorded(name) and name not in AFTER_STEPS
    }
    values = {
        "the texts or their labels": digest.hexdigest(),
        **config.to_dict(),
        **decisive,
        "processes": settings.world_size,
        "device": settings.device.type,
        "transformers_version": None,
    }
    return json.loads(json.dumps(values, default=str, sort_keys=True))


def check_unchanged(checkpoint: Path, made_from: Mapping[str, Any]) -> None:
    """Refuse to resume a run of other data or settings, by a [`ModelError`] that lists them.

    Settings that one version lacks are ignored.
    """
    before = _read_made_from(checkpoint) or {}
    changed = [] if before else ["the version of hf-rnn"]
    for name in sorted(before.keys() & made_from.keys()):
        if before[name] != made_from[name]:
            values = f" (was {before[name]!s:.60}, now {made_from[name]!s:.60})"
            changed.append(name if name.startswith("the ") else name + values)
    if changed:
        advice = "Restore it, or start again with --overwrite_output_dir in place of --resume"
        raise ModelError(f"changed since {checkpoint} was saved: {', '.join(changed)}. {advice}")


def _read_made_from(checkpoint: Path) -> dict[str, Any] | None:
    """Return what decided the run of a checkpoint; None for one that is not whole.

    The Trainer writes this file last.
    """
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    record = state["stateful_callbacks"].get(RunRecord.__name__, {})  # a later version has it
    return record.get("args", {}).get("made_from", {})


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a folder, newest first."""
    paths = map(Path, reversed(sort_checkpoints(str(folder))))
    return [path for path in paths if _read_made_from(path) is not None]


def remove_checkpoints(folder: FinishedFolder) -> None:
    """Remove the checkpoints, a teacher's answers, and their folder.

    The folder stays if it has logs or files of the user.
    """
    (folder.root / TEACHER_LOGITS).unlink(missing_ok=True)
    for checkpoint in sort_checkpoints(str(folder.checkpoints)):
        shutil.rmtree(checkpoint, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.checkpoints.rmdir()


# ---- the output folder ----


@contextlib.contextmanager
def open_output(args: RnnTrainingArguments) -> Iterator[tuple[FinishedFolder, Path | None]]:
    """Hold the output folder of a run; yield it with the checkpoint to resume from, or None.

    Raises a [`ModelError`] when another run uses the folder; when it has files, unless the user
    chose to overwrite an earlier run or to resume it; when there is no checkpoint to resume from.
    """
    folder = FinishedFolder(Path(str(args.output_dir)))
    is_main = args.process_index == 0
    parents = folder.root.absolute().parents
    made = [path for path in (folder.root, *parents) if not path.exists()]
    try:
        with lock_folder(folder.root) if is_main else contextlib.nullcontext():
            if is_main:  # left by a process that was killed while it saved
                whole = list_checkpoints(folder.checkpoints)
                for path in map(Path, sort_checkpoints(str(folder.checkpoints))):
                    if path not in whole and (args.resume or not whole):
                        shutil.rmtree(path, ignore_errors=True)
            if is_main and not args.resume:
                check_replaceable(folder, args.overwrite_output_dir)
            whole = list_checkpoints(folder.checkpoints)
            if args.resume and not whole:
                advice = "leave out --resume"
                if _list_earlier(folder):
                    advice += ", and --overwrite_output_dir replaces the earlier run"
                raise ModelError(f"there is no checkpoint in {folder.checkpoints}: {advice}")
            yield folder, whole[0] if args.resume else None
    finally:
        for path in (folder.checkpoints, *made) if is_main else ():
            with contextlib.suppress(OSError):  # it has files
                path.rmdir()


def check_replaceable(folder: FinishedFolder, overwrite: bool) -> None:
    """Refuse a folder with files by a [`ModelError`].

    With `overwrite`, refuse one with files that are not those of an earlier run.
    """
    if overwrite:
        marks = [folder.training_args.name, "checkpoints/checkpoint-*", f"{UNFINISHED}*"]
        taken = [path.name for path in _finished_files(folder) if path.exists()]
        if taken and not any(any(folder.root.glob(mark)) for mark in marks):
            raise ModelError(
                f"output_dir {folder.root} holds no run of hf-rnn, and files that one would "
                f"replace: {', '.join(taken[:3])}. Give another"
            )
        return
    present = _list_earlier(folder)
    if not present:
        return
    advice = "give another, or --overwrite_output_dir to replace an earlier run"
    if list_checkpoints(folder.checkpoints):
        advice += ", or --resume to continue it"
    shown = ", ".join(present[:3])
    raise ModelError(f"output_dir {folder.root} is not empty (it holds {shown}): {advice}")


def _list_earlier(folder: FinishedFolder) -> list[str]:
    """Return the names of files and folders.

    Those of a run that ended before its first checkpoint are left out.
    """
    early = [REJECTED_ROWS, TEACHER_LOGITS, LOCK]
    if not list_checkpoints(folder.checkpoints):
        early.append(folder.checkpoints.name)
    return sorted(path.name for path in folder.root.glob("*") if path.name not in early)


def check_apart(output_dir: str | None, sources: Mapping[str, str | None]) -> None:
    """Refuse by a [`SettingError`] an output folder that is a model, teacher or file to read."""
    output = os.path.realpath(str(output_dir))
    for setting, name in sources.items():
        if name and os.path.exists(name) and os.path.realpath(name) == output:
            raise SettingError(
                f"{setting} {name} is the output_dir and would be replaced: give another"
            )


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and lock it until this block or the process ends; refuse a locked one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, blocking=False):
            try:
                yield
            finally:
                (folder / LOCK).unlink(missing_ok=True)
    except Timeout as error:
        raise ModelError(
            f"{folder} is in use by another run: wait until it ends, or give another"
        ) from error


def replace_model(
    folder: FinishedFolder, write: Callable[[FinishedFolder], Written], remedy: str | None = None
) -> Written:
    """Write a finished model to a locked folder, or leave it as it was; return what `write` does.

    `write` writes the new files to a subfolder. The old files move out, then the new ones in.
    `config.json` moves out first and in last: the folder loads only when it is whole. A process
    that is killed during the moves leaves one of the two models whole in its subfolder. When files
    cannot be written, a [`ModelError`] ends with `remedy`.
    """
    try:
        # left by a run that was killed while it wrote
        for leftover in folder.root.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder.root) as beside:
            new = FinishedFolder(Path(beside, "new"))
            new.root.mkdir()
            written = write(new)
            _move_files(folder, new, Path(beside, "old"))
    except Exception as error:
        if not is_write_error(error):
            raise
        if remedy is None:
            remedy = "Make room there, then repeat the command"
            if list_checkpoints(folder.checkpoints):
                remedy += " with --resume: the checkpoints are intact"
        raise ModelError(
            f"the finished model could not be written to {folder.root}: {error}. {remedy}"
        ) from error
    with contextlib.suppress(OSError):  # missing, or it holds a file of the user
        folder.onnx_model.parent.rmdir()
    return written


def _move_files(folder: FinishedFolder, new: FinishedFolder, old: Path) -> None:
    """Move the files of a model to `old` and the new ones in, or undo all moves."""
    files = [path for path in new.root.rglob("*") if path.is_file()]
    files.sort(key=lambda path: path == new.config)
    incoming = {path: folder.root / path.relative_to(new.root) for path in files}
    replaced = dict.fromkeys([*_finished_files(folder), *incoming.values()])
    outgoing = {path: old / path.relative_to(folder.root) for path in replaced if path.exists()}
    with contextlib.ExitStack() as undo:
        for source, target in [*outgoing.items(), *incoming.items()]:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            undo.callback(os.replace, target, source)
        undo.pop_all()


def _finished_files(folder: FinishedFolder) -> list[Path]:
    """Return the files of a finished folder, `config.json` first, without checkpoints."""
    files = [
        path for path in folder.named_files() if path not in (folder.config, folder.checkpoints)
    ]
    others = [*MODELLING_FILES, OLDER_FACTS]
    return [folder.config, *files, *(folder.root / name for name in others)]
