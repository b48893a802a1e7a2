"""Fingerprints of a training run: two runs with the same ones take the same steps.

Data and tokenizer are hashes; architecture and settings are values by name, so that a message can name a difference.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from ...data.encoding import read_rules
from ...utils.errors import UserError
from ..settings import ABOUT
from .manifest import read_manifest

logger = logging.getLogger(__name__)

# Settings that the state of the optimizer in a checkpoint holds.
_IN_OPTIMIZER = ("optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
_NAMES = {
    "data": "the texts or their labels",
    "test": "the test texts or their labels",
    "tokenizer": "the tokenizer",
    "vectors": "the pretrained vectors",
    "start": "the model that training starts from",
    "teacher": "the answers of the teacher",
}


def take_fingerprints(
    examples: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    settings: TrainingArguments,
    stream: str | None = None,
    further_settings: Mapping[str, Any] | None = None,
    **hashes: str,
) -> dict[str, Any]:
    """Return everything that decides the steps of a run, ready for JSON.

    The splits `examples` have `input_ids` and `labels`: `train` and `validation` decide the steps, `test` the scores.
    `stream` is the hash of rows that are a stream; `hashes` are those of `vectors`, of the model to `start` from, and
    of the answers of a `teacher`.
    """
    rows = _hash_rows(examples, "train", "validation")
    values = settings.to_dict().items()
    selected = {name: value for name, value in values if ABOUT.get(name, {}).get("steps", True)}
    selected |= {"accelerator_config": accelerator_changes(settings)}
    selected |= {"processes": settings.world_size, "device": settings.device.type}
    order = {} if rows else {"dataloader_num_workers": settings.dataloader_num_workers}  # workers split a stream
    taken = {
        "data": rows or stream,
        "test": _hash_rows(examples, "test") if "test" in examples else None,
        "tokenizer": hash_tokenizer(tokenizer),
        **hashes,
        "config": {name: value for name, value in config.to_dict().items() if name != "transformers_version"},
        "settings": {**selected, **order, **(further_settings or {})},
    }
    return json.loads(json.dumps(taken, default=str, sort_keys=True))


def compare(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between the fingerprints of a checkpoint and those of a run, in words.

    Settings in only one of the two are from another version and ignored. Raises a [`UserError`] when the checkpoint
    has no fingerprints.
    """
    if not before:
        raise UserError(
            f"{checkpoint} has no fingerprints of its run and cannot be resumed: train from the start with "
            "--overwrite_output_dir instead of --resume"
        )
    changed = [meaning for name, meaning in _NAMES.items() if before.get(name) != now.get(name)]
    for group in ("config", "settings"):
        old, new = before.get(group, {}), now.get(group, {})
        changed += [
            f"{name} (was {_shorten(old[name])}, now {_shorten(new[name])})"
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        ]
    return changed


def check_unchanged(checkpoint: Path, made_from: dict[str, Any], *, anyway: bool) -> None:
    """Refuse to resume from a checkpoint with other fingerprints than `made_from`, those of this run.

    With `anyway` only warn, except about settings in the state of the optimizer.
    """
    changed = compare(checkpoint, read_manifest(checkpoint)["made_from"], made_from)
    if not changed:
        return
    what = f"changed since {checkpoint} was saved: {', '.join(changed)}"
    if held := [name for name in _IN_OPTIMIZER if any(change.startswith(f"{name} (") for change in changed)]:
        raise UserError(
            f"{what}. The saved optimizer keeps its {', '.join(held)}: restore the old value, or start again with "
            "--overwrite_output_dir instead of --resume"
        )
    if not anyway:
        raise UserError(f"{what}. Restore it, or resume all the same with --resume_anyway")
    logger.warning("%s; resuming all the same", what)


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def accelerator_changes(settings: TrainingArguments) -> dict[str, Any]:
    """Return the values in `accelerator_config` that differ from the library's defaults."""
    usual, chosen = AcceleratorConfig().to_dict(), settings.accelerator_config
    return {name: value for name, value in chosen.to_dict().items() if value != usual[name] and name != "non_blocking"}


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a tokenizer's vocabulary and rules, the same in every process."""
    rules = read_rules(tokenizer)
    if rules is None:
        settings = {name: value for name, value in tokenizer.init_kwargs.items() if isinstance(value, bool)}
        rules = {"vocabulary": tokenizer.get_vocab(), "settings": settings}
    sides = {name: getattr(tokenizer, name) for name in ("padding_side", "truncation_side")}
    rules |= {name: side for name, side in sides.items() if side != "right"}  # not part of the rules
    if getattr(tokenizer, "split_special_tokens", False):
        rules["split_special_tokens"] = True
    if "attention_mask" not in tokenizer.model_input_names:
        rules["model_input_names"] = list(tokenizer.model_input_names)
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _hash_rows(examples: Mapping[str, Any], *splits: str) -> str | None:
    """Return a hash of the rows of splits, None when one of them is a stream."""
    digest = hashlib.sha256()
    for split in [split for split in splits if split in examples]:
        rows = examples[split]
        if not isinstance(rows, datasets.Dataset):
            return None
        digest.update(f"{split} {len(rows)}\n".encode())
        columns = [name for name in ("input_ids", "labels") if name in rows.column_names]
        table = rows.select_columns(columns).with_format("arrow")[:]
        for column in table.columns:
            parts = column.chunks
            if pa.types.is_nested(column.type):  # lists
                parts = [*map(pc.list_value_length, column.chunks), *(chunk.flatten() for chunk in column.chunks)]
            for part in parts:
                values = part if pa.types.is_floating(part.type) else part.cast(pa.int64())
                digest.update(values.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()
