"""Bytes to texts: encodings of files, and lines of streams. Nothing heavy is imported here."""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ..utils.errors import DataError, SettingError
from .errors import EXCERPT_CHARACTERS, BadRow, Fault, Reason, file_error
from .lines import SAMPLE_BYTES, open_unpacked

logger = logging.getLogger(__name__)

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WINDOWS = "cp1252"
# In languages of cp1252 these are rare: letters in a row that ASCII lacks, and signs in words.
# Words in Cyrillic, Greek, Arabic or Chinese consist of the former, Polish ones have the latter.
_FOREIGN = re.compile(
    r"[^\W\d_a-zA-Z]{3,}|(?<=[a-zA-Z])([¡-¦¨-¬®-¶¸-¿×÷](?=[a-zA-Z])|[¹³¿](?=\s|[.,;:!?]|$))"
)
_FOREIGN_SHARE = 0.02  # share of the runs of characters that ASCII lacks
_BEYOND_LATIN_1 = re.compile("[ƒŠŒŽšœžŸ]")  # 0x80 to 0x9f, where other encodings have letters
_MAX_LINE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 18
_UTF16 = "it starts with the mark of UTF-16: save it as UTF-8"
_SIGNATURES = {
    **dict.fromkeys(_UTF16_MARKS, _UTF16),
    b"\x1f\x8b": "its first bytes are those of gzip: unpack it",
    b"PK\x03\x04": "its first bytes are those of zip: unpack it, or export a table",
}


# ---- encodings ----


def find_encoding(path: str, head: bytes, named: str | None, guess: bool = True) -> str:
    """Return the encoding of a text file: the named one, UTF-16 by its mark, or UTF-8.

    If no line beyond ASCII is UTF-8, it is cp1252 with a warning, provided that the lines look like
    it. One line of UTF-8 suffices for UTF-8: other lines are rejected one by one.

    Args:
        path: The file; its other lines are read if those of the head are not UTF-8.
        head: The first bytes of the file.
        named: The encoding that the user names, if any.
        guess: Whether it may be cp1252.

    Raises:
        SettingError: For an unknown name.
        DataError: For a file in none of these encodings, with a suggestion.
    """
    try:
        encoding = codecs.lookup("utf-8" if named is None else named).name
    except LookupError:
        advice = "give one such as utf-8, cp1252 or utf-16"
        raise SettingError(f"unknown encoding {named!r:.80}: {advice}") from None
    if head.startswith(codecs.BOM_UTF8) and encoding == "utf-8":
        return "utf-8-sig"
    if named is not None:
        return encoding
    if head.startswith(_UTF16_MARKS):
        return "utf-16"
    lines = head.split(b"\n")
    if len(head) >= SAMPLE_BYTES:
        del lines[-1]
    lines = [line for line in lines if not line.isascii()]
    if not guess or not lines:
        return "utf-8"
    with open_unpacked(path) as stream:
        if any(find_byte_fault(line) is None for line in stream if not line.isascii()):
            return "utf-8"
    return _guess_windows(path, lines)


def _guess_windows(path: str, lines: Sequence[bytes]) -> str:
    """Return cp1252 if lines look like it; otherwise ask for the encoding."""
    from charset_normalizer import from_bytes

    sample = b"\n".join(lines[:1000])
    best = from_bytes(sample).best()
    suggestion = "gb18030" if best is None else best.encoding
    try:
        text = sample.decode(_WINDOWS)
    except UnicodeDecodeError:
        is_windows = False
    else:
        runs = len(re.findall(r"[^\x00-\x7f]+", text))
        is_windows = sum(1 for _ in _FOREIGN.finditer(text)) <= _FOREIGN_SHARE * runs
        if _BEYOND_LATIN_1.search(text):
            is_windows &= suggestion == _WINDOWS
        is_windows &= suggestion != "cp1254"  # Turkish, with six other letters
    if not is_windows:
        detail = "it is neither UTF-8, UTF-16 nor cp1252"
        advice = f"give its encoding, such as --encoding {suggestion}"
        message = f"{path}: {Reason.NOT_UTF8}: {detail}; {advice}"
        raise DataError(message, path, Reason.NOT_UTF8)
    logger.warning(
        "%s: the encoding cp1252 is a guess, with %r; if this is wrong, set --encoding",
        path,
        text.partition("\n")[0][:EXCERPT_CHARACTERS],
    )
    return _WINDOWS


# ---- lines ----


def find_byte_fault(line: bytes | str, encoding: str = "utf-8") -> Fault | None:
    """Return what is wrong with a line of bytes, or of text with lone surrogates for bad bytes."""
    try:
        line.encode() if isinstance(line, str) else line.decode(encoding)
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raw = as_bytes(line[: error.start + 1])
        name = encoding.removesuffix("-sig")
        detail = f"byte 0x{raw[-1]:02x} at byte {len(raw)} of the line is not {name}"
        return Fault(Reason.NOT_UTF8, detail)
    return None


def as_bytes(line: bytes | str) -> bytes:
    """Return the bytes of a line; its lone surrogates are the bytes that were not decoded."""
    return line.encode(errors="surrogateescape") if isinstance(line, str) else line


def excerpt_of(line: bytes | str) -> str:
    r"""Return the start of a line for a message, undecodable bytes as `\xNN`."""
    start = as_bytes(line[: 4 * EXCERPT_CHARACTERS])
    return start.decode(errors="backslashreplace")[:EXCERPT_CHARACTERS]


def read_stream(stream: BinaryIO, name: str) -> Iterator[list[str | BadRow]]:
    """Read UTF-8 to its end, one text per line, and yield lines as soon as they are complete.

    A line ends at LF or CRLF. Empty and blank lines are texts too. Lines with a NUL and lines over
    1 MiB are rejected; the latter are never in memory as a whole. Raises a [`DataError`] if the
    first bytes are those of another format.

    Args:
        stream: Buffered, such as `sys.stdin.buffer`; bytes that have arrived are read without
            waiting for more.
        name: Name of the stream in messages.
    """
    number = 1
    rest = b""
    ended = False
    while not ended:
        data = stream.read1(_BLOCK_BYTES)  # type: ignore[attr-defined] # of buffered ones
        ended = not data
        *lines, rest = (rest + data).split(b"\n")
        if ended and rest:
            lines.append(rest)
        if number == 1 and lines:
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
            for mark, problem in _SIGNATURES.items():
                if lines[0].startswith(mark):
                    raise file_error(name, Reason.UNREADABLE, problem)
        if lines:
            yield [_read_line(name, place, line) for place, line in enumerate(lines, number)]
        number += len(lines)
        rest = rest[: _MAX_LINE_BYTES + len(codecs.BOM_UTF8) + 2]


def _read_line(name: str, number: int, line: bytes) -> str | BadRow:
    """Return the text of a line, or why it is rejected."""
    line = line.removesuffix(b"\r")
    fault = find_byte_fault(line)
    if len(line) > _MAX_LINE_BYTES:
        fault = Fault(Reason.LINE_TOO_LONG, f"it has more than {_MAX_LINE_BYTES} bytes")
    elif b"\0" in line:
        fault = Fault(Reason.NUL, f"NUL at byte {line.index(0) + 1} of the line")
    return line.decode() if fault is None else BadRow(name, number, fault, excerpt_of(line))
