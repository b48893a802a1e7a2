"""Settings → labelled texts: the one place that decides between TSV files and a data set of the `datasets` library."""

from __future__ import annotations

from typing import Any

import datasets

from ..arguments.text_arguments import TableArguments
from ..audit import Origin
from ..data import DataReport, load_named, load_tsv
from ..errors import UserError


def load_texts(
    arguments: TableArguments, *, streaming: bool = False, **options: Any
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Read the labelled texts that settings name.

    Args:
        arguments: Which, and how they stand in their files.
        streaming: Return streams in place of tables.
        options: Further keywords of [`load_tsv`] and [`load_named`], such as `splits`.

    Raises:
        DataError: For a row that cannot be used, beyond `max_bad_rows`.
        UserError: For settings that contradict each other or the data.
    """
    arguments.check_source()
    if arguments.dataset_name is not None:
        if streaming:
            raise UserError("streaming is for TSV files: leave it out, or give data_dir in place of dataset_name")
        return load_named(arguments.dataset_name, arguments.dataset_config, **arguments.layout(), **options)
    return load_tsv(str(arguments.data_dir), **arguments.layout(), streaming=streaming, **options)


def find_origins(arguments: TableArguments, report: DataReport) -> dict[str, Origin]:
    """Return the file and the lines of each split's rows, for the splits of which they can be told.

    Args:
        arguments: What was read.
        report: What the load said. A split of which rows were rejected or held out, or that came from several files,
            is left out.
    """
    if arguments.dataset_name is not None:
        return {}
    first = 2 if arguments.header else 1
    return {
        name: Origin(split.files[0], range(first, first + split.rows_kept))
        for name, split in report.splits.items()
        if not split.rejected and len(split.files) == 1 and not (name == "train" and report.held_out)
    }
