"""Texts to token ids, for tables and streams."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import xxhash

from ..utils.errors import UserError
from ..utils.text_checks import check_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_WORD = re.compile(r"(?<![\w@#/.:])[^\W\d_]+")
_LABELS = ("label", "labels", "label_ids")  # the names that collators of transformers know

AnyDataset = TypeVar(
    "AnyDataset", datasets.Dataset, datasets.DatasetDict, datasets.IterableDataset, datasets.IterableDatasetDict
)


def encode(
    dataset: AnyDataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    as_labels: tuple[Any, Callable[[list[Any]], list[Any]]] | None = None,
) -> AnyDataset:
    """Turn texts into token ids.

    Args:
        dataset: A data set or a dict of them, tables or streams, with the column `text`, `text_pair` if any, and
            `label` or `labels` if any.
        tokenizer: Any tokenizer of the library.
        max_length: Longer texts are truncated to this, and logged. By default the tokenizer's `model_max_length`.
        as_labels: A feature, and the function that makes its values of a batch of the column `label`.

    Returns:
        The same container with only the columns `input_ids` (list of int32, not padded) and `labels`, without format.

    Raises:
        UserError: For unusable columns and a `max_length` below 1; while rows are read, for an invalid text.
    """
    if isinstance(dataset, dict):
        return type(dataset)(
            {split: encode(part, tokenizer, max_length, as_labels) for split, part in dataset.items()}
        )
    limit = tokenizer.model_max_length if max_length is None else max_length
    if limit < 1:
        raise UserError(f"max_length must be at least 1: found {limit}")
    streamed = isinstance(dataset, datasets.IterableDataset)
    if streamed and dataset.features is None:  # for example after a `map`
        dataset = dataset._resolve_features()
    features = dataset.features or {}
    if "text" not in features:
        raise UserError(f"no column 'text' to encode: found {', '.join(map(repr, features)) or 'no column'}")
    labels = [name for name in _LABELS if name in features]
    encoded = {"input_ids": datasets.List(datasets.Value("int32"))}
    feature, convert = as_labels or (features[labels[0]] if labels else None, list)
    encoded |= {"labels": feature} if labels else {}
    columns = labels[0] if labels else None, "text_pair" in features
    encoder = _Encoder(tokenizer, limit, *columns, str(dataset.split or "the data"), streamed, convert)
    arguments: dict[str, Any] = {"batched": True, "with_indices": True, "remove_columns": list(features)}
    arguments["features"] = datasets.Features(encoded)
    if streamed:
        return dataset.map(encoder, **arguments)
    fingerprint = take_fingerprint(dataset, tokenizer, limit)
    if dataset.format["type"] != "custom":  # a custom one makes the texts
        dataset = dataset.with_format(None)
    rows = dataset.map(encoder, new_fingerprint=fingerprint, **arguments).with_format(None)
    if encoder.truncated:
        found = f"{encoder.truncated} of {len(rows)} texts in {encoder.name}"
        logger.warning("%s are longer than %d tokens and were truncated", found, limit)
    return rows


class _Encoder:
    """Encode batches, and count the truncated texts; in a stream log them at 1, 10, 100, ..."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        limit: int,
        label_column: str | None,
        paired: bool,
        name: str,
        streamed: bool,
        convert: Callable[[Any], list[Any]],
    ) -> None:
        self.tokenizer, self.limit, self.label_column, self.paired = tokenizer, limit, label_column, paired
        self.name, self.streamed, self.truncated, self.convert = name, streamed, 0, convert

    def __call__(self, batch: dict[str, list[Any]], positions: list[int]) -> dict[str, list[Any]]:
        texts: list[Any] = list(batch["text"])  # a stream may deliver an array
        check_texts(texts, first=positions[0])
        if self.paired:
            check_texts(batch["text_pair"], "text pairs", positions[0])
            texts = list(zip(texts, batch["text_pair"], strict=True))
        rows = self._tokenize(texts, truncation=False)
        long = [number for number, ids in enumerate(rows) if len(ids) > self.limit]
        if long:
            for number, ids in zip(long, self._tokenize([texts[n] for n in long], truncation=True), strict=True):
                rows[number] = ids
            digits, self.truncated = len(str(self.truncated or "")), self.truncated + len(long)
            if self.streamed and len(str(self.truncated)) > digits:
                found = f"{self.truncated} texts in {self.name} so far"
                logger.warning("%s are longer than %d tokens and were truncated", found, self.limit)
        labels = {} if self.label_column is None else {"labels": self.convert(batch[self.label_column])}
        return {"input_ids": rows, **labels}

    def _tokenize(self, texts: list[Any], truncation: bool) -> list[list[int]]:
        firsts, *seconds = map(list, zip(*texts, strict=True)) if self.paired and texts else [texts]
        return self.tokenizer(
            firsts,
            *seconds,
            truncation=truncation,
            **({"max_length": self.limit} if truncation else {}),
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # else each over-long text makes a warning
        )["input_ids"]


def measure_pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, float]:
    """Return the tokens per word of letters, and the share of unknown tokens: both are high in a foreign language.

    A word is a run of letters, so that punctuation, handles and links do not count.
    """
    words = [_WORD.findall(text) for text in texts]
    rows = tokenizer([" ".join(row) for row in words], add_special_tokens=False, verbose=False)["input_ids"]
    pieces, unknown = sum(map(len, rows)), sum(ids.count(tokenizer.unk_token_id) for ids in rows)
    return {"pieces_per_word": pieces / max(1, sum(map(len, words))), "unknown_token_share": unknown / max(1, pieces)}


def read_rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Return a tokenizer's vocabulary and rules as in its JSON; None for a tokenizer in Python.

    Truncation and padding, which the last call leaves there, are not included.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    rules = json.loads(backend.to_str())
    return {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}


def take_fingerprint(dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, *options: Any) -> str | None:
    """Return a fingerprint that is the same in every process; None if the library must find one itself."""
    settings = read_rules(tokenizer)
    if settings is None:
        return None
    sides = [getattr(tokenizer, name, None) for name in ("truncation_side", "split_special_tokens")]
    return xxhash.xxh3_64_hexdigest(repr((dataset._fingerprint, settings, sides, options)).encode())
