"""Padded batches have the numbers and types of the library's collator."""

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DataCollatorWithPadding

from hf_rnn import train_tokenizer
from hf_rnn.data.padded_dataset import as_padded_batches

ROWS = [[2, 3], [4]]


def make_tokenizer(side="right"):
    tokenizer = train_tokenizer(["a b c", "a b", "a"], min_frequency=1)
    tokenizer.padding_side = side
    return tokenizer


def make_table(rows, **columns):
    features = datasets.Features(input_ids=datasets.List(datasets.Value("int32")))
    table = datasets.Dataset.from_dict({"input_ids": rows}, features=features)
    for name, values in columns.items():
        table = table.add_column(name, values)
    return table


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@given(
    rows=st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=7), min_size=1, max_size=9).filter(any),
    side=st.sampled_from(["left", "right"]),
    label=st.sampled_from(["label", "labels", "label_ids"]),
    shuffled=st.booleans(),
)
def test_equal_to_the_collator(rows, side, label, shuffled):
    table = make_table(rows, **{label: range(len(rows))}, weight=[0.1] * len(rows), logits=[[0.5, 1.5]] * len(rows))
    table = datasets.concatenate_datasets([table, table])
    if shuffled:
        table = table.shuffle(seed=0)
    filled = next(number for number, ids in enumerate(table["input_ids"]) if ids)
    collator = DataCollatorWithPadding(make_tokenizer(side))
    batches = as_padded_batches(table, collator)
    assert len(batches) == len(table)
    for chosen in ([filled], list(range(len(table)))[::-1]):
        assert_same(batches.__getitems__(chosen), collator([table[row] for row in chosen]))
    assert_same({name: tensor[None] for name, tensor in batches[filled].items()}, collator([table[filled]]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [{"input_ids": [2]}],
        lambda: make_table(ROWS).with_format("torch"),
        lambda: make_table(ROWS).with_transform(lambda rows: rows),
        lambda: make_table([[2, 3], None]),
        lambda: make_table(ROWS, labels=[0, None]),
        lambda: make_table(ROWS, text=["a", "b"]),
    ],
)
def test_unusual_tables_are_left_to_the_collator(make):
    assert as_padded_batches(make(), DataCollatorWithPadding(make_tokenizer())) is None
