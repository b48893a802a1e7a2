"""Texts → token ids, equal to those of the tokenizer's own call, at the speed of a dictionary; without transformers.

With the word tokenizers of this package and with BERT's, the tokens of a word do not depend on words beyond the spaces
around it, and most words of a text have been seen before. So words are looked up, and new ones go through the
tokenizer. Any other tokenizer is called by its fastest batch call.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections import ChainMap
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, TypeAlias

import tokenizers

from ..hub.model_folder import FinishedFolder, name_damage
from ..utils.errors import UserError, check_texts, list_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    Tokenizer: TypeAlias = "PreTrainedTokenizerBase | TokenizerFile"

Ids = tuple[int, ...]

_KEPT = 1 << 17  # words in memory, about 20 MB; beyond this number all are forgotten
_LONGEST = 64  # characters of a word that is kept
_GROUP = 32  # words encoded as one text, at half the time of words alone
NO_LIMIT = int(1e20)  # transformers takes a larger `model_max_length` as no limit
_WORD_MODELS = ("WordLevel", "WordPiece", "Unigram")
_CUT_AT_SPACES = ("BertPreTokenizer", "WhitespaceSplit", "Split")  # pre-tokenisers, the first ones of a sequence


class TokenizerFile:
    """`tokenizer.json` with the settings of `tokenizer_config.json`: what this package uses of transformers' class."""

    is_fast = True

    def __init__(self, folder: FinishedFolder) -> None:
        settings = folder.read_tokenizer_config()
        self.name_or_path = str(folder.root)
        self.backend_tokenizer = tokenizers.Tokenizer.from_file(str(folder.tokenizer))
        self.model_max_length: int = settings.get("model_max_length") or int(1e30)  # no limit, as in transformers
        self.truncation_side: str = settings.get("truncation_side", "right")
        self.split_special_tokens: bool = settings.get("split_special_tokens", False)
        self.backend_tokenizer.no_padding()
        tokens = [(name, token) for name, token in settings.items() if name.endswith("_token")]
        find = self.backend_tokenizer.token_to_id
        self._special = {name: find(token) for name, token in tokens if isinstance(token, str)}
        self.unk_token_id: int | None = self._special.get("unk_token")

    def get_vocab(self) -> dict[str, int]:
        """Return the tokens with their ids."""
        return self.backend_tokenizer.get_vocab()

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __call__(
        self,
        texts: Sequence[Any],
        pairs: Sequence[str] | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        is_split_into_words: bool = False,
        **options: object,
    ) -> Encodings:
        """Return what transformers' class returns for these arguments; the options are not read."""
        set_truncation(self.backend_tokenizer, max_length or self.model_max_length if truncation else NO_LIMIT, self)
        self.backend_tokenizer.encode_special_tokens = self.split_special_tokens  # here, as pickle drops it
        given = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        return Encodings(self.backend_tokenizer.encode_batch(given, is_pretokenized=is_split_into_words))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""
        kept = [id for id in ids if not (skip_special_tokens and id in self._special.values())]
        return self.backend_tokenizer.decode(kept, skip_special_tokens=skip_special_tokens)


def set_truncation(backend: tokenizers.Tokenizer, limit: int, tokenizer: Tokenizer) -> None:
    """Let a backend truncate at the side of `tokenizer`."""
    now, wanted = backend.truncation or {}, (limit, tokenizer.truncation_side)
    if limit >= NO_LIMIT:
        if now:
            backend.no_truncation()
    elif (now.get("max_length"), now.get("direction")) != wanted:
        backend.enable_truncation(limit, direction=wanted[1])


class Encodings(dict):
    """The parts of transformers' `BatchEncoding` that the answers of a tagger read."""

    def __init__(self, encodings: Sequence[Any]) -> None:
        ids, offsets = ([getattr(encoding, name) for encoding in encodings] for name in ("ids", "offsets"))
        super().__init__(input_ids=ids, offset_mapping=offsets)
        self.word_ids = [encoding.word_ids for encoding in encodings].__getitem__


