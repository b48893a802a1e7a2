"""Settings that a user gave and that do nothing beside the others: told, so that nobody believes they did."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from .text_arguments import OF_VOCABULARY

WITHOUT_MOMENTS = ("adafactor", "sgd", "adagrad", "rmsprop")
# What the Trainer hands no further settings to: it looks at flags of theirs only, such as adam_beta1. SGD, Adagrad and
# RMSprop are handed theirs (momentum, ...), since transformers 5.3.
_WITHOUT_ARGUMENTS = ("adamw_torch", "adamw_torch_fused", "adafactor")
_ARGUMENTS = {
    "sgd": ("momentum", "dampening", "nesterov", "weight_decay"),
    "adagrad": ("lr_decay", "eps", "weight_decay"),
    "rmsprop": ("momentum", "alpha", "eps", "centered", "weight_decay"),
}
_OF_TRACKERS = ("run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
_OF_NOTHING = {  # what the Trainer reads and a run like these has no use for
    "use_cache": "it is for models that generate",
    "length_column_name": "lengths are those of the tokens",
    "include_for_metrics": "scores need nothing but labels and logits",
    "do_eval": "eval_strategy says when the validation split is measured",
    "activation_checkpointing_kwargs": "activation_checkpointing is off",
    "gradient_checkpointing_kwargs": "gradient_checkpointing is off",
}
_OF_SHARING = ("hub_model_id", "hub_private_repo", "hub_revision", "hub_token", "hub_strategy", "hub_always_push")


def find_idle(typed: Collection[str], model: Any, data: Any, training: Any, distillation: Any = None) -> Iterator[str]:
    """Yield a line for each reason why some of the settings have no effect.

    Args:
        typed: Names of the settings to look at: what a recipe of ours says beside is no matter.
        model: Has the settings of the model as attributes.
        data: Has those of the texts.
        training: Has those of the training.
        distillation: Has those of a distillation, where it is one.
    """
    if distillation is not None:
        yield from _find_idle_of_distillation(typed, distillation)
    for source in ("tokenizer_name_or_path", "model_name_or_path"):
        if getattr(data, source) is not None:
            yield from _told(typed, OF_VOCABULARY, f"the tokenizer is that of {source}, as it is")
    if data.vectors is not None or data.model_name_or_path is not None:
        yield from _told(typed, ["embedding_initializer_range"], "the embedding starts from vectors that are given")
    if model.num_hidden_layers == 1 and model.hidden_dropout:
        yield from _told(typed, ["hidden_dropout"], "it stands between layers, and num_hidden_layers is 1")
    if model.sparse_embedding and model.freeze_embedding:
        yield from _told(typed, ["sparse_embedding"], "freeze_embedding leaves the embedding without gradients")
    if not training.load_best_model_at_end and not training.early_stopping_patience:
        chooses = ["metric_for_best_model", "greater_is_better"]
        yield from _told(typed, chooses, "the last epoch is kept, and none ends the training early")
    if training.lr_scheduler_type == "constant" and training.warmup_steps:
        yield from _told(
            typed, ["warmup_steps"], "lr_scheduler_type is constant: take constant_with_warmup, or linear"
        )
    if training.lr_scheduler_kwargs and training.lr_scheduler_type.startswith("constant"):
        schedule = training.lr_scheduler_type.value
        yield from _told(typed, ["lr_scheduler_kwargs"], f"lr_scheduler_type is {schedule}, which takes none")
    if training.optim_args and training.optim in _WITHOUT_ARGUMENTS:
        yield from _told(typed, ["optim_args"], f"optim is {training.optim.value}, which takes none from there")
    if "optim_args" in typed and training.optim_args and training.optim in _ARGUMENTS:
        named = [given.partition("=")[0] for given in training.optim_args.replace(" ", "").split(",")]
        if unknown := [name for name in named if name not in _ARGUMENTS[training.optim]]:
            known = ", ".join(_ARGUMENTS[training.optim])
            reason = f"optim is {training.optim.value}, which takes {known}"
            yield f"no effect of {', '.join(unknown)} in optim_args: {reason}"  # the others have theirs
    if training.optim in WITHOUT_MOMENTS:
        of_adam = ["adam_beta1", "adam_beta2", "adam_epsilon"]
        yield from _told(typed, of_adam, f"optim is {training.optim.value}, which is no Adam")
    if not training.optim.startswith(("galore", "apollo")):
        yield from _told(typed, ["optim_target_modules"], f"optim is {training.optim.value}, which takes all weights")
    for what in ("eval", "save", "logging"):
        strategy = getattr(training, f"{what}_strategy")
        if strategy != "steps":
            yield from _told(typed, [f"{what}_steps"], f"{what}_strategy is {strategy.value}, not steps")
    if not training.report_to:
        yield from _told(typed, _OF_TRACKERS, "report_to names nothing that would be told")
    if not training.fsdp:
        yield from _told(typed, ["fsdp_config"], "fsdp is off")
    for name, reason in _OF_NOTHING.items():
        yield from _told(typed, [name], reason)
    if not training.push_to_hub:
        yield from _told(typed, _OF_SHARING, "nothing is pushed without push_to_hub")
    if training.max_steps > 0:
        yield from _told(typed, ["num_train_epochs"], "max_steps says when the training ends")
    if training.tokens_per_batch is not None:
        yield from _told(typed, ["per_device_train_batch_size"], "tokens_per_batch cuts the training batches")
    if data.streaming:
        if training.baselines:
            yield from _told(typed, ["baselines"], "they need all rows at once, which streaming never holds")
        if training.train_sampling_strategy == "group_by_length":
            needs = "it needs the length of each row, which a stream does not tell"
            yield from _told(typed, ["train_sampling_strategy"], needs)
    if training.fp16 and training.device.type == "cpu":
        yield from _told(typed, ["fp16"], "a CPU computes in float32 here, or with bf16 in bfloat16")
    if training.do_predict:
        yield from _told(typed, ["do_predict"], "a test split is always measured; hf-rnn predict labels texts")
    if not training.do_train:
        yield from _told(typed, ["do_train"], "this trains; hf-rnn evaluate measures a model that is there")


def _find_idle_of_distillation(typed: Collection[str], distillation: Any) -> Iterator[str]:
    copies = ["mask_probability", "ngram_probability", "augmentation_seed"]
    if distillation.augmentations == 0:
        yield from _told(typed, copies, "augmentations is 0, and nothing is copied")
    if distillation.soft_label_weight == 0:
        soft = ["temperature", "unlabeled", "augmentations", *copies]
        yield from _told(typed, soft, "soft_label_weight is 0, and the teacher's answers count nothing")
    if distillation.soft_label_weight == 1:
        yield from _told(typed, ["label_smoothing_factor"], "soft_label_weight is 1, and true labels count nothing")


def _told(typed: Collection[str], names: Collection[str], reason: str) -> Iterator[str]:
    found = [name for name in names if name in typed]
    if found:
        yield f"no effect of {', '.join(found)}: {reason}"
