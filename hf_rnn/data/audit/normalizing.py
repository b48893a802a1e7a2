"""When two texts count as the same one, and how a text is quoted in a report."""

from __future__ import annotations

import unicodedata

EXCERPT_CHARACTERS = 80


def normalize_text(text: str) -> str:
    """Return the form in which texts are compared: equal forms are exact duplicates.

    Case, width and composition of characters do not count (Unicode's compatibility caseless matching, The Unicode
    Standard, section 3.13, D146), and every run of white space counts as one space, at the ends as none. Punctuation,
    links, handles and digits do count.
    """
    if text.isascii():
        folded = text.lower()  # the same, and most texts are
    else:
        folded = unicodedata.normalize("NFD", text).casefold()
        folded = unicodedata.normalize("NFKD", folded).casefold()
        folded = unicodedata.normalize("NFKD", folded)
    return " ".join(folded.split())


def excerpt(text: str) -> str:
    """Return the start of a text."""
    return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 3] + "..."
