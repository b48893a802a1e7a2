"""Load model and tokenizer of a finished folder or a repo, or name in one message the part that is damaged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError, reason_of
from ..utils.process import after_import
from .model_folder import (
    TOKENIZER,
    FinishedFolder,
    check_name,
    check_tokenizer,
    find_built_in,
    name_damage,
    read_config,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ..models.configuration_rnn import RnnConfig

MODEL_TYPE = "hf_rnn"
_FAST_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast", "TaggerTokenizer")


def find_folder(name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder of a model: the given one, or that of the cache after a download.

    Args:
        name_or_path: A finished folder, a checkpoint, the name of an encoder of this package (`english` or
            `multilingual`), or a repo id of the Hub. Downloads are found again offline.
        revision: Branch, tag or commit, for a repo id; None is `main`.
        token: For a private repo; None takes the stored one.
    """
    if (built_in := find_built_in(name_or_path)) is not None:
        return built_in
    name_or_path = os.path.expanduser(name_or_path)
    check_name(name_or_path, "a trained model")
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        if revision is not None:
            raise UserError(f"{name} is a folder here, which has no revision {revision!r}: leave it out")
        FinishedFolder(path).check()
        return path
    from .client import fetch

    folder = FinishedFolder(fetch(name, revision, token, only=("config.json",)))
    if folder.config.is_file():  # before a download of weights that may be large and useless
        read_config(name, folder.root, MODEL_TYPE)
    folder = FinishedFolder(fetch(name, folder.root.name, token))
    if missing := folder.missing_to_load():
        raise UserError(f"{name} on the Hub has no {missing[0].name}: it is not a model of this package")
    return folder.root


def load_model(
    name_or_path: str | Path,
    revision: str | None = None,
    device: str | torch.device | None = "cpu",
    *,
    allow_encoder: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in float32 and its tokenizer, ready to predict.

    Args:
        name_or_path: A finished folder, a checkpoint, or a repo id of the Hub; see [`find_folder`].
        revision: Branch, tag or commit, for a repo id; None is `main`.
        device: Device of the model; None is the accelerator, if there is one.
        allow_encoder: Accept an encoder, which has no task.

    Raises:
        UserError: If it cannot be found, a part of it is missing or damaged, or the device is not available.
    """
    import torch

    from ..models.auto import ENCODER, head_name, model_class

    name, target = str(name_or_path), _find_device(device)
    folder = FinishedFolder(find_folder(name_or_path, revision))
    config = read_config(name, folder.root, MODEL_TYPE)
    if (folder.root / "adapter_config.json").is_file():
        raise UserError(
            f"{name} contains an adapter (adapter_config.json), and its weights alone are another model: merge it "
            "with PeftModel.merge_and_unload() and save the result, or remove the file"
        )
    with name_damage(name, "config.json"):
        head = model_class(config)
    if head_name(config) == ENCODER and not allow_encoder:
        raise UserError(f"{name} is an encoder without a task: train it with hf-rnn train --model_name_or_path {name}")
    with name_damage(name, "model.safetensors"):
        folder.weight_files()
        how: dict[str, Any] = {"ignore_mismatched_sizes": True, "output_loading_info": True}  # they are refused below
        model, report = head.from_pretrained(folder.root, config=config, dtype=torch.float32, **how)
    if wrong := sorted(str(key) for kind in ("missing", "unexpected", "mismatched") for key in report[f"{kind}_keys"]):
        raise UserError(f"{name}: model.safetensors and config.json do not belong together: they differ in {wrong[0]}")
    if damaged := [key for key, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise UserError(f"{name} cannot be used: {damaged[0]} in model.safetensors has NaN or infinite weights")
    with name_damage(name, TOKENIZER):
        tokenizer = _load_tokenizer(name, folder, config)
        rows = [{"input_ids": ids} for ids in tokenizer(["", "a word"], truncation=True)["input_ids"]]
        tokenizer.pad(rows)["attention_mask"]
    try:
        return model.eval().to(target), tokenizer
    except (RuntimeError, AssertionError, ImportError) as error:  # missing, full, or reserved by another program
        raise UserError(
            f"{name} cannot be moved to {target}: {reason_of(error):.1000}. The device cpu always exists"
        ) from error


def load_without_weights(name: str, folder: FinishedFolder) -> tuple[RnnConfig, PreTrainedTokenizerBase]:
    """Load configuration and tokenizer, for a program that runs the model from another file."""
    config = read_config(name, folder.root, MODEL_TYPE)
    with name_damage(name, TOKENIZER):
        return config, _load_tokenizer(name, folder, config)


def check_sorts(name: str, config: PreTrainedConfig) -> None:
    """Check that a model assigns exactly one of several labels to a text."""
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        kind = config.problem_type or "regression"
        raise UserError(
            f"{name} does not assign exactly one label to a text: it is a model of {config.num_labels} outputs, {kind}"
        )


def _find_device(device: str | torch.device | None) -> torch.device:
    import torch

    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device must be cpu, cuda, cuda:1, mps or another of torch's, found {device!r}") from error


def _load_tokenizer(name: str, folder: FinishedFolder, config: RnnConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer, and check that the model has a row for each of its ids."""
    kind = folder.read_tokenizer_config().get("tokenizer_class")
    if kind in _FAST_TOKENIZERS:  # without the Auto classes, whose import takes long
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder.root)
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder.root, trust_remote_code=False)
    check_tokenizer(name, tokenizer, config)
    return tokenizer


def quiet() -> None:
    """Hide the libraries' progress bars and reports, from when they are imported; errors are raised, not logged."""

    def quiet_transformers(logging: Any) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def quiet_hub(utils: Any) -> None:
        utils.logging.set_verbosity_error()
        utils.disable_progress_bars()

    after_import("transformers.utils.logging", quiet_transformers)
    after_import("huggingface_hub.utils", quiet_hub)
