"""Texts → token ids at the speed of a dictionary, equal to those of the tokenizer's own call.

With the tokenizers that this package trains, what a word becomes depends on nothing beyond the spaces around it, and
most words of a text have been seen before. So words are looked up. New ones that are plain are looked up in the
vocabulary itself, the rest goes through the tokenizer. Any other tokenizer is called by its fastest batch call.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from threading import Lock
from typing import Any

from tokenizers import Encoding
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .inference import check_text, list_texts, tokenize
from .normalization import NORMALIZERS, build_normalizer

_KEPT = 1 << 17  # words in memory, about 20 MB; when there are more, all are forgotten
_LONGEST = 64  # characters of a word that is kept
_GROUP = 32  # words encoded as one text
_NO_LIMIT = int(1e20)  # what transformers takes as no `model_max_length` at all
_THREE_ALIKE = re.compile(r"(.)\1\1")
# Letters whose lower case and kind are the same to Python and to the tokenizer, whatever Unicode each is of: Latin,
# Greek, Cyrillic, Hebrew, Arabic, kana, Chinese, Hangul. Not among them is the capital sigma, which Python lowers by
# its place in the word.
_LETTERS = (
    r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u012f\u0131-\u024f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a4-\u03ce"
    r"\u0400-\u0481\u048a-\u04ff\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fd5"
    r"\uac00-\ud7a3"
)
# Of `none`: letters, and what has no case and is no white space: Indic, Thai and Lao, accents, marks, signs, emoji.
_PLAIN = re.compile(
    rf"[!-~{_LETTERS}\u00a1-\u00ac\u00ae-\u00bf\u00d7\u00f7\u0300-\u036f\u0900-\u0eff\u2010-\u2027\u2030-\u205e"
    r"\u20a0-\u20bf\u2190-\u24b5\u24ea-\u27bf\u3001-\u3040\ufe0f\U0001f300-\U0001faff]+"
)
# Of `tweet`: what is one word, perhaps with a mark before or after it, and what becomes a placeholder.
_TWEET_WORD = re.compile(rf"(#?)([{_LETTERS}]+(?:'[{_LETTERS}]+)*)([,.!?;:\"')]?)")
_TWEET_PLACEHOLDER = re.compile(r"(@[A-Za-z0-9_]+)|([hH]ttps?://[A-Za-z0-9./_-]+)|([0-9]+)")
_PLACEHOLDERS = ("<user>", "<url>", "<number>")  # for its groups

Ids = tuple[int, ...]

_ENCODING = Lock()  # while the settings of a backend must stay as they are


class _Words(dict[str, Ids]):
    """The ids of words that have been seen; those of plain ones also when they have not."""

    def __init__(self, known: dict[str, Ids], look_up: Callable[[str], Ids | None]) -> None:
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
        look_up = _find_shortcut(tokenizer)
        self._known = None if look_up is None else _Words({}, look_up).emptied()

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, cut at the tokenizer's `model_max_length`.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        texts = list_texts(texts)
        try:
            if self._known is not None:
                return self._look_up(texts, self._known)
            if isinstance(self.tokenizer, PreTrainedTokenizerFast):
                return self._encode(texts, self.tokenizer.model_max_length)
            return tokenize(self.tokenizer, texts)
        except (TypeError, ValueError):  # what the backend says of a text that is no Unicode
            for text in texts:
                check_text(text)
            raise

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
        limit = self.tokenizer.model_max_length
        if limit < _NO_LIMIT:
            kept = slice(limit) if self.tokenizer.truncation_side == "right" else slice(-limit, None)
            encoded = [ids if len(ids) <= limit else ids[kept] for ids in encoded]
        return encoded

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
        """Call the backend. How it cuts and pads is its own state, which every call of the tokenizer sets anew."""
        backend = self.tokenizer.backend_tokenizer
        with _ENCODING:
            if limit > _NO_LIMIT:
                backend.no_truncation()
            else:
                backend.enable_truncation(limit, direction=self.tokenizer.truncation_side)
            backend.no_padding()
            backend.encode_special_tokens = self.tokenizer.split_special_tokens
            return (backend.encode_batch if offsets else backend.encode_batch_fast)(texts)


def _find_shortcut(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], Ids | None] | None:
    """What looks plain words up without the tokenizer; None if some rule of this tokenizer may look beyond a space.

    None does with all that `train_tokenizer` makes.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    backend = tokenizer.backend_tokenizer
    if (
        backend.normalizer is None
        or backend.pre_tokenizer is None
        or backend.num_special_tokens_to_add(is_pair=False) > 0
        or not isinstance(backend.model, WordLevel)
        or not tokenizer.split_special_tokens
        or not all(token.special for token in tokenizer.added_tokens_decoder.values())
    ):
        return None
    found = [backend.normalizer.__getstate__(), backend.pre_tokenizer.__getstate__()]
    for name in NORMALIZERS:
        for lowercase in (True, False):
            if found == [stage.__getstate__() for stage in build_normalizer(name, lowercase)]:
                return _make_shortcut(name, lowercase or name == "semeval", backend.model)
    return None


def _make_shortcut(normalizer: str, lowercase: bool, model: WordLevel) -> Callable[[str], Ids | None]:
    """A function of words without a space that gives the tokenizer's ids, or None where it does not know them.

    The rules of `none` leave any word without white space as it is but for its case, those of `semeval` one of ASCII
    letters, and those of `tweet` one of letters if no three of them are alike.
    """
    id_of: Any = model.token_to_id
    unknown: Ids = (id_of(model.unk_token),)
    not_read = None, id_of("<pad>")  # typed in a text it is never padding

    def find(word: str) -> Ids:
        number = id_of(word.lower() if lowercase else word)
        return unknown if number in not_read else (number,)

    def look_up(word: str) -> Ids | None:
        return find(word) if word.isascii() and word.isprintable() or _PLAIN.fullmatch(word) else None

    def look_up_letters(word: str) -> Ids | None:
        return find(word) if word.isascii() and word.isalpha() else None

    def look_up_in_tweet(word: str) -> Ids | None:
        parts = _TWEET_WORD.fullmatch(word)
        if parts is None:
            placeholder = _TWEET_PLACEHOLDER.fullmatch(word)
            return find(_PLACEHOLDERS[(placeholder.lastindex or 1) - 1]) if placeholder else None
        if _THREE_ALIKE.search(word.lower()):
            return None
        return tuple(chain.from_iterable(find(part) for part in parts.groups() if part))

    return {"none": look_up, "semeval": look_up_letters, "tweet": look_up_in_tweet}[normalizer]
