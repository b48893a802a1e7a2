"""Numbers of one split, and of two beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .report import WordCounts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 1000  # texts handed to the tokenizer at a time


def count_words(lengths: np.ndarray) -> WordCounts:
    """Sum up the lengths of texts in words, shape (rows,)."""
    low, median, high = np.quantile(lengths, [0.05, 0.5, 0.95]).tolist()
    return WordCounts(float(lengths.mean()), int(lengths.min()), low, median, high, int(lengths.max()))


def label_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the total variation distance of two vectors of rows by label, shape (classes,): 0 to 1."""
    return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)


def length_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic of two samples of lengths: 0 to 1."""
    a, b = np.sort(a), np.sort(b)
    lengths = np.concatenate([a, b])
    up_to = [np.searchsorted(sample, lengths, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(up_to[0] - up_to[1]).max())


def unknown_token_share(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> float | None:
    """Return the share of the tokens of these texts that are the unknown one; None if the tokenizer has none such.

    The texts are tokenized whole, without special tokens.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return None
    found = total = 0
    for start in range(0, len(texts), _BATCH):
        encoded = tokenizer(
            texts[start : start + _BATCH],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for ids in encoded["input_ids"]:
            found += ids.count(unknown)
            total += len(ids)
    return found / total if total else 0.0
