"""The Trainer for recurrent models: weighted losses, rows of an epoch, an exact resume.

Private methods of [`~transformers.Trainer`] that are overridden here:

| method | why the public API is not enough |
|---|---|
| `_get_train_sampler`, `_run_epoch` | give a resumed epoch its rows and order, no step after it |
| `_get_eval_sampler` | evaluate rows in the order of the data |
| `_get_num_items_in_batch` | count rows that have no label but a loss |
| `_save_checkpoint` | say what a full disk means |
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from tqdm.auto import tqdm
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers import trainer as transformers_trainer
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState
from transformers.trainer_utils import PredictionOutput

from ..evaluation.scores import single_scores
from ..models.modeling_rnn import PREFIX_WEIGHT
from ..settings.training_arguments import RnnTrainingArguments
from ..utils.errors import ModelError, SettingError, is_write_error, reason_of
from .folder import RunRecord, StopRequest, TrainingStopped, list_checkpoints

logger = logging.getLogger(__name__)

_TICKS = 1000  # parts of max_minutes, in place of the steps of a schedule
_MOST_TOKENS = 4096  # per forward and backward pass, padding included
# that share a sort by length: 2 % of the tokens of tweets are padding, 7 % for 25
_SORTED_BATCHES = 100
SAMPLE_WEIGHT = "sample_weight"  # column of the training rows: weights in the loss


def weigh_classes(counts: Sequence[float], power: float) -> torch.Tensor:
    """Return one weight per class: (n / (C n_c)) ** power, scaled to mean 1 over the rows.

    The scale keeps the size of the loss for every power: 0 weighs all rows alike, 1 all classes
    alike. An empty class has weight 1; label smoothing and a teacher's logits use it.
    """
    rows = torch.tensor(counts, dtype=torch.float64)
    weights = (rows.sum() / (len(counts) * rows)) ** power
    weights[rows == 0] = 0.0  # was infinite
    weights *= rows.sum() / (weights * rows).sum()
    weights[rows == 0] = 1.0
    return weights.float()


def weighted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    class_weights: torch.Tensor | None,
    label_smoothing: float,
    sample_weight: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """Return the summed, weighted, smoothed cross-entropies: logits `(B, C)`, labels `(B)`."""
    losses = functional.cross_entropy(
        logits, labels, class_weights, reduction="none", label_smoothing=label_smoothing
    )
    return (losses * sample_weight).sum()


class RnnTrainer(Trainer):
    """[`~transformers.Trainer`] for recurrent models.

    - Loss: `args.class_weight_power` above 0 weighs classes, `args.label_smoothing_factor` smooths,
      and a column `sample_weight` (mean 1) weighs rows. These apply to training only: evaluation
      losses of all runs are comparable.
    - Optimizer: `args.embedding_learning_rate` for the embedding, `args.head_learning_rate` for the
      head.
    - Progress: one line per evaluation on stderr, nothing on stdout.
    - Checkpoints are whole, and a resumed run takes the same steps as an undisturbed one. Inside
      `with trainer.stop_request:` SIGTERM and Ctrl-C finish the step, save, and raise
      [`TrainingStopped`].

    Args:
        loss (`Callable`): Like [`weighted_loss`].
        loss_columns (`Sequence[str]`): Columns of the training rows that `loss` takes by name.
        answer (`Callable`, *optional*): Takes the model in evaluation mode and rows; returns
            predictions and labels, in place of the Trainer's own evaluation. Then `compute_metrics`
            returns the loss too.
        made_from (`Mapping`, *optional*): The fingerprint of the run, for its checkpoints.
        quiet (`bool`): Whether to show neither bars nor progress lines.
        kwargs: As for the Trainer.
    """

    args: RnnTrainingArguments
    model: PreTrainedModel
    control: TrainerControl
    current_gradient_accumulation_steps: float
    # called when the first step can start: all settings were accepted
    on_begin: Callable[[], Any] | None = None
    epoch_rows: Any = None  # the training rows as an epoch reads them, which it gets as `epoch`
    ticks = 0  # parts of max_minutes that are over
    _sampler: EpochSampler | None = None
    _class_weights: torch.Tensor | None = None

    def __init__(
        self,
        *args: object,
        loss: Callable[..., torch.Tensor] = weighted_loss,
        loss_columns: Sequence[str] = (SAMPLE_WEIGHT,),
        answer: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        made_from: Mapping[str, Any] | None = None,
        quiet: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.loss = loss
        self.loss_columns = loss_columns
        self.answer = answer
        self.quiet = quiet
        self.stop_request = StopRequest()
        self._extra: dict[str, torch.Tensor] = {}  # `loss_columns` of the current batch
        self._set_loss()
        had_bars = self.pop_callback(transformers_trainer.DEFAULT_PROGRESS_CALLBACK)
        if had_bars and sys.stderr.isatty() and not quiet:
            self.add_callback(ProgressBar(self))
        self.pop_callback(PrinterCallback)
        patience = getattr(self.args, "early_stopping_patience", None)
        if patience:
            self.add_callback(EarlyStoppingCallback(patience))
        self.add_callback(RunRecord(dict(made_from or {})))
        self.add_callback(SavePoints(self))  # after those that request a save

    # ---- loss and steps ----

    def _set_loss(self) -> None:
        data = self.train_dataset
        config = self.model.config
        self._set_signature_columns_if_needed()
        self._signature_columns += self.loss_columns
        columns = getattr(data, "column_names", ()) or ()
        self.loss_columns = [name for name in self.loss_columns if name in columns]
        power = 0 if data is None else getattr(self.args, "class_weight_power", 0)
        is_weighted = power or self.loss_columns or self.label_smoother
        self._custom_loss = bool(is_weighted or self.loss is not weighted_loss)
        if not self._custom_loss:
            return
        one_label = config.problem_type in (None, "single_label_classification")
        if config.num_labels < 2 or not one_label:
            raise SettingError(
                "class_weight_power, label_smoothing_factor and sample_weight need one label per "
                "text: found another task; leave them out"
            )
        self.compute_loss_func = self._training_loss
        if not power:
            return
        labels = np.asarray(data["label" if "label" in data.column_names else "labels"][:])
        weights = np.ones(len(labels))
        if SAMPLE_WEIGHT in self.loss_columns:
            weights = np.asarray(data[SAMPLE_WEIGHT][:])
        has_label = labels >= 0
        counts = np.bincount(labels[has_label], weights[has_label], config.num_labels)
        self._class_weights = weigh_classes(counts.tolist(), power).to(self.args.device)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if self._custom_loss:
            batch_samples = [
                {"labels": torch.zeros_like(batch["labels"])} for batch in batch_samples
            ]
        return super()._get_num_items_in_batch(batch_samples, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        **kwargs: object,
    ) -> Any:
        """Return the loss: weighted and smoothed in training, the model's own in evaluation."""
        self._extra = {name: inputs.pop(name) for name in self.loss_columns if name in inputs}
        if model.training or not self._custom_loss:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        outputs = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Add up the gradients of a batch; a CPU reads long texts in parts, for less memory."""
        rows, length = inputs["input_ids"].shape
        steps = self.current_gradient_accumulation_steps
        parts = -(-rows // max(1, _MOST_TOKENS // max(1, length)))
        # the loss of rows
        adds_up = num_items_in_batch is not None or self.model.config.problem_type is not None
        # small parts would slow an accelerator down
        if parts < 2 or not adds_up or self.args.device.type != "cpu":
            return super().training_step(model, inputs, num_items_in_batch)
        losses = []
        for part in torch.arange(rows).chunk(parts):
            # divides a mean loss
            self.current_gradient_accumulation_steps = steps * rows / len(part)
            is_last = part[-1] == rows - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
                rows_of_part = {name: values[part] for name, values in inputs.items()}
                losses.append(super().training_step(model, rows_of_part, num_items_in_batch))
        self.current_gradient_accumulation_steps = steps
        return torch.stack(losses).sum()

    def _training_loss(
        self,
        outputs: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the losses' sum by the rows of the accumulated batch: weights have mean 1."""
        smoothing = self.args.label_smoothing_factor
        facts: dict[str, Any] = {
            "class_weights": self._class_weights,
            "label_smoothing": smoothing,
            **self._extra,
        }
        rows = len(labels) if num_items_in_batch is None else num_items_in_batch
        # DataParallel: the Trainer scales for the mean of one loss per replica; this is one loss
        # for all rows.
        loss = self.loss(outputs["logits"].float(), labels, **facts)
        prefixes = outputs.get("prefix_logits")
        if prefixes is not None:
            losses = [self.loss(early.float(), labels, **facts) for early in prefixes.unbind(1)]
            loss = (1 - PREFIX_WEIGHT) * loss + PREFIX_WEIGHT * torch.stack(losses).mean()
        return loss / rows / max(self.args.n_gpu, 1)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the Trainer's optimizer, with the learning rates of embedding and head."""
        is_made = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if is_made:
            return optimizer
        trained = self.model if model is None else cast(PreTrainedModel, model)
        encoder = set(trained.base_model.parameters())
        head = {weight for weight in trained.parameters() if weight not in encoder}
        embedding = {trained.get_input_embeddings().weight}
        _set_rate(optimizer, embedding, getattr(self.args, "embedding_learning_rate", None))
        _set_rate(optimizer, head, getattr(self.args, "head_learning_rate", None))
        return optimizer

    # ---- rows of an epoch, their order, and evaluation ----

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of the training rows, which `epoch_rows` draws in each epoch."""
        if self.epoch_rows is None:
            return super().get_train_dataloader()
        return self._get_dataloader(
            self.epoch_rows,
            "Training",
            self._train_batch_size,
            self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        args = self.args
        if args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(self.train_dataset)
        size = args.train_batch_size * args.gradient_accumulation_steps
        lengths = _measure_lengths(self.train_dataset, args.length_column_name)
        seed = args.seed if args.data_seed is None else args.data_seed
        self._sampler = EpochSampler(size, lengths, seed)
        return self._sampler

    def _get_eval_sampler(self, eval_dataset: datasets.Dataset) -> SequentialSampler:
        return SequentialSampler(eval_dataset)

    def _run_epoch(self, *args: object, **kwargs: Any) -> None:
        stopped = any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        )
        if stopped or self.state.global_step >= self.state.max_steps:
            # a finished run, killed after its last checkpoint; the Trainer would take one more step
            self.control.should_training_stop = True
            return
        # with several processes, accelerate does not find it after a resume
        if self._sampler is not None:
            self._sampler.epoch = kwargs["epoch"]
        if self.epoch_rows is not None:
            self.epoch_rows.epoch = kwargs["epoch"]
        super()._run_epoch(*args, **kwargs)

    def predict(
        self, test_dataset: datasets.Dataset, *args: object, **kwargs: object
    ) -> PredictionOutput:
        """Return the outputs for rows, by `answer` if given, then without metrics, and labels."""
        if self.answer is None:
            return super().predict(test_dataset, *args, **kwargs)
        predictions, labels = self.answer(self.model.eval(), test_dataset)
        return PredictionOutput(predictions=predictions, label_ids=labels, metrics={})

    def evaluate(
        self, eval_dataset: datasets.Dataset | None = None, *args: object, **kwargs: object
    ) -> dict[str, float]:
        """Measure all rows, whole in every process, by `answer` if given; log the scores."""
        if self.answer is None:
            return super().evaluate(eval_dataset, *args, **kwargs)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        scores = self.compute_metrics(self.predict(rows))
        metrics = {f"eval_{name}": score for name, score in single_scores(scores).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # ---- time and checkpoints ----

    @property
    def record(self) -> RunRecord:
        """The record of the run, which a resume restores."""
        records = [
            callback
            for callback in self.callback_handler.callbacks
            if isinstance(callback, RunRecord)
        ]
        return records[0]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create the Trainer's schedule; with `max_minutes` the clock counts in place of steps."""
        if self.args.max_minutes is None:
            return super().create_scheduler(num_training_steps, optimizer)
        schedule = super().create_scheduler(_TICKS, optimizer)
        if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
            schedule.lr_lambdas = [partial(self._rate_now, rate) for rate in schedule.lr_lambdas]
        return schedule

    def _rate_now(self, rate: Callable[[int], float], step: int) -> float:
        return rate(self.ticks)

    def agree(self, number: float) -> int:
        """Return the largest number of all processes, which must call this together."""
        if self.accelerator.num_processes > 1:
            numbers = torch.tensor([int(number)], device=self.args.device)
            number = self.accelerator.gather(numbers).max().item()
        return int(number)

    def asked_to_stop(self) -> bool:
        """Return whether any process was asked to stop; all processes must call this together."""
        # 0 would erase a signal that came meanwhile
        self.stop_request.number = self.agree(self.stop_request.number) or self.stop_request.number
        return self.stop_request.number > 0

    def _save_checkpoint(self, model: nn.Module, trial: object = None) -> None:
        """Save like the Trainer; a full disk is a [`ModelError`]."""
        folder = Path(str(self.args.output_dir))
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            # torch raises RuntimeError
            if not is_write_error(error) and not isinstance(error, RuntimeError):
                raise
            advice = "Make room there, then repeat the command"
            if list_checkpoints(folder):
                advice += " with --resume: earlier checkpoints are intact"
            place = folder / f"checkpoint-{self.state.global_step}"
            reason = reason_of(error)
            raise ModelError(f"{place} could not be written: {reason:.300}. {advice}") from error

    # ---- progress ----

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        """Log as the Trainer does, and print a line per evaluation, or per log without one."""
        super().log(logs, *args, **kwargs)
        shown = "eval_loss" in logs or ("loss" in logs and self.args.eval_strategy == "no")
        if not (shown and self.is_in_train and self.state.is_world_process_zero) or self.quiet:
            return
        # a closed terminal or a full disk must not end the training
        with contextlib.suppress(OSError):
            tqdm.write(self._describe_progress(logs), file=sys.stderr)

    def _describe_progress(self, logs: Mapping[str, float]) -> str:
        """Return a line with the place in the training, its newest loss and scores."""
        args = self.args
        state = self.state
        parts = [f"epoch {round(state.epoch or 0, 2):g}"]
        if args.max_minutes is not None:
            parts.append(f"minute {self.record.measure() / 60:.3g}/{args.max_minutes:g}")
        elif args.max_steps > 0:
            parts = [f"step {state.global_step}/{state.max_steps}"]
        else:
            parts[0] += f"/{state.num_train_epochs}"
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        parts += [f"loss {loss:.3f}" for loss in losses[-1:]]

        names = [name.removeprefix("eval_") for name in logs if name.startswith("eval_")]
        for name in sorted(names, key=lambda name: (name != "accuracy", name != "loss")):
            score = logs[f"eval_{name}"]
            if isinstance(score, float) and not name.endswith(("runtime", "per_second")):
                split = "validation " if name in ("accuracy", "loss") else ""
                parts.append(f"{split}{name.replace('_', ' ')} {score:.3f}")
        return "  ".join(parts)


