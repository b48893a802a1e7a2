"""`hf-rnn predict --output_dir`: answer many files in many processes, of this machine or of a Ray cluster.

The rows of a file are answered in blocks. Each becomes one file, under a temporary name until it is complete. A block
whose file is whole is not answered again, so the same command resumes a killed run:

    OUT/tweets-1f3a9c2b-00002.parquet    columns and answers of the third block of tweets.csv; JSON lines of JSON
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
import zlib
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
from .batch_predictor import BatchPredictor
from .tables import ERROR, Rows, TableSettings, TextTable, answer_rows, format_answers, open_texts

BLOCK_ROWS, BLOCK_BYTES = 1 << 16, 1 << 25  # the first of them ends a block
TRIES = 3  # for a block that kills its worker
_STARTS = 10  # worker processes per share
_STATE = "_hf_rnn"
_COUNT = b"hf_rnn.errors"  # key of Parquet metadata

Share: TypeAlias = tuple[str, int, int]  # a file, and the remainder and divisor of the numbers of its blocks


@dataclass(frozen=True)
class Counts:
    """Rows of a file. `unread` names what is not answered; the next run tries it again."""

    path: str
    rows: int = 0
    errors: int = 0
    unread: tuple[str, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        unread = tuple(dict.fromkeys((*self.unread, *other.unread)))  # every share of a damaged file names it
        return Counts(self.path, self.rows + other.rows, self.errors + other.errors, unread)


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs; `source` and `target` are file systems of fsspec."""

    predictor: BatchPredictor
    settings: TableSettings
    source: Any
    target: Any
    folder: str

    @property
    def work(self) -> str:
        """The folder of temporary files, which each run empties."""
        return f"{self.folder}/{_STATE}/unfinished"

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        temporary = f"{self.work}/{secrets.token_hex(8)}"
        self.target.pipe_file(temporary, content)
        self.target.mv(temporary, f"{self.folder}/{name}")


def answer_share(job: Job, path: str, remainder: int, divisor: int) -> Counts:
    """Answer the blocks of a share of a file, except those that are whole."""
    counts, hashed = Counts(path), hashlib.sha256(path.encode()).hexdigest()[:8]
    stem = PurePath(path).stem.lstrip("_.")  # readers of data sets skip these names
    try:
        with tempfile.TemporaryDirectory() as folder:
            local = path
            if not isinstance(job.source, LocalFileSystem):
                local = f"{folder}/{PurePath(path).name}"
                job.source.get_file(path, local)
            table = open_texts(local, job.settings)
            for number, block in groupby(_number_blocks(table.rows), itemgetter(0)):
                if number % divisor == remainder:
                    part = f"{stem}-{hashed}-{number:05d}{'.jsonl' if table.is_json else '.parquet'}"
                    counts += _answer_block(job, path, part, table, [rows for _, rows in block])
    except (UserError, pa.ArrowException, OSError, EOFError, zlib.error) as error:
        counts += Counts(path, unread=(f"{path}: {reason_of(error).removeprefix(f'{path}: '):.300}",))
    return counts


def _number_blocks(batches: Iterator[Rows]) -> Iterator[tuple[int, Rows]]:
    number = rows = size = 0
    for batch in batches:
        rows, size = rows + len(batch.table), size + batch.table.nbytes
        if rows > BLOCK_ROWS or size > BLOCK_BYTES:
            number, rows, size = number + 1, len(batch.table), batch.table.nbytes
        yield number, batch


def _answer_block(job: Job, path: str, part: str, table: TextTable, block: Sequence[Rows]) -> Counts:
    """Answer a block and write its file, unless that is whole or has killed its workers."""
    count = sum(len(rows.table) for rows in block)
    if (errors := _read_part(job, part, count)) is None:
        tries = (f"{job.work}/{part}.{number}" for number in range(TRIES))
        new = next((name for name in tries if not job.target.exists(name)), None)
        if new is None:
            return Counts(path, unread=(f"{path}: the block of {part} killed its worker {TRIES} times",))
        job.target.pipe_file(new, b"")
        answers = [answer_rows(job.predictor.load(), table, rows, job.settings) for rows in block]
        errors = count - sum(answer.column(-1).to_pylist().count("") for answer in answers)
        answers[0] = answers[0].replace_schema_metadata({_COUNT: str(errors)})
        job.write(part, format_answers(answers, part))
    return Counts(path, count, errors)


def _read_part(job: Job, part: str, count: int) -> int | None:
    """Return the number of rows in error of a part; None if it is missing, or has not `count` rows."""
    try:
        with job.target.open(f"{job.folder}/{part}", "rb") as stream:
            if part.endswith(".parquet"):
                metadata = pq.read_metadata(stream)
                return int(metadata.metadata[_COUNT]) if metadata.num_rows == count else None
            lines = stream.read()
    except (OSError, pa.ArrowException, KeyError, TypeError):
        return None
    answered = lines.count(f'{ERROR}": ""}}\n'.encode())
    return count - answered if lines.count(b"\n") == count else None


