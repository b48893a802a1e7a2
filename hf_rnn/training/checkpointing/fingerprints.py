"""What a training run was made from, as a few values: two runs with the same ones take the same steps.

Data and tokenizer as hashes, architecture and settings by name, so that a difference can be told. No files here.
"""

from __future__ import annotations

import hashlib
import json
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

# Where a run happens, what it reports, how it loads: of no effect on the steps it takes.
_WITHOUT_EFFECT = frozenset(
    {
        "baselines", "calibrate", "card_examples", "disable_tqdm", "do_eval", "do_predict",
        "do_train", "enable_jit_checkpoint", "gradient_checkpointing", "gradient_checkpointing_kwargs",
        "include_for_metrics", "language", "length_column_name", "license", "local_rank", "output_dir",
        "overwrite_output_dir", "project", "push_to_hub", "recipe", "report_to", "resume", "resume_anyway",
        "resume_from_checkpoint", "run_name", "save_on_each_node", "save_total_limit", "skip_memory_metrics", "tags",
        "use_cpu",
    }
)  # fmt: skip
_PREFIXES_WITHOUT_EFFECT = ("ddp_", "hub_", "log_", "trackio_")
_LOADERS_WITH_EFFECT = ("dataloader_drop_last",)
# Settings that checkpoints of earlier versions do not know, with the values that these runs had in effect.
_SETTINGS_SINCE = {"tokens_per_batch": None}

_NAMES = {
    "data": "the texts or their labels",
    "test": "the test texts or their labels",
    "tokenizer": "the tokenizer",
    "vectors": "the pretrained vectors",
    "start": "the model that it goes on from",
    "teacher": "the answers of the teacher",
}


def take_fingerprints(
    examples: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    settings: TrainingArguments,
    stream: str | None = None,
    vectors: str | None = None,
    start: str | None = None,
    teacher: str | None = None,
    further_settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what decides the steps of a run, ready for JSON.

    Args:
        examples: Splits with `input_ids` and `labels`. `train` and `validation` decide the steps, `test` the scores.
        tokenizer: Made the ids.
        config: Architecture and labels.
        settings: Of the training.
        stream: Stands for the rows where they are a stream, of which nothing is known otherwise.
        vectors: Stands for the pretrained vectors that the embedding starts from, if it does.
        start: Stands for the trained model that all weights start from, if they do.
        teacher: Stands for what a teacher says of the training rows, if there is one.
        further_settings: Settings of the training that are not among `settings`.
    """
    rows = _hash_rows(examples, "train", "validation")
    order = {} if rows else {"dataloader_num_workers": settings.dataloader_num_workers}  # which share a stream out
    architecture = {name: value for name, value in config.to_dict().items() if name != "transformers_version"}
    taken = {
        "data": rows or stream,
        "test": _hash_rows(examples, "test") if "test" in examples else None,
        "tokenizer": hash_tokenizer(tokenizer),
        "vectors": vectors,
        "start": start,
        "teacher": teacher,
        "config": architecture,
        "settings": {**_settings(settings), **order, **(further_settings or {})},
    }
    return json.loads(json.dumps(taken, default=str, sort_keys=True))


def compare(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between a checkpoint's run and this one, in words, empty when nothing does.

    Args:
        checkpoint: For the message about a checkpoint that knows nothing.
        before: Fingerprints that the checkpoint keeps.
        now: Those of this run. Settings that only one of the two knows are of another version, and not compared, but
            for those whose values in earlier versions are known.

    Raises:
        UserError: When the checkpoint keeps none.
    """
    if not before:
        raise UserError(
            f"{checkpoint} does not say what it was made from: it cannot be gone on from. "
            "--overwrite_output_dir instead of --resume starts anew"
        )
    before = {"test": now.get("test"), **before}  # which checkpoints of earlier versions do not keep
    changed = [meaning for name, meaning in _NAMES.items() if before.get(name) != now.get(name)]
    for group in ("config", "settings"):
        old, new = before.get(group, {}), now.get(group, {})
        if group == "settings" and old:
            old = {**_SETTINGS_SINCE, **old}
        changed += [
            f"{name} (was {_short(old[name])}, now {_short(new[name])})"
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        ]
    return changed


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _settings(settings: TrainingArguments) -> dict[str, Any]:
    matter = {}
    for name, value in settings.to_dict().items():
        loads = name.startswith("dataloader_") and name not in _LOADERS_WITH_EFFECT
        if name not in _WITHOUT_EFFECT and not name.startswith(_PREFIXES_WITHOUT_EFFECT) and not loads:
            matter[name] = value
    matter["accelerator_config"] = accelerator_changes(settings)  # how rows are drawn and shared out
    return {**matter, "processes": settings.world_size, "device": settings.device.type}


def accelerator_changes(settings: TrainingArguments) -> dict[str, Any]:
    """Return what of `accelerator_config` is set, and not left as the library has it."""
    usual, chosen = AcceleratorConfig().to_dict(), settings.accelerator_config
    return {name: value for name, value in chosen.to_dict().items() if value != usual[name] and name != "non_blocking"}


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a tokenizer's vocabulary and rules, the same in every process."""
    rules = read_rules(tokenizer)
    if rules is None:
        settings = {name: value for name, value in tokenizer.init_kwargs.items() if isinstance(value, bool)}
        rules = {"vocabulary": tokenizer.get_vocab(), "settings": settings}
    sides = {name: getattr(tokenizer, name) for name in ("padding_side", "truncation_side")}
    rules |= {name: side for name, side in sides.items() if side != "right"}  # which stands in no file of rules
    if getattr(tokenizer, "split_special_tokens", False):
        rules["split_special_tokens"] = True
    if "attention_mask" not in tokenizer.model_input_names:
        rules["model_input_names"] = list(tokenizer.model_input_names)
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _hash_rows(examples: Mapping[str, Any], *splits: str) -> str | None:
    """Return a hash of the rows of splits, None when one of them is a stream."""
    digest = hashlib.sha256()
    for split in splits:
        rows = examples.get(split)
        if rows is None:
            continue
        if not isinstance(rows, datasets.Dataset):
            return None
        digest.update(f"{split} {len(rows)}\n".encode())
        table = rows.select_columns(["input_ids", "labels"]).with_format("arrow")[:]
        for chunk in table["input_ids"].chunks:
            digest.update(_bytes(pc.list_value_length(chunk)))
        for chunk in table["input_ids"].chunks:
            digest.update(_bytes(chunk.flatten()))
        for chunk in table["labels"].chunks:
            digest.update(_bytes(chunk))
    return digest.hexdigest()


def _bytes(values: pa.Array) -> bytes:
    return values.cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes()
