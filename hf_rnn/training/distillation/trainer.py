"""The loss of a distillation, and the Trainer that takes it: rows with a teacher's logits beside their labels.

Evaluation is that of [`RnnTrainer`]: true labels only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..trainer import RnnTrainer

TEACHER_LOGITS = "teacher_logits"  # column of the training rows: (C) floats
NO_LABEL = -100  # label of a row that has only the teacher's answer


def distillation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperature: float,
    soft_label_weight: float,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the loss of a batch, summed over its rows.

    With p and q the softmax of the teacher's and the student's logits divided by the temperature T, a row has
    a T² KL(p ‖ q) + (1 - a) CE, a being `soft_label_weight` and CE the cross-entropy of the true label, at temperature
    1; a row without a label has only the first part. The factor T² keeps the size of its gradients about the same for
    every T. After G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network. arXiv:1503.02531,
    2015, section 2.

    Class weights w make the cross-entropy learn w_c p(c | x), scaled to sum to 1, in place of p(c | x). So that both
    parts ask for the same, the teacher's probabilities are tilted likewise: log w is added to its logits.

    Args:
        logits: The student's, `(B, C)`.
        labels: Class ids `(B)`; -100 is no label.
        teacher_logits: `(B, C)`.
        temperature: T, above 0.
        soft_label_weight: a, from 0 to 1.
        class_weights: w, `(C)`, above 0.
        label_smoothing: Of the cross-entropy.

    Returns:
        A scalar, in nats.
    """
    if class_weights is not None:
        teacher_logits = teacher_logits + class_weights.log()
    soft = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=-1),
        functional.log_softmax(teacher_logits / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    hard = functional.cross_entropy(
        logits, labels, class_weights, reduction="sum", label_smoothing=label_smoothing, ignore_index=NO_LABEL
    )
    return soft_label_weight * temperature**2 * soft + (1 - soft_label_weight) * hard


class DistillationTrainer(RnnTrainer):
    """[`RnnTrainer`] whose training rows have a column `teacher_logits`.

    The loss of an accumulated batch is the sum of [`distillation_loss`] over its rows by their number, with a label or
    without; class weights and label smoothing of the settings are those of its cross-entropy.

    Args:
        args: As for [`RnnTrainer`].
        temperature (`float`): See [`distillation_loss`].
        soft_label_weight (`float`): See [`distillation_loss`].
        kwargs: As for [`RnnTrainer`].
    """

    def __init__(self, *args: Any, temperature: float, soft_label_weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._temperature, self._soft_label_weight = temperature, soft_label_weight
        self._teacher_logits: torch.Tensor | None = None  # of the batch whose loss is computed
        self._own_loss = True
        self.compute_loss_func = self._training_loss

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if TEACHER_LOGITS not in self._signature_columns:
            self._signature_columns.append(TEACHER_LOGITS)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        # The Trainer counts labels; here rows without one count too.
        rows = [{"labels": torch.zeros_like(batch["labels"])} for batch in batch_samples]
        return super()._get_num_items_in_batch(rows, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss, as [`RnnTrainer`] does."""
        self._teacher_logits = inputs.pop(TEACHER_LOGITS, None)
        try:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self._teacher_logits = None

    def _training_loss(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The mean over the rows of the whole accumulated batch."""
        if self._teacher_logits is None:
            raise ValueError(f"a training batch has no {TEACHER_LOGITS}")
        logits = outputs["logits"].float()
        total = distillation_loss(
            logits,
            labels,
            self._teacher_logits.float(),
            self._temperature,
            self._soft_label_weight,
            None if self._class_weights is None else self._class_weights.to(logits.device),
            self.args.label_smoothing_factor,
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)
