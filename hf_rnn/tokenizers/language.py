"""The language of texts, as far as it decides which encoder of the package reads them, or none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from tokenizers import Tokenizer

from ..hub.model_folder import FinishedFolder, find_built_in

ENGLISH = "english"  # encoders of the package
MULTILINGUAL = "multilingual"
_SAMPLE = 1_000  # texts that are looked at
_BEGINNING = 400  # characters of each
_FIRST = 100_000  # texts that they are taken from, at equal distances
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
    is_english: bool  # whether `english` needs no more pieces than `multilingual`
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
    english, _ = _count_pieces(ENGLISH, sample)
    pieces, unknown = _count_pieces(MULTILINGUAL, sample)
    letters = "".join("".join(sample).split())
    return Language(
        sample,
        # sets of English have 0.81 to 0.95 times as many, others 1.07 to 2.3
        is_english=english <= max(1, pieces),
        unknown=unknown,
        length=len(letters) / max(1, pieces),
        ascii_share=sum(map(str.isascii, letters)) / max(1, len(letters)),
    )


def _count_pieces(encoder: str, texts: Sequence[str]) -> tuple[int, float]:
    """Return the pieces with letters, those unknown by character, and the unknown share."""
    folder = FinishedFolder(find_built_in(encoder))  # type: ignore[arg-type]  # it exists
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    unknown = tokenizer.token_to_id(folder.read_tokenizer_config()["unk_token"])
    rows = tokenizer.encode_batch(texts, add_special_tokens=False)
    lengths = []
    for text, row in zip(texts, rows, strict=True):
        for index, (start, end) in zip(row.ids, row.offsets, strict=True):
            if any(map(str.isalpha, text[start:end])):
                # negative for an unknown piece
                lengths.append(start - end if index == unknown else 1)
    return sum(map(abs, lengths)), sum(length < 0 for length in lengths) / max(1, len(lengths))


def choose_tokenizer(texts: Sequence[str]) -> tuple[str, float, float]:
    """Return char or bpe, the characters between two spaces, and the share of wide characters."""
    words = " ".join(texts).split()
    characters = "".join(words)
    wide = sum(unicodedata.east_asian_width(character) == "W" for character in characters)
    wide_share = wide / max(1, len(characters))
    length = len(characters) / max(1, len(words))
    is_dense = length > _LONGEST_WORD or wide_share > _MOST_WIDE
    return "char" if is_dense else "bpe", length, wide_share
