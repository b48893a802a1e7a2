"""`FastRnn`: raw texts → labels and scores as fast as a CPU goes, with the model's own answers.

Texts are tokenised in blocks, sorted by length within a block, run nearly without padding in batches of about equal
work, and answered in their order. What makes a batch fast is in `folding/`; on an accelerator, and where the table
of the vocabulary would be too large, the plain model runs instead.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..hub.loading import load_model
from ..models.configuration_rnn import RnnConfig
from ..models.modeling_rnn import RnnForSequenceClassification
from ..utils.errors import UserError
from .fast_tokenizer.fast_tokenization import FastTokenizer
from .fused import (
    MOST_OF_A_FEW,
    TABLE_DTYPES,
    FoldedClassifier,
    TableDtype,
    find_foreign_part,
    table_bytes,
    table_work,
)
from .fused.packing import TokenIds, pack_batches
from .reference import compute_logits, list_texts, scorer_of

_LOGGER = logging.getLogger(__name__)

MEMORY_LIMIT = 1 << 28  # bytes
_WORK_LIMIT = 3e10  # multiplications, which take most of a second on one core; more with more memory than the above
_BLOCK = 8192  # texts tokenised and sorted at a time
_TOKENS_PER_BATCH, _TOKENS_AT_MOST = 8192, 4 * 8192
_ROWS_OF_A_BATCH = 1 << 25  # bytes: rows of a batch in float32, a step of which is then some part of a second cache
_TOKENS_OF_A_TWEET = 20  # by which these were measured: of longer texts as many run at once, up to so many tokens
_MOST_TOKENS, _BYTES_OF_STATES = 1 << 18, 1 << 24  # the latter where a batch keeps states


Function = TypeVar("Function", bound=Callable[..., Any])


def _in_own_precision(function: Function) -> Function:
    """Make a function compute as it is written where the caller's program autocasts."""

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return function(*given, **named)
        with torch.autocast("cpu", enabled=False):
            return function(*given, **named)

    return cast(Function, run)


