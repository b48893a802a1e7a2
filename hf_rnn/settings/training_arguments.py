"""Settings of the training: those of the Trainer and of recurrent models."""

import os
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from ..models.settings_rnn import check_ranges
from ..utils.errors import SettingError
from .fields import TrainingSettings


@dataclass
class RnnTrainingArguments(TrainingSettings, TrainingArguments):
    """[`~transformers.TrainingArguments`] with settings of recurrent text classifiers.

    Defaults are those of transformers, except for the order of the examples, the restored callbacks
    and `ddp_find_unused_parameters`; recipes have good values for a task. The help of each field
    describes it.

    `class_weight_power`: the loss of a row is weighted with (n / (C n_c)) ** power, scaled to mean
        1 over the n
    training rows, with n_c rows in its class and C classes.
    """

    bf16: bool = False  # `auto` of a recipe is decided by then

    def __post_init__(self) -> None:
        """Check what the Trainer would find late, and derive dependent settings."""
        try:
            check_ranges(self)
        except ValueError as error:
            raise SettingError(str(error)) from error
        if self.overwrite_output_dir and self.resume:
            raise SettingError(
                "overwrite_output_dir starts a new run and resume continues one: give one of them"
            )
        if self.load_best_model_at_end:
            self._suit_saves()
        if self.data_seed is None:  # type: ignore[has-type]  # a field of transformers
            # otherwise the order of the examples changes when a run is resumed
            self.data_seed = self.seed
        self.restore_callback_states_from_checkpoint = True  # such as the count of early stopping
        # these models use all parameters
        self.ddp_find_unused_parameters = bool(self.ddp_find_unused_parameters)  # type: ignore[has-type]
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if not torch.accelerator.is_available():
            # the Trainer refuses bfloat16 and several processes on a CPU otherwise
            self.use_cpu |= self.bf16 or self.bf16_full_eval or several
        self.report_to = self.report_to or ["none"]
        super().__post_init__()
        self._check_scores()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # torch would warn at each loader

    def _check_scores(self) -> None:
        """Refuse early stopping without scores."""
        has_scores = self.eval_strategy != "no" and self.metric_for_best_model is not None
        if self.early_stopping_patience and not has_scores:
            raise SettingError(
                "early_stopping_patience needs scores: set eval_strategy (such as epoch) and "
                "metric_for_best_model (such as macro_recall), or early_stopping_patience to 0"
            )

    def _suit_saves(self) -> None:
        """Save where an evaluation can choose the best epoch, or refuse what prevents it."""
        if "no" in (self.eval_strategy, self.save_strategy):
            raise SettingError(
                "load_best_model_at_end needs eval_strategy and save_strategy, found no: "
                "set load_best_model_at_end to false, "
                "and without eval_strategy early_stopping_patience to 0"
            )
        if self.eval_strategy == self.save_strategy == "steps":
            self.save_steps = self.eval_steps or self.logging_steps


def multiplies_bfloat16(use_cpu: bool = False) -> bool:
    """Return whether the GPU, or without one or with `use_cpu` the CPU, computes in bfloat16."""
    if not use_cpu and torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # an older torch does not report them
    has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
