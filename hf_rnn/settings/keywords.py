# fmt: off
"""Keywords of `train`, `distill`, `pretrain` and the estimators, for type checkers and scikit-learn.

`python scripts/build_reference.py` writes this file from the dataclasses of the settings.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypedDict

Flag = bool | None
Whole = int | None
Number = float | None
Share = float | str | None
Text = str | PathLike[str] | None
Texts = Sequence[str] | None
Recipe = str | PathLike[str] | Mapping[str, Any] | None


class RunKeywords(TypedDict, total=False):
    """Settings of every training."""

    accelerator_config: Any; activation_checkpointing: Any; activation_checkpointing_kwargs: Any; adam_beta1: Any
    adam_beta2: Any; adam_epsilon: Any; auto_find_batch_size: Any; average_tokens_across_devices: Any
    baselines: Flag; batch_eval_metrics: Any; bf16: Flag; bf16_full_eval: Any; bidirectional: Flag; block_size: Whole
    block_type: Text; calibrate: Flag; card_examples: Flag; cell_type: Text; class_weight_power: Number
    classifier_activation: Text; classifier_dropout: Number; conv_kernel: Whole; crf: Flag; data_seed: Any
    dataloader_drop_last: Any; dataloader_in_order: Any; dataloader_multiprocessing_context: Any
    dataloader_num_workers: Any; dataloader_persistent_workers: Any; dataloader_pin_memory: Any
    dataloader_prefetch_factor: Any; ddp_backend: Any; ddp_broadcast_buffers: Any; ddp_bucket_cap_mb: Any
    ddp_find_unused_parameters: Any; ddp_static_graph: Any; ddp_timeout: Any; debug: Any; deepspeed: Any
    do_eval: Any; do_predict: Any; do_train: Any; early_stopping_patience: Whole; embedding_dropout: Number
    embedding_initializer_range: Number; embedding_learning_rate: Number; embedding_size: Whole
    enable_jit_checkpoint: Any; eval_accumulation_steps: Any; eval_delay: Any; eval_do_concat_batches: Any
    eval_on_start: Any; eval_steps: Any; eval_strategy: Any; eval_use_gather_object: Any; few_rows: Whole; fp16: Any
    fp16_full_eval: Any; freeze_embedding: Flag; fsdp: Any; fsdp_config: Any; full_determinism: Any
    gradient_accumulation_steps: Whole; gradient_checkpointing: Any; gradient_checkpointing_kwargs: Any
    greater_is_better: Any; head_learning_rate: Number; hidden_dropout: Number; hidden_size: Whole
    ignore_data_skip: Any; include_for_metrics: Any; include_num_input_tokens_seen: Any; label_names: Any
    label_smoothing_factor: Number; language: Texts; learning_rate: Number; length_column_name: Any; license: Text
    liger_kernel_config: Any; load_best_model_at_end: Any; local_rank: Any; log_level: Any; log_level_replica: Any
    log_on_each_node: Any; logging_first_step: Any; logging_nan_inf_filter: Any; logging_steps: Any
    logging_strategy: Any; lr_scheduler_kwargs: Any; lr_scheduler_type: Text; max_grad_norm: Number
    max_minutes: Number; max_steps: Whole; metric_for_best_model: Text; neftune_noise_alpha: Any
    num_hidden_layers: Whole; num_train_epochs: Number; optim: Text; optim_args: Any; optim_target_modules: Any
    pair_encoding: Text; parallelism_config: Any; per_device_eval_batch_size: Whole
    per_device_train_batch_size: Whole; pooling: Text; prediction_loss_only: Any; project: Any; recipe: Recipe
    recurrent_dropout: Number; remove_unused_columns: Any; report_to: Texts; residual_size: Whole
    restore_callback_states_from_checkpoint: Any; row_budget: Whole; row_floor: Whole; run_name: Any
    save_on_each_node: Any; save_only_model: Any; save_steps: Any; save_strategy: Any; save_total_limit: Any
    seed: Whole; skip_memory_metrics: Any; streaming: Flag; tags: Texts; tf32: Any; tie_word_embeddings: Flag
    token_ngrams: Whole; torch_compile: Any; torch_compile_backend: Any; torch_compile_mode: Any
    torch_empty_cache_steps: Any; trackio_bucket_id: Any; trackio_space_id: Any; trackio_static_space_id: Any
    train_sampling_strategy: Text; use_cache: Any; use_cpu: Flag; use_liger_kernel: Any; warmup_steps: Number
    weight_decay: Number; weights_dtype: Text; word_dropout: Number; word_forms: Whole


class EstimatorKeywords(RunKeywords, total=False):
    """Parameters of the estimators."""

    fail_on_leak: Share; lowercase: Flag; max_length: Whole; max_vocab_size: Whole; min_frequency: Whole
    model_name_or_path: Text; normalizer: Text; random_state: Any; tokenizer: Text; tokenizer_name_or_path: Text
    vectors: Text; verbose: Flag; widen_vocabulary: Whole


class TrainKeywords(RunKeywords, total=False):
    """Settings of [`train`]."""

    class_names: Texts; data_dir: Text; dataset_config: Text; dataset_name: Text; disable_tqdm: Any; encoding: Text
    fail_on_leak: Share; hub_always_push: Any; hub_model_id: Text; hub_private_repo: Any; hub_revision: Any
    hub_strategy: Any; hub_token: Any; label_column: Text; label_columns: Texts; label_separator: Text
    lowercase: Flag; max_bad_rows: Share; max_length: Whole; max_vocab_size: Whole; min_frequency: Whole
    model_name_or_path: Text; normalizer: Text; overwrite_output_dir: Flag; push_to_hub: Flag; quoting: Text
    resume: Flag; resume_from_checkpoint: Any; separator: Text; task: Text; text_column: Text; text_pair_column: Text
    tokenizer: Text; tokenizer_name_or_path: Text; vectors: Text; widen_vocabulary: Whole


class DistillKeywords(TrainKeywords, total=False):
    """Settings of [`distill`]."""

    augmentations: Whole; soft_label_weight: Number; teacher: Text; teacher_cache: Text; teacher_labels: Texts
    teacher_max_length: Whole; temperature: Number; unlabeled: Text


class PretrainKeywords(RunKeywords, total=False):
    """Settings of [`pretrain`]."""

    disable_tqdm: Any; held_out: Whole; hub_always_push: Any; hub_model_id: Text; hub_private_repo: Any
    hub_revision: Any; hub_strategy: Any; hub_token: Any; input: Texts; max_texts: Whole; max_vocab_size: Whole
    model_max_length: Whole; output_dir: Text; overwrite_output_dir: Flag; push_to_hub: Flag; resume: Flag
    resume_from_checkpoint: Any; split_characters: Whole; teacher: Text; teacher_cache: Text
    teacher_max_length: Whole; text_column: Text; weights_dtype: Text
