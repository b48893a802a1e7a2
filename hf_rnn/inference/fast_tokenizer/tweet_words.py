"""A word of a tweet → its ids by the rules of the normaliser `tweet`, in Python, where these are sure of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain

from ...tokenizers.normalizers import TWEET_PLACEHOLDERS, TWEET_SIGNS, TWEET_WORDS
from .letters import LETTERS

# What is one word, perhaps with a mark before or after it, and what becomes a placeholder.
_WORD = re.compile(rf"(#?)([{LETTERS}]+(?:'[{LETTERS}]+)*)([,.!?;:\"')]?)")
_PLACEHOLDER = re.compile(r"(@[A-Za-z0-9_]+)|([hH]ttps?://[A-Za-z0-9./_-]+)|([0-9]+)")
_PLACEHOLDERS = ("<user>", "<url>", "<number>")  # for its groups
_THREE_ALIKE = re.compile(r"(.)\1\1")
# Signs beyond ASCII that are a word each wherever they stand: dashes, dots, quotes (which become those of ASCII),
# pictures. None joins its neighbours, as skin tones do. U+FE0F, which asks for a picture in colour, is taken out, but
# is part of a word to the tokenizer when it looks for numbers.
_SIGNS = (
    r"\u2013\u2014\u2018\u2019\u201c\u201d\u2022\u2026\u2600-\u2775\u2794-\u27bf"
    r"\U0001f300-\U0001f3fa\U0001f400-\U0001f64f\U0001f680-\U0001f6c5\U0001f910-\U0001f93a"
)
_SURE = re.compile(rf"(?:[{_SIGNS}]\ufe0f(?![0-9])|[!-~{LETTERS}{_SIGNS}])++")
# The rules themselves.
_RULES = [(re.compile(pattern), placeholder) for pattern, placeholder in TWEET_PLACEHOLDERS]
_MAY_HOLD_ONE = re.compile(r"://|[wW]\.|@|[0-9]")  # one of these is in each word that they change
_WORDS = re.compile(rf"{TWEET_WORDS}|\S")
_TOO_MANY = re.compile(r"(.)\1\1+|\ufe0f")


def make_look_up_in_tweet(
    find: Callable[[str], tuple[int, ...]], lowercase: bool
) -> Callable[[str], tuple[int, ...] | None]:
    """Make a function of words without a space.

    Args:
        find: Gives the id of a token, or that of unknown ones.
        lowercase: Whether tokens are in lower case.

    Returns:
        A function that gives the ids of a word; None where only the tokenizer can tell.
    """

    def look_up(word: str) -> tuple[int, ...] | None:
        parts = _WORD.fullmatch(word)
        if parts is None:
            placeholder = _PLACEHOLDER.fullmatch(word)
            return find(_PLACEHOLDERS[(placeholder.lastindex or 1) - 1]) if placeholder else cut(word)
        if _THREE_ALIKE.search(word.lower()):
            return cut(word)
        before, letters, after = parts.groups()
        ids = find(letters)
        if before:
            ids = find(before) + ids
        return ids + find(after) if after else ids

    def cut(word: str) -> tuple[int, ...] | None:
        """Apply the rules."""
        if not _SURE.fullmatch(word):
            return None
        if not word.isascii() or "&" in word or "\\" in word:
            for written, sign in TWEET_SIGNS:
                word = word.replace(written, sign) if isinstance(written, str) else written.sub(sign, word)
        if _MAY_HOLD_ONE.search(word):
            for pattern, placeholder in _RULES:
                word = pattern.sub(placeholder, word)
        word = _TOO_MANY.sub(r"\1\1", word.lower() if lowercase else word)
        return tuple(chain.from_iterable(map(find, _WORDS.findall(word))))

    return look_up
