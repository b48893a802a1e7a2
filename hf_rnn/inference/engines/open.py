"""Open the engine of a stored model, or of one in memory: the fastest that computes it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...hub.model_folder import FinishedFolder, find_folder
from ...utils.errors import explain
from . import DEFAULTS, Engine, InferenceOptions, Source, Unsupported, check_mode
from .native import MISSING
from .stored import copy_weights, fingerprint_folder, open_native

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...data.tokens import Tokenizer

    Open: TypeAlias = Callable[[Source, InferenceOptions], tuple[Engine, Tokenizer]]

_LOGGER = logging.getLogger(__name__)


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
    name = str(name_or_path)
    if options.backend == "onnx":
        from .onnx import find_source, open_onnx

        source = find_source(name, options, is_encoder)
        engines: list[Open] = [open_onnx]
    else:
        folder = FinishedFolder(find_folder(name_or_path, options.revision))
        source = Source(name, folder, is_encoder)
        engines = [open_native, _open_torch] if str(options.device) == "cpu" else [_open_torch]

    reasons = []
    *first, last = engines
    for opens in first:
        try:
            return Opened(*opens(source, options), source.folder)
        except Unsupported as error:
            reasons.append(str(error))
    opened = Opened(*last(source, options), source.folder)  # a UserError names what is damaged
    if not opened.engine.is_plain:  # else the reason was logged
        for reason in reasons:
            _LOGGER.warning("transformers loads the model, which takes seconds: %s", reason)
    return opened


def _open_torch(source: Source, options: InferenceOptions) -> tuple[Engine, Tokenizer]:
    from .torch import load_torch  # torch takes seconds

    model, tokenizer = load_torch(source, options)
    with explain(f"{source.name} cannot be loaded, because of model.safetensors"):
        engine = choose_engine(model, tokenizer, options)
    engine.fingerprint = fingerprint_folder(source.folder)  # weights in memory are float32
    return engine, tokenizer


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
