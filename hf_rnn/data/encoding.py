"""Texts to token ids: the step between a data set and a model, for tables and streams alike."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import pyarrow.compute as pc
import xxhash

from ..utils.errors import UserError
from .text_checks import check_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_LABELS = ("label", "labels", "label_ids")  # the names that collators of transformers know

AnyDataset = TypeVar(
    "AnyDataset", datasets.Dataset, datasets.DatasetDict, datasets.IterableDataset, datasets.IterableDatasetDict
)


def encode(dataset: AnyDataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> AnyDataset:
    """Turn texts into token ids.

    Args:
        dataset: A data set or a dict of them, tables or streams, with the column `text` and, if there are labels,
            `label`, or `labels` where they are ready for a model (several a text, say).
        tokenizer: Any tokenizer of the library.
        max_length: Longer texts are cut to so many tokens, special ones included, as the tokenizer cuts them; how many
            is logged. By default the tokenizer's `model_max_length`.

    Returns:
        The same container with the columns `input_ids` (list of int32, not padded) and `labels` in place of the
        others, and in the same format; a transform is not kept, for it is of texts.

    Raises:
        UserError: If there is no column `text`, if there are two of labels, or `max_length` is not positive; while
            rows are read, for what is no valid text, named by its position.
    """
    if isinstance(dataset, dict):
        return type(dataset)({split: encode(part, tokenizer, max_length) for split, part in dataset.items()})
    if not hasattr(dataset, "features"):
        raise UserError(f"what is encoded must be a Dataset with a column 'text', found a {type(dataset).__name__}")
    limit = tokenizer.model_max_length if max_length is None else max_length
    if limit < 1:
        raise UserError(f"max_length is {limit}: give 1 or more")
    if isinstance(dataset, datasets.IterableDataset) and dataset.features is None:  # as after a `map` of one's own
        dataset = dataset._resolve_features()  # by its first rows
    features = dataset.features or {}
    if "text" not in features:
        raise UserError(f"there is no column 'text' to encode; there are {', '.join(map(repr, features)) or 'none'}")
    encoded = {"input_ids": datasets.List(datasets.Value("int32")), "cut": datasets.Value("bool")}
    labels = [name for name in _LABELS if name in features]
    if len(labels) > 1:
        raise UserError(f"there are labels in the columns {' and '.join(map(repr, labels))}: remove one of them")
    encoded |= {"labels": features[labels[0]]} if labels else {}
    batches = _Batches(tokenizer, limit, labels[0] if labels else None)
    arguments: dict[str, Any] = {
        "batched": True,
        "with_indices": True,
        "remove_columns": list(features),
        "features": datasets.Features(encoded),
    }
    name = str(dataset.split or "the data")
    if isinstance(dataset, datasets.IterableDataset):
        batches.name = name
        return dataset.map(batches, **arguments).remove_columns("cut")
    fingerprint, given = _fingerprint(dataset, tokenizer, limit), dataset.format
    if given["type"] != "custom":  # which makes the texts
        dataset = dataset.with_format(None)
    if len(dataset):
        rows = dataset.map(batches, new_fingerprint=fingerprint and fingerprint + "-cut", **arguments)
    else:  # of which `map` would leave the columns as they are
        rows = datasets.Dataset.from_dict(dict.fromkeys(encoded, []), arguments["features"], split=dataset.split)
    # Counted in the result and not on the way, so that a result from the library's cache is counted too.
    if cut := pc.sum(rows.with_format("arrow")["cut"]).as_py():
        logger.warning("%d of %d texts in %s are longer than %d tokens and were cut", cut, len(rows), name, limit)
    rows = rows.remove_columns("cut", new_fingerprint=fingerprint)
    if given["type"] is None:
        return rows
    if given["type"] == "custom":
        return rows.with_format(None)
    return rows.with_format(given["type"], **given["format_kwargs"])


class _Batches:
    """Encodes batches; of a stream it also says now and then how many texts it has cut."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, labels: str | None) -> None:
        self.tokenizer, self.limit = tokenizer, limit
        self.labels = labels  # the column
        self.name: str | None = None  # of a stream
        self.cut = 0

    def __call__(self, batch: dict[str, list[Any]], positions: list[int]) -> dict[str, list[Any]]:
        texts = list(batch["text"])  # a stream may hand out an array
        check_texts(texts, first=positions[0])
        rows = self._ids(texts, truncation=False)
        cut = [len(ids) > self.limit for ids in rows]
        if any(cut):
            long = iter(self._ids([text for text, over in zip(texts, cut, strict=True) if over], truncation=True))
            rows = [next(long) if over else ids for ids, over in zip(rows, cut, strict=True)]
            self._say(sum(cut))
        labels = {} if self.labels is None else {"labels": batch[self.labels]}
        return {"input_ids": rows, "cut": cut, **labels}

    def _ids(self, texts: list[str], truncation: bool) -> list[list[int]]:
        # With verbose on, the tokenizer warns of each over-long text it is asked not to cut.
        length = {"max_length": self.limit} if truncation else {}
        return self.tokenizer(
            texts,
            truncation=truncation,
            **length,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]

    def _say(self, cut: int) -> None:
        before, self.cut = self.cut, self.cut + cut
        if self.name is not None and len(str(self.cut)) > len(str(before)) * (before > 0):  # at 1, 10, 100, ...
            logger.warning(
                "%d texts in %s so far are longer than %d tokens and were cut", self.cut, self.name, self.limit
            )


def read_rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Return a tokenizer's vocabulary and rules as JSON has them, None of one that the library runs in Python.

    What the last call left, how to cut and to pad, is not among them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    rules = json.loads(backend.to_str())
    return {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}


def _fingerprint(dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, limit: int) -> str | None:
    """Return a fingerprint that is the same in every process, None where the library must find one itself."""
    settings = read_rules(tokenizer)
    if settings is None:
        return None
    reading = [getattr(tokenizer, name, None) for name in ("truncation_side", "split_special_tokens")]
    return xxhash.xxh3_64_hexdigest(repr((dataset._fingerprint, settings, reading, limit)).encode())
