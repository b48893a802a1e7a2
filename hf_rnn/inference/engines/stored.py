"""Read a finished folder without torch and transformers, and make its engine in C.

[`load_model`] handles unusual and damaged folders: it loads them with transformers, or names the
damage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from ...data.tokens import TokenizerFile
from ...hub.model_folder import (
    FAST_TOKENIZERS,
    MODEL_TYPE,
    TOKENIZER,
    FinishedFolder,
    check_tokenizer,
    read_settings,
)
from ...utils.errors import UserError, explain
from . import (
    CLASSIFIER,
    DEFAULTS,
    TAGGER,
    Arrays,
    Engine,
    InferenceOptions,
    Source,
    Unsupported,
    hash_weights,
)
from .native import TABLE, NativeEngine

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
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
}
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


def absolute_name(name: str | Path) -> str:
    """Return the path of a folder from the root; the id of a repo stays as it is."""
    name = os.path.expanduser(name)
    return os.path.abspath(name) if os.path.isdir(name) else name


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
    """Return the settings of `config.json` as attributes, with labels as in transformers."""
    settings = read_settings(name, folder.root, MODEL_TYPE)
    with explain(f"{name} cannot be loaded, because of {folder.config.name}"):
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
    """Return the weights of files by name; uint16 are bfloat16, uint8 are float8.

    float64 becomes float32. A file has the length of its header in 8 bytes, a header in JSON, and
    numbers (https://github.com/safetensors/safetensors#format). ONNX Runtime alone has no library
    for it.
    """
    weights = {}
    for path in paths:
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            first, last = tensor["data_offsets"]
            numbers = content[start + first : start + last]
            values = np.frombuffer(numbers, _DTYPES[tensor["dtype"]])
            if values.dtype == np.float64:
                with np.errstate(over="ignore"):  # where a number becomes infinite
                    values = values.astype(np.float32)
            weights[name] = values.reshape(tensor["shape"])
    return weights


def fingerprint_folder(folder: FinishedFolder) -> str:
    """Return the fingerprint of the weights in a folder; see [`Engine`]."""
    with explain(f"{folder.root} cannot be loaded, because of model.safetensors"):
        return hash_weights(load_weights(*folder.weight_files()))


def load_sentence_encoder(
    name: str, folder: FinishedFolder, config: Config
) -> dict[str, np.ndarray]:
    """Return the weights of an encoder as those of a classifier, and set its head in `config`."""
    projection = folder.root / PROJECTION
    if not projection.is_file():
        raise UserError(f"{name} has no {PROJECTION}: give an encoder of hf-rnn pretrain")
    with explain(f"{name} cannot be loaded, because of {PROJECTION}"):
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
    config.num_labels = len(top["classifier.bias"])
    config.architectures = [CLASSIFIER]
    stored = load_weights(*folder.weight_files())
    return {f"rnn.{key}": weight for key, weight in stored.items()} | top


def open_native(
    source: Source, options: InferenceOptions = DEFAULTS
) -> tuple[Engine, TokenizerFile]:
    """Return the engine in C of a folder, and its tokenizer, or raise [`Unsupported`]."""
    name = source.name
    folder = source.folder
    try:
        config = load_config(name, folder)
        tokenizer = _load_tokenizer(name, folder)
        check_tokenizer(name, tokenizer, config)
        with explain(f"{name} cannot be loaded, because of model.safetensors"):
            if source.is_encoder:
                weights = load_sentence_encoder(name, folder, config)
            else:
                weights = load_weights(*folder.weight_files())
        head = next(iter(config.architectures or [CLASSIFIER]))
        return make_native(config, weights, options, head), tokenizer
    except (UserError, ValueError) as error:
        raise Unsupported(str(error)) from error
    except (AttributeError, TypeError) as error:  # a setting that is missing or of another type
        raise Unsupported(f"config.json: {error}") from error


def _load_tokenizer(name: str, folder: FinishedFolder) -> TokenizerFile:
    """Return the tokenizer of a folder; raise [`Unsupported`] where transformers changes it."""
    with explain(f"{name} cannot be loaded, because of {TOKENIZER}"):
        settings = folder.read_tokenizer_config()
    if (folder.root / "adapter_config.json").is_file():
        raise Unsupported("the folder has an adapter")
    kind = settings.get("tokenizer_class")
    if kind not in FAST_TOKENIZERS or not folder.tokenizer.is_file():
        raise Unsupported(f"the tokenizer is a {kind}, or has no tokenizer.json")
    with explain(f"{name} cannot be loaded, because of {TOKENIZER}"):
        tokenizer = TokenizerFile(folder)
        vocabulary = tokenizer.get_vocab()
    for key, token in settings.items():
        if key.endswith("_token") and isinstance(token, str) and token not in vocabulary:
            raise Unsupported(f"{key} {token!r} is not in tokenizer.json")
    return tokenizer


def copy_weights(model: PreTrainedModel, options: InferenceOptions = DEFAULTS) -> Engine:
    """Return the engine in C of a model in memory, with copies of its weights.

    Raises [`Unsupported`] for hooks, adapters, and modules from outside this package.
    """
    for name, module in model.named_modules():
        place = name or "the model"
        code = type(module)
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            raise Unsupported(f"{place} has hooks")
        # accelerate keeps the original
        if "forward" in vars(module) and not hasattr(module, "_original_forward"):
            raise Unsupported(f"forward of {place} was replaced")
        if not f"{code.forward.__module__}.".startswith(_KNOWN_CODE):
            raise Unsupported(f"{place} is {code.__module__}.{code.__qualname__}")
    weights = read_memory(model)
    weights[TABLE] = weights[TABLE].copy()  # the kernel packs copies of the others
    head = type(model).forward.__qualname__.partition(".")[0]
    engine = make_native(model.config, weights, options, head)
    engine.model = model
    return engine


def read_memory(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Return the weights of a model in memory by name; they share its memory on a CPU."""
    import torch

    views = {torch.bfloat16: torch.uint16, torch.float8_e4m3fn: torch.uint8}  # NumPy lacks both
    return {
        name: weight.view(views.get(weight.dtype, weight.dtype)).cpu().numpy()
        for name, weight in model.state_dict().items()
    }


def make_native(config: Config, weights: Arrays, options: InferenceOptions, head: str) -> Engine:
    """Return the engine in C of a model; see [`NativeEngine`]."""
    if head == TAGGER and (getattr(config, "crf", False) or getattr(config, "word_forms", 0)):
        from .heads import TaggerEngine

        return TaggerEngine(config, weights, options.precision)
    return NativeEngine(config, weights, options.precision, head)
