"""The order of the data: the same batches for any number of ranks, every sample once, any place reached at once."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from ignite_trainer.data.order import BatchOrder

SIZES = {"n": st.integers(1, 40), "batch_size": st.integers(1, 7), "seed": st.integers(0, 3), "shuffle": st.booleans()}


def ranks(world, n, batch_size, **options):
    """One order a rank."""
    return [BatchOrder(n, batch_size, rank=rank, world=world, **options) for rank in range(world)]


def plain_batches(samples, batch_size):
    """The samples cut into batches, as a hand-written loop cuts them."""
    return [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]


class Counting(Dataset):
    """Numbers, and how many of them were read."""

    def __init__(self, n):
        self.n, self.reads = n, 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.reads += 1
        return index


@given(**SIZES, world=st.integers(1, 4))
def test_evaluation_shards_partition_the_samples(n, batch_size, seed, shuffle, world):
    orders = ranks(world, n, batch_size, seed=seed, shuffle=shuffle)
    batches = [list(order) for order in orders]
    assert sorted(itertools.chain(*itertools.chain(*batches))) == list(range(n))
    assert [len(order) for order in orders] == [len(mine) for mine in batches]
    assert not any(order.is_filler(batch) for order in orders for batch in range(len(order)))


@given(**SIZES, world=st.integers(1, 4))
def test_training_shards_are_equally_many_and_join_to_the_batches_of_one_process(n, batch_size, seed, shuffle, world):
    options = {"seed": seed, "shuffle": shuffle, "equal_batches": True}
    (alone,) = ranks(1, n, batch_size, **options)
    orders = ranks(world, n, batch_size, **options)
    for epoch in range(2):
        for order in [alone, *orders]:
            order.set_epoch(epoch)
        shares = [list(order) for order in orders]
        assert {len(mine) for mine in shares} == {len(alone)}
        for batch, whole in enumerate(alone):
            counted = [mine[batch] for mine, order in zip(shares, orders, strict=True) if not order.is_filler(batch)]
            assert list(itertools.chain(*counted)) == whole
            assert max(map(len, counted)) - min(map(len, counted)) <= 1
            fillers = [mine[batch] for mine, order in zip(shares, orders, strict=True) if order.is_filler(batch)]
            assert fillers == [whole[:1]] * len(fillers)


@given(**SIZES)
def test_batches_are_the_slices_of_one_permutation(n, batch_size, seed, shuffle):
    order = BatchOrder(n, batch_size, seed=seed, shuffle=shuffle)
    samples = list(itertools.chain(*order))
    assert sorted(samples) == list(range(n))
    assert list(order) == plain_batches(samples, batch_size)
    assert shuffle or samples == list(range(n))


def test_order_unless_said_otherwise_then_goes_straight_through():
    assert list(BatchOrder(5, 2)) == [[0, 1], [2, 3], [4]]


@given(**SIZES, world=st.integers(1, 4), equal_batches=st.booleans())
def test_drop_last_leaves_out_exactly_the_short_batch(n, batch_size, seed, shuffle, world, equal_batches):
    options = {"seed": seed, "shuffle": shuffle, "equal_batches": equal_batches}
    if n < batch_size:
        with pytest.raises(ValueError, match="drop_last leaves no batch"):
            BatchOrder(n, batch_size, drop_last=True)
        return
    for order, full in zip(
        ranks(world, n, batch_size, **options), ranks(world, n, batch_size, drop_last=True, **options), strict=True
    ):
        assert list(full) == list(order)[: n // batch_size]


@given(**SIZES, world=st.integers(1, 4), epoch=st.integers(0, 3))
def test_seek_when_to_any_batch_gives_the_rest_of_that_epoch(n, batch_size, seed, shuffle, world, epoch):
    for order in ranks(world, n, batch_size, seed=seed, shuffle=shuffle):
        order.set_epoch(epoch)
        whole = list(order)
        for batch in range(len(order) + 1):
            order.seek(epoch, batch)
            assert list(order) == whole[batch:]


def test_order_when_the_seed_is_0_is_the_same_in_every_version():
    # a change of these numbers changes every run
    order = BatchOrder(10, 5, shuffle=True)
    first = list(order)
    order.set_epoch(1)
    assert (first, list(order)) == (
        [[7, 8, 1, 4, 9], [6, 3, 0, 5, 2]],
        [[7, 4, 0, 6, 3], [2, 5, 8, 9, 1]],
    )


def test_orders_of_neighbouring_seeds_and_epochs_are_all_different():
    orders = [BatchOrder(20, 20, shuffle=True, seed=seed) for seed in range(5)]
    permutations = {tuple(order.indices(epoch).tolist()) for order in orders for epoch in range(5)}
    assert len(permutations) == 25


def test_order_draws_nothing_from_the_global_generators():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(BatchOrder(10, 3, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_advance_gives_the_place_and_goes_to_the_next_epoch():
    order = BatchOrder(6, 2)
    order.seek(3, 1)
    assert [order.advance(), order.advance()] == [(3, 1), (4, 0)]


def test_iteration_when_the_order_is_moved_meanwhile_goes_on_in_its_epoch():
    order = BatchOrder(20, 5, shuffle=True)
    whole = list(order)
    iterator = iter(order)
    order.set_epoch(1)
    assert list(iterator) == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_order_in_a_stock_dataloader_gives_its_batches(workers):
    order = BatchOrder(11, 4, shuffle=True, seed=5)
    order.seek(2, 1)
    loader = DataLoader(Counting(11), batch_sampler=order, num_workers=workers)
    assert [batch.tolist() for batch in loader] == list(order)
    assert len(loader) == 3


def test_seek_reads_no_sample():
    dataset = Counting(1000)
    order = BatchOrder(1000, 10, shuffle=True)
    loader = DataLoader(dataset, batch_sampler=order)
    order.seek(7, 99)
    assert dataset.reads == 0
    assert [len(batch) for batch in loader] == [10]
    assert dataset.reads == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "a loader gives batches of at least one sample; got a dataset of 0: add some"),
        ({"batch_size": 8.0}, r"batch_size is the number of samples in a batch, so at least 1; got 8\.0"),
        ({"batch_size": 0}, "batch_size is the number of samples in a batch, so at least 1; got 0"),
        (
            {"batch_size": 6, "drop_last": True},
            "drop_last leaves no batch: 5 samples do not fill one of batch_size 6; a",
        ),
        ({"rank": 2, "world": 2}, "rank goes from 0 to world - 1; got rank 2 of world 2"),
        ({"rank": -1}, "rank goes from 0 to world - 1; got rank -1 of world 1"),
    ],
)
def test_order_when_an_argument_is_out_of_range_says_the_rule(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchOrder(**{"n_samples": 5, "batch_size": 2, **arguments})


@pytest.mark.parametrize(("epoch", "batch"), [(-1, 0), (0, -1), (0, 4)])
def test_seek_when_there_is_no_such_place_says_the_range_and_stays(epoch, batch):
    order = BatchOrder(5, 2)
    order.seek(1, 1)
    with pytest.raises(ValueError, match=rf"a batch from 0 to 3, .* got epoch {epoch}, batch {batch}"):
        order.seek(epoch, batch)
    assert order.advance() == (1, 1)


def test_identity_when_saved_is_read_with_weights_only(tmp_path):
    identity = BatchOrder(5, 2, shuffle=True, seed=9, rank=1, world=2).identity()
    torch.save(identity, tmp_path / "identity.pt")
    assert torch.load(tmp_path / "identity.pt", weights_only=True) == identity
    assert identity == {"n_samples": 5, "batch_size": 2, "shuffle": True, "drop_last": False, "seed": 9}
