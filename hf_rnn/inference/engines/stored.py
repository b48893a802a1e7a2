"""Read a finished folder without torch and transformers, and make its engine in C; also that of a model in memory.

Whatever is unusual or damaged is left to [`load_model`], which loads it with transformers or names
the damage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from ...hub.model_folder import (
    FAST_TOKENIZERS,
    MODEL_TYPE,
    FinishedFolder,
    check_tokenizer,
    name_damage,
    read_settings,
)
from ...utils.errors import UserError
from ..tokens import TokenizerFile
from . import CLASSIFIER, DEFAULTS, TAGGER, Engine, InferenceOptions
from .native import TABLE, NativeEngine, Unsupported

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...tasks import Config

PROJECTION = "2_Dense/model.safetensors"  # the last layer of a sentence encoder
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
}
_DTYPES |= {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
_OPTIONAL = (
    "architectures",
    "task",
    "problem_type",
    "sep_token_id",
    "label_thresholds",
    "target_scale",
)
# modules named after what they compute
_KNOWN_CODE = ("hf_rnn.models.", "torch.nn.", "transformers.activations")


def open_folder(name: str, files: Sequence[str], revision: str | None = None) -> FinishedFolder:
    """Return a folder, or that of the cache with these files of a repo, which may not have them."""
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir():
        from ...hub.client import fetch  # huggingface_hub is not needed for a folder

        folder = fetch(name, revision, only=files)
    elif revision is not None:
        raise UserError(
            f"{name} is a folder here, which has no revision {revision!r}: leave it out"
        )
    return FinishedFolder(folder)


def load_config(name: str, folder: FinishedFolder) -> SimpleNamespace:
    """Return the settings of `config.json` as attributes, and the labels as transformers has them."""
    settings = read_settings(name, folder.root, MODEL_TYPE)
    with name_damage(name, folder.config.name):
        # transformers leaves out its default
        labels = settings.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        labels = dict(sorted((int(number), label) for number, label in labels.items()))
        ids = {label: number for number, label in labels.items()}
        if list(labels) != list(range(len(labels))) or settings.get("label2id") not in (None, ids):
            raise ValueError("id2label and label2id disagree, or repeat a label")
        if settings.get("streaming") and settings.get("bidirectional", True):
            raise ValueError("streaming does not go with bidirectional=True")
        counted = {"id2label": labels, "label2id": ids, "num_labels": len(labels)}
        return SimpleNamespace(**{**dict.fromkeys(_OPTIONAL), **settings, **counted})


def load_weights(*paths: Path) -> dict[str, np.ndarray]:
    """Return the weights of files by name; uint16 are bfloat16, uint8 are float8, and float64 are float32."""
    from safetensors import deserialize

    weights = {}
    for name, tensor in (tensor for path in paths for tensor in deserialize(path.read_bytes())):
        values = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        with np.errstate(over="ignore"):  # where a number becomes infinite
            weights[name] = values.astype(np.float32) if values.dtype == np.float64 else values
    return weights


def load_sentence_encoder(
    name: str, folder: FinishedFolder, config: Config
) -> dict[str, np.ndarray]:
    """Return the weights of an encoder as those of a classifier, and set its head in `config`."""
    projection = folder.root / PROJECTION
    if not projection.is_file():
        raise UserError(f"{name} has no {PROJECTION}: give an encoder of hf-rnn pretrain")
    with name_damage(name, PROJECTION):
        top = {
            key.replace("linear.", "classifier."): weight
            for key, weight in load_weights(projection).items()
        }
        pooling = json.loads((folder.root / "1_Pooling" / "config.json").read_text("utf-8"))
        # old, new layout
        if not (pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean"):
            raise UserError(
                f"{name} has another pooling than mean: load it with sentence-transformers"
            )
    config.pooling = "mean"
    config.classifier_activation = "linear"
    config.num_labels, config.architectures = len(top["classifier.bias"]), [CLASSIFIER]
    return {
        **{f"rnn.{key}": weight for key, weight in load_weights(*folder.weight_files()).items()},
        **top,
    }


def read_stored(
    name: str,
    folder: FinishedFolder,
    options: InferenceOptions = DEFAULTS,
    is_encoder: bool = False,
) -> tuple[Engine, TokenizerFile] | None:
    """Return the engine in C of a folder and its tokenizer, or None where [`load_model`] is needed."""
    try:
        config, settings = load_config(name, folder), folder.read_tokenizer_config()
        is_plain = (
            not (folder.root / "adapter_config.json").is_file() and folder.tokenizer.is_file()
        )
        if not is_plain or settings.get("tokenizer_class") not in FAST_TOKENIZERS:
            return None
        tokenizer = TokenizerFile(folder)
        special = {
            token
            for key, token in settings.items()
            if key.endswith("_token") and isinstance(token, str)
        }
        if not tokenizer.get_vocab().keys() >= special:  # transformers adds them
            return None
        check_tokenizer(name, tokenizer, config)
        weights = (
            load_sentence_encoder(name, folder, config)
            if is_encoder
            else load_weights(*folder.weight_files())
        )
        return make_native(
            config, weights, options, next(iter(config.architectures or [CLASSIFIER]))
        ), tokenizer
    except Exception:  # damaged files make the libraries raise anything
        return None


def copy_weights(model: PreTrainedModel, options: InferenceOptions = DEFAULTS) -> Engine:
    """Return the engine in C of a model in memory, with copies of its weights.

    Raises [`Unsupported`] for hooks, adapters, and modules from outside this package.
    """
    import torch

    for name, module in model.named_modules():
        place, code = name or "the model", type(module)
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            raise Unsupported(f"{place} has hooks")
        # accelerate keeps the original
        if "forward" in vars(module) and not hasattr(module, "_original_forward"):
            raise Unsupported(f"forward of {place} was replaced")
        if not f"{code.forward.__module__}.".startswith(_KNOWN_CODE):
            raise Unsupported(f"{place} is {code.__module__}.{code.__qualname__}")
    views = {torch.bfloat16: torch.uint16, torch.float8_e4m3fn: torch.uint8}  # NumPy lacks both
    state = model.state_dict().items()
    weights = {
        name: weight.view(views.get(weight.dtype, weight.dtype)).numpy() for name, weight in state
    }
    weights[TABLE] = weights[TABLE].copy()  # the kernel packs copies of the others
    engine = make_native(
        model.config, weights, options, type(model).forward.__qualname__.partition(".")[0]
    )
    engine.model = model
    return engine


def make_native(
    config: Config, weights: Mapping[str, np.ndarray], options: InferenceOptions, head: str
) -> Engine:
    """Return the engine in C of a model; see [`NativeEngine`]."""
    if head == TAGGER and (getattr(config, "crf", False) or getattr(config, "word_forms", 0)):
        from .heads import TaggerEngine

        return TaggerEngine(config, weights, options.precision)
    return NativeEngine(config, weights, options.precision, head)
