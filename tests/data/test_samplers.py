"""Batches of so many rows or tokens: complete, repeatable, little padding, at home in torch and accelerate."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from hf_rnn.data.samplers import LengthBucketedBatchSampler, TokenBudgetBatchSampler, padding_share
from hf_rnn.utils.errors import UserError

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


# ---- batches of so many tokens ----


def tokens_of(lengths, batch):
    return len(batch) * max(max(lengths[index], 1) for index in batch)


@given(
    lengths=st.lists(st.integers(0, 50), max_size=80),
    tokens=st.integers(1, 200),
    mixed_batches=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_every_index_once_and_the_budget_kept(lengths, tokens, mixed_batches, seed, epoch):
    sampler = TokenBudgetBatchSampler(lengths, tokens, seed=seed, mixed_batches=mixed_batches)
    sizes = sorted(map(len, sampler))
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or tokens_of(lengths, batch) <= tokens for batch in batches)
    assert len(batches) == len(sampler) and all(batches)
    assert sorted(map(len, batches)) == sizes, "those of epoch 0: a run counts its steps before the first"
    assert list(sampler) == batches
    fresh = TokenBudgetBatchSampler(lengths, tokens, seed=seed, mixed_batches=mixed_batches)
    fresh.set_epoch(epoch)
    assert list(fresh) == batches  # a resumed run did not live through the epochs before


@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=30), tokens=st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_unmixed_batches_are_as_few_as_can_be(lengths, tokens):
    """Against the best way to cut the sorted lengths, found by trying all last batches."""
    ordered = sorted(max(length, 1) for length in lengths)
    fewest = [0]
    for end in range(1, len(ordered) + 1):
        starts = [start for start in range(end) if end - start == 1 or (end - start) * ordered[end - 1] <= tokens]
        fewest.append(1 + min(fewest[start] for start in starts))
    assert len(TokenBudgetBatchSampler(lengths, tokens, mixed_batches=1)) == fewest[-1]


@given(
    lengths=st.lists(st.integers(1, 20), min_size=8, max_size=60),
    tokens=st.integers(40, 100),
    processes=st.integers(2, 4),
)
@settings(max_examples=100, deadline=None)
def test_processes_share_token_batches_evenly(lengths, tokens, processes):
    """Through accelerate, which is asked not to fill up: no row is seen twice and none waits for another's batch."""
    Accelerator(cpu=True)
    rows, shards = [{"index": index} for index in range(len(lengths))], []
    for process in range(processes):
        sampler = TokenBudgetBatchSampler(lengths, tokens, processes=processes)
        loader = DataLoader(rows, batch_sampler=sampler)
        loader = prepare_data_loader(loader, num_processes=processes, process_index=process, even_batches=False)
        loader.set_epoch(3)
        assert sampler.epoch == 3
        shards.append(seen(loader))
        assert len(shards[-1]) == len(loader)
    assert len(set(map(len, shards))) == 1
    batches = [batch for shard in shards for batch in shard]
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(tokens_of(lengths, batch) <= tokens for batch in batches)


def test_token_batches_by_hand():
    """9 is more than the budget; one text of 5, two of 4 and eight of 1 fit, and an empty one counts as 1."""
    lengths = [1, 4, 9, 5, 0, 4, 1]
    batches = list(TokenBudgetBatchSampler(lengths, 8, mixed_batches=1))
    assert sorted(map(sorted, batches)) == [[0, 4, 6], [1, 5], [2], [3]]
    assert len(TokenBudgetBatchSampler(lengths, 8, mixed_batches=1, processes=3)) == 6
    halved = TokenBudgetBatchSampler([8, 4, 4, *[1] * 8], 8, mixed_batches=1, processes=2)
    assert sorted(map(len, halved)) == [1, 2, 4, 4], "the largest, not the first that can be"
    assert sorted(map(len, TokenBudgetBatchSampler([0] * 10, 4))) == [3, 3, 4]  # not 4, 4 and 2
    assert list(TokenBudgetBatchSampler([], 8)) == [] and len(TokenBudgetBatchSampler([], 8)) == 0


def test_token_batches_are_shuffled_and_drawn_anew():
    sampler = TokenBudgetBatchSampler(LENGTHS, 480, seed=5)  # sixteen of the mean length
    batches = list(sampler)
    longest = [max(LENGTHS[index] for index in batch) for batch in batches]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.5
    sampler.set_epoch(1)
    assert not {frozenset(batch) for batch in batches} & {frozenset(batch) for batch in sampler}
    assert list(TokenBudgetBatchSampler(LENGTHS, 480, seed=6)) != batches
    assert type(batches[0][0]) is int


def test_texts_equally_long_change_their_batch_each_epoch():
    sampler = TokenBudgetBatchSampler([7] * 64, 56, mixed_batches=1)
    first = set(map(frozenset, sampler))
    sampler.set_epoch(1)
    assert not first & set(map(frozenset, sampler))


def test_mixing_is_paid_in_padding():
    shares = [
        padding_share(LENGTHS, TokenBudgetBatchSampler(LENGTHS, 480, mixed_batches=mixed)) for mixed in (1, 4, 100)
    ]
    assert shares[0] < 0.03 < shares[1] < 0.1 < 0.3 < shares[2]


def test_token_batches_leave_global_random_states_alone():
    expected = list(TokenBudgetBatchSampler(LENGTHS, 480))
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert list(TokenBudgetBatchSampler(LENGTHS, 480)) == expected
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_skipped_token_batches_are_the_first_of_that_epoch():
    expected = TokenBudgetBatchSampler(LENGTHS, 480)
    expected.set_epoch(2)
    sampler = TokenBudgetBatchSampler(LENGTHS, 480)
    loader = skip_first_batches(Accelerator(cpu=True).prepare(DataLoader(ROWS, batch_sampler=sampler)), 10)
    loader.set_epoch(2)
    assert seen(loader) == list(expected)[10:]


@pytest.mark.parametrize("wrong", [{"tokens_per_batch": 0}, {"mixed_batches": 0}, {"processes": 0}, {"seed": -1}])
def test_refusals_of_token_batches(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        TokenBudgetBatchSampler(LENGTHS, **{"tokens_per_batch": 4, **wrong})


def test_single_texts_that_processes_cannot_share():
    assert len(TokenBudgetBatchSampler([9, 9, 9, 9], 8, processes=2)) == 4
    with pytest.raises(UserError, match="makes 3 batches of one text each, which 2 processes cannot share evenly"):
        TokenBudgetBatchSampler([9, 9, 9], 8, processes=2)


# ---- both ----

either = pytest.mark.parametrize(
    "make",
    [
        lambda seed: LengthBucketedBatchSampler(LENGTHS, 16, seed=seed),
        lambda seed: TokenBudgetBatchSampler(LENGTHS, 480, seed=seed),
    ],
    ids=["texts", "tokens"],
)


@either
def test_the_next_epoch_is_not_the_first_of_the_next_seed(make):
    later = make(5)
    later.set_epoch(1)
    assert list(later) != list(make(6))


@either
def test_the_order_of_batches_is_drawn_anew_each_epoch(make):
    """Told by their longest texts: which texts go together changes in any case."""
    longest = []
    for epoch in (0, 1):
        sampler = make(5)
        sampler.set_epoch(epoch)
        longest.append([max(LENGTHS[index] for index in batch) for batch in sampler][:60])
    assert abs(np.corrcoef(longest)[0, 1]) < 0.5
