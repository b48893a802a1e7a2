"""A linear part for models of tests: random weights for the n-grams of random texts."""

import dataclasses

import numpy as np
import torch

from hf_rnn.linear.ngrams import NgramTable, distinct_ngrams, flatten


def attach(model, texts=200, seed=0):
    """Give a classifier a linear part; return its weights by n-gram of ids."""
    chance = np.random.default_rng(seed)
    config = model.config
    rows = [chance.integers(0, config.vocab_size, 8).tolist() for _ in range(texts)]
    hashes = np.unique(distinct_ngrams(*flatten(rows))[0])
    weights = chance.normal(size=(len(hashes), config.num_labels))
    table = NgramTable.build(hashes, weights)
    names = [field.name for field in dataclasses.fields(table)]
    model.attach_ngrams({name: torch.from_numpy(getattr(table, name)) for name in names})
    stored = table.weight * table.scale.astype(np.float64)
    by_hash = dict(zip(hashes.tolist(), stored[table.find_rows(hashes)], strict=True))
    return by_hash


def hash_of(ids):
    """The hash of an n-gram, token by token."""
    value = 0
    for token in ids:
        value = (value * 1_000_003 + token + 1) % (2**31 - 1)
    return value
