"""Names, packing and encodings of files, and lines of streams. Nothing heavy is imported here."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ..utils.errors import UserError
from .errors import EXCERPT_CHARACTERS, BadRow, Fault, Reason, file_error

FORMATS = {
    "delimited": ("tsv", "csv", "tab", "psv"),
    "json": ("jsonl", "ndjson", "json"),
    "parquet": ("parquet", "pq"),
    "arrow": ("arrow", "feather", "ipc"),
    "excel": ("xlsx", "xlsm", "xls", "ods"),
}
PACKED = (".gz", ".bz2", ".zst", ".zstd")
TABLE_SUFFIXES = tuple(f".{suffix}" for suffixes in FORMATS.values() for suffix in suffixes)

SAMPLE_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 18
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SIGNATURES = {
    **dict.fromkeys(_UTF16_MARKS, "it starts with the mark of UTF-16: save it as UTF-8"),
    b"\x1f\x8b": "its first bytes are those of gzip: unpack it",
    b"PK\x03\x04": "its first bytes are those of zip: unpack it, or export a table",
}


def is_table(path: str | Path) -> bool:
    """Return whether the name of a file is that of a table, such as `texts.csv` or `texts.jsonl.gz`."""
    return suffix_of(path) in TABLE_SUFFIXES


def suffix_of(path: str | Path) -> str:
    """Return the suffix of a file's name without that of its packing: `.tsv` of `train.tsv.gz`."""
    name = Path(str(path).lower())
    return Path(name.stem).suffix if name.suffix in PACKED else name.suffix


def open_unpacked(path: str | Path) -> BinaryIO:
    """Open a file for reading; gzip, bzip2 and zstd are known by their first bytes, and unpacked."""
    with open(path, "rb") as stream:
        magic = stream.read(4)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(path))
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.open(path))
    if magic == b"\x28\xb5\x2f\xfd":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return open(path, "rb")


def open_text(path: str | Path, encoding: str) -> io.TextIOWrapper:
    """Open a text file whose lines end at LF; undecodable bytes become lone surrogates."""
    return io.TextIOWrapper(open_unpacked(path), encoding, errors="surrogateescape", newline="\n")


def find_encoding(head: bytes, encoding: str | None, guess: bool = True) -> str:
    """Return the encoding of a text: the named one, or that of its first bytes; cp1252 only with a `guess`."""
    try:
        encoding = encoding and codecs.lookup(encoding).name
    except LookupError:
        raise UserError(
            f"unknown encoding {encoding!r:.80}: give one such as utf-8, cp1252 or utf-16"
        ) from None
    if head.startswith(codecs.BOM_UTF8) and encoding in (None, "utf-8"):
        return "utf-8-sig"
    if encoding is not None or head.startswith(_UTF16_MARKS):
        return encoding or "utf-16"
    lines = [
        line
        for line in head.split(b"\n")[: -1 if len(head) >= SAMPLE_BYTES else None]
        if not line.isascii()
    ]
    bad = sum(find_byte_fault(line) is not None for line in lines)
    return "cp1252" if guess and 2 * bad > len(lines) else "utf-8"


def find_byte_fault(line: bytes | str, encoding: str = "utf-8") -> Fault | None:
    """Return what is wrong with a line: bytes, or text with a lone surrogate for each byte that is not decoded."""
    try:
        line.encode() if isinstance(line, str) else line.decode(encoding)
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        start = line[: error.start + 1]
        raw = start.encode(errors="surrogateescape") if isinstance(start, str) else start
        name = encoding.removesuffix("-sig")
        return Fault(
            Reason.NOT_UTF8, f"byte 0x{raw[-1]:02x} at byte {len(raw)} of the line is not {name}"
        )
    return None


def excerpt_of(line: bytes | str) -> str:
    r"""Return the start of a line for a message, undecodable bytes as `\xNN`."""
    start = line[: 4 * EXCERPT_CHARACTERS]
    start = start.encode(errors="surrogateescape") if isinstance(start, str) else start
    return start.decode(errors="backslashreplace")[:EXCERPT_CHARACTERS]


def read_texts(stream: BinaryIO, name: str) -> Iterator[list[str | BadRow]]:
    """Read UTF-8 to its end, one text per line, and yield lines as soon as they are complete.

    A line ends at LF or CRLF. Empty and blank lines are texts too. Lines with a NUL and lines over
    1 MiB are rejected; the latter are never in memory as a whole. Raises a [`DataError`] if the
    first bytes are those of another format.

    Args:
        stream: Buffered, such as `sys.stdin.buffer`; bytes that have arrived are read without
            waiting for more.
        name: Name of the stream in messages.
    """
    number, rest, ended = 1, b"", False
    while not ended:
        data = stream.read1(_BLOCK_BYTES)  # type: ignore[attr-defined] # of buffered ones
        ended = not data
        *lines, rest = (rest + data).split(b"\n")
        if ended and rest:
            lines.append(rest)
        if number == 1 and lines:
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
            if problem := next(
                (text for mark, text in _SIGNATURES.items() if lines[0].startswith(mark)), None
            ):
                raise file_error(name, Reason.UNREADABLE, problem)
        if lines:
            yield [
                _read_line(name, place, line.removesuffix(b"\r"))
                for place, line in enumerate(lines, number)
            ]
        number += len(lines)
        rest = rest[: _MAX_LINE_BYTES + len(codecs.BOM_UTF8) + 2]


def _read_line(name: str, number: int, line: bytes) -> str | BadRow:
    fault = find_byte_fault(line)
    if len(line) > _MAX_LINE_BYTES:
        fault = Fault(Reason.LINE_TOO_LONG, f"it has more than {_MAX_LINE_BYTES} bytes")
    elif b"\0" in line:
        fault = Fault(Reason.NUL, f"NUL at byte {line.index(0) + 1} of the line")
    return line.decode() if fault is None else BadRow(name, number, fault, excerpt_of(line))
