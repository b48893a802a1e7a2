"""Names, packing and encodings of files, and lines of streams. Nothing heavy is imported here."""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ..utils.errors import UserError
from .row_errors import EXCERPT_CHARACTERS, BadRow, DataError, Fault, Reason

KINDS = {
    "delimited": ("tsv", "csv", "tab", "psv"),
    "json": ("jsonl", "ndjson", "json"),
    "parquet": ("parquet", "pq"),
    "arrow": ("arrow", "feather", "ipc"),
    "excel": ("xlsx", "xlsm", "xls", "ods"),
}
PACKED = (".gz", ".zst", ".zstd")
TABLE_SUFFIXES = tuple(f".{suffix}" for suffixes in KINDS.values() for suffix in suffixes)

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
    return suffix_of(str(path)) in TABLE_SUFFIXES


def suffix_of(path: str) -> str:
    """Return the suffix of a file's name without that of its packing: `.tsv` of `train.tsv.gz`."""
    name = Path(path.lower())
    return Path(name.stem).suffix if name.suffix in PACKED else name.suffix


def open_unpacked(path: str) -> BinaryIO:
    """Open a file for reading, and unpack gzip and zstd, known by their first bytes."""
    with open(path, "rb") as stream:
        magic = stream.read(4)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(path))
    if magic == b"\x28\xb5\x2f\xfd":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(path), "zstd"))
    return open(path, "rb")


def find_encoding(head: bytes, encoding: str | None, guess: bool = True) -> str:
    """Return the encoding of a text: the named one, or that of its first bytes; cp1252 only with a `guess`."""
    try:
        if encoding is not None:
            encoding = codecs.lookup(encoding).name
    except LookupError:
        raise UserError(f"unknown encoding {encoding!r:.80}: give one such as utf-8, cp1252 or utf-16") from None
    if head.startswith(codecs.BOM_UTF8) and encoding in (None, "utf-8"):
        return "utf-8-sig"
    if encoding is not None or head.startswith(_UTF16_MARKS):
        return encoding or "utf-16"
    lines = [line for line in head.split(b"\n")[: -1 if len(head) >= SAMPLE_BYTES else None] if not line.isascii()]
    bad = sum(find_byte_fault(line) is not None for line in lines)
    return "cp1252" if guess and 2 * bad > len(lines) else "utf-8"


def open_text(path: str, encoding: str, line_end: str = "\n") -> io.TextIOWrapper:
    """Open a text file; undecodable bytes become lone surrogates."""
    return io.TextIOWrapper(open_unpacked(path), encoding, errors="surrogateescape", newline=line_end)


def find_byte_fault(line: bytes, encoding: str = "utf-8") -> Fault | None:
    """Return what is wrong with the bytes of a line."""
    try:
        line.decode(encoding)
    except UnicodeDecodeError as error:
        detail = f"byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line is not {encoding}"
        return Fault(Reason.NOT_UTF8, detail, "Save the file as UTF-8, or name its encoding with --encoding")
    return None


def excerpt_of(line: bytes) -> str:
    r"""Return the start of a line for a message, undecodable bytes as `\xNN`."""
    return line[: 4 * EXCERPT_CHARACTERS].decode(errors="backslashreplace")[:EXCERPT_CHARACTERS].removesuffix("\r")


def read_texts(stream: BinaryIO, name: str, max_line_bytes: int = _MAX_LINE_BYTES) -> Iterator[list[str | BadRow]]:
    """Read UTF-8 to its end, one text per line, and yield lines as soon as they are complete.

    A line ends at LF or CRLF. Empty and blank lines are texts too. Lines with a NUL and lines over the cap are
    rejected; the latter are never in memory as a whole.

    Args:
        stream: Buffered, such as `sys.stdin.buffer`; bytes that have arrived are read without waiting for more.
        name: Name of the stream in messages.
        max_line_bytes: The cap on a line, without its end.

    Raises:
        DataError: If the first bytes are those of UTF-16 or of a compressed file.
    """
    number, rest = 1, b""
    while data := stream.read1(_BLOCK_BYTES):  # type: ignore[attr-defined] # of buffered ones
        *lines, rest = (rest + data).split(b"\n")
        if number == 1 and lines:
            lines[0] = _check_start(lines[0], name)
        if lines:
            yield [_read_line(name, place, line, max_line_bytes) for place, line in enumerate(lines, number)]
        number += len(lines)
        rest = rest[: max_line_bytes + len(codecs.BOM_UTF8) + 2]
    if rest := _check_start(rest, name) if number == 1 else rest:
        yield [_read_line(name, number, rest, max_line_bytes)]


def _check_start(line: bytes, name: str) -> bytes:
    """Return the first line without a byte order mark; reject a stream that is not text."""
    for signature, problem in _SIGNATURES.items():
        if line.startswith(signature):
            raise DataError.for_file(name, Reason.UNREADABLE, problem)
    return line.removeprefix(codecs.BOM_UTF8)


def _read_line(name: str, number: int, line: bytes, cap: int) -> str | BadRow:
    bare = line.removesuffix(b"\r")
    fault = find_byte_fault(bare)
    if len(bare) > cap:
        fault = Fault(Reason.LINE_TOO_LONG, f"it has more than {cap} bytes", "Split or shorten the text")
    elif b"\0" in bare:
        fault = Fault(Reason.NUL, f"NUL at byte {bare.index(0) + 1} of the line")
    return bare.decode() if fault is None else BadRow(name, number, fault, excerpt_of(bare))
