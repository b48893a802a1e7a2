"""Batches of a number of rows: complete, repeatable, with little padding, in torch and accelerate."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from hf_rnn.data.samplers import LengthBucketedBatchSampler, SortedBatchSampler, padding_share

LENGTHS = np.random.default_rng(7).integers(1, 60, size=1003).tolist()
ROWS = [{"index": index} for index in range(len(LENGTHS))]


def make(seed=5):
    return LengthBucketedBatchSampler(LENGTHS, 16, seed=seed)


def batches_of(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return list(sampler)


def seen(loader):
    return [batch["index"].tolist() for batch in loader]


def flatten(batches):
    return [index for batch in batches for index in batch]


@given(
    lengths=st.lists(st.integers(0, 50), max_size=80),
    batch_size=st.integers(1, 9),
    pool_batches=st.integers(1, 5),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_every_index_once_and_only_the_last_batch_short(lengths, batch_size, pool_batches, epoch, drop_last):
    sampler = LengthBucketedBatchSampler(lengths, batch_size, pool_batches=pool_batches, drop_last=drop_last)
    batches = batches_of(sampler, epoch)
    assert len(batches) == len(sampler)
    assert all(len(batch) == batch_size for batch in (batches if drop_last else batches[:-1]))
    indices = flatten(batches)
    if drop_last:
        assert len(set(indices)) == len(indices) == len(lengths) // batch_size * batch_size
    else:
        assert sorted(indices) == list(range(len(lengths)))


def test_the_order_depends_on_arguments_and_epoch_only():
    first, second = batches_of(make()), batches_of(make(), 1)
    assert first == batches_of(make()) != second and type(first[0][0]) is int
    sampler = make()
    assert [batches_of(sampler, epoch) for epoch in (1, 0, 1)] == [second, first, second]
    assert second != batches_of(make(6)) != first
    np.random.seed(1)  # noqa: NPY002 - the global states are neither read nor changed
    torch.manual_seed(1)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert batches_of(make()) == first
    assert np.array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])


def test_resuming_in_an_epoch_skips_its_first_batches():
    loader = Accelerator(cpu=True).prepare(DataLoader(ROWS, batch_sampler=make()))
    loader.set_epoch(1)
    assert seen(loader) == batches_of(make(), 1)
    loader = skip_first_batches(loader, 10)
    loader.set_epoch(2)  # as the Trainer does when it resumes
    assert seen(loader) == batches_of(make(), 2)[10:]


def test_the_order_of_the_source_by_hand():
    """torchtext sorts all rows by length, keeps the order of equal ones, and reverses each batch."""
    sampler = SortedBatchSampler([3, 1, 2, 1, 2, 9, 1], 3)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs == [[[6, 3, 1], [0, 4, 2], [5]]] * 2 and len(sampler) == 3
    assert list(SortedBatchSampler([3, 1, 2, 1], 3, drop_last=True)) == [[2, 3, 1]]


def test_bucketing_removes_most_padding():
    random = BatchSampler(RandomSampler(LENGTHS, generator=torch.Generator().manual_seed(0)), 16, drop_last=False)
    assert padding_share(LENGTHS, random) > 0.4, "premise: lengths from 1 to 59"
    pools = [LengthBucketedBatchSampler(LENGTHS, 16, pool_batches=pool) for pool in (1, 5, 20, 50)]
    shares = [padding_share(LENGTHS, sampler) for sampler in pools]
    assert shares[0] > 0.4 > 0.2 > shares[1] > shares[2] > shares[3] and shares[3] < 0.05


@pytest.mark.parametrize(("rows", "drop_last"), [(67, False), (75, True), (5, False)])
def test_two_processes_share_every_row(rows, drop_last):
    Accelerator(cpu=True)
    shards = []
    for process in range(2):
        sampler = LengthBucketedBatchSampler(LENGTHS[:rows], 8, drop_last=drop_last)
        loader = DataLoader(ROWS[:rows], batch_sampler=sampler)
        loader = prepare_data_loader(loader, num_processes=2, process_index=process)
        loader.set_epoch(3)
        assert sampler.epoch == 3  # through accelerate's BatchSamplerShard
        shards.append(seen(loader))
        assert len(shards[-1]) == len(loader)
    assert len(shards[0]) == len(shards[1])
    indices = flatten(shards[0] + shards[1])
    if drop_last:
        assert len(set(indices)) == len(indices) == rows // 16 * 16
    else:
        assert set(indices) == set(range(rows)), "accelerate repeats a few to fill the last round"
