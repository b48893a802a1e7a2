"""The labelled texts that settings name: TSV files, a data set of the `datasets` library, or rows in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

from ..utils.errors import UserError
from .audit import Origin
from .loading import find_builder, load_named, load_tsv
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
    source = data if data is not None else _find_library_source(arguments)
    if source is None:
        return load_tsv(arguments.data_dir, **arguments.layout(), streaming=streaming, **options)
    for name, given in (("streaming", streaming), ("header", arguments.header)):
        if given:
            raise UserError(f"{name} requires TSV files: found another source of texts; leave it out")
    return load_named(source, arguments.dataset_config, **arguments.layout(named=True), **options)


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


def find_origins(arguments: Any, report: DataReport) -> dict[str, Origin]:
    """Return file and lines of each split that [`load_texts`] read whole, from one file."""
    if _find_library_source(arguments) is not None:
        return {}
    first = 2 if arguments.header else 1
    return {
        name: Origin(split.files[0], range(first, first + split.rows_kept))
        for name, split in report.splits.items()
        if not split.rejected and len(split.files) == 1 and not (name == "train" and report.held_out)
    }


def _find_library_source(arguments: Any) -> str | None:
    """Return what the `datasets` library reads; None for TSV files."""
    if arguments.dataset_name is not None:
        return str(arguments.dataset_name)
    return arguments.data_dir if find_builder(arguments.data_dir) else None