class FastTokenizer:
    """The token ids of `tokenizer(texts, truncation=True)`, faster, for any tokenizer of transformers or a file.

    `model_max_length` and `truncation_side` are read at each call, vocabulary and rules at construction. If `paired`,
    a text is a pair `(first, second)`.
    """

    def __init__(self, tokenizer: Tokenizer, paired: bool = False) -> None:
        self.tokenizer, self._paired = tokenizer, paired
        self._backend: Any = None
        self._known: dict[str, Ids] | None = None
        self._before: Ids = ()
        self._after: Ids = ()
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or paired:
            return
        # a copy, as each call of transformers' class changes how its backend truncates and pads
        self._backend = backend = backend if isinstance(tokenizer, TokenizerFile) else copy.deepcopy(backend)
        set_truncation(backend, NO_LIMIT, tokenizer)
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        first = backend.pre_tokenizer
        first = first[0] if type(first).__name__ == "Sequence" else first
        if type(backend.model).__name__ in _WORD_MODELS and type(first).__name__ in _CUT_AT_SPACES:
            once, twice = (backend.encode(text, add_special_tokens=False).ids for text in ("a", "a a"))
            if twice != once * 2:  # spaces are tokens
                return
            whole = backend.encode("a").ids
            start = next((place for place in range(len(whole)) if whole[place : place + len(once)] == once), None)
            if start is None:
                return
            self._before, self._after = tuple(whole[:start]), tuple(whole[start + len(once) :])
            self._known = {"": ()}

    def __call__(self, texts: Sequence[Any]) -> list[list[int]]:
        """Return the token ids of texts, truncated to the tokenizer's `model_max_length`."""
        if self._paired:
            return self._encode_pairs(texts)
        texts = list_texts(texts)
        with name_damage(self.tokenizer.name_or_path, "tokenizer.json"):
            if self._known is not None and self._room() > 0:
                return self._look_up(texts, self._known)
            if self._backend is not None:
                return self._encode(texts)
            return self.tokenizer(texts, truncation=True, return_attention_mask=False)["input_ids"] if texts else []

    def encode_whole(self, texts: list[str]) -> Any:
        """Return the tokenizer's output for texts that are not truncated, with the places of tokens."""
        with name_damage(self.tokenizer.name_or_path, "tokenizer.json"):
            return self.tokenizer(texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False)

    def _encode_pairs(self, texts: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the ids of each pair around the separator."""
        pairs = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else [texts]
        for position, pair in enumerate(pairs):
            if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise UserError(f"texts[{position}] must be a pair (first, second): found {pair!r:.80}")
        firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        check_texts(firsts)
        check_texts(seconds)
        with name_damage(self.tokenizer.name_or_path, "tokenizer.json"):
            return self.tokenizer(firsts, seconds, truncation=True)["input_ids"] if pairs else []

    def _look_up(self, texts: list[str], memory: dict[str, Ids]) -> list[list[int]]:
        """Look up the words of texts, truncate, and add the tokens around each; encode all new words in one call."""
        split = [text.split(" ") for text in texts]
        words = list(dict.fromkeys(word for words in split for word in words if word not in memory))
        new = dict(zip(words, self._encode_words(words), strict=True)) if words else {}
        memory.update((word, ids) for word, ids in new.items() if len(word) <= _LONGEST)
        has_long = any(len(word) > _LONGEST for word in new)
        ids_of = (ChainMap(memory, new) if has_long else memory).__getitem__  # a copy would take milliseconds
        encoded = [list(chain.from_iterable(map(ids_of, words))) for words in split]
        if len(memory) > _KEPT:
            self._known = {"": ()}
        limit, before, after = self._room(), self._before, self._after
        if limit < NO_LIMIT:
            kept = slice(limit) if self.tokenizer.truncation_side == "right" else slice(-limit, None)
            encoded = [ids if len(ids) <= limit else ids[kept] for ids in encoded]
        return [[*before, *ids, *after] for ids in encoded] if before or after else encoded

    def _room(self) -> int:
        """Return the most tokens of a text itself, without those that the tokenizer puts around it."""
        return self.tokenizer.model_max_length - len(self._before) - len(self._after)

    def _encode_words(self, words: list[str]) -> list[Ids]:
        """Return the ids that the backend gives to each word."""
        groups = [words[start : start + _GROUP] for start in range(0, len(words), _GROUP)]
        word_ids: list[Ids] = []
        set_truncation(self._backend, NO_LIMIT, self.tokenizer)
        encodings = self._backend.encode_batch([" ".join(group) for group in groups], add_special_tokens=False)
        for group, encoding in zip(groups, encodings, strict=True):
            ends = list(accumulate(len(word) + 1 for word in group))
            ids: list[list[int]] = [[] for _ in group]
            for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                ids[bisect_right(ends, (start + end) / 2)].append(number)  # an added token may take a space
            word_ids += map(tuple, ids)
        return word_ids

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts by the backend's batch call, which truncates."""
        set_truncation(self._backend, self.tokenizer.model_max_length, self.tokenizer)
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]
