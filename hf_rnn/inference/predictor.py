"""`FastRnn`: raw texts → labels and scores with the model's own answers, as fast as a CPU allows.

`fast_tokenizer` makes ids from a text, and `fused` logits from ids. `reference` runs the plain model on an
accelerator, for models that `fused` does not support, and where its table would be too large.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..evaluation.scores import check_finite_logits
from ..hub.loading import find_folder, load_model, load_without_weights
from ..hub.model_folder import FinishedFolder
from ..tasks import check_verb, task_of
from ..utils.errors import UserError
from ..utils.text_checks import list_texts
from .fused import TABLE_DTYPES, FusedBlocks, FusedClassifier, TableDtype, find_unsupported_part, fuse, table_bytes
from .fused.classifier import FEW_TEXTS
from .fused.packing import pack_batches
from .fused.stored import StoredClassifier, read_stored
from .reference import compute_logits
from .text_classifier import TextClassifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOGGER = logging.getLogger(__name__)

MEMORY_LIMIT = 1 << 28  # bytes
_TEXTS_PER_BATCH, _TOKENS_PER_BATCH = 512, 1 << 18
_STATE_BYTES_PER_BATCH = 1 << 24  # where a batch keeps the states of all tokens
_PLAIN_TEXTS, _PLAIN_TOKENS = 256, 8192  # per batch of the plain model, padding included


def load_to_predict(
    name_or_path: str | Path, revision: str | None, device: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a model and its tokenizer as [`load_model`] does, or only the weights of a classifier for its table."""
    if str(device) == "cpu":
        folder = FinishedFolder(find_folder(name_or_path, revision))
        config, tokenizer = load_without_weights(str(name_or_path), folder)
        if (stored := read_stored(folder, config)) is not None:
            return stored, tokenizer
    return load_model(name_or_path, revision, device)


