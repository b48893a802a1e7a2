"""A Trainer that resumes from complete checkpoints only, bit for bit, and reports progress on stderr."""

from __future__ import annotations

import contextlib
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers import trainer as transformers_trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ...utils.errors import UserError, is_write_error, reason_of
from . import manifest as checkpoints

_TIMES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")  # suffixes of names
_REFUSALS = (
    ValueError, KeyError, TypeError, RuntimeError, EOFError, ImportError, AttributeError, pickle.UnpicklingError,
)  # fmt: skip


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

    number = 0  # the signal, 0 for none
    _handlers: Mapping[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self.number, self._handlers = 0, {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number:
            raise KeyboardInterrupt
        self.number = self.number or number


class SavePoints(TrainerCallback):
    """Save when a stop was requested, and never between the last step of an epoch and its evaluation.

    A checkpoint between them would miss the log line and the evaluation of that epoch.
    """

    def __init__(self, trainer: ResumableTrainer) -> None:
        self._trainer = trainer
        self._postponed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the Trainer restore its progress, with all states loaded."""
        self._trainer.restore_progress()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save if asked to stop; postpone every save at the end of an epoch."""
        save = self._trainer.asked_to_stop() or control.should_save
        ends = float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps
        control.should_save, self._postponed = save and not ends, save and ends

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do a postponed save."""
        control.should_save = control.should_save or self._postponed
        self._postponed = False


class ResumableTrainer(Trainer):
    """[`~transformers.Trainer`] with complete checkpoints, early stopping and one progress line per evaluation.

    A checkpoint is complete or invalid, see [`hf_rnn.training.checkpointing.manifest`]. A resumed run takes the same
    steps as an uninterrupted one; with a stream, only if the stream has a length. Inside `with trainer.stop_request:`
    SIGTERM and Ctrl-C finish the step, save, and raise [`TrainingStopped`].

    Arguments are those of the Trainer, and `made_from`, the fingerprints of the run for its checkpoints, see
    [`take_fingerprints`].
    """

    def __init__(self, *args: Any, made_from: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds_before = 0.0  # training time before a resume; the Trainer's own times start there
        self.stop_request = StopRequest()
        self.batch_sampler: Any = None  # draws the training batches; each epoch starts with its `set_epoch`
        self.quiet = False  # whether to print no line per evaluation
        self.on_begin: Callable[[], Any] = lambda: (
            None
        )  # called before the first step, when all settings were accepted
        self._made_from = made_from
        self._began: float | None = None  # when the first step of this call could start
        self._progress: dict[str, Any] = {}  # from the manifest of the checkpoint
        self._answers = torch.zeros(2, dtype=torch.long)  # correct ones and all since the last log, in this process
        self._logged: dict[str, float] = {}  # scores of training for the next line
        if self.pop_callback(transformers_trainer.DEFAULT_PROGRESS_CALLBACK) and sys.stderr.isatty():
            self.add_callback(ProgressBars)
        self.pop_callback(PrinterCallback)
        if patience := getattr(self.args, "early_stopping_patience", None):
            self.add_callback(EarlyStoppingCallback(patience))
        self.add_callback(SavePoints(self))  # after those that request a save

    def silence(self) -> None:
        """Show neither bars nor progress lines."""
        self.pop_callback(ProgressBars)
        self.quiet = True

    # ---- resume ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as the Trainer does, but resume from valid checkpoints only.

        `resume_from_checkpoint` is a checkpoint; True takes the newest valid one in `args.output_dir`. The training
        loss of the result covers the steps before a resume too.

        Raises:
            UserError: When the checkpoint is damaged, missing or from another model; when one cannot be written.
            TrainingStopped: See `stop_request`.
        """
        checkpoint, processes, self._began, self._progress = None, self.args.world_size, None, {}
        if resume_from_checkpoint is True:
            folder, needs_best = Path(str(self.args.output_dir)), bool(self.args.load_best_model_at_end)
            checkpoint = checkpoints.find_newest(folder, processes=processes, needs_best=needs_best)
        elif resume_from_checkpoint:
            checkpoint = Path(resume_from_checkpoint)
        if checkpoint is not None:
            self._progress = checkpoints.check_states(checkpoint, processes).get("progress", {})
        try:
            outcome = super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)
        except _REFUSALS as error:
            if self._began is not None or isinstance(error, UserError):
                raise
            if checkpoint is None:
                raise UserError(f"the Trainer refuses these settings: {reason_of(error)}") from error
            raise UserError(
                f"{checkpoint} does not match this run: {reason_of(error):.300}. Train from the start with "
                "--overwrite_output_dir instead of --resume"
            ) from error
        return outcome._replace(training_loss=outcome.metrics["train_loss"])

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        stopped = [
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        ]
        if any(stopped) or self.state.global_step >= self.state.max_steps:
            # a finished run, killed after its last checkpoint; the Trainer would take one more step
            self.control.should_training_stop = True
            return
        for part in (self.batch_sampler, self.train_dataset):  # accelerate does not find them after a resume
            if hasattr(part, "set_epoch"):
                part.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    def restore_progress(self) -> None:
        """Restore what the Trainer does not: losses and times so far, the best checkpoint's path."""
        self.on_begin()
        self._began = time.monotonic()
        self.seconds_before = self._progress.get("seconds", 0.0)
        self._answers, self._logged = torch.zeros(2, dtype=torch.long, device=self.args.device), {}
        best = self._checkpoint(self.state.best_global_step or 0)
        if best.is_dir():  # the output folder may have been moved
            self.state.best_model_checkpoint = str(best)
        if self._progress:
            self._tr_loss += self._progress["unlogged_loss"]
            self._total_loss_scalar = self._progress["logged_loss"]
            self._globalstep_last_logged = self._progress["logged_step"]
            if self.args.process_index == 0:  # the counts are sums over all processes
                self._answers += torch.tensor(self._progress.get("answers", [0, 0]), device=self.args.device)

    # ---- save ----

    def asked_to_stop(self) -> bool:
        """Return whether any process was asked to stop; all processes must call this together."""
        if self.accelerator.num_processes > 1:
            number = torch.tensor([self.stop_request.number], device=self.args.device)
            self.stop_request.number = int(self.accelerator.gather(number).max())
        return self.stop_request.number > 0

    def _checkpoint(self, step: int, trial: Any = None) -> Path:
        return Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{step}")

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Save as the Trainer does, write the manifest, remove old checkpoints, then stop if asked to."""
        checkpoint, args = self._checkpoint(self.state.global_step, trial), self.args
        limit = args.save_total_limit
        progress = {
            "unlogged_loss": self.accelerator.gather(self._tr_loss.detach().reshape(1)).mean().item(),
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
            "answers": self._count_answers(),
            "seconds": self.seconds_before + time.monotonic() - (self._began or 0.0),
        }
        try:
            args.save_total_limit = None  # earlier ones are removed after the manifest
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if args.should_save:
                (checkpoint / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # an unused pickle with local paths
                best = self.state.best_global_step or None
                checkpoints.write_manifest(checkpoint, best_step=best, made_from=self._made_from, progress=progress)
        except Exception as error:
            if not is_write_error(error) and not isinstance(error, RuntimeError):  # torch raises RuntimeError
                raise
            checkpoints.remove(checkpoint)
            saved = " with --resume: earlier checkpoints are intact" * bool(
                checkpoints.list_checkpoints(checkpoint.parent)
            )
            raise UserError(
                f"{checkpoint} could not be written: {reason_of(error):.300}. Make room there, then repeat the command"
                f"{saved}"
            ) from error
        finally:
            args.save_total_limit = limit
        if args.should_save:
            checkpoints.rotate(checkpoint, limit, needs_best=bool(args.load_best_model_at_end))
        if self.asked_to_stop():  # in all processes or none, or the others would wait
            raise TrainingStopped(self.stop_request.number, checkpoint)

    # ---- log ----

    def count_answers(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a training batch: logits `(B, C)` and class ids `(B,)`, -100 for none."""
        correct = (logits.detach().argmax(dim=-1) == labels).sum()
        self._answers += torch.stack([correct, (labels != -100).sum()])

    def _count_answers(self) -> list[int]:
        """Return the correct answers and the texts since the last log, in all processes."""
        return self.accelerator.reduce(self._answers, "sum").tolist()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the accuracy on the training texts since the last log; print a line per evaluation."""
        if "loss" in logs:
            correct, seen = self._count_answers()
            if seen:
                logs["train_accuracy"] = correct / seen
            self._answers.zero_()
            self._logged = {name: logs[name] for name in ("loss", "train_accuracy") if name in logs}
        if "train_loss" in logs:  # the Trainer divides by the steps since the resume
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, *args, **kwargs)
        alone = self.args.eval_strategy == "no" or self.args.logging_strategy == "steps"
        shown = any(name.startswith("eval_") for name in logs) or ("loss" in logs and alone)
        if shown and self.is_in_train and not self.quiet and self.state.is_world_process_zero:
            self._print_line(logs)

    def _print_line(self, logs: Mapping[str, float]) -> None:
        """Print the scores of training, then those of an evaluation: accuracy first, then the loss, then others."""
        state, line = self.state, f"epoch {round(self.state.epoch or 0, 2):g}/{self.state.num_train_epochs}"
        if self.args.max_steps > 0:
            line = f"step {state.global_step}/{state.max_steps}"
        parts = [line, *(f"{name.replace('_', ' ')} {value:.3f}" for name, value in self._logged.items())]
        scores = {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}
        names = [name for name, value in scores.items() if isinstance(value, float) and not name.endswith(_TIMES)]
        for name in sorted(names, key=lambda name: name != "accuracy"):
            title = f"validation {name}" if name in ("loss", "accuracy") else name
            parts.append(f"{title} {scores[name]:.3f}")
        with contextlib.suppress(OSError):  # a closed terminal or a full disk must not end the training
            tqdm.write("  ".join(parts), file=sys.stderr)


class ProgressBars(ProgressCallback):
    """The Trainer's bars without its log lines, which go to stdout."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print nothing; the Trainer does."""
