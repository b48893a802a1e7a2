"""`BatchPredictor`: a dictionary of columns in, the same columns with answers out, for engines of many processes.

`cluster.md` has examples for Ray, `datasets`, Spark and Dask.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import torch

from ..data.row_errors import EXCERPT_CHARACTERS
from ..tasks import task_of
from ..utils.errors import UserError
from ..utils.text_checks import find_surrogate
from .fused import TableDtype
from .predictor import FastRnn, Tagger, TextClassifier, load_to_predict

ERROR = "error"  # the column of reasons
_IMPORTING_PROCESS = os.getpid()
_LOADING = threading.Lock()


def load_predictor(
    name: str,
    revision: str | None = None,
    backend: str = "torch",
    table_dtype: str = "float32",
    device: str = "cpu",
    tokens_per_batch: int | None = None,
) -> TextClassifier | Tagger:
    """Load a model of any task for prediction.

    Args:
        name: A finished folder, or the id of a repo.
        revision: Branch, tag or commit of a repo.
        backend: `torch`, or `onnx` and `onnx_int8` for the files of `hf-rnn export`.
        table_dtype: As in [`FastRnn`].
        device: Device of torch.
        tokens_per_batch: As in [`FastRnn`].
    """
    size = {} if tokens_per_batch is None else {"tokens_per_batch": tokens_per_batch}
    if backend == "torch":
        model, tokenizer = load_to_predict(name, revision, device)
        if task_of(model.config).per_token:
            return Tagger(model, tokenizer, **size)
        return FastRnn(model, tokenizer, cast(TableDtype, table_dtype), **size)
    from .onnx.runtime import OnnxClassifier

    return OnnxClassifier.from_pretrained(name, backend == "onnx_int8", revision, **size)


@lru_cache(maxsize=4)
def _load_once(version: str, *settings: Any) -> TextClassifier | Tagger:
    return load_predictor(*settings)


def find_broken_number(answer: Mapping[str, Any]) -> float | None:
    """Return a number of an answer that is NaN or infinite, or None."""
    for part in answer.values():
        if isinstance(part, float):
            if not math.isfinite(part):
                return part
        elif isinstance(part, dict) and (found := find_broken_number(part)) is not None:
            return found
    return None


@dataclass
class BatchPredictor:
    """Answer the texts of a batch, given as a dictionary of columns.

    The result has the columns of the batch, those of the answers (`label` and `score`; `labels` and `scores` of
    multi-label; `values` of regression; `entities` of a tagger), and `error`, which is empty for an answered text. A
    text that cannot be answered (null, not a text, not Unicode, a score that is not finite) has the reason there, and
    None as its answer. No row is removed or moved.

    It is pickled without the model; a process loads the model at the first batch, and once for all its tasks. A
    forked process uses one thread.

    Args:
        model: A finished folder that all machines see, or the id of a repo.
        text_column: The column of the texts.
        text_pair_column: The column of the second texts, for a model of text pairs.
        prefix: Begins the names of the columns of answers and errors.
        revision: Branch, tag or commit of a repo.
        backend: `torch`, or `onnx` and `onnx_int8` for the files of `hf-rnn export`.
        table_dtype: As in [`FastRnn`].
        device: Device of torch.
        tokens_per_batch: As in [`FastRnn`].

    Raises:
        UserError: From a call, for a missing column, for one that an answer would replace, and for a model that
            cannot be loaded.

    Example:
        >>> predictor = BatchPredictor("out/tweets")
        >>> predictor({"text": ["best concert of my life!", None]})
        {'text': ['best concert of my life!', None], 'label': ['positive', None], 'score': [0.9, None],
         'error': ['', 'null']}
    """

    model: str | Path
    text_column: str = "text"
    text_pair_column: str | None = None
    prefix: str = ""
    revision: str | None = None
    backend: str = "torch"
    table_dtype: str = "float32"
    device: str = "cpu"
    tokens_per_batch: int | None = None
    _version: str = field(init=False, repr=False, default="")  # a local model can be trained again

    def __post_init__(self) -> None:
        self.model = os.path.expanduser(self.model)
        if os.path.isdir(self.model):
            self.model = os.path.abspath(self.model)  # workers run in other folders
            kinds = ("*.json", "*.safetensors", "onnx/*.onnx")
            files = [path for kind in kinds for path in sorted(Path(self.model).glob(kind))]
            self._version = str([(path.name, path.stat().st_mtime_ns) for path in files])

    def load(self) -> TextClassifier | Tagger:
        """Return the model of this process; the first call loads it."""
        if os.getpid() != _IMPORTING_PROCESS and torch.get_num_threads() > 1:
            torch.set_num_threads(1)  # engines run a process per core, and OpenMP can hang after a fork
        settings = (self.revision, self.backend, self.table_dtype, self.device, self.tokens_per_batch)
        with _LOADING:
            return _load_once(self._version, self.model, *settings)

    @property
    def schema(self) -> pa.Schema:
        """Types of the columns that a call adds, as a schema of Arrow."""
        model: Any = self.load()
        types = {**model.task.answer_types(model.config), ERROR: pa.string()}
        return pa.schema([(self.prefix + name, kind) for name, kind in types.items()])

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Return the columns of a batch and those of the answers; columns are lists, or arrays of NumPy or Arrow."""
        self.check_columns(batch)
        texts = _as_list(batch[self.text_column])
        pairs = None if self.text_pair_column is None else _as_list(batch[self.text_pair_column])
        return {**batch, **self.answer(texts, pairs)}

    def check_columns(self, names: Any) -> None:
        """Raise a [`UserError`] if a column of texts is missing, or a column has the name of an answer."""
        for wanted in (self.text_column, self.text_pair_column):
            if wanted is not None and wanted not in names:
                raise UserError(f"there is no column {wanted!r}: found {', '.join(map(str, names))}; give text_column")
        if taken := [name for name in self.schema.names if name in names]:
            raise UserError(f"the texts have columns with the names of answers: found {', '.join(taken)}; give prefix")

    def answer(self, texts: Sequence[Any], pairs: Sequence[Any] | None = None) -> dict[str, list[Any]]:
        """Return the columns of answers and errors for a list of texts, and of second texts for a model of pairs."""
        model = self.load()
        if (model.config.sep_token_id is not None) != (pairs is not None):
            raise UserError(
                "the model is for text pairs: give text_pair_column"
                if pairs is None
                else "text_pair_column is for models of text pairs: leave it out"
            )
        errors = [find_text_error(text) for text in texts]
        if pairs is not None:
            errors = [error or find_text_error(text) for error, text in zip(errors, pairs, strict=True)]
            texts = list(zip(texts, pairs, strict=True))
        answers = model.predict([text for text, error in zip(texts, errors, strict=True) if not error])
        if len(answers) < len(errors):
            remaining = iter(answers)
            answers = [{} if error else next(remaining) for error in errors]
        for place, found in enumerate(answers):
            if (number := find_broken_number(found)) is not None:
                answers[place] = {}
                errors[place] = f"score not finite: the model gives {number}; did its training diverge?"
        names = model.task.answer_types(model.config)
        columns = {self.prefix + name: [found.get(name) for found in answers] for name in names}
        return {**columns, self.prefix + ERROR: errors}


def find_text_error(text: Any) -> str:
    """Return why something cannot be answered, or an empty string for a text."""
    if isinstance(text, str):
        if text.isascii() or find_surrogate(text) is None:
            return ""
        return f"not Unicode: found {text!r:.{EXCERPT_CHARACTERS}}"
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return "null"
    return f"not a text: found {type(text).__name__} {text!r:.{EXCERPT_CHARACTERS}}"


def _as_list(column: Any) -> list[Any]:
    for name in ("to_pylist", "tolist"):  # Arrow has the first, NumPy and pandas the second
        if hasattr(column, name):
            return getattr(column, name)()
    return list(column)
