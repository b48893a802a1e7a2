"""A source of word vectors and a tokenizer → one row for each entry of the vocabulary.

Files, formats and models are the business of the source; fall-backs are those of [`hf_rnn.data.vectors.fallbacks`].
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedTokenizerBase

from ...hub.client import fetch
from ...utils.errors import UserError
from .archive import split_archive
from .fallbacks import is_placeholder, list_forms
from .model_table import ModelTable
from .vector_file import Table, VectorFile

_BATCH = 1000  # texts counted at a time


class VectorSource(Protocol):
    """Where word vectors come from."""

    @property
    def name(self) -> str:
        """What the vectors are called."""

    def first_words(self, limit: int) -> list[str]:
        """Return the first words, in most sources the most frequent ones, at most so many."""

    def read(self, wanted: Collection[str]) -> Table:
        """Return the vectors of those of some words that stand in the source."""

    def compose(self, words: Collection[str]) -> dict[str, np.ndarray]:
        """Return vectors, made of those of their parts, of words that do not stand in the source."""


@dataclass(frozen=True)
class Coverage:
    """How much of the vocabulary has vectors; special tokens are no words.

    Attributes:
        words: Words of the vocabulary.
        found: Those that have a vector, be it by a fall-back.
        token_share: Share of the tokens of the texts, unknown ones included, whose word has a vector; None when no
            texts were given.
    """

    words: int
    found: int
    token_share: float | None = None

    @property
    def type_share(self) -> float:
        """Share of the words that have a vector."""
        return self.found / max(self.words, 1)

    def __str__(self) -> str:
        tokens = "" if self.token_share is None else f", {self.token_share:.1%} of the tokens"
        return f"{self.found:,} of {self.words:,} words ({self.type_share:.1%}){tokens}"


@dataclass(frozen=True)
class Vectors:
    """Vectors for the entries of a vocabulary.

    Attributes:
        name: What the vectors are called: a file's or folder's name, or a repo id.
        matrix: float32 `(V, E)`, a row an id; the padding row is zero.
        coverage: How much of the vocabulary they cover.
    """

    name: str
    matrix: torch.Tensor
    coverage: Coverage

    def describe(self) -> dict[str, Any]:
        """Return name and coverage as JSON can hold them."""
        coverage = self.coverage
        return {
            "name": self.name,
            "coverage_types": coverage.type_share,
            "coverage_tokens": coverage.token_share,
        }

    def fingerprint(self) -> str:
        """Return a hash of the numbers."""
        return hashlib.sha256(self.matrix.numpy().tobytes()).hexdigest()


def find_source(source: str | Path) -> VectorSource:
    """Return what a name stands for.

    Args:
        source: A file of vectors, the folder of a transformers model, or such a model's id on the Hub.

    Raises:
        UserError: When it is none of these.
    """
    if not str(source):
        raise UserError("vectors is empty: give a file of vectors, or the folder or id of a transformers model")
    source = os.path.expanduser(source)
    path = Path(source)
    try:
        is_file = path.is_file() or split_archive(path)[1] is not None
    except OSError as error:  # of a name that no file could have
        raise UserError(f"there can be no vectors at {str(source):.80}...: {error.strerror}") from error
    if is_file:
        return VectorFile(path)
    if path.is_dir():
        return ModelTable.find(path, path.resolve().name)
    if str(source).count("/") == 1 and not path.parent.is_dir() and _may_be_repo(str(source)):
        return ModelTable.find(fetch(str(source)), str(source))
    raise UserError(
        f"there are no vectors at {source}: give a file (text or word2vec's binary form, plain, .gz or .zip), the "
        "folder of a transformers model, or its id on the Hub"
    )


def _may_be_repo(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def load_vectors(
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    texts: Iterable[str] | None = None,
    embedding_size: int | None = None,
    seed: int = 0,
) -> Vectors:
    """Return pretrained vectors for a vocabulary, in the order of its ids.

    A file is streamed: only the vectors of words that are needed are kept in memory. Where a word is not found, its
    other forms are tried, see [`hf_rnn.data.vectors.fallbacks`]; in a model's table it gets the mean of its pieces' vectors.
    Words without any are drawn from N(0, s²), s being the standard deviation of the numbers that were found.

    Args:
        source: A file of vectors (GloVe or fastText text, word2vec text or binary; plain, gzip or zip, for one file of
            several in an archive `glove.zip/glove.50d.txt`), the folder of any transformers model, or such a model's
            id on the Hub. A model's own tokenizer gets its rows as they are.
        tokenizer: Its vocabulary is looked up.
        texts: To count how much of them is covered, by token.
        embedding_size: Numbers that a vector must have; None takes what is there.
        seed: Of the words that are not found.

    Raises:
        UserError: For a source that is not there, cannot be read or is damaged, see [`VectorFile.read`]; for vectors
            of another size than `embedding_size`; and when no word is found at all.

    Example:
        >>> from hf_rnn import load_vectors
        >>> vectors = load_vectors("glove.6B.50d.txt", tokenizer, texts=data["train"]["text"])
        >>> print(vectors.coverage)
        3,250 of 3,328 words (97.7%), 97.9% of the tokens
    """
    found, ids, special = find_source(source), tokenizer.get_vocab(), set(tokenizer.all_special_tokens)
    if isinstance(found, ModelTable) and found.tokenizer.get_vocab() == ids:
        rows = found.read_rows(ids.values())
        size, vectors = found.size, {word: rows[index] for word, index in ids.items()}
    else:
        entries = [word for word, index in ids.items() if index != tokenizer.pad_token_id]
        size, vectors = _look_up(found, _spell(entries, tokenizer), special)
    if embedding_size is not None and size != embedding_size:
        raise UserError(f"the vectors of {source} have {size} numbers, and embedding_size is {embedding_size}")
    words = ids.keys() - special
    covered = vectors.keys() & words
    if not covered:
        raise UserError(
            f"{source} has a vector for none of the {len(words):,} words of the vocabulary: is it the right one?"
        )
    matrix = _fill(ids, vectors, (max(ids.values()) + 1, size), seed)
    if tokenizer.pad_token_id is not None:
        matrix[tokenizer.pad_token_id] = 0
    share = None if texts is None else _token_share(tokenizer, {ids[word] for word in covered}, texts)
    return Vectors(found.name, matrix, Coverage(len(words), len(covered), share))


def _spell(entries: Collection[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return what entries of a vocabulary are in a text: `film` for `▁film`, `é` for `Ã©`, "" for half a letter."""
    special = set(tokenizer.all_special_tokens)
    spelt = {entry: entry if entry in special else tokenizer.convert_tokens_to_string([entry]) for entry in entries}
    return {entry: "" if "\ufffd" in text and text != entry else text.strip() for entry, text in spelt.items()}