def _set_rate(
    optimizer: torch.optim.Optimizer, weights: Set[torch.Tensor], rate: float | None
) -> None:
    """Move weights to groups with another learning rate; None leaves them."""
    if rate is None:
        return
    for group in list(optimizer.param_groups):
        selected = [weight for weight in group["params"] if weight in weights]
        group["params"] = [weight for weight in group["params"] if weight not in weights]
        if selected:
            optimizer.add_param_group({**group, "params": selected, "lr": rate})


class SavePoints(TrainerCallback):
    """Begin a run, save when a stop was requested, and stop after a save or at the time limit.

    It does not save between an epoch's last step and its evaluation: a checkpoint there would miss
    the log line and the evaluation of that epoch.
    """

    def __init__(self, trainer: RnnTrainer) -> None:
        self._trainer = trainer
        self._postponed = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: object, **kwargs: object
    ) -> None:
        """Begin, and find the best checkpoint: the output folder may have been moved."""
        if self._trainer.on_begin is not None:
            self._trainer.on_begin()
        best = Path(str(args.output_dir), f"checkpoint-{state.best_global_step or 0}")
        if best.is_dir():
            state.best_model_checkpoint = str(best)

    def on_step_end(
        self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Save if asked to stop, and end at the time limit; postpone saves at an epoch's end."""
        trainer = self._trainer
        save = trainer.asked_to_stop() or control.should_save
        if trainer.args.max_minutes is not None:
            share = trainer.record.measure() / 60 / trainer.args.max_minutes
            trainer.ticks = trainer.agree(_TICKS * share)
            control.should_training_stop |= trainer.ticks >= _TICKS
        ends = float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps
        ends |= control.should_training_stop
        control.should_save = save and not ends
        self._postponed = save and ends

    def on_epoch_end(
        self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Do a postponed save."""
        control.should_save = control.should_save or self._postponed
        self._postponed = False

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: object, **kwargs: object
    ) -> None:
        """Stop if asked to: in all processes or none, or the others would wait."""
        if self._trainer.asked_to_stop():
            checkpoint = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
            raise TrainingStopped(self._trainer.stop_request.number, checkpoint)


class ProgressBar(TrainerCallback):
    """A bar of the tokens to read, with the time that is left; with `max_minutes` of the time."""

    def __init__(self, trainer: RnnTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: RnnTrainingArguments, state: TrainerState, control: object, **kwargs: object
    ) -> None:
        """Show the bar."""
        if args.max_minutes is not None:
            clock = "{desc}: {percentage:.0f}%|{bar}| {elapsed}<{remaining}"
            self._bar = tqdm(desc="training", total=1.0, bar_format=clock)
            return
        trainer = self._trainer
        lengths = _measure_lengths(trainer.train_dataset, args.length_column_name)
        window = getattr(trainer.epoch_rows, "window", 0)
        if window:
            lengths = lengths.clip(max=window)
        rows = state.max_steps * args.train_batch_size * args.gradient_accumulation_steps
        total = rows * args.world_size * lengths.mean()
        self._bar = tqdm(desc="training", total=total, unit=" tokens", unit_scale=True)
        self._bar.initial = total * state.global_step / state.max_steps

    def on_step_end(
        self, args: RnnTrainingArguments, state: TrainerState, control: object, **kwargs: object
    ) -> None:
        """Move the bar."""
        share = state.global_step / state.max_steps
        if args.max_minutes is not None:
            share = self._trainer.record.measure() / 60 / args.max_minutes
        self._bar.update(min(1.0, share) * self._bar.total - self._bar.n)

    def on_train_end(self, *args: object, **kwargs: object) -> None:
        """Close the bar."""
        self._bar.close()


def _measure_lengths(rows: datasets.Dataset, column: str) -> np.ndarray:
    """Return the numbers of a column, or without it the tokens of each row, int32 `(N,)`."""
    if column in rows.column_names:
        return np.asarray(rows[column][:], dtype=np.int32)
    lengths = [np.empty(0, np.int32)]
    for batch in rows.select_columns("input_ids").with_format("arrow").iter(10_000):
        lengths.append(pc.list_value_length(batch["input_ids"]).to_numpy())
    return np.concatenate(lengths)


class EpochSampler(Sampler[int]):
    """Batches of similar lengths in an order of seed and epoch alone, which a resume has again.

    The order is that of `get_length_grouped_indices` of transformers, which makes Python objects.
    """

    def __init__(self, batch_size: int, lengths: Sequence[int] | np.ndarray, seed: int) -> None:
        self.batch_size = batch_size
        self.lengths = np.asarray(lengths, dtype=np.int32)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        size = self.batch_size
        # all rows would be the same batches
        together = size * min(_SORTED_BATCHES, max(1, len(self.lengths) // (2 * size)))
        rows = torch.randperm(len(self.lengths), generator=generator).numpy()
        firsts = np.arange(0, len(rows), together)
        for first in firsts:
            some = rows[first : first + together]
            some[:] = some[np.argsort(-self.lengths[some], kind="stable")]
        longest = firsts[self.lengths[rows[firsts]].argmax()]  # the first batch needs most memory
        rows[[0, longest]] = rows[[longest, 0]]
        # full batches, which come sorted by length; in that order a model learns less
        whole = len(rows) // size
        order = [*torch.randperm(whole, generator=generator).tolist(), whole]
        for place in order:
            yield from rows[place * size : (place + 1) * size].tolist()
