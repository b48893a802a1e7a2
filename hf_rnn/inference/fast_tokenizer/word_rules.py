"""Tokenizer → what its words become: for tokenizers that never look beyond a space, by rules of their own kind.

Those are all that `train_tokenizer` makes, and BERT's (a `BertNormalizer`, a `BertPreTokenizer`, WordPiece), whose
tokens a distilled student has. What is looked up without the tokenizer are plain words only, of which the rules below
are sure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...tokenizers.normalizers import build_normalizer
from .letters import LETTERS
from .tweet_columns import TweetColumns
from .tweet_words import make_look_up_in_tweet
from .word_columns import WordColumns

_FAST_NORMALIZERS = ("none", "semeval", "tweet")  # others are left to the tokenizer itself
_PAD = "<pad>"  # typed in a text it is a word that nobody knows, never padding
# Of `none`: letters, and what has no case and is no white space: Indic, Thai and Lao, accents, marks, signs, emoji.
_OF_PLAIN = (
    rf"!-~{LETTERS}\u00a1-\u00ac\u00ae-\u00bf\u00d7\u00f7\u0300-\u036f\u0900-\u0eff\u2010-\u2027\u2030-\u205e"
    r"\u20a0-\u20bf\u2190-\u24b5\u24ea-\u27bf\u3001-\u3040\ufe0f\U0001f300-\U0001faff"
)
_PLAIN, _PLAIN_TEXT = re.compile(f"[{_OF_PLAIN}]+"), re.compile(f"[ {_OF_PLAIN}]+")
_BERT_PARTS = re.compile("[A-Za-z0-9]+|.")  # of a word of ASCII, where all that is no letter or digit is punctuation
_BERT_AROUND = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")

Ids = tuple[int, ...]
LookUp = Callable[[str], Ids | None]


@dataclass(frozen=True)
class WordRules:
    """Of a tokenizer.

    Attributes:
        look_up: Gives the ids of a word without a space, as the tokenizer would; None where only that can tell.
        around: Ids that the tokenizer puts before and after each text.
        columns: The same for many texts at once, where that is sooner.
    """

    look_up: LookUp
    around: tuple[Ids, Ids] = ((), ())
    columns: WordColumns | TweetColumns | None = None


def find_rules(tokenizer: PreTrainedTokenizerBase) -> WordRules | None:
    """Return the rules of a tokenizer; None if it may look beyond a space, or is of another kind."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is None or backend.pre_tokenizer is None:
        return None
    if not all(token.special for token in tokenizer.added_tokens_decoder.values()):
        return None
    try:
        found = [backend.normalizer.__getstate__(), backend.pre_tokenizer.__getstate__()]
    except Exception:  # they are written in Python, and the backend raises no narrower kind
        return None
    if isinstance(backend.model, WordPiece):
        return _find_rules_of_bert(tokenizer)
    if (
        backend.num_special_tokens_to_add(is_pair=False) > 0
        or not isinstance(backend.model, WordLevel)
        or backend.model.token_to_id(backend.model.unk_token) is None
        or not tokenizer.split_special_tokens
    ):
        return None
    for name in _FAST_NORMALIZERS:
        for lowercase in (True, False):
            if found == [stage.__getstate__() for stage in build_normalizer(name, lowercase)]:
                look_up = _make_look_up(name, lowercase or name == "semeval", backend.model)
                return WordRules(look_up, columns=_make_columns(name, lowercase, backend.model))
    return None


def _make_columns(normalizer: str, lowercase: bool, model: Any) -> WordColumns | TweetColumns | None:
    def vocabulary() -> dict[str, int]:  # of the model, as the look-ups: the tokenizer may be given another one
        return {word: number for word, number in Tokenizer(model).get_vocab().items() if word != _PAD}

    unknown = model.token_to_id(model.unk_token)
    if normalizer == "none":
        return WordColumns(vocabulary, unknown, lowercase, _PLAIN_TEXT)
    return TweetColumns(vocabulary, unknown, lowercase) if normalizer == "tweet" else None


