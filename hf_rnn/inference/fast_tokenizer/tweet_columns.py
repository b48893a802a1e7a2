"""Tweets → the ids of their words by Arrow's functions over columns, for many texts at once.

For tokenizers with the normaliser `tweet`. What stands between spaces is taken once, however often it comes, and most
of it has one of a few shapes: a word, a handle, a number, perhaps with marks around it, or a link. The rest is looked
up. That is sooner than a dictionary in Python, whose memory handles and links would fill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..fused.packing import TokenIds
from .word_columns import IdsOf, LookUp

# Shapes, all of ASCII and none with an entity or an escape; what the rules make of them hangs on no other word.
_BEFORE = "#\"'"
_AFTER = ",.!?;:\"')"
_TWICE = ".!?"  # or more often; two of them are left, as one token
_END = rf"(?:[{_AFTER}]|\.\.+|!!+|\?\?+)?$"
_PART = "[A-Za-z_][A-Za-z0-9_]*"
_WORD = rf"^[{_BEFORE}]?{_PART}(?:'{_PART})*{_END}"
_USER = rf"^@[A-Za-z0-9_]+{_END}"
_NUMBER = rf"^[0-9]+(?:[.,:][0-9]+)*{_END}"
_OF_WORDS = np.isin(np.arange(256), list(b"abcdefghijklmnopqrstuvwxyz0123456789_"))
_LINK = r"^[hH][tT][tT][pP][sS]?://[A-Za-z0-9./_~?=#%+:,;!*'-]+$"


@dataclass(frozen=True)
class _Ids:
    """Ids of tokens.

    Attributes:
        words: Of words in a column.
        before (`(256,)`): Of marks before a word, by their code; -1 of what is none.
        after (`(256,)`): Of those after it.
        twice (`(256,)`): Of those that may stand twice after it.
        user: Of a handle.
        number: Of a number.
        link: Of a link.
    """

    words: IdsOf
    before: np.ndarray
    after: np.ndarray
    twice: np.ndarray
    user: int
    number: int
    link: int

    @classmethod
    def find(cls, vocabulary: Mapping[str, int], unknown: int) -> _Ids:
        marks = np.full((3, 256), -1, dtype=np.int64)
        for row, tokens in zip(marks, (_BEFORE, _AFTER, [2 * mark for mark in _TWICE]), strict=True):
            for token in tokens:
                row[ord(token[0])] = vocabulary.get(token, unknown)
        placeholders = (vocabulary.get(token, unknown) for token in ("<user>", "<number>", "<url>"))
        return cls(IdsOf(vocabulary, unknown), *marks, *placeholders)


class TweetColumns:
    """The ids of what stands between spaces.

    Args:
        vocabulary: Gives the words that have an id, and their ids; asked when it is needed first.
        unknown: The id of all others.
        lowercase: Whether the case of texts is lowered.

    Attributes:
        fewest: Of so many texts a call takes less time than looking their words up in a dictionary.
    """

    fewest = 512

    def __init__(self, vocabulary: Callable[[], Mapping[str, int]], unknown: int, lowercase: bool) -> None:
        self._vocabulary, self._unknown, self._lowercase = vocabulary, unknown, lowercase

    @cached_property
    def _ids(self) -> _Ids:
        return _Ids.find(self._vocabulary(), self._unknown)

    def __call__(self, texts: Sequence[str], look_up: LookUp) -> TokenIds:
        """Return the ids of texts.

        Args:
            texts: Texts.
            look_up: Gives the ids of what has no shape that is known here.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        cut = pc.split_pattern(pa.array(texts, type=pa.large_string()), " ")
        coded = cut.values.dictionary_encode()
        own = self._find(coded.dictionary)
        lengths = (own >= 0).sum(axis=1)
        starts = np.cumsum(lengths) - lengths
        others = np.flatnonzero(lengths == 0)
        found = TokenIds.from_lists(look_up(coded.dictionary.take(pa.array(others)).to_pylist()))
        starts[others], lengths[others] = lengths.sum() + found.starts, found.lengths
        ids = np.concatenate([own[own >= 0], found.token_ids])

        words = coded.indices.to_numpy()
        counts = lengths[words]
        ends = np.cumsum(counts)
        places = np.repeat(starts[words] - (ends - counts), counts) + np.arange(counts.sum())
        bounds = np.concatenate([[0], ends])[cut.offsets.to_numpy()]
        return TokenIds(ids[places], bounds[:-1], np.diff(bounds))

    def _find(self, words: Any) -> np.ndarray:
        """`(words, 3)`: the ids of what has a shape, with those of the marks before and after it; -1 is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        def match(pattern: str) -> np.ndarray:
            return pc.match_substring_regex(words, pattern).to_numpy(zero_copy_only=False)

        known, ids = self._ids, np.full((len(words), 3), -1, dtype=np.int64)
        lower = pc.ascii_lower(words)
        starts, ends, codes = _bytes_of(lower)
        sure = ~_three_alike(ends, codes)
        chosen = match(_WORD) & sure
        ids[chosen, 0] = known.before[codes[starts[chosen]]]
        read = (lower if self._lowercase else words).filter(pa.array(chosen))
        ids[chosen, 1] = known.words(pc.ascii_trim(read, _BEFORE + _AFTER))
        ids[match(_USER) & sure, 1] = known.user
        ids[match(_NUMBER), 1] = known.number
        chosen = ids[:, 1] >= 0
        last, second = codes[ends[chosen] - 1], codes[ends[chosen] - 2]
        ids[chosen, 2] = np.where((last == second) & (known.twice[last] >= 0), known.twice[last], known.after[last])
        ids[match(_LINK), 1] = known.link
        return ids


def _bytes_of(words: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each word starts and ends in the bytes of all, and these."""
    _, offsets, codes = words.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[words.offset : words.offset + len(words) + 1]
    return bounds[:-1], bounds[1:], np.frombuffer(codes or b"", dtype=np.uint8)


def _three_alike(ends: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Which words have a letter or digit three times in a row: two would be left, or it is the www of an address."""
    found = np.zeros(len(ends), dtype=bool)
    places = np.flatnonzero((codes[2:] == codes[1:-1]) & (codes[1:-1] == codes[:-2]) & _OF_WORDS[codes[2:]])
    words = np.searchsorted(ends, places, side="right")
    found[words[places + 2 < ends[words]]] = True
    return found
