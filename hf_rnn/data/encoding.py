"""Texts to token ids: texts with labels row by row, continuous text in blocks."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import numpy as np
import xxhash

from ..utils.errors import DataError, SettingError, check_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_WORD = re.compile(r"(?<![\w@#/.:])[^\W\d_]+")
_BATCH = 1000  # texts tokenized at a time
_TEXTS = {"text": "texts", "text_pair": "text pairs"}
_LABELS = ("label", "labels", "label_ids")  # the names that collators of transformers know
# without `verbose`, as each over-long text makes a warning
_QUIET = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}

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
        splits = type(dataset)()
        for name, rows in dataset.items():
            splits[name] = encode(rows, tokenizer, max_length, as_labels)
        return splits
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream cannot be encoded: give a Dataset")
    encoder = _Encoder(dataset.features, tokenizer, max_length, as_labels)
    if dataset.format["type"] != "custom":  # a custom one makes the texts
        dataset = dataset.with_format(None)
    rows = dataset.map(
        encoder.encode,
        batched=True,
        with_indices=True,
        remove_columns=list(dataset.features),
        features=datasets.Features(encoder.features),
        new_fingerprint=take_fingerprint(dataset, tokenizer, encoder.limit),
    ).with_format(None)
    if encoder.truncated:
        counts = f"{encoder.truncated} of {len(rows)} texts in {dataset.split or 'the data'}"
        message = "%s are longer than %d tokens and were truncated"
        logger.warning(message, counts, encoder.limit)
    return rows


class _Encoder:
    """Encode batches of rows, and count the truncated ones; arguments are those of [`encode`]."""

    def __init__(
        self,
        features: datasets.Features,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        as_labels: tuple[Any, Callable[[list[Any]], list[Any]]] | None,
    ) -> None:
        self.limit = tokenizer.model_max_length if max_length is None else max_length
        if self.limit < 1:
            raise SettingError(f"max_length must be at least 1: found {self.limit}")
        if "text" not in features:
            found = ", ".join(map(repr, features)) or "no column"
            raise DataError(f"no column 'text' to encode: found {found}")
        self.truncated = 0
        self.features: dict[str, Any] = {"input_ids": datasets.List(datasets.Value("int32"))}
        self._tokenizer = tokenizer
        self._nouns = {name: noun for name, noun in _TEXTS.items() if name in features}
        self._label = next((name for name in _LABELS if name in features), None)
        if self._label is not None:
            self.features["labels"], self._convert = as_labels or (features[self._label], list)

    def encode(self, batch: dict[str, list[Any]], positions: list[int]) -> dict[str, list[Any]]:
        """Return ids and labels of a batch."""
        for name, noun in self._nouns.items():
            check_texts(batch[name], noun, positions[0])
        texts = [batch[name] for name in self._nouns]
        encoded = {"input_ids": self._truncate(texts)}
        if self._label is not None:
            encoded["labels"] = self._convert(batch[self._label])
        return encoded

    def _truncate(self, texts: list[list[str]]) -> list[list[int]]:
        """Return the ids of each row of one or two columns of texts."""
        rows = self._tokenizer(*texts, truncation=False, **_QUIET)["input_ids"]
        long = [number for number, ids in enumerate(rows) if len(ids) > self.limit]
        if long:
            columns = [list(map(column.__getitem__, long)) for column in texts]
            limits = {"truncation": True, "max_length": self.limit}
            cut = self._tokenizer(*columns, **limits, **_QUIET)["input_ids"]
            for number, ids in zip(long, cut, strict=True):
                rows[number] = ids
        self.truncated += len(long)
        return rows


def encode_blocks(
    texts: datasets.DatasetDict, tokenizer: PreTrainedTokenizerBase, block_size: int
) -> datasets.DatasetDict:
    """Return the tokens of each split in blocks of one size, the last one shorter, as `run_clm.py`.

    The labels are the tokens themselves; `characters` is the tokens of the block times the mean
    length of the split's tokens.
    """
    blocks = datasets.DatasetDict()
    for split, rows in texts.items():

        def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            encoded = tokenizer(batch["text"], add_special_tokens=False, **_QUIET)
            return {"input_ids": encoded["input_ids"]}

        fingerprint = take_fingerprint(rows, tokenizer)
        lines = rows.map(encode, batched=True, remove_columns=["text"], new_fingerprint=fingerprint)
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
    remaining = iter(texts)
    while chunk := list(islice(remaining, _BATCH)):
        encoded = tokenizer(chunk, add_special_tokens=False, **_QUIET)
        counts.update(chain.from_iterable(encoded["input_ids"]))
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


def read_rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Return a tokenizer's vocabulary and rules as in its JSON; None for a tokenizer in Python.

    Truncation and padding, which the last call leaves there, are not included.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    rules = json.loads(backend.to_str())
    return {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}


def take_fingerprint(
    dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, *options: Any
) -> str | None:
    """Return a fingerprint that is the same in every process; None if the library must find one."""
    settings = read_rules(tokenizer)
    if settings is None:
        return None
    sides = [getattr(tokenizer, name, None) for name in ("truncation_side", "split_special_tokens")]
    return xxhash.xxh3_64_hexdigest(repr((dataset._fingerprint, settings, sides, options)).encode())
