"""`hf-rnn predict --output_dir`: answer many files in many processes, of this machine or of a Ray cluster.

The rows of a file are answered in blocks. Each becomes one file, `OUT/tweets-1f3a9c2b-00002.parquet` for the third
block of tweets.csv, or JSON lines for JSON. A block whose file is whole is not answered again, so the same command
resumes a killed run. The letters after the name depend on the file, the model and the settings.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import tempfile
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, as_completed, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
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
from .batch_predictor import BatchPredictor
from .tables import Batch, TableSettings, TextTable, answer_rows, format_answers, open_texts

BLOCK_ROWS, BLOCK_BYTES = 1 << 16, 1 << 25  # the first of them ends a block
TRIES, STARTS = 3, 10  # workers that a block, and a share, can cost
_WORK = "_unfinished"  # folder of temporary files, which each run empties

Share: TypeAlias = tuple[str, int, int]  # a file, and the remainder and divisor of the numbers of its blocks


@dataclass
class Counts:
    """Rows of a file. `unread` names what is not answered; the next run tries it again."""

    path: str
    rows: int = 0
    errors: int = 0
    unread: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs; `source` and `target` are file systems of fsspec."""

    predictor: BatchPredictor
    settings: TableSettings
    source: Any
    target: Any
    folder: str

    def name_answers(self, path: str) -> str:
        """Return the start of the names of a file's answers."""
        info, version = self.source.info(path), (self.predictor, self.predictor._version, self.settings, BLOCK_ROWS)
        state = (path, [info.get(key) for key in ("size", "mtime", "ETag")], version)
        # readers of data sets skip names with _ or . at the start
        return f"{PurePath(path).stem.lstrip('_.')}-{hashlib.sha256(repr(state).encode()).hexdigest()[:8]}-"


def answer_share(job: Job, path: str, remainder: int, divisor: int) -> Counts:
    """Answer every `divisor`-th block of a file, except those that are whole."""
    counts = Counts(path)
    try:
        with tempfile.TemporaryDirectory() as folder:
            start, local = job.name_answers(path), path
            if not isinstance(job.source, LocalFileSystem):
                local = f"{folder}/{PurePath(path).name}"
                job.source.get_file(path, local)
            table = open_texts(local, job.settings)
            for number in count():
                if not (block := list(_take_block(table.batches))):
                    break
                if number % divisor == remainder:
                    name = f"{start}{number:05d}{'.jsonl' if table.is_json else '.parquet'}"
                    _answer_block(job, table, block, name, counts)
    except (UserError, pa.ArrowException, OSError, EOFError, zlib.error) as error:
        counts.unread.append(f"{path}: {reason_of(error).removeprefix(f'{path}: '):.300}")
    return counts


def _take_block(batches: Iterator[Batch]) -> Iterator[Batch]:
    rows = size = 0
    while rows < BLOCK_ROWS and size < BLOCK_BYTES and (batch := next(batches, None)) is not None:
        yield batch
        rows, size = rows + len(batch.rows), size + batch.rows.nbytes


def _answer_block(job: Job, table: TextTable, block: list[Batch], name: str, counts: Counts) -> None:
    """Answer a block and write its file, unless that is whole or has killed its workers."""
    reasons, rows = _read_reasons(job, name), sum(len(batch.rows) for batch in block)
    if len(reasons) != rows:
        tries = (f"{job.folder}/{_WORK}/{name}.{number}" for number in range(TRIES))
        work = next((place for place in tries if not job.target.exists(place)), None)
        if work is None:
            counts.unread.append(f"{counts.path}: the block of {name} killed its worker {TRIES} times")
            return
        job.target.pipe_file(work, b"")
        answers = [answer_rows(job.predictor.load(), table, batch, job.settings) for batch in block]
        job.target.pipe_file(work, format_answers(answers, name))
        job.target.mv(work, f"{job.folder}/{name}")  # whole or not at all
        reasons = [reason for answer in answers for reason in answer.column(-1).to_pylist()]
    counts.rows, counts.errors = counts.rows + rows, counts.errors + rows - reasons.count("")


def _read_reasons(job: Job, name: str) -> list[str]:
    """Return the column `error` of a file of answers; fewer items if it is missing or not whole."""
    try:
        with job.target.open(f"{job.folder}/{name}", "rb") as stream:
            if name.endswith(".jsonl"):
                return ["" if line.endswith(b'error": ""}\n') else "error" for line in stream if line[-1:] == b"\n"]
            file = pq.ParquetFile(stream)
            return file.read(file.schema_arrow.names[-1:]).column(0).to_pylist()
    except (OSError, pa.ArrowException):
        return []