class FastRnn:
    """A text classifier made ready for inference.

    The first layer's input projection is computed once for every entry of the vocabulary and kept as a table of
    V * D * G * H numbers (`memory` says the bytes): entries of the vocabulary, directions, parts of a cell (1 for a
    plain RNN, 2 for minGRU, 3 for GRU, 4 for LSTM) and hidden units. Training the model further does not come through.

    Args:
        model: In evaluation mode; it is copied.
        tokenizer: The tokenizer that belongs to it; texts are cut at its `model_max_length`.
        table_dtype: `"float32"` answers as the model does (logits within 1e-5); `"bfloat16"` and `"int8"` take a half
            and a quarter of the memory and round, see [`FoldedClassifier`].
        memory_limit: Bytes that the table may take. A larger one is not built, nor one that would take more than
            about a second to compute, if this is not raised; the plain model runs, which the log says, and `memory`
            is 0.
        tokens_per_batch: About how many tokens run at once. None takes 8,192, of narrow models up to four times as
            many, so that the rows of a step take about the same room, a megabyte or two; and of texts longer than
            tweets more, up to 262,144, so that not just a few of them share a step: where only last states are kept,
            and of an LSTM up to 16 MiB of states.

    Attributes:
        memory (`int`): Bytes of the table; 0 when the plain model runs: beyond the limit, on an accelerator, and where
            hooks, adapters or other modules have a part in the answer, which the log says.

    Raises:
        UserError: For an unknown `table_dtype`, one that rounds where there is no table, or numbers that are no sizes.
        ValueError: When the model is in training mode.

    Example:
        >>> classifier = FastRnn.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """

    def __init__(
        self,
        model: RnnForSequenceClassification,
        tokenizer: PreTrainedTokenizerBase,
        table_dtype: TableDtype = "float32",
        memory_limit: int = MEMORY_LIMIT,
        tokens_per_batch: int | None = None,
    ) -> None:
        if table_dtype not in TABLE_DTYPES:
            raise UserError(f"table_dtype must be one of {', '.join(TABLE_DTYPES)}, found {table_dtype!r}")
        if (tokens_per_batch is not None and tokens_per_batch < 1) or memory_limit < 0:
            raise UserError(
                "tokens_per_batch must be at least 1 and memory_limit at least 0, "
                f"found {tokens_per_batch} and {memory_limit}"
            )
        if model.training:
            raise ValueError("the model is in training mode, where dropout changes its answers: call model.eval()")
        model = cast(RnnForSequenceClassification, getattr(model, "_orig_mod", model))  # what torch.compile wraps
        self.model = copy.deepcopy(model)
        self.tokenizer = tokenizer
        self._made_with = table_dtype, memory_limit, tokens_per_batch
        self._encode = FastTokenizer(tokenizer)
        self.tokens_per_batch = tokens_per_batch or _pick_tokens_per_batch(model.config)
        self._long_texts = (1, 0) if tokens_per_batch else _pick_long_texts(model.config, self.tokens_per_batch)
        self._score = scorer_of(model.config)
        self.memory = 0
        self._folded: FoldedClassifier | None = None
        self._labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
        if model.device.type != "cpu":
            if table_dtype != "float32":
                raise UserError(f"table_dtype {table_dtype} is for a CPU, found the model on {model.device}")
            return
        foreign = find_foreign_part(model)
        if foreign is not None:
            if table_dtype != "float32":
                raise UserError(f"table_dtype {table_dtype} is for a model as this package makes it: {foreign}")
            _LOGGER.warning("no table for fast inference, the plain model runs: %s", foreign)
            return
        if obstacle := _find_obstacle(model.config, table_dtype, memory_limit):
            others = [name for name in get_args(TableDtype) if not _find_obstacle(model.config, name, memory_limit)]
            _LOGGER.warning(
                "a table for fast inference %s: the plain model runs; take %sin Python a larger memory_limit",
                obstacle,
                f"the table_dtype {' or '.join(others)}, or " if others else "",
            )
            return
        self._folded = _in_own_precision(FoldedClassifier)(self.model, table_dtype)
        self.memory = self._folded.memory

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.tokenizer, *self._made_with)  # what is folded is folded anew

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
        """Load a finished folder, or a repo of the Hub.

        Args:
            name_or_path: The folder, or the repo id.
            revision: Branch, tag or commit of a repo.
            table_dtype: As of the class; so are the next two.
            memory_limit: Bytes that the table may take.
            tokens_per_batch: As of the class.
            device: Where the model runs. Elsewhere than on a CPU there is no table, the plain model runs: for very
                wide models, and tables beyond the limit. None is the accelerator, if there is one.

        Raises:
            UserError: When there is no whole model, the message says what is missing; and for a device that is none,
                or that is not there.
        """
        model, tokenizer = load_model(name_or_path, revision, device)
        return cls(model, tokenizer, table_dtype, memory_limit, tokens_per_batch)

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return `{"label": ..., "score": ...}` of each text's best class, in the order of the texts.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        scores, labels = self.predict_proba(texts), self._labels
        best = zip(scores.argmax(axis=1).tolist(), scores.max(axis=1).tolist(), strict=True)
        return [{"label": labels[number], "score": score} for number, score in best]

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the scores `(N, C)` in float32, in the order of the texts and of `id2label`.

        They are probabilities: of the classes (softmax), or of each label (a sigmoid each, for multi-label); for
        regression they are the values themselves.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        return self._score(self.text_logits(texts)).numpy()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, equal to those of `tokenizer(texts, truncation=True)`.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        return self._encode(texts)

    @_in_own_precision
    def logits(self, input_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits `(N, C)` in float32 on the CPU, in the order of `input_ids`.

        Args:
            input_ids: Token ids by text, each id a token to read; a text without any is allowed.

        Raises:
            IndexError: For an id that the vocabulary does not have.
        """
        if self._folded is None:
            return compute_logits(self.model, self.tokenizer, input_ids, 256, self.tokens_per_batch)
        if self._folded.are_few(input_ids):
            return torch.from_numpy(np.concatenate([self._folded.logits_of_one(ids) for ids in input_ids]))
        return self._batched_logits(TokenIds.of_lists(input_ids), self._folded)

    @_in_own_precision
    @torch.inference_mode()
    def _batched_logits(self, texts: TokenIds, folded: FoldedClassifier) -> torch.Tensor:
        logits = torch.empty(len(texts.lengths), len(self._labels), dtype=torch.float32, device="cpu")
        for positions, batch in pack_batches(texts, self.tokens_per_batch, *self._long_texts):
            logits[positions] = folded.logits(batch)
        return logits

    def text_logits(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the logits `(N, C)` in float32 on the CPU, in the order of the texts.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        listed = list_texts(texts)
        if len(listed) <= _BLOCK:
            return self._block_logits(listed)
        blocks = (listed[start : start + _BLOCK] for start in range(0, len(listed), _BLOCK))
        return torch.cat([self._block_logits(block) for block in blocks])

    def _block_logits(self, texts: list[str]) -> torch.Tensor:
        if self._folded is None or len(texts) <= MOST_OF_A_FEW:
            return self.logits(self.tokenize(texts))
        return self._batched_logits(self._encode.arrange(texts), self._folded)


def _find_obstacle(config: RnnConfig, table_dtype: TableDtype, memory_limit: int) -> str | None:
    """What a table would pass, in words: its size or the work that it takes; None when it can be built."""
    size, work = table_bytes(config, table_dtype), table_work(config, table_dtype)
    if size > memory_limit:
        return f"of {size:,} bytes passes the limit of {memory_limit:,} bytes"
    if work > (most := _WORK_LIMIT * max(1, memory_limit / MEMORY_LIMIT)):
        return f"of {size:,} bytes takes {work:.1e} multiplications, which passes the limit of {most:.1e}"
    return None


def _pick_tokens_per_batch(config: RnnConfig) -> int:
    """Few steps of many texts cost fewer calls, as long as the rows of a step stay in the cache."""
    row = table_bytes(config) // config.vocab_size
    return min(max(_ROWS_OF_A_BATCH // row, _TOKENS_PER_BATCH), _TOKENS_AT_MOST)


def _pick_long_texts(config: RnnConfig, tokens_per_batch: int) -> tuple[int, int]:
    """How many texts run at once when they are long, and up to how many tokens; 1 and 0 where rows of all are kept."""
    most = _MOST_TOKENS
    if config.num_hidden_layers > 1 or config.pooling == "attention":
        if config.cell_type != "lstm":
            return 1, 0
        most = _BYTES_OF_STATES // (4 * config.output_size)
    return tokens_per_batch // _TOKENS_OF_A_TWEET, most
