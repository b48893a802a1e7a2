"""Texts → token ids, equal to those of the tokenizer's own call, at the speed of a dictionary.

With the word tokenizers of this package and with BERT's, the tokens of a word depend on nothing
beyond the spaces around it. So words are looked up, and new ones go through the tokenizer. Other
tokenizers are called for each batch.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, TypeAlias, cast

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

SPACES = " \t\n\r"  # for every tokenizer that `find_unstable_text` accepts
# Words that normalisers rewrite: handles, links, marks, combining and joined characters, spaces of
# all kinds.
HOSTILE = (
    "@user's http://x.y/z?a=b:) www.a.b, so-o-o 3.5% &amp;&lt; <pad> <unk> <<<MENTION>>> "
    "cafe\u0301 n\u0303o",
    "👩\u200d👩\u200d👧 👍🏽! 🇩🇪🇫🇷 ❤\ufe0f <3 :-) ;P x\u00a0y a\u3000b ไทย العربية 中文字 ﬁ ½ "
    "\u202etxet",
    "one\r\nline\n\n\ttab \x00 \x1f \ufeff end. I'm #tag a.b.c U.S.A. 12:30pm it''s ?!! "
    "[PAD] [UNK] ΟΔΟΣ ΣΟΦΟΣ",
)


class TokenizerFile:
    """`tokenizer.json` with its settings: the part of transformers' class that is used here."""

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
        limit = NO_LENGTH_LIMIT
        if truncation:
            limit = max_length or self.model_max_length
        set_truncation(self.backend_tokenizer, limit, self)
        # here, as pickle drops it
        self.backend_tokenizer.encode_special_tokens = self.split_special_tokens
        rows = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        backend = self.backend_tokenizer
        return Encodings(backend.encode_batch(rows, is_pretokenized=is_split_into_words))


def set_truncation(backend: tokenizers.Tokenizer, limit: int, tokenizer: Tokenizer) -> None:
    """Let a backend truncate at the side of `tokenizer`."""
    now = backend.truncation
    side = tokenizer.truncation_side
    if limit >= NO_LENGTH_LIMIT:
        if now:
            backend.no_truncation()
    elif not now or (now["max_length"], now["direction"]) != (limit, side):
        backend.enable_truncation(limit, direction=side)


class Encodings(dict):
    """The parts of transformers' `BatchEncoding` that the answers of a tagger read."""

    def __init__(self, encodings: Sequence[tokenizers.Encoding]) -> None:
        super().__init__(
            input_ids=[encoding.ids for encoding in encodings],
            offset_mapping=[encoding.offsets for encoding in encodings],
        )
        self.word_ids = [encoding.word_ids for encoding in encodings].__getitem__


def find_around(whole: list[int], text: list[int]) -> tuple[list[int], list[int]] | None:
    """Return the ids before and after those of a text; None if it is not in the whole."""
    for start in range(len(whole) - len(text) + 1):
        end = start + len(text)
        if whole[start:end] == text:
            return whole[:start], whole[end:]
    return None


