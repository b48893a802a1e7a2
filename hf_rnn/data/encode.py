"""Texts to token ids: texts with labels row by row, continuous text in blocks."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import numpy as np
from datasets.fingerprint import generate_random_fingerprint

from ..tokenizers import NO_LENGTH_LIMIT
from ..utils.errors import DataError, SettingError, check_texts
from .tokens import FastTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_WORD = re.compile(r"(?<![\w@#/.:])[^\W\d_]+")
_BATCH = 1000  # texts tokenized at a time
_TEXTS = {"text": "texts", "text_pair": "text pairs"}
_LABELS = ("label", "labels", "label_ids")  # the names that collators of transformers know

AnyDataset = TypeVar("AnyDataset", datasets.Dataset, datasets.DatasetDict)


def encode(
    dataset: AnyDataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    as_labels: tuple[Any, Callable[[list[Any]], list[Any]]] | None = None,
) -> AnyDataset:
    """Turn texts into token ids.

    Args:
        dataset: A data set or a dict of them, with the column `text`, `text_pair` if any, and
            `label` or `labels` if any.
        tokenizer: Any tokenizer of the library.
        max_length: Longer texts are truncated to this, and logged. By default the tokenizer's
            `model_max_length`.
        as_labels: A feature, and the function that makes its values of a batch of the column
            `label`.

    Returns:
        The same container with only the columns `input_ids` (list of int32, not padded) and
        `labels`, without format.

    Raises:
        UserError: For unusable columns, a `max_length` below 1, and an invalid text.
    """
    if isinstance(dataset, dict):
        options = (tokenizer, max_length, as_labels)
        return type(dataset)({name: encode(rows, *options) for name, rows in dataset.items()})
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream cannot be encoded: give a Dataset")
    limit = tokenizer.model_max_length if max_length is None else max_length
    if limit < 1:
        raise SettingError(f"max_length must be at least 1: found {limit}")
    if "text" not in dataset.features:
        found = ", ".join(map(repr, dataset.features)) or "no column"
        raise DataError(f"no column 'text' to encode: found {found}")
    nouns = {name: noun for name, noun in _TEXTS.items() if name in dataset.features}
    label = next((name for name in _LABELS if name in dataset.features), None)
    features: dict[str, Any] = {"input_ids": datasets.List(datasets.Value("int32"))}
    convert: Callable[[list[Any]], list[Any]] = list
    if label is not None:
        features["labels"], convert = as_labels or (dataset.features[label], list)
    tokenize = FastTokenizer(tokenizer, paired=len(nouns) > 1)
    truncated = 0

    def encode_batch(batch: dict[str, list[Any]], positions: list[int]) -> dict[str, list[Any]]:
        nonlocal truncated
        columns = {noun: batch[name] for name, noun in nouns.items()}
        rows, long = _encode_rows(tokenize, columns, positions[0], limit)
        truncated += long
        encoded: dict[str, list[Any]] = {"input_ids": rows}
        if label is not None:
            encoded["labels"] = convert(batch[label])
        return encoded

    if dataset.format["type"] != "custom":  # a custom one makes the texts
        dataset = dataset.with_format(None)
    encoded = dataset.map(
        encode_batch,
        batched=True,
        with_indices=True,
        remove_columns=list(dataset.features),
        features=datasets.Features(features),
        new_fingerprint=generate_random_fingerprint(),  # else the library hashes the tokenizer
    ).with_format(None)
    if truncated:
        counts = f"{truncated} of {len(encoded)} texts in {dataset.split or 'the data'}"
        logger.warning("%s are longer than %d tokens and were truncated", counts, limit)
    return encoded


def _encode_rows(
    tokenize: FastTokenizer, columns: Mapping[str, list[str]], first: int, limit: int
) -> tuple[list[list[int]], int]:
    """Return the ids of rows, whose texts are named by their noun, and how many are truncated."""
    for noun, column in columns.items():
        check_texts(column, noun, first)
    texts: list[Any] = columns["texts"]
    if len(columns) > 1:
        texts = list(zip(*columns.values(), strict=True))
    rows = tokenize(texts, NO_LENGTH_LIMIT)
    long = [number for number, ids in enumerate(rows) if len(ids) > limit]
    cut = tokenize([texts[number] for number in long], limit)
    for number, ids in zip(long, cut, strict=True):
        rows[number] = ids
    return rows, len(long)


def encode_blocks(
    texts: datasets.DatasetDict, tokenizer: PreTrainedTokenizerBase, block_size: int
) -> datasets.DatasetDict:
    """Return the tokens of each split in blocks of one size, the last one shorter, as `run_clm.py`.

    The labels are the tokens themselves; `characters` is the tokens of the block times the mean
    length of the split's tokens.
    """
    blocks = datasets.DatasetDict()
    tokenize = FastTokenizer(tokenizer, add_special_tokens=False)

    def encode_batch(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"input_ids": tokenize(batch["text"], NO_LENGTH_LIMIT)}

    for split, rows in texts.items():
        fingerprint = generate_random_fingerprint()
        lines = rows.map(
            encode_batch, batched=True, remove_columns=["text"], new_fingerprint=fingerprint
        )
        pieces = chain.from_iterable(lines.with_format("numpy")["input_ids"])
        ids = np.fromiter(pieces, dtype=np.int64)
        if len(ids) < 2:
            found = f"found {len(ids)} in {split}; give more text"
            raise DataError(f"a split must have at least two tokens: {found}")
        parts = np.split(ids, range(block_size, len(ids), block_size))
        if len(parts[-1]) < 2:  # it has no token to predict
            parts[-2:] = [np.concatenate(parts[-2:])]
        ratio = sum(map(len, rows["text"])) / len(ids)
        columns = {
            "input_ids": parts,
            "labels": parts,
            "characters": [len(part) * ratio for part in parts],
        }
        blocks[split] = datasets.Dataset.from_dict(columns)
    return blocks


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Counter[int]:
    """Count the tokens of texts by id, without those around a text."""
    counts = Counter[int]()
    tokenize = FastTokenizer(tokenizer, add_special_tokens=False)
    remaining = iter(texts)
    while chunk := list(islice(remaining, _BATCH)):
        counts.update(chain.from_iterable(tokenize(chunk, NO_LENGTH_LIMIT)))
    return counts


def measure_pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, float]:
    """Return the tokens per word, and the share of unknown tokens, high both in a foreign language.

    A word is a run of letters, so that punctuation, handles and links do not count.
    """
    words = [_WORD.findall(text) for text in texts]
    counts = count_tokens(tokenizer, map(" ".join, words))
    pieces = counts.total()
    return {
        "pieces_per_word": pieces / max(1, sum(map(len, words))),
        "unknown_token_share": counts[tokenizer.unk_token_id] / max(1, pieces),
    }
