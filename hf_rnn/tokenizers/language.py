"""The language of texts, as far as it decides which encoder of the package reads them, or none."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tokenizers import Tokenizer

from ..hub.model_folder import FinishedFolder, find_built_in

ENGLISH = "english"  # encoders of the package
MULTILINGUAL = "multilingual"
_SAMPLE = 1_000  # texts that are looked at
_BEGINNING = 400  # characters of each
_FIRST = 100_000  # texts that they are taken from, at equal distances
_WORD = re.compile(r"[^\W\d_](?:[a-zA-Z]|[^\x00-\x7f\s])*")  # marks of vowels are in words
# pieces of `english` per piece of `multilingual`: English has 0.7 to 0.95, its stems 0.92 to 1.06,
# ten other languages 1.05 to 2.1
_MOST_PIECES = 1.2
# words that are one piece of `multilingual` alone, per word that is one of `english` alone: stems
# have 0.2 to 1.0, the languages below that number 1.34 to 5.5
_MOST_FOREIGN = 1.15
# share of the pieces of multilingual; Cherokee has 0.5, the 100 languages that it read 0.001
_MOST_UNKNOWN = 0.3
# per piece of multilingual, in ASCII; random letters have 1.5, Hindi in Latin letters 2.6
_LEAST_CHARACTERS = 1.7
_MOST_ASCII = 0.9  # share of characters: the pieces of some scripts are short too, Tamil has 1.5
_LONGEST_WORD = 12  # characters between two spaces on average; German has 6, Thai 19
_MOST_WIDE = 0.3  # share of characters of Chinese and Japanese


@dataclass(frozen=True)
class Language:
    """Texts as the encoders of the package read them."""

    sample: list[str]  # beginnings of some texts
    is_english: bool  # whether `english` has more of the words whole, and not many more pieces
    unknown: float  # share of the pieces of `multilingual`
    length: float  # characters per piece of `multilingual`
    ascii_share: float  # share of ASCII characters

    @property
    def encoder(self) -> str:
        """The name of the encoder that reads the texts in fewer pieces."""
        return ENGLISH if self.is_english else MULTILINGUAL

    @property
    def is_known(self) -> bool:
        """Whether an encoder knows the texts: few pieces are unknown or single letters."""
        are_letters = self.ascii_share > _MOST_ASCII and self.length < _LEAST_CHARACTERS
        return self.unknown <= _MOST_UNKNOWN and not are_letters


def find_language(texts: Iterable[str]) -> Language:
    """Return how the encoders of the package read the first 100,000 texts, by a sample of them."""
    first = list(islice(texts, _FIRST))
    step = -(-len(first) // _SAMPLE) or 1
    sample = [text[:_BEGINNING] for text in first[::step]]
    words = Counter(_WORD.findall(" ".join(sample)))
    counts = np.array(list(words.values()), dtype=int)
    sizes = []
    for encoder in (ENGLISH, MULTILINGUAL):
        folder = FinishedFolder(find_built_in(encoder))  # type: ignore[arg-type]  # it exists
        tokenizer = Tokenizer.from_file(str(folder.tokenizer))
        unknown = tokenizer.token_to_id(folder.read_tokenizer_config()["unk_token"])
        rows = tokenizer.encode_batch(list(words), add_special_tokens=False)
        pieces = [
            len(word) if unknown in row.ids else len(row.ids)
            for word, row in zip(words, rows, strict=True)
        ]
        sizes.append(np.array(pieces, dtype=int))
    english, multilingual = sizes
    # stems, as of search engines, are few whole words in either one
    only_english = counts[(english == 1) & (multilingual > 1)].sum()
    only_multilingual = counts[(english > 1) & (multilingual == 1)].sum()
    is_english = (
        counts @ english <= _MOST_PIECES * (counts @ multilingual)
        and only_multilingual <= _MOST_FOREIGN * only_english
    )

    # 1 for a known piece of `multilingual` with letters, minus its characters for an unknown one
    lengths = []
    for text, row in zip(
        sample, tokenizer.encode_batch(sample, add_special_tokens=False), strict=True
    ):
        for index, (start, end) in zip(row.ids, row.offsets, strict=True):
            if any(map(str.isalpha, text[start:end])):
                lengths.append(start - end if index == unknown else 1)
    letters = "".join("".join(sample).split())
    return Language(
        sample,
        is_english=bool(is_english),
        unknown=sum(length < 0 for length in lengths) / max(1, len(lengths)),
        length=len(letters) / max(1, sum(map(abs, lengths))),
        ascii_share=sum(map(str.isascii, letters)) / max(1, len(letters)),
    )


def choose_tokenizer(texts: Sequence[str]) -> tuple[str, float, float]:
    """Return char or bpe, the characters between two spaces, and the share of wide characters."""
    words = " ".join(texts).split()
    characters = "".join(words)
    wide = sum(unicodedata.east_asian_width(character) == "W" for character in characters)
    wide_share = wide / max(1, len(characters))
    length = len(characters) / max(1, len(words))
    is_dense = length > _LONGEST_WORD or wide_share > _MOST_WIDE
    return "char" if is_dense else "bpe", length, wide_share
