"""Texts → token ids, equal to those of the tokenizer's own call, at the speed of a dictionary; without transformers.

With the word tokenizers of this package and with BERT's, the tokens of a word depend on nothing
beyond the spaces around it. So words are looked up, and new ones go through the tokenizer. Other
tokenizers are called for each batch.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections import ChainMap
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, TypeAlias, cast

import tokenizers

from ..hub.model_folder import FinishedFolder
from ..tokenizers import NO_LENGTH_LIMIT
from ..utils.errors import UserError, check_texts, list_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    Tokenizer: TypeAlias = "PreTrainedTokenizerBase | TokenizerFile"

Ids = tuple[int, ...]

_MOST_WORDS = 1 << 17  # in memory, about 20 MB; beyond this number all are forgotten
_LONGEST = 64  # characters of a word that is remembered
_GROUP = 32  # words encoded as one text, at half the time of words alone
_WORD_MODELS = ("WordLevel", "WordPiece", "Unigram")
# pre-tokenisers, the first ones of a sequence
_CUT_AT_SPACES = ("BertPreTokenizer", "WhitespaceSplit", "Split")


class TokenizerFile:
    """`tokenizer.json` with the settings of `tokenizer_config.json`: what this package uses of transformers' class."""

    is_fast = True

    def __init__(self, folder: FinishedFolder) -> None:
        settings = folder.read_tokenizer_config()
        self.backend_tokenizer = tokenizers.Tokenizer.from_file(str(folder.tokenizer))
        self.model_max_length: int = settings.get("model_max_length") or NO_LENGTH_LIMIT
        self.truncation_side: str = settings.get("truncation_side", "right")
        self.split_special_tokens: bool = settings.get("split_special_tokens", False)
        self.backend_tokenizer.no_padding()

    def get_vocab(self) -> dict[str, int]:
        """Return the tokens with their ids."""
        return self.backend_tokenizer.get_vocab()

    def __call__(
        self,
        texts: Sequence[str] | Sequence[Sequence[str]],
        pairs: Sequence[str] | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        is_split_into_words: bool = False,
        **options: object,
    ) -> Encodings:
        """Return what transformers' class returns for these arguments; the options are not read."""
        set_truncation(
            self.backend_tokenizer,
            max_length or self.model_max_length if truncation else NO_LENGTH_LIMIT,
            self,
        )
        # here, as pickle drops it
        self.backend_tokenizer.encode_special_tokens = self.split_special_tokens
        rows = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        return Encodings(
            self.backend_tokenizer.encode_batch(rows, is_pretokenized=is_split_into_words)
        )


def set_truncation(backend: tokenizers.Tokenizer, limit: int, tokenizer: Tokenizer) -> None:
    """Let a backend truncate at the side of `tokenizer`."""
    now, wanted = backend.truncation or {}, (limit, tokenizer.truncation_side)
    if limit >= NO_LENGTH_LIMIT:
        if now:
            backend.no_truncation()
    elif (now.get("max_length"), now.get("direction")) != wanted:
        backend.enable_truncation(limit, direction=wanted[1])


class Encodings(dict):
    """The parts of transformers' `BatchEncoding` that the answers of a tagger read."""

    def __init__(self, encodings: Sequence[tokenizers.Encoding]) -> None:
        ids, offsets = (
            [getattr(encoding, name) for encoding in encodings] for name in ("ids", "offsets")
        )
        super().__init__(input_ids=ids, offset_mapping=offsets)
        self.word_ids = [encoding.word_ids for encoding in encodings].__getitem__


