"""Read the labelled texts of a run: TSV files, a data set of the `datasets` library, or rows in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from typing import Any as TableArguments  # the data settings

import datasets

from ..data import DataReport, load_named, load_tsv
from ..data.audit import Origin
from ..data.files import find_builder
from ..utils.errors import UserError


def load_texts(
    arguments: TableArguments, *, data: Mapping[str, Any] | None = None, streaming: bool = False, **options: Any
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Read the labelled texts that settings name.

    Args:
        arguments: Which, and how they stand in their files.
        data: Rows in memory by split, in place of those that the arguments name.
        streaming: Return streams in place of tables.
        options: Further keywords of [`load_tsv`] and [`load_named`], such as `splits`.

    Raises:
        DataError: For a row that cannot be used, beyond `max_bad_rows`.
        UserError: For settings that contradict each other or the data.
    """
    if data is None:
        arguments.check_source()
    elif arguments.data_dir is not None or arguments.dataset_name is not None:
        raise UserError("train holds the texts, and data_dir or dataset_name names others: give one of them")
    source = data if data is not None else _named_source(arguments)
    if source is None:
        return load_tsv(str(arguments.data_dir), **arguments.layout(), streaming=streaming, **options)
    if streaming:
        raise UserError("streaming is for TSV files: leave it out, or give them as data_dir")
    if arguments.header:
        raise UserError("header is for TSV files, and other columns have names: leave it out")
    return load_named(source, arguments.dataset_config, **arguments.layout(named=True), **options)


def _named_source(arguments: TableArguments) -> str | None:
    """Return what the `datasets` library reads; None where TSV files are read."""
    if arguments.dataset_name is not None:
        return arguments.dataset_name
    return arguments.data_dir if find_builder(arguments.data_dir) else None


def join_splits(train: Any, validation: Any, test: Any) -> Mapping[str, Any] | None:
    """Return rows in memory by split; None where there are none.

    Raises:
        UserError: For splits without train, and for splits beside a train that holds splits.
    """
    others = {name: rows for name, rows in (("validation", validation), ("test", test)) if rows is not None}
    if train is None and others:
        raise UserError(f"{' and '.join(others)} in memory without train: give the training rows as train")
    if isinstance(train, Mapping):
        if others:
            raise UserError(f"train holds splits by name: put {' and '.join(others)} there")
        return train
    return None if train is None else {"train": train, **others}


def find_origins(arguments: TableArguments, report: DataReport) -> dict[str, Origin]:
    """Return the file and the lines of each split's rows, for the splits of which they can be told.

    Args:
        arguments: What was read.
        report: What the load said. A split of which rows were rejected or held out, or that came from several files,
            is left out.
    """
    if _named_source(arguments) is not None:
        return {}
    first = 2 if arguments.header else 1
    return {
        name: Origin(split.files[0], range(first, first + split.rows_kept))
        for name, split in report.splits.items()
        if not split.rejected and len(split.files) == 1 and not (name == "train" and report.held_out)
    }
