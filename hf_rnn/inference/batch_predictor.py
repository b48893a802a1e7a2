"""`BatchPredictor`: a dictionary of columns in, the same columns with answers out, for engines of many processes.

`cluster.md` has examples for Ray, `datasets`, Spark and Dask.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ..utils.errors import UserError
from .predictor import Tagger, load_predictor
from .tables import answer_columns, answer_schema, as_list
from .text_classifier import TextClassifier

_IMPORTING_PROCESS = os.getpid()
_LOADING = threading.Lock()


@lru_cache(maxsize=4)
def _load_once(version: str, *settings: Any) -> TextClassifier | Tagger:
    return load_predictor(*settings)


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
        all_scores: Whether the scores of all classes are an answer too, `scores`.
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
    all_scores: bool = False
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
            kinds = ["*.json", "*.safetensors"] + ["onnx/*.onnx"] * (self.backend != "torch")
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
        answers = answer_schema(self.load(), self.all_scores)
        return pa.schema([(self.prefix + field.name, field.type) for field in answers])

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Return the columns of a batch and those of the answers; columns are lists, or arrays of NumPy or Arrow."""
        for wanted in (self.text_column, self.text_pair_column):
            if wanted is not None and wanted not in batch:
                raise UserError(f"no column {wanted!r}: found {', '.join(map(str, batch))}; give text_column")
        if taken := [name for name in self.schema.names if name in batch]:
            raise UserError(f"the texts have columns with the names of answers: found {', '.join(taken)}; give prefix")
        texts = as_list(batch[self.text_column])
        pairs = None if self.text_pair_column is None else as_list(batch[self.text_pair_column])
        return {**batch, **self.answer(texts, pairs)}

    def answer(self, texts: Sequence[Any], pairs: Sequence[Any] | None = None) -> dict[str, list[Any]]:
        """Return the columns of answers and errors for a list of texts, and of second texts for a model of pairs."""
        model = self.load()
        if (model.config.sep_token_id is not None) != (pairs is not None):
            raise UserError(
                "the model is for text pairs: give text_pair_column"
                if pairs is None
                else "text_pair_column is for models of text pairs: leave it out"
            )
        columns = answer_columns(model, texts, pairs, self.all_scores)
        return {self.prefix + name: values for name, values in columns.items()}
