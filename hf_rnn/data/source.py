"""The labelled texts that settings name: files, a data set of the `datasets` library, or rows in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

from ..utils.errors import UserError
from .audit import Origin
from .loading import is_saved, load_named, load_tsv
from .row_errors import DataReport


def load_texts(
    arguments: Any, *, data: Mapping[str, Any] | None = None, streaming: bool = False, **options: Any
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Read the labelled texts that settings (`TableArguments`) name, or rows in memory by split.

    Options are further keywords of [`load_tsv`] and [`load_named`].
    """
    if data is None:
        arguments.check_source()
    elif arguments.data_dir is not None or arguments.dataset_name is not None:
        raise UserError("the texts have two sources: found train and data_dir or dataset_name; give one of them")
    options |= arguments.layout()
    if data is None and arguments.data_dir is not None:
        if is_saved(arguments.data_dir):
            return load_named(arguments.data_dir, **options)
        return load_tsv(arguments.data_dir, streaming=streaming, **options)
    if streaming:
        raise UserError("streaming requires files: found another source of texts; leave it out")
    return load_named(arguments.dataset_name if data is None else data, arguments.dataset_config, **options)


def join_splits(train: Any, validation: Any, test: Any) -> Mapping[str, Any] | None:
    """Return rows in memory by split; None without any."""
    others = {name: rows for name, rows in (("validation", validation), ("test", test)) if rows is not None}
    if train is None and others:
        raise UserError(f"{' and '.join(others)} in memory without train: give the training rows as train")
    if isinstance(train, Mapping):
        if others:
            raise UserError(f"train holds splits by name: put {' and '.join(others)} there")
        return train
    return None if train is None else {"train": train, **others}


def find_origins(report: DataReport) -> dict[str, Origin]:
    """Return file and lines of each split that is read from one text file."""
    return {split: Origin(file, lines.tolist()) for split, (file, lines) in report.lines.items()}
