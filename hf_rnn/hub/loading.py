"""A finished folder or a repo id → model and tokenizer, or one message that names what is wrong with it.

A model is loaded whole or not at all. No Trainer and no data sets.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..models.configuration_rnn import RnnConfig
from ..models.modeling_rnn import RnnForSequenceClassification
from ..utils.errors import UserError, reason_of
from .client import fetch
from .model_folder import FinishedFolder, because_of_damage, read_config

_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def check_name(name: str | Path, what: str) -> None:
    """Refuse a name that is neither a folder here nor could be a repo id, before the network is asked for it.

    Args:
        name: A folder or a repo id of the Hub, `owner/name`.
        what: What it should be, for the message.

    Raises:
        UserError: For an empty name, and for a path at which there is no folder.
    """
    if not str(name):  # a path would take it for the folder one is in
        raise UserError(f"the name is empty: give the folder of {what}, or its id on the Hub")
    path = Path(name)
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"{name} is a file: give the folder of {what}")
    if not _REPO_ID.fullmatch(str(name)) or path.parent.is_dir():
        raise UserError(f"there is no folder {name}: give the folder of {what}, or its id on the Hub")


def find_folder(name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder that a name means: itself, or that of the cache, where it is got from the Hub.

    Args:
        name_or_path: A finished folder, a checkpoint, or a repo id of the Hub. What was got from there once is found
            again without the network.
        revision: Branch, tag or commit, for a repo id; None is `main`.
        token: For a private repo; None takes the one that is stored.

    Raises:
        UserError: When there is no such folder, it cannot be had from the Hub, or is no model of this package.
    """
    name_or_path = os.path.expanduser(name_or_path)
    check_name(name_or_path, "a trained model")
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        if revision is not None:
            raise UserError(f"{name} is a folder here, which has no revision {revision!r}: leave it out")
        FinishedFolder(path).check()
        return path
    found = FinishedFolder(fetch(name, revision, token, only=(FinishedFolder(path).config.name,)))
    if found.config.is_file():  # before weights are got that may be large and of no use
        read_config(name, found.root, RnnConfig.model_type)
    found = FinishedFolder(fetch(name, found.root.name, token))
    if missing := found.missing_to_load():
        raise UserError(f"{name} on the Hub has no {missing[0].name}: it is no model of this package")
    return found.root