class FastTokenizer:
    """The token ids of `tokenizer(texts, truncation=True)`, faster.

    `model_max_length` and `truncation_side` are read at each call, vocabulary and rules at
    construction.

    Args:
        tokenizer: Any tokenizer of the library, or a [`TokenizerFile`].
        paired: Whether a text is a pair `(first, second)`.
        add_special_tokens: Whether a text has the tokens around it, if there are any.
    """

    def __init__(
        self, tokenizer: Tokenizer, paired: bool = False, add_special_tokens: bool = True
    ) -> None:
        self.tokenizer = tokenizer
        self._paired = paired
        self._adds = add_special_tokens
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
        if type(first).__name__ == "Sequence":
            first = first[0]
        has_words = type(backend.model).__name__ in _WORD_MODELS
        if not has_words or type(first).__name__ not in _CUT_AT_SPACES:
            return
        once = backend.encode("a", add_special_tokens=False).ids
        twice = backend.encode("a a", add_special_tokens=False).ids
        around = find_around(backend.encode("a").ids, once)
        if twice == once * 2 and around is not None:  # a space makes no token
            if add_special_tokens:
                self._before, self._after = map(tuple, around)
            self._words = {"": ()}

    def __call__(
        self, texts: Sequence[str] | Sequence[Sequence[str]], max_length: int | None = None
    ) -> list[list[int]]:
        """Return the ids of texts, truncated, by default to the tokenizer's `model_max_length`."""
        limit = self.tokenizer.model_max_length if max_length is None else max_length
        if self._paired:
            return self._encode_pairs(texts, limit)
        texts = list_texts(cast("Sequence[str]", texts))
        room = limit - len(self._before) - len(self._after)
        if self._words is not None and room > 0:
            return self._look_up(texts, self._words, room)
        if self._backend is not None:
            set_truncation(self._backend, limit, self.tokenizer)
            found = self._backend.encode_batch_fast(texts, add_special_tokens=self._adds)
            return [encoding.ids for encoding in found]
        return self._call(limit, texts)

    def _call(self, limit: int, *columns: Any) -> list[list[int]]:
        """Return the ids of rows of one or two columns by the usual call."""
        if not columns[0]:
            return []
        options: dict[str, Any] = {"add_special_tokens": self._adds}
        options["verbose"] = False  # otherwise each over-long text makes a warning
        if limit < NO_LENGTH_LIMIT:
            options |= {"truncation": True, "max_length": limit}
        return self.tokenizer(*columns, return_attention_mask=False, **options)["input_ids"]

    def _encode_pairs(
        self, texts: Iterable[str] | Iterable[Sequence[str]], limit: int
    ) -> list[list[int]]:
        """Return the ids of each pair around the separator."""
        pairs = [texts] if isinstance(texts, str) else list(texts)
        for position, pair in enumerate(pairs):
            if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise UserError(
                    f"texts[{position}] must be a pair (first, second): found {pair!r:.80}"
                )
        firsts = [pair[0] for pair in pairs]
        seconds = [pair[1] for pair in pairs]
        check_texts(firsts)
        check_texts(seconds)
        return self._call(limit, firsts, seconds)

    def _look_up(self, texts: list[str], memory: dict[str, Ids], room: int) -> list[list[int]]:
        """Look up the words of texts, truncate, and add the tokens around each text."""
        split = [text.split(" ") for text in texts]
        known = self._learn_words(split, memory).__getitem__
        encoded = [list(chain.from_iterable(map(known, words))) for words in split]
        if len(memory) > _MOST_WORDS:
            self._words = {"": ()}

        if room < NO_LENGTH_LIMIT:
            places = (
                slice(room) if self.tokenizer.truncation_side == "right" else slice(-room, None)
            )
            encoded = [ids[places] for ids in encoded]
        if self._before or self._after:
            return [[*self._before, *ids, *self._after] for ids in encoded]
        return encoded

    def _learn_words(self, split: list[list[str]], memory: dict[str, Ids]) -> Mapping[str, Ids]:
        """Return the ids of all words; encode the new ones in one call, and remember them."""
        words = [word for word in chain.from_iterable(split) if word not in memory]
        if not words:
            return memory
        words = list(dict.fromkeys(words))
        new = dict(zip(words, self._encode_words(words), strict=True))
        short = {word: ids for word, ids in new.items() if len(word) <= _LONGEST}
        memory.update(short)
        # a copy would take milliseconds
        return memory if len(short) == len(new) else ChainMap(memory, new)

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


def find_unstable_text(
    encode: Callable[[list[str]], list[list[int]]], texts: Iterable[str]
) -> str | None:
    """Return the first text whose tokens are not those of its words; None if all are stable.

    Texts are cut before white space, as in a stream; white space alone must have no token.
    """
    if any(encode([*SPACES])):
        return SPACES
    for text in (*HOSTILE, *texts):
        cuts = [0, *(place for place, sign in enumerate(text) if sign in SPACES), len(text)]
        words = [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
        whole, *pieces = encode([text, *words])
        if whole != list(chain.from_iterable(pieces)):
            return text
    return None
