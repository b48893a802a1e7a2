"""Pretrained word vectors for a vocabulary: from a file, or the table of a transformers model.

Files are text of GloVe, fastText (.vec) and word2vec, plain or packed. A line has a word and its
numbers, separated by spaces; word2vec and fastText announce the number of rows and the size of a
vector on a first line. Words may contain spaces, as a few in GloVe's 840B file do.

A word that a source lacks is looked up in lower case, Capitalised and in UPPER case, and a subword
without the mark of a word's start (`▁film`, `Ġfilm`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from ..hub.client import fetch
from ..utils.errors import DataError, ModelError, SettingError, explain
from .encode import count_tokens
from .errors import explain_file
from .lines import open_unpacked

_NUMBER = re.compile(rb"[+-]?\.?[0-9]")

# ---- files ----


def read_file(path: str | Path, words: Collection[str]) -> dict[str, np.ndarray]:
    """Return the vectors of those words that a file has, float32 `(E,)`.

    The whole file is read, so that damage anywhere is found; a [`DataError`] names the file and the
    line.
    """
    keys = {word.encode(): word for word in words}
    vectors = {}
    for key, numbers in _read_vectors(str(path)):
        word = keys.pop(key, None)
        if word is not None:
            with explain(f"{path}: the vector of {word!r}", DataError, (ValueError,)):
                vectors[word] = np.array(numbers, dtype=np.float32)
    return vectors


def _read_vectors(path: str) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield word and numbers of each row."""
    with explain_file(path), open_unpacked(path) as stream:
        first = stream.readline().removeprefix(b"\xef\xbb\xbf")
        fields = first.split()
        announced = 0
        size = len(fields) - 1
        lines: Iterator[bytes] = chain([first], stream)
        if len(fields) == 2 and all(map(bytes.isdigit, fields)):
            announced, size = map(int, fields)
            lines = iter(stream)
        count = 0
        for line in filter(bytes.strip, lines):
            count += 1
            word, *numbers = line.rsplit(None, size)  # words may contain spaces
            if not numbers or len(numbers) != size or not _NUMBER.match(numbers[0]):
                place = count + 1 if announced else count
                detail = f"expected a word and {size} numbers"
                found = len(line.split()) - 1
                if found < size:
                    detail += f", found {found}"
                advice = "is it cut short, or not text? Give vectors of GloVe, word2vec or fastText"
                message = f"{path}, line {place:,}: {detail}; {advice} (its .vec file)"
                raise DataError(message, path)
            yield word, numbers
        if announced not in (0, count):
            detail = f"has {count:,} rows and announces {announced:,} on line 1"
            raise DataError(f"{path} {detail}: is it cut short?", path)


# ---- a vocabulary ----


@dataclass(frozen=True)
class Vectors:
    """Vectors of a source for a vocabulary."""

    name: str  # that of the source
    matrix: torch.Tensor  # float32 `(V, E)`, one row per id; the padding row is zero
    words: int  # words of the vocabulary, without special tokens
    covered: int  # those with a vector
    # tokens of the texts with a vector, unknown ones included; None without texts
    token_share: float | None = None

    @property
    def coverage(self) -> str:
        """The numbers and shares of covered words and tokens, as a text."""
        tokens = "" if self.token_share is None else f", {self.token_share:.1%} of the tokens"
        return f"{self.covered:,} of {self.words:,} words ({self.covered / self.words:.1%}){tokens}"

    def describe(self) -> dict[str, Any]:
        """Return name and coverage for JSON."""
        return {
            "name": self.name,
            "coverage_types": self.covered / self.words,
            "coverage_tokens": self.token_share,
        }


