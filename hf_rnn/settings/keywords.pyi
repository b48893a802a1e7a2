"""Keywords of `train`, `distill`, `pretrain` and the estimators, for type checkers and editors.

`python scripts/build_reference.py` writes this file from the dataclasses of the settings.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal, TypedDict

Text = str | PathLike[str]

class RunKeywords(TypedDict, total=False):
    """Settings of every training."""

    accelerator_config: Mapping[str, object] | Text | None
    activation_checkpointing: bool | None
    activation_checkpointing_kwargs: Mapping[str, object] | Text | None
    adam_beta1: float | None
    adam_beta2: float | None
    adam_epsilon: float | None
    auto_find_batch_size: bool | None
    average_tokens_across_devices: bool | None
    baselines: bool | None
    batch_eval_metrics: bool | None
    bf16: bool | Literal["auto"] | None
    bf16_full_eval: bool | None
    bidirectional: bool | None
    block_size: int | None
    block_type: Literal["plain", "residual"] | None
    calibrate: bool | None
    card_examples: bool | None
    cell_type: Text | None
    class_weight_power: float | None
    classifier_activation: Literal["linear", "relu", "tanh", "gelu"] | None
    classifier_dropout: float | int | None
    conv_kernel: int | None
    crf: bool | None
    data_seed: int | None
    dataloader_drop_last: bool | None
    dataloader_in_order: bool | None
    dataloader_multiprocessing_context: Text | None
    dataloader_num_workers: int | None
    dataloader_persistent_workers: bool | None
    dataloader_pin_memory: bool | None
    dataloader_prefetch_factor: int | None
    ddp_backend: Text | None
    ddp_broadcast_buffers: bool | None
    ddp_bucket_cap_mb: int | None
    ddp_find_unused_parameters: bool | None
    ddp_static_graph: bool | None
    ddp_timeout: int | None
    debug: Text | Sequence[str] | None
    deepspeed: Mapping[str, object] | Text | None
    do_eval: bool | None
    do_predict: bool | None
    do_train: bool | None
    early_stopping_patience: int | None
    embedding_dropout: float | int | None
    embedding_initializer_range: float | int | None
    embedding_learning_rate: float | None
    embedding_size: int | None
    enable_jit_checkpoint: bool | None
    eval_accumulation_steps: int | None
    eval_delay: float | None
    eval_do_concat_batches: bool | None
    eval_on_start: bool | None
    eval_steps: float | None
    eval_strategy: Text | None
    eval_use_gather_object: bool | None
    few_rows: int | None
    fp16: bool | None
    fp16_full_eval: bool | None
    freeze_embedding: bool | None
    fsdp: Text | None
    fsdp_config: Mapping[str, object] | Text | None
    full_determinism: bool | None
    gradient_accumulation_steps: int | None
    gradient_checkpointing: bool | None
    gradient_checkpointing_kwargs: Mapping[str, object] | Text | None
    greater_is_better: bool | None
    head_learning_rate: float | None
    hidden_dropout: float | int | None
    hidden_size: int | None
    ignore_data_skip: bool | None
    include_for_metrics: Sequence[str] | None
    include_num_input_tokens_seen: Text | bool | None
    label_names: Sequence[str] | None
    label_smoothing_factor: float | None
    language: Sequence[str] | None
    learning_rate: float | None
    length_column_name: Text | None
    license: Text | None
    liger_kernel_config: Mapping[str, object] | None
    load_best_model_at_end: bool | None
    local_rank: int | None
    log_level: Text | None
    log_level_replica: Text | None
    log_on_each_node: bool | None
    logging_first_step: bool | None
    logging_nan_inf_filter: bool | None
    logging_steps: float | None
    logging_strategy: Text | None
    lr_scheduler_kwargs: Mapping[str, object] | Text | None
    lr_scheduler_type: Text | None
    max_grad_norm: float | None
    max_minutes: float | None
    max_steps: int | None
    max_vocab_size: int | None
    metric_for_best_model: Text | None
    model_name_or_path: Text | None
    neftune_noise_alpha: float | None
    num_hidden_layers: int | None
    num_train_epochs: float | None
    optim: Text | None
    optim_args: Text | None
    optim_target_modules: Text | Sequence[str] | None
    parallelism_config: object | None
    per_device_eval_batch_size: int | None
    per_device_train_batch_size: int | None
    pooling: Text | None
    prediction_loss_only: bool | None
    project: Text | None
    recipe: Text | Mapping[str, object] | None
    recurrent_dropout: float | int | None
    remove_unused_columns: bool | None
    report_to: Sequence[str] | None
    residual_size: int | None
    restore_callback_states_from_checkpoint: bool | None
    row_budget: int | None
    run_name: Text | None
    save_on_each_node: bool | None
    save_only_model: bool | None
    save_steps: float | None
    save_strategy: Text | None
    save_total_limit: int | None
    seed: int | None
    skip_memory_metrics: bool | None
    streaming: bool | None
    tags: Sequence[str] | None
    tf32: bool | None
    tie_word_embeddings: bool | None
    torch_compile: bool | None
    torch_compile_backend: Text | None
    torch_compile_mode: Text | None
    torch_empty_cache_steps: int | None
    trackio_bucket_id: Text | None
    trackio_space_id: Text | None
    trackio_static_space_id: Text | Literal[False] | None
    train_sampling_strategy: Literal["group_by_length", "random", "sequential"] | None
    train_window: int | None
    typos: float | None
    use_cache: bool | None
    use_cpu: bool | None
    use_liger_kernel: bool | None
    warmup_steps: float | None
    weight_decay: float | None
    wide: bool | None
    word_dropout: float | int | None
    word_forms: int | None

class EstimatorKeywords(RunKeywords, total=False):
    """Parameters of the estimators."""

    fail_on_leak: str | float | None
    lowercase: bool | None
    max_length: int | None
    min_frequency: int | None
    normalizer: Text | None
    random_state: object
    tokenizer: Text | None
    tokenizer_name_or_path: Text | None
    vectors: Text | None
    verbose: bool | None
    weights_dtype: Literal["float32", "float16", "bfloat16"] | None

class TrainKeywords(RunKeywords, total=False):
    """Settings of [`train`]."""

    class_names: Sequence[str] | None
    data_dir: Text | None
    dataset_config: Text | None
    dataset_name: Text | None
    disable_tqdm: bool | None
    encoding: Text | None
    fail_on_leak: str | float | None
    hub_always_push: bool | None
    hub_model_id: Text | None
    hub_private_repo: bool | None
    hub_revision: Text | None
    hub_strategy: Text | None
    hub_token: Text | None
    label_column: Text | None
    label_columns: Sequence[str] | None
    label_separator: Text | None
    lowercase: bool | None
    max_bad_rows: Text | int | float | None
    max_length: int | None
    min_frequency: int | None
    normalizer: Text | None
    overwrite_output_dir: bool | None
    push_to_hub: bool | None
    quoting: Literal["csv", "none"] | None
    resume: bool | None
    resume_from_checkpoint: Text | None
    separator: Text | None
    task: Text | None
    text_column: Text | None
    text_pair_column: Text | None
    tokenizer: Text | None
    tokenizer_name_or_path: Text | None
    vectors: Text | None
    weights_dtype: Literal["float32", "float16", "bfloat16"] | None

class DistillKeywords(TrainKeywords, total=False):
    """Settings of [`distill`]."""

    augmentations: int | None
    soft_label_weight: float | None
    teacher: Text | None
    teacher_labels: Sequence[str] | None
    teacher_max_length: int | None
    temperature: float | None
    unlabeled: Text | None

class PretrainKeywords(RunKeywords, total=False):
    """Settings of [`pretrain`]."""

    disable_tqdm: bool | None
    held_out: int | None
    hub_always_push: bool | None
    hub_model_id: Text | None
    hub_private_repo: bool | None
    hub_revision: Text | None
    hub_strategy: Text | None
    hub_token: Text | None
    input: Sequence[str] | None
    max_texts: int | None
    model_max_length: int | None
    output_dir: Text | None
    overwrite_output_dir: bool | None
    push_to_hub: bool | None
    resume: bool | None
    resume_from_checkpoint: Text | None
    split_characters: int | None
    teacher: Text | None
    teacher_max_length: int | None
    text_column: Text | None
    weights_dtype: Literal["float32", "bfloat16", "float8"] | None
