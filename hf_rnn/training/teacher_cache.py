"""Ask a teacher once: its answers are kept as Arrow files, each named by a hash of the teacher and a block of rows."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from accelerate import PartialState
from tqdm.auto import tqdm

from ..utils.errors import UserError


def ask_teacher(
    rows: Sequence[Any],
    answer: Callable[[Sequence[Any]], pa.Table],
    teacher: str,
    folder: Path,
    block: int,
    state: PartialState,
) -> datasets.Dataset:
    """Return a teacher's answers to all rows, as a data set in the order of the rows that is mapped from its files.

    Each of several processes computes a part of the files. A file that exists is not computed again, so a stopped run
    loses at most the block that it was computing.

    Args:
        rows: Texts, or arrays of token ids.
        answer: Computes the table of answers to some rows.
        teacher: A hash of everything else that decides the answers.
        folder: Where the files are.
        block: Rows per file.
        state: The processes.

    Raises:
        UserError: If an answer cannot be written.
    """
    blocks = [rows[start : start + block] for start in range(0, len(rows), block)]
    files = [folder / f"{hash_rows(part, teacher)}.arrow" for part in blocks]
    missing = [place for place, file in enumerate(files) if not file.is_file()]
    left, seconds = sum(len(blocks[place]) for place in missing), 0.1 if sys.stderr.isatty() else 30
    state.wait_for_everyone()
    with tqdm(desc="teacher", total=left, unit=" texts", mininterval=seconds, disable=not (left and state.is_main_process)) as bar:
        for place in missing[state.process_index :: state.num_processes]:
            table = answer(blocks[place])
            try:
                folder.mkdir(parents=True, exist_ok=True)
                beside = files[place].with_suffix(".unfinished")
                with pa.OSFile(str(beside), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                    writer.write_table(table)
                beside.replace(files[place])
            except OSError as error:
                raise UserError(f"the teacher's answers cannot be written to {folder}: {error}; make room") from error
            bar.update(len(blocks[place]) * state.num_processes)
    state.wait_for_everyone()
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])


def hash_rows(rows: Sequence[Any], start: str) -> str:
    """Return a hash of rows and of what comes first, such as the hash of a teacher."""
    content = json.dumps([start, *(row.tolist() if isinstance(row, np.ndarray) else row for row in rows)])
    return hashlib.sha256(content.encode()).hexdigest()
