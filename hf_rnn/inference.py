"""A finished folder or a repo id → model and tokenizer → logits, in the order of the texts.

No Trainer and no data sets. What cannot be loaded is refused with one message that names it; a model is loaded whole
or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, DataCollatorWithPadding, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from .configuration_rnn import RnnConfig
from .errors import UserError
from .folder import FinishedFolder
from .modeling_rnn import RnnForSequenceClassification

_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_UNUSABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    StrictDataclassError,
    SafetensorError,
)


def check_name(name: str | Path, what: str) -> None:
    """Refuse a name that is neither a folder here nor could be a repo id, before the network is asked for it.

    Args:
        name: A folder or a repo id of the Hub, `owner/name`.
        what: What it should be, for the message.

    Raises:
        UserError: For a path at which there is no folder.
    """
    path = Path(name)
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"{name} is a file: give the folder of {what}")
    if not _REPO_ID.fullmatch(str(name)) or path.parent.is_dir():
        raise UserError(f"there is no folder {name}: give the folder of {what}, or its id on the Hub")


def load_model(name_or_path: str | Path) -> tuple[RnnForSequenceClassification, PreTrainedTokenizerBase]:
    """Load a classifier and its tokenizer, ready to predict, on the accelerator if there is one.

    Args:
        name_or_path: A finished folder, a checkpoint, or a repo id of the Hub.

    Raises:
        UserError: When it cannot be found or is no whole model of this package; the message says what is missing.
    """
    check_name(name_or_path, "a trained model")
    name = str(name_or_path)
    if Path(name).is_dir():
        FinishedFolder(Path(name)).check()
    try:
        # an explicit False: else transformers asks at the terminal whether to run a repo's code
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if not isinstance(config, RnnConfig):
            raise UserError(
                f"{name} is a {config.model_type!r} model: this command runs {RnnConfig.model_type!r} models"
            )
        # mismatches are reported below, by name and shape, instead of in a log
        model, loading = RnnForSequenceClassification.from_pretrained(
            name, config=config, output_loading_info=True, ignore_mismatched_sizes=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except UserError:
        raise
    except _UNUSABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        found = (
            f"{name} cannot be loaded"
            if Path(name).is_dir()
            else f"there is no folder {name}, nor can it be had from the Hub"
        )
        raise UserError(f"{found}: {reason}") from error
    _check_whole(name, loading)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= config.vocab_size:
        raise UserError(
            f"{name}: the tokenizer has ids up to {largest}, the model a table of {config.vocab_size} rows: "
            "tokenizer.json and model.safetensors do not belong together"
        )
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.to(accelerator or torch.device("cpu")).eval(), tokenizer


def _check_whole(name: str, loading: dict[str, Any]) -> None:
    """Refuse a model that loaded in part."""
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{name} holds no whole model: model.safetensors lacks {', '.join(missing[:3])}")
    if mismatched := sorted(loading["mismatched_keys"]):
        key, stored, expected = mismatched[0]
        raise UserError(
            f"{name}: {key} has shape {tuple(stored)} in model.safetensors and {tuple(expected)} by config.json: "
            "the two do not belong together"
        )
    if errors := loading.get("error_msgs"):
        raise UserError(f"{name} cannot be loaded: {' '.join(str(errors[0]).split())}")


def check_text(text: str) -> None:
    """Refuse a text that is no Unicode, as a terminal hands over bytes that are not UTF-8.

    Raises:
        UserError: When it cannot be encoded.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the text is not UTF-8 at character {error.start}: {text!r:.60}") from error


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts, cut at the tokenizer's `model_max_length`."""
    return tokenizer(list(texts), truncation=True, return_attention_mask=False)["input_ids"] if texts else []


@torch.inference_mode()
def compute_logits(
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[Sequence[int]],
    batch_size: int = 64,
) -> torch.Tensor:
    """Run a model over texts, batched by length.

    Args:
        model: In evaluation mode.
        tokenizer: Pads.
        input_ids: Token ids by text; a text without any is allowed.
        batch_size: Texts run at once.

    Returns:
        Logits `(N, C)` in the order of `input_ids`, in float32 on the CPU.
    """
    logits = torch.zeros(len(input_ids), model.config.num_labels)
    order = sorted(range(len(input_ids)), key=lambda row: len(input_ids[row]))
    collate: Any = DataCollatorWithPadding(tokenizer)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate([{"input_ids": list(input_ids[row])} for row in rows])
        # a batch of empty texts only comes as a tensor of floats
        inputs = {name: batch[name].long().to(model.device) for name in ("input_ids", "attention_mask")}
        logits[rows] = model(**inputs).logits.float().cpu()
    return logits


def compute_scores(model: RnnForSequenceClassification, logits: torch.Tensor) -> torch.Tensor:
    """Turn logits `(N, C)` into scores `(N, C)` as the task has them: softmax, a sigmoid each, or the value itself."""
    problem = model.config.problem_type
    if problem == "regression":
        return logits
    if problem == "multi_label_classification" or model.config.num_labels == 1:
        return logits.sigmoid()
    return logits.softmax(dim=-1)


def quiet() -> None:
    """Keep transformers' loading bars and reports off the terminal; errors are raised, not logged."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
