"""What a training run asks of a teacher's side, in the order in which it asks; [`hf_rnn.training.distillation`] answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import datasets
from transformers import PreTrainedTokenizerBase

from .arguments.distillation_arguments import DistillationArguments
from .trainer import RnnTrainer


class Teaching(Protocol):
    """Adds a teacher's answers, and texts that only it has labelled, to the training rows."""

    settings: DistillationArguments

    def read(self, texts: datasets.DatasetDict) -> None:
        """Look at the labelled splits, and read what further texts there are."""

    def texts_with_words(self, texts: Iterable[str]) -> Iterable[str]:
        """Return the texts whose words a tokenizer is to count, those of train among them."""

    def teach(
        self, texts: datasets.DatasetDict, examples: datasets.DatasetDict, tokenizer: PreTrainedTokenizerBase
    ) -> datasets.DatasetDict:
        """Return the examples with the teacher's answers, and with further rows in `train`."""

    def fingerprints(self) -> dict[str, Any]:
        """Return what decides the steps of the run beside the rows, for [`take_fingerprints`]."""

    @property
    def trainer(self) -> Callable[..., RnnTrainer]:
        """What makes the Trainer, of what [`RnnTrainer`] takes."""

    def measure(self, predicted: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `metrics.json` says of the teacher, from the student's predictions by split."""
