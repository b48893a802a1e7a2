"""Texts → token ids at the speed of a dictionary, equal to those of the tokenizer's own call.

With the tokenizers that this package trains, what a word becomes depends on nothing beyond the spaces around it, and
most words of a text have been seen before. So words are looked up. New ones that are plain are looked up in the
vocabulary itself, the rest goes through the tokenizer. Any other tokenizer is called by its fastest batch call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from threading import Lock

from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .inference import check_text, list_texts, tokenize
from .normalization import NORMALIZERS, build_normalizer

_KEPT = 1 << 17  # words in memory, about 20 MB; when there are more, all are forgotten
_LONGEST = 64  # characters of a word that is kept
_NO_LIMIT = int(1e20)  # what transformers takes as no `model_max_length` at all
_THREE_ALIKE = re.compile(r"(.)\1\1")
# Of `tweet`: what is one word, perhaps with a mark before or after it, and what becomes a placeholder.
_TWEET_WORD = re.compile(r"(#?)([A-Za-z]+(?:'[A-Za-z]+)*)([,.!?;:\"')]?)")
_TWEET_PLACEHOLDERS = {
    "<user>": re.compile(r"@[A-Za-z0-9_]+"),
    "<url>": re.compile(r"[hH]ttps?://[A-Za-z0-9./_-]+"),
    "<number>": re.compile(r"[0-9]+"),
}

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
        return word in self or self._look_up(word) is not None

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
            new = list({word for _, words in waiting for word in words if not known.knows(word)})
            found = dict(zip(new, map(tuple, self._encode(new, _NO_LIMIT + 1)), strict=True))
            for position, words in waiting:
                ids_of_words = (found[word] if word in found else known[word] for word in words)
                encoded[position] = list(chain.from_iterable(ids_of_words))
            known.update((word, ids) for word, ids in found.items() if len(word) <= _LONGEST)
        if len(known) > _KEPT:
            self._known = known.emptied()  # a new one: other threads may be reading this one
        limit = self.tokenizer.model_max_length
        if limit < _NO_LIMIT:
            kept = slice(limit) if self.tokenizer.truncation_side == "right" else slice(-limit, None)
            encoded = [ids if len(ids) <= limit else ids[kept] for ids in encoded]
        return encoded

    def _encode(self, texts: list[str], limit: int) -> list[list[int]]:
        """Call the backend. How it cuts and pads is its own state, which every call of the tokenizer sets anew."""
        backend = self.tokenizer.backend_tokenizer
        with _ENCODING:
            if limit > _NO_LIMIT:
                backend.no_truncation()
            else:
                backend.enable_truncation(limit, direction=self.tokenizer.truncation_side)
            backend.no_padding()
            backend.encode_special_tokens = self.tokenizer.split_special_tokens
            encodings = backend.encode_batch_fast(texts)
        return [encoding.ids for encoding in encodings]


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
                own = backend.get_vocab(with_added_tokens=False)
                return _make_shortcut(name, lowercase or name == "semeval", own, tokenizer.unk_token)
    return None


def _make_shortcut(
    normalizer: str, lowercase: bool, vocabulary: dict[str, int], unknown: str
) -> Callable[[str], Ids | None]:
    """A function of words without a space that gives the tokenizer's ids, or None where it does not know them.

    The rules of `none` leave any word of ASCII as it is but for its case, those of `semeval` one of ASCII letters, and
    those of `tweet` such a one if no three of its letters are alike.
    """
    ids = {word: (number,) for word, number in vocabulary.items()}
    otherwise = ids[unknown]
    ids["<pad>"] = otherwise  # typed in a text it is never padding

    def find(word: str) -> Ids:
        return ids.get(word.lower() if lowercase else word, otherwise)

    def look_up(word: str) -> Ids | None:
        plain = word.isascii() and (word.isprintable() if normalizer == "none" else word.isalpha())
        return find(word) if plain else None

    def look_up_in_tweet(word: str) -> Ids | None:
        parts = _TWEET_WORD.fullmatch(word)
        if parts is None:
            for name, pattern in _TWEET_PLACEHOLDERS.items():
                if pattern.fullmatch(word):
                    return ids.get(name, otherwise)
            return None
        if _THREE_ALIKE.search(word.lower()):
            return None
        return tuple(chain.from_iterable(find(part) for part in parts.groups() if part))

    return look_up_in_tweet if normalizer == "tweet" else look_up
