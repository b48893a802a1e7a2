"""The settings of a training itself: those of the Trainer of transformers, and what recurrent models need besides."""

import importlib.util
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK

from ...utils.errors import UserError
from .parser import expand_home, setting
from .unused_settings import WITHOUT_MOMENTS

_MOST_WORKERS = 256  # more processes than any machine has use for, and a typing mistake could take it down
# What to type when a tracker is asked for whose package is not there.
_TRACKER_PACKAGES = {
    "tensorboard": (("tensorboard", "tensorboardX"), "pip install 'hf-rnn[tensorboard]'"),
    "trackio": (("trackio",), "pip install trackio"),
}


@dataclass
class RnnTrainingArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] with what recurrent text classifiers need besides.

    Defaults are those of transformers, but for the order of the examples, the restored callbacks and the parameters
    without a gradient, which are not looked for; good values for a task are in the recipes.

    Args:
        output_dir (`str`): The finished folder; the Trainer's checkpoints go below it.
        train_sampling_strategy (`str`): `"group_by_length"` draws batches of texts of like length from
            [`LengthBucketedBatchSampler`]; `"random"` and `"sequential"` are the Trainer's own.
        tokens_per_batch (`int`, *optional*): Cut training batches of texts of like length by their tokens instead of
            their rows, see [`TokenBudgetBatchSampler`]: rows times the longest of a batch, padding counted, are at
            most so many in each process, and a text with more is a batch of its own. `per_device_train_batch_size`
            then has no effect. A step is the mean over its rows, so that a row counts for more in a batch of few long
            texts than in one of many short ones.
        data_seed (`int`, *optional*): Seed of the order of the examples; that of `seed` by default, so that a resumed
            run goes on in the order that it began with.
        restore_callback_states_from_checkpoint (`bool`): Whether callbacks go on from their states when a run is
            resumed; early stopping would start counting anew without.
        class_weight_power (`float`): The loss of a row counts (n / (C n_c)) ** power times, n_c being the rows of
            its class and C the number of classes, scaled to mean 1 over the training rows: 0 weighs all rows alike,
            1 all classes.
        embedding_learning_rate (`float`, *optional*): A learning rate of its own for the embedding, such as a small
            one for pretrained vectors; it is scheduled as the other.
        calibrate (`bool`): Whether to fit the scores to the validation rows after training, so that they can be read
            as probabilities; see [`hf_rnn.evaluation.calibration`]. The weights of the last layer hold what was fitted.
        early_stopping_patience (`int`, *optional*): Stop after so many evaluations without a better
            `metric_for_best_model`; 0 never stops.
        overwrite_output_dir (`bool`): Whether to replace what an earlier run left in `output_dir`.
        ddp_find_unused_parameters (`bool`, *optional*): Whether several processes look for parameters without a
            gradient; these models have none, so False.
        resume (`bool`): Whether to go on from the newest valid checkpoint in `output_dir`.
        resume_anyway (`bool`): As `resume`, though data, tokenizer, model or settings have changed.
        include_num_input_tokens_seen (`str`): Whether the log counts the tokens read: `"all"`, `"non_padding"` or
            `"no"`.
        recipe (`str`, *optional*): Where the settings came from. The parser reads it; here it is a record.
        license (`str`, *optional*): The model's licence for its card, as the Hub abbreviates it, such as `apache-2.0`.
        language (`list[str]`, *optional*): Languages of the texts for the card: codes of ISO 639, such as `en`.
        tags (`list[str]`, *optional*): Further tags for the card.
        card_examples (`bool`): Whether the card shows two texts of each label from the training rows.
        baselines (`bool`): Whether to fit TF-IDF and logistic regression to the same rows, for the card.

    Raises:
        UserError: For a value out of its range, or a tracker in `report_to` whose package is missing.
    """

    _argument_group_name = "training"

    output_dir: str | None = setting(None, "where the finished model goes; checkpoints go below it")
    train_sampling_strategy: str = setting(
        "group_by_length",
        "order of the examples: batches of like length, or the Trainer's own random or sequential order",
        choices=["group_by_length", "random", "sequential"],
    )
    tokens_per_batch: int | None = setting(
        None,
        "most tokens in a training batch, padding counted; with it per_device_train_batch_size has no effect in "
        "training, and a longer text is a batch of its own (default: batches of so many rows)",
    )
    data_seed: int | None = setting(None, "seed of the order of the examples (default: seed)")
    restore_callback_states_from_checkpoint: bool = setting(
        True, "restore the state of callbacks on resuming; early stopping would start counting anew without"
    )
    class_weight_power: float = setting(
        0.0, "weigh classes by this power of their inverse frequency: 0 rows alike, 1 classes"
    )
    embedding_learning_rate: float | None = setting(None, "learning rate of the embedding (default: learning_rate)")
    calibrate: bool = setting(
        False, "fit the scores to the validation rows, so that they can be read as probabilities"
    )
    early_stopping_patience: int | None = setting(None, "stop after so many evaluations without improvement; 0 never")
    include_num_input_tokens_seen: str = setting("no", "count the tokens read in training: all, non_padding or no")
    overwrite_output_dir: bool = setting(False, "replace what an earlier run left in output_dir")
    ddp_find_unused_parameters: bool | None = setting(False, "look for unused parameters; these models have none")
    resume: bool = setting(False, "go on from the newest valid checkpoint in output_dir")
    resume_anyway: bool = setting(False, "like --resume, though data, tokenizer, model or settings have changed")
    recipe: str | None = setting(None, "settings to start from: a name (default, tutorial, ...) or a YAML file")
    license: str | None = setting(None, "the model's licence for its card, such as apache-2.0")
    language: list[str] | None = setting(None, "languages of the texts for the card, such as en de")
    tags: list[str] | None = setting(None, "further tags for the card")
    card_examples: bool = setting(True, "show two texts of each label in the card")
    baselines: bool = setting(True, "fit TF-IDF and logistic regression to the same rows, for the card")

    def __post_init__(self) -> None:
        """Check what the Trainer would find out late, and fill in what follows from the rest."""
        expand_home(self, "recipe")
        if not self.output_dir:  # the Trainer would write into a folder of its own naming, or into the one we are in
            found = "not set" if self.output_dir is None else "empty"
            raise UserError(f"output_dir is {found}: give the folder where the finished model is to go")
        schedule = getattr(self, "lr_scheduler_kwargs", None)
        if isinstance(schedule, str) and os.path.isfile(schedule):  # which the Trainer does not read
            self.lr_scheduler_kwargs = json.loads(Path(schedule).read_bytes())
        self._check_ranges()
        self._check_token_budget()
        self._check_best()
        if self.data_seed is None:
            self.data_seed = self.seed  # without it the order of the examples changes when a run is resumed
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1  # as torchrun says
        if self.ddp_backend is not None and not several:
            raise UserError("ddp_backend is for several processes, as torchrun starts them: leave it out")
        if (self.bf16 or self.bf16_full_eval or several) and not torch.accelerator.is_available():
            # where it runs anyhow: only when told so the Trainer takes bfloat16 there, and sees other processes
            self.use_cpu = True
        super().__post_init__()
        self._check_sharing()
        self._check_trackers()
        self._check_early_stopping()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing to pin for; torch would warn of it at each loader

    def _check_ranges(self) -> None:
        if not 0 <= self.class_weight_power < float("inf"):
            raise UserError(f"class_weight_power must be finite and not negative, found {self.class_weight_power}")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 0:
            raise UserError(
                f"early_stopping_patience must be 0 (never stop) or more, found {self.early_stopping_patience}"
            )
        for name in (
            "num_train_epochs",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
        ):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be greater than 0, found {getattr(self, name)}")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) >= 2**31:  # which NumPy and torch would find out in the first epoch
                raise UserError(f"{name} must be less than 2**31, found {getattr(self, name)}")
        for name in (
            "learning_rate",
            "embedding_learning_rate",
            "weight_decay",
            "max_grad_norm",
            "adam_epsilon",
            "warmup_steps",
            "eval_delay",
        ):
            found = getattr(self, name)
            if found is not None and not 0 <= found < float("inf"):
                raise UserError(f"{name} must be finite and not negative, found {found}")
        if self.adam_epsilon < 1e-38 and self.optim not in WITHOUT_MOMENTS:  # as good as 0 in float32
            raise UserError(
                f"adam_epsilon must be at least 1e-38, found {self.adam_epsilon}: the step of a weight that had no "
                "gradient yet is divided by it"
            )
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 0 and less than 1, found {getattr(self, name)}")
        if not 0 <= self.label_smoothing_factor <= 1:
            raise UserError(f"label_smoothing_factor must be from 0 to 1, found {self.label_smoothing_factor}")
        if self.max_steps == 0 or self.max_steps < -1:
            raise UserError(
                "max_steps must be greater than 0, or -1 for as many as num_train_epochs takes, found "
                f"{self.max_steps}"
            )
        if self.eval_accumulation_steps is not None and self.eval_accumulation_steps < 1:
            raise UserError(f"eval_accumulation_steps must be at least 1, found {self.eval_accumulation_steps}")
        noise = self.neftune_noise_alpha
        if noise is not None and not 0 <= noise < 1e38:  # beyond, torch has no such noise in float32
            raise UserError(f"neftune_noise_alpha must be finite and not negative, in float32, found {noise}")
        if getattr(self, "dataloader_multiprocessing_context", None) is not None and self.dataloader_num_workers == 0:
            raise UserError(
                "dataloader_multiprocessing_context says how workers start, and there are none: set "
                "dataloader_num_workers, or leave it out"
            )
        for what in ("eval", "save", "logging"):
            steps = getattr(self, f"{what}_steps")
            if getattr(self, f"{what}_strategy") == "steps" and steps is not None and not steps > 0:
                raise UserError(f"{what}_steps must be greater than 0, found {steps}: {what}_strategy is steps")
            if steps is not None and not math.isfinite(steps):  # the Trainer counts with it in any case
                raise UserError(f"{what}_steps must be finite, found {steps}")
        for given in self.optim_args.replace(" ", "").split(",") if self.optim_args else ():
            if given.count("=") != 1:
                raise UserError(f"optim_args must be name=value, several parted by commas, found {given!r}")
        counted = str(self.include_num_input_tokens_seen).lower()
        counted = {"true": "all", "false": "no"}.get(counted, counted)
        if counted not in ("all", "non_padding", "no"):
            raise UserError(f"include_num_input_tokens_seen must be all, non_padding or no, found {counted!r}")
        self.include_num_input_tokens_seen = counted
        if not 0 <= self.dataloader_num_workers <= _MOST_WORKERS:
            raise UserError(
                f"dataloader_num_workers must be from 0 to {_MOST_WORKERS}, found {self.dataloader_num_workers}: "
                "each is a process"
            )
        if self.dataloader_prefetch_factor is not None and self.dataloader_prefetch_factor < 1:
            raise UserError(f"dataloader_prefetch_factor must be at least 1, found {self.dataloader_prefetch_factor}")
        self.resume = self.resume or self.resume_anyway
        for name in ("seed", "data_seed"):
            if not 0 <= (getattr(self, name) or 0) < 2**32:
                raise UserError(f"{name} must be from 0 to 2**32 - 1, found {getattr(self, name)}")
        if self.overwrite_output_dir and self.resume:
            raise UserError("overwrite_output_dir starts anew and resume goes on: give one of them")

    def _check_best(self) -> None:
        """Tell what else must be set where nothing is measured or saved that the best epoch could be chosen from."""
        if not self.load_best_model_at_end:
            return
        if self.eval_strategy == "no":
            raise UserError(
                "with eval_strategy no there is nothing to choose the best epoch by: set load_best_model_at_end to "
                "false, and early_stopping_patience to 0"
            )
        if self.save_strategy == "no":
            raise UserError(
                "with save_strategy no there is no epoch to go back to: set load_best_model_at_end to false, which "
                "keeps the last"
            )

    def _check_token_budget(self) -> None:
        budget = self.tokens_per_batch
        if budget is None:
            return
        if budget < 1:
            raise UserError(f"tokens_per_batch must be at least 1, found {budget}")
        if self.train_sampling_strategy != "group_by_length":
            raise UserError(
                f"tokens_per_batch {budget} makes batches of texts of like length, which train_sampling_strategy "
                f"{self.train_sampling_strategy!r} does not: set that to group_by_length, or leave out "
                "tokens_per_batch"
            )
        for name, instead in (
            ("dataloader_drop_last", "leaves out rows that do not fill a batch, of which there are none"),
            ("auto_find_batch_size", "looks for a per_device_train_batch_size, which has no effect"),
        ):
            if getattr(self, name):
                raise UserError(f"{name} {instead} with tokens_per_batch: leave out one of the two")

    def _check_sharing(self) -> None:
        if self.tokens_per_batch is not None and self.world_size > 1:
            for name in ("split_batches", "dispatch_batches"):
                if getattr(self.accelerator_config, name):
                    raise UserError(
                        f"{name} in accelerator_config shares out the rows of one batch, and tokens_per_batch gives "
                        "each process batches of its own: leave out one of the two"
                    )

    def _check_trackers(self) -> None:
        for tracker in self.report_to:
            if tracker not in INTEGRATION_TO_CALLBACK:
                raise UserError(f"report_to {tracker!r} is not known; there are {', '.join(INTEGRATION_TO_CALLBACK)}")
            modules, install = _TRACKER_PACKAGES.get(tracker, ((), ""))
            if modules and not any(importlib.util.find_spec(module) for module in modules):
                raise UserError(f"report_to {tracker!r} needs a package that is not installed: {install}")

    def _check_early_stopping(self) -> None:
        if self.early_stopping_patience and (self.eval_strategy == "no" or self.metric_for_best_model is None):
            raise UserError(
                "early_stopping_patience needs measurements to compare: set eval_strategy (such as epoch) and "
                "metric_for_best_model (such as macro_recall)"
            )
