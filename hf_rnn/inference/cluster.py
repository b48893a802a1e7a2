"""`hf-rnn predict --output_dir`: answer the texts of many files in many processes, of one machine or of a Ray cluster.

Each file is cut into blocks: row groups of Parquet, whole lines of the other formats. A task answers one block and
writes it as one part of the output, under a temporary name that is changed when the part is complete. Then it writes
an empty file, the mark, whose name has the counts of the part. A run answers the blocks without a mark: after a crash
of a worker, or of everything, the next run does the rest.

    OUT/tweets-1f3a9c2b-00002.parquet                answers of the third block of tweets.parquet; JSON lines of .jsonl
    OUT/_hf_rnn/tweets-1f3a9c2b-00002.65536.3        its mark: 65,536 rows, 3 of them in error
    OUT/_hf_rnn/job.json                             settings, and the blocks of each file
    OUT/_hf_rnn/counts.json                          rows by file, after a run
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import logging
import multiprocessing
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import fs
from tqdm import tqdm

from ..data.line_reader import read_texts
from ..data.row_errors import BadRow
from ..hub.loading import quiet
from ..utils.errors import UserError, install_hint, reason_of
from .batch_predictor import ERROR, BatchPredictor, find_text_error

BLOCK_BYTES = 32 << 20
ROWS = 8192  # in memory at a time
STATE = "_hf_rnn"  # readers of data sets skip names that begin with an underscore
_UNFINISHED = ".unfinished"
_EXPECTED = (UserError, pa.ArrowException, OSError, csv.Error)  # errors that concern one block
_AGAIN = "the same command does the blocks that are not done"

Rows: TypeAlias = tuple[pa.Table | list[dict[str, Any]], list[str]]  # and the reasons why rows were refused, or ""


@dataclass(frozen=True)
class Counts:
    """Rows of a file. `unread` says why blocks could not be read; the next run tries them again."""

    path: str
    rows: int = 0
    errors: int = 0
    unread: tuple[str, ...] = ()

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return self.rows - self.errors

    def __add__(self, other: Counts) -> Counts:
        unread = (*self.unread, *other.unread)
        return Counts(self.path, self.rows + other.rows, self.errors + other.errors, unread)


# ---- files ----


def open_location(location: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or of an address such as `s3://bucket/folder`, and the path in it."""
    if "://" not in location:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    try:
        return fs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{location} cannot be opened: {reason_of(error)}") from error


def find_files(pattern: str) -> tuple[fs.FileSystem, list[fs.FileInfo]]:
    """Return the files that match a pattern with `*`, `?` and `[...]`, in the order of their names.

    Raises:
        UserError: If there is no such file, or one of an unknown format.
    """
    parts = pattern.split("/")
    fixed = next((number for number, part in enumerate(parts) if set(part) & set("*?[")), len(parts) - 1)
    system, base = open_location("/".join(parts[:fixed]) or ("/" if pattern.startswith("/") else "."))
    wanted = str(PurePosixPath(base, *parts[fixed:]))
    selector = fs.FileSelector(base, allow_not_found=True, recursive=fixed < len(parts) - 1)
    found = [info for info in system.get_file_info(selector) if PurePosixPath(info.path).match(wanted)]
    files = sorted((info for info in found if info.is_file and info.base_name[0] != "."), key=lambda info: info.path)
    if not files:
        remedy = "give a pattern such as FOLDER/*.parquet" if found else "give a path or a pattern"
        raise UserError(f"--input has no files: found {pattern!r}; {remedy}")
    for info in files:
        if _suffix(info.path) not in _READERS:
            raise UserError(f"{info.path} has an unknown format: give files that end in {', '.join(_READERS)}")
    return system, files


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix


