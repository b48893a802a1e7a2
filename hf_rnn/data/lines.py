"""Names and packing of files. Nothing heavy is imported here."""

from __future__ import annotations

import io
import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from tqdm import tqdm

FORMATS = {
    "delimited": ("tsv", "csv", "tab", "psv"),
    "json": ("jsonl", "ndjson", "json"),
    "parquet": ("parquet", "pq"),
    "arrow": ("arrow", "feather", "ipc"),
    "excel": ("xlsx", "xlsm", "xls", "ods"),
}
PACKED = (".gz", ".bz2", ".zst", ".zstd")
TABLE_SUFFIXES = tuple(f".{suffix}" for suffix in chain.from_iterable(FORMATS.values()))

SAMPLE_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 18
_CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}


def is_table(path: str | Path) -> bool:
    """Return whether the name of a file is that of a table, such as `a.csv` or `a.jsonl.gz`."""
    return suffix_of(path) in TABLE_SUFFIXES


def suffix_of(path: str | Path) -> str:
    """Return the suffix of a file's name without that of its packing: `.tsv` of `train.tsv.gz`."""
    name = Path(str(path).lower())
    return Path(name.stem).suffix if name.suffix in PACKED else name.suffix


class _ShownFile(io.FileIO):
    """A file with a bar on the terminal, for a reading that takes more than two seconds."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._bar = make_bar(path, os.path.getsize(path), "B")

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self._bar.update(count)
        return count

    def close(self) -> None:
        super().close()
        self._bar.close()


def make_bar(path: str | Path, total: int, unit: str) -> tqdm:
    """Return a progress bar for the reading of a file, on standard error if that is a terminal."""
    from tqdm import tqdm

    is_first = os.environ.get("RANK", "0") == "0"
    return tqdm(
        desc=f"reading {Path(path).name}",
        total=total,
        unit=unit,
        unit_scale=True,
        delay=2,
        leave=False,
        disable=None if is_first else True,
    )


def open_unpacked(path: str | Path, show: bool = False) -> BinaryIO:
    """Open a file for reading; gzip, bzip2 and zstd are known by their first bytes, and unpacked.

    Args:
        path: The file.
        show: Whether a bar shows the progress.
    """
    raw = io.BufferedReader(_ShownFile(path) if show else io.FileIO(path), _BUFFER_BYTES)
    magic = raw.peek(4)
    for mark, codec in _CODECS.items():
        if magic.startswith(mark):
            import pyarrow as pa

            return io.BufferedReader(pa.CompressedInputStream(raw, codec))
    return raw


def open_text(path: str | Path, encoding: str, show: bool = True) -> io.TextIOWrapper:
    """Open a text file whose lines end at LF; undecodable bytes become lone surrogates."""
    stream = open_unpacked(path, show)
    return io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="\n")
