"""Files of word vectors → rows, one at a time: GloVe's and fastText's text, word2vec's text and its binary.

Whether a row is wanted is decided by its word, before its numbers are parsed: the rest costs next to nothing. Which
words are wanted, and what becomes of them, is decided elsewhere.

A text file has a word and its numbers on each line, apart by spaces; word2vec and fastText announce rows and numbers
on a first line of their own. A word with spaces in it, as GloVe's 840B file has some, is what stands before the last
numbers. A binary file has the same first line, then for each word its letters, a space, and little-endian float32.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from ...utils.errors import UserError
from .archive import open_unpacked

logger = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 22  # bytes
_LONGEST_COUNT = 18  # digits
_CHUNK = 1 << 20  # bytes of a binary file that are read at a time
_FASTTEXT_MODEL = b"\xba\x16\x4f\x2f"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Table:
    """Vectors by word.

    Attributes:
        size: Numbers of a vector, E.
        rows: float32 `(E,)` by word, in the order in which they stand.
    """

    size: int
    rows: dict[str, np.ndarray]


@dataclass(frozen=True)
class VectorFile:
    """A file of word vectors.

    Attributes:
        path: Plain, gzip, or zip; see [`open_unpacked`].
    """

    path: Path

    @property
    def name(self) -> str:
        """What the vectors are called: the file's name."""
        return self.path.name

    def first_words(self, limit: int) -> list[str]:
        """Return the first words of the file, the most frequent ones in most files, at most so many.

        Raises:
            UserError: As `read`.
        """
        words = []
        with open_unpacked(self.path) as stream:
            reader = _start(stream, self.path)
            for _, (place, word, _) in zip(range(limit), reader.rows(), strict=False):
                words.append(reader.decode(word, place))
        return words

    def read(self, wanted: Collection[str]) -> Table:
        """Read the vectors of some words; the whole file is looked at, so that damage anywhere is found.

        Args:
            wanted: The words.

        Raises:
            UserError: For a file that is empty, cut short or no file of vectors, a row with more or fewer numbers than
                the others, a word that is not UTF-8; and among the wanted words a number that is none or not finite,
                and one that stands twice with different numbers (with the same ones it is no mistake). The message
                names the file and the line or byte. Where the last line of a text does not end, the log asks
                whether it is cut short: files are made without that end too.
        """
        keys = {word.encode(): word for word in wanted}
        rows: dict[str, np.ndarray] = {}
        places: dict[str, int] = {}
        with open_unpacked(self.path) as stream:
            reader = _start(stream, self.path)
            for place, key, numbers in reader.rows():
                word = keys.get(key)
                if word is None:
                    if not key.isascii():
                        reader.decode(key, place)
                    continue
                vector = reader.parse(numbers, place)
                if not np.isfinite(vector).all():
                    raise UserError(f"{reader.tell(place)}: the vector of {word!r} holds a number that is not finite")
                if word in rows and not np.array_equal(rows[word], vector):
                    raise UserError(
                        f"{reader.tell(place)}: {word!r} stands there a second time with other numbers, first at "
                        f"{reader.unit} {places[word]:,}: remove one of the two"
                    )
                rows.setdefault(word, vector)
                places.setdefault(word, place)
        return Table(reader.size, rows)

    def compose(self, words: Collection[str]) -> dict[str, np.ndarray]:
        """Return nothing: a file has no vectors for words that do not stand in it."""
        return {}


