"""Tokenizer → a function from a word to its ids, for tokenizers whose tokens never depend on other words.

These are the word tokenizers of `train_tokenizer` with the normalisers below, and BERT's (a `BertNormalizer`, a
`BertPreTokenizer`, WordPiece), whose tokens a distilled student has, also after the rules for handles and links of
`hf-rnn pretrain`. Only plain words, about which the rules are sure, are looked up; any other normaliser is left to
the tokenizer.
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

from ...tokenizers.normalizers import (
    PLAIN_PLACEHOLDERS,
    TWEET_PLACEHOLDERS,
    TWEET_REPEATED,
    TWEET_SIGNS,
    TWEET_WORDS,
    build_normalizer,
    plain_placeholders,
)

_FAST_NORMALIZERS = ("none", "semeval", "tweet")
_PAD = "<pad>"  # in a text it is an unknown word, never padding

# Letters whose lower case and class are the same to Python and to a tokenizer, whatever version of Unicode each has:
# Latin, Greek, Cyrillic, Hebrew, Arabic, kana, Chinese, Hangul; not the capital sigma, which Python lowers by context.
_LETTERS = (
    r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u012f\u0131-\u024f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a4-\u03ce"
    r"\u0400-\u0481\u048a-\u04ff\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fd5"
    r"\uac00-\ud7a3"
)
# For `none`: letters, and characters without case that are not white space: Indic, Thai, Lao, accents, signs, emoji.
_PLAIN_CHARACTERS = (
    rf"!-~{_LETTERS}\u00a1-\u00ac\u00ae-\u00bf\u00d7\u00f7\u0300-\u036f\u0900-\u0eff\u2010-\u2027\u2030-\u205e"
    r"\u20a0-\u20bf\u2190-\u24b5\u24ea-\u27bf\u3001-\u3040\ufe0f\U0001f300-\U0001faff"
)
_PLAIN = re.compile(f"[{_PLAIN_CHARACTERS}]+")

# For `tweet`: a word, perhaps with a mark before or after it, and words that become a placeholder.
_TWEET_WORD = re.compile(rf"(#?)([{_LETTERS}]+(?:'[{_LETTERS}]+)*)([,.!?;:\"')]?)")
_PLACEHOLDER = re.compile(r"(@[A-Za-z0-9_]+)|([hH]ttps?://[A-Za-z0-9./_-]+)|([0-9]+)")
_PLACEHOLDERS = ("<user>", "<url>", "<number>")  # for its groups
_TRIPLE = re.compile(r"(.)\1\1")
# Non-ASCII signs that are always a word each: dashes, dots, quotes (which become ASCII), pictures. None joins its
# neighbours, as skin tones do. U+FE0F, which asks for a picture in colour, is removed, but the tokenizer takes it as
# part of a word when it looks for numbers.
_SIGNS = (
    r"\u2013\u2014\u2018\u2019\u201c\u201d\u2022\u2026\u2600-\u2775\u2794-\u27bf"
    r"\U0001f300-\U0001f3fa\U0001f400-\U0001f64f\U0001f680-\U0001f6c5\U0001f910-\U0001f93a"
)
_SURE = re.compile(rf"(?:[{_SIGNS}]\ufe0f(?![0-9])|[!-~{_LETTERS}{_SIGNS}])++")
_RULES = [(re.compile(pattern), placeholder) for pattern, placeholder in TWEET_PLACEHOLDERS]
_MAY_MATCH_RULE = re.compile(r"://|[wW]\.|@|[0-9]")
_TWEET_TOKENS = re.compile(rf"{TWEET_WORDS}|\S")
_REPEATED = re.compile(rf"{TWEET_REPEATED}|\ufe0f")

_PLAIN_RULES = [(re.compile(pattern), content) for pattern, content in PLAIN_PLACEHOLDERS]
_MAY_MATCH_PLAIN_RULE = re.compile(r"@|<<<|://|[wW]\.")
_BERT_PARTS = re.compile("[A-Za-z0-9]+|.")  # parts of an ASCII word, where all but letters and digits is punctuation
_BERT_TEMPLATES = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")

Ids = tuple[int, ...]
LookUp = Callable[[str], Ids | None]


@dataclass(frozen=True)
class WordRules:
    """Rules of a tokenizer."""

    look_up: LookUp  # returns the ids of a word without spaces; None if only the tokenizer knows them
    around: tuple[Ids, Ids] = ((), ())  # ids that the tokenizer puts before and after each text


def find_rules(tokenizer: Any, backend: Tokenizer) -> WordRules | None:
    """Return the rules of a tokenizer; None for one that is of another kind or may look beyond a space.

    Args:
        tokenizer: A fast tokenizer of transformers, or [`TokenizerFile`].
        backend: Its backend, without truncation and padding.
    """
    if (
        backend.normalizer is None
        or backend.pre_tokenizer is None
        or not isinstance(backend.model, WordLevel | WordPiece)
        or backend.model.token_to_id(backend.model.unk_token) is None
        or not all(token.special for token in tokenizer.added_tokens_decoder.values())
    ):
        return None
    if isinstance(backend.model, WordPiece):
        return _find_bert_rules(tokenizer, backend)
    if backend.num_special_tokens_to_add(is_pair=False) > 0 or not tokenizer.split_special_tokens:
        return None
    stages = [backend.normalizer.__getstate__(), backend.pre_tokenizer.__getstate__()]
    for name in _FAST_NORMALIZERS:
        for lowercase in (True, False):
            if stages == [stage.__getstate__() for stage in build_normalizer(name, lowercase)]:
                return _make_word_rules(name, lowercase, backend.model)
    return None


def _make_word_rules(normalizer: str, lowercase: bool, model: Any) -> WordRules:
    """Return the rules of a word tokenizer.

    `none` changes only the case of words; `semeval` lowercases words of ASCII letters.
    """
    id_of = model.token_to_id
    unknown: int = id_of(model.unk_token)
    not_read = None, id_of(_PAD)

    def find(word: str) -> Ids:
        number = id_of(word.lower() if lowercase or normalizer == "semeval" else word)
        return (unknown,) if number in not_read else (number,)

    def look_up(word: str) -> Ids | None:
        return find(word) if word.isascii() and word.isprintable() or _PLAIN.fullmatch(word) else None

    if normalizer == "semeval":
        return WordRules(lambda word: find(word) if word.isascii() and word.isalpha() else None)
    if normalizer == "none":
        return WordRules(look_up)
    return WordRules(_make_tweet_look_up(find, lowercase))


def _make_tweet_look_up(find: Callable[[str], Ids], lowercase: bool) -> LookUp:
    """Return the look-up of words by the rules of `tweet`; `find` returns the id of a token."""

    def look_up(word: str) -> Ids | None:
        match = _TWEET_WORD.fullmatch(word)
        if match is None:
            placeholder = _PLACEHOLDER.fullmatch(word)
            return find(_PLACEHOLDERS[(placeholder.lastindex or 1) - 1]) if placeholder else apply_rules(word)
        if _TRIPLE.search(word.lower()):
            return apply_rules(word)
        before, letters, after = match.groups()
        ids = find(letters)
        if before:
            ids = find(before) + ids
        return ids + find(after) if after else ids

    def apply_rules(word: str) -> Ids | None:
        if not _SURE.fullmatch(word):
            return None
        if not word.isascii() or "&" in word or "\\" in word:
            for written, sign in TWEET_SIGNS:
                word = word.replace(written, sign) if isinstance(written, str) else written.sub(sign, word)
        if _MAY_MATCH_RULE.search(word):
            for pattern, placeholder in _RULES:
                word = pattern.sub(placeholder, word)
        word = _REPEATED.sub("", word.lower() if lowercase else word)
        return tuple(chain.from_iterable(map(find, _TWEET_TOKENS.findall(word))))

    return look_up


def _find_bert_rules(tokenizer: Any, backend: Tokenizer) -> WordRules | None:
    """Return the rules of a tokenizer with WordPiece, if its other parts are BERT's too."""
    normalizer, pre_tokenizer = _state(backend.normalizer), _state(backend.pre_tokenizer)
    *before, normalizer = normalizer.get("normalizers", [normalizer])
    if before not in ([], [_state(rule) for rule in plain_placeholders()]):
        return None
    if (normalizer["type"], pre_tokenizer["type"]) != ("BertNormalizer", "BertPreTokenizer"):
        return None
    added = list(tokenizer.added_tokens_decoder.values())
    if any(token.lstrip or token.rstrip or token.normalized or " " in token.content for token in added):
        return None
    around = _find_around(backend)
    if around is None:
        return None
    look_up = _make_bert_look_up(normalizer["lowercase"], backend.model, [token.content for token in added])
    return WordRules(_after_plain_rules(look_up) if before else look_up, around)


