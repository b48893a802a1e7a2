"""`BatchPredictor`: batches in, the same batches with answers out, for engines of many processes; see `cluster.md`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from .engines import InferenceOptions
from .predictor import Predictor, load_predictor
from .tables import (
    Frame,
    TableSettings,
    add_columns,
    answer_schema,
    answer_texts,
    as_list,
    choose_prefix,
    find_text_columns,
    list_columns,
    read_record,
)

_IMPORTING_PROCESS = os.getpid()


@lru_cache(maxsize=4)
def _load_once(name: str, options: InferenceOptions, changed: float) -> tuple[Predictor, dict[str, Any]]:
    if os.getpid() != _IMPORTING_PROCESS:  # engines run a process per core, and OpenMP can hang after a fork
        os.environ["OMP_NUM_THREADS"] = "1"
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(1)
    return load_predictor(name, options), read_record(name, options.revision)


class BatchPredictor:
    """Answer the texts of batches: dictionaries of columns, frames of pandas, or tables of Arrow.

    A batch comes back with the columns of the answers (`label` and `score`; `labels` and `scores` of multi-label;
    `values` of regression; `entities` of a tagger), and `error`, empty for an answered text. A text that cannot be
    answered has the reason there, and None as its answer. No row is removed or moved.

    It is pickled without the model; a process loads the model at its first batch, once.

    Args:
        model: A finished folder that all machines see, or the id of a repo.
        text_column: The column of the texts; None is that of the training data, or one with a usual name.
        text_pair_column: The column of the second texts, for a model of text pairs.
        all_scores: Whether the scores of all classes are an answer too, `scores`.
        prefix: Begins the names of the columns of answers and errors.
        loading: As in [`FastRnn`], such as `revision` and `device`; `backend` is `torch`, `onnx` or `onnx_int8`.

    Example:
        >>> predictor = BatchPredictor("out/tweets")
        >>> predictor({"text": ["best concert of my life!", None]})
        {'text': ['best concert of my life!', None], 'label': ['positive', None], 'score': [0.9, None],
         'error': ['', 'no text']}
    """

    def __init__(
        self,
        model: str | Path,
        text_column: str | None = None,
        text_pair_column: str | None = None,
        all_scores: bool = False,
        prefix: str = "",
        **loading: Any,
    ) -> None:
        name = os.path.expanduser(model)
        self.model = os.path.abspath(name) if os.path.isdir(name) else name  # workers run in other folders
        self.settings = TableSettings(text_column, text_pair_column, prefix=prefix, all_scores=all_scores)
        self.options = InferenceOptions(**loading)

    def load(self) -> tuple[Predictor, dict[str, Any]]:
        """Return the model of this process, and the record of its training data."""
        weights = Path(self.model, "model.safetensors")  # a local model can be trained again
        return _load_once(self.model, self.options, weights.stat().st_mtime if weights.is_file() else 0.0)

    @property
    def schema(self) -> pa.Schema:
        """Types of the columns that a call adds, as a schema of Arrow."""
        return answer_schema(self.load()[0], self.settings)

    def __call__(self, batch: Frame) -> Frame:
        """Return a batch with the answers; an iterator of batches gives an iterator, as for Spark's `mapInPandas`.

        Raises:
            UserError: For a missing column, one that an answer would replace, and a model that cannot be loaded.
        """
        if isinstance(batch, Iterator):
            batches: Any = map(self, batch)
            return batches
        (model, record), names = self.load(), list_columns(batch)
        columns, _ = find_text_columns(model, names, "the batch", self.settings, record)
        choose_prefix(model, names, "the batch", self.settings)
        return add_columns(batch, answer_texts(model, [as_list(batch, name) for name in columns], self.settings))
