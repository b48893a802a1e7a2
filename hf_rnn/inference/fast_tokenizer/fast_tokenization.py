"""Texts → token ids at the speed of a dictionary, equal to those of the tokenizer's own call.

With the tokenizers that this package trains, and with BERT's, what a word becomes depends on nothing beyond the spaces
around it, and most words of a text have been seen before. So words are looked up. New ones that are plain are looked
up in the vocabulary itself, the rest goes through the tokenizer. Many texts at once need little Python for that, or
none, by `word_columns.py` and `tweet_columns.py`. Any other tokenizer is called by its fastest batch call.
"""

from __future__ import annotations

import copy
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain
from threading import Lock
from typing import Any

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..fused.packing import TokenIds
from ..reference import list_texts, tokenize
from .word_rules import Ids, LookUp, find_rules

_KEPT = 1 << 17  # words in memory, about 20 MB; when there are more, all are forgotten
_LONGEST = 64  # characters of a word that is kept
_ENTRIES_A_TEXT = 8  # of the vocabulary, which columns hash anew in each call; a text saves the time of about sixteen
_GROUP = 32  # words encoded as one text
_NO_LIMIT = int(1e20)  # what transformers takes as no `model_max_length` at all

_ENCODING = Lock()  # while the settings of a backend must stay as they are


def _renew_lock() -> None:
    global _ENCODING
    _ENCODING = Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)  # a thread that held it is not there to let go


def _own_backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """A copy of a fast tokenizer's backend: other threads' calls of the tokenizer change how its own cuts and pads."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    return _copy(tokenizer.backend_tokenizer)


def _copy(backend: Any) -> Any:
    try:
        return copy.deepcopy(backend)
    except Exception:  # parts of it are written in Python, and the backend raises no narrower kind
        return backend


class _Words(dict[str, Ids]):
    """The ids of words that have been seen; those of plain ones also when they have not."""

    def __init__(self, known: dict[str, Ids], look_up: LookUp) -> None:
        super().__init__(known)
        self._look_up = look_up

    def __missing__(self, word: str) -> Ids:
        ids = self._look_up(word)
        if ids is None:
            raise KeyError(word)
        if len(word) <= _LONGEST:
            self[word] = ids
        return ids

    def knows(self, word: str) -> bool:
        """Whether the ids of a word are here, or can be found without the tokenizer."""
        try:
            self[word]
        except KeyError:
            return False
        return True

    def emptied(self) -> _Words:
        """Return another one that has seen no word."""
        return _Words({"": ()}, self._look_up)


class FastTokenizer:
    """The token ids of `tokenizer(texts, truncation=True)`, sooner.

    Args:
        tokenizer: Any; its `model_max_length` and `truncation_side` are those of the moment of a call, its vocabulary
            and its rules those of now.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._backend, self._process = _own_backend(tokenizer), os.getpid()
        rules = find_rules(tokenizer)
        self._known = None if rules is None else _Words({}, rules.look_up).emptied()
        self._before, self._after = ((), ()) if rules is None else rules.around
        self._columns = None if rules is None else rules.columns
        self._fewest = 0 if rules is None else len(tokenizer) / _ENTRIES_A_TEXT

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, cut at the tokenizer's `model_max_length`.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        texts = list_texts(texts)
        if self._known is not None and self._room() > 0:
            return self._look_up(texts, self._known)
        if isinstance(self.tokenizer, PreTrainedTokenizerFast):
            return self._encode(texts, self.tokenizer.model_max_length)
        return tokenize(self.tokenizer, texts)

    def arrange(self, texts: Sequence[str]) -> TokenIds:
        """Return the same ids as a call, in one array, which many texts come sooner in.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        texts = list_texts(texts)
        known, columns, limit = self._known, self._columns, self._room()
        if known is None or columns is None or limit <= 0 or len(texts) < max(columns.fewest, self._fewest):
            return TokenIds.from_lists(self(texts))
        return columns(texts, lambda others: self._look_up(others, known)).cut(limit, self.tokenizer.truncation_side)

    def _look_up(self, texts: list[str], known: _Words) -> list[list[int]]:
        """Look up what stands between spaces; new words that are not plain are encoded together."""
        ids_of = known.__getitem__
        encoded: list[list[int]] = []
        waiting = []
        for text in texts:
            words = text.split(" ")
            try:
                encoded.append(list(chain.from_iterable(map(ids_of, words))))
            except KeyError:
                waiting.append((len(encoded), words))
                encoded.append([])
        if waiting:
            distinct = dict.fromkeys(chain.from_iterable(words for _, words in waiting))
            new = [word for word in distinct if not known.knows(word)]
            found = dict(zip(new, self._encode_words(new), strict=True))
            ids_of = {word: found[word] if word in found else known[word] for word in distinct}.__getitem__
            for position, words in waiting:
                encoded[position] = list(chain.from_iterable(map(ids_of, words)))
            known.update((word, ids) for word, ids in found.items() if len(word) <= _LONGEST)
        if len(known) > _KEPT:
            self._known = known.emptied()  # a new one: other threads may be reading this one
        return self._finish(encoded)

    def _room(self) -> int:
        """How many tokens of a text there may be beside those that the tokenizer puts around it."""
        return self.tokenizer.model_max_length - len(self._before) - len(self._after)

    def _finish(self, encoded: list[list[int]]) -> list[list[int]]:
        """Cut at the limit, and add what the tokenizer puts around a text."""
        limit, before, after = self._room(), self._before, self._after
        if limit < _NO_LIMIT:
            kept = slice(limit) if self.tokenizer.truncation_side == "right" else slice(-limit, None)
            encoded = [ids if len(ids) <= limit else ids[kept] for ids in encoded]
        return [[*before, *ids, *after] for ids in encoded] if before or after else encoded

    def _encode_words(self, words: list[str]) -> list[Ids]:
        """The ids of words, of which many make a text for the backend: alone each costs twice as much."""
        groups = [words[start : start + _GROUP] for start in range(0, len(words), _GROUP)]
        found: list[Ids] = []
        encodings = self._call_backend([" ".join(group) for group in groups], _NO_LIMIT + 1, offsets=True)
        for group, encoding in zip(groups, encodings, strict=True):
            ends = list(accumulate(len(word) + 1 for word in group))
            ids: list[list[int]] = [[] for _ in group]
            for number, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
                ids[bisect_right(ends, start)].append(number)
            found += map(tuple, ids)
        return found

    def _encode(self, texts: list[str], limit: int) -> list[list[int]]:
        return [encoding.ids for encoding in self._call_backend(texts, limit)]

    def _call_backend(self, texts: list[str], limit: int, offsets: bool = False) -> list[Encoding]:
        """Call the backend; with offsets for the tokens of the texts alone, without those that it puts around them.

        How it cuts and pads is its own state, which every call sets anew.
        """
        if self._process != os.getpid():  # a fork, at which a thread that is not here may have been reading it
            self._backend, self._process = _copy(self._backend), os.getpid()
        backend: Any = self._backend
        with _ENCODING:
            if limit > _NO_LIMIT:
                backend.no_truncation()
            else:
                backend.enable_truncation(limit, direction=self.tokenizer.truncation_side)
            backend.no_padding()
            backend.encode_special_tokens = self.tokenizer.split_special_tokens
            if offsets:
                return backend.encode_batch(texts, add_special_tokens=False)
            return backend.encode_batch_fast(texts)
