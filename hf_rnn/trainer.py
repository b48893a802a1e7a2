"""The Trainer with what recurrent text classifiers need: batches of like length, class weights, sparse rows.

Everything else is the Trainer's own. What is changed: how training batches are drawn, the loss in training (never in
evaluation), how gradients of a sparse embedding are measured and clipped, and what is printed where.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import LabelSmoother
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput, has_length, seed_worker

from . import checkpoints
from .class_weights import weigh_classes
from .errors import UserError
from .optim import LazyAdamW, set_learning_rate
from .padded_batches import as_padded_batches
from .progress import EpochLines, ProgressBars
from .row_columns import count_tokens, read_column
from .sampling import LengthBucketedBatchSampler, TokenBudgetBatchSampler
from .sparse_gradients import LAZY_OPTIMIZERS, check_sparse_gradients, clip_grad_norm, has_sparse_gradients
from .stopping import RunningLoss, SavePoints, StopRequest, TrainingStopped


class RnnTrainer(Trainer):
    """[`~transformers.Trainer`] for [`RnnForSequenceClassification`].

    - With `args.train_sampling_strategy="group_by_length"` training batches come from [`LengthBucketedBatchSampler`]
      (a stream keeps its own order), with `args.tokens_per_batch` from [`TokenBudgetBatchSampler`], which refuses a
      stream. Evaluation reads in the data's order: predictions come back in it.
    - With `args.class_weight_power` above 0 the training loss weighs classes, and `args.label_smoothing_factor`
      smooths; the loss of an evaluation is always the plain one, comparable between runs.
    - With `args.early_stopping_patience` it stops early.
    - With `args.embedding_learning_rate` the embedding learns at a rate of its own.
    - Sparse embedding gradients are measured and clipped, and take adaptive steps: [`LazyAdamW`] in AdamW's place.
    - Progress goes to stderr, a line an evaluation, with the accuracy on the texts trained on; nothing goes to stdout.
    - A checkpoint is complete or not valid, see [`hf_rnn.checkpoints`], and a run that goes on from one takes the same
      steps as one that never stopped. Within `with trainer.stop_request:` SIGTERM and Ctrl-C finish the step, save,
      and raise [`TrainingStopped`].

    Args:
        args: As for the Trainer, and with all that is in [`Trainer`].
        made_from (`Mapping[str, Any]`, *optional*): Fingerprints of the run, see [`take_fingerprints`], that its
            checkpoints keep.
        class_counts (`Sequence[int]`, *optional*): Training rows by class, for class weights; counted in the column
            `labels` when absent, which a stream does not allow.
        kwargs: As for the Trainer.

    Raises:
        UserError: When sparse gradients meet an optimiser that does not take them, class weights a task or a data set
            that has no classes to count, or `tokens_per_batch` a stream.
    """

    optimizer: Any  # the Trainer's; made when training starts

    def __init__(
        self,
        *args: Any,
        class_counts: Sequence[int] | None = None,
        made_from: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.stop_request = StopRequest()
        self._made_from = made_from
        self._batches: LengthBucketedBatchSampler | TokenBudgetBatchSampler | None = None
        if self._token_budget is not None and isinstance(self.train_dataset, IterableDataset):
            raise UserError(
                "tokens_per_batch needs the length of each row, which a stream does not tell: "
                "give a table of rows, or leave out tokens_per_batch"
            )
        self._class_counts = class_counts
        self._own_loss = False
        config = self.model.config
        if config.num_labels == 1 or config.problem_type not in (None, "single_label_classification"):
            # Their losses are means over a batch, not sums over the rows of an accumulated one.
            self.model_accepts_loss_kwargs = False
        self._follow_settings()
        self._install_callbacks()

    def _follow_settings(self) -> None:
        """Take up what `args` and the model say; each trial of a hyperparameter search says it anew."""
        # The Trainer divides by the steps itself; up to transformers 5.5 accelerate did so a second time.
        self.accelerator.gradient_accumulation_steps = 1
        self._class_weights: torch.Tensor | None = None
        if getattr(self.args, "class_weight_power", 0) > 0:
            self._class_weights = weigh_classes(self._count_classes(self._class_counts), self.args.class_weight_power)
        changed = self._class_weights is not None or self.label_smoother is not None
        if changed and getattr(self, "compute_loss_func", None) is None and self.model.config.num_labels > 1:
            self._own_loss = True  # from then on: without weights and smoothing it is the plain one
            self.compute_loss_func = self._training_loss
        self._sparse = has_sparse_gradients(self.model)
        if self._sparse and self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            check_sparse_gradients(self.args)

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if self.hp_search_backend is None or trial is None:
            return
        factor = self.args.label_smoothing_factor  # which the Trainer looks at only when it is made
        smooths = factor != 0 and self.model.config.problem_type != "multi_label_classification"
        self.label_smoother = LabelSmoother(epsilon=factor) if smooths else None
        self._follow_settings()

    def silence(self) -> None:
        """Show neither bars nor a line an evaluation."""
        self.pop_callback(ProgressBars)
        self._epoch_lines.quiet = True

    def _install_callbacks(self) -> None:
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ProgressBars)
        self.pop_callback(PrinterCallback)
        self.add_callback(EpochLines)
        patience = getattr(self.args, "early_stopping_patience", None)
        if patience:
            self.add_callback(EarlyStoppingCallback(patience))
        self.add_callback(RunningLoss)
        self.add_callback(SavePoints(self._take_up, self._asked_to_stop))  # after those that ask for a save

    def _count_classes(self, class_counts: Sequence[int] | None) -> list[int]:
        config = self.model.config
        if config.num_labels == 1 or config.problem_type not in (None, "single_label_classification"):
            raise UserError("class_weight_power is for texts with one label each: set it to 0")
        if class_counts is None and (isinstance(self.train_dataset, IterableDataset) or self.train_dataset is None):
            raise UserError(
                "class_weight_power needs the rows of each class, which a stream does not tell: give class_counts"
            )
        if class_counts is None:
            labels = read_column(self.train_dataset, "labels")
            class_counts = torch.bincount(labels[labels >= 0], minlength=config.num_labels).tolist()
        if len(class_counts) != config.num_labels:
            raise UserError(
                f"class_counts has {len(class_counts)} numbers for a model with {config.num_labels} labels"
            )
        return list(class_counts)

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        """Return the training batches, ready on the device."""
        data = self.train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or data is None or isinstance(data, IterableDataset):
            return super().get_train_dataloader()
        collator = self.data_collator
        lengths = count_tokens(data, self.args.length_column_name)
        if isinstance(data, datasets.Dataset):
            data = self._remove_unused_columns(data, description="training")
            padded = as_padded_batches(data, collator)
            if padded is not None:
                data, collator = padded, _as_they_are
        else:
            collator = self._get_collator_with_removed_columns(collator, description="training")
        self._batches = batches = self._draw_batches(lengths)
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=workers, rank=self.args.process_index),
        )
        if self._token_budget is None:
            return self.accelerator.prepare(loader)
        # The sampler gives each process as many; accelerate up to 1.10 refuses to even out batches of unequal sizes.
        even, self.accelerator.even_batches = self.accelerator.even_batches, False
        try:
            return self.accelerator.prepare(loader)
        finally:
            self.accelerator.even_batches = even

    @property
    def _token_budget(self) -> int | None:
        return getattr(self.args, "tokens_per_batch", None)

    def _draw_batches(self, lengths: Sequence[int]) -> LengthBucketedBatchSampler | TokenBudgetBatchSampler:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if self._token_budget is not None:
            return TokenBudgetBatchSampler(
                lengths, self._token_budget, seed=seed, processes=self.accelerator.num_processes
            )
        return LengthBucketedBatchSampler(
            lengths, self._train_batch_size, seed=seed, drop_last=self.args.dataloader_drop_last
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # The Trainer's own would group by length here too, and hand predictions back in that order.
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) else None

    # ---- loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss: weighted and smoothed in training, the model's own in evaluation."""
        if self._own_loss and not model.training:
            outputs = model(**inputs)
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
        labels = inputs.get("labels")
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and labels is not None and labels.dim() == 1 and not labels.is_floating_point():
            self._epoch_lines.count(outputs["logits"], labels)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> EvalLoopOutput:
        """Evaluate as the Trainer does; the loss counts each row once in several processes too.

        There the Trainer takes means over batches that are filled up with rows of others.
        """
        if self.args.world_size == 1 or self.preprocess_logits_for_metrics is not None:
            return super().evaluation_loop(dataloader, description, prediction_loss_only, *args, **kwargs)
        output = super().evaluation_loop(dataloader, description, False, *args, **kwargs)
        name = f"{kwargs.get('metric_key_prefix', 'eval')}_loss"
        arrays = (output.predictions, output.label_ids)
        if name in output.metrics and all(isinstance(array, np.ndarray) for array in arrays):
            logits, labels = map(torch.from_numpy, arrays)
            loss = self.model.loss_function(labels=labels, pooled_logits=logits.float(), config=self.model.config)
            output.metrics[name] = loss.item()
        return output

    def _training_loss(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Weighted, smoothed cross-entropy: the sum over the rows by the rows of the whole accumulated batch.

        The weights have mean 1 over the training set, so that the divisor is a number of rows and accumulated
        gradients are exactly those of one large batch.
        """
        logits = outputs["logits"].float()
        weights = None if self._class_weights is None else self._class_weights.to(logits.device)
        total = nn.functional.cross_entropy(
            logits, labels, weights, reduction="sum", label_smoothing=self.args.label_smoothing_factor
        )
        rows = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return total / rows

    # ---- gradients ----

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: nn.Module | None = None) -> tuple[Any, Any]:
        """Return the optimiser that `args.optim` names, or for sparse gradients the one in its place."""
        chosen, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if args.optim in LAZY_OPTIMIZERS and model is not None and has_sparse_gradients(model):
            return LazyAdamW, settings
        return chosen, settings

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimiser as the Trainer does, the embedding with a learning rate of its own if it has one."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        rate = getattr(self.args, "embedding_learning_rate", None)
        if rate is not None and not given:
            trained: Any = self.model if model is None else model
            set_learning_rate(optimizer, trained.get_input_embeddings().weight, rate)
        return optimizer

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        if not self._sparse:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return clip_grad_norm(model.parameters(), self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> Any:
        if not self._sparse:
            return super()._get_grad_norm(model, grad_norm=grad_norm)
        return clip_grad_norm(model.parameters(), float("inf")) if grad_norm is None else grad_norm

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
        processes = self.args.world_size
        if resume_from_checkpoint is True:
            needs_best = bool(self.args.load_best_model_at_end)
            folder = Path(str(self.args.output_dir))
            resume_from_checkpoint = str(checkpoints.find_newest(folder, processes=processes, needs_best=needs_best))
        elif resume_from_checkpoint:
            checkpoints.check_states(Path(resume_from_checkpoint), processes)
        outcome = super().train(resume_from_checkpoint, *args, **kwargs)
        return outcome._replace(training_loss=outcome.metrics["train_loss"])

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._has_ended():  # a run that was killed after its last checkpoint; the Trainer would take a step more
            self.control.should_training_stop = True
            return
        parts: tuple[Any, ...] = (self._batches, self.train_dataset)  # which accelerate does not always find
        for part in parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(kwargs["epoch"])
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
        """Take up what the Trainer does not: the running loss, the best checkpoint's place, this run's patience."""
        if self.state.global_step == 0:
            for part in self.callback_handler.callbacks:
                if isinstance(part, EarlyStoppingCallback):
                    part.early_stopping_patience_counter = 0  # of an earlier run of this Trainer
            return
        running = self._callback(RunningLoss)
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

    def _asked_to_stop(self) -> bool:
        if self.accelerator.num_processes > 1:  # the signal may have reached one of them only, or not yet
            number = torch.tensor([self.stop_request.number], device=self.args.device)
            self.stop_request.number = int(self.accelerator.gather(number).max())
        return self.stop_request.number > 0

    def _checkpoint(self, step: int, trial: Any = None) -> Path:
        return Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{step}")

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Save as the Trainer does, then the manifest, then remove what is too old, then stop if asked to."""
        checkpoint = self._checkpoint(self.state.global_step, trial)
        running = self._callback(RunningLoss)
        running.unlogged = self.accelerator.gather(self._tr_loss.detach().reshape(1)).mean().item()
        running.logged = self._total_loss_scalar
        running.logged_step = self._globalstep_last_logged
        running.correct, running.seen = self._count_texts()
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
        except (OSError, RuntimeError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                checkpoints.remove(checkpoint)
            raise UserError(
                f"{checkpoint} could not be written: {_first_line(error)}. What was saved before is intact: "
                "make room there, then repeat the command with --resume"
            ) from error
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            checkpoints.rotate(checkpoint, limit)
        if self.stop_request.number:
            raise TrainingStopped(self.stop_request.number, checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # a pickle with paths of this machine, which nothing reads and a push of the Trainer's own would share
        (Path(str(output_dir or self.args.output_dir)) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if (Path(resume_from_checkpoint) / checkpoints.WEIGHTS).is_file():
            checkpoints.check_weights(Path(resume_from_checkpoint), self.model if model is None else model)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

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


def _as_they_are(batch: Any) -> Any:
    """The collator of batches that are one already; a function with a name, for workers."""
    return batch


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
