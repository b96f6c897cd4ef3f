"""The pair of loaders and the split: the right loader for each dataset, and the same batches from both kinds."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset, get_worker_info
from torch.utils.data import random_split as torch_random_split

from ignite_trainer.data.images import fashion_mnist
from ignite_trainer.data.loaders import DataLoaders, random_split
from ignite_trainer.data.samples import SampleLoader
from ignite_trainer.data.tensors import TensorLoader
from ignite_trainer.vision import import_torchvision

X, Y = torch.rand(23, 3), torch.arange(23)


class ByItem(Dataset):
    """The documents' own Dataset(x, y)."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class WorkerNumbers(ByItem):
    """Which worker made the item."""

    def __getitem__(self, index):
        return get_worker_info().id


def assert_equal_batches(first, second):
    """The same number of batches, each with the same bits."""
    for mine, theirs in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_whole_tensors_and_own_dataset_give_equal_batches_for_training_and_validation():
    whole = DataLoaders.from_datasets(TensorDataset(X, Y), TensorDataset(X, Y), 4, seed=6, drop_last=True)
    items = DataLoaders.from_datasets(ByItem(X, Y), ByItem(X, Y), 4, seed=6, drop_last=True)
    tensors = DataLoaders.from_tensors((X, Y), (X, Y), 4, seed=6, drop_last=True)
    assert isinstance(whole.train, TensorLoader)
    assert isinstance(items.train, SampleLoader)
    for _ in range(2):
        assert_equal_batches(whole.train, items.train)
        assert_equal_batches(whole.valid, items.valid)
        assert len(list(tensors.train)) == 5
    whole.train.seek(0, 0)
    tensors.train.seek(0, 0)
    assert_equal_batches(whole.train, tensors.train)
    assert_equal_batches(whole.valid, tensors.valid)


def test_fashion_mnist_in_memory_and_by_workers_gives_equal_batches(fashion_mnist_root):
    to_tensor = import_torchvision().transforms.ToTensor()
    train, valid = fashion_mnist(fashion_mnist_root, to_tensor, download=False)
    whole = DataLoaders.from_datasets(train, valid, 1000)
    items = SampleLoader(valid, 1000, num_workers=2)
    assert_equal_batches(whole.valid, items)
    assert len(whole.train) == 60


def test_pair_is_a_pair_with_names():
    dls = DataLoaders("train", "valid")
    train, valid = dls
    assert (train, valid) == (dls.train, dls.valid) == ("train", "valid")
    assert DataLoaders("train").valid is None


@pytest.mark.parametrize("make", ["datasets", "tensors"])
def test_training_is_shuffled_and_validation_is_not(make):
    if make == "datasets":
        dls = DataLoaders.from_datasets(TensorDataset(X, Y), TensorDataset(X, Y), 23)
    else:
        dls = DataLoaders.from_tensors((X, Y), (X, Y), 23)
    ((_, first),), ((_, second),), ((_, valid),) = dls.train, dls.train, dls.valid
    assert sorted(first.tolist()) == sorted(second.tolist()) == valid.tolist() == Y.tolist()
    assert first.tolist() != second.tolist() != Y.tolist()


@pytest.mark.parametrize(("size", "batches"), [(None, 6), (10, 3)])
def test_validation_batches_have_their_own_size_and_are_never_dropped(size, batches):
    options = {"valid_batch_size": size, "drop_last": True}
    for dls in [
        DataLoaders.from_datasets(ByItem(X, Y), ByItem(X, Y), 4, **options),
        DataLoaders.from_tensors((X, Y), (X, Y), 4, **options),
    ]:
        assert (len(dls.train), len(dls.valid)) == (5, batches)


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"valid_batch_size": 0}])
def test_batch_size_0_is_refused(sizes):
    for make in (
        lambda: DataLoaders.from_datasets(TensorDataset(X, Y), TensorDataset(X, Y), **sizes),
        lambda: DataLoaders.from_tensors((X, Y), (X, Y), **sizes),
    ):
        with pytest.raises(ValueError, match="batch_size is the number of samples in a batch, so at least 1; got 0"):
            make()


