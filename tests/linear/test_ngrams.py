"""N-grams of tokens and their table: what it holds, what it refuses, and what it adds up."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_ngrams import hash_of

from hf_rnn.linear import ngrams
from hf_rnn.linear.ngrams import NgramTable, distinct_ngrams, flatten, hash_ngrams
from hf_rnn.models import ngrams_rnn
from hf_rnn.models.ngrams_rnn import NgramScores

TEXTS = st.lists(st.lists(st.integers(0, 60_000), max_size=7), max_size=5)


def spans(text):
    return [text[i : i + n] for n in (1, 2, 3) for i in range(len(text) - n + 1)]


@given(TEXTS)
def test_ngrams_are_the_slices_of_a_text(texts):
    ids, lengths = flatten(texts)
    found = hash_ngrams(ids, lengths)
    starts = np.cumsum([0, *map(len, texts)])
    expected = []
    for start, text in zip(starts, texts, strict=False):
        for size in (1, 2, 3):
            for place in range(len(text) - size + 1):
                expected.append((start + place, size, hash_of(text[place : place + size])))
    seen = zip(found.places.tolist(), found.sizes.tolist(), found.hashes.tolist(), strict=True)
    assert sorted(seen) == sorted(expected)

    hashes, numbers = distinct_ngrams(ids, lengths)
    pairs = {(row, hash_of(span)) for row, text in enumerate(texts) for span in spans(text)}
    assert set(zip(numbers.tolist(), hashes.tolist(), strict=True)) == pairs


@pytest.mark.parametrize("count", [0, 1, 2, 5, 60, 3000])
def test_a_table_holds_its_ngrams_and_refuses_others(count):
    chance = np.random.default_rng(count)
    drawn = chance.choice(2**31 - 1, size=count + 20_000, replace=False).astype(np.int64)
    hashes, others = drawn[:count], drawn[count:]
    weights = chance.normal(size=(count, 3))
    table = NgramTable.build(hashes, weights)
    rows = table.find_rows(hashes)
    assert len(set(rows.tolist())) == count and rows.min(initial=0) >= 0
    step = np.abs(weights).max(axis=0, initial=0) / 127
    errors = np.abs(table.weight[rows] * table.scale - weights)
    assert (errors <= 0.51 * step).all()
    weighed = table.weight[table.find_rows(others)].any(axis=1) & (table.find_rows(others) >= 0)
    assert weighed.mean() < 1e-3
    size = table.weight.nbytes + table.check.nbytes + table.shift.nbytes
    assert size <= max(20, count) * (3 + 2.5) / 0.85


@given(TEXTS)
def test_scores_are_those_of_the_model(texts):
    texts = [*texts, [1, 2, 3, 1, 2]]
    hashes = np.unique(distinct_ngrams(*flatten(texts))[0])
    weights = np.random.default_rng(0).normal(size=(len(hashes), 2))
    table = NgramTable.build(hashes, weights)
    module = NgramScores(len(table.weight), 2)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in vars(table).items()})
    ids = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, texts)), batch_first=True).long()
    lengths = torch.tensor(list(map(len, texts)))
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    np.testing.assert_allclose(table.score(texts), module(ids, mask), rtol=1e-5, atol=1e-6)


def test_both_files_have_the_same_numbers():
    names = [name for name in vars(ngrams_rnn) if name.isupper()]
    assert len(names) == 7
    for name in names:
        assert getattr(ngrams, name) == getattr(ngrams_rnn, name), name
