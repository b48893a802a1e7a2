"""Texts → token ids at the speed of a dictionary, equal to those of the tokenizer's own call.

With the tokenizers that this package trains, what a word becomes depends on nothing beyond the spaces around it, and
most words of a text have been seen before. So words are looked up, and only new ones go through the tokenizer. Any
other tokenizer is called by its fastest batch call.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .errors import UserError
from .inference import check_text, tokenize
from .normalization import NORMALIZERS, build_normalizer

_KEPT = 1 << 17  # words in memory, about 20 MB; when there are more, all are forgotten
_LONGEST = 64  # characters of a word that is kept
_NO_LIMIT = int(1e20)  # what transformers takes as no `model_max_length` at all


class FastTokenizer:
    """The token ids of `tokenizer(texts, truncation=True)`, sooner.

    Args:
        tokenizer: Any; its `model_max_length` and `truncation_side` are those of the moment of a call, its vocabulary
            and its rules those of now.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] | None = {"": ()} if _splits_at_spaces(tokenizer) else None

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, cut at the tokenizer's `model_max_length`.

        Raises:
            UserError: For something that is no list of texts; the message says which.
        """
        if isinstance(texts, str | bytes):
            raise UserError("texts must be a list of str, found one text: put it into a list, [text]")
        texts = list(texts)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"texts[{position}] is not a str: found {text!r:.80}; give '' for an empty text")
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

    def _look_up(self, texts: list[str], known: dict[str, tuple[int, ...]]) -> list[list[int]]:
        """Look up what stands between spaces; new words are encoded together."""
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
            new = list({word for _, words in waiting for word in words if word not in known})
            known.update(zip(new, map(tuple, self._encode(new, _NO_LIMIT + 1)), strict=True))
            for position, words in waiting:
                encoded[position] = list(chain.from_iterable(map(ids_of, words)))
            for word in new:
                if len(word) > _LONGEST:
                    del known[word]
            if len(known) > _KEPT:
                known.clear()
                known[""] = ()
        limit = self.tokenizer.model_max_length
        if limit < _NO_LIMIT:
            kept = slice(limit) if self.tokenizer.truncation_side == "right" else slice(-limit, None)
            encoded = [ids if len(ids) <= limit else ids[kept] for ids in encoded]
        return encoded

    def _encode(self, texts: list[str], limit: int) -> list[list[int]]:
        """Call the backend. How it cuts and pads is its own state, which every call of the tokenizer sets anew."""
        backend = self.tokenizer.backend_tokenizer
        if limit > _NO_LIMIT:
            backend.no_truncation()
        else:
            backend.enable_truncation(limit, direction=self.tokenizer.truncation_side)
        backend.no_padding()
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        return [encoding.ids for encoding in backend.encode_batch_fast(texts)]


def _splits_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether no rule of this tokenizer looks beyond a space: so it is with all that `train_tokenizer` makes."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return False
    backend = tokenizer.backend_tokenizer
    if (
        backend.normalizer is None
        or backend.pre_tokenizer is None
        or backend.num_special_tokens_to_add(is_pair=False) > 0
        or not isinstance(backend.model, WordLevel)
        or not tokenizer.split_special_tokens
        or not all(token.special for token in tokenizer.added_tokens_decoder.values())
    ):
        return False
    found = [backend.normalizer.__getstate__(), backend.pre_tokenizer.__getstate__()]
    return any(
        found == [stage.__getstate__() for stage in build_normalizer(name, lowercase)]
        for name in NORMALIZERS
        for lowercase in (True, False)
    )
