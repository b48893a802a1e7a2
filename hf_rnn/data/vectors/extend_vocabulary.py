"""A vocabulary of the training texts → one that also has words of pretrained vectors.

A word that training never saw then has a meaning all the same: that of its vector. It pays with frozen vectors, or
where the vectors of words that do train stay near where they were.
"""

from __future__ import annotations

import copy
from itertools import count
from pathlib import Path
from typing import Any

from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase

from ...utils.errors import UserError
from .loading import find_source


def widen_vocabulary(tokenizer: PreTrainedTokenizerBase, source: str | Path, limit: int) -> PreTrainedTokenizerBase:
    """Return a tokenizer that also knows the first words of some vectors; the ids that there were stay.

    Args:
        tokenizer: Of whole words, as [`train_tokenizer`] makes it. It is not changed.
        source: As for [`load_vectors`].
        limit: How many of the source's first words, which in most sources are the most frequent ones, to look at. A
            word is added as the tokenizer's own normaliser spells it, and only if no text would have it cut in two.

    Raises:
        UserError: For a tokenizer of another kind, a `limit` below 1, or a source that cannot be read.
    """
    if limit < 1:
        raise UserError(f"widen_vocabulary must be at least 1, found {limit}")
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, WordLevel):
        raise UserError(
            "widen_vocabulary is for a vocabulary of whole words: leave it out, or leave out tokenizer and "
            "tokenizer_name_or_path"
        )
    special = set(tokenizer.all_special_tokens)
    # tokens that were added to the tokenizer too: a saved one gives those that its model lacks new ids
    vocabulary = dict(tokenizer.get_vocab())
    new = count(max(vocabulary.values(), default=-1) + 1)  # ids may have gaps
    for listed in find_source(source).first_words(limit):
        text = listed if backend.normalizer is None else backend.normalizer.normalize_str(listed)
        words = [(text, None)] if backend.pre_tokenizer is None else backend.pre_tokenizer.pre_tokenize_str(text)
        if len(words) == 1 and (word := words[0][0]) not in vocabulary and word not in special and word:
            vocabulary[word] = next(new)
    widened = copy.deepcopy(tokenizer)
    unknown = backend.model.unk_token
    widened.backend_tokenizer.model = WordLevel(vocabulary, unk_token=unknown)
    return widened
