"""What a training run tells while it runs: a bar, and one line an epoch, on stderr; stdout is for results.

The Trainer's own callbacks print a dictionary on stdout at each log. These take their place; nothing here changes
training.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState, ProgressCallback

# What an evaluation reports beside scores and epoch; of several data sets each name begins with that of its set.
_TIMES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class ProgressBars(ProgressCallback):
    """The Trainer's bars, drawn on a terminal only and without its log lines."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar of the whole run."""
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, dynamic_ncols=True, disable=not sys.stderr.isatty())
        self.current_step = 0

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advance the bar of an evaluation."""
        if sys.stderr.isatty():
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Print nothing: [`EpochLines`] does."""


class EpochLines(TrainerCallback, ExportableState):
    """Counts right answers on the training texts as they are trained on, and prints a line at each evaluation.

    The counts stay on the device until they are asked for, and go into checkpoints, so that an epoch's training
    accuracy is the same in a resumed run.
    """

    def __init__(self) -> None:
        self.epoch = -1  # the epoch that the counts belong to, from 0
        self.correct: torch.Tensor | int = 0
        self.seen: torch.Tensor | int = 0
        self.quiet = False  # whether to count only
        self._logged: dict[str, float] = {}
        self._training = False

    def count(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch: logits `(B, C)` and class ids `(B,)`; -100 is no label."""
        self.correct = self.correct + (logits.detach().argmax(dim=-1) == labels).sum()
        self.seen = self.seen + (labels != -100).sum()

    def counts(self, device: torch.device) -> torch.Tensor:
        """Right answers and texts of this epoch so far, in this process, as a tensor of two."""
        return torch.stack([torch.as_tensor(self.correct, device=device), torch.as_tensor(self.seen, device=device)])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        attributes = {"epoch": self.epoch, "correct": int(self.correct), "seen": int(self.seen)}
        return {"args": {}, "attributes": attributes}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget an earlier run of the same Trainer."""
        self._training = True
        if state.global_step == 0:
            self.epoch = -1

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count anew, unless the run was resumed within this epoch."""
        epoch = int(state.epoch or 0)
        if epoch != self.epoch:
            self.epoch, self.correct, self.seen = epoch, 0, 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the training loss for the next line, or print it when no evaluation will."""
        if not logs or "loss" not in logs:
            return
        self._logged = {"loss": logs["loss"]}
        if "train_accuracy" in logs:
            self._logged["train accuracy"] = logs["train_accuracy"]
        if args.eval_strategy == "no" or args.logging_strategy == "steps":
            self._print(args, state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the line of this evaluation."""
        if not self._training:
            return
        scores = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        names = [name for name in scores if name != "epoch" and not name.endswith(_TIMES)]
        names.sort(key=lambda name: (name != "accuracy", name == "loss" and "accuracy" not in scores))
        # the training loss stands in the same line
        title = {"loss": "validation loss"}
        numbers = {title.get(name, name): scores[name] for name in names if isinstance(scores[name], float)}
        self._print(args, state, [f"{name} {value:.3f}" for name, value in numbers.items()])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Later evaluations are the caller's own to report."""
        self._training = False

    def _print(self, args: TrainingArguments, state: TrainerState, scores: Sequence[str] = ()) -> None:
        if self.quiet or not state.is_world_process_zero:
            return
        if args.max_steps > 0:  # the epochs of a stream have no number
            place = f"step {state.global_step}/{state.max_steps}"
        else:
            place = f"epoch {state.epoch:.2f}".rstrip("0").rstrip(".") + f"/{state.num_train_epochs}"
        parts = [place, *(f"{name} {value:.3f}" for name, value in self._logged.items())]
        if scores:
            parts.append("validation " + "  ".join(scores).removeprefix("validation "))
        with contextlib.suppress(OSError):  # a terminal that is gone or a full disk of logs is no reason to stop
            tqdm.write("  ".join(parts), file=sys.stderr)
