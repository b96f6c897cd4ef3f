"""The pair of loaders that a training takes, and the split of one dataset into two."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Subset
from torch.utils.data import random_split as torch_random_split

from .order import OrderedLoader
from .samples import SampleLoader
from .tensors import BatchTransform, TensorLoader, whole_tensors

__all__ = ["DataLoaders", "random_split"]


class DataLoaders(NamedTuple):
    """A loader to train on and one to validate on, or None; also a pair, ``train, valid = dls``.

    The loaders that the two functions below make go on from epoch to epoch, over several fits too: after
    ``dls.train.set_epoch(0)`` the next fit sees the first one's order.

    Args:
        train: an iterable of batches.
        valid: another one; None: no validation.

    >>> dls = DataLoaders.from_tensors((torch.rand(50, 4), torch.rand(50)), batch_size=20)
    >>> len(dls.train), dls.valid
    (3, None)
    """

    train: Iterable[Any]  # Any: batches of whatever shape
    valid: Iterable[Any] | None = None

    @classmethod
    def from_datasets(
        cls,
        train_ds: Any,
        valid_ds: Any = None,
        batch_size: int = 64,
        *,
        valid_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
        seed_samples: bool = True,
    ) -> "DataLoaders":
        """Loaders of two datasets: the training set shuffled every epoch, the validation set in its order.

        Datasets that are whole tensors (see `whole_tensors`) get a `TensorLoader`, which needs no workers; others a
        `SampleLoader`.

        Args:
            train_ds: anything with ``__len__`` and ``__getitem__``.
            valid_ds: another one; None: no validation.
            batch_size: samples in a global batch.
            valid_batch_size: the same for validation; None: as for training.
            seed: of orders and samples.
            num_workers: processes that read ahead, for each of the two loaders.
            drop_last: leave out a last training batch that is not full; validation leaves out nothing.
            seed_samples: as for `SampleLoader`.

        Raises:
            TypeError: a tuple of tensors in the place of a dataset.
        """
        how: dict[str, Any] = {"seed": seed, "num_workers": num_workers, "seed_samples": seed_samples}
        train = _loader(train_ds, batch_size, training=True, drop_last=drop_last, **how)
        if valid_ds is None:
            return cls(train)
        valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        return cls(train, _loader(valid_ds, valid_batch_size, **how))

    @classmethod
    def from_tensors(
        cls,
        train: Sequence[Tensor],
        valid: Sequence[Tensor] | None = None,
        batch_size: int = 64,
        *,
        valid_batch_size: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
        images: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        transform: BatchTransform | None = None,
        device: torch.device | str | None = None,
    ) -> "DataLoaders":
        """Loaders of tensors in memory: the training set shuffled every epoch, the validation set in its order.

        Args:
            train: (x, y) or more, of one length.
            valid: the same; None: no validation.
            batch_size: samples in a global batch.
            valid_batch_size: the same for validation; None: as for training.
            seed: of the orders and of the transform.
            drop_last: leave out a last training batch that is not full; validation leaves out nothing.
            images, mean, std, device: as for `TensorLoader`, for both.
            transform: as for `TensorLoader`, for training only.

        Raises:
            TypeError: a tensor in the place of a tuple of them; else as for `TensorLoader`.
        """
        both: dict[str, Any] = {"seed": seed, "images": images, "mean": mean, "std": std, "device": device}
        for tensors in (train, valid):
            if tensors is not None and not isinstance(tensors, (tuple, list)):
                raise TypeError(
                    f"train and valid are each a tuple of tensors, ((x, y), (x, y)); got a {type(tensors).__name__}"
                )
        first = TensorLoader(
            *train,
            batch_size=batch_size,
            shuffle=True,
            drop_last=drop_last,
            transform=transform,
            equal_batches=True,
            **both,
        )
        if valid is None:
            return cls(first)
        valid_batch_size = batch_size if valid_batch_size is None else valid_batch_size
        return cls(first, TensorLoader(*valid, batch_size=valid_batch_size, **both))


def random_split(dataset: Any, lengths: Sequence[int | float], *, seed: int = 0) -> list[Subset[Any]]:
    """Parts of a dataset drawn at random, none of the samples in two of them; the global generators stay untouched.

    Args:
        dataset: anything with ``__len__`` and ``__getitem__``.
        lengths: numbers of samples that add to the length, or fractions that add to 1.
        seed: of the draw: the same parts as torch's ``random_split`` with a generator seeded so.

    Raises:
        ValueError: the lengths add to something else.

    >>> train, valid = random_split(range(10), [8, 2])
    >>> len(train), sorted([*train, *valid]) == list(range(10))
    (8, True)
    """
    total, n_samples = sum(lengths), len(dataset)
    are_fractions = math.isclose(total, 1) and total <= 1  # as torch decides it
    if min(lengths, default=-1) < 0 or not (total == n_samples or are_fractions):
        raise ValueError(
            f"lengths add to the number of samples, {n_samples}, or as fractions to 1; got {list(lengths)!r}, "
            f"which add to {total!r}"
        )
    return torch_random_split(dataset, lengths, generator=torch.Generator().manual_seed(seed))


def _loader(
    dataset: Any,
    batch_size: int,
    *,
    training: bool = False,
    drop_last: bool = False,
    seed: int,
    num_workers: int,
    seed_samples: bool,
) -> OrderedLoader:
    how: dict[str, Any] = {"shuffle": training, "equal_batches": training, "drop_last": drop_last, "seed": seed}
    if isinstance(dataset, tuple) and len(dataset) == 2 and all(isinstance(part, Tensor) for part in dataset):
        raise TypeError("a dataset gives samples; got a tuple of 2 tensors: take from_tensors, or TensorDataset(x, y)")
    whole = whole_tensors(dataset)
    if whole is None:
        return SampleLoader(dataset, batch_size, num_workers=num_workers, seed_samples=seed_samples, **how)
    loader = TensorLoader(
        *whole.tensors, batch_size=batch_size, images=whole.images, mean=whole.mean, std=whole.std, **how
    )
    loader.dataset = dataset  # names its classes
    return loader
