"""Progress of a training run on stderr: bars on a terminal and one line per evaluation. stdout is for results."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

_TIMES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")  # suffixes of names


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
        names = [name for name in scores if name != "epoch" and not name.endswith(_TIMES)]
        names.sort(key=lambda name: (name != "accuracy", name == "loss" and "accuracy" not in scores))
        titles = {"loss": "validation loss"}  # the line has the training loss too
        self._print(
            args,
            state,
            [f"{titles.get(name, name)} {scores[name]:.3f}" for name in names if isinstance(scores[name], float)],
        )

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