def run_local(job: Job, shares: list[Share], workers: int) -> Iterator[Counts]:
    """Answer shares of files in processes of this machine; a new one replaces one that dies."""
    others, spawn = set(multiprocessing.active_children()), multiprocessing.get_context("spawn")
    free: list[ProcessPoolExecutor] = []  # one process each, so that a death concerns one share
    running: dict[Any, Any] = {}
    waiting = [(share, STARTS) for share in reversed(shares)]
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                (share, starts), pool = waiting.pop(), free.pop() if free else ProcessPoolExecutor(1, spawn, _prepare)
                running[pool.submit(answer_share, job, *share)] = pool, share, starts - 1
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pool, share, starts = running.pop(future)
                try:
                    yield future.result()
                    free.append(pool)
                except BrokenExecutor:
                    if starts:
                        waiting.append((share, starts))
                    else:
                        yield Counts(share[0], unread=[f"{share[0]}: its workers died {STARTS} times"])
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()


def _prepare() -> None:
    """Use one thread, and end with the parent."""
    torch.set_num_threads(1)
    quiet()
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run_on_ray(job: Job, shares: list[Share], workers: int) -> Iterator[Counts]:
    """Answer shares of files by tasks of Ray, which starts a task again whose worker dies, up to a limit."""
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--engine ray needs Ray. Type: {install_hint('ray')}") from error
    if not ray.is_initialized():
        local = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers}
        ray.init(log_to_driver=False, logging_level="ERROR", **local)
    gpus = 0 if job.predictor.device == "cpu" else 1
    answer = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=STARTS - 1)(answer_share)
    futures = {answer.remote(job, *share).future(): share[0] for share in shares}
    for future in as_completed(futures):
        try:
            yield future.result()
        except ray.exceptions.RayError as error:
            yield Counts(futures[future], unread=[f"{futures[future]}: Ray stopped: {reason_of(error):.300}"])


def predict_files(
    predictor: BatchPredictor,
    pattern: str,
    output_dir: str,
    settings: TableSettings,
    engine: str = "local",
    workers: int | None = None,
) -> list[Counts]:
    """Answer the files that match a pattern, except blocks that are answered, and return the counts of all.

    Raises:
        UserError: For missing files, an output of other files, settings or model, and if no row has an answer.
    """
    (source, pattern), (target, folder) = fsspec.url_to_fs(pattern), fsspec.url_to_fs(output_dir)
    found = [pattern] if source.isfile(pattern) else sorted(filter(source.isfile, source.glob(pattern)))
    paths = [path for path in found if not PurePath(path).name.startswith(".")]
    if not paths:
        raise UserError(f"--input has no files: found {pattern!r}; give a pattern such as FOLDER/*.parquet")
    if any(PurePath(path).is_relative_to(folder) for path in paths):
        raise UserError(f"the texts are in {output_dir}: choose an output_dir outside")
    job, counts = Job(predictor, settings, source, target, folder), {path: Counts(path) for path in paths}
    target.makedirs(folder, exist_ok=True)
    with hold_folder(folder) if isinstance(target, LocalFileSystem) else nullcontext():
        if target.exists(work := f"{folder}/{_WORK}"):
            target.rm(work, recursive=True)
        starts = tuple(map(job.name_answers, paths))
        for name in (PurePath(place).name for place in target.ls(folder, detail=False)):
            if not name.startswith((*starts, ".", "_")):
                other = f"{output_dir} has {name}, which is of other texts or settings, or of another model"
                raise UserError(f"{other}: choose another output_dir, or remove this one")
        target.makedirs(work)
        workers = workers or os.cpu_count() or 1
        divisor = math.ceil(workers / len(paths))
        shares = [(path, remainder, divisor) for path in paths for remainder in range(divisor)]
        for share in tqdm(ENGINES[engine](job, shares, workers), "shares", len(shares), disable=None):
            total = counts[share.path]
            total.rows, total.errors = total.rows + share.rows, total.errors + share.errors
            total.unread = list(dict.fromkeys(total.unread + share.unread))
        target.rm(work, recursive=True)
    unread = [reason for count in counts.values() for reason in count.unread]
    if unread and not any(count.rows for count in counts.values()):
        raise UserError(unread[0])
    return list(counts.values())


ENGINES = {"local": run_local, "ray": run_on_ray}