def load_model(
    name_or_path: str | Path, revision: str | None = None, device: str | torch.device | None = "cpu"
) -> tuple[RnnForSequenceClassification, PreTrainedTokenizerBase]:
    """Load a classifier and its tokenizer, ready to predict.

    Args:
        name_or_path: A finished folder, a checkpoint, or a repo id of the Hub; see [`find_folder`].
        revision: Branch, tag or commit, for a repo id; None is `main`.
        device: Where the model is to run; None is the accelerator, if there is one.

    Raises:
        UserError: When it cannot be found or is no whole model of this package, the message says what is missing; and
            for a device that is none, or that is not there.
    """
    name, part, wanted = str(name_or_path), "config.json", _find_device(device)
    try:
        folder = find_folder(name_or_path, revision)
        config = read_config(name, folder, RnnConfig.model_type)
        if (folder / "adapter_config.json").is_file():
            raise UserError(
                f"{name} holds an adapter (adapter_config.json), without which its weights are another model's: merge "
                "it with PeftModel.merge_and_unload() and save what that returns, or remove the file"
            )
        if getattr(config, "quantization_config", None) is not None:
            raise UserError(
                f"{name} holds quantised weights (quantization_config in config.json), which only transformers itself "
                "loads: save the model as it was before. FastRnn and export have int8 of their own"
            )
        part = "model.safetensors"
        _check_weights(name, FinishedFolder(folder).weights, config)
        model = RnnForSequenceClassification.from_pretrained(folder, config=config)
        part = "tokenizer.json or tokenizer_config.json"
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        _check_tokenizer(name, tokenizer, config.vocab_size)
        batch = tokenizer(["", "a word"], truncation=True, padding=True, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            logits = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        if not logits.isfinite().all():
            raise UserError(f"{name} cannot be used: its logits are {logits.tolist()}, so weights are NaN or infinite")
    except UserError:
        raise
    except Exception as error:  # files that others wrote make the libraries raise anything, `Exception` itself too
        raise UserError(f"{name} cannot be loaded, because of {part}: {reason_of(error):.1000}") from error
    try:
        return model.to(wanted).eval(), tokenizer
    except (RuntimeError, AssertionError, ImportError) as error:  # it is full, another program's alone, or not there
        raise UserError(
            f"{name} cannot be moved to {wanted}: {reason_of(error):.1000}. The device cpu is always there"
        ) from error


def _find_device(device: str | torch.device | None) -> torch.device:
    """Return the device that is meant, whether it is there or not."""
    if device is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device must be cpu, cuda, cuda:1, mps or another of torch's, found {device!r}") from error
    if found.type == "meta":
        raise UserError("device meta holds no weights: give one that computes, such as cpu")
    return found


def load_without_weights(name: str, folder: FinishedFolder) -> tuple[RnnConfig, PreTrainedTokenizerBase]:
    """Load what a program needs that runs a model without its weights: the configuration and the tokenizer.

    Args:
        name: Of the model, for messages.
        folder: Where its files are.

    Raises:
        UserError: When it is no model of this package, or a file cannot be read.
    """
    try:
        config = read_config(name, folder.root, RnnConfig.model_type)
        tokenizer = AutoTokenizer.from_pretrained(folder.root, trust_remote_code=False)
        _check_tokenizer(name, tokenizer, config.vocab_size)
    except UserError:
        raise
    except Exception as error:  # as in `load_model`
        because = because_of_damage(folder.root)
        raise UserError(f"{name} cannot be loaded{because}: {reason_of(error):.1000}") from error
    return config, tokenizer


def check_sorts(name: str, config: PreTrainedConfig) -> None:
    """Refuse a model that does not give each text exactly one of several labels.

    Raises:
        UserError: For a model of another task.
    """
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        kind = config.problem_type or "regression"
        raise UserError(
            f"{name} gives no text exactly one label: it is a model of {config.num_labels} outputs, {kind}"
        )


def _check_weights(name: str, weights: Path, config: RnnConfig) -> None:
    """Refuse weights that are not those of the configuration, by name and shape, before memory is taken for any."""
    with safe_open(weights, framework="pt") as file:
        stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
    if config.num_hidden_layers > len(stored):  # as many modules would take long, even without memory
        raise UserError(
            f"{name} holds no whole model: model.safetensors has {len(stored)} weights, and config.json "
            f"num_hidden_layers={config.num_hidden_layers}"
        )
    with torch.device("meta"):
        weightless = RnnForSequenceClassification(config)
    expected = {key: tuple(weight.shape) for key, weight in weightless.state_dict().items()}
    if missing := sorted(expected.keys() - stored.keys()):
        raise UserError(f"{name} holds no whole model: model.safetensors lacks {', '.join(missing[:3])}")
    if left := sorted(stored.keys() - expected.keys()):
        raise UserError(
            f"{name}: model.safetensors has {', '.join(left[:3])}, for which config.json has no place: "
            "the two do not belong together"
        )
    for key, shape in sorted(expected.items()):
        if stored[key] != shape:
            raise UserError(
                f"{name}: {key} has shape {stored[key]} in model.safetensors and {shape} by config.json: "
                "the two do not belong together"
            )


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Refuse a tokenizer that is not the model's, or that makes no batches."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= vocab_size:
        raise UserError(
            f"{name}: the tokenizer has ids up to {largest}, the model a table of {vocab_size} rows: "
            "tokenizer.json and model.safetensors do not belong together"
        )
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float) or not longest >= 1:
        raise UserError(
            f"{name}: model_max_length in tokenizer_config.json must be a number of tokens, found {longest!r:.200}"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(f"{name}: tokenizer_config.json names no pad_token that tokenizer.json has")
    if not {"input_ids", "attention_mask"} <= set(tokenizer.model_input_names):
        raise UserError(
            f"{name}: model_input_names in tokenizer_config.json must be input_ids and attention_mask, "
            f"found {tokenizer.model_input_names!r:.200}"
        )


def quiet() -> None:
    """Keep the libraries' loading bars and transformers' reports off the terminal; errors are raised, not logged."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    disable_progress_bars()
