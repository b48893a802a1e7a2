"""Ask a teacher once: its answers are kept as Arrow files, each named by a hash of the teacher and a block of rows."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm


def ask_teacher(
    rows: Sequence[Any],
    answer: Callable[[Sequence[Any]], pa.Table],
    teacher: str,
    folder: Path,
    block: int,
    processes: tuple[int, int] = (0, 1),
) -> tuple[list[Path], int]:
    """Return the Arrow files with a teacher's answers to all rows in their order, and the number of rows it read.

    A file that exists is not computed again, so a stopped run loses at most the block that it was computing.

    Args:
        rows: Texts, or lists of token ids.
        answer: Computes the table of answers to some rows.
        teacher: A hash of everything else that decides the answers.
        folder: Where the files are.
        block: Rows per file.
        processes: Number of this process, and of all; each computes a part of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [rows[start : start + block] for start in range(0, len(rows), block)]
    files = [folder / f"{hash_rows(part, teacher)}.arrow" for part in blocks]
    mine = [place for place in range(processes[0], len(files), processes[1]) if not files[place].is_file()]
    left = sum(len(blocks[place]) for place in mine)
    seconds = 0.1 if sys.stderr.isatty() else 30
    hidden = processes[0] > 0 or not left
    with tqdm(desc="teacher", total=left, unit=" texts", mininterval=seconds, disable=hidden) as bar:
        for place in mine:
            table = answer(blocks[place])
            beside = files[place].with_suffix(f".{os.getpid()}")
            with pa.OSFile(str(beside), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
            beside.replace(files[place])
            bar.update(len(blocks[place]))
    return files, left


def hash_rows(rows: Sequence[Any], start: str) -> str:
    """Return a hash of rows and of what comes first, such as the hash of a teacher."""
    content = json.dumps([start, *(row.tolist() if isinstance(row, np.ndarray) else row for row in rows)])
    return hashlib.sha256(content.encode()).hexdigest()
