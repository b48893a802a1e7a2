"""Length-bucketed batches: complete, repeatable, little padding, and at home in torch and accelerate."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from hf_rnn.errors import UserError
from hf_rnn.sampling import LengthBucketedBatchSampler, padding_share

LENGTHS = np.random.default_rng(7).integers(1, 60, size=1003).tolist()
ROWS = [{"index": index} for index in range(len(LENGTHS))]


def order(sampler):
    return [index for batch in sampler for index in batch]


def seen(loader):
    return [batch["index"].tolist() for batch in loader]


@given(
    lengths=st.lists(st.integers(0, 50), max_size=80),
    batch_size=st.integers(1, 9),
    pool_batches=st.integers(1, 5),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_every_index_once_and_only_the_last_batch_short(lengths, batch_size, pool_batches, epoch, drop_last):
    sampler = LengthBucketedBatchSampler(lengths, batch_size, pool_batches=pool_batches, drop_last=drop_last)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    indices = [index for batch in batches for index in batch]
    if drop_last:
        assert len(set(indices)) == len(indices) == len(lengths) // batch_size * batch_size
        assert all(len(batch) == batch_size for batch in batches)
    else:
        assert sorted(indices) == list(range(len(lengths)))


def test_order_depends_on_arguments_and_epoch_alone():
    sampler = LengthBucketedBatchSampler(LENGTHS, 16, seed=5)
    first = list(sampler)
    assert list(sampler) == first  # iterating does not move it on
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    fresh = LengthBucketedBatchSampler(np.array(LENGTHS), 16, seed=5)
    fresh.set_epoch(1)
    assert list(fresh) == second  # a resumed run did not live through epoch 0
    assert list(LengthBucketedBatchSampler(LENGTHS, 16, seed=6)) != first
    assert type(first[0][0]) is int


def test_global_random_states_are_neither_read_nor_moved():
    expected = list(LengthBucketedBatchSampler(LENGTHS, 16))
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    torch.manual_seed(1)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert list(LengthBucketedBatchSampler(LENGTHS, 16)) == expected
    assert np.array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])


def test_padding_share_by_hand():
    assert padding_share([3, 1, 2, 2], [[0, 1], [2, 3]]) == pytest.approx(1 - 8 / (6 + 4))
    assert padding_share([3, 1], [[0], [1]]) == 0
    assert padding_share([0, 0], [[0, 1]]) == 0


def test_bucketing_takes_most_of_the_padding_away():
    random = BatchSampler(RandomSampler(LENGTHS, generator=torch.Generator().manual_seed(0)), 16, drop_last=False)
    bucketed = LengthBucketedBatchSampler(LENGTHS, 16)
    assert padding_share(LENGTHS, random) > 0.4  # the premise: lengths spread evenly from 1 to 59
    assert padding_share(LENGTHS, bucketed) < 0.05
    shares = [
        padding_share(LENGTHS, LengthBucketedBatchSampler(LENGTHS, 16, pool_batches=pool)) for pool in (1, 5, 20)
    ]
    assert shares[0] > 0.4 > 0.2 > shares[1] > shares[2]


def test_batches_of_a_pool_are_shuffled_and_drawn_anew():
    batches = list(LengthBucketedBatchSampler(LENGTHS, 16))[:-1]  # one pool; the short batch has its place
    longest = [max(LENGTHS[index] for index in batch) for batch in batches]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.5
    later = LengthBucketedBatchSampler(LENGTHS, 16)
    later.set_epoch(1)
    assert not {frozenset(batch) for batch in batches} & {frozenset(batch) for batch in later}


def test_what_is_dropped_is_not_the_longest():
    lengths, dropped = list(range(1, 20)), []
    for epoch in range(200):
        sampler = LengthBucketedBatchSampler(lengths, 4, drop_last=True)
        sampler.set_epoch(epoch)
        dropped += set(range(19)) - set(order(sampler))
    assert len(dropped) == 200 * 3
    assert np.mean([lengths[index] for index in dropped]) == pytest.approx(10, abs=1)  # the mean of all; longest: 18


def test_torch_data_loader():
    sampler = LengthBucketedBatchSampler(LENGTHS, 16)
    loader = DataLoader(ROWS, batch_sampler=sampler)
    assert len(loader) == 63
    assert seen(loader) == list(sampler)


def test_accelerate_prepare_counts_epochs():
    sampler = LengthBucketedBatchSampler(LENGTHS, 16)
    loader = Accelerator(cpu=True).prepare(DataLoader(ROWS, batch_sampler=sampler))
    assert loader.total_batch_size == 16
    for epoch in (0, 1, 5):
        loader.set_epoch(epoch)
        expected = LengthBucketedBatchSampler(LENGTHS, 16)
        expected.set_epoch(epoch)
        assert seen(loader) == list(expected)


def test_skipped_batches_are_the_first_of_that_epoch():
    expected = LengthBucketedBatchSampler(LENGTHS, 16)
    expected.set_epoch(2)
    sampler = LengthBucketedBatchSampler(LENGTHS, 16)
    loader = skip_first_batches(Accelerator(cpu=True).prepare(DataLoader(ROWS, batch_sampler=sampler)), 10)
    loader.set_epoch(2)  # as the Trainer does when it resumes
    assert seen(loader) == list(expected)[10:]


@pytest.mark.parametrize(("rows", "drop_last"), [(64, False), (67, False), (75, False), (75, True), (5, False)])
def test_two_processes_share_every_row(rows, drop_last):
    Accelerator(cpu=True)
    shards = []
    for process in range(2):
        sampler = LengthBucketedBatchSampler(LENGTHS[:rows], 8, drop_last=drop_last)
        loader = DataLoader(ROWS[:rows], batch_sampler=sampler)
        loader = prepare_data_loader(loader, num_processes=2, process_index=process)
        loader.set_epoch(3)
        assert sampler.epoch == 3  # forwarded through accelerate's BatchSamplerShard
        shards.append(seen(loader))
        assert len(shards[-1]) == len(loader)
    assert len(shards[0]) == len(shards[1])
    indices = [index for shard in shards for batch in shard for index in batch]
    if drop_last:
        assert len(set(indices)) == len(indices) == rows // 16 * 16
    else:
        assert set(indices) == set(range(rows))  # accelerate repeats a few to fill the last round


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"pool_batches": 0}, {"seed": -1}])
def test_refusals(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        LengthBucketedBatchSampler(LENGTHS, **{"batch_size": 4, **wrong})