@dataclass
class _Reader:
    """What the formats have in common.

    Attributes:
        stream: The bytes that were not looked at yet.
        path: For messages.
        size: Numbers of a vector.
        announced: Rows, as the first line says; None where there is no such line.
        pending: Bytes that were read to know the format, and come before those of the stream.
    """

    stream: io.BufferedReader
    path: Path
    size: int
    announced: int | None
    pending: bytes

    unit: ClassVar[str]  # what a place is counted in

    def rows(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield the place of each row, its word, and its numbers as they stand there."""
        raise NotImplementedError

    def parse(self, numbers: bytes, place: int) -> np.ndarray:
        """Return the numbers of a row."""
        raise NotImplementedError

    def tell(self, place: int) -> str:
        """Return file and place, for a message."""
        return f"{self.path}, {self.unit} {place:,}"

    def decode(self, word: bytes, place: int) -> str:
        """Return a word as text."""
        try:
            return word.decode()
        except UnicodeDecodeError:
            raise UserError(
                f"{self.tell(place)}: the word {word!r:.80} is not UTF-8: convert the file to it"
            ) from None


class _Text(_Reader):
    unit = "line"

    @classmethod
    def without_header(cls, stream: io.BufferedReader, path: Path, first: bytes) -> Self:
        """Take the first line for a row, and its numbers for as many as all rows have."""
        fields = first.split()
        size = 0
        while size < len(fields) - 1 and _is_number(fields[-1 - size]):
            size += 1
        if not size:
            raise UserError(
                f"{path}, line 1: a word and its numbers should stand there, found {first.strip()!r:.80}. Give "
                "vectors as text (GloVe, fastText's .vec, word2vec) or in word2vec's binary form"
            )
        return cls(stream, path, size, None, first)

    def rows(self) -> Iterator[tuple[int, bytes, bytes]]:
        size, count = self.size, 0
        number = 0 if self.announced is None else 1
        line = self.pending or _read_line(self.stream, self.path)
        last = b""
        while line:
            number += 1
            bare = line.strip(b"\r\n").rstrip(b" ")
            if bare.count(b" ") == size and b"  " not in bare:
                word, _, numbers = bare.partition(b" ")
                count += 1
                yield number, word, numbers
            elif bare:
                word, numbers = self._split(bare, number)
                count += 1
                yield number, word, numbers
            last, line = line, _read_line(self.stream, self.path)
        if self.announced is not None and count != self.announced:
            raise UserError(
                f"{self.path} holds {count:,} words and announces {self.announced:,} on line 1: is it cut short? "
                "Get it again"
            )
        if not last.endswith(b"\n"):
            logger.warning("%s: its last line does not end: is it cut short?", self.path)

    def _split(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        """Split a line that is not one word and as many numbers as it should have, each after one space."""
        fields = line.split()
        own = len(fields) - 1
        cut = own - self.size
        # a word with spaces may end in digits, which are no number where numbers are written with a point
        digits = cut > 0 and fields[cut].isdigit() and not any(field.isdigit() for field in fields[cut + 1 :])
        if cut < 0 or (cut > 0 and _is_number(fields[cut]) and not digits):
            like = "as on the lines before" if self.announced is None else "as line 1 announces"
            raise UserError(
                f"{self.tell(number)}: {own} numbers should be {self.size}, {like}. Where this is the last line, the "
                "file is cut short"
            )
        return b" ".join(fields[: cut + 1]), b" ".join(fields[cut + 1 :])

    def parse(self, numbers: bytes, place: int) -> np.ndarray:
        try:
            with np.errstate(over="ignore"):  # becomes infinite, which is refused
                vector = np.array([_to_float(field) for field in numbers.split()], dtype=np.float32)
        except ValueError as error:
            raise UserError(f"{self.tell(place)}: {error}") from None
        if len(vector) != self.size:
            raise UserError(f"{self.tell(place)}: {len(vector)} numbers should be {self.size}")
        return vector


class _Binary(_Reader):
    unit = "byte"

    def rows(self) -> Iterator[tuple[int, bytes, bytes]]:
        width, buffer, start = 4 * self.size, self.pending, 0
        origin = self.stream.tell() - len(buffer)  # byte of the file at which the buffer starts
        for number in range(self.announced or 0):
            while (end := buffer.find(b" ", start)) < 0 or len(buffer) <= end + width:
                more = self.stream.read(max(_CHUNK, width))
                if not more or (end < 0 and len(buffer) - start > _CHUNK):
                    raise UserError(
                        f"{self.tell(origin + len(buffer))}: the file ends, or is damaged, within word {number + 1:,} "
                        f"of the {self.announced:,} that its first line announces. Get it again"
                    )
                origin += start
                buffer, start = buffer[start:] + more, 0
            yield origin + start, buffer[start:end].lstrip(b"\n"), buffer[end + 1 : end + 1 + width]
            start = end + 1 + width
        if (buffer[start:] + self.stream.read(2)).strip():
            raise UserError(
                f"{self.tell(origin + start)}: the file goes on after the {self.announced:,} words of {self.size} "
                "numbers that its first line announces"
            )

    def parse(self, numbers: bytes, place: int) -> np.ndarray:
        return np.frombuffer(numbers, dtype="<f4").astype(np.float32)

    def decode(self, word: bytes, place: int) -> str:
        try:
            return super().decode(word, place)
        except UserError as error:
            raise UserError(
                f"{error}, or, where that is no word, get it again: it is damaged, or its vectors do not have the "
                f"{self.size} numbers that its first line announces"
            ) from None


def _start(stream: io.BufferedReader, path: Path) -> _Reader:
    """Read as much as tells the format."""
    first = _read_line(stream, path).removeprefix(_BYTE_ORDER_MARK)
    if not first.strip():
        raise UserError(f"{path} is empty" if not first else f"{path}, line 1 is empty: there should be a word")
    if first.startswith(_FASTTEXT_MODEL):
        raise UserError(f"{path} is a whole fastText model: give the file of its vectors, which ends in .vec")
    fields = first.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return _Text.without_header(stream, path, first)
    if max(map(len, fields)) > _LONGEST_COUNT:
        raise UserError(f"{path}, line 1 announces {first.strip()!r:.80}, more than a file can hold")
    rows, size = map(int, fields)
    if not rows or not 0 < size < _LONGEST_LINE:
        raise UserError(f"{path}, line 1 announces {rows:,} words of {size:,} numbers")
    second = stream.readline(_LONGEST_LINE)
    return (_Text if _is_text(second, size) else _Binary)(stream, path, size, rows, second)


def _is_text(row: bytes, size: int) -> bool:
    """Tell by what follows the word, which in a binary file may look like a number here or there, by chance."""
    numbers = row.split()[1:][-size:]
    return sum(map(_is_number, numbers)) * 2 > len(numbers) or b" " not in row


def _read_line(stream: io.BufferedReader, path: Path) -> bytes:
    line = stream.readline(_LONGEST_LINE)
    if len(line) == _LONGEST_LINE:
        raise UserError(f"{path} has a line of over {_LONGEST_LINE:,} bytes: it is no file of vectors")
    return line


def _is_number(field: bytes) -> bool:
    try:
        _to_float(field)
    except ValueError:
        return False
    return True


def _to_float(field: bytes) -> float:
    if b"_" in field:  # which Python allows between digits
        raise ValueError(f"could not convert string to float: {field!r}")
    return float(field)