class Tagger:
    """From texts to the answers of a head for each token, such as entities with their places.

    A text is read whole, however long it is.

    Args:
        model: In evaluation mode.
        tokenizer: The fast tokenizer of the model.
        tokens_per_batch: About how many tokens run at once.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens_per_batch: int | None = None
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.config: Any = model.config
        self.task = task_of(self.config)
        self.tokens_per_batch = tokens_per_batch or _PLAIN_TOKENS

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None, device: Any = "cpu") -> Tagger:
        """Load a finished folder, or a repo of the Hub, as [`FastRnn`] does."""
        return cls(*load_model(name_or_path, revision, device))

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return the answer to each text, in the order of the texts.

        Raises:
            UserError: For an invalid list of texts, and for logits that are not finite.
        """
        texts = list_texts(texts)
        if not texts:
            return []
        encoded = self.tokenizer(texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        tokens = self.tokens_per_batch
        logits = compute_logits(self.model, self.tokenizer, encoded["input_ids"], _PLAIN_TEXTS, tokens)
        check_finite_logits(logits.flatten(0, 1))
        return self.task.answers(logits.numpy(), self.config, texts, encoded)

    predict_table = TextClassifier.predict_table


class FastRnn(TextClassifier):
    """A text classifier prepared for inference.

    The input projection of layer 1 is computed once for every vocabulary entry and kept as a table of V * D * G * H
    numbers: vocabulary entries, directions, parts of a cell (1 for a plain RNN, 2 for minGRU, 3 for GRU, 4 for LSTM)
    and hidden units. With the table further training of the model does not change the answers.

    Args:
        model: In evaluation mode.
        tokenizer: The tokenizer of the model; texts are truncated to its `model_max_length`.
        table_dtype: `"float32"` answers as the model does (logits within 1e-5). `"bfloat16"` and `"int8"` take a half
            and a quarter of the memory and round.
        memory_limit: Most bytes of the table. Beyond them the plain model runs, which the log says.
        tokens_per_batch: About how many tokens run at once. None: 512 texts of up to 262,144 tokens, or up to 16 MiB
            of states where a model has several layers or pools by attention.

    Attributes:
        memory (`int`): Bytes of the table; 0 when the plain model runs: beyond the limit, on an accelerator, and for a
            model with hooks, adapters or cells, poolings and modules from outside this package, which the log says.

    Raises:
        UserError: For an unknown `table_dtype`, and for a model of another task.
        ValueError: When the model is in training mode.

    Example:
        >>> classifier = FastRnn.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """

    def __init__(
        self,
        model: PreTrainedModel | StoredClassifier,
        tokenizer: PreTrainedTokenizerBase,
        table_dtype: TableDtype = "float32",
        memory_limit: int = MEMORY_LIMIT,
        tokens_per_batch: int | None = None,
    ) -> None:
        if table_dtype not in TABLE_DTYPES:
            raise UserError(f"table_dtype must be one of {', '.join(TABLE_DTYPES)}, found {table_dtype!r}")
        if model.training:
            raise ValueError("the model is in training mode, where dropout changes its answers: call model.eval()")
        model = getattr(model, "_orig_mod", model)  # under torch.compile
        config: Any = model.config
        check_verb(config, "predict")
        super().__init__(tokenizer, config, tokens_per_batch)
        if self.task.per_token:
            raise UserError(f"FastRnn answers for whole texts: found a model for {self.task.name}; use hf_rnn.Tagger")
        # training the given model must not change answers
        self._model: Any = model if isinstance(model, StoredClassifier) else copy.deepcopy(model)
        self._settings = table_dtype, memory_limit, tokens_per_batch
        self.memory = 0
        self._fused: FusedClassifier | FusedBlocks | None = None
        if model.device.type != "cpu":
            return
        unsupported = None if isinstance(model, StoredClassifier) else find_unsupported_part(model)
        if unsupported:
            _LOGGER.warning("the plain model predicts, without a table: %s", unsupported)
            return
        if (size := table_bytes(config, table_dtype)) > memory_limit:
            sizes = f"{size:,} bytes exceeds the limit of {memory_limit:,} bytes"
            advice = "choose table_dtype bfloat16 or int8, or increase memory_limit in Python"
            _LOGGER.warning("the plain model predicts: a table of %s; %s", sizes, advice)
            return
        fused = fuse(self._model, table_dtype)
        self._fused, self.memory = fused, fused.memory
        most_tokens = _TOKENS_PER_BATCH
        if isinstance(fused, FusedBlocks):
            most_tokens = fused.tokens_per_batch
        elif fused.keeps_states:
            most_tokens = _STATE_BYTES_PER_BATCH // (4 * config.output_size)
        self._batches = (most_tokens, _TEXTS_PER_BATCH) if tokens_per_batch is None else (tokens_per_batch,) * 2

    @property
    def model(self) -> Any:
        """The plain model; a classifier that was loaded for its table loads it here."""
        if isinstance(self._model, StoredClassifier):
            self._model = load_model(self._model.folder)[0]
        return self._model

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.tokenizer, *self._settings)  # the table is computed again

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        table_dtype: TableDtype = "float32",
        memory_limit: int = MEMORY_LIMIT,
        tokens_per_batch: int | None = None,
        device: str | torch.device | None = "cpu",
    ) -> FastRnn:
        """Load a finished folder, or a repo of the Hub; the settings are those of [`FastRnn`].

        Args:
            name_or_path: The folder, or the repo id.
            revision: Branch, tag or commit of a repo.
            table_dtype: Dtype of the table.
            memory_limit: Most bytes of the table.
            tokens_per_batch: About how many tokens run at once.
            device: Device of the model; None is the accelerator, if there is one. Off the CPU the plain model runs.

        Raises:
            UserError: For an incomplete model, named in the message, and for an unknown or missing device.
        """
        model, tokenizer = load_to_predict(name_or_path, revision, device)
        return cls(model, tokenizer, table_dtype, memory_limit, tokens_per_batch)

    def logits(self, input_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """As in [`TextClassifier`]."""
        fused = self._fused
        if fused is None:
            tokens = self.tokens_per_batch or _PLAIN_TOKENS
            with torch.autocast("cpu", enabled=False):
                return compute_logits(self.model, self.tokenizer, input_ids, _PLAIN_TEXTS, tokens)
        if 0 < len(input_ids) <= FEW_TEXTS:
            return torch.from_numpy(np.concatenate([fused.single_logits(ids) for ids in input_ids]))
        return self._batch_logits(input_ids, fused)

    @torch.autocast("cpu", enabled=False)
    @torch.inference_mode()
    def _batch_logits(self, input_ids: Sequence[Sequence[int]], fused: FusedClassifier | FusedBlocks) -> torch.Tensor:
        logits = torch.empty(len(input_ids), self.config.num_labels, dtype=torch.float32, device="cpu")
        for positions, batch in pack_batches(input_ids, *self._batches):
            logits[positions] = fused.logits(batch)
        return logits


def load_predictor(
    name: str,
    revision: str | None = None,
    backend: str = "torch",
    table_dtype: TableDtype = "float32",
    device: str = "cpu",
    tokens_per_batch: int | None = None,
) -> TextClassifier | Tagger:
    """Load a model of any task for prediction, from a finished folder or a repo; options are those of [`FastRnn`].

    `backend` is `torch`, or `onnx` and `onnx_int8` for the files of `hf-rnn export`.
    """
    size = {} if tokens_per_batch is None else {"tokens_per_batch": tokens_per_batch}
    if backend == "torch":
        model, tokenizer = load_to_predict(name, revision, device)
        if task_of(model.config).per_token:
            return Tagger(model, tokenizer, **size)
        return FastRnn(model, tokenizer, table_dtype, **size)
    from .onnx.runtime import OnnxModel

    predictor: Any = OnnxModel.from_pretrained(name, backend == "onnx_int8", revision, **size)
    check_verb(predictor.config, "predict")
    return predictor
