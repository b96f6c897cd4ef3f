"""Batches of tensors that lie in memory: no Python per sample."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from ..rng import hash_seed
from ..vision import import_torchvision
from .order import BatchOrder, OrderedLoader

__all__ = ["BatchTransform", "ImageTensors", "TensorLoader", "whole_tensors"]

BatchTransform = Callable[[Tensor, torch.Generator], Tensor]


class TensorLoader(OrderedLoader):
    """Batches of tensors that already lie in memory, on whatever device they lie.

    A batch is a tuple of fresh tensors, one of each: changing it changes no data. Images stay uint8 until the batch is
    made, so that Fashion-MNIST takes 47 MB and not 188.

    Args:
        tensors: at least one, all of the same length N; item i of each belongs together.
        batch_size: samples in a global batch; the last batch of an epoch has what is left.
        shuffle: a new order every epoch, a function of (seed, epoch).
        drop_last: leave out a last batch that is not full.
        seed: of the orders, and of the transform's generator.
        images: the first tensor is uint8, (N, H, W) or (N, C, H, W); its batches are float32 (B, C, H, W), divided by
            255, to the bit what torchvision's ``ToTensor`` makes of each.
        mean: a number a channel, subtracted from images after this; needs ``std``. As torchvision's ``Normalize``.
        std: a number a channel by which they are divided then.
        transform: called as ``transform(x, generator)`` with each batch of the first tensor, last of all; its generator
            lies on the device and is seeded from (seed, epoch, batch), and on ranks other than 0 from the rank too.
        device: the tensors are moved there once, at construction; None: they stay.
        rank, world, equal_batches: as for `BatchOrder`.

    Raises:
        TypeError: something is not a tensor.
        ValueError: lengths differ, an option does not fit, or as for `BatchOrder`.

    Source: airbench's CifarLoader, for the data path that stays on the device.

    >>> loader = TensorLoader(torch.arange(5), batch_size=2)
    >>> [x.tolist() for (x,) in loader]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        images: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        transform: BatchTransform | None = None,
        device: torch.device | str | None = None,
        rank: int = 0,
        world: int = 1,
        equal_batches: bool = False,
    ):
        n_samples = _common_length(tensors)
        order = BatchOrder(
            n_samples,
            batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            rank=rank,
            world=world,
            equal_batches=equal_batches,
        )
        super().__init__(order)
        first, *others = (tensor if device is None else tensor.to(device) for tensor in tensors)
        self.tensors = (_images_with_channels(first) if images else first, *others)
        self.images = images
        self.transform = transform
        self._normalize = _checked_normalization(mean, std, self.tensors[0], images)
        self._generator = torch.Generator(first.device)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self._batches(*self.order.advance())

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, ...]]:
        # rows of each batch are copied: measured, that is 2.6 times faster than gathering the epoch and cutting it
        indices = self.order.indices(epoch).to(self.tensors[0].device)
        for batch in range(first, len(self.order)):
            rows = indices[self.order.share(batch)]
            x, *others = (tensor.index_select(0, rows) for tensor in self.tensors)
            if self.images:
                x = x.float().div_(255)  # divided as ToTensor does: times 1/255 has other last bits
            if self._normalize is not None:
                mean, std = self._normalize
                x.sub_(mean).div_(std)
            if self.transform is not None:
                parts = (self.order.rank,) if self.order.rank else ()
                x = self.transform(x, self._generator.manual_seed(hash_seed(self.order.seed, epoch, batch, *parts)))
            yield (x, *others)


class WholeTensors(NamedTuple):
    """A dataset that is tensors, and how its items are made of them: the arguments of a `TensorLoader`."""

    tensors: tuple[Tensor, ...]
    images: bool = False
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


class ImageTensors(Dataset[tuple[Tensor, int]]):
    """Images that lie in memory as uint8; an item is (float32 image (C, H, W) from 0 to 1, class number).

    Args:
        data: (N, H, W) or (N, C, H, W), uint8.
        targets: (N,), int64, numbers of classes.
        classes: their names, in the order of the numbers.

    Raises:
        ValueError: lengths differ, a label has no class, or the images are not uint8.

    >>> dataset = ImageTensors(torch.zeros(3, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 1]), ["cat", "dog"])
    >>> dataset[1][0].shape, dataset[1][1]
    (torch.Size([1, 28, 28]), 1)
    """

    def __init__(self, data: Tensor, targets: Tensor, classes: Sequence[str]):
        _common_length((data, targets))
        _images_with_channels(data)
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(classes):
            raise ValueError(
                f"labels are numbers of classes, from 0 to {len(classes) - 1}; "
                f"got labels from {int(targets.min())} to {int(targets.max())}"
            )
        self.data = data
        self.targets = targets
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = _images_with_channels(self.data[index].unsqueeze(0))
        return image[0].float().div_(255), int(self.targets[index])


