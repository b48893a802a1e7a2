"""Files of word vectors: text of GloVe, fastText (.vec) and word2vec; plain, `.gz` or `.zst`.

A line has a word and its numbers, separated by spaces. word2vec and fastText announce the number of rows and the size
of a vector on a first line of their own. Words may contain spaces, as a few in GloVe's 840B file do. Only the numbers
of wanted words are parsed.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...utils.errors import UserError, reason_of
from ..delimited import open_unpacked

logger = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 22  # bytes read to recognise the format
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BINARY = {b"\xba\x16\x4f\x2f": "a fastText model: give its .vec file", b"PK\x03\x04": "a zip archive: unpack it"}


@dataclass(frozen=True)
class VectorFile:
    """A file of word vectors."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def first_words(self, limit: int) -> list[str]:
        """Return the words of the first rows, in most files the most frequent words; skip those not in UTF-8."""
        words = [word.decode(errors="replace") for _, word, _ in islice(self._rows(), 1, limit + 1)]
        return [word for word in words if "\ufffd" not in word]

    def read(self, wanted: Collection[str]) -> tuple[int, dict[str, np.ndarray]]:
        """Return the size of the vectors, and those of the wanted words that the file has, float32 `(E,)`.

        The whole file is read, so that damage anywhere is found. The first row of a word counts.

        Raises:
            UserError: For damage and other content; the message names the file and the line.
        """
        keys, rows = {word.encode(): word for word in wanted}, self._rows()
        size, vectors = next(rows)[0], {}
        for line, key, numbers in rows:
            if (word := keys.pop(key, None)) is not None:
                try:
                    with np.errstate(over="ignore"):  # becomes infinite, which is refused later
                        vectors[word] = np.array([float(field) for field in numbers.split()], dtype=np.float32)
                except ValueError as error:
                    raise UserError(f"{self.path}, line {line:,}: {error}") from None
        return size, vectors

    def _rows(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield the size of the vectors, then line number, word and numbers of each row."""
        try:
            with open_unpacked(str(self.path)) as stream:
                yield from self._split_lines(stream)
        except (EOFError, zlib.error, OSError) as error:
            found = getattr(error, "strerror", None) or reason_of(error)
            raise UserError(f"{self.path} cannot be read, or is cut short: {found}; download it again") from error

    def _split_lines(self, stream: BinaryIO) -> Iterator[tuple[int, bytes, bytes]]:
        first = stream.readline(_LONGEST_LINE).removeprefix(_BYTE_ORDER_MARK)
        for magic, kind in _BINARY.items():
            if first.startswith(magic):
                raise UserError(f"{self.path} is {kind}")
        announced, fields = None, first.split()
        if len(fields) == 2 and all(field.isdigit() for field in fields):
            announced, size = map(int, fields)
            first = stream.readline(_LONGEST_LINE)
            if b"\0" in first or not any(map(_is_number, first.split()[1:])):
                raise UserError(f"{self.path} is not text: save binary vectors of word2vec in its text format")
        else:
            size = sum(1 for _ in takewhile(_is_number, reversed(fields[1:])))
        if not size:
            found = f"found {first.strip()!r:.80}; give vectors of GloVe, fastText (.vec) or word2vec"
            raise UserError(f"{self.path}, line 1: expected a word and its numbers, {found}")
        yield size, b"", b""
        count, line = 0, b"\n"
        for number, line in enumerate(chain([first], stream), 1 if announced is None else 2):
            bare = line.rstrip()
            if bare.count(b" ") == size and b"  " not in bare:
                word, _, numbers = bare.partition(b" ")
            elif bare:  # tabs, several spaces, or a word that contains spaces
                fields = bare.split()
                cut = len(fields) - size  # the first number
                if cut < 1 or (cut > 1 and _is_number(fields[cut - 1])):
                    found = f"found {len(fields) - 1} numbers, expected {size}"
                    advice = "if this is the last line, the file is cut short"
                    raise UserError(f"{self.path}, line {number:,}: {found}; {advice}")
                word, numbers = b" ".join(fields[:cut]), b" ".join(fields[cut:])
            else:
                continue
            count += 1
            yield number, word, numbers
        if announced not in (None, count):
            found = f"{self.path} has {count:,} rows and announces {announced:,} on line 1"
            raise UserError(f"{found}: is it cut short? Download it again")
        if not line.endswith(b"\n"):
            logger.warning("%s: its last line has no line break: is it cut short?", self.path)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
