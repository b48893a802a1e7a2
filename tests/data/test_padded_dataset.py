"""Padded batches hold, number by number and type by type, what the library's collator makes of the rows."""

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DataCollatorWithPadding

from hf_rnn import train_tokenizer
from hf_rnn.data.padded_dataset import as_padded_batches


def make_tokenizer(side="right"):
    tokenizer = train_tokenizer(["a b c", "a b", "a"], min_frequency=1)
    tokenizer.padding_side = side
    return tokenizer


def make_table(rows, **columns):
    ids = datasets.List(datasets.Value("int32"))
    table = datasets.Dataset.from_dict({"input_ids": rows}, features=datasets.Features(input_ids=ids))
    for name, values in columns.items():
        table = table.add_column(name, values)
    return table


def same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=7), min_size=1, max_size=9).filter(any),
    side=st.sampled_from(["left", "right"]),
    label=st.sampled_from(["label", "labels"]),
    data=st.data(),
)
def test_equal_to_the_collator(rows, side, label, data):
    labels = data.draw(st.lists(st.integers(-100, 5), min_size=len(rows), max_size=len(rows)))
    table = make_table(rows, **{label: labels})
    if data.draw(st.booleans()):  # a table whose rows stand in another order than on the disk
        table = table.select(data.draw(st.permutations(range(len(rows)))))
    filled = [number for number, ids in enumerate(table["input_ids"]) if ids]
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5)) + filled[:1]
    collator = DataCollatorWithPadding(make_tokenizer(side))
    batches = as_padded_batches(table, collator)
    same(batches.__getitems__(chosen), collator([table[row] for row in chosen]))
    assert len(batches) == len(rows)
    same({name: tensor[None] for name, tensor in batches[filled[0]].items()}, collator([table[filled[0]]]))


def test_further_columns_of_numbers():
    table = make_table([[2, 3], [4], [5, 6, 7]], labels=[0, 1, 0], teacher=[[0.5, 1.5], [2.0, -1.0], [0.1, 0.2]])
    table = table.add_column("weight", [0.25, 1.0, 3.0])
    collator = DataCollatorWithPadding(make_tokenizer())
    same(as_padded_batches(table, collator).__getitems__([2, 0]), collator([table[2], table[0]]))


def test_texts_without_tokens_alone_are_still_ids():
    batch = as_padded_batches(make_table([[], [2]]), DataCollatorWithPadding(make_tokenizer())).__getitems__([0])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, 0)
    assert batch["input_ids"].dtype == torch.int64


def test_a_table_in_pieces():
    pieces = [make_table([[2, 3], [4]], labels=[0, 1]), make_table([[5, 6, 7]], labels=[2])]
    table = datasets.concatenate_datasets(pieces)
    collator = DataCollatorWithPadding(make_tokenizer())
    same(as_padded_batches(table, collator).__getitems__([2, 1]), collator([table[2], table[1]]))


class OwnCollator(DataCollatorWithPadding):
    pass


def own_tokenizer(method):
    """A tokenizer with a method of its own that pads."""
    usual = type(make_tokenizer())
    own = type("Own", (usual,), {method: lambda self, *given, **named: getattr(usual, method)(self, *given, **named)})
    return own(tokenizer_object=make_tokenizer().backend_tokenizer, pad_token="<pad>")


ROWS = [[2, 3], [4]]


@pytest.mark.parametrize(
    ("table", "collator"),
    [
        (lambda: [{"input_ids": [2]}], DataCollatorWithPadding),
        (lambda: make_table([]), DataCollatorWithPadding),
        (lambda: make_table(ROWS).with_format("torch"), DataCollatorWithPadding),
        (lambda: make_table(ROWS).with_transform(lambda rows: rows), DataCollatorWithPadding),
        (lambda: make_table([[2, 3], None]), DataCollatorWithPadding),
        (lambda: make_table(ROWS, labels=[0, None]), DataCollatorWithPadding),
        (lambda: make_table(ROWS, labels=[[1.0], [1.0, 2.0]]), DataCollatorWithPadding),
        (lambda: make_table(ROWS, text=["a", "b"]), DataCollatorWithPadding),
        (lambda: make_table(ROWS, label=[0, 1], labels=[1, 0]), DataCollatorWithPadding),
        (lambda: make_table([[2, 3], [4, 5]], attention_mask=[[1, 1], [0, 1]]), DataCollatorWithPadding),
        (lambda: make_table([[2, 3], [4, 5]], token_type_ids=[[0, 0], [0, 1]]), DataCollatorWithPadding),
        (lambda: make_table(ROWS).rename_column("input_ids", "ids"), DataCollatorWithPadding),
        (lambda: make_table(ROWS), OwnCollator),
        (lambda: make_table(ROWS), lambda tokenizer: DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)),
        (lambda: make_table(ROWS), lambda tokenizer: DataCollatorWithPadding(tokenizer, "max_length", 9)),
        (lambda: make_table(ROWS), lambda tokenizer: DataCollatorWithPadding(own_tokenizer("_pad"))),
        (lambda: make_table(ROWS), lambda tokenizer: DataCollatorWithPadding(own_tokenizer("pad"))),
        (lambda: make_table(ROWS), lambda tokenizer: list),
    ],
)
def test_what_is_not_as_usual_is_left_to_the_collator(table, collator):
    assert as_padded_batches(table(), collator(make_tokenizer())) is None
    assert as_padded_batches(make_table(ROWS), DataCollatorWithPadding(make_tokenizer())) is not None, "premise"


def test_a_large_table_is_left_on_the_disk(monkeypatch):
    monkeypatch.setattr("hf_rnn.data.padded_dataset._MOST_TOKENS", 3)
    collator = DataCollatorWithPadding(make_tokenizer())
    assert as_padded_batches(make_table([[2, 3], [4]]), collator) is not None
    assert as_padded_batches(make_table([[2, 3], [4, 5]]), collator) is None