class FastTokenizer:
    """The token ids of `tokenizer(texts, truncation=True)`, faster, for any tokenizer of transformers or a file.

    `model_max_length` and `truncation_side` are read at each call, vocabulary and rules at
    construction. If `paired`, a text is a pair `(first, second)`.
    """

    def __init__(self, tokenizer: Tokenizer, paired: bool = False) -> None:
        self.tokenizer, self._paired = tokenizer, paired
        self._words: dict[str, Ids] | None = None  # remembered; None where words are not looked up
        self._before: Ids = ()
        self._after: Ids = ()
        backend = None if paired else getattr(tokenizer, "backend_tokenizer", None)
        # a copy, as each call of transformers' class changes how its backend truncates and pads
        backend = backend if isinstance(tokenizer, TokenizerFile) else copy.deepcopy(backend)
        self._backend = cast("tokenizers.Tokenizer", backend)  # or None
        if backend is None:
            return
        set_truncation(backend, NO_LENGTH_LIMIT, tokenizer)
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        first = backend.pre_tokenizer
        first = first[0] if type(first).__name__ == "Sequence" else first
        if (
            type(backend.model).__name__ not in _WORD_MODELS
            or type(first).__name__ not in _CUT_AT_SPACES
        ):
            return
        once, twice = (backend.encode(text, add_special_tokens=False).ids for text in ("a", "a a"))
        whole = backend.encode("a").ids
        starts = [place for place in range(len(whole)) if whole[place : place + len(once)] == once]
        if twice == once * 2 and starts:  # a space makes no token
            self._before, self._after = (
                tuple(whole[: starts[0]]),
                tuple(whole[starts[0] + len(once) :]),
            )
            self._words = {"": ()}

    def __call__(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the token ids of texts, truncated to the tokenizer's `model_max_length`."""
        if self._paired:
            return self._encode_pairs(texts)
        texts, limit = list_texts(cast("Sequence[str]", texts)), self.tokenizer.model_max_length
        room = limit - len(self._before) - len(self._after)
        if self._words is not None and room > 0:
            return self._look_up(texts, self._words, room)
        if self._backend is not None:
            set_truncation(self._backend, limit, self.tokenizer)
            return [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]
        return (
            self.tokenizer(texts, truncation=True, return_attention_mask=False)["input_ids"]
            if texts
            else []
        )

    def _encode_pairs(self, texts: Iterable[str] | Iterable[Sequence[str]]) -> list[list[int]]:
        """Return the ids of each pair around the separator."""
        pairs = (
            list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else [texts]
        )
        for position, pair in enumerate(pairs):
            if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise UserError(
                    f"texts[{position}] must be a pair (first, second): found {pair!r:.80}"
                )
        firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        check_texts(firsts)
        check_texts(seconds)
        return self.tokenizer(firsts, seconds, truncation=True)["input_ids"] if pairs else []

    def _look_up(self, texts: list[str], memory: dict[str, Ids], room: int) -> list[list[int]]:
        """Look up the words of texts, truncate, and add the tokens around each; encode all new words in one call."""
        split = [text.split(" ") for text in texts]
        words = list(dict.fromkeys(word for words in split for word in words if word not in memory))
        new = dict(zip(words, self._encode_words(words), strict=True)) if words else {}
        memory.update((word, ids) for word, ids in new.items() if len(word) <= _LONGEST)
        has_long = any(len(word) > _LONGEST for word in new)
        # a copy would take milliseconds
        ids_of = (ChainMap(memory, new) if has_long else memory).__getitem__
        encoded = [list(chain.from_iterable(map(ids_of, words))) for words in split]
        if len(memory) > _MOST_WORDS:
            self._words = {"": ()}
        if room < NO_LENGTH_LIMIT:
            first = slice(room) if self.tokenizer.truncation_side == "right" else slice(-room, None)
            encoded = [ids if len(ids) <= room else ids[first] for ids in encoded]
        if self._before or self._after:
            return [[*self._before, *ids, *self._after] for ids in encoded]
        return encoded

    def _encode_words(self, words: list[str]) -> list[Ids]:
        """Return the ids that the backend gives to each word."""
        groups = [words[start : start + _GROUP] for start in range(0, len(words), _GROUP)]
        word_ids: list[Ids] = []
        set_truncation(self._backend, NO_LENGTH_LIMIT, self.tokenizer)
        encodings = self._backend.encode_batch(
            [" ".join(group) for group in groups], add_special_tokens=False
        )
        for group, encoding in zip(groups, encodings, strict=True):
            ends = list(accumulate(len(word) + 1 for word in group))
            ids: list[list[int]] = [[] for _ in group]
            for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                # an added token may take a space
                ids[bisect_right(ends, (start + end) / 2)].append(number)
            word_ids += map(tuple, ids)
        return word_ids
