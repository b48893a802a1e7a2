"""Settings of the training as flags: ours, and those of the Trainer of transformers, without an import of it."""

import ast
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .parser import setting

_TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": float, "list[str]": list[str]}
_HIDDEN = (  # settings of the Trainer that a run cannot follow, or that change nothing
    "activation_checkpointing", "activation_checkpointing_kwargs", "auto_find_batch_size", "batch_eval_metrics",
    "bf16_full_eval", "dataloader_in_order", "dataloader_persistent_workers", "debug", "deepspeed", "do_eval",
    "do_predict", "do_train", "enable_jit_checkpoint", "eval_do_concat_batches", "eval_use_gather_object",
    "fp16_full_eval", "fsdp", "fsdp_config", "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "hub_always_push", "hub_strategy", "include_for_metrics", "label_names", "length_column_name",
    "liger_kernel_config", "local_rank", "log_on_each_node", "neftune_noise_alpha", "optim_target_modules",
    "parallelism_config", "prediction_loss_only", "remove_unused_columns", "resume_from_checkpoint",
    "save_on_each_node", "skip_memory_metrics", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id",
    "use_cache", "use_liger_kernel",
)  # fmt: skip
_SAME_STEPS = (  # beginnings of names: where a run happens, what it reports, how it loads
    "dataloader_", "ddp_", "disable_tqdm", "do_", "enable_jit_checkpoint", "gradient_checkpointing", "hub_",
    "include_for_metrics", "length_column_name", "local_rank", "log_", "project", "report_to",
    "resume_from_checkpoint", "run_name", "save_on_each_node", "save_total_limit", "skip_memory_metrics", "trackio_",
)  # fmt: skip
_NOT_RECORDED = (  # beginnings of names: secrets, places, and what other settings imply
    "dataloader_pin_memory", "disable_tqdm", "do_eval", "gradient_checkpointing", "greater_is_better", "hub_",
    "run_name",
)  # fmt: skip


def _describe(name: str) -> dict[str, Any]:
    """Return what this package knows about a setting of the Trainer, as metadata of a field; see [`setting`]."""
    return {
        "hidden": name in _HIDDEN,
        "steps": not name.startswith(_SAME_STEPS) or name == "dataloader_drop_last",
        "recorded": not name.startswith(_NOT_RECORDED),
        "card": name in ("optim", "lr_scheduler_type"),
    }