def test_tensors_where_tuples_of_them_belong_are_refused():
    with pytest.raises(TypeError, match=r"each a tuple of tensors, \(\(x, y\), \(x, y\)\); got a Tensor$"):
        DataLoaders.from_tensors(X, Y)
    with pytest.raises(
        TypeError, match=r"^a dataset gives samples; got a tuple of 2 tensors: take from_tensors, or TensorDataset"
    ):
        DataLoaders.from_datasets((X, Y), (X, Y))


@pytest.mark.parametrize(
    "dls",
    [
        DataLoaders.from_tensors((X[:5], Y[:5]), (X[:5], Y[:5]), 4),
        DataLoaders.from_datasets(TensorDataset(X[:5]), TensorDataset(X[:5]), 4),
        DataLoaders.from_datasets(ByItem(X[:5], Y), ByItem(X[:5], Y), 4),
    ],
    ids=["tensors", "whole", "items"],
)
def test_only_training_has_equal_batches_on_ranks(dls):
    for each in dls:
        each.order.shard(1, 2)
    assert (len(list(dls.train)), len(list(dls.valid))) == (2, 1)


def test_validation_may_be_left_out():
    for dls in (DataLoaders.from_tensors((X, Y)), DataLoaders.from_datasets(ByItem(X, Y))):
        assert dls.valid is None


def test_workers_read_both_sets():
    dls = DataLoaders.from_datasets(WorkerNumbers(X, Y), WorkerNumbers(X, Y), 12, num_workers=2)
    assert [[set(numbers.tolist()) for numbers in each] for each in dls] == [[{0}, {1}]] * 2


@pytest.mark.parametrize("seed_samples", [True, False])
def test_samples_are_seeded_unless_asked_not_to(seed_samples):
    dls = DataLoaders.from_datasets(ByItem(X, Y), ByItem(X, Y), seed_samples=seed_samples)
    assert [each.identity()["seed_samples"] for each in dls] == [seed_samples] * 2


def test_only_training_is_transformed():
    dls = DataLoaders.from_tensors((X, Y), (X, Y), 4, transform=lambda x, generator: x - 5)
    assert all((x < 0).all() for x, _ in dls.train)
    assert all((x >= 0).all() for x, _ in dls.valid)


@pytest.mark.parametrize("lengths", [[18, 5], [0.8, 0.2], [0.5, 0.25, 0.25], [23]])
def test_random_split_is_torchs_with_a_generator_of_its_own(lengths):
    before = torch.get_rng_state()
    parts = random_split(Y, lengths, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    reference = torch_random_split(Y, lengths, torch.Generator().manual_seed(5))
    assert [part.indices for part in parts] == [part.indices for part in reference]


@pytest.mark.parametrize("lengths", [[18, 6], [0.8, 0.3], [0.5, 0.5 + 1e-12], [], [24, -1]])
def test_random_split_when_lengths_do_not_add_up_says_to_what(lengths):
    with pytest.raises(ValueError, match=r"lengths add to the number of samples, 23, or as fractions to 1; got \["):
        random_split(Y, lengths)


def test_random_split_of_fashion_mnist_stays_in_memory(fashion_mnist_root):
    train, _ = fashion_mnist(fashion_mnist_root, download=False)
    dls = DataLoaders.from_datasets(*random_split(train, [50_000, 10_000]), 32)
    x, y = next(iter(dls.train))
    assert isinstance(dls.train, TensorLoader)
    assert (len(dls.train), len(dls.valid), x.shape, y.shape) == (1563, 313, (32, 1, 28, 28), (32,))


def test_loaders_when_sizes_and_seeds_are_numpys_then_are_as_with_pythons():
    data = TensorDataset(torch.arange(20.0))
    for kind in (
        lambda **how: TensorLoader(*data.tensors, shuffle=True, **how),
        lambda **how: SampleLoader(data, **how),
    ):
        ours, theirs = kind(batch_size=np.int64(4), seed=np.int64(3)), kind(batch_size=4, seed=3)
        assert ours.identity() == theirs.identity()
        assert [type(value) for value in ours.identity().values()] == [type(v) for v in theirs.identity().values()]
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(torch.cat(list(a)), torch.cat(list(b)))


def test_loaders_of_an_empty_subset_then_are_refused_by_name():
    data, nothing = random_split(TensorDataset(torch.arange(20.0)), [20, 0])
    with pytest.raises(ValueError, match="a loader gives batches of at least one sample; got a dataset of 0"):
        DataLoaders.from_datasets(data, nothing)
