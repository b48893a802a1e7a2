"""The Trainer whose runs can be stopped at any moment and go on as if they had not been, and what it tells meanwhile.

A checkpoint is complete or not valid, see [`hf_rnn.training.checkpointing.manifest`]. What is counted for the log lines stands here too,
since checkpoints carry it.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, Trainer
from transformers import trainer as transformers_trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, TrainOutput, has_length
from transformers.utils import CONFIG_NAME

from ...utils.errors import UserError, is_write_error
from ..progress import EpochLines, ProgressBars
from . import manifest as checkpoints
from .interrupt import RunningLoss, SavePoints, StopRequest, TrainingStopped

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """[`~transformers.Trainer`] with checkpoints that are whole, early stopping, and its progress on stderr.

    Args:
        args: As for the Trainer, and with all that is in [`Trainer`].
        made_from (`Mapping[str, Any]`, *optional*): Fingerprints of the run, see [`take_fingerprints`], that its
            checkpoints keep.
        kwargs: As for the Trainer.

    Attributes:
        stop_request ([`StopRequest`]): Within `with trainer.stop_request:` SIGTERM and Ctrl-C finish the step, save,
            and raise [`TrainingStopped`].
        seconds_before (`float`): What the steps before a resume took; the Trainer's own times begin there.
    """

    def __init__(self, *args: Any, made_from: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds_before = 0.0
        self._began = 0.0
        self.stop_request = StopRequest()
        self._made_from = made_from
        self._install_callbacks()

    def silence(self) -> None:
        """Show neither bars nor a line an evaluation."""
        self.pop_callback(transformers_trainer.DEFAULT_PROGRESS_CALLBACK)
        self._epoch_lines.quiet = True

    def _install_callbacks(self) -> None:
        bars = self.pop_callback(transformers_trainer.DEFAULT_PROGRESS_CALLBACK)
        in_table = bars is not None and not isinstance(bars, ProgressCallback)  # as the Trainer has it in a notebook
        if bars is not None:
            self.add_callback(bars if in_table else ProgressBars)
        self.pop_callback(PrinterCallback)
        self.add_callback(EpochLines)
        self._epoch_lines.quiet = in_table  # which tells it already
        patience = getattr(self.args, "early_stopping_patience", None)
        if patience:
            self.add_callback(EarlyStoppingCallback(patience))
        self.add_callback(RunningLoss)
        self.add_callback(SavePoints(self._take_up, self.asked_to_stop))  # after those that ask for a save

    # ---- checkpoints ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as the Trainer does, but go on from whole checkpoints only.

        Args:
            resume_from_checkpoint: A checkpoint; with True the newest valid one in `args.output_dir`.
            args: As for the Trainer.
            kwargs: Likewise.

        Returns:
            As the Trainer; the training loss is the whole run's, before a resume too.

        Raises:
            UserError: When the checkpoint is damaged or there is none; when one cannot be written.
            TrainingStopped: See `stop_request`.
        """
        if not self.stop_request.entered:
            self.stop_request.number = 0  # of a run before
        processes = self.args.world_size
        if resume_from_checkpoint is True:
            needs_best = bool(self.args.load_best_model_at_end)
            folder = Path(str(self.args.output_dir))
            resume_from_checkpoint = str(checkpoints.find_newest(folder, processes=processes, needs_best=needs_best))
        elif resume_from_checkpoint:
            checkpoints.check_states(Path(resume_from_checkpoint), processes)
        uncounted = isinstance(self.train_dataset, IterableDataset) and not has_length(self.train_dataset)
        if resume_from_checkpoint and uncounted:
            logger.warning(
                "going on with a stream that has no length, by which the epoch would be known: from its second epoch "
                "on the rows to come are not those of a run that never stopped. Give train_dataset a __len__"
            )
        outcome = super().train(resume_from_checkpoint, *args, **kwargs)
        return outcome._replace(training_loss=outcome.metrics["train_loss"])

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._has_ended():  # a run that was killed after its last checkpoint; the Trainer would take a step more
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _has_ended(self) -> bool:
        patience = getattr(self.args, "early_stopping_patience", None)
        stale = [
            part.early_stopping_patience_counter
            for part in self.callback_handler.callbacks
            if isinstance(part, EarlyStoppingCallback)
        ]
        return self.state.global_step >= self.state.max_steps or bool(patience and stale and stale[0] >= patience)

    def _take_up(self) -> None:
        """Take up what the Trainer does not: loss and time so far, the best checkpoint's place, the new patience."""
        self.seconds_before, self._began = 0.0, time.monotonic()
        if self.state.global_step == 0:
            for part in self.callback_handler.callbacks:
                if isinstance(part, EarlyStoppingCallback):
                    part.early_stopping_patience_counter = 0  # of an earlier run of this Trainer
            return
        running = self._callback(RunningLoss)
        self.seconds_before = running.seconds
        self._tr_loss += running.unlogged
        self._total_loss_scalar = running.logged
        self._globalstep_last_logged = running.logged_step
        lines, first = self._epoch_lines, self.args.process_index == 0
        lines.correct, lines.seen = (running.correct, running.seen) if first else (0, 0)
        for part in self.callback_handler.callbacks:
            if isinstance(part, EarlyStoppingCallback) and getattr(self.args, "early_stopping_patience", None):
                part.early_stopping_patience = self.args.early_stopping_patience
        best = self._checkpoint(self.state.best_global_step or 0)
        if best.is_dir():  # the folder may have been moved
            self.state.best_model_checkpoint = str(best)

    def asked_to_stop(self) -> bool:
        """Whether any process was asked to stop; all of them have to call this at the same time."""
        if self.accelerator.num_processes > 1:  # the signal may have reached one of them only, or not yet
            number = torch.tensor([self.stop_request.number], device=self.args.device)
            self.stop_request.number = int(self.accelerator.gather(number).max())
        return self.stop_request.number > 0

    def _checkpoint(self, step: int, trial: Any = None) -> Path:
        return Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{step}")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As in the Trainer; in steps, where evaluations may be more frequent than saves, the best is saved too."""
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end and self.args.eval_strategy == IntervalStrategy.STEPS:
            self._callback(SavePoints).ask(self.state, self.control)
        return is_best

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Save as the Trainer does, then the manifest, then remove what is too old, then stop if asked to."""
        checkpoint = self._checkpoint(self.state.global_step, trial)
        running = self._callback(RunningLoss)
        running.unlogged = self.accelerator.gather(self._tr_loss.detach().reshape(1)).mean().item()
        running.logged = self._total_loss_scalar
        running.logged_step = self._globalstep_last_logged
        running.correct, running.seen = self._count_texts()
        running.seconds = self.seconds_before + time.monotonic() - self._began
        limit = self.args.save_total_limit
        try:
            if self.args.should_save:
                checkpoints.remove(checkpoint)  # of a run that was gone back from
            self.accelerator.wait_for_everyone()
            self.args.save_total_limit = None  # the Trainer would remove others before this one is whole
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                best = self.state.best_global_step or None
                checkpoints.write_manifest(checkpoint, best_step=best, made_from=self._made_from)
        except Exception as error:
            if not is_write_error(error) and not isinstance(error, RuntimeError):  # which torch raises
                raise
            with contextlib.suppress(OSError):
                checkpoints.remove(checkpoint)
            saved = checkpoints.list_checkpoints(checkpoint.parent)
            advice = "What was saved before is intact: make room there, then repeat the command with --resume"
            raise UserError(
                f"{checkpoint} could not be written: {_first_line(error)}. "
                f"{advice if saved else 'Nothing was saved before: make room there, then repeat the command'}"
            ) from error
        finally:
            self.args.save_total_limit = limit
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            checkpoints.rotate(checkpoint, limit, needs_best=bool(self.args.load_best_model_at_end))
        if self.asked_to_stop():  # all processes or none: else one would leave, and the others wait for it
            raise TrainingStopped(self.stop_request.number, checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing yet: the Trainer would share a checkpoint before its manifest, and nobody could go on from that."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(str(output_dir or self.args.output_dir))
        # a pickle with paths of this machine, which nothing reads and a push of the Trainer's own would share
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        if (config := folder / CONFIG_NAME).is_file() and (weights := folder / checkpoints.WEIGHTS).is_file():
            shutil.copymode(config, weights)  # some versions of safetensors let nobody else read them

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if (Path(resume_from_checkpoint) / checkpoints.WEIGHTS).is_file():
            checkpoints.check_weights(Path(resume_from_checkpoint), self.model if model is None else model)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_callback_state(self) -> None:
        """As in the Trainer; what log lines count goes on even where the settings leave callbacks' states alone."""
        quiet = self._epoch_lines.quiet
        super()._load_callback_state()
        self._epoch_lines.quiet = quiet  # of this run, while what is kept is of an earlier one
        for kind in (RunningLoss, EpochLines):
            kept = self.state.stateful_callbacks.get(kind.__name__, {})
            vars(self._callback(kind)).update(kept.get("attributes", {}))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_rng_state(checkpoint)

    # ---- reports ----

    def _callback(self, kind: type) -> Any:
        """The callback of a kind; looked up, since resuming puts a new one in its place."""
        return next(part for part in self.callback_handler.callbacks if isinstance(part, kind))

    @property
    def _epoch_lines(self) -> EpochLines:
        """The callback that counts."""
        return self._callback(EpochLines)

    def _count_texts(self) -> list[int]:
        """Right answers and texts of this epoch so far, in all processes."""
        return self.accelerator.reduce(self._epoch_lines.counts(self.args.device), "sum").tolist()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the accuracy on the texts of this epoch that were trained on so far."""
        if "loss" in logs:
            correct, seen = self._count_texts()
            if seen:
                logs["train_accuracy"] = correct / seen
        if "train_loss" in logs:  # the Trainer divides by the steps since the resume
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, *args, **kwargs)


@contextlib.contextmanager
def _reading(checkpoint: str | None) -> Iterator[None]:
    """Turn what states raise that are not as expected, or are no plain data, into one line."""
    try:
        yield
    except (ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"the states in {checkpoint} do not go with this run: {_first_line(error)}. "
            "--overwrite_output_dir instead of --resume starts anew"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
