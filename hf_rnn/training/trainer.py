"""The Trainer for recurrent models: weighted losses, rows of an epoch, an exact resume.

Private methods of [`~transformers.Trainer`] that are overridden here:

| method | why the public API is not enough |
|---|---|
| `_get_train_sampler`, `_run_epoch` | give a resumed epoch its rows and order, no step after it |
| `_get_eval_sampler` | evaluate rows in the order of the data |
| `_get_num_items_in_batch` | count rows that have no label but a loss |
| `_save_checkpoint` | rename a checkpoint when it is whole, before older ones are removed |
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
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
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, set_seed
from transformers import trainer as transformers_trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import (
    PrinterCallback,
    ProgressCallback,
    TrainerControl,
    TrainerState,
)
from transformers.trainer_utils import (
    IntervalStrategy,
    PredictionOutput,
    TrainOutput,
    get_last_checkpoint,
    rotate_checkpoints,
)

from ..evaluation.scores import single_scores
from ..models.modeling_rnn import PREFIX_WEIGHT
from ..settings.training_arguments import RnnTrainingArguments
from ..utils.errors import ModelError, SettingError, is_write_error, reason_of
from .checkpoints import (
    RECORD,
    WRITING,
    StopRequest,
    TrainingStopped,
    list_checkpoints,
    read_record,
)

logger = logging.getLogger(__name__)

_TRIAL_BATCHES = (8, 40)  # timed for max_minutes
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
    redraw: Callable[[int], datasets.Dataset] | None = None  # returns the training rows of an epoch
    seconds_before = 0.0  # training time before a resume; the Trainer's own times start there
    _began = 0.0  # when the first step of this call could start
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
        self.made_from = made_from
        self.quiet = quiet
        self.stop_request = StopRequest()
        self._progress: dict[str, Any] = {}  # losses and seconds before a resume
        self._extra: dict[str, torch.Tensor] = {}  # `loss_columns` of the current batch
        self._set_loss()
        had_bars = self.pop_callback(transformers_trainer.DEFAULT_PROGRESS_CALLBACK)
        if had_bars and sys.stderr.isatty() and not quiet:
            self.add_callback(ProgressBars)
        self.pop_callback(PrinterCallback)
        patience = getattr(self.args, "early_stopping_patience", None)
        if patience:
            self.add_callback(EarlyStoppingCallback(patience))
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
        if power:
            weights = weigh_classes(self._count_classes(data).tolist(), power)
            self._class_weights = weights.to(self.args.device)

    def _count_classes(self, data: datasets.Dataset) -> np.ndarray:
        """Return the labelled rows of each class, with their weights `(C,)`."""
        labels = np.asarray(data["label" if "label" in data.column_names else "labels"][:])
        weights = np.ones(len(labels))
        if SAMPLE_WEIGHT in self.loss_columns:
            weights = np.asarray(data[SAMPLE_WEIGHT][:])
        has_label = labels >= 0
        return np.bincount(labels[has_label], weights[has_label], self.model.config.num_labels)

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
        """Return the loader of the training rows, which `redraw` replaces in each epoch."""
        if self.redraw is None:
            return super().get_train_dataloader()
        self._epoch_rows = EpochRows(self.train_dataset)
        return self._get_dataloader(
            self._epoch_rows,
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
        if self.redraw is not None:
            self._epoch_rows.rows = self.redraw(kwargs["epoch"])
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

    # ---- time ----

    def count_epochs(self, minutes: float) -> float:
        """Return the epochs that take these minutes with evaluations, by a few batches' time."""
        args = self.args
        rows_per_step = args.train_batch_size * args.world_size
        seconds = _extrapolate(self._time_steps, self.train_dataset, rows_per_step, args.seed)
        if self.eval_dataset is not None and args.eval_strategy != "no":
            rows_per_batch = args.eval_batch_size
            seconds += _extrapolate(
                self._time_answers, self.eval_dataset, rows_per_batch, args.seed
            )
        seconds = float(self.accelerator.gather(torch.tensor([seconds], device=args.device)).max())
        epochs = 60 * minutes / seconds
        epochs = float(int(epochs)) if epochs >= 10 else max(round(epochs, 2), 0.01)
        logger.info(
            "max_minutes %g: num_train_epochs is %.3g, of about %.1f seconds each",
            minutes,
            epochs,
            seconds,
        )
        set_seed(args.seed)
        return epochs

    def _time_steps(self, rows: datasets.Dataset) -> float:
        """Return the seconds of an epoch of some rows, with a copy of the model."""
        args = copy.copy(self.args)
        args.num_train_epochs = 1.0
        args.report_to = []
        args.load_best_model_at_end = False
        args.early_stopping_patience = None
        for name in ("eval_strategy", "save_strategy", "logging_strategy"):
            setattr(args, name, IntervalStrategy.NO)
        trial = RnnTrainer(
            copy.deepcopy(self.model),
            args,
            train_dataset=rows,
            quiet=True,
            processing_class=self.processing_class,
            data_collator=self.data_collator,
            loss=self.loss,
            loss_columns=self.loss_columns,
        )
        return trial.train().metrics["train_runtime"]

    def _time_answers(self, rows: datasets.Dataset) -> float:
        """Return the seconds of an evaluation of some rows."""
        start = time.monotonic()
        self.predict(rows)
        return time.monotonic() - start

    # ---- checkpoints ----

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: object, **kwargs: object
    ) -> TrainOutput:
        """Train like the Trainer; the loss of the result covers the steps before a resume too."""
        checkpoint = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = get_last_checkpoint(self.args.output_dir)
        self._progress = read_record(Path(checkpoint))["progress"] if checkpoint else {}
        return super().train(checkpoint, *args, **kwargs)

    def begin(self) -> None:
        """Restore what the Trainer does not: losses, times, the path of the best checkpoint."""
        if self.on_begin is not None:
            self.on_begin()
        self._began = time.monotonic()
        best = Path(str(self.args.output_dir), f"checkpoint-{self.state.best_global_step or 0}")
        if best.is_dir():  # the output folder may have been moved
            self.state.best_model_checkpoint = str(best)
        if self._progress:
            self.seconds_before = self._progress["seconds"]
            losses = self._progress["losses"]
            unlogged, self._total_loss_scalar, self._globalstep_last_logged = losses
            self._tr_loss += unlogged
            self._initial_global_step = 0  # the mean loss is that of all steps

    def asked_to_stop(self) -> bool:
        """Return whether any process was asked to stop; all processes must call this together."""
        number = self.stop_request.number
        if self.accelerator.num_processes > 1:
            noted = torch.tensor([number], device=self.args.device)
            number = int(self.accelerator.gather(noted).max())
            if number:  # 0 would erase a signal that came meanwhile
                self.stop_request.number = number
        return number > 0

    def _save_checkpoint(self, model: nn.Module, trial: object = None) -> None:
        """Save like the Trainer, in another folder; rename it when it is whole; stop if asked."""
        args = self.args
        folder = Path(str(args.output_dir))
        written = folder / WRITING / f"checkpoint-{self.state.global_step}"
        seconds = self.seconds_before + time.monotonic() - self._began
        unlogged = self.accelerator.gather(self._tr_loss.detach().reshape(1)).mean().item()
        losses = [unlogged, self._total_loss_scalar, self._globalstep_last_logged]
        args.output_dir = str(written.parent)
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.state.best_global_step:
                best = folder / f"checkpoint-{self.state.best_global_step}"
                self.state.best_model_checkpoint = str(best)
            if args.should_save:
                self._finish_checkpoint(written, {"seconds": seconds, "losses": losses})
                written.rename(folder / written.name)
        except Exception as error:
            # torch raises RuntimeError
            if not is_write_error(error) and not isinstance(error, RuntimeError):
                raise
            advice = "Make room there, then repeat the command"
            if list_checkpoints(folder):
                advice += " with --resume: earlier checkpoints are intact"
            reason = reason_of(error)
            raise ModelError(f"{written} could not be written: {reason:.300}. {advice}") from error
        finally:
            args.output_dir = str(folder)
            if args.should_save:
                shutil.rmtree(written.parent, ignore_errors=True)
        if args.should_save:
            rotate_checkpoints(str(folder), args.save_total_limit, self.state.best_model_checkpoint)
        if self.asked_to_stop():  # in all processes or none, or the others would wait
            raise TrainingStopped(self.stop_request.number, folder / written.name)

    def _finish_checkpoint(self, folder: Path, progress: Mapping[str, Any]) -> None:
        """Add what resumes a run exactly, with the renamed path of the best checkpoint."""
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        # an unused pickle with local paths
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        record = {"made_from": self.made_from, "progress": progress}
        (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")

    # ---- progress ----

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        """Log as the Trainer does, and print a line per evaluation, or per log without one."""
        super().log(logs, *args, **kwargs)
        shown = "eval_loss" in logs or ("loss" in logs and self.args.eval_strategy == "no")
        if not (shown and self.is_in_train and self.state.is_world_process_zero) or self.quiet:
            return
        # a closed terminal or a full disk must not end the training
        with contextlib.suppress(OSError):
            tqdm.write(_describe_progress(self.args, self.state, logs), file=sys.stderr)


def _describe_progress(
    args: RnnTrainingArguments, state: TrainerState, logs: Mapping[str, float]
) -> str:
    """Return a line with the place in the training, its newest loss and scores."""
    parts = [f"epoch {round(state.epoch or 0, 2):g}/{state.num_train_epochs}"]
    if args.max_steps > 0:
        parts = [f"step {state.global_step}/{state.max_steps}"]
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


def _extrapolate(
    time_rows: Callable[[datasets.Dataset], float],
    rows: datasets.Dataset,
    batch_size: int,
    seed: int,
) -> float:
    """Return the seconds for all rows, by two numbers of batches: each call also has a start."""
    rows = rows.shuffle(seed=seed)

    def time_first(count: int) -> float:
        sample = rows.select(range(count))
        return min(time_rows(sample), time_rows(sample))

    low, high = (min(len(rows), batches * batch_size) for batches in _TRIAL_BATCHES)
    few = time_first(low)
    if low == high:
        return few
    many = time_first(high)
    return max((many - few) / (high - low), many / high / 10) * len(rows)


class SavePoints(TrainerCallback):
    """Save when a stop was requested, but not between an epoch's last step and its evaluation.

    A checkpoint between them would miss the log line and the evaluation of that epoch.
    """

    def __init__(self, trainer: RnnTrainer) -> None:
        self._trainer = trainer
        self._postponed = False

    def on_train_begin(
        self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Let the Trainer restore its progress, with all states loaded."""
        self._trainer.begin()

    def on_step_end(
        self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Save if asked to stop; postpone every save at the end of an epoch."""
        save = self._trainer.asked_to_stop() or control.should_save
        ends = float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps
        control.should_save = save and not ends
        self._postponed = save and ends

    def on_epoch_end(
        self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Do a postponed save."""
        control.should_save = control.should_save or self._postponed
        self._postponed = False


class ProgressBars(ProgressCallback):
    """The Trainer's bars without its log lines, which go to stdout."""

    def on_log(
        self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Print nothing; the Trainer does."""


class EpochRows(Dataset):
    """The training rows of the current epoch."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        """Return the rows of a batch."""
        return self.rows.__getitems__(places)


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
