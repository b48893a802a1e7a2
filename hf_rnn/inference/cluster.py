"""`hf-rnn predict --output_dir`: answer many files in many processes, of this machine or of a Ray cluster.

The rows of a file are answered in blocks. Each becomes one file, under a temporary name until it is complete. A block
whose file is whole is not answered again, so the same command resumes a killed run:

    OUT/tweets-1f3a9c2b-00002.parquet    columns and answers of the third block of tweets.csv
    OUT/_hf_rnn/job.json                 settings, and states of the files, which a later run must have too
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import multiprocessing
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import PurePath
from typing import Any, TypeAlias

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from ..hub.loading import quiet
from ..utils.errors import UserError, install_hint, reason_of
from ..utils.folder_lock import hold_folder
from .batch_predictor import ERROR, BatchPredictor
from .table_answers import Rows, TableFormat, read_rows

BLOCK_ROWS, BLOCK_BYTES = 1 << 16, 1 << 25  # the first of them ends a block
STATE = "_hf_rnn"
_TRIES = 3  # per block that kills its worker
_DEATHS = 10  # of workers per share
_ERRORS = (UserError, pa.ArrowException, OSError, ValueError)  # they concern one file

Share: TypeAlias = tuple[str, int, int]  # a file, and the remainder and divisor of the numbers of its blocks


@dataclass(frozen=True)
class Counts:
    """Rows of a file. `unread` names what is not answered; the next run tries it again."""

    path: str
    rows: int = 0
    errors: int = 0
    unread: tuple[str, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        unread = tuple(dict.fromkeys(self.unread + other.unread))  # every share of a damaged file names it
        return Counts(self.path, self.rows + other.rows, self.errors + other.errors, unread)


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs."""

    predictor: BatchPredictor
    format: TableFormat
    source: Any  # file systems of fsspec
    target: Any
    folder: str

    @property
    def work(self) -> str:
        """The folder of temporary files, which each run empties."""
        return f"{self.folder}/{STATE}/unfinished"

    def part(self, path: str, number: int) -> str:
        """Return the name of the file of a block; readers of data sets skip names that begin with `_` or `.`."""
        stem, hashed = PurePath(path).stem.lstrip("_."), hashlib.sha256(path.encode()).hexdigest()[:8]
        return f"{stem}-{hashed}-{number:05d}.parquet"


def answer_share(job: Job, path: str, remainder: int, divisor: int) -> Counts:
    """Answer the blocks of a share of a file, except those that are whole."""
    counts = Counts(path)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = path
            if not isinstance(job.source, LocalFileSystem):
                file = f"{folder}/{PurePath(path).name}"
                job.source.get(path, file)
            for number, rows in groupby(_number_blocks(read_rows(file, job.format)), itemgetter(0)):
                if number % divisor == remainder:
                    counts += _read_counts(job, path, number) or _answer_block(job, path, number, rows)
    except _ERRORS as error:
        counts += Counts(path, unread=(f"{path}: {reason_of(error).removeprefix(f'{path}: '):.300}",))
    return counts


def _number_blocks(batches: Iterator[Rows]) -> Iterator[tuple[int, Rows]]:
    number = rows = size = 0
    for batch in batches:
        if rows + len(batch.errors) > BLOCK_ROWS or size + batch.table.nbytes > BLOCK_BYTES:
            number, rows, size = number + (rows > 0), 0, 0
        rows, size = rows + len(batch.errors), size + batch.table.nbytes
        yield number, batch


def _read_counts(job: Job, path: str, number: int) -> Counts | None:
    """Return the counts of a block from the end of its file; None if that is missing or not whole."""
    try:
        with job.target.open(f"{job.folder}/{job.part(path, number)}", "rb") as stream:
            metadata = pq.read_metadata(stream)
            return Counts(path, metadata.num_rows, int(metadata.metadata[b"errors"]))
    except (OSError, pa.ArrowException, KeyError, TypeError):
        return None


def _answer_block(job: Job, path: str, number: int, rows: Iterator[tuple[int, Rows]]) -> Counts:
    """Answer a block, unless it has killed its workers, and write its file."""
    part, target = job.part(path, number), job.target
    tries = [f"{job.work}/{part}.{count}" for count in range(_TRIES)]
    new = [name for name in tries if not target.exists(name)]
    if not new:
        return Counts(path, unread=(f"{path}: block {number} killed its worker {_TRIES} times",))
    target.touch(new[0])
    writer, errors, count = None, 0, 0
    temporary = f"{job.work}/{part}.{secrets.token_hex(4)}"
    with target.open(temporary, "wb") as stream:
        for _, batch in rows:
            ...
    target.mv(temporary, f"{job.folder}/{part}")
    return Counts(path, count, errors)
