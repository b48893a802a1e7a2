"""A Trainer that resumes from complete checkpoints only, bit for bit, and reports progress on stderr."""

from __future__ import annotations

import contextlib
import pickle
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers import trainer as transformers_trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, TrainOutput

from ...utils.errors import UserError, is_write_error, reason_of
from . import manifest as checkpoints
from .interrupt import SavePoints, StopRequest, TrainingStopped

_TIMES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")  # suffixes of names


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
        self._made_from = made_from
        self._began: float | None = None  # when the first step of this call could start
        self._progress: dict[str, Any] = {}  # from the manifest of the checkpoint
        self._epoch_lines = EpochLines()
        self._save_points = SavePoints(self._restore_progress, self.asked_to_stop)
        if self.pop_callback(transformers_trainer.DEFAULT_PROGRESS_CALLBACK) and sys.stderr.isatty():
            self.add_callback(ProgressBars)
        self.pop_callback(PrinterCallback)
        self.add_callback(self._epoch_lines)
        if patience := getattr(self.args, "early_stopping_patience", None):
            self.add_callback(EarlyStoppingCallback(patience))
        self.add_callback(self._save_points)  # after those that request a save

    def silence(self) -> None:
        """Show neither bars nor progress lines."""
        self.pop_callback(ProgressBars)
        self._epoch_lines.quiet = True

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
        if resume_from_checkpoint:
            if resume_from_checkpoint is True:
                needs_best = bool(self.args.load_best_model_at_end)
                folder = Path(str(self.args.output_dir))
                checkpoint = checkpoints.find_newest(folder, processes=processes, needs_best=needs_best)
            else:
                checkpoint = Path(resume_from_checkpoint)
                checkpoints.check_states(checkpoint, processes)
            self._progress = checkpoints.read_manifest(checkpoint).get("progress", {})
        try:
            outcome = super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)
        except UserError:
            raise
        except KeyboardInterrupt as stopped:
            traceback.clear_frames(stopped.__traceback__)  # frees the data loader, which ends its workers
            raise
        except (ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            if checkpoint is None or self._began is not None:
                raise
            raise UserError(
                f"{checkpoint} does not match this run: {reason_of(error):.300}. Train from the start with "
                "--overwrite_output_dir instead of --resume"
            ) from error
        return outcome._replace(training_loss=outcome.metrics["train_loss"])

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        early = self._early_stopping()
        stale = early is not None and early.early_stopping_patience_counter >= early.early_stopping_patience
        if stale or self.state.global_step >= self.state.max_steps:
            # a finished run, killed after its last checkpoint; the Trainer would take one more step
            self.control.should_training_stop = True
            return
        for part in (self.batch_sampler, self.train_dataset):  # accelerate does not find them after a resume
            if hasattr(part, "set_epoch"):
                part.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    def _early_stopping(self) -> Any:
        """Return the callback; resuming replaces it, so it is looked up each time."""
        callbacks = self.callback_handler.callbacks
        return next((callback for callback in callbacks if isinstance(callback, EarlyStoppingCallback)), None)

    def _restore_progress(self) -> None:
        """Restore what the Trainer does not: losses and times so far, the best checkpoint's path, the patience."""
        self._began = time.monotonic()
        self.seconds_before = self._progress.get("seconds", 0.0)
        if (early := self._early_stopping()) is not None:
            early.early_stopping_patience = getattr(
                self.args, "early_stopping_patience", early.early_stopping_patience
            )
            if self.state.global_step == 0:
                early.early_stopping_patience_counter = 0  # from an earlier run
        best = self._checkpoint(self.state.best_global_step or 0)
        if best.is_dir():  # the output folder may have been moved
            self.state.best_model_checkpoint = str(best)
        if not self._progress:
            return
        self._tr_loss += self._progress["unlogged_loss"]
        self._total_loss_scalar = self._progress["logged_loss"]
        self._globalstep_last_logged = self._progress["logged_step"]
        epoch = float(self.state.epoch or 0)
        resumed = self.args.process_index == 0 and not epoch.is_integer()  # the counts are sums over all processes
        counts = (self._progress["correct"], self._progress["seen"]) if resumed else (0, 0)
        self._epoch_lines.restore(int(epoch), *counts)

    # ---- save ----

    def asked_to_stop(self) -> bool:
        """Return whether any process was asked to stop; all processes must call this together."""
        if self.accelerator.num_processes > 1:
            number = torch.tensor([self.stop_request.number], device=self.args.device)
            self.stop_request.number = int(self.accelerator.gather(number).max())
        return self.stop_request.number > 0

    def _checkpoint(self, step: int, trial: Any = None) -> Path:
        return Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{step}")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Save the best model at every new best evaluation, also between two regular saves."""
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end and self.args.eval_strategy == IntervalStrategy.STEPS:
            self._save_points.request(self.state, self.control)
        return is_best

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Save as the Trainer does, write the manifest, remove old checkpoints, then stop if asked to."""
        checkpoint, args = self._checkpoint(self.state.global_step, trial), self.args
        limit, push = args.save_total_limit, args.push_to_hub
        correct, seen = self._count_texts()
        progress = {
            "unlogged_loss": self.accelerator.gather(self._tr_loss.detach().reshape(1)).mean().item(),
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
            "correct": correct,
            "seen": seen,
            "seconds": self.seconds_before + time.monotonic() - (self._began or 0.0),
        }
        try:
            if args.should_save:
                checkpoints.remove(checkpoint)  # from an abandoned run
            self.accelerator.wait_for_everyone()
            args.save_total_limit, args.push_to_hub = None, False  # both only after the manifest
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if args.should_save:
                (checkpoint / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # an unused pickle with local paths
                best = self.state.best_global_step or None
                checkpoints.write_manifest(checkpoint, best_step=best, made_from=self._made_from, progress=progress)
        except Exception as error:
            if not is_write_error(error) and not isinstance(error, RuntimeError):  # torch raises RuntimeError
                raise
            with contextlib.suppress(OSError):
                checkpoints.remove(checkpoint)
            saved = checkpoints.list_checkpoints(checkpoint.parent)
            raise UserError(
                f"{checkpoint} could not be written: {reason_of(error):.300}. Make room there, then repeat the command"
                f"{' with --resume: earlier checkpoints are intact' if saved else ''}"
            ) from error
        finally:
            args.save_total_limit, args.push_to_hub = limit, push
        if push:
            self._push_from_checkpoint(str(checkpoint))
        if args.should_save:
            checkpoints.rotate(checkpoint, limit, needs_best=bool(args.load_best_model_at_end))
        if self.asked_to_stop():  # in all processes or none, or the others would wait
            raise TrainingStopped(self.stop_request.number, checkpoint)

    # ---- log ----

    def _count_texts(self) -> list[int]:
        """Return the correct answers and the texts of this epoch so far, in all processes."""
        return self.accelerator.reduce(self._epoch_lines.counts(self.args.device), "sum").tolist()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the accuracy on the training texts of this epoch so far."""
        if "loss" in logs:
            correct, seen = self._count_texts()
            if seen:
                logs["train_accuracy"] = correct / seen
        if "train_loss" in logs:  # the Trainer divides by the steps since the resume
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, *args, **kwargs)


