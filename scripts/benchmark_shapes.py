"""The part `shapes` of benchmark.py: FastRnn against the plain model, over other cells, widths, lengths and counts.

One path is not the fastest for all of them, so FastRnn has several; this shows where one is taken although the plain
model would be faster. That one gets the same ids, and sorts and pads them in batches of 64. Ids are drawn, weights
too: neither decides how long anything takes.
"""

import itertools
from functools import partial
from typing import Any

from benchmark_infer import check
from benchmark_timing import interleave

CELLS = (("lstm", False), ("lstm", True), ("gru", True), ("min_gru", True))  # and whether in both directions
LAYERS, SIZES = (1, 2), (32, 128)
LENGTHS, TEXTS = (20, 200), (1, 4, 32, 256)  # tokens of a text, on average, and texts at once
VOCABULARY, EMBEDDING = 3330, 100


def compare(repeats: int) -> list[dict[str, Any]]:
    """Measure every shape."""
    import numpy as np
    import torch

    from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, train_tokenizer
    from hf_rnn.inference.reference import compute_logits

    chance = np.random.default_rng(0)
    tokenizer = train_tokenizer(["a"], min_frequency=1)  # ids are given
    results = []
    for (cell, both), layers, size in itertools.product(CELLS, LAYERS, SIZES):
        torch.manual_seed(0)
        config = RnnConfig(
            vocab_size=VOCABULARY,
            embedding_size=EMBEDDING,
            cell_type=cell,
            hidden_size=size,
            num_hidden_layers=layers,
            bidirectional=both,
        )
        model = RnnForSequenceClassification(config).eval()
        fast = FastRnn(model, tokenizer)
        for length, count in itertools.product(LENGTHS, TEXTS):
            lengths = np.maximum(1, chance.normal(length, length / 4, count).round()).astype(int)
            ids = [chance.integers(2, VOCABULARY, tokens).tolist() for tokens in lengths]
            plain = partial(compute_logits, model, tokenizer, ids, batch_size=64)
            name = f"{'bi-' if both else ''}{cell} {size}x{layers}, {count} of {length} tokens"
            check(name, fast.logits(ids), plain(), 1e-5)
            what = f"{name}, ids to logits, FastRnn / the plain model"
            results.append(interleave(what, partial(fast.logits, ids), plain, min(repeats, 7)) | {"goal": 1.0})
    return results
