"""Typing mistakes: what people's texts have and clean training texts lack."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

# Words that are never mistyped: handles, links, addresses, placeholders such as <<<URL>>>, and
# words with characters such as &amp;.
_UNTOUCHED = re.compile(r"[@<]|https?\b|www\.|\S*(?:@|://|&#?\w+;|\w\.[a-zA-Z]{2,}/)")
_LEAST_LETTERS = 3
SHOWN_TYPOS = 0.2  # the share of words for the scores on a card
_COLUMNS = ("text", "text_pair", "tokens")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # the letters of an English keyboard


def _find_neighbours() -> dict[str, str]:
    """Return the keys beside each letter of the keyboard."""
    neighbours = {}
    above = ""
    for row in _ROWS:
        for place, key in enumerate(row):
            beside = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            over = above[place : place + 2]
            neighbours[key] = beside + over
            for other in over:
                neighbours[other] += key
        above = row
    return neighbours


_NEIGHBOURS = _find_neighbours()


def mistype(text: str, share: float, draw: random.Random) -> str:
    """Return a text with a typing mistake in each word that is drawn with probability `share`.

    Two letters are swapped, one is dropped, doubled, or replaced by its neighbour on the keyboard;
    letters that an English keyboard lacks have no neighbour. White space stays. Words of fewer than
    three letters in a row, numbers, handles, links and emoji stay.

    Args:
        text: Any text; words are parted by white space.
        share: From 0 to 1.
        draw: The source of chance: the same state gives the same mistakes.

    Example:
        >>> mistype("the battery lasts all day", 1.0, random.Random(0))
        'teh battdry lawts ll dday'
    """
    parts = re.split(r"(\s+)", text)
    for place in range(0, len(parts), 2):  # white space is between the words
        if draw.random() < share and not _UNTOUCHED.match(parts[place]):
            parts[place] = _mistype_word(parts[place], draw)
    return "".join(parts)


def _mistype_word(word: str, draw: random.Random) -> str:
    """Return a word with one mistake in its longest run of letters."""
    start, letters = max(_find_runs(word), key=lambda run: len(run[1]), default=(0, []))
    if len(letters) < _LEAST_LETTERS:
        return word
    end = start + sum(map(len, letters))
    place = draw.randrange(len(letters))
    letter = letters[place]
    neighbours = _NEIGHBOURS.get(letter.lower(), "")
    mistakes = ["swap", "drop", "double"]
    if neighbours:
        mistakes.append("neighbour")
    mistake = draw.choice(mistakes)
    first = min(place, len(letters) - 2)
    if mistake == "neighbour":
        key = draw.choice(neighbours)
        letters[place] = key.upper() if letter.isupper() else key
    elif mistake == "double":
        letters.insert(place, letter)
    elif mistake == "swap" and letters[first] != letters[first + 1]:
        letters[first : first + 2] = letters[first + 1], letters[first]
    else:
        del letters[place]
    return word[:start] + "".join(letters) + word[end:]


def _find_runs(word: str) -> list[tuple[int, list[str]]]:
    """Return start and letters of each run of letters; accents stay with their letter."""
    runs: list[tuple[int, list[str]]] = []
    after_letter = False
    for place, character in enumerate(word):
        if character.isalpha():
            if not after_letter:
                runs.append((place, []))
            runs[-1][1].append(character)
            after_letter = True
        elif after_letter and unicodedata.category(character).startswith("M"):
            runs[-1][1][-1] += character
        else:
            after_letter = False
    return runs


def mistype_rows(rows: datasets.Dataset, typos: float, seed: str) -> datasets.Dataset:
    """Return rows with mistakes in about `typos` of their words, the same ones for the same `seed`.

    Texts are in the columns `text` and `text_pair`, or word by word in `tokens`.
    """
    draw = random.Random(seed)

    def mistype_batch(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        for name in _COLUMNS:
            if name in batch:
                columns[name] = [_mistype_cell(cell, typos, draw) for cell in batch[name]]
        return columns

    return rows.map(mistype_batch, batched=True, new_fingerprint=f"{rows._fingerprint}{seed}")


def mistype_row(row: Mapping[str, Any], typos: float, draw: random.Random) -> dict[str, Any]:
    """Return a row to learn from: half, once or twice the share `typos` of its words is mistyped.

    So a model meets few mistakes and many.
    """
    share = min(1.0, typos * draw.choice((0.5, 1.0, 2.0)))
    columns = [name for name in _COLUMNS if name in row]
    return {**row, **{name: _mistype_cell(row[name], share, draw) for name in columns}}


def _mistype_cell(cell: str | Sequence[str], share: float, draw: random.Random) -> Any:
    if isinstance(cell, str):
        return mistype(cell, share, draw)
    return _cut(mistype(" ".join(cell), share, draw), cell)


def _cut(sentence: str, words: Sequence[str]) -> list[str]:
    """Return the words of a sentence that was joined by spaces; some words may have spaces."""
    parts = iter(sentence.split(" "))
    return [" ".join(islice(parts, word.count(" ") + 1)) for word in words]


def mistype_half(texts: Iterable[str], typos: float, draw: random.Random) -> Iterator[str]:
    """Yield texts to learn from: half of them clean, the others mistyped.

    About `typos` of their words have mistakes.

    A mistyped text has half, once or twice this share, so that a model meets few mistakes and many.
    """
    for text in texts:
        clean = typos == 0 or draw.random() < 0.5
        yield text if clean else mistype(text, min(1.0, typos * draw.choice((0.5, 1.0, 2.0))), draw)
