"""Files of word vectors: text of GloVe, fastText and word2vec, and word2vec's binary form; plain, gzip or zip.

A text file has a word and its numbers on each line, separated by spaces. word2vec and fastText announce the number of
rows and the size of a vector on a first line of their own. Words may contain spaces, as a few in GloVe's 840B file do.
A binary file has the same first line, then for each word its letters, a space, and little-endian float32 numbers.
Only the numbers of wanted words are parsed.
"""

from __future__ import annotations

import gzip
import io
import logging
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.errors import UserError

logger = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 22  # bytes read to recognise the format
_CHUNK = 1 << 20  # bytes of a binary file read at a time
_GZIP, _ZIP = b"\x1f\x8b", b"PK"
_FASTTEXT_MODEL = b"\xba\x16\x4f\x2f"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def split_archive(path: Path) -> tuple[Path, str | None]:
    """Split `glove.zip/glove.50d.txt` into the archive and the file in it; other paths have no second part."""
    for parent in path.parents:
        if parent.is_file() and not path.exists():
            return parent, path.relative_to(parent).as_posix()
    return path, None


@contextmanager
def _open_unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file, plain or compressed by its content; translate errors, also those of later reads."""
    archive, member = split_archive(path)
    with ExitStack() as stack:
        try:
            yield io.BufferedReader(_open(stack, archive, member), 1 << 20)
        except EOFError as error:
            raise UserError(f"{path} is cut short: the compressed data ends too early; download it again") from error
        except (zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged ({error}): download it again") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _open(stack: ExitStack, path: Path, member: str | None) -> Any:
    file = stack.enter_context(path.open("rb"))
    start = file.read(2)
    file.seek(0)
    if start == _ZIP:
        archive = stack.enter_context(zipfile.ZipFile(file))
        return stack.enter_context(archive.open(_choose_member(path, archive, member)))
    if member is not None:
        raise UserError(f"{path} is not a zip archive, so it does not contain {member}: give {path} alone")
    return stack.enter_context(gzip.GzipFile(fileobj=file)) if start == _GZIP else file


def _choose_member(path: Path, archive: zipfile.ZipFile, member: str | None) -> str:
    files = [info.filename for info in archive.infolist() if not info.is_dir()]
    if member in files or (member is None and len(files) == 1):
        return member or files[0]
    wanted = "one file of vectors" if member is None else member
    found = ", ".join(files[:10]) or "no file"
    example = f"; give one of them, such as {path / files[0]}" if files else ""
    raise UserError(f"{path} should contain {wanted}: found {found}{example}")


@dataclass(frozen=True)
class VectorFile:
    """A file of word vectors, or `archive.zip/file`."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def first_words(self, limit: int) -> list[str]:
        """Return the words of the first rows, in most files the most frequent words; skip those not in UTF-8."""
        with _open_unpacked(self.path) as stream:
            words = [word.decode(errors="replace") for _, word, _ in islice(_read_rows(stream, self.path), limit)]
        return [word for word in words if "\ufffd" not in word]

    def read(self, wanted: Collection[str]) -> tuple[int, dict[str, np.ndarray]]:
        """Return the size of the vectors, and those of the wanted words that the file has, float32 `(E,)`.

        The whole file is read, so that damage anywhere is found. The first row of a word counts.

        Raises:
            UserError: For damage and other content; the message names the file and the line.
        """
        keys = {word.encode(): word for word in wanted}
        rows: dict[str, np.ndarray] = {}
        with _open_unpacked(self.path) as stream:
            reader = _read_rows(stream, self.path)
            for place, key, numbers in reader:
                if (word := keys.pop(key, None)) is not None:
                    rows[word] = reader.parse(numbers, place)
        return reader.size, rows


