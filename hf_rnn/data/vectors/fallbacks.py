r"""Under which names a word of a vocabulary may stand in somebody else's vectors, best first.

| fall-back | example |
|---|---|
| the word as it is | `film` |
| other case: lower, Capitalised, UPPER | `london` → `London`, `usa` → `USA` |
| a subword vocabulary's mark of a word's start taken off | `▁film`, `Ġfilm` → `film` |
| a placeholder → one of the same meaning, then a plain word | `<<<mention>>>` → `<user>`, `@user`, `user` |
| an emoticon → the tag that GloVe's tweet vectors have for it | `:-)` → `<smile>`, `<3` → `<heart>` |
| a contraction → its two parts, cut as the Penn Treebank does | `don't` → the mean of `do` and `n't` |
| a compound with hyphens → its parts | `well-known` → the mean of `well` and `known` |
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_PLACEHOLDER = re.compile(r"<+(\w+)>+|(@user)")
_STAND_INS = {
    **dict.fromkeys(("mention", "user", "@user"), ("<user>", "@user", "user")),
    "url": ("<url>", "http", "url"),
    "hashtag": ("<hashtag>", "#", "hashtag"),
    **dict.fromkeys(("digit", "number"), ("<number>", "<num>", "number")),
}
_EMOTICONS = {
    re.compile(r"[:;=8][-o*'^]?[)\]}dD]+"): "<smile>",
    re.compile(r"[:;=8][-o*'^]?[(\[{@]+"): "<sadface>",
    re.compile(r"[:;=8][-o*'^]?[pP]+"): "<lolface>",
    re.compile(r"[:;=8][-o*'^]?[/\\|]+"): "<neutralface>",
    re.compile(r"<3"): "<heart>",
}
_CONTRACTION = re.compile(r"(\w+)(n't|'(?:s|m|d|re|ve|ll))", re.IGNORECASE)


def is_placeholder(word: str) -> bool:
    """Return whether a word stands for a kind of words, so that what it is spelt like means nothing."""
    found = _PLACEHOLDER.fullmatch(word)
    return found is not None and found[found.lastindex or 0].lower() in _STAND_INS


def list_forms(word: str, entry: str | None = None) -> Iterator[tuple[str, ...]]:
    """Yield what to look for in place of a word, best first.

    Args:
        word: As it stands in a text; empty for an entry of a vocabulary that is none by itself.
        entry: As the vocabulary writes it, for vectors that may be of such entries.

    Yields:
        Words whose vectors, all of them, make the word's own by their mean; first the word alone.
    """
    seen = set()
    for form in _forms(word, entry or word):
        if form not in seen:
            seen.add(form)
            yield form


def _forms(word: str, entry: str) -> Iterator[tuple[str, ...]]:
    for spelt in (entry, word):
        yield from ((spelt,), (spelt.lower(),), (spelt.capitalize(),), (spelt.upper(),))
    if placeholder := _PLACEHOLDER.fullmatch(word):
        meaning = placeholder[placeholder.lastindex or 0].lower()
        yield from ((stand_in,) for stand_in in _STAND_INS.get(meaning, ()))
        return
    yield from ((tag,) for pattern, tag in _EMOTICONS.items() if pattern.fullmatch(word))
    for cased in (word, word.lower()):
        if contraction := _CONTRACTION.fullmatch(cased):
            yield contraction[1], contraction[2]
        parts = tuple(part for part in cased.split("-") if part)
        if len(parts) > 1:
            yield parts
