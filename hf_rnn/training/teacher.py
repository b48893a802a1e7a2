"""Shared by `distill` and `pretrain`: texts without labels, and a cache of what a teacher answers to them."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from accelerate import PartialState
from tqdm.auto import tqdm

from ..data.row_errors import BadRow
from ..data.tables import read_column
from ..utils.errors import UserError

logger = logging.getLogger(__name__)


def read_texts(
    paths: Iterable[str | Path],
    column: str | None = None,
    *,
    fault: Callable[[str], str | None],
    cut: Callable[[str], Iterable[str]] = lambda text: [text],
    most: int | None = None,
    encoding: str | None = None,
) -> tuple[list[str], dict[str, int]]:
    """Return each distinct text of some files, one per line or in a column of a table, and log how many were left out.

    `cut` makes texts of a row; `fault` is why one is left out, or None; `most` texts are enough. The counts are those
    of `lines`, of each fault, of `refused`, `repeated` and `kept` ones; `lines` is the sum of the others. Raises a
    [`UserError`] for a file that cannot be read, and without any text.
    """
    texts: dict[str, None] = {}
    uses: Counter[str] = Counter()
    for row in (row for path in paths for row in read_column(path, column, encoding=encoding)):
        if isinstance(row, BadRow) and not uses["refused"]:
            logger.warning("refused: %s", row.describe())
        for text in [None] if isinstance(row, BadRow) else cut(row):
            use = "refused" if text is None else fault(text) or ("repeated" if text in texts else "kept")
            uses[use] += 1
            if text is not None and use == "kept":
                texts[text] = None
        if most is not None and len(texts) >= most:
            break
    counts = {"lines": uses.total(), **uses}
    line = ", ".join(f"{count:,} {use.replace('_', ' ')}" for use, count in counts.items())
    if not texts:
        raise UserError(f"{', '.join(map(str, paths))}: no text to learn from: found {line}")
    logger.info("texts without labels: %s", line)
    return list(texts), counts


def ask_teacher(
    rows: Sequence[Any],
    answer: Callable[[Sequence[Any]], pa.Table],
    teacher: str,
    folder: Path,
    block: int,
    state: PartialState,
) -> datasets.Dataset:
    """Return the table of a teacher's answers to all rows, in their order, mapped from Arrow files.

    A file has the answers to a block of rows, and its name is a hash of both. One that exists is not computed again,
    so a stopped run loses at most a block. Each of several processes computes a part of the files.

    Args:
        rows: Texts, or arrays of token ids.
        answer: Computes the answers to some rows.
        teacher: A hash of everything else that decides the answers.
        folder: Where the files are.
        block: Rows per file.
        state: The processes.

    Raises:
        UserError: If the answers cannot be written.
    """
    blocks = [rows[start : start + block] for start in range(0, len(rows), block)]
    files = [folder / f"{hash_rows(part, teacher)}.arrow" for part in blocks]
    missing = [place for place, file in enumerate(files) if not file.is_file()]
    state.wait_for_everyone()
    bar = tqdm(
        desc="teacher",
        total=sum(len(blocks[place]) for place in missing),
        unit=" texts",
        mininterval=0.1 if sys.stderr.isatty() else 30,
        disable=not missing or not state.is_main_process,
    )
    for place in missing[state.process_index :: state.num_processes]:
        table, beside = answer(blocks[place]), files[place].with_suffix(".unfinished")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(beside), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
            beside.replace(files[place])
        except OSError as error:
            raise UserError(f"the teacher's answers could not be written to {folder}: {error}; make room") from error
        bar.update(len(blocks[place]) * state.num_processes)
    bar.close()
    state.wait_for_everyone()
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])


def hash_rows(rows: Iterable[Any], start: str) -> str:
    """Return a hash of rows and of what comes first, such as the hash of a teacher."""
    digest = hashlib.sha256(start.encode())
    for row in rows:
        digest.update(json.dumps(row.tolist() if isinstance(row, np.ndarray) else row).encode())
    return digest.hexdigest()