class _TextRows:
    """Yields line number, word and numbers of each row of a text file."""

    def __init__(self, stream: io.BufferedReader, path: Path, first: bytes, header: tuple[int, int] | None) -> None:
        self.stream, self.path, self.first, self.header = stream, path, first, header
        self.size = header[1] if header else sum(1 for _ in takewhile(_is_number, reversed(first.split()[1:])))
        if not self.size:
            found = f"found {first.strip()!r:.80}; give vectors of GloVe, fastText (.vec) or word2vec"
            raise UserError(f"{path}, line 1: expected a word and its numbers, {found}")

    def __iter__(self) -> Iterator[tuple[int, bytes, bytes]]:
        size, count, line = self.size, 0, b"\n"
        for number, line in enumerate(chain([self.first], self.stream), 2 if self.header else 1):
            bare = line.rstrip()
            if bare.count(b" ") == size and b"  " not in bare:
                word, _, numbers = bare.partition(b" ")
            elif bare:
                word, numbers = self._split(bare, number)
            else:
                continue
            count += 1
            yield number, word, numbers
        if self.header and count != self.header[0]:
            announced = f"{self.header[0]:,} on line 1: is it cut short? Download it again"
            raise UserError(f"{self.path} has {count:,} rows and announces {announced}")
        if not line.endswith(b"\n"):
            logger.warning("%s: its last line has no line break: is it cut short?", self.path)

    def _split(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        """Split a line with tabs, several spaces, or a word that contains spaces."""
        fields = line.split()
        cut = len(fields) - self.size  # the first number
        if cut < 1 or (cut > 1 and _is_number(fields[cut - 1])):
            found = f"found {len(fields) - 1} numbers, expected {self.size}"
            raise UserError(f"{self.path}, line {number:,}: {found}; if this is the last line, the file is cut short")
        return b" ".join(fields[:cut]), b" ".join(fields[cut:])

    def parse(self, numbers: bytes, place: int) -> np.ndarray:
        try:
            with np.errstate(over="ignore"):  # becomes infinite, which is refused later
                return np.array([float(field) for field in numbers.split()], dtype=np.float32)
        except ValueError as error:
            raise UserError(f"{self.path}, line {place:,}: {error}") from None


class _BinaryRows:
    """Yields number, word and vector of each row of a binary file."""

    def __init__(self, stream: io.BufferedReader, path: Path, first: bytes, header: tuple[int, int]) -> None:
        self.stream, self.path, self.first, self.count, self.size = stream, path, first, *header

    def __iter__(self) -> Iterator[tuple[int, bytes, bytes]]:
        width, buffer, start = 4 * self.size, self.first, 0
        for number in range(1, self.count + 1):
            while (end := buffer.find(b" ", start)) < 0 or len(buffer) <= end + width:
                more = self.stream.read(max(_CHUNK, width))
                if not more:
                    place = f"word {number:,} of the {self.count:,} on its first line"
                    raise UserError(f"{self.path} ends within {place}: is it cut short? Download it again")
                buffer, start = buffer[start:] + more, 0
            yield number, buffer[start:end].lstrip(b"\n"), buffer[end + 1 : end + 1 + width]
            start = end + 1 + width

    def parse(self, numbers: bytes, place: int) -> np.ndarray:
        return np.frombuffer(numbers, dtype="<f4").astype(np.float32)


def _read_rows(stream: io.BufferedReader, path: Path) -> _TextRows | _BinaryRows:
    """Recognise the format by the first line or two."""
    first = stream.readline(_LONGEST_LINE).removeprefix(_BYTE_ORDER_MARK)
    if first.startswith(_FASTTEXT_MODEL):
        raise UserError(f"{path} is a fastText model: give the file of its vectors, which ends in .vec")
    fields = first.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return _TextRows(stream, path, first, None)
    header = int(fields[0]), int(fields[1])
    second = stream.readline(_LONGEST_LINE)
    return (_TextRows if _is_text(second, header[1]) else _BinaryRows)(stream, path, second, header)


def _is_text(row: bytes, size: int) -> bool:
    """Return whether most fields after the word are numbers; single ones may be by chance in a binary file."""
    numbers = row.split()[1:][-size:]
    return sum(map(_is_number, numbers)) * 2 > len(numbers) or b" " not in row


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
