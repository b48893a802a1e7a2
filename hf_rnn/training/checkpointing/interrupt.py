"""Stop a training run so that it can be resumed: note signals, and save only where a resumed run loses nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback


class TrainingStopped(KeyboardInterrupt):
    """Training stopped after a signal; a KeyboardInterrupt, so that nothing handles it as an error."""

    def __init__(self, number: int, checkpoint: Path | None) -> None:
        self.signal = signal.Signals(number)
        self.checkpoint = checkpoint  # to resume from; None when nothing was left to save
        self.exit_code = 128 + number  # as a shell reports this signal
        super().__init__(number, checkpoint)

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}; to resume, repeat the call with resume=True"


class StopRequest:
    """Note SIGTERM and Ctrl-C inside a `with` block as `number`; a Ctrl-C after either of them interrupts at once."""

    def __init__(self) -> None:
        self.number = 0  # the signal, 0 for none
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self.number = 0
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number:
            raise KeyboardInterrupt
        self.number = self.number or number


class SavePoints(TrainerCallback):
    """Save when a stop was requested, and never between the last step of an epoch and its evaluation.

    A checkpoint between them would miss the log line and the evaluation of that epoch. `on_begin` is called when
    training begins, with all states loaded; `asked_to_stop` returns the same in all processes.
    """

    def __init__(self, on_begin: Callable[[], None], asked_to_stop: Callable[[], bool]) -> None:
        self._on_begin = on_begin
        self._asked_to_stop = asked_to_stop
        self._postponed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the Trainer restore its progress."""
        self._postponed = False
        self._on_begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save if asked to stop; postpone every save at the end of an epoch."""
        if self._asked_to_stop():
            control.should_save = True
        self._postpone(state, control)

    def request(self, state: Any, control: Any) -> None:
        """Save after this step, or after the evaluation of the epoch if this is its last step."""
        control.should_save = True
        self._postpone(state, control)

    def _postpone(self, state: Any, control: Any) -> None:
        if control.should_save and (float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps):
            control.should_save, self._postponed = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do a postponed save."""
        if self._postponed:
            control.should_save, self._postponed = True, False
