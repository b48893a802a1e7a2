"""Compare another program's answers with a model's: 200 texts, real and hostile, in batches padded in every way.

Legend: N texts, B batch, T time, C classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..reference import tokenize

TEXTS, MOST_EXAMPLES = 200, 100
_BATCHES = (1, 2, 5, 16)  # texts per batch, in turn
_LONGEST = 60  # words of a random text
# Texts that have broken text programs before. The first is a batch of its own, without any token.
_HOSTILE = (
    "",
    " \t ",
    "a",
    "the " * 600,
    "a" * 3000,
    "qxzjv vqxzj",
    "<unk>",
    "<pad> <pad>",
    "[PAD] [UNK] [CLS] </s>",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05dc\u05d5\u05dd hello \u05e2\u05d5\u05dc\u05dd",
    "\u4eca\u5929\u7684\u5929\u6c14\u5f88\u597d",
    "n\u0303o\u0301 e\u0301 \u00e9 \ufb01ne",
    "\u202eback\u202c \u200b\u200b \ufeffmark",
    "one\ttwo\nthree\r\nfour",
    "\x00\x01\x7f",
    "!!! ??? ... ;;; ---",
    "\"quoted\" 'twice' \\n <b>bold</b> &amp;",
    "https://example.org/a?b=c @someone #tag 12,345.67 50%",
    "WHY ARE YOU SHOUTING",
    "not good not bad not good not bad",
)


@dataclass(frozen=True)
class Parity:
    """Agreement of two programs on the same texts."""

    texts: int  # each ran padded on the right, on the left, and with holes
    max_difference: float  # between two logits; NaN if some are not numbers
    largest_logit: float  # absolute, of the model itself
    agreement: float  # share of equal answers, from 0 to 1


def make_texts(tokenizer: PreTrainedTokenizerBase, examples: Iterable[str] = ()) -> list[str]:
    """Return `TEXTS` texts: hostile ones, the first hundred examples, and random words of the vocabulary.

    The first entries of the vocabulary are drawn more often, as they are more frequent in texts.
    """
    chance = random.Random(0)
    texts = [*_HOSTILE, *islice(examples, MOST_EXAMPLES)]
    size = len(tokenizer)
    while len(texts) < TEXTS:
        ids = [int(size * chance.random() ** 3) for _ in range(chance.randint(1, _LONGEST))]
        texts.append(str(tokenizer.decode(ids)))
    return texts


def measure_parity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    run: Callable[[np.ndarray, np.ndarray], np.ndarray],
    examples: Iterable[str] = (),
) -> Parity:
    """Run a model, in float32 on the CPU, and another program on the same batches.

    `run` takes `input_ids` and `attention_mask`, int64 `(B, T)`, and returns logits `(B, C)`.
    """
    input_ids = tokenize(tokenizer, make_texts(tokenizer, examples))
    ours, theirs = [], []
    for ids, mask in _batches(input_ids, len(tokenizer)):
        with torch.inference_mode():
            batch = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        ours.append(batch.logits.numpy())
        theirs.append(run(ids, mask))
    expected, found = np.concatenate(ours), np.concatenate(theirs)
    equal = _answers(model.config, expected) == _answers(model.config, found)
    return Parity(
        len(input_ids),
        float(np.abs(expected - found).max()),
        float(np.abs(expected).max()),
        float(equal.all(axis=1).mean()),
    )


def _answers(config: Any, logits: np.ndarray) -> np.ndarray:
    """Return the class `(N, 1)`; for labels that are independent of each other, whether each holds `(N, C)`."""
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        thresholds = np.array(getattr(config, "label_thresholds", None) or [0.5], dtype=np.float64)
        return logits > np.log(thresholds) - np.log1p(-thresholds)
    return logits.argmax(axis=1, keepdims=True)


def _batches(input_ids: Sequence[Sequence[int]], vocab_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids and masks, int64 (B, T): each text three times, with random ids at masked places."""
    chance = np.random.default_rng(0)
    start = turn = 0
    while start < len(input_ids):
        rows = input_ids[start : start + _BATCHES[turn % len(_BATCHES)]]
        longest = max(map(len, rows))
        for layout in ("right", "left", "holes"):
            time = longest if layout == "right" else longest + int(chance.integers(1, 8))
            ids = chance.integers(0, vocab_size, (len(rows), time))
            mask = np.zeros_like(ids)
            for row, text in enumerate(rows):
                places = np.arange(len(text))
                if layout == "left":
                    places += time - len(text)
                elif layout == "holes":
                    places = np.sort(chance.permutation(time)[: len(text)])
                ids[row, places], mask[row, places] = text, 1
            yield ids, mask
        start, turn = start + len(rows), turn + 1
