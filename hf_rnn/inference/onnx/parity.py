"""Compare another program's answers with a model's: 200 texts, real and hostile, in batches padded in every way.

Legend: B batch, T time, C classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from ...models.auto import ENCODER
from ...tasks.answers import compute_scores, score_kind

TEXTS, MOST_EXAMPLES = 200, 100
_BATCHES = (1, 2, 5, 16)  # texts per batch, in turn
_LONGEST = 60  # words of a random text
_BARRED = -1e37  # below it: the score of padding as the next token
_LEAST_COSINE = 0.99
_SAME_SCORE = 0.03
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
    "\u039f\u0394\u039f\u03a3 \u03a3\u039f\u03a6\u039f\u03a3",
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
    max_difference: float  # between two numbers of the outputs; NaN if some are not numbers
    largest: float  # absolute number, of the model itself
    agreement: float  # share of equal answers, see `_agree`, or of vectors with a cosine of at least 0.99, from 0 to 1


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
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    run: Callable[..., Mapping[str, np.ndarray]],
    examples: Iterable[str] = (),
    is_encoder: bool = False,
) -> Parity:
    """Run a model, in float32 on the CPU, and another program on the same batches.

    `run` takes `input_ids` and `attention_mask`, int64 `(B, T)`, and for a language model also its outputs for the
    tokens before; it returns outputs by name. With `is_encoder` a classifier is a sentence encoder, see `build_graph`.
    """
    texts = make_texts(tokenizer, examples)
    pairs = () if model.config.sep_token_id is None else (texts[::-1],)
    input_ids = tokenizer(texts, *pairs, truncation=True, return_attention_mask=False)["input_ids"]
    in_pieces = type(model).__name__ == "RnnForCausalLM"
    if in_pieces:  # whose logits are a number for each token and each word of the vocabulary
        input_ids = [ids[:_LONGEST] for ids in input_ids]
    difference, largest, equal = 0.0, 0.0, []
    for ids, mask in _batches(input_ids, len(tokenizer)):
        if in_pieces:
            half = ids.shape[1] // 2
            first = run(ids[:, :half], mask[:, :half])
            second = run(ids[:, half:], mask, first)
            found: Any = {"logits": np.concatenate([first["logits"], second["logits"]], axis=1)}
        else:
            found = run(ids, mask)
        for name, expected in _compute(model, ids, mask, is_encoder).items():
            if expected.size:
                difference = float(np.maximum(difference, np.abs(expected - found[name]).max()))
                largest = max(largest, float(np.abs(expected * (expected > _BARRED)).max()))
            real = mask != 0 if expected.ndim == 3 else slice(None)
            agree = _agree_on_vectors if name != "logits" else partial(_agree, model.config, expected.ndim == 3)
            equal.append(agree(expected[real], found[name][real]))
    return Parity(len(input_ids), difference, largest, float(np.concatenate(equal).mean()))


@torch.inference_mode()
def _compute(model: Any, ids: np.ndarray, mask: np.ndarray, is_encoder: bool) -> dict[str, np.ndarray]:
    """Return the outputs of the model by name."""
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if type(model).__name__ == ENCODER:
        return {"last_hidden_state": model(**batch).last_hidden_state.numpy()}
    logits = model(**batch).logits
    if not is_encoder:
        return {"logits": logits.numpy()}
    states = model.rnn(**batch).last_hidden_state.numpy()
    return {"last_hidden_state": states, "sentence_embedding": normalize(logits, dim=-1).numpy()}


def _agree(config: Any, per_token: bool, expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return whether logits `(N, C)` have the same best class, or the same labels above their thresholds.

    Scores within `_SAME_SCORE` agree too: a model that is undecided has either answer.
    """
    scores, others = compute_scores(expected, config), compute_scores(found, config)
    close = np.abs(scores - others).max(axis=1) <= _SAME_SCORE
    if per_token or score_kind(config) != "sigmoid":
        return close | (scores.argmax(axis=1) == others.argmax(axis=1))
    limits = np.array(getattr(config, "label_thresholds", None) or [0.5])
    return close | ((scores > limits) == (others > limits)).all(axis=1)


def _agree_on_vectors(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return (expected * found).sum(axis=1) >= _LEAST_COSINE * norms


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
