"""Settings of the training: those of the Trainer of transformers, and those of recurrent models."""

import os
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from ...utils.errors import UserError
from .parser import expand_home, setting

_POSITIVE = (
    "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "tokens_per_batch", "tokens_per_pass", "row_budget", "bptt",
)  # fmt: skip
_NOT_NEGATIVE = (
    "learning_rate", "embedding_learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "class_weight_power",
    "early_stopping_patience", "seed", "data_seed",
)  # fmt: skip


@dataclass
class RnnTrainingArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] with settings of recurrent text classifiers.

    Defaults are those of transformers, except for the order of the examples, the restored callbacks and
    `ddp_find_unused_parameters`; recipes have good values for a task. The help of each field describes it.

    `class_weight_power`: the loss of a row is weighted with (n / (C n_c)) ** power, scaled to mean 1 over the n
    training rows, with n_c rows in its class and C classes.

    `tokens_per_batch`: see [`TokenBudgetBatchSampler`]. A step is the mean over its rows, so that a row weighs more
    in a batch of few long texts.
    """

    _argument_group_name = "training"

    # names of the Trainer's settings that no help shows: a run cannot follow them, or they change nothing
    _not_offered = (
        "activation_checkpointing", "activation_checkpointing_kwargs", "auto_find_batch_size", "batch_eval_metrics",
        "bf16_full_eval", "dataloader_in_order", "dataloader_persistent_workers", "debug", "deepspeed", "do_eval",
        "do_predict", "do_train", "enable_jit_checkpoint", "eval_do_concat_batches", "eval_use_gather_object",
        "fp16_full_eval", "fsdp", "fsdp_config", "gradient_checkpointing", "gradient_checkpointing_kwargs",
        "hub_always_push", "hub_strategy", "include_for_metrics", "label_names", "length_column_name",
        "liger_kernel_config", "local_rank", "log_on_each_node", "neftune_noise_alpha", "optim_target_modules",
        "parallelism_config", "prediction_loss_only", "remove_unused_columns", "resume_from_checkpoint",
        "save_on_each_node", "skip_memory_metrics", "trackio_bucket_id", "trackio_space_id",
        "trackio_static_space_id", "use_cache", "use_liger_kernel",
    )  # fmt: skip

    output_dir: str | None = setting(
        None, "folder for the finished model; its checkpoints are below it", required=True
    )
    num_train_epochs: float = setting(3.0, "passes over the training texts", common=True)
    learning_rate: float = setting(5e-5, "size of a training step", common=True)
    per_device_train_batch_size: int = setting(8, "texts per batch, on each device", common=True)
    seed: int = setting(42, "seed of weights and order of texts", common=True)
    bf16: bool = setting(False, "train in bfloat16, on processors that have it")
    use_cpu: bool = setting(False, "train on the CPU only", common=True)
    metric_for_best_model: str | None = setting(None, "score that chooses the best epoch", common=True)
    push_to_hub: bool = setting(False, "push the finished model to the Hub", common=True)
    hub_model_id: str | None = setting(None, "repo for push_to_hub (default: the name of output_dir)")
    train_sampling_strategy: str = setting(
        "group_by_length",
        "order of the examples: shuffled batches of similar length, the Trainer's own random or sequential order, or "
        "from the shortest to the longest text in every epoch, as in the source tutorial",
        choices=["group_by_length", "random", "sequential", "sorted_by_length"],
    )
    tokens_per_batch: int | None = setting(
        None,
        "most tokens in a training batch of each process, with padding; replaces per_device_train_batch_size; a "
        "longer text is a batch of its own",
    )
    tokens_per_pass: int | None = setting(
        None,
        "most tokens, with padding, that are computed at once: larger batches of long texts are computed in parts, "
        "with the same gradient in less memory; a longer text is a part of its own",
    )
    row_budget: int | None = setting(
        None,
        "lower num_train_epochs, to at least 3, so that all epochs together read at most this number of rows; to give "
        "num_train_epochs turns it off",
    )
    bptt: int = setting(
        64, "tokens of continuous text between two cuts of backpropagation through time, for causal-lm"
    )
    data_seed: int | None = setting(None, "seed of the order of the examples (default: seed)")
    restore_callback_states_from_checkpoint: bool = setting(
        True, "restore the state of callbacks when resuming, such as the count of early stopping"
    )
    class_weight_power: float = setting(
        0.0, "weight of classes in the loss, as a power of their inverse frequency: 0 equal rows, 1 equal classes"
    )
    embedding_learning_rate: float | None = setting(
        None, "learning rate of the embedding, with the same schedule (default: learning_rate)"
    )
    calibrate: bool = setting(False, "fit the scores to the validation rows, so that they are probabilities")
    early_stopping_patience: int | None = setting(
        None, "stop after this number of evaluations without a better score; 0 never"
    )
    include_num_input_tokens_seen: str = setting(
        "no", "count the tokens read in training", choices=["all", "non_padding", "no"]
    )
    overwrite_output_dir: bool = setting(False, "replace an earlier run in output_dir", common=True)
    ddp_find_unused_parameters: bool | None = setting(False, "look for unused parameters; these models use all")
    resume: bool = setting(False, "resume from the newest checkpoint in output_dir", common=True)
    resume_anyway: bool = setting(False, "like --resume, though data, tokenizer, model or settings have changed")
    recipe: str | None = setting(
        None, "settings to start from: default, scratch, best, fast ...; or a YAML file", common=True
    )
    license: str | None = setting(None, "the model's licence for its card, such as apache-2.0")
    report_to: list[str] | None = setting(None, "programs that log the run: tensorboard wandb ... (default: none)")
    language: list[str] | None = setting(None, "languages of the texts for the card, such as en de")
    tags: list[str] | None = setting(None, "further tags for the card")
    card_examples: bool = setting(True, "show two texts of each label in the card")
    baselines: bool = setting(True, "fit TF-IDF and logistic regression to the same rows, for the card")

    def __post_init__(self) -> None:
        """Check what the Trainer would find late, and derive dependent settings."""
        expand_home(self, "recipe")
        if not self.output_dir:
            raise UserError("output_dir is not set: give the folder of the finished model")
        self._check_ranges()
        self._check_combinations()
        self.resume = self.resume or self.resume_anyway
        if self.data_seed is None:
            self.data_seed = self.seed  # otherwise the order of the examples changes when a run is resumed
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if (self.bf16 or self.bf16_full_eval or several) and not torch.accelerator.is_available():
            self.use_cpu = True  # the Trainer refuses bfloat16 and several processes on a CPU otherwise
        self.report_to = self.report_to or ["none"]
        super().__post_init__()
        if self.early_stopping_patience and (self.eval_strategy == "no" or self.metric_for_best_model is None):
            raise UserError(
                "early_stopping_patience needs scores: set eval_strategy (such as epoch) and metric_for_best_model "
                "(such as macro_recall), or early_stopping_patience to 0"
            )
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # torch would warn at each loader

    def _check_ranges(self) -> None:
        infinity = float("inf")
        for name in _POSITIVE:
            if (value := getattr(self, name)) is not None and not 0 < value < infinity:
                raise UserError(f"{name} must be greater than 0, found {value}")
        for name in _NOT_NEGATIVE:
            if (value := getattr(self, name)) is not None and not 0 <= value < infinity:
                raise UserError(f"{name} must be finite and not negative, found {value}")
        if not 0 <= self.label_smoothing_factor <= 1:
            raise UserError(f"label_smoothing_factor must be from 0 to 1, found {self.label_smoothing_factor}")

    def _check_combinations(self) -> None:
        if self.overwrite_output_dir and (self.resume or self.resume_anyway):
            raise UserError("overwrite_output_dir starts a new run and resume continues one: give one of them")
        if self.load_best_model_at_end and "no" in (self.eval_strategy, self.save_strategy):
            raise UserError(
                "load_best_model_at_end needs eval_strategy and save_strategy, found no: set load_best_model_at_end "
                "to false, and without eval_strategy early_stopping_patience to 0"
            )
        if self.tokens_per_batch is not None and self.train_sampling_strategy != "group_by_length":
            raise UserError(
                f"tokens_per_batch {self.tokens_per_batch} needs train_sampling_strategy group_by_length, found "
                f"{self.train_sampling_strategy!r}: leave out one of them"
            )