def _make_look_up(normalizer: str, lowercase: bool, model: WordLevel) -> LookUp:
    """A function of words without a space that gives the tokenizer's ids, or None where it does not know them.

    The rules of `none` leave any word without white space as it is but for its case, those of `semeval` one of ASCII
    letters; for those of `tweet` see `tweet_words.py`.
    """
    id_of: Any = model.token_to_id
    unknown: Ids = (id_of(model.unk_token),)
    not_read = None, id_of(_PAD)

    def find(word: str) -> Ids:
        number = id_of(word.lower() if lowercase else word)
        return unknown if number in not_read else (number,)

    def look_up(word: str) -> Ids | None:
        return find(word) if word.isascii() and word.isprintable() or _PLAIN.fullmatch(word) else None

    def look_up_letters(word: str) -> Ids | None:
        return find(word) if word.isascii() and word.isalpha() else None

    return {"none": look_up, "semeval": look_up_letters, "tweet": make_look_up_in_tweet(find, lowercase)}[normalizer]


def _find_rules_of_bert(tokenizer: PreTrainedTokenizerFast) -> WordRules | None:
    """The rules of a tokenizer with WordPiece, if its other parts are BERT's too."""
    backend = tokenizer.backend_tokenizer
    normalizer, pre_tokenizer = _state(backend.normalizer), _state(backend.pre_tokenizer)
    if (normalizer["type"], pre_tokenizer["type"]) != ("BertNormalizer", "BertPreTokenizer"):
        return None
    added = list(tokenizer.added_tokens_decoder.values())
    if any(token.lstrip or token.rstrip or token.normalized or " " in token.content for token in added):
        return None
    if backend.model.token_to_id(backend.model.unk_token) is None:
        return None
    around = _find_around(tokenizer)
    if around is None:
        return None
    look_up = _make_look_up_of_bert(normalizer["lowercase"], backend.model, [token.content for token in added])
    return WordRules(look_up, around)


def _find_around(tokenizer: PreTrainedTokenizerFast) -> tuple[Ids, Ids] | None:
    """What is put around a text; None where it is unknown whether that is the same for all."""
    processor = tokenizer.backend_tokenizer.post_processor
    if processor is not None and _state(processor)["type"] not in _BERT_AROUND:
        return None
    once = [token.id for token in tokenizer.backend_tokenizer.model.tokenize("a")]
    if tokenizer("a", add_special_tokens=False)["input_ids"] != once:  # a template may say the text twice
        return None
    whole = tokenizer("a", return_special_tokens_mask=True)
    ids, start = whole["input_ids"], whole["special_tokens_mask"].index(0)
    return tuple(ids[:start]), tuple(ids[start + len(once) :])


def _state(part: Any) -> dict[str, Any]:
    return json.loads(part.__getstate__())


def _make_look_up_of_bert(lowercase: bool, model: WordPiece, added: Sequence[str]) -> LookUp:
    """A function of words without a space that gives the ids of those of ASCII in which no added token stands."""
    id_of: Any = model.token_to_id
    unknown: Ids = (id_of(model.unk_token),)
    longest, inside = model.max_input_chars_per_word, model.continuing_subword_prefix
    may_be_added = re.compile("|".join(map(re.escape, added)) or "$^")

    def look_up(word: str) -> Ids | None:
        if not word.isascii() or not word.isprintable() or may_be_added.search(word):
            return None
        parts = _BERT_PARTS.findall(word.lower() if lowercase else word)
        return tuple(chain.from_iterable(map(find, parts)))

    def find(part: str) -> Ids:
        number = id_of(part)
        return cut(part) if number is None or len(part) > longest else (number,)

    def cut(part: str) -> Ids:
        """The longest piece of the vocabulary that the part begins with, and so on: WordPiece."""
        if len(part) > longest:
            return unknown
        ids, start, before = [], 0, ""
        while start < len(part):
            for end in range(len(part), start, -1):
                number = id_of(before + part[start:end])
                if number is not None:
                    break
            else:
                return unknown
            ids.append(number)
            start, before = end, inside
        return tuple(ids)

    return look_up
