"""Pretrained word vectors for the vocabulary of a tokenizer: from a file, or from the table of a transformers model.

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
from ..utils.errors import UserError, reason_of
from .encoding import count_tokens
from .errors import explain_file
from .lines import open_unpacked

# ---- files ----


def read_file(path: str | Path, words: Collection[str]) -> dict[str, np.ndarray]:
    """Return the vectors of those words that a file has, float32 `(E,)`; the first row of a word counts.

    The whole file is read, so that damage anywhere is found; a [`UserError`] names the file and the
    line.
    """
    keys, vectors = {word.encode(): word for word in words}, {}
    for key, numbers in _read_rows(str(path)):
        if (word := keys.pop(key, None)) is not None:
            try:
                vectors[word] = np.array(numbers, dtype=np.float32)
            except ValueError as error:
                raise UserError(f"{path}: the vector of {word!r}: {reason_of(error)}") from None
    return vectors


def _read_rows(path: str) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield word and numbers of each row."""
    with explain_file(path), open_unpacked(path) as stream:
        first = stream.readline().removeprefix(b"\xef\xbb\xbf")
        header = [int(field) for field in first.split() if field.isdigit()]
        rows, size = header if len(header) == len(first.split()) == 2 else (0, 0)
        count = 0
        for line in filter(bytes.strip, stream if rows else chain([first], stream)):
            count += 1
            size = size or len(line.split()) - 1
            word, *numbers = line.rsplit(None, size)  # words may contain spaces
            if not numbers or len(numbers) != size or not re.match(rb"[+-]?\.?[0-9]", numbers[0]):
                detail = f"expected a word and {size} numbers, found {line.strip()!r:.60}"
                advice = "is it cut short, or not text? Give vectors of GloVe, word2vec or fastText (its .vec file)"
                raise UserError(f"{path}, line {count + (rows > 0):,}: {detail}; {advice}")
            yield word, numbers
        if rows not in (0, count):
            raise UserError(
                f"{path} has {count:,} rows and announces {rows:,} on line 1: is it cut short?"
            )


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
    path, ids, special = (
        Path(os.path.expanduser(source)),
        tokenizer.get_vocab(),
        set(tokenizer.all_special_tokens),
    )
    name, vectors = _look_up(path, tokenizer, ids, special)
    for word, vector in vectors.items():
        if not np.isfinite(vector).all():
            raise UserError(
                f"{source}: the vector of {word!r} contains a number that is not finite"
            )
    words = ids.keys() - special
    covered = vectors.keys() & words
    if not covered:
        raise UserError(
            f"{source} has a vector for none of the {len(words):,} words of the vocabulary: check it"
        )
    rows = torch.from_numpy(np.stack(list(vectors.values())))
    size = rows.shape[1]
    if embedding_size not in (None, size):
        raise UserError(
            f"the vectors of {source} have {size} numbers, and embedding_size is {embedding_size}"
        )
    matrix = torch.randn(max(ids.values()) + 1, size, generator=torch.Generator().manual_seed(seed))
    matrix *= rows.double().std(correction=0).item()
    matrix[torch.tensor([ids[word] for word in vectors])] = rows
    if tokenizer.pad_token_id is not None:
        matrix[tokenizer.pad_token_id] = 0
    share = None
    if texts is not None and (counts := count_tokens(tokenizer, texts)):
        share = sum(counts[ids[word]] for word in covered) / counts.total()
    return Vectors(name, matrix, len(words), len(covered), share)


def _look_up(
    path: Path, tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int], special: Collection[str]
) -> tuple[str, dict[str, np.ndarray]]:
    """Return the name of a source, and the vectors of the entries of a vocabulary that have one.

    In the table of a model, a word has the mean of its pieces, as after another word, unless a
    piece is unknown.
    """
    is_file, is_id = path.is_file(), str(path).count("/") == 1 and not path.parent.is_dir()
    if not (is_file or is_id or path.is_dir()):
        raise UserError(
            f"there are no vectors at {path}: give a file, the folder of a transformers model, or its Hub id"
        )
    name = str(path) if is_id else path.resolve().name
    if not is_file:
        folder = fetch(name) if is_id else path
        try:
            pieces = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
            table = model.get_input_embeddings().weight.detach().float().numpy()
        except Exception as error:  # damaged files make the libraries raise any exception
            raise UserError(
                f"the vectors of {path} cannot be loaded: {reason_of(error):.1000}"
            ) from error
        if pieces.get_vocab() == ids:
            return name, {word: table[index] for word, index in ids.items()}
    forms: dict[str, list[str]] = {}
    for entry in ids.keys() - {tokenizer.pad_token}:
        word = entry if entry in special else tokenizer.convert_tokens_to_string([entry]).strip()
        words = [] if "\ufffd" in word else list_forms(word)  # part of a letter
        if is_file:  # it may contain special tokens and marked subwords
            forms[entry] = list_forms(entry) + words
        elif entry not in special:
            forms[entry] = words
    wanted = list(dict.fromkeys(chain.from_iterable(forms.values())))
    if is_file:
        rows = read_file(path, wanted)
    else:
        before, *lists = pieces(["a", *(f"a {word}" for word in wanted)], add_special_tokens=False)[
            "input_ids"
        ]
        parts = {word: numbers[len(before) :] for word, numbers in zip(wanted, lists, strict=True)}
        unusable = set(pieces.all_special_ids)
        rows = {
            w: table[part].mean(axis=0)
            for w, part in parts.items()
            if part and unusable.isdisjoint(part)
        }
    chosen = {
        entry: next(filter(rows.__contains__, options), None) for entry, options in forms.items()
    }
    return name, {entry: rows[form] for entry, form in chosen.items() if form is not None}


def list_forms(word: str) -> list[str]:
    """Return the forms under which to look up a word, best first."""
    return (
        list(dict.fromkeys((word, word.lower(), word.capitalize(), word.upper()))) if word else []
    )
