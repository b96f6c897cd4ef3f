"""Batches made sample by sample: a stock DataLoader on our order, every sample with randomness of its own."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..nests import tensors_in
from ..rng import hash_seed, rng_kept, seed_sample
from .order import BatchOrder, OrderedLoader

__all__ = ["SampleError", "SampleLoader"]

Collate = Callable[[list[Any]], Any]  # Any: samples and batches have whatever shape the dataset gives them


class SampleError(RuntimeError):
    """A dataset raised while a sample was read: says which, and the original error is its cause.

    From a worker process the cause comes as text, in the traceback that the message then begins with.
    """


class SampleLoader(OrderedLoader):
    """Batches of any map-style dataset: torch's ``DataLoader`` on an order of our own.

    With ``seed_samples`` each sample is made with Python's, NumPy's and torch's CPU generators seeded from (seed,
    epoch, index), and each batch is collated with them seeded from (seed, epoch, batch). So the augmentation is the
    same for any number of workers and wherever an epoch is begun. The generators are put back after each batch. A
    generator that the dataset keeps (NumPy's ``default_rng``) is not covered: make it anew for each sample, seeded from
    ``torch.initial_seed()``.

    Args:
        dataset: anything with ``__len__`` and ``__getitem__`` for 0 to len - 1.
        batch_size: samples in a global batch; the last batch of an epoch has what is left.
        shuffle: a new order every epoch, a function of (seed, epoch).
        drop_last: leave out a last batch that is not full.
        seed: of the orders and of the samples.
        seed_samples: False: samples draw from the generators as in a stock DataLoader, so their random numbers depend
            on the number of workers; with workers, random samples then differ after a resume in mid-epoch.
        num_workers: processes that read ahead; 0: none. They ignore SIGINT and SIGUSR1, which the main process answers.
        collate_fn: makes a batch of a list of samples; None: torch's own.
        pin_memory, persistent_workers, worker_init_fn: as for torch's ``DataLoader``.
        rank, world, equal_batches: as for `BatchOrder`.

    Raises:
        TypeError: the dataset has no length.
        ValueError: as for `BatchOrder`.
        SampleError: while iterating: the dataset raised.

    >>> loader = SampleLoader(range(10, 15), batch_size=2)
    >>> [batch.tolist() for batch in loader]
    [[10, 11], [12, 13], [14]]
    """

    def __init__(
        self,
        dataset: Any,  # Any: torch asks for a subclass of Dataset, we for two methods
        batch_size: int = 64,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        seed_samples: bool = True,
        num_workers: int = 0,
        collate_fn: Collate | None = None,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        worker_init_fn: Callable[[int], None] | None = None,
        rank: int = 0,
        world: int = 1,
        equal_batches: bool = False,
    ):
        order = BatchOrder(
            _length(dataset),
            batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            rank=rank,
            world=world,
            equal_batches=equal_batches,
        )
        super().__init__(order)
        self.dataset = dataset
        self.seed_samples = seed_samples
        self._places = _Places(order)
        self._generator = torch.Generator()  # the DataLoader draws its workers' seed from it, not from the global one
        self.stock = DataLoader(
            _Batches(dataset, seed if seed_samples else None, collate_fn or default_collate),
            batch_sampler=self._places,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            worker_init_fn=_WorkerInit(worker_init_fn),
            generator=self._generator,
        )

    def __iter__(self) -> Iterator[Any]:
        self._places.begin = epoch, _ = self.order.advance()
        self._generator.manual_seed(hash_seed(self.order.seed, epoch))
        if not self.stock.num_workers:
            return iter(self.stock)
        if (self.stock.multiprocessing_context or multiprocessing).get_start_method() != "fork":
            resource_tracker.ensure_running()  # its start, of Python 3.11, lets SIGINT through again
        with _signals_wait():
            return iter(self.stock)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "seed_samples": self.seed_samples}


class _Place(NamedTuple):
    """All that a worker needs to make one batch, so that workers share no state and may live for many epochs."""

    epoch: int
    batch: int
    indices: list[int]


class _Places:
    """The batch sampler of the DataLoader: the places of the epoch that begins."""

    def __init__(self, order: BatchOrder):
        self.order = order
        self.begin = (0, 0)

    def __iter__(self) -> Iterator[Any]:  # Any: torch's stubs know lists of indices only
        epoch, first = self.begin
        indices = self.order.indices(epoch)
        return (
            _Place(epoch, batch, indices[self.order.share(batch)].tolist()) for batch in range(first, len(self.order))
        )


class _Batches(Dataset[Any]):
    """A dataset of whole batches: torch's fetcher hands over what the batch sampler gave, a place, in one call."""

    def __init__(self, dataset: Any, seed: int | None, collate: Collate):
        self.dataset = dataset
        self.seed = seed  # None: nothing is seeded
        self.collate = collate

    def __getitems__(self, place: _Place) -> Any:
        if self.seed is None:
            return self._collated([self._sample(place, index) for index in place.indices], place)
        with rng_kept(cuda=False):
            samples = [self._seeded_sample(place, index, self.seed) for index in place.indices]
            seed_sample(self.seed, place.epoch, -1 - place.batch)  # MixUp draws here; no sample has a negative index
            return self._collated(samples, place)

    def _collated(self, samples: list[Any], place: _Place) -> Any:
        try:
            return self.collate(samples)
        except RuntimeError as error:
            shapes = [[tuple(tensor.shape) for _, tensor in tensors_in(sample)] for sample in samples]
            other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), 0)
            if not other:
                raise
            first, second = (" and ".join(map(str, shapes[i])) for i in (0, other))
            raise SampleError(
                f"samples of one batch have one shape; sample {place.indices[0]} has {first}, sample "
                f"{place.indices[other]} has {second}: resize them in the transform, or with --size"
            ) from error

    def _seeded_sample(self, place: _Place, index: int, seed: int) -> Any:
        seed_sample(seed, place.epoch, index)
        return self._sample(place, index)

    def _sample(self, place: _Place, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:
            raise SampleError(
                f"sample {index} of the dataset cannot be read (epoch {place.epoch}, batch {place.batch}): {error!r}"
            ) from error


@contextmanager
def _signals_wait() -> Iterator[None]:
    """In here SIGINT and SIGUSR1 wait, also for the workers that are started, which go on so until they ignore them."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


class _WorkerInit:
    """What a worker does first: leave to the main process the signals with which it stops in order."""

    def __init__(self, then: Callable[[int], None] | None):
        self.then = then

    def __call__(self, worker: int) -> None:
        parent = multiprocessing.parent_process()
        method = getattr(multiprocessing.current_process(), "_start_method", None) or multiprocessing.get_start_method()
        is_child = method != "forkserver"  # else it is one of the server's
        if parent is not None and not (os.getppid() == parent.pid if is_child else parent.is_alive()):
            os._exit(1)  # it was killed just now; torch's own watch begins later, and would watch for another process
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if self.then is not None:
            self.then(worker)


def _as_it_is(batch: Any) -> Any:
    return batch  # `_Batches` has collated it


def _length(dataset: Any) -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"a dataset here has a length and items by number; got {type(dataset).__name__}: "
            "what only streams goes into torch's own DataLoader"
        )
    return len(dataset)