@contextmanager
def _new_file(system: fs.FileSystem, path: str) -> Iterator[pa.NativeFile]:
    """Yield the stream of a file that gets its name when it is complete."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{secrets.token_hex(4)}{_UNFINISHED}"
    try:
        with system.open_output_stream(temporary) as stream:
            yield stream
        system.move(temporary, path)
    except BaseException:
        with suppress(OSError):
            system.delete_file(temporary)
        raise


# ---- the plan ----


@dataclass
class InputFile:
    """A file and the limits of its blocks: bytes, or row groups of Parquet."""

    path: str
    version: str
    limits: list[list[int]]
    columns: list[str]

    def part(self, number: int) -> str:
        """Return the name of a part of the output, without its suffix."""
        hashed = hashlib.sha256(self.path.encode()).hexdigest()[:8]
        return f"{PurePosixPath(self.path).stem}-{hashed}-{number:05d}"


def _version_of(info: fs.FileInfo) -> str:
    return f"{info.size} bytes of {info.mtime}"


def plan_file(system: fs.FileSystem, info: fs.FileInfo, predictor: BatchPredictor) -> InputFile:
    """Cut a file into blocks.

    Raises:
        UserError: For a damaged file, and for columns that are missing or named like those of answers.
    """
    kind, columns = _suffix(info.path), []
    try:
        with system.open_input_file(info.path) as stream:
            if kind == ".parquet":
                metadata = pq.read_metadata(stream)
                columns = metadata.schema.to_arrow_schema().names
                sizes = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
                limits = list(_group(sizes)) if metadata.num_rows else []
            else:
                limits = list(_cut(stream, info.size, quoted=kind == ".csv"))
                if kind == ".csv" and limits:
                    stream.seek(0)
                    columns = next(_csv_rows(stream.read(1 << 20)), [])
        if columns:
            predictor.check_columns(columns)
    except _EXPECTED as error:
        raise UserError(f"{info.path}: {reason_of(error)}") from error
    if len(set(columns)) < len(columns):
        raise UserError(f"{info.path} has two columns of the same name: found {', '.join(columns)}")
    return InputFile(info.path, _version_of(info), limits, columns)


def _group(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield ranges of neighbouring row groups, up to the size of a block."""
    start = total = 0
    for number, size in enumerate(sizes):
        if number > start and total + size > BLOCK_BYTES:
            yield [start, number]
            start, total = number, 0
        total += size
    yield [start, len(sizes)]


def _cut(stream: pa.NativeFile, total: int, quoted: bool) -> Iterator[list[int]]:
    """Yield ranges of whole lines; if they can be `quoted`, a line does not end within quotes."""
    start = place = within = 0
    while piece := stream.read(1 << 20):
        used = 0
        while end := piece.find(b"\n", max(used, start + BLOCK_BYTES - place)) + 1:
            within ^= piece.count(b'"', used, end) & 1
            used = end
            if not (quoted and within):
                yield [start, place + end]
                start = place + end
        within ^= piece.count(b'"', used) & 1
        place += len(piece)
        if not quoted and place < start + BLOCK_BYTES:
            place = min(start + BLOCK_BYTES, total)
            stream.seek(place)
    if start < total:
        yield [start, total]