def run_local(job: Job, shares: Sequence[Share], workers: int | None) -> Iterator[Counts]:
    """Answer shares of files in processes of this machine; a new one replaces one that dies."""
    before, spawn = set(multiprocessing.active_children()), multiprocessing.get_context("spawn")
    waiting = [(share, 1) for share in reversed(shares)]
    free: list[ProcessPoolExecutor] = []  # one process each, so that a death concerns one share
    running: dict[Future[Counts], Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (workers or os.cpu_count() or 1):
                pool = free.pop() if free else ProcessPoolExecutor(1, spawn, _prepare_worker)
                share, starts = waiting.pop()
                running[pool.submit(answer_share, job, *share)] = pool, share, starts
            for future in wait(running, timeout=2, return_when=FIRST_COMPLETED).done:
                pool, share, starts = running.pop(future)
                try:
                    yield future.result()
                    free.append(pool)
                except BrokenExecutor:
                    if starts < _STARTS:
                        waiting.append((share, starts + 1))
                    else:
                        reason = f"{share[0]}: its workers died {starts} times, perhaps of too little memory"
                        yield Counts(share[0], unread=(reason,))
            yield Counts("")  # for the progress bar
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()


def _prepare_worker() -> None:
    """Use one thread, and end with the parent."""
    torch.set_num_threads(1)
    quiet()
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run_on_ray(job: Job, shares: Sequence[Share], workers: int | None) -> Iterator[Counts]:
    """Answer shares of files by actors of Ray Data, which replaces one that dies."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # otherwise messages appear at exit, on stdout
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--engine ray needs Ray. Type: {install_hint('ray')}") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # after the import above, which sets another
    size = min(workers or int(ray.cluster_resources().get("CPU", 1)), len(shares))
    items = [{"number": number} for number in range(len(shares))]
    answered = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=(job, shares),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=1,
        num_gpus=0 if job.predictor.device == "cpu" else 1,
    )
    try:
        for row in answered.iter_rows():
            yield Counts(**json.loads(row["counts"]))
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray stopped: {reason_of(error):.500}; the same command resumes") from error


class _Actor:
    def __init__(self, job: Job, shares: Sequence[Share]) -> None:
        self._job, self._shares = job, shares

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts = [answer_share(self._job, *self._shares[number]) for number in batch["number"]]
        return {"counts": [json.dumps(dataclasses.asdict(count)) for count in counts]}


ENGINES = {"local": run_local, "ray": run_on_ray}


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
        UserError: For a mistake in settings, an output of other settings, model or files, and if no row has an answer.
    """
    (source, pattern), (target, folder) = fsspec.url_to_fs(pattern), fsspec.url_to_fs(output_dir)
    found = [pattern] if source.isfile(pattern) else sorted(filter(source.isfile, source.glob(pattern)))
    paths = [path for path in found if not PurePath(path).name.startswith(".")]
    if not paths:
        raise UserError(f"--input has no files: found {pattern!r}; give a pattern such as FOLDER/*.parquet")
    if any(PurePath(path).is_relative_to(folder) for path in paths):
        raise UserError(f"the texts are in {output_dir}: choose an output_dir outside")
    job, counts = Job(predictor, settings, source, target, folder), {path: Counts(path) for path in paths}
    target.makedirs(f"{folder}/{_STATE}", exist_ok=True)
    with hold_folder(folder) if isinstance(target, LocalFileSystem) else nullcontext():
        if target.exists(job.work):
            target.rm(job.work, recursive=True)
        target.makedirs(job.work, exist_ok=True)
        _check_job(job, paths)
        divisor = math.ceil((workers or os.cpu_count() or 1) / len(paths))
        shares = [(path, remainder, divisor) for path in paths for remainder in range(divisor)]
        with tqdm(unit=" files of answers", disable=None) as progress:
            for count in ENGINES[engine](job, shares, workers):
                if count.path:
                    counts[count.path] += count
                if new := len(target.ls(folder, detail=False)) - 1 - progress.n:
                    progress.update(new)
        target.rm(job.work, recursive=True)
    unread = [reason for count in counts.values() for reason in count.unread]
    if unread and not any(count.rows for count in counts.values()):
        raise UserError(unread[0])
    return list(counts.values())


def _check_job(job: Job, paths: Sequence[str]) -> None:
    """Refuse an output of other settings, model or files, and record those of this run."""
    place, remedy = f"{job.folder}/{_STATE}/job.json", "choose another output_dir, or remove this one"
    record = {**dataclasses.asdict(job.predictor), **dataclasses.asdict(job.settings), "block_rows": BLOCK_ROWS}
    for path in paths:
        info = job.source.info(path)
        record[path] = str([info.get(key) for key in ("size", "mtime", "ETag")])
    if job.target.exists(place) and len(job.target.ls(job.folder)) > 1:  # with answers
        try:
            before = dict(json.loads(job.target.cat_file(place)))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{place} is damaged: {remedy}") from error
        changed = next((key for key in record if before.get(key, record[key]) != record[key]), None)
        if changed is not None:
            what = {"_version": "model", **dict.fromkeys(paths, f"state of {changed}")}.get(changed, changed)
            raise UserError(f"{job.folder} has answers of another {what}: found {before[changed]!r:.80}; {remedy}")
        record = {**before, **record}
    job.write(f"{_STATE}/job.json", json.dumps(record, indent=1).encode())
