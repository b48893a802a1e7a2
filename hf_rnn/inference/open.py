"""Open the engine of a stored model, or of one in memory: the fastest that computes it.

A folder is read without torch and transformers, where the kernel computes its model. Unusual and
damaged folders are left to [`load_model`], which loads them with transformers or names the damage.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from ..data.tokens import TokenizerFile
from ..hub.model_folder import (
    FAST_TOKENIZERS,
    MODEL_TYPE,
    TOKENIZER,
    FinishedFolder,
    check_tokenizer,
    find_folder,
    read_settings,
)
from ..utils.errors import UserError, explain
from .engine import (
    CLASSIFIER,
    DEFAULTS,
    TAGGER,
    Arrays,
    Engine,
    InferenceOptions,
    Source,
    Unsupported,
    check_mode,
    hash_weights,
)
from .native import MISSING, TABLE, NativeEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data.tokens import Tokenizer
    from ..tasks import Config

_LOGGER = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Opened:
    """A model that is ready to predict."""

    engine: Engine
    tokenizer: Tokenizer
    folder: FinishedFolder


def open_engine(
    name_or_path: str | Path, options: InferenceOptions = DEFAULTS, is_encoder: bool = False
) -> Opened:
    """Load a model, from a finished folder or a repo of the Hub, and its tokenizer.

    A sentence encoder is a classifier, whose logits are its vectors before normalisation.

    Raises:
        UserError: For an incomplete or damaged model, and for an unknown or missing device.
    """
    folder = FinishedFolder(find_folder(name_or_path, options.revision))
    source = Source(str(name_or_path), folder, is_encoder)
    reason = None
    if str(options.device) == "cpu":
        try:
            return Opened(*open_native(source, options), folder)
        except Unsupported as error:
            reason = str(error)

    from .torch import load_torch  # torch takes seconds

    model, tokenizer = load_torch(source, options)  # a UserError names what is damaged
    with explain(f"{source.name} cannot be loaded, because of {folder.weights.name}"):
        engine = choose_engine(model, tokenizer, options)
    engine.fingerprint = fingerprint_folder(folder)  # weights in memory are float32
    if reason is not None and not engine.is_plain:  # else the reason was logged
        _LOGGER.warning("transformers loads the model, which takes seconds: %s", reason)
    return Opened(engine, tokenizer, folder)


def choose_engine(
    model: PreTrainedModel, tokenizer: Tokenizer, options: InferenceOptions = DEFAULTS
) -> Engine:
    """Return the engine of a model in memory: in C where the kernel computes it, else torch.

    Later training of the model does not change what the kernel computes.
    """
    model = getattr(model, "_orig_mod", model)  # under torch.compile
    check_mode(model)
    if model.device.type == "cpu" and not model.can_generate():
        try:
            return copy_weights(model, options)
        except Unsupported as error:
            if str(error) != MISSING:
                _LOGGER.warning(
                    "the plain model predicts, as the kernel does not compute this one: %s", error
                )
    from .torch import TorchEngine

    return TorchEngine(model, tokenizer)


# ---- a folder without torch ----


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
        tokenizer = load_tokenizer_file(name, folder)
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


def load_tokenizer_file(name: str, folder: FinishedFolder) -> TokenizerFile:
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
        from .tagger import TaggerEngine

        return TaggerEngine(config, weights, options.precision)
    return NativeEngine(config, weights, options.precision, head)
