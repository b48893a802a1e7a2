"""Stopping a training run so that it can go on: what a signal asks for, and the moments at which a save is whole.

SIGTERM and Ctrl-C are only noted while training; the step is finished, a checkpoint is saved, then
[`TrainingStopped`] is raised. Nothing here writes files.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class TrainingStopped(KeyboardInterrupt):
    """Training was asked to stop, and has saved what it needs to go on.

    A KeyboardInterrupt, so that nothing takes it for an error.

    Attributes:
        signal: The signal that asked.
        checkpoint: What to go on from, None when training had nothing left to save.
        exit_code: What a shell reports for a process ended by that signal.
        advice: How whoever called goes on, for the message; empty until somebody who knows says so.
    """

    def __init__(self, number: int, checkpoint: Path | None) -> None:
        self.signal = signal.Signals(number)
        self.checkpoint = checkpoint
        self.exit_code = 128 + number
        self.advice = ""
        super().__init__(number, checkpoint)

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}{self.advice and f'; {self.advice}'}"


class StopRequest:
    """Notes SIGTERM and Ctrl-C while it is entered; a Ctrl-C after either interrupts at once.

    Attributes:
        number: The signal that was noted, 0 if none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self.number = 0
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._earlier = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}

    @property
    def entered(self) -> bool:
        """Whether signals are noted now."""
        return bool(self._earlier)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number:
            raise KeyboardInterrupt
        self.number = self.number or number


class SavePoints(TrainerCallback):
    """Saves when a stop was asked for, and only where a run that goes on loses nothing.

    After an epoch's last step come its log line and its evaluation; a checkpoint saved in between would never get
    them, so it is saved after them.

    Args:
        begin: Called when training begins, with all states loaded.
        asked: Says whether a stop was asked for, the same in all processes.
    """

    def __init__(self, begin: Callable[[], None], asked: Callable[[], bool]) -> None:
        self._begin = begin
        self._asked = asked
        self._put_off = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the Trainer take up what it left."""
        self._put_off = False
        self._begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save now if asked to stop, but not between an epoch and its evaluation."""
        if self._asked():
            control.should_save = True
        self._put_off_at_end(state, control)

    def ask(self, state: TrainerState, control: TrainerControl) -> None:
        """Save after this step, or where that is an epoch's last, after the epoch's evaluation."""
        control.should_save = True
        self._put_off_at_end(state, control)

    def _put_off_at_end(self, state: TrainerState, control: TrainerControl) -> None:
        if control.should_save and (float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps):
            control.should_save, self._put_off = False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save what was put off."""
        if self._put_off:
            control.should_save, self._put_off = True, False


class RunningLoss(TrainerCallback, ExportableState):
    """Carries through a checkpoint what goes into the next log line, of all processes; the Trainer forgets it.

    Attributes:
        unlogged: Sum of the losses since the last line.
        logged: Sum of those in the lines before.
        logged_step: Step of the last line.
        correct: Right answers on the texts trained on in this epoch.
        seen: So many texts.
        seconds: What the steps so far took, before a resume too.
    """

    def __init__(self) -> None:
        self.unlogged = 0.0
        self.logged = 0.0
        self.logged_step = 0
        self.correct = 0
        self.seen = 0
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": dict(vars(self))}
