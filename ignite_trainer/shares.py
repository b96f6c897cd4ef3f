"""Each rank's share of a loader: which samples of a global batch are its own, and where they stand in the whole."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from .collectives import all_objects
from .data import OrderedLoader
from .epochs import check_loader, loader_length

__all__ = ["Share", "is_filler", "loader_identity", "places_of"]


class Share:
    """A ``with`` block in which a loader gives one rank's share of each of its batches; after it, it is whole again.

    In training all ranks have equally many batches; in evaluation a rank has those of which it has a sample, and no
    sample is there twice.

    Args:
        loader: one of this package; in training also a stock ``DataLoader`` with a ``DistributedSampler``, whose batch
            size is a rank's and which repeats samples to make shares of equal size.
        rank, world: this process and their number.
        training: equally many batches.

    Raises:
        TypeError: another loader.
        ValueError: a ``DistributedSampler`` made for other ranks; an empty loader; on entering, another loader on
            another rank.

    >>> from ignite_trainer import TensorLoader
    >>> loader = TensorLoader(torch.arange(5), batch_size=3)
    >>> with Share(loader, 1, 2, training=False):
    ...     [x.tolist() for (x,) in loader]
    [[2], [4]]
    """

    def __init__(self, loader: Any, rank: int, world: int, *, training: bool):
        check_loader(loader, 1, "training" if training else "validation")
        self._order = loader.order if isinstance(loader, OrderedLoader) else None
        if self._order is not None:
            self._own = rank, world, training
        else:
            _check_sampler(loader, rank, world, training=training)

    def __enter__(self) -> None:
        if self._order is not None:
            # rank 0's place for all: one that has looked at a batch by itself would go through another epoch
            place = _agreed_place(self._order)
            self._former = self._order.rank, self._order.world, self._order.equal_batches
            _set_share(self._order, *self._own)
            self._order.epoch, self._order.batch = place

    def __exit__(self, *raised: object) -> None:
        if self._order is not None:
            _set_share(self._order, *self._former)


def is_filler(loader: Any, batch: int) -> bool:
    """Whether a rank has no sample of a batch, and what its loader gives there only keeps the ranks in step."""
    return isinstance(loader, OrderedLoader) and batch >= 0 and loader.order.is_filler(batch)


def places_of(loader: OrderedLoader, rank: int, world: int, first: int = 0) -> Tensor:
    """Where the samples of a rank stand in an epoch of evaluation, from 0: (its samples,) int64.

    Args:
        loader: of this package.
        rank, world: a process and their number.
        first: the batch at which the epoch begins.

    >>> from ignite_trainer import TensorLoader
    >>> places_of(TensorLoader(torch.arange(5), batch_size=3), 1, 2)
    tensor([2, 4])
    """
    order = copy.copy(loader.order)
    _set_share(order, rank, world, False)
    shares = [order.share(batch) for batch in range(first, len(order))]
    places = [torch.arange(share.start, share.stop) for share in shares]
    return torch.cat(places) - first * order.batch_size if places else torch.empty(0, dtype=torch.int64)


def loader_identity(loader: Any) -> dict[str, Any]:
    """What has to be the same for the same batches: plain data to save, and to compare."""
    if isinstance(loader, OrderedLoader):
        return loader.identity()
    try:
        length: int | None = loader_length(loader)
    except TypeError:
        length = None
    identity: dict[str, Any] = {"kind": type(loader).__name__, "length": length}
    if isinstance(loader, DataLoader):
        n_samples = len(loader.dataset) if hasattr(loader.dataset, "__len__") else None
        identity |= {"batch_size": loader.batch_size, "n_samples": n_samples, "num_workers": loader.num_workers}
        identity["sampler"] = type(loader.sampler).__name__
        if isinstance(loader.sampler, DistributedSampler):
            identity["ranks"] = loader.sampler.num_replicas
    return identity


def _set_share(order: Any, rank: int, world: int, equal_batches: bool) -> None:
    order.equal_batches = equal_batches
    order.shard(rank, world)


def _agreed_place(order: Any) -> tuple[int, int]:
    """Where rank 0's loader stands, if it is of the same samples on all ranks."""
    (of_rank_0, *place), *others = all_objects((order.identity(), order.epoch, order.batch))
    for number, (identity, *_) in enumerate(others, 1):
        if identity != of_rank_0:
            raise ValueError(
                f"ranks share one loader; rank {number} has one of {identity}, rank 0 of {of_rank_0}: give all of them "
                "the same data and options"
            )
    return tuple(place)


def _check_sampler(loader: Any, rank: int, world: int, *, training: bool) -> None:
    sampler = getattr(loader, "sampler", None)
    if not training or not isinstance(loader, DataLoader) or not isinstance(sampler, DistributedSampler):
        phase = "training" if training else "evaluation"
        also = ", or in training a DataLoader with a DistributedSampler" if training else ""
        raise TypeError(
            f"on {world} ranks the loader for {phase} is one that gives each rank its share; got a "
            f"{type(loader).__name__}: take DataLoaders.from_datasets, TensorLoader or SampleLoader{also}"
        )
    if (sampler.rank, sampler.num_replicas) != (rank, world):
        raise ValueError(
            f"a DistributedSampler is made for the ranks of the run; got one for rank {sampler.rank} of "
            f"{sampler.num_replicas} on rank {rank} of {world}: leave num_replicas and rank out"
        )
