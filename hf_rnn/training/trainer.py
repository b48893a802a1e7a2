"""The Trainer with what recurrent text classifiers need: batches of like length, class weights, sparse rows.

What is changed: how training batches are drawn, the loss in training (never in evaluation), and how gradients of a
sparse embedding are measured and clipped. Checkpoints and progress are those of [`ResumableTrainer`], all else is the
Trainer's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother
from transformers.trainer_utils import EvalLoopOutput, has_length, seed_worker

from ..data.padded_dataset import as_padded_batches
from ..data.samplers import LengthBucketedBatchSampler, TokenBudgetBatchSampler
from ..utils.errors import UserError
from .checkpointing.resumable_trainer import ResumableTrainer
from .class_weights import weigh_classes
from .optimizers import LazyAdamW, set_learning_rate
from .row_columns import count_tokens, read_labels
from .sparse_gradients import LAZY_OPTIMIZERS, check_sparse_gradients, clip_grad_norm, has_sparse_gradients

SAMPLE_WEIGHT = "sample_weight"  # column of the training rows: weights in the loss


class RnnTrainer(ResumableTrainer):
    """[`~transformers.Trainer`] for [`RnnForSequenceClassification`].

    - With `args.train_sampling_strategy="group_by_length"` training batches come from [`LengthBucketedBatchSampler`]
      (a stream keeps its own order), with `args.tokens_per_batch` from [`TokenBudgetBatchSampler`], which refuses a
      stream. Evaluation reads in the data's order: predictions come back in it.
    - With `args.class_weight_power` above 0 the training loss weighs classes, and `args.label_smoothing_factor`
      smooths; the loss of an evaluation is always the plain one, comparable between runs.
    - A column `sample_weight` of the training rows weighs each row in the training loss. Its mean should be 1, so that
      the loss keeps its scale.
    - With `args.early_stopping_patience` it stops early.
    - With `args.embedding_learning_rate` the embedding learns at a rate of its own.
    - Sparse embedding gradients are measured and clipped, and take adaptive steps: [`LazyAdamW`] in AdamW's place.
    - Progress goes to stderr, a line an evaluation, with the accuracy on the texts trained on; nothing goes to stdout.
    - A checkpoint is complete or not valid, see [`hf_rnn.training.checkpointing.manifest`], and a run that goes on from one takes the same
      steps as one that never stopped; of a stream, where it has a length. Within `with trainer.stop_request:` SIGTERM
      and Ctrl-C finish the step, save, and raise [`TrainingStopped`].

    Args:
        args: As for the Trainer, and with all that is in [`Trainer`].
        made_from (`Mapping[str, Any]`, *optional*): Fingerprints of the run, see [`take_fingerprints`], that its
            checkpoints keep.
        class_counts (`Sequence[int]`, *optional*): Training rows by class, for class weights; counted in the column
            `labels` (or `label`, as collators name it anew) when absent, which a stream does not allow.
        kwargs: As for the Trainer.

    Raises:
        UserError: When sparse gradients meet an optimiser that does not take them, class weights a task or a data set
            that has no classes to count, or `tokens_per_batch` a stream.
    """

    optimizer: Any  # the Trainer's; made when training starts

    def __init__(self, *args: Any, class_counts: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batches: LengthBucketedBatchSampler | TokenBudgetBatchSampler | None = None
        if self._token_budget is not None and isinstance(self.train_dataset, IterableDataset):
            raise UserError(
                "tokens_per_batch needs the length of each row, which a stream does not tell: "
                "give a table of rows, or leave out tokens_per_batch"
            )
        self._class_counts = class_counts
        self._sample_weight: torch.Tensor | None = None  # of the current batch
        self._own_loss = False
        self._follow_settings()

    def _follow_settings(self) -> None:
        """Take up what `args` and the model say; each trial of a hyperparameter search says it anew."""
        self._class_weights: torch.Tensor | None = None
        counted = self.train_dataset is not None or self._class_counts is not None  # else it only evaluates
        if counted and getattr(self.args, "class_weight_power", 0) > 0:
            self._class_weights = weigh_classes(self._count_classes(self._class_counts), self.args.class_weight_power)
        weighted = SAMPLE_WEIGHT in (getattr(self.train_dataset, "column_names", None) or ())
        changed = self._class_weights is not None or self.label_smoother is not None or weighted
        if changed and getattr(self, "compute_loss_func", None) is None:
            if not self._may_have_one_label_each():
                raise UserError("label_smoothing_factor (or sample_weight) needs one label each: set it to 0")
            self._own_loss = True  # from then on: without weights and smoothing it is the plain one
            self.compute_loss_func = self._training_loss
        self._sparse = has_sparse_gradients(self.model)
        if self._sparse and self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            check_sparse_gradients(self.args)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if SAMPLE_WEIGHT not in self._signature_columns:
            self._signature_columns.append(SAMPLE_WEIGHT)

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if self.hp_search_backend is None or trial is None:
            return
        factor = self.args.label_smoothing_factor  # which the Trainer looks at only when it is made
        smooths = factor != 0 and self.model.config.problem_type != "multi_label_classification"
        self.label_smoother = LabelSmoother(epsilon=factor) if smooths else None
        self._follow_settings()

    def _may_have_one_label_each(self) -> bool:
        """As far as the configuration tells; where it tells nothing, a batch's labels do."""
        config = self.model.config
        return config.num_labels > 1 and config.problem_type in (None, "single_label_classification")

    def _count_classes(self, class_counts: Sequence[int] | None) -> list[int]:
        config = self.model.config
        if not self._may_have_one_label_each():
            raise UserError("class_weight_power is for texts with one label each: set it to 0")
        if class_counts is None and isinstance(self.train_dataset, IterableDataset):
            raise UserError(
                "class_weight_power needs the rows of each class, which a stream does not tell: give class_counts"
            )
        if class_counts is None:
            labels = read_labels(self.train_dataset)
            if labels.dim() != 1 or labels.is_floating_point():
                raise UserError(
                    "class_weight_power is for texts with one label each, and the labels here are others: set it to 0"
                )
            labels = labels[labels >= 0]
            highest = int(labels.max()) if len(labels) else 0
            if highest >= config.num_labels:
                raise UserError(
                    f"the training rows have labels up to {highest}, and those of the model end with "
                    f"{config.num_labels - 1}: give its configuration num_labels={highest + 1}, or the rows "
                    "other labels"
                )
            class_counts = torch.bincount(labels, minlength=config.num_labels).tolist()
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
            multiprocessing_context=getattr(self.args, "dataloader_multiprocessing_context", None),  # not in 5.8
            in_order=getattr(self.args, "dataloader_in_order", True),  # likewise
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

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As in the Trainer, but that no row is dropped: all are measured."""
        with self._no_row_dropped():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Likewise."""
        with self._no_row_dropped():
            return super().get_test_dataloader(test_dataset)

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader:
        """As in the Trainer; a stream that tells its length is read by each process for itself.

        Else one reads for all, joins their batches, and fails where these are not padded to one length.
        """
        sharing = self.accelerator.dataloader_config
        asked = sharing.dispatch_batches
        by_each = isinstance(dataset, IterableDataset) and has_length(dataset) and not asked
        if not by_each:
            return super()._get_dataloader(dataset, *args, **kwargs)
        sharing.dispatch_batches = False
        try:
            loader = super()._get_dataloader(dataset, *args, **kwargs)
        finally:
            sharing.dispatch_batches = asked
        if self.accelerator.num_processes > 1:
            # by which accelerate leaves out what fills up the last batches; of a stream it knows its own part only
            loader.dataset.total_dataset_length = len(dataset)
            loader.batch_sampler.num_processes = self.accelerator.num_processes
        return loader

    @contextmanager
    def _no_row_dropped(self) -> Iterator[None]:
        drop, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # The Trainer's own would group by length here too, and hand predictions back in that order.
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) else None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        parts: tuple[Any, ...] = (self._batches, self.train_dataset)  # which accelerate does not always find
        for part in parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    # ---- loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss: weighted and smoothed in training, the model's own in evaluation."""
        if getattr(getattr(self.model, "config", None), "return_dict", True) is False:
            inputs = {**inputs, "return_dict": True}
        self._sample_weight = inputs.pop(SAMPLE_WEIGHT, None)
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
        """Evaluate as the Trainer does; the model's own loss counts each row once in several processes too.

        There the Trainer takes means over batches that are filled up with rows of others.
        """
        as_it_is = self.args.world_size == 1 or self.preprocess_logits_for_metrics is not None
        if as_it_is or not self._reports_loss_of_model():
            return super().evaluation_loop(dataloader, description, prediction_loss_only, *args, **kwargs)
        output = super().evaluation_loop(dataloader, description, False, *args, **kwargs)
        name = f"{kwargs.get('metric_key_prefix', 'eval')}_loss"
        predictions = output.predictions
        if isinstance(predictions, tuple):  # hidden states too
            predictions = predictions[0]
        arrays = (predictions, output.label_ids)
        if name in output.metrics and all(isinstance(array, np.ndarray) for array in arrays):
            logits, labels = map(torch.from_numpy, arrays)
            loss = self.model.loss_function(labels=labels, pooled_logits=logits.float(), config=self.model.config)
            output.metrics[name] = loss.item()
        return output

    def _reports_loss_of_model(self) -> bool:
        """Whether an evaluation's loss is not one of the caller's own, nor a subclass's."""
        package = __name__.partition(".")[0]
        overridden = type(self).compute_loss.__module__.partition(".")[0] != package
        return not overridden and (self._own_loss or self.compute_loss_func is None)

    def _training_loss(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Weighted, smoothed cross-entropy: the sum over the rows by the rows of the whole accumulated batch.

        The weights have mean 1 over the training set, so that the divisor is a number of rows and accumulated
        gradients are exactly those of one large batch.
        """
        if labels.dim() != 1 or labels.is_floating_point():
            raise UserError(
                "class_weight_power and label_smoothing_factor are for texts with one label each, found labels of "
                f"dtype {labels.dtype} and shape {tuple(labels.shape)}: set both to 0"
            )
        logits = outputs["logits"].float()
        weights = None if self._class_weights is None else self._class_weights.to(logits.device)
        losses = nn.functional.cross_entropy(
            logits, labels, weights, reduction="none", label_smoothing=self.args.label_smoothing_factor
        )
        total = (losses if self._sample_weight is None else losses * self._sample_weight).sum()
        if num_items_in_batch is None:
            return total / (labels != -100).sum()
        if self.args.n_gpu > 1:  # DataParallel
            # The Trainer multiplies by it, or hands over so much fewer rows: for replicas' losses, of which it takes
            # the mean. Here are the rows of all.
            total = total / self.args.n_gpu
        return total / num_items_in_batch

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

    def try_optimizer(self) -> None:
        """Make optimiser and schedule, and forget them: what is wrong with their settings is raised here."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or self.optimizer is not None:
            return
        try:
            self.create_optimizer_and_scheduler(num_training_steps=100)
        finally:
            self.optimizer = self.lr_scheduler = None

    def try_batches(self) -> None:
        """Make the training batches, and forget them: what is wrong with their settings is raised here.

        Raises:
            UserError: When there would be none.
        """
        with torch.random.fork_rng(devices=[]):
            loader = self.get_train_dataloader()
        if has_length(loader) and len(loader) == 0:
            raise UserError(
                f"dataloader_drop_last leaves no batch of {self.args.per_device_train_batch_size} rows: "
                "leave it out, or lower per_device_train_batch_size"
            )

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        if not self._sparse:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return clip_grad_norm(model.parameters(), self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> Any:
        if not self._sparse:
            return super()._get_grad_norm(model, grad_norm=grad_norm)
        return clip_grad_norm(model.parameters(), float("inf")) if grad_norm is None else grad_norm


def _as_they_are(batch: Any) -> Any:
    """The collator of batches that are one already; a function with a name, for workers."""
    return batch
