"""`BatchPredictor`: batches of engines of many processes; see `cluster.md`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from ..hub.model_folder import FinishedFolder
from .engine import InferenceOptions
from .predict import FastRnn, absolute_name
from .tables import Frame, Record, TableSettings, answer_frame, answer_schema, read_record

_IMPORTING_PROCESS = os.getpid()


@lru_cache(maxsize=4)
def _load_once(name: str, options: InferenceOptions, changed: float) -> tuple[FastRnn, Record]:
    # engines run a process per core, and OpenMP can hang after a fork
    if os.getpid() != _IMPORTING_PROCESS:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(1)
    return FastRnn.from_pretrained(name, **vars(options)), read_record(name, options.revision)


class BatchPredictor:
    """Answer the texts of batches: dictionaries of columns, frames of pandas, or tables of Arrow.

    A batch comes back with the columns of the answers (`label` and `score`; `labels` and `scores`
    of multi-label; `values` of regression; `entities` of a tagger), and `error`: empty, or why a
    text has no answer. Rows keep their places. It is pickled without the model, which each process
    loads at its first batch.

    Args:
        model: A finished folder that all machines see, or the id of a repo.
        text_column: The column of the texts; None is that of the training data, or one with a usual
            name.
        text_pair_column: The column of the second texts, for a model of text pairs.
        all_scores: Whether the scores of all classes are an answer too, `scores`.
        prefix: Begins the names of the columns of answers and errors.
        target: Adds the column `for_a_person`, as in [`FastRnn.predict`].
        loading: As in [`FastRnn`], such as `revision` and `device`; `backend` is `torch` or `onnx`.

    Example:
        >>> predictor = BatchPredictor("out/tweets")
        >>> predictor({"text": ["best concert of my life!", None]})
        {'text': ['best concert of my life!', None], 'label': ['positive', None], 'score': [0.9,
        None],
         'error': ['', 'no text']}
    """

    def __init__(
        self,
        model: str | Path,
        text_column: str | None = None,
        text_pair_column: str | None = None,
        all_scores: bool = False,
        prefix: str = "",
        target: float | None = None,
        **loading: Any,
    ) -> None:
        self.model = absolute_name(model)  # workers run in other folders
        self.settings = TableSettings(
            text_column, text_pair_column, prefix=prefix, all_scores=all_scores, target=target
        )
        self.options = InferenceOptions(**loading)

    def load(self) -> tuple[FastRnn, Record]:
        """Return the model of this process, and the record of its training data."""
        changed = 0.0
        if os.path.isdir(self.model):  # a local model can be trained again
            files = FinishedFolder(Path(self.model)).weight_files()
            changed = max(path.stat().st_mtime if path.is_file() else 0.0 for path in files)
        return _load_once(self.model, self.options, changed)

    @property
    def schema(self) -> pa.Schema:
        """Types of the columns that a call adds, as a schema of Arrow."""
        schema = answer_schema(self.load()[0], self.settings)
        prefix = self.settings.prefix or ""
        return pa.schema([field.with_name(prefix + field.name) for field in schema])

    def __call__(self, batch: Frame) -> Frame:
        """Return a batch with the answers; Spark gives and gets an iterator of batches."""
        if isinstance(batch, Iterator):
            return cast("Frame", map(self, batch))
        model, record = self.load()
        return answer_frame(model, batch, "the batch", self.settings, record, is_batch=True)
