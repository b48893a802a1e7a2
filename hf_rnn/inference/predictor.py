"""`FastRnn` and `Tagger`: raw texts → answers, equal to the model's own, as fast as a CPU allows.

`tokens` makes ids from a text, and `native` logits from ids, without an import of torch and transformers. `reference`
runs the plain model on an accelerator, and models that `native` does not compute.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from ..evaluation.scores import check_finite_logits
from ..hub.loading import find_folder, load_model
from ..hub.model_folder import FinishedFolder, name_damage
from ..tasks import check_verb, task_of
from ..tasks.answers import compute_scores
from ..utils.errors import UserError, list_texts
from .native import MISSING, SWITCH, Network, Unsupported
from .stored import StoredModel, read_live, read_stored
from .stream import Engine, TextStream, feed_many, take_fingerprint
from .text_classifier import TextClassifier

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .tokens import TokenizerFile

_LOGGER = logging.getLogger(__name__)

Precision = Literal["float32", "int16", "int8"]
PRECISIONS = ("float32", "int16", "int8")
_PLAIN_TEXTS, _PLAIN_TOKENS = 256, 8192  # per batch of the plain model, padding included
_MANY_TEXTS = 64  # from this number on, a missing kernel costs time that its user notices


def load_to_predict(
    name_or_path: str | Path, revision: str | None, device: Any, precision: str = "float32"
) -> tuple[Any, Any]:
    """Return a model and its tokenizer as [`load_model`] does, or a [`StoredModel`], which needs no torch."""
    if str(device) == "cpu":
        folder = FinishedFolder(find_folder(name_or_path, revision))
        if (stored := read_stored(str(name_or_path), folder, precision)) is not None:
            return stored
    return load_model(name_or_path, revision, device)


@cache
def _warn_of_missing_kernel() -> None:
    _LOGGER.warning(
        "predicting by torch takes two to four times as long as the kernel, which is not built: install a wheel, or a "
        "C compiler and `python -m hf_rnn.inference.native`"
    )


class Runner:
    """The plain model or its network in C, for token ids."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        precision: str = "float32",
        tokens_per_batch: int | None = None,
        threads: int | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}: found {precision!r}")
        self._settings = precision, tokens_per_batch, threads
        self.tokenizer, self.tokens_per_batch, self.threads = tokenizer, tokens_per_batch, threads
        self._network: Network | None = None
        if isinstance(model, StoredModel):
            self._model: Any = model
            self._network = model.network
            return
        if model.training:
            raise ValueError("the model is in training mode, where dropout changes its answers: call model.eval()")
        model = getattr(model, "_orig_mod", model)  # under torch.compile
        self._model = copy.deepcopy(model)  # training the given model must not change answers
        if model.device.type == "cpu":
            try:
                self._network = read_live(model, precision)
            except Unsupported as error:
                if str(error) != MISSING:
                    _LOGGER.warning("the plain model predicts, as the kernel does not compute this one: %s", error)

    @property
    def model(self) -> Any:
        """The plain model; one that was read for the native path loads here."""
        if isinstance(self._model, StoredModel):
            return load_model(self._model.folder.root)[0]
        return self._model

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model, self.tokenizer, *self._settings)

    def logits(self, input_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the logits of texts, or the logits `(N, T, C)` of their tokens; see [`TextClassifier`]."""
        if self._network is not None:
            logits = self._network.run(input_ids, self.threads)
            return self._network.pad(logits, input_ids) if self._network.per_token else logits
        import torch

        from .reference import compute_logits

        if len(input_ids) >= _MANY_TEXTS and self._model.device.type == "cpu" and os.environ.get(SWITCH) != "0":
            _warn_of_missing_kernel()
        with torch.autocast("cpu", enabled=False):
            tokens = self.tokens_per_batch or _PLAIN_TOKENS
            return compute_logits(self._model, self.tokenizer, input_ids, _PLAIN_TEXTS, tokens).numpy()


class Tagger(Runner):
    """From texts to the answers of a head for each token, such as entities with their places.

    A text is read whole, however long it is.

    Args:
        model: In evaluation mode.
        tokenizer: The fast tokenizer of the model.
        precision: As in [`FastRnn`].
        tokens_per_batch: As in [`FastRnn`].
        threads: As in [`FastRnn`].
    """

    def __init__(
        self,
        model: PreTrainedModel | StoredModel,
        tokenizer: PreTrainedTokenizerBase | TokenizerFile,
        precision: Precision = "float32",
        tokens_per_batch: int | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__(model, tokenizer, precision, tokens_per_batch, threads)
        self.config: Any = model.config
        self.task = task_of(self.config)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        device: Any = "cpu",
        precision: Precision = "float32",
    ) -> Self:
        """Load a finished folder, or a repo of the Hub, as [`FastRnn`] does."""
        return cls(*load_to_predict(name_or_path, revision, device, precision), precision)

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return the answer to each text, in the order of the texts.

        Raises:
            UserError: For an invalid list of texts, and for logits that are not finite.
        """
        texts = list_texts(texts)
        if not texts:
            return []
        options: Any = {"return_offsets_mapping": True, "return_attention_mask": False, "verbose": False}
        with name_damage(self.tokenizer.name_or_path, "tokenizer.json"):
            encoded: Any = self.tokenizer(texts, **options)
        logits = self.logits(encoded["input_ids"])
        check_finite_logits(logits.reshape(-1, logits.shape[-1]))
        return self.task.answers(logits, self.config, texts, encoded)

    predict_table = TextClassifier.predict_table


class FastRnn(Runner, TextClassifier):
    """A text classifier prepared for inference on a CPU.

    Blocks and layers of every cell run in C, without torch. The plain model predicts where that is not possible: on an
    accelerator, without the compiled kernel, and for a model with hooks, adapters or modules from outside this
    package, which the log says. Later training of the given model does not change the answers.

    Args:
        model: In evaluation mode.
        tokenizer: The tokenizer of the model; texts are truncated to its `model_max_length`.
        precision: `"float32"` answers as the model does (logits within 1e-5). `"int16"` computes the products of
            matrices in 16 bits, which is faster: logits within 3e-3.
        tokens_per_batch: About how many tokens the plain model reads at once.
        threads: Threads for many texts, which do not change the answers; None is `OMP_NUM_THREADS`, or all processors.

    Raises:
        UserError: For an unknown `precision`, and for a model of another task.
        ValueError: When the model is in training mode.

    Example:
        >>> classifier = FastRnn.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """

    def __init__(
        self,
        model: PreTrainedModel | StoredModel,
        tokenizer: PreTrainedTokenizerBase | TokenizerFile,
        precision: Precision = "float32",
        tokens_per_batch: int | None = None,
        threads: int | None = None,
    ) -> None:
        check_verb(getattr(model, "_orig_mod", model).config, "predict")
        TextClassifier.__init__(self, tokenizer, getattr(model, "_orig_mod", model).config, tokens_per_batch)
        if self.task.per_token:
            raise UserError(f"FastRnn answers for whole texts: found a model for {self.task.name}; use hf_rnn.Tagger")
        Runner.__init__(self, model, tokenizer, precision, tokens_per_batch, threads)

    def stream(self, state: bytes | None = None) -> TextStream:
        """Return a stream that reads a text piece by piece and answers after each; see [`TextStream`].

        Args:
            state: From `TextStream.save`, to continue its text.

        Raises:
            UserError: For a model that was not trained with `streaming`, and for the state of another model.
        """
        if not getattr(self.config, "streaming", False):
            raise UserError("the model does not stream: train one with `hf-rnn train DATA OUT --streaming`")
        stream = TextStream(self)
        if state is not None:
            stream.restore(state)
        return stream

    feed_many = staticmethod(feed_many)

    @cached_property
    def engine(self) -> Engine:
        """The network that reads the tokens of a stream."""
        if self._network is not None:
            return self._network
        from .reference import TorchEngine

        return TorchEngine(self._model)

    @cached_property
    def fingerprint(self) -> str:
        """The hash that binds the state of a stream to this model."""
        if isinstance(self._model, StoredModel):
            weight, bias = self._model.network.read_classifier()
        else:
            layer = self._model.classifier
            weight, bias = (part.detach().float().cpu().numpy() for part in (layer.weight, layer.bias))
        return take_fingerprint(self.config, weight, bias)

    def answer_logits(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """Return the answers of logits `(N, C)`."""
        return self.task.answers(compute_scores(logits, self.config), self.config)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        precision: Precision = "float32",
        tokens_per_batch: int | None = None,
        device: str | torch.device | None = "cpu",
        threads: int | None = None,
    ) -> Self:
        """Load a finished folder, or a repo of the Hub; the settings are those of [`FastRnn`].

        Args:
            name_or_path: The folder, or the repo id.
            revision: Branch, tag or commit of a repo.
            precision: That of the products.
            tokens_per_batch: About how many tokens the plain model reads at once.
            device: Device of the model; None is the accelerator, if there is one. Off the CPU the plain model runs.
            threads: Threads for many texts.

        Raises:
            UserError: For an incomplete model, named in the message, and for an unknown or missing device.
        """
        model, tokenizer = load_to_predict(name_or_path, revision, device, precision)
        return cls(model, tokenizer, precision, tokens_per_batch, threads)


def load_predictor(
    name: str,
    revision: str | None = None,
    backend: str = "torch",
    precision: Precision = "float32",
    device: str = "cpu",
    tokens_per_batch: int | None = None,
    threads: int | None = None,
) -> TextClassifier | Tagger:
    """Load a model of any task for prediction, from a finished folder or a repo; options are those of [`FastRnn`].

    `backend` is `torch`, or `onnx` and `onnx_int8` for the files of `hf-rnn export`.
    """
    if backend == "torch":
        model, tokenizer = load_to_predict(name, revision, device, precision)
        kind: Any = Tagger if task_of(model.config).per_token else FastRnn
        return kind(model, tokenizer, precision, tokens_per_batch, threads)
    from .onnx.runtime import OnnxModel

    size = {} if tokens_per_batch is None else {"tokens_per_batch": tokens_per_batch}
    predictor: Any = OnnxModel.from_pretrained(name, backend == "onnx_int8", revision, **size)
    check_verb(predictor.config, "predict")
    return predictor
