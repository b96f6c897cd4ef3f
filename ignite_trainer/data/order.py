"""The order of the data: which samples are in batch b of epoch e, for any number of ranks, without reading any."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..arguments import is_whole
from ..rng import hash_seed

__all__ = ["BatchOrder", "OrderedLoader"]


class BatchOrder:
    """The batches of every epoch as lists of indices.

    As a ``batch_sampler`` of a stock ``DataLoader`` it needs ``set_epoch`` before each epoch: nothing else calls it.

    The order of epoch e is a function of (seed, e): iteration can start anywhere in any epoch, and nothing is drawn
    from the global generators. ``iter()`` gives the batches of the epoch last set, from the batch last set; it does not
    move to the next epoch by itself, because a DataLoader with workers calls it twice for one epoch.

    Batch b is the same global batch for any number of ranks, and each rank has a share of it, rank 0 the first part;
    their sizes differ by at most one. The shares are never padded. A rank whose share is empty has no batch there,
    unless all ranks need equally many (training): then it gets the first sample of the global batch as a *filler*,
    which the caller counts with weight 0.

    Args:
        n_samples: the length of the dataset, at least 1.
        batch_size: samples in a global batch, over all ranks; the last batch of an epoch has what is left.
        shuffle: a new permutation every epoch; False: 0, 1, 2, ….
        drop_last: leave out a last batch that is not full.
        seed: of the permutations.
        rank: this process, from 0.
        world: the number of processes.
        equal_batches: every rank has the same number of batches, by fillers.

    Raises:
        ValueError: an argument is out of its range, or ``drop_last`` leaves no batch.

    >>> order = BatchOrder(5, 2, shuffle=True)
    >>> list(order)
    [[2, 0], [4, 1], [3]]
    >>> order.seek(epoch=0, batch=1)
    >>> list(order)
    [[4, 1], [3]]
    """

    def __init__(
        self,
        n_samples: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        equal_batches: bool = False,
    ):
        if n_samples < 1:
            raise ValueError(f"a loader gives batches of at least one sample; got a dataset of {n_samples!r}: add some")
        if not is_whole(batch_size) or batch_size < 1:
            raise ValueError(f"batch_size is the number of samples in a batch, so at least 1; got {batch_size!r}")
        if drop_last and n_samples < batch_size:
            raise ValueError(
                f"drop_last leaves no batch: {n_samples!r} samples do not fill one of batch_size {batch_size!r}; "
                "a smaller batch_size or drop_last=False does"
            )
        self.n_samples = n_samples
        self.batch_size = int(batch_size)  # NumPy's, say: it is saved as plain data
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = int(seed)
        self.equal_batches = equal_batches
        self.epoch = 0
        self.batch = 0
        self.shard(rank, world)

    def __len__(self) -> int:
        """The number of batches this rank has in a whole epoch."""
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        indices, first = self.indices(self.epoch), self.batch  # now, not at the first next(): a seek comes between
        return (indices[self.share(batch)].tolist() for batch in range(first, len(self)))

    def seek(self, epoch: int, batch: int) -> None:
        """Begin the next iteration at this batch of this epoch, both from 0; the number of batches is the epoch's end.

        Raises:
            ValueError: there is no such place.
        """
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(
                f"a place is an epoch from 0 and a batch from 0 to {len(self)}, the number of batches of this loader; "
                f"got epoch {epoch!r}, batch {batch!r}"
            )
        self.epoch, self.batch = epoch, batch

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at the start of this epoch, as for a ``DistributedSampler``."""
        self.seek(epoch, 0)

    def advance(self) -> tuple[int, int]:
        """The (epoch, batch) at which an iteration begins now; the next one begins with the next epoch."""
        place = self.epoch, self.batch
        self.epoch, self.batch = self.epoch + 1, 0
        return place

    def shard(self, rank: int, world: int) -> None:
        """Give the share of this rank from now on.

        Raises:
            ValueError: ``rank`` is not one of ``world`` processes.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank goes from 0 to world - 1; got rank {rank!r} of world {world!r}")
        self.rank, self.world = rank, world
        n_full, left = divmod(self.n_samples, self.batch_size)
        has_last = left > 0 and not self.drop_last
        if not self.equal_batches:
            n_full, has_last = n_full if rank < self.batch_size else 0, has_last and rank < left
        self._length = n_full + has_last

    def indices(self, epoch: int) -> Tensor:
        """All samples in the order of this epoch, (n_samples,) int64; `share` cuts the batches out of it."""
        if not self.shuffle:
            return torch.arange(self.n_samples)
        generator = torch.Generator().manual_seed(hash_seed(self.seed, epoch))
        return torch.randperm(self.n_samples, generator=generator)

    def share(self, batch: int) -> slice:
        """Where in the order of any epoch this rank's share of a global batch stands, or its filler."""
        start = batch * self.batch_size
        size = min(self.batch_size, self.n_samples - start)
        if self.rank >= size:
            return slice(start, start + 1)
        each, more = divmod(size, self.world)
        start += self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def is_filler(self, batch: int) -> bool:
        """Whether this rank's share of a global batch is empty, so that what it gets there counts for nothing."""
        return self.rank >= self.n_samples - batch * self.batch_size or self.rank >= self.batch_size

    def identity(self) -> dict[str, Any]:  # Any: ints and bools, as they are saved
        """What has to be the same for the same batches: plain data to save, and to compare on resume."""
        names = ("n_samples", "batch_size", "shuffle", "drop_last", "seed")
        return {name: getattr(self, name) for name in names}


class OrderedLoader(ABC):
    """What all loaders of this package can do: begin anywhere, and say what they are.

    Each ``iter()`` is one epoch: it begins where the loader stands, at epoch 0 or where `seek` has put it, and puts the
    loader at the start of the next epoch, so that an iterator left half-way does not repeat its epoch.

    Args:
        order: which samples are in which batch.
    """

    def __init__(self, order: BatchOrder):
        self.order = order
        self.dataset: Any = None  # Any: whatever the batches were made of; None: tensors alone

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:  # Any: batches of whatever shape
        """The batches from where the loader stands to the end of that epoch."""

    def __len__(self) -> int:
        """The number of batches of a whole epoch, on this rank."""
        return len(self.order)

    def seek(self, epoch: int, batch: int) -> None:
        """Begin the next iteration at this batch of this epoch, both from 0, without reading what comes before.

        Raises:
            ValueError: there is no such place.
        """
        self.order.seek(epoch, batch)

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at the start of this epoch."""
        self.order.set_epoch(epoch)

    def identity(self) -> dict[str, Any]:  # Any: strings, ints and bools, as they are saved
        """What has to be the same for the same batches: plain data to save, and to compare on resume."""
        return {"kind": type(self).__name__, **self.order.identity()}
