"""Tensors in memory: the stock loader's batches to the bit, without its work per sample."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, random_split

from ignite_trainer.data.images import fashion_mnist
from ignite_trainer.data.order import BatchOrder
from ignite_trainer.data.tensors import ImageTensors, TensorLoader, whole_tensors
from ignite_trainer.vision import import_torchvision

import_torchvision()
from torchvision import transforms  # noqa: E402
from torchvision.datasets import FashionMNIST  # noqa: E402
from torchvision.transforms import v2  # noqa: E402


def assert_equal_batches(ours, stock):
    """The same number of batches, each the same tensors with the same bits and types."""
    ours, stock = list(ours), list(stock)
    assert len(ours) == len(stock)
    for mine, theirs in zip(ours, stock, strict=True):
        assert [tensor.dtype for tensor in mine] == [tensor.dtype for tensor in theirs]
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def stock_loader(dataset, loader, epoch=0):
    """A stock DataLoader on the order of ``loader``."""
    order = BatchOrder(**{name: value for name, value in loader.identity().items() if name != "kind"})
    order.set_epoch(epoch)
    return DataLoader(dataset, batch_sampler=order)


def from_whole(dataset, **options):
    """A tensor loader on what of a dataset lies in memory."""
    whole = whole_tensors(dataset)
    return TensorLoader(*whole.tensors, images=whole.images, mean=whole.mean, std=whole.std, **options)


@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 7),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
    batch=st.integers(0, 40),
)
def test_tensor_loader_gives_the_batches_of_the_stock_loader_from_any_place(
    n, batch_size, shuffle, drop_last, epoch, batch
):
    dataset = TensorDataset(torch.rand(n, 2), torch.arange(n))
    loader = from_whole(
        dataset, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last and n >= batch_size, seed=3
    )
    batch = min(batch, len(loader))
    loader.seek(epoch, batch)
    assert_equal_batches(loader, list(stock_loader(dataset, loader, epoch))[batch:])


@pytest.mark.parametrize(
    "transform",
    [
        transforms.ToTensor(),
        transforms.Compose([transforms.ToTensor()]),
        transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]),
        transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))]),
    ],
    ids=["ToTensor", "Compose", "Normalize", "Normalize by channel"],
)
def test_fashion_mnist_in_memory_is_bit_equal_to_the_stock_pipeline(transform, fashion_mnist_root):
    _, test = fashion_mnist(fashion_mnist_root, transform, download=False)
    some = Subset(test, range(0, 10_000, 7))
    loader = from_whole(some, batch_size=100, shuffle=True)
    assert_equal_batches(loader, stock_loader(some, loader))


def test_fashion_mnist_without_a_transform_is_taken_as_with_to_tensor(fashion_mnist_root):
    _, test = fashion_mnist(fashion_mnist_root, download=False)
    _, reference = fashion_mnist(fashion_mnist_root, transforms.ToTensor(), download=False)
    assert_equal_batches(from_whole(Subset(test, range(50))), DataLoader(Subset(reference, range(50)), batch_size=64))


@pytest.mark.parametrize(
    "transform",
    [
        lambda image: image,
        transforms.Compose([transforms.RandomCrop(24), transforms.ToTensor()]),
        transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5), transforms.RandomHorizontalFlip()]),
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    ],
    ids=["function", "crop", "flip", "v2"],
)
def test_fashion_mnist_with_another_transform_is_not_whole(transform, fashion_mnist_root):
    train, test = fashion_mnist(fashion_mnist_root, transform, download=False)
    assert whole_tensors(train) is whole_tensors(Subset(test, [0])) is None


def test_datasets_that_make_their_items_otherwise_are_not_whole(fashion_mnist_root):
    class WithIndex(FashionMNIST):
        raw_folder = str(fashion_mnist_root / "FashionMNIST" / "raw")  # torchvision looks under the class's own name

        def __getitem__(self, index):
            return (*super().__getitem__(index), index)

    class FirstTen(FashionMNIST):
        raw_folder = WithIndex.raw_folder

        def __len__(self):
            return 10

    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * tensor for tensor in super().__getitem__(index))

    target = FashionMNIST(fashion_mnist_root, train=False, target_transform=lambda label: -label)
    others = [each(fashion_mnist_root, train=False) for each in (WithIndex, FirstTen)]
    others += [Doubled(torch.arange(3)), target, [1, 2, 3], object()]
    assert [whole_tensors(dataset) for dataset in others] == [None] * len(others)


def test_random_split_of_a_split_is_whole_and_bit_equal_to_the_stock_loader():
    dataset = TensorDataset(torch.rand(100, 3), torch.arange(100))
    part, _ = random_split(dataset, [70, 30], torch.Generator().manual_seed(0))
    _, part = random_split(part, [0.5, 0.5], torch.Generator().manual_seed(1))
    loader = from_whole(part, batch_size=8)
    assert_equal_batches(loader, stock_loader(part, loader))


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 1, 5, 4), (6, 3, 5, 4)])
def test_image_tensors_item_by_item_and_whole_give_the_same_batches(shape):
    data = torch.randint(256, shape, dtype=torch.uint8)
    dataset = ImageTensors(data, torch.tensor([0, 1, 2, 0, 1, 2]), ["a", "b", "c"])
    loader = from_whole(dataset, batch_size=4)
    assert_equal_batches(loader, stock_loader(dataset, loader))
    assert torch.equal(dataset[-1][0], dataset[5][0])
    with pytest.raises(IndexError):
        dataset[6]


def test_each_iteration_is_the_next_epoch_also_after_an_abandoned_one():
    loader = TensorLoader(torch.arange(50), batch_size=50, shuffle=True)
    next(iter(loader))
    ((second,),) = loader
    loader.set_epoch(1)
    ((again,),) = loader
    loader.set_epoch(0)
    ((first,),) = loader
    assert torch.equal(second, again)
    assert not torch.equal(first, second)


def test_batch_when_changed_in_place_leaves_the_data_as_they_were():
    data = torch.arange(6.0)
    loader = TensorLoader(data, data, batch_size=6)
    for x, y in loader:
        x.zero_()
        y.zero_()
    assert torch.equal(data, torch.arange(6.0))


def test_transform_gets_the_same_randomness_wherever_the_loader_began():
    def noisy(x, generator):
        return x + torch.randn(x.shape, generator=generator)

    def loader(**options):
        return TensorLoader(torch.zeros(10, 4), torch.arange(10), batch_size=3, transform=noisy, **options)

    whole = list(loader())
    for batch in range(5):
        late = loader()
        late.seek(0, batch)
        assert_equal_batches(late, whole[batch:])
    values = torch.cat(
        [x for x, _ in whole] + [x for x, _ in loader(seed=1)] + [next(iter(loader(rank=1, world=2)))[0]]
    )
    assert len(values.unique()) == values.numel()


def test_transform_comes_after_scale_and_normalization():
    loader = TensorLoader(
        torch.full((2, 4, 4), 255, dtype=torch.uint8), images=True, mean=[0.5], std=[0.25], transform=lambda x, _: x + 1
    )
    ((x,),) = loader
    assert torch.equal(x, torch.full((2, 1, 4, 4), 3.0))


def test_loader_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    list(TensorLoader(torch.arange(9), batch_size=2, shuffle=True, transform=lambda x, generator: x))
    assert torch.equal(torch.get_rng_state(), before)


def test_rank_shards_join_to_the_batches_of_one_process_and_the_filler_is_marked():
    def loader(**options):
        return TensorLoader(torch.arange(9), batch_size=4, shuffle=True, equal_batches=True, **options)

    joined = [loader(rank=rank, world=2) for rank in range(2)]
    assert [[each.order.is_filler(batch) for batch in range(3)] for each in joined] == [
        [False] * 3,
        [False, False, True],
    ]
    first, second = (list(each) for each in joined)
    parts = [torch.cat([first[0][0], second[0][0]]), torch.cat([first[1][0], second[1][0]]), first[2][0]]
    assert all(torch.equal(part, x) for part, (x,) in zip(parts, loader(), strict=True))
    assert torch.equal(second[2][0], first[2][0])


def test_shard_after_construction_is_as_at_construction():
    late = TensorLoader(torch.arange(9), batch_size=4)
    late.order.shard(1, 2)
    assert_equal_batches(late, TensorLoader(torch.arange(9), batch_size=4, rank=1, world=2))
    assert len(late) == 2


def test_identity_names_kind_and_everything_that_moves_a_batch():
    loader = TensorLoader(torch.arange(9), batch_size=4, shuffle=True, drop_last=True, seed=2)
    assert loader.identity() == {
        "kind": "TensorLoader",
        "n_samples": 9,
        "batch_size": 4,
        "shuffle": True,
        "drop_last": True,
        "seed": 2,
    }


U8 = torch.zeros(2, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("tensors", "options", "error", "message"),
    [
        ((), {}, ValueError, "a TensorLoader needs at least one tensor; got none"),
        (
            (torch.zeros(3, 2), torch.zeros(4)),
            {},
            ValueError,
            r"all tensors need the same length, .* got shapes \[\(3, 2\), \(4,\)\]",
        ),
        ((torch.tensor(1.0),), {}, ValueError, r"all tensors need the same length, .* got shapes \[\(\)\]"),
        (([1, 2],), {}, TypeError, "data in memory is given as tensors; got list, of which torch.as_tensor makes one"),
        ((torch.arange(3),), {"batch_size": 0}, ValueError, "batch_size is the number .* at least 1; got 0"),
        (
            (torch.zeros(0, 2),),
            {},
            ValueError,
            "a loader gives batches of at least one sample; got .* 0: add",
        ),
        (
            (torch.zeros(2, 4, 4),),
            {"images": True},
            ValueError,
            r"images are uint8 of shape .* got torch.float32 of shape \(2, 4, 4\): .* without images=True",
        ),
        ((U8[0],), {"images": True}, ValueError, r"images are uint8 of shape .* got torch.uint8 of shape \(4, 4\)"),
        (
            (U8,),
            {"images": True, "mean": [0.5]},
            ValueError,
            r"mean and std are given both, .* got mean=\[0.5\], std=None, images=True",
        ),
        (
            (U8,),
            {"mean": [0.5], "std": [1]},
            ValueError,
            "mean and std are given both, and for images; .* images=False",
        ),
        (
            (U8,),
            {"images": True, "mean": [0.5, 0.5], "std": [1, 1]},
            ValueError,
            r"a number for each of 1 channels, .* got \[0.5, 0.5\] and \[1, 1\]",
        ),
        ((U8,), {"images": True, "mean": [0.5], "std": [0]}, ValueError, r"no std is 0; got \[0.5\] and \[0\]"),
    ],
)
def test_loader_when_an_argument_does_not_fit_says_the_rule(tensors, options, error, message):
    with pytest.raises(error, match=message):
        TensorLoader(*tensors, **options)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_image_tensors_when_a_label_has_no_class_says_the_range(labels):
    with pytest.raises(ValueError, match=f"from 0 to 2; got labels from {min(labels)} to {max(labels)}"):
        ImageTensors(U8, torch.tensor(labels), ["a", "b", "c"])


def test_own_dataset_with_data_and_targets_is_not_whole():
    class Own(Dataset):
        data, targets = U8, torch.zeros(2)

    assert whole_tensors(Own()) is None