# ---- progress ----


class ProgressBars(ProgressCallback):
    """The Trainer's bars without its log lines, which go to stdout."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print nothing; [`EpochLines`] does."""


class EpochLines(TrainerCallback):
    """Count correct answers on the training texts, and print one line per evaluation."""

    def __init__(self) -> None:
        self.quiet = False  # whether to count only
        self._logged: dict[str, float] = {}
        self._training = False
        self.restore(-1, 0, 0)

    def restore(self, epoch: int, correct: int, seen: int) -> None:
        """Set the counts of an epoch, from 0."""
        self._epoch = epoch
        self._correct: torch.Tensor | int = correct  # tensors stay on the device until a line needs them
        self._seen: torch.Tensor | int = seen

    def count(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch: logits `(B, C)` and class ids `(B,)`, -100 for none."""
        self._correct = self._correct + (logits.detach().argmax(dim=-1) == labels).sum()
        self._seen = self._seen + (labels != -100).sum()

    def counts(self, device: torch.device) -> torch.Tensor:
        """Return the correct answers and the texts of this epoch so far, in this process, as a tensor of two."""
        return torch.stack([torch.as_tensor(count, device=device) for count in (self._correct, self._seen)])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget an earlier run of the same Trainer."""
        self._training = True
        if state.global_step == 0:
            self.restore(-1, 0, 0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start at 0, unless the run was resumed within this epoch."""
        if (epoch := int(state.epoch or 0)) != self._epoch:
            self.restore(epoch, 0, 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the training loss for the next line, or print it if no evaluation follows."""
        if not logs or "loss" not in logs:
            return
        self._logged = {"loss": logs["loss"]}
        if "train_accuracy" in logs:
            self._logged["train accuracy"] = logs["train_accuracy"]
        if args.eval_strategy == "no" or args.logging_strategy == "steps":
            self._print(args, state)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Print the line of this evaluation: accuracy first, then the loss, then other scores."""
        if not self._training:
            return
        scores = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        names = [name for name in scores if isinstance(scores[name], float) and not name.endswith(("epoch", *_TIMES))]
        names.sort(key=lambda name: name != "accuracy")
        titles = {"loss": "validation loss"}  # the line has the training loss too
        self._print(args, state, [f"{titles.get(name, name)} {scores[name]:.3f}" for name in names])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave later evaluations to the caller."""
        self._training = False

    def _print(self, args: Any, state: Any, scores: Sequence[str] = ()) -> None:
        if self.quiet or not state.is_world_process_zero:
            return
        if args.max_steps > 0:
            place = f"step {state.global_step}/{state.max_steps}"
        else:
            place = f"epoch {state.epoch:.2f}".rstrip("0").rstrip(".") + f"/{state.num_train_epochs}"
        parts = [place, *(f"{name} {value:.3f}" for name, value in self._logged.items())]
        if scores:
            parts.append("validation " + "  ".join(scores).removeprefix("validation "))
        with contextlib.suppress(OSError):  # a closed terminal or a full disk must not end the training
            tqdm.write("  ".join(parts), file=sys.stderr)
