"""Engines: token ids → logits. `NativeEngine` computes in C, `torch` by the plain model, `onnx` in ONNX Runtime.

An engine knows neither texts nor labels: `Predictor` prepares texts and forms answers, the same for all of them. The
engine in C reads a finished folder without torch, or a model in memory. Whatever is unusual or damaged is left to
[`load_model`], which loads it with transformers or names the damage.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ...hub.model_folder import TOKENIZER, FinishedFolder, check_tokenizer, name_damage, read_settings
from ...utils.errors import UserError
from ..native.network import CLASSIFIER, LANGUAGE, TAGGER, Network, Unsupported
from ..tokens import TokenizerFile

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ...tasks import Config

PROJECTION = "2_Dense/model.safetensors"  # the last layer of a sentence encoder
Precision = Literal["float32", "int16", "int8"]

_MODEL_TYPE = "hf_rnn"
_FAST_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast", "TaggerTokenizer")
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F8_E4M3": np.uint8}
_DTYPES |= {"I8": np.int8, "I32": np.int32, "I64": np.int64}
_OPTIONAL = ("architectures", "task", "problem_type", "sep_token_id", "label_thresholds", "target_scale")
_KNOWN_CODE = ("hf_rnn.models.", "torch.nn.", "transformers.activations")  # modules that compute what they are named


@dataclass(frozen=True)
class InferenceOptions:
    """The choices of a user about loading and computing; [`FastRnn`] explains each."""

    revision: str | None = None
    backend: str = "torch"  # or `onnx` and `onnx_int8`, for the files of `hf-rnn export`
    precision: Precision = "float32"
    device: str | torch.device | None = "cpu"
    tokens_per_batch: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise UserError(f"precision must be one of {', '.join(get_args(Precision))}: found {self.precision!r}")


DEFAULTS = InferenceOptions()


class Engine(ABC):
    """Compute the logits of a model from token ids."""

    config: Config

    @abstractmethod
    def run(self, input_ids: Sequence[Sequence[int]], options: InferenceOptions) -> np.ndarray:
        """Return the logits `(N, C)` of texts in float32; of a tagger those of tokens, `(N, T, C)`, zero after a text.

        Raises:
            IndexError: For an id outside the vocabulary.
        """

    def advance(self, input_ids: Sequence[Sequence[int]], states: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits `(N, C)` of a streaming model after further tokens of texts, and the states `(N, K)`.

        `states` are those before these tokens, None at the start.
        """
        raise NotImplementedError

    def read_classifier(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and biases of the last layer in float32."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """The hash of labels and last layer, which binds the state of a stream to its model."""
        digest = hashlib.sha256(json.dumps([self.config.vocab_size, list(self.config.id2label.values())]).encode())
        for values in self.read_classifier():
            digest.update(np.ascontiguousarray(values, "<f4").tobytes())
        return digest.hexdigest()[:16]


def batch_by_length(
    input_ids: Sequence[Sequence[int]], tokens_per_batch: int, texts_per_batch: int | None = None
) -> Iterator[list[int]]:
    """Yield batches of row numbers, shortest rows first; a row longer than `tokens_per_batch` is alone."""
    batch: list[int] = []
    for row in sorted(range(len(input_ids)), key=lambda row: len(input_ids[row])):
        full = (len(batch) + 1) * len(input_ids[row]) > tokens_per_batch or len(batch) == texts_per_batch
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


# ---- the engine in C ----


@dataclass
class NativeEngine(Engine):
    """The network of a model in C."""

    config: Config
    network: Network
    folder: FinishedFolder | None = None  # the source that was read without torch
    model: PreTrainedModel | None = None  # the source in memory

    def run(self, input_ids: Sequence[Sequence[int]], options: InferenceOptions) -> np.ndarray:
        """As in [`Engine`]; `threads` of the options does not change the logits."""
        logits = self.network.run(input_ids, options.threads)
        return self.network.pad(logits, input_ids) if self.network.per_token else logits

    def advance(self, input_ids: Sequence[Sequence[int]], states: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """As in [`Engine`]."""
        return self.network.advance(input_ids, states)

    def read_classifier(self) -> tuple[np.ndarray, np.ndarray]:
        """As in [`Engine`]."""
        return self.network.read_classifier()


def read_config_alone(name: str, folder: FinishedFolder) -> SimpleNamespace:
    """Return the settings of `config.json` as attributes, and the labels as transformers has them."""
    settings = read_settings(name, folder.root, _MODEL_TYPE)
    with name_damage(name, folder.config.name):
        labels = settings.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers leaves out its default
        labels = dict(sorted((int(number), label) for number, label in labels.items()))
        ids = {label: number for number, label in labels.items()}
        if list(labels) != list(range(len(labels))) or settings.get("label2id") not in (None, ids):
            raise ValueError("id2label and label2id disagree, or repeat a label")
        known = {"id2label": labels, "label2id": ids, "num_labels": len(labels)}
        return SimpleNamespace(**{**dict.fromkeys(_OPTIONAL), **settings, **known})


def read_tokenizer_alone(name: str, folder: FinishedFolder, config: Config) -> TokenizerFile | None:
    """Return the tokenizer of a folder, checked as [`load_model`] does; None for a kind that needs transformers."""
    settings = folder.read_tokenizer_config()
    if settings.get("tokenizer_class") not in _FAST_TOKENIZERS or not folder.tokenizer.is_file():
        return None
    with name_damage(name, TOKENIZER):
        tokenizer = TokenizerFile(folder)
        vocabulary = tokenizer.get_vocab()
        special = [settings[key] for key in settings if key.endswith("_token") and isinstance(settings[key], str)]
        if not vocabulary.keys() >= set(special):  # transformers adds them
            return None
    check_tokenizer(name, tokenizer, config)
    return tokenizer


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Return the weights of a file by name; uint16 are bfloat16, uint8 are float8, and float64 are float32."""
    from safetensors import deserialize

    weights = {}
    for name, tensor in deserialize(path.read_bytes()):
        weights[name] = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    with np.errstate(over="ignore"):  # where a number becomes infinite
        return {name: x.astype(np.float32) if x.dtype == np.float64 else x for name, x in weights.items()}


def read_weights(folder: FinishedFolder) -> dict[str, np.ndarray]:
    """Return the weights of a model by name."""
    return {name: weight for path in folder.weight_files() for name, weight in read_file(path).items()}


def read_sentence_encoder(name: str, folder: FinishedFolder, config: Config) -> dict[str, np.ndarray]:
    """Return the weights of an encoder as those of a classifier, and set its head in `config`."""
    projection = folder.root / PROJECTION
    if not projection.is_file():
        raise UserError(f"{name} has no {PROJECTION}: give an encoder of hf-rnn pretrain")
    with name_damage(name, PROJECTION):
        top = {key.replace("linear.", "classifier."): weight for key, weight in read_file(projection).items()}
        pooling = json.loads((folder.root / "1_Pooling" / "config.json").read_text("utf-8"))
        if not (pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean"):  # old, new layout
            raise UserError(f"{name} has another pooling than mean: load it with sentence-transformers")
    config.pooling, config.classifier_activation, config.token_ngrams = "mean", "linear", 0
    config.num_labels, config.architectures = len(top["classifier.bias"]), [CLASSIFIER]
    return {**{f"rnn.{key}": weight for key, weight in read_weights(folder).items()}, **top}


def read_stored(
    name: str, folder: FinishedFolder, options: InferenceOptions = DEFAULTS, is_encoder: bool = False
) -> tuple[NativeEngine, TokenizerFile] | None:
    """Return the engine of a folder and its tokenizer, or None where [`load_model`] is needed."""
    if (folder.root / "adapter_config.json").is_file():
        return None
    try:
        config = read_config_alone(name, folder)
        weights = read_sentence_encoder(name, folder, config) if is_encoder else read_weights(folder)
        network = make_network(config, weights, options, next(iter(config.architectures or [CLASSIFIER])))
        tokenizer = read_tokenizer_alone(name, folder, config)
    except Exception:  # damaged files make the libraries raise anything
        return None
    return None if tokenizer is None else (NativeEngine(config, network, folder), tokenizer)


def make_network(config: Config, weights: Mapping[str, np.ndarray], options: InferenceOptions, head: str) -> Any:
    """Return the network of a model; see [`Network`]."""
    kind: Any = Network
    if head == LANGUAGE:
        from ..native.heads import LanguageNetwork as kind
    elif head == TAGGER and (getattr(config, "crf", False) or getattr(config, "word_forms", 0)):
        from ..native.heads import TaggerNetwork as kind
    return kind(config, weights, options.precision, head)


def read_live(model: PreTrainedModel, options: InferenceOptions = DEFAULTS) -> Any:
    """Return the network of a model of torch, with copies of its weights.

    Raises:
        Unsupported: For a model with hooks, adapters, or modules from outside this package.
    """
    for name, module in model.named_modules():
        place, kind = name or "the model", type(module)
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            raise Unsupported(f"{place} has hooks")
        if "forward" in vars(module) and not hasattr(module, "_original_forward"):  # accelerate keeps the original
            raise Unsupported(f"forward of {place} was replaced")
        if not f"{kind.forward.__module__}.".startswith(_KNOWN_CODE):
            raise Unsupported(f"{place} is {kind.__module__}.{kind.__qualname__}")
    weights = {}
    for name, weight in model.state_dict().items():
        weights[name] = (weight.float() if weight.is_floating_point() else weight).detach().cpu().numpy().copy()
    return make_network(model.config, weights, options, type(model).forward.__qualname__.partition(".")[0])
