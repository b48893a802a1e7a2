"""The Trainer of language models: truncated backpropagation through time over continuous text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput

from ..data.continuous_text import TokenStreams, evaluation_streams
from ..evaluation.language_model import sum_losses
from ..models.causal_lm_rnn import RnnCache
from .trainer import RnnTrainer, return_unchanged


class LanguageModelTrainer(RnnTrainer):
    """[`RnnTrainer`] for continuous text.

    A batch has `per_device_train_batch_size` streams of `args.bptt` tokens. The state is carried from batch to batch,
    without gradients, and starts at zero in each epoch. Checkpoints have the state too, through the private methods
    `_save_rng_state` and `_load_rng_state` of the Trainer. An evaluation reads each split as
    [`evaluation_streams`] does; its predictions are those of [`sum_losses`].
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # each batch has its mean loss
        self._cache: RnnCache | None = None

    def get_train_dataloader(self) -> DataLoader:
        """Return the pieces in the order of the text; each process has its own streams."""
        args, pad = self.args, self.model.config.pad_token_id
        streams = args.train_batch_size * args.world_size
        pieces = TokenStreams(self.train_dataset, streams, args.bptt, pad, args.process_index, args.world_size)
        return _load(pieces)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return the pieces of a split."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        return _load(evaluation_streams(rows, self.model.config.pad_token_id))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Return the pieces of a split."""
        return self.get_eval_dataloader(test_dataset)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a piece after the state of the one before."""
        before = None if inputs["begins"] else self._cache
        items = inputs["num_items_in_batch"]
        outputs = model(
            inputs["input_ids"], shift_labels=inputs["labels"], cache=before, use_cache=True, num_items_in_batch=items
        )
        self._cache = outputs.cache.detach()
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Measure a split, whole in every process."""
        self.model.eval()
        sums = sum_losses(self.model, dataloader.dataset)
        metrics: dict[str, float] = {"loss": sums[0] / sums[1]}
        if self.compute_metrics is not None:
            metrics |= self.compute_metrics(EvalPrediction(predictions=sums, label_ids=np.empty(0)))
        named = {f"{metric_key_prefix}_{name}": float(value) for name, value in metrics.items()}
        return EvalLoopOutput(predictions=sums, label_ids=np.empty(0), metrics=named, num_samples=int(sums[1]))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self._cache is not None:
            tensors = {name: tensor.contiguous() for name, tensor in self._cache.states.items()}
            save_file(tensors, self._state_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and self._state_file(checkpoint).is_file():
            state = {name: part.to(self.args.device) for name, part in load_file(self._state_file(checkpoint)).items()}
            self._cache = RnnCache(state["hidden"], state.get("cell"), 0, state.get("conv"))

    def _state_file(self, folder: str) -> Path:
        return Path(folder, f"recurrent_state_{self.args.process_index}.safetensors")


def _load(pieces: TokenStreams) -> DataLoader:
    sampler: torch.utils.data.Sampler = BatchSampler(SequentialSampler(pieces), 1, drop_last=False)
    return DataLoader(pieces, batch_sampler=sampler, collate_fn=return_unchanged)