def load_vectors(
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    texts: Iterable[str] | None = None,
    embedding_size: int | None = None,
    seed: int = 0,
) -> Vectors:
    """Return pretrained vectors for a vocabulary, in the order of its ids.

    A file is streamed: only the vectors of needed words are kept in memory. In a model's table a
    word of several pieces gets their mean. Words without a vector are drawn from N(0, s²), where s
    is the standard deviation of the numbers that were found.

    Args:
        source: A file of vectors, the folder of a transformers model, or such a model's id on the
            Hub.
        tokenizer: Its vocabulary is looked up. A model's own tokenizer gets its rows unchanged.
        texts: Texts whose tokens are counted for the coverage.
        embedding_size: Required numbers per vector; None accepts any.
        seed: Seed of the words without a vector.

    Raises:
        UserError: For a missing or damaged source, vectors of another size or not finite, and when
            no word is found.

    Example:
        >>> vectors = load_vectors("glove.6B.50d.txt", tokenizer, texts=data["train"]["text"])
        >>> print(vectors.coverage)
        3,250 of 3,328 words (97.7%), 97.9% of the tokens
    """
    ids = tokenizer.get_vocab()
    name, vectors = _look_up(Path(os.path.expanduser(source)), tokenizer)
    words = ids.keys() - set(tokenizer.all_special_tokens)
    covered = vectors.keys() & words
    if not covered:
        detail = f"has a vector for none of the {len(words):,} words of the vocabulary"
        raise DataError(f"{source} {detail}: check it", str(source))
    _check_vectors(str(source), vectors, embedding_size)

    rows = torch.from_numpy(np.stack(list(vectors.values())))
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(max(ids.values()) + 1, rows.shape[1], generator=generator)
    matrix *= rows.double().std(correction=0).item()
    matrix[torch.tensor([ids[word] for word in vectors])] = rows
    if tokenizer.pad_token_id is not None:
        matrix[tokenizer.pad_token_id] = 0
    share = None
    counts = count_tokens(tokenizer, texts or ())
    if counts:
        share = sum(counts[ids[word]] for word in covered) / counts.total()
    return Vectors(name, matrix, len(words), len(covered), share)


def _check_vectors(source: str, vectors: Mapping[str, np.ndarray], size: int | None) -> None:
    """Refuse numbers that are not finite, and vectors of another size than is required."""
    for word, vector in vectors.items():
        if not np.isfinite(vector).all():
            detail = "contains a number that is not finite"
            raise DataError(f"{source}: the vector of {word!r} {detail}", source)
        if size not in (None, len(vector)):
            detail = f"have {len(vector)} numbers, and embedding_size is {size}"
            raise SettingError(f"the vectors of {source} {detail}")


def _look_up(path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[str, dict[str, np.ndarray]]:
    """Return the name of a source, and the vectors of the entries of a vocabulary that have one."""
    is_id = str(path).count("/") == 1 and not path.parent.is_dir()
    name = str(path) if is_id else path.resolve().name
    if path.is_file():
        forms = _find_forms(tokenizer, with_marks=True)
        rows = read_file(path, set(chain.from_iterable(forms.values())))
    elif is_id or path.is_dir():
        folder = fetch(name) if is_id else path
        with explain(f"the vectors of {folder} cannot be loaded", ModelError):
            pieces = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
            table = model.get_input_embeddings().weight.detach().float().numpy()
        if pieces.get_vocab() == tokenizer.get_vocab():
            return name, {word: table[index] for word, index in pieces.get_vocab().items()}
        forms = _find_forms(tokenizer, with_marks=False)
        rows = _average_pieces(table, pieces, set(chain.from_iterable(forms.values())))
    else:
        advice = "give a file, the folder of a transformers model, or its Hub id"
        raise DataError(f"there are no vectors at {path}: {advice}", str(path))
    chosen = {
        entry: next(filter(rows.__contains__, options), None) for entry, options in forms.items()
    }
    return name, {entry: rows[form] for entry, form in chosen.items() if form is not None}


def _find_forms(tokenizer: PreTrainedTokenizerBase, with_marks: bool) -> dict[str, list[str]]:
    """Return the forms under which to look up each entry of a vocabulary, best first.

    A source `with_marks` may contain special tokens and marked subwords.
    """
    special = set(tokenizer.all_special_tokens)
    forms = {}
    for entry in tokenizer.get_vocab().keys() - {tokenizer.pad_token}:
        word = entry if entry in special else tokenizer.convert_tokens_to_string([entry]).strip()
        words = [] if "\ufffd" in word else _spell(word)  # part of a letter
        if with_marks:
            forms[entry] = _spell(entry) + words
        elif entry not in special:
            forms[entry] = words
    return forms


def _average_pieces(
    table: np.ndarray, pieces: PreTrainedTokenizerBase, words: Iterable[str]
) -> dict[str, np.ndarray]:
    """Return the mean of the pieces of each word, as after another one, unless one is unknown."""
    words = list(words)
    texts = ["a", *(f"a {word}" for word in words)]
    before, *lists = pieces(texts, add_special_tokens=False)["input_ids"]
    unusable = set(pieces.all_special_ids)
    rows = {}
    for word, ids in zip(words, lists, strict=True):
        own = ids[len(before) :]
        if own and unusable.isdisjoint(own):
            rows[word] = table[own].mean(axis=0)
    return rows


def _spell(word: str) -> list[str]:
    """Return the forms under which to look up a word, best first."""
    forms = (word, word.lower(), word.capitalize(), word.upper())
    return list(dict.fromkeys(filter(None, forms)))