def _look_up(
    source: VectorSource, words: Mapping[str, str], special: Collection[str]
) -> tuple[int, dict[str, np.ndarray]]:
    """Return the size of vectors, and those of the entries, special tokens among them, that have any.

    Args:
        source: Where vectors are. A file may be one of subwords, and have them as a vocabulary writes them.
        words: What each entry is in a text.
        special: Entries that are special tokens.
    """
    texts_only = isinstance(source, ModelTable)
    forms = {
        entry: list(list_forms(word, None if texts_only else entry))
        for entry, word in words.items()
        if word or not texts_only
    }
    table = source.read({part for options in forms.values() for form in options for part in form})
    vectors = {}
    for entry, options in forms.items():
        form = next((form for form in options if table.rows.keys() >= set(form)), None)
        if form is not None:
            vectors[entry] = np.mean([table.rows[part] for part in form], axis=0)
    # what a placeholder or a special token is spelt like means nothing
    spelt = {entry: word for entry, word in words.items() if word and entry not in special}
    missing = {entry: word for entry, word in spelt.items() if entry not in vectors and not is_placeholder(word)}
    composed = source.compose(set(missing.values()))
    return table.size, vectors | {entry: composed[word] for entry, word in missing.items() if word in composed}


def _fill(ids: dict[str, int], vectors: dict[str, np.ndarray], shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Put the vectors into the order of the ids, and draw those that are missing."""
    places = torch.tensor([ids[word] for word in vectors])
    known = torch.from_numpy(np.stack(list(vectors.values())))
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    matrix *= known.double().std(correction=0).item()
    matrix[places] = known
    return matrix


def _token_share(tokenizer: PreTrainedTokenizerBase, covered: set[int], texts: Iterable[str]) -> float | None:
    """Share of the tokens of texts that are covered; None for texts without a token."""
    counts: Counter[int] = Counter()
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH)):
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            counts.update(ids)
    total = counts.total()
    return sum(count for index, count in counts.items() if index in covered) / total if total else None
