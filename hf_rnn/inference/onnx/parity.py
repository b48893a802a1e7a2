"""Does another program give a model's answers? 200 texts, real and hostile, in batches padded in every way.

The other program is a function of two arrays, so nothing here knows what runs it.

Legend: N texts, B batch, T time, C classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...models.configuration_rnn import RnnConfig
from ...models.modeling_rnn import RnnForSequenceClassification
from ..reference import tokenize

TEXTS, MOST_EXAMPLES = 200, 100
_BATCHES = (1, 2, 5, 16)  # texts at once, in turn
_LONGEST = 60  # words of a text that is made up
# What has broken text programs before. The first is a batch of its own, which has no tokens at all.
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
    """How far two programs agree on the same texts.

    Attributes:
        texts: How many they were; each ran padded on the right, on the left, and with holes.
        max_difference: Of two logits, the largest difference; NaN when some are no numbers.
        largest_logit: The largest absolute logit of the model itself.
        agreement: Share of the answers that are the same, from 0 to 1.
    """

    texts: int
    max_difference: float
    largest_logit: float
    agreement: float


def make_texts(tokenizer: PreTrainedTokenizerBase, examples: Iterable[str] = ()) -> list[str]:
    """Return `TEXTS` texts: hostile ones, the examples given, and words of the vocabulary up to that number.

    Args:
        tokenizer: Its vocabulary is drawn from, the first entries more often, as they are in texts.
        examples: Real texts; the first hundred are taken.
    """
    chance = random.Random(0)
    texts = [*_HOSTILE, *islice(examples, MOST_EXAMPLES)]
    size = len(tokenizer)
    while len(texts) < TEXTS:
        ids = [int(size * chance.random() ** 3) for _ in range(chance.randint(1, _LONGEST))]
        texts.append(str(tokenizer.decode(ids)))
    return texts


def measure_parity(
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    run: Callable[[np.ndarray, np.ndarray], np.ndarray],
    examples: Iterable[str] = (),
) -> Parity:
    """Run a model and another program on the same batches.

    Args:
        model: In evaluation mode, in float32 on the CPU.
        tokenizer: Its tokenizer.
        run: Takes `input_ids` and `attention_mask`, int64 `(B, T)`, and returns logits `(B, C)`.
        examples: Real texts, to be among those that are run.
    """
    input_ids = tokenize(tokenizer, make_texts(tokenizer, examples))
    ours, theirs = [], []
    for ids, mask in _batches(input_ids, len(tokenizer)):
        with torch.inference_mode():
            batch = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        ours.append(batch.logits.numpy())
        theirs.append(run(ids, mask))
    expected, found = np.concatenate(ours), np.concatenate(theirs)
    return Parity(
        len(input_ids),
        float(np.abs(expected - found).max()),
        float(np.abs(expected).max()),
        float((_answers(model.config, expected) == _answers(model.config, found)).all(axis=1).mean()),
    )


def _answers(config: RnnConfig, logits: np.ndarray) -> np.ndarray:
    """(N, C) → (N, 1), the class; for labels that stand alone (N, C), whether each holds."""
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return logits > 0
    return logits.argmax(axis=1, keepdims=True)


def _batches(input_ids: Sequence[Sequence[int]], vocab_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids and masks, int64 (B, T): every text three times. At masked places stand any ids."""
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