def _after_plain_rules(look_up: LookUp) -> LookUp:
    """Return the look-up of words after the rules for handles and links."""

    def apply_rules(word: str) -> Ids | None:
        if word.isascii() and _MAY_MATCH_PLAIN_RULE.search(word):
            for pattern, content in _PLAIN_RULES:
                word = pattern.sub(content, word)
        return look_up(word)

    return apply_rules


def _find_around(backend: Tokenizer) -> tuple[Ids, Ids] | None:
    """Return the ids around a text; None if they may differ between texts, or the text is repeated."""
    processor = backend.post_processor
    if processor is not None and _state(processor)["type"] not in _BERT_TEMPLATES:
        return None
    once = [token.id for token in backend.model.tokenize("a")]
    whole = backend.encode("a")
    ids, mask = whole.ids, whole.special_tokens_mask
    start = mask.index(0)
    if mask.count(0) != len(once) or ids[start : start + len(once)] != once:
        return None
    return tuple(ids[:start]), tuple(ids[start + len(once) :])


def _state(stage: Any) -> dict[str, Any]:
    return json.loads(stage.__getstate__())


def _make_bert_look_up(lowercase: bool, model: WordPiece, added: Sequence[str]) -> LookUp:
    """Return the look-up of ASCII words that contain no added token."""
    id_of: Any = model.token_to_id
    unknown: Ids = (id_of(model.unk_token),)
    longest, inside = model.max_input_chars_per_word, model.continuing_subword_prefix
    may_be_added = re.compile("|".join(map(re.escape, added)) or "$^")

    def look_up(word: str) -> Ids | None:
        if not word.isascii() or not word.isprintable() or may_be_added.search(word):
            return None
        pieces = _BERT_PARTS.findall(word.lower() if lowercase else word)
        return tuple(chain.from_iterable(map(find, pieces)))

    def find(piece: str) -> Ids:
        number = id_of(piece)
        return cut(piece) if number is None or len(piece) > longest else (number,)

    def cut(piece: str) -> Ids:
        """Return the longest piece that the part begins with, and so on, as WordPiece does."""
        if len(piece) > longest:
            return unknown
        ids, start, before = [], 0, ""
        while start < len(piece):
            for end in range(len(piece), start, -1):
                number = id_of(before + piece[start:end])
                if number is not None:
                    break
            else:
                return unknown
            ids.append(number)
            start, before = end, inside
        return tuple(ids)

    return look_up
