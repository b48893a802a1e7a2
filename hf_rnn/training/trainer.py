"""The Trainer for recurrent models: length-bucketed batches, weighted losses, sparse gradients.

Private methods of [`~transformers.Trainer`] that are overridden here or in `checkpointing.resumable_trainer`:

| method | why the public API is not enough |
|---|---|
| `_get_dataloader` | evaluate every row in the order of the data; let each process read a sized stream |
| `_clip_grad_norm`, `_get_grad_norm` | torch cannot measure sparse gradients |
| `_run_epoch` | restore the batch order of a resumed epoch; take no step after the end of a run |
| `_save_checkpoint` | write the manifest last, then rotate checkpoints, then stop if a signal asked for it |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from transformers.trainer_utils import has_length

from ..data.padded_dataset import split_batch
from ..utils.errors import UserError
from .checkpointing.resumable_trainer import ResumableTrainer

SAMPLE_WEIGHT = "sample_weight"  # column of the training rows: weights in the loss


def weigh_classes(counts: Sequence[float], power: float) -> torch.Tensor:
    """Return one weight per class: (n / (C n_c)) ** power, scaled to mean 1 over the rows.

    The scale keeps the size of the loss, and so the meaning of a learning rate, the same for every power: 0 weighs all
    rows alike, 1 all classes alike. An empty class has weight 1; label smoothing and a teacher's logits use it.
    """
    rows = torch.tensor(counts, dtype=torch.float64)
    weights = (rows.sum() / (len(counts) * rows)) ** power
    weights[rows == 0] = 0.0  # was infinite
    weights *= rows.sum() / (weights * rows).sum()
    weights[rows == 0] = 1.0
    return weights.float()


class RnnTrainer(ResumableTrainer):
    """[`~transformers.Trainer`] for recurrent models.

    - Loss: `args.class_weight_power` above 0 weighs classes, `args.label_smoothing_factor` smooths, and a column
      `sample_weight` (mean 1) weighs rows. These apply to training only: evaluation losses of all runs are comparable.
    - Memory: `args.tokens_per_pass` bounds the tokens that are computed at once, in training and evaluation.
    - Optimizer: `args.embedding_learning_rate` for the embedding.
    - Progress: one line per evaluation on stderr with the accuracy on the training texts, nothing on stdout.
    - Checkpoints, early stopping and signals: see [`ResumableTrainer`].

    Args:
        args: As for the Trainer.
        class_counts (`Sequence[int]`, *optional*): Training rows per class, for class weights. Counted in the column
            `labels` or `label` if absent; required for a stream.
        kwargs: As for [`ResumableTrainer`].
    """

    optimizer: Any
    compute_loss_func: Any

    def __init__(self, *args: Any, class_counts: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        data = self.train_dataset
        self._set_signature_columns_if_needed()
        self._signature_columns.append(SAMPLE_WEIGHT)
        self._class_weights: torch.Tensor | None = None
        self._sample_weight: torch.Tensor | None = None  # in the current batch
        power = getattr(self.args, "class_weight_power", 0)
        if power > 0 and (data is not None or class_counts is not None):
            if class_counts is None:
                labels = read_labels(data)
                self._check_labels(labels)
                class_counts = torch.bincount(labels[labels >= 0], minlength=self.model.config.num_labels).tolist()
            self._class_weights = weigh_classes(class_counts, power)
        weighted = self._class_weights is not None or SAMPLE_WEIGHT in _column_names(data)
        self._own_loss = (weighted or self.label_smoother is not None) and self.compute_loss_func is None
        if self._own_loss:
            self._check_labels()
            self.compute_loss_func = self._training_loss

    def _check_labels(self, labels: torch.Tensor | None = None) -> None:
        config = self.model.config
        one_label = config.num_labels > 1 and config.problem_type in (None, "single_label_classification")
        if not one_label or (labels is not None and (labels.dim() != 1 or labels.is_floating_point())):
            raise UserError(
                "class_weight_power, label_smoothing_factor and sample_weight need one label per text: found another "
                "task; leave them out"
            )

    # ---- data ----

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """Evaluate every row in the order of the data, and let each process read a stream with a length.

        Otherwise one process reads a stream for all; that fails for batches that are padded to different lengths.
        """
        drop_last, sharing = self.args.dataloader_drop_last, self.accelerator.dataloader_config
        if not is_training:
            drop_last, kwargs["sampler_fn"] = False, SequentialSampler
        sized_stream = isinstance(dataset, IterableDataset) and has_length(dataset) and not sharing.dispatch_batches
        dispatch = False if sized_stream else sharing.dispatch_batches
        with _set(self.args, dataloader_drop_last=drop_last), _set(sharing, dispatch_batches=dispatch):
            loader = super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        if sized_stream and self.accelerator.num_processes > 1:
            # accelerate drops the rows that fill up the last batches by these two, and knows only its part of a stream
            loader.dataset.total_dataset_length = len(dataset)
            loader.batch_sampler.num_processes = self.accelerator.num_processes
        return loader

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Add the gradients of a batch, in parts of `args.tokens_per_pass`, and return its loss."""
        parts = self._split(inputs)
        if len(parts) == 1 or num_items_in_batch is None:
            return super().training_step(model, inputs, num_items_in_batch)
        losses = []
        for number, (_, part) in enumerate(parts, 1):
            # several processes exchange gradients once per batch
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, part, num_items_in_batch))
        return torch.stack(losses).sum()

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        """Return loss, logits and labels of a batch, computed in parts of `args.tokens_per_pass`."""
        parts = self._split(inputs)
        if len(parts) == 1:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        outputs = [super(RnnTrainer, self).prediction_step(model, part, False, ignore_keys) for _, part in parts]
        rows, loss, labels = torch.cat([rows for rows, _ in parts]), None, inputs.get("labels")
        if labels is not None:
            counts = torch.stack([(part["labels"] != -100).sum() for _, part in parts])
            loss = (torch.stack([output[0] for output in outputs]) * counts).sum() / counts.sum()
        if prediction_loss_only:
            return loss, None, None
        return loss, torch.cat([logits for _, logits, _ in outputs])[rows.argsort()], labels

    def _split(self, inputs: dict[str, Any]) -> list[tuple[torch.Tensor, dict[str, Any]]]:
        return split_batch(inputs, getattr(self.args, "tokens_per_pass", None))

    # ---- loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss: weighted and smoothed in training, the model's own in evaluation."""
        self._sample_weight = inputs.pop(SAMPLE_WEIGHT, None)
        if self._own_loss and not model.training:
            outputs = model(**inputs)
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
        labels = inputs.get("labels")
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and labels is not None and labels.dim() == 1 and not labels.is_floating_point():
            self.count_answers(outputs["logits"], labels)
        return (loss, outputs) if return_outputs else loss

    def _training_loss(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the sum of the weighted, smoothed losses divided by the rows of the whole accumulated batch.

        Weights have mean 1 over the training set, so the divisor is a number of rows, and accumulated gradients equal
        those of one large batch.
        """
        self._check_labels(labels)
        logits = outputs["logits"].float()
        weights = None if self._class_weights is None else self._class_weights.to(logits.device)
        losses = nn.functional.cross_entropy(
            logits, labels, weights, reduction="none", label_smoothing=self.args.label_smoothing_factor
        )
        total = (losses if self._sample_weight is None else losses * self._sample_weight).sum()
        if num_items_in_batch is None:
            return total / (labels != -100).sum()
        # DataParallel: the Trainer scales for the mean of one loss per replica; this is one loss for all rows.
        return total / num_items_in_batch / max(self.args.n_gpu, 1)

    # ---- optimizer ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer as the Trainer does, with `embedding_learning_rate` and `head_learning_rate` if set."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if given:
            return optimizer
        trained: Any = self.model if model is None else model
        if (rate := getattr(self.args, "embedding_learning_rate", None)) is not None:
            set_learning_rate(optimizer, trained.get_input_embeddings().weight, rate)
        if (rate := getattr(self.args, "head_learning_rate", None)) is not None:
            encoder = {id(parameter) for parameter in trained.base_model.parameters()}
            for parameter in trained.parameters():
                if id(parameter) not in encoder:
                    set_learning_rate(optimizer, parameter, rate)
        return optimizer


def return_unchanged(batch: Any) -> Any:
    """Return what is a batch already; a named function, because workers pickle it."""
    return batch


@contextmanager
def _set(owner: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


# ---- optimizers ----


def set_learning_rate(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, rate: float) -> None:
    """Move one parameter into a group with its own learning rate and otherwise the same settings.

    Call it before the first step. A parameter that the optimizer does not train is ignored.
    """
    for group in optimizer.param_groups:
        others = [other for other in group["params"] if other is not parameter]
        if len(others) < len(group["params"]):
            group["params"] = others
            optimizer.add_param_group({**group, "params": [parameter], "lr": rate})
            return


# ---- columns of the training rows ----


def _column_names(data: Any) -> Sequence[str]:
    return getattr(data, "column_names", None) or ()


def read_labels(data: Any) -> torch.Tensor:
    """Return the column `labels` or `label` of all rows."""
    return torch.as_tensor(data["label" if "label" in _column_names(data) else "labels"][:])
