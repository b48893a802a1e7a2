"""Texts → token ids → logits → scores by the model as it is, in the order of the texts.

What `FastRnn` is held to, and where it cannot serve, what runs in its place. No Trainer and no data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from ..data.text_checks import check_texts, out_of_arrow
from ..models.configuration_rnn import RnnConfig
from ..models.modeling_rnn import RnnForSequenceClassification
from ..utils.errors import UserError


def list_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list, or refuse what is none.

    Raises:
        UserError: For one text in place of several, for what is no collection, and for an element that is no text, be
            it that it is no Unicode; the message says which.
    """
    listed = texts if type(texts) is list else _as_list(texts)
    check_texts(listed)
    return listed


def _as_list(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        found = "one text: put it into a list, [text]" if isinstance(texts, str | bytes) else f"{texts!r:.80}"
        raise UserError(f"texts must be a list of str, found {found}")
    if isinstance(texts, Mapping | Set) or getattr(texts, "ndim", 1) != 1:  # columns, or without an order
        raise UserError(f"texts must be a list of str, found a {type(texts).__name__}: give the texts of it as a list")
    return list(out_of_arrow(texts))


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts, cut at the tokenizer's `model_max_length`."""
    return tokenizer(list(texts), truncation=True, return_attention_mask=False)["input_ids"] if len(texts) else []


def batch_by_length(
    input_ids: Sequence[Sequence[int]], tokens_per_batch: int, texts_per_batch: int | None = None
) -> Iterator[list[int]]:
    """Yield rows of about equal length, so many that they make a batch; every row once.

    Args:
        input_ids: Token ids by row.
        tokens_per_batch: Of a batch at most, padding counted; a longer row is a batch of its own.
        texts_per_batch: Rows of a batch at most.
    """
    batch: list[int] = []
    for row in sorted(range(len(input_ids)), key=lambda row: len(input_ids[row])):
        full = (len(batch) + 1) * len(input_ids[row]) > tokens_per_batch or len(batch) == texts_per_batch
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def compute_logits(
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[Sequence[int]],
    batch_size: int = 64,
    tokens_per_batch: int = 8192,
) -> torch.Tensor:
    """Run a model over texts, batched by length.

    Args:
        model: In evaluation mode.
        tokenizer: Pads.
        input_ids: Token ids by text; a text without any is allowed.
        batch_size: Texts run at once, at most.
        tokens_per_batch: Tokens run at once, padding counted, at most; a longer text is run alone.

    Returns:
        Logits `(N, C)` in the order of `input_ids`, in float32 on the CPU.
    """
    logits = torch.zeros(len(input_ids), model.config.num_labels, dtype=torch.float32, device="cpu")
    collate: Any = DataCollatorWithPadding(tokenizer, return_tensors="np")  # torch's go where its default device is
    for rows in batch_by_length(input_ids, tokens_per_batch, batch_size):
        texts = [list(input_ids[row]) for row in rows]
        if len(texts[0]) == len(texts[-1]):  # nothing to pad, as of one text: a collator takes longer than the model
            ids = np.array(texts, dtype=np.int64)
            batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        else:
            batch = collate([{"input_ids": text} for text in texts])
        inputs = {name: torch.from_numpy(batch[name]).to(model.device) for name in ("input_ids", "attention_mask")}
        logits[rows] = model(**inputs, return_dict=True).logits.float().cpu()
    return logits


def compute_scores(model: RnnForSequenceClassification, logits: torch.Tensor) -> torch.Tensor:
    """Turn logits `(N, C)` into scores `(N, C)` as the task has them: softmax, a sigmoid each, or the value itself."""
    return scores_of(model.config, logits)


def scores_of(config: RnnConfig, logits: torch.Tensor) -> torch.Tensor:
    """As [`compute_scores`], of a model of which only the configuration is at hand."""
    return scorer_of(config)(logits)


def scorer_of(config: RnnConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what [`compute_scores`] does, for many calls: to look at a configuration takes longer than a softmax."""
    if config.problem_type == "regression":
        return lambda logits: logits
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return torch.sigmoid
    return partial(torch.softmax, dim=-1)