def whole_tensors(dataset: object) -> WholeTensors | None:
    """What of a dataset lies in memory as whole tensors, or None if its items are made one by one.

    Whole are a ``TensorDataset``; an `ImageTensors`; torchvision's MNIST and its kin with no transform, ``ToTensor``,
    or ``ToTensor`` and ``Normalize`` (without a transform their items are PIL images, which make no batch: they are
    taken as with ``ToTensor``); and a ``Subset`` of any of these, whose rows are copied once. Subclasses that make
    their items otherwise are not, nor are the pipelines of torchvision's v2, whose numbers differ in the last bit.

    >>> whole_tensors(Subset(TensorDataset(torch.arange(5)), [3, 1]))
    WholeTensors(tensors=(tensor([3, 1]),), images=False, mean=None, std=None)
    >>> whole_tensors([1, 2, 3]) is None
    True
    """
    if type(dataset) is TensorDataset:
        return WholeTensors(dataset.tensors)
    if type(dataset) is ImageTensors:
        return WholeTensors((dataset.data, dataset.targets), images=True)
    if type(dataset) is Subset:
        whole = whole_tensors(dataset.dataset)
        if whole is None:
            return None
        rows = torch.as_tensor(dataset.indices, dtype=torch.int64)  # of none, too
        return whole._replace(tensors=tuple(tensor[rows.to(tensor.device)] for tensor in whole.tensors))
    return _whole_mnist(dataset)


def _whole_mnist(dataset: Any) -> WholeTensors | None:  # Any: torchvision has no types
    if "torchvision" not in sys.modules:
        return None
    torchvision = import_torchvision()
    kin = torchvision.datasets.MNIST
    if not isinstance(dataset, kin) or dataset.target_transform is not None:
        return None
    if type(dataset).__getitem__ is not kin.__getitem__ or type(dataset).__len__ is not kin.__len__:
        return None
    whole = WholeTensors((dataset.data, dataset.targets), images=True)
    transform = dataset.transform
    steps = transform.transforms if type(transform) is torchvision.transforms.Compose else [transform]
    match [type(step).__name__ if type(step).__module__.startswith("torchvision.") else step for step in steps]:
        case [None] | ["ToTensor"]:
            return whole
        case ["ToTensor", "Normalize"]:
            return whole._replace(mean=steps[1].mean, std=steps[1].std)
    return None


def _common_length(tensors: Sequence[Tensor]) -> int:
    if not tensors:
        raise ValueError("a TensorLoader needs at least one tensor; got none")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"data in memory is given as tensors; got {type(tensor).__name__}, of which torch.as_tensor makes one"
            )
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"all tensors need the same length, as sample i is item i of each; got shapes {shapes!r}")
    return shapes[0][0]


def _images_with_channels(images: Tensor) -> Tensor:
    """(N, C, H, W), as a view."""
    if images.dtype != torch.uint8 or images.dim() not in (3, 4):
        raise ValueError(
            "images are uint8 of shape (N, H, W) or (N, C, H, W); "
            f"got {images.dtype} of shape {tuple(images.shape)!r}: tensors of other numbers go without images=True"
        )
    return images if images.dim() == 4 else images.unsqueeze(1)


def _checked_normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None, x: Tensor, images: bool
) -> tuple[Tensor, Tensor] | None:
    """Mean and std as (C, 1, 1) beside the images, or None."""
    if mean is None and std is None:
        return None
    if mean is None or std is None or not images:
        raise ValueError(
            f"mean and std are given both, and for images; got mean={mean!r}, std={std!r}, images={images!r}"
        )
    pair = [torch.as_tensor(values, dtype=torch.float32, device=x.device) for values in (mean, std)]
    n_channels = x.shape[1]
    if any(values.shape not in {(), (1,), (n_channels,)} for values in pair) or not bool((pair[1] != 0).all()):
        raise ValueError(
            f"mean and std have a number for each of {n_channels} channels, and no std is 0; got {mean!r} and {std!r}"
        )
    shaped = [values.reshape(-1, 1, 1) for values in pair]
    return shaped[0], shaped[1]