# ---- a block ----


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs."""

    predictor: BatchPredictor
    source: fs.FileSystem
    target: fs.FileSystem
    output_dir: str


def predict_block(job: Job, file: InputFile, number: int) -> Counts:
    """Answer a block, write its part and its mark, and return its counts."""
    predictor, kind, rows, errors = job.predictor, _suffix(file.path), 0, 0
    part = f"{job.output_dir}/{file.part(number)}{'.jsonl' if kind == '.jsonl' else '.parquet'}"
    try:
        if _version_of(job.source.get_file_info(file.path)) != file.version:
            raise UserError("the file has changed since the first run; choose another output_dir")
        with job.source.open_input_file(file.path) as source, _new_file(job.target, part) as target:
            writer = None
            for block, faults in _READERS[kind](source, *file.limits[number], file, predictor):
                texts, pairs = (_column(block, name) for name in (predictor.text_column, predictor.text_pair_column))
                texts = [None if fault else text for text, fault in zip(texts, faults, strict=True)]
                answers = predictor.answer(texts, pairs)
                reasons = answers[predictor.prefix + ERROR]
                reasons[:] = [fault or reason for fault, reason in zip(faults, reasons, strict=True)]
                if isinstance(block, pa.Table):
                    for column in predictor.schema:
                        block = block.append_column(column, pa.array(answers[column.name], column.type))
                    writer = writer or pq.ParquetWriter(target, block.schema)
                    writer.write_table(block)
                else:
                    found = (dict(zip(answers, row, strict=True)) for row in zip(*answers.values(), strict=True))
                    records = (given | answer for given, answer in zip(block, found, strict=True))
                    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                    target.write(lines.encode(errors="backslashreplace"))  # a lone surrogate, as JSON writes it
                rows, errors = rows + len(reasons), errors + sum(map(bool, reasons))
            if writer is not None:
                writer.close()
        with _new_file(job.target, f"{job.output_dir}/{STATE}/{file.part(number)}.{rows}.{errors}"):
            pass
    except _EXPECTED as error:
        return Counts(file.path, unread=(f"{file.path}, block {number}: {reason_of(error)}",))
    return Counts(file.path, rows, errors)


def _column(block: pa.Table | list[dict[str, Any]], name: str | None) -> Any:
    if name is None:
        return None
    return block[name].to_pylist() if isinstance(block, pa.Table) else [row.get(name) for row in block]


def _read_parquet(stream: Any, start: int, stop: int, *_: Any) -> Iterator[Rows]:
    for batch in pq.ParquetFile(stream).iter_batches(ROWS, row_groups=range(start, stop)):
        yield pa.Table.from_batches([batch]), [""] * len(batch)


def _read_bytes(stream: Any, start: int, stop: int) -> bytes:
    stream.seek(start)
    return stream.read(stop - start)


def _read_lines(stream: Any, start: int, stop: int, path: str) -> Iterator[tuple[list[str | None], list[str]]]:
    """Yield the lines of a block, with None and the reason for a line that is refused."""
    for lines in read_texts(io.BytesIO(_read_bytes(stream, start, stop)), path):
        yield [None if isinstance(line, BadRow) else line for line in lines], [*map(_name_fault, lines)]


def _name_fault(line: str | BadRow) -> str:
    return "" if isinstance(line, str) else f"{line.fault.reason}: {line.fault.detail}: found {line.excerpt}"


def _read_txt(stream: Any, start: int, stop: int, file: InputFile, predictor: BatchPredictor) -> Iterator[Rows]:
    for lines, faults in _read_lines(stream, start, stop, file.path):
        yield pa.table({predictor.text_column: pa.array(lines, pa.string())}), faults


def _read_jsonl(stream: Any, start: int, stop: int, file: InputFile, predictor: BatchPredictor) -> Iterator[Rows]:
    for lines, faults in _read_lines(stream, start, stop, file.path):
        records: list[dict[str, Any]] = []
        taken = predictor.schema.names
        for number, line in enumerate(lines):
            record: Any = None
            with suppress(ValueError):
                record = {} if line is None else json.loads(line)
            if not isinstance(record, dict):
                record, faults[number] = {"line": line}, "not a JSON object"
            elif line is not None and predictor.text_column not in record:
                faults[number] = f"no field {predictor.text_column!r}"
            if not record.keys().isdisjoint(taken):
                predictor.check_columns([predictor.text_column, *record])
            records.append(record)
        yield records, faults


def _csv_rows(content: bytes) -> Iterator[list[str]]:
    csv.field_size_limit(1 << 30)
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", "surrogateescape", newline="")
    return (row for row in csv.reader(text, strict=True) if row)  # without blank lines


def _read_csv(stream: Any, start: int, stop: int, file: InputFile, _: Any) -> Iterator[Rows]:
    rows, width = _csv_rows(_read_bytes(stream, start, stop)), len(file.columns)
    if start == 0:
        next(rows)
    kept: list[list[str | None]] = []
    faults: list[str] = []
    for row in rows:
        fault = ""
        if len(row) != width:
            fault = f"found {len(row)} of {width} fields: {row}"
        elif any(map(find_text_error, row)):
            row = [field.encode(errors="surrogateescape").decode(errors="replace") for field in row]
            fault = "not UTF-8"
        faults.append(fault.encode(errors="replace").decode())
        kept.append([None] * width if len(row) != width else [*row])
        if len(kept) == ROWS:
            yield _string_table(file.columns, kept), faults
            kept, faults = [], []
    if kept:
        yield _string_table(file.columns, kept), faults


def _string_table(names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(values, pa.string()) for name, values in zip(names, columns, strict=True)})


_READERS: dict[str, Callable[..., Iterator[Rows]]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
}

# ---- engines ----


def run_local(job: Job, blocks: Sequence[tuple[InputFile, int]], workers: int | None) -> Iterator[Counts]:
    """Answer blocks in processes of this machine, and yield the counts of each as soon as it is done."""
    spawn = multiprocessing.get_context("spawn")
    processes = min(workers or os.cpu_count() or 1, len(blocks))
    with ProcessPoolExecutor(processes, spawn, initializer=_prepare_process) as pool:
        try:
            for done in as_completed([pool.submit(predict_block, job, *block) for block in blocks]):
                yield done.result()
        except BrokenExecutor as error:
            raise UserError(f"a worker died, perhaps for want of memory; {_AGAIN}") from error


def _prepare_process() -> None:
    torch.set_num_threads(1)
    quiet()


def run_on_ray(job: Job, blocks: Sequence[tuple[InputFile, int]], workers: int | None) -> Iterator[Counts]:
    """Answer blocks in a pool of actors of Ray Data, which replaces an actor that dies; see [`run_local`]."""
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext
    except ImportError as error:
        raise UserError(f"--engine ray needs Ray. Type: {install_hint('ray')}") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    size = min(workers or int(ray.cluster_resources().get("CPU", 1)), len(blocks))
    items = [{"block": number} for number in range(len(blocks))]
    answered = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        fn_constructor_args=(job, blocks),
        batch_size=1,
        compute=ActorPoolStrategy(size=size),
        num_cpus=1,
        num_gpus=0 if job.predictor.device == "cpu" else 1,
    )
    try:
        for row in answered.iter_rows():
            yield Counts(**json.loads(row["counts"]))
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray stopped: {reason_of(error):.500}; {_AGAIN}") from error


class _Worker:
    """An actor of Ray Data."""

    def __init__(self, job: Job, blocks: Sequence[tuple[InputFile, int]]) -> None:
        self._job, self._blocks = job, blocks
        job.predictor.load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts = [predict_block(self._job, *self._blocks[number]) for number in batch["block"]]
        return {"counts": [json.dumps(dataclasses.asdict(found)) for found in counts]}


ENGINES = {"local": run_local, "ray": run_on_ray}


# ---- a run ----


def predict_files(
    predictor: BatchPredictor, pattern: str, output_dir: str, engine: str = "local", workers: int | None = None
) -> list[Counts]:
    """Answer the texts of all files that match a pattern, except the blocks that an earlier run has answered.

    Args:
        predictor: Settings of the prediction.
        pattern: A path, or a pattern with `*`, `?` and `[...]`, on this machine or at an address such as `s3://...`.
        output_dir: Folder of the answers, or its address.
        engine: `local` or `ray`.
        workers: Processes; None is one per CPU of the machine or the cluster.

    Returns:
        The counts of each file, those of earlier runs included.

    Raises:
        UserError: For a mistake in settings or files, and for an output of other settings, model or files.
    """
    source, infos = find_files(pattern)
    target, folder = open_location(output_dir)
    if any(PurePosixPath(info.path).is_relative_to(folder) for info in infos):
        raise UserError(f"the texts are in {output_dir}: choose an output_dir outside")
    job = Job(predictor, source, target, folder)
    files = _plan(job, infos)
    done = _read_marks(job)
    blocks = [(file, number) for file in files for number in range(len(file.limits))]
    missing = [block for block in blocks if block[0].part(block[1]) not in done]
    counts = {file.path: Counts(file.path) for file in files}
    for file, number in blocks:
        counts[file.path] += done.get(file.part(number), Counts(file.path))
    if missing:
        with tqdm(total=len(blocks), initial=len(blocks) - len(missing), unit="block") as progress:
            began, rows = time.perf_counter(), 0
            for found in ENGINES[engine](job, missing, workers):
                counts[found.path] += found
                rows += found.rows
                progress.set_postfix_str(f"{rows:,} texts, {rows / (time.perf_counter() - began):,.0f} texts/s")
                progress.update()
    content = {path: {"rows": f.rows, "answered": f.answered, "errors": f.errors} for path, f in counts.items()}
    _write_json(job, "counts.json", content)
    return list(counts.values())


def _plan(job: Job, infos: Iterable[fs.FileInfo]) -> list[InputFile]:
    """Return the files in blocks, those of earlier runs as they were cut then."""
    path, settings = f"{job.output_dir}/{STATE}/job.json", dataclasses.asdict(job.predictor)
    job.target.create_dir(f"{job.output_dir}/{STATE}")
    known: dict[str, InputFile] = {}
    if job.target.get_file_info(path).is_file:
        with job.target.open_input_stream(path) as stream:
            before = json.loads(stream.read())
        remedy = "choose another output_dir, or remove this one"
        for name, value in settings.items():
            if (found := before["settings"].get(name)) != value:
                what = "another state of the model" if name == "_version" else f"{name} {found!r}"
                raise UserError(f"{job.output_dir} has answers of other settings: found {what}; {remedy}")
        known = {path: InputFile(**content) for path, content in before["files"].items()}
        for info in infos:
            if info.path in known and known[info.path].version != _version_of(info):
                raise UserError(f"{job.output_dir} has answers to another state of {info.path}; {remedy}")
    files = [known.get(info.path) or plan_file(job.source, info, job.predictor) for info in infos]
    known |= {file.path: file for file in files}
    content = {"settings": settings, "files": {name: dataclasses.asdict(file) for name, file in known.items()}}
    _write_json(job, "job.json", content)
    return files


def _read_marks(job: Job) -> dict[str, Counts]:
    """Return the counts of the finished parts by name, and remove files that a crash left."""
    marks = {}
    for info in job.target.get_file_info(fs.FileSelector(job.output_dir, recursive=True)):
        if info.base_name.endswith(_UNFINISHED):
            with suppress(OSError):
                job.target.delete_file(info.path)
        name, *numbers = info.base_name.rsplit(".", 2)
        if len(numbers) == 2 and all(map(str.isdecimal, numbers)):
            rows, errors = map(int, numbers)
            marks[name] = Counts("", rows, errors)
    return marks


def _write_json(job: Job, name: str, content: Any) -> None:
    with _new_file(job.target, f"{job.output_dir}/{STATE}/{name}") as stream:
        stream.write(json.dumps(content, indent=1, ensure_ascii=False).encode())
