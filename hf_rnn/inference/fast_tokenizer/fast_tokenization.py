"""Texts → token ids, equal to those of the tokenizer's own call, at the speed of a dictionary.

With the word tokenizers of this package and with BERT's, the tokens of a word do not depend on words beyond the spaces
around it, and most words of a text have been seen before. So words are looked up. New plain words are found in the
vocabulary; other new words go through the tokenizer. Any other tokenizer is called by its fastest batch call.
"""

from __future__ import annotations

import copy
import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from ...utils.text_checks import list_texts

Ids = tuple[int, ...]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEPT = 1 << 17  # words in memory, about 20 MB; beyond this number all are forgotten
_LONGEST = 64  # characters of a word that is kept
_GROUP = 32  # words encoded as one text, at half the time of words alone
NO_LIMIT = int(1e20)  # transformers takes a larger `model_max_length` as no limit


class FastTokenizer:
    """The token ids of `tokenizer(texts, truncation=True)`, faster, for any tokenizer.

    `model_max_length` and `truncation_side` are read at each call, vocabulary and rules at construction.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._backend: Any = None
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            # a copy: each call of the tokenizer changes how its own backend truncates and pads
            self._backend = copy.deepcopy(backend)
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = tokenizer.split_special_tokens
        self._truncation: tuple[int, str] | None = None
        self._known: dict[str, Ids] | None = None
        if self._backend is not None and _cuts_at_spaces(self._backend):
            whole, once = self._backend.encode("a"), self._backend.encode("a", add_special_tokens=False).ids
            start = next(place for place in range(len(whole.ids)) if whole.ids[place : place + len(once)] == once)
            self._before, self._after = tuple(whole.ids[:start]), tuple(whole.ids[start + len(once) :])
            self._known = {"": ()}
        else:
            self._before, self._after = (), ()

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, truncated to the tokenizer's `model_max_length`."""
        texts = list_texts(texts)
        if self._known is not None and self._room() > 0:
            return self._look_up(texts, self._known)
        if self._known is None and self._backend is not None:
            return self._encode(texts)
        return self.tokenizer(texts, truncation=True, return_attention_mask=False)["input_ids"] if texts else []

    def _look_up(self, texts: list[str], memory: dict[str, Ids]) -> list[list[int]]:
        """Look up the words of texts; encode all new words in one call."""
        split = [text.split(" ") for text in texts]
        new = list(dict.fromkeys(word for words in split for word in words if word not in memory))
        found = dict(zip(new, self._encode_words(new), strict=True)) if new else {}
        ids_of = (memory | found if found else memory).__getitem__
        encoded = [list(chain.from_iterable(map(ids_of, words))) for words in split]
        memory.update((word, ids) for word, ids in found.items() if len(word) <= _LONGEST)
        if len(memory) > _KEPT:
            self._known = {"": ()}
        return self._finish(encoded)

    def _room(self) -> int:
        """Return the most tokens of a text itself, without those that the tokenizer puts around it."""
        return self.tokenizer.model_max_length - len(self._before) - len(self._after)

    def _finish(self, encoded: list[list[int]]) -> list[list[int]]:
        """Truncate, and add the tokens around each text."""
        limit, before, after = self._room(), self._before, self._after
        if limit < NO_LIMIT:
            kept = slice(limit) if self.tokenizer.truncation_side == "right" else slice(-limit, None)
            encoded = [ids if len(ids) <= limit else ids[kept] for ids in encoded]
        return [[*before, *ids, *after] for ids in encoded] if before or after else encoded

    def _encode_words(self, words: list[str]) -> list[Ids]:
        """Return the ids that the backend gives to each word."""
        groups = [words[start : start + _GROUP] for start in range(0, len(words), _GROUP)]
        word_ids: list[Ids] = []
        encodings = self._backend.encode_batch([" ".join(group) for group in groups], add_special_tokens=False)
        for group, encoding in zip(groups, encodings, strict=True):
            ends = list(accumulate(len(word) + 1 for word in group))
            ids: list[list[int]] = [[] for _ in group]
            for number, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
                ids[bisect_right(ends, start)].append(number)
            word_ids += map(tuple, ids)
        return word_ids

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts by the backend's batch call, which truncates."""
        wanted = self.tokenizer.model_max_length, self.tokenizer.truncation_side
        if wanted != self._truncation:
            if wanted[0] > NO_LIMIT:
                self._backend.no_truncation()
            else:
                self._backend.enable_truncation(wanted[0], direction=wanted[1])
            self._truncation = wanted
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]


def _cuts_at_spaces(backend: Any) -> bool:
    """Return whether the tokens of a word depend on no other word: those of BERT and of `train_tokenizer`."""
    state = json.loads(backend.to_str())
    kind = (state["model"]["type"], (state["pre_tokenizer"] or {}).get("type"))
    return kind in (("WordPiece", "BertPreTokenizer"), ("WordLevel", "WhitespaceSplit"), ("WordLevel", "Split"))