def _read_fields() -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields of `TrainingArguments` from its source, as an import takes seconds.

    Values of other types than `_TYPES` are texts, which `TrainingArguments` converts.
    """
    package: Any = find_spec("transformers")
    tree = ast.parse(Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8"))
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments")
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
            name, written = ast.unparse(node.target), ast.unparse(node.annotation)
            values = {word.arg: word.value for word in node.value.keywords}
            metadata = {**(_literal(values.get("metadata")) or {}), **_describe(name), "mapping": "dict" in written}
            about = field(default=_literal(values.get("default")), metadata=metadata)
            yield name, _TYPES.get(written.removesuffix(" | None"), str), about


def _literal(node: ast.expr | None) -> Any:
    with contextlib.suppress(ValueError):  # not a literal
        return None if node is None else ast.literal_eval(node)


@dataclass
class OwnSettings:
    """Settings of recurrent models, and settings of the Trainer with another default, help or meaning."""

    _argument_group_name = "training"

    output_dir: str | None = setting(
        None,
        "folder for the finished model (default: a name from the data and the date)",
        word=True,
        steps=False,
        recorded=False,
    )
    num_train_epochs: float = setting(
        3.0, "passes over the training texts", common=True, above=0, replaces=("row_budget", "row_floor"), card=True
    )
    learning_rate: float = setting(5e-5, "size of a training step", common=True, least=0, card=True)
    per_device_train_batch_size: int = setting(8, "texts per batch, on each device", common=True, above=0, card=True)
    per_device_eval_batch_size: int = setting(8, "texts per batch of an evaluation, on each device", above=0)
    gradient_accumulation_steps: int = setting(1, "batches per step", above=0, card=True)
    max_steps: int = setting(-1, "number of steps, in place of num_train_epochs; -1 for none", card=True)
    weight_decay: float = setting(0.0, "decay of the weights in each step", least=0, card=True)
    max_grad_norm: float = setting(1.0, "clip gradients to this norm; 0 does not clip", least=0, card=True)
    warmup_steps: float = setting(0, "steps until the full learning rate; below 1 a share of all", least=0, card=True)
    label_smoothing_factor: float = setting(
        0.0, "share of each label that goes to all classes", least=0, most=1, card=True
    )
    seed: int = setting(42, "seed of weights and order of texts", common=True, least=0, card="always")
    bf16: bool = setting(False, "train in bfloat16, on processors that have it", card=True)
    use_cpu: bool = setting(False, "train on the CPU only", common=True, steps=False, recorded=False)
    metric_for_best_model: str | None = setting(
        None, "score that chooses the best epoch", common=True, replaces=("greater_is_better",)
    )
    push_to_hub: bool = setting(False, "push the finished model to the Hub", common=True, steps=False)
    hub_model_id: str | None = setting(
        None, "repo for push_to_hub (default: the name of output_dir)", steps=False, recorded=False
    )
    train_sampling_strategy: str = setting(
        "group_by_length",
        "order of the examples: shuffled batches of similar length, the Trainer's own random or sequential order, or "
        "from the shortest to the longest text in every epoch, as in the source tutorial",
        choices=["group_by_length", "random", "sequential"],
        card=True,
    )
    tokens_per_pass: int | None = setting(
        None,
        "most tokens, with padding, that are computed at once: larger batches of long texts are computed in parts, "
        "with the same gradient in less memory; a longer text is a part of its own",
        above=0,
    )
    row_budget: int | None = setting(
        None,
        "lower num_train_epochs, to at least 2, so that all epochs together read at most this number of rows, "
        "where a row is 500 characters or one text; a given num_train_epochs turns it off",
        above=0,
    )
    row_floor: int = setting(
        0,
        "raise num_train_epochs, to at most 20, so that all epochs together read at least this number of rows; "
        "a given num_train_epochs turns it off",
        least=0,
    )
    few_rows: int = setting(
        0,
        "fit only the last layer, by logistic regression on the frozen encoder to start from, where the mean number "
        "of rows per class is at most this; 0 never",
        least=0,
    )
    bptt: int = setting(
        64, "tokens of continuous text between two cuts of backpropagation through time, for causal-lm", above=0
    )
    data_seed: int | None = setting(None, "seed of the order of the examples (default: seed)", least=0)
    restore_callback_states_from_checkpoint: bool = setting(
        True, "restore the state of callbacks when resuming, such as the count of early stopping"
    )
    class_weight_power: float = setting(
        0.0,
        "weight of classes in the loss, as a power of their inverse frequency: 0 equal rows, 1 equal classes",
        least=0,
        card=True,
    )
    embedding_learning_rate: float | None = setting(
        None, "learning rate of the embedding, with the same schedule (default: learning_rate)", least=0, card=True
    )
    head_learning_rate: float | None = setting(
        None,
        "learning rate of all weights behind the encoder, with the same schedule; learning_rate if it is not set",
        least=0,
        card=True,
    )
    calibrate: bool = setting(
        False, "fit the scores to the validation rows, so that they are probabilities", steps=False
    )
    early_stopping_patience: int | None = setting(
        None, "stop after this number of evaluations without a better score; 0 never", least=0, card=True
    )
    include_num_input_tokens_seen: str = setting(
        "no", "count the tokens read in training", choices=["all", "non_padding", "no"]
    )
    overwrite_output_dir: bool = setting(
        False, "replace an earlier run in output_dir", common=True, steps=False, recorded=False
    )
    ddp_find_unused_parameters: bool | None = setting(
        False, "look for unused parameters; these models use all", steps=False
    )
    resume: bool = setting(
        False, "resume from the newest checkpoint in output_dir", common=True, steps=False, recorded=False
    )
    resume_anyway: bool = setting(
        False, "like --resume, though data, tokenizer, model or settings have changed", steps=False, recorded=False
    )
    keep_checkpoints: bool = setting(False, "keep the checkpoints of a finished run", steps=False, recorded=False)
    recipe: str | None = setting(
        None,
        "settings to start from: default, scratch, best, fast ...; or a YAML file",
        common=True,
        steps=False,
        recorded=False,
    )
    license: str | None = setting(None, "the model's licence for its card, such as apache-2.0", steps=False)
    report_to: list[str] | None = setting(
        None, "programs that log the run: tensorboard wandb ... (default: none)", steps=False
    )
    language: list[str] | None = setting(None, "languages of the texts for the card, such as en de", steps=False)
    tags: list[str] | None = setting(None, "further tags for the card", steps=False)
    card_examples: bool = setting(True, "show two texts of each label in the card", steps=False)
    baselines: bool = setting(True, "fit TF-IDF and logistic regression to the same rows, for the card", steps=False)


TrainerSettings: Any = make_dataclass(
    "TrainerSettings",
    [known for known in _read_fields() if known[0] not in OwnSettings.__dataclass_fields__],
    namespace={"_argument_group_name": "transformers' Trainer"},
)
# Facts about each setting of the training by name; see `setting`.
ABOUT: dict[str, Mapping[str, Any]] = {
    known.name: known.metadata for kind in (OwnSettings, TrainerSettings) for known in fields(kind)
}
