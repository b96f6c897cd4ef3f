"""A loader as the engines read it: epoch by epoch, as a plain ``for`` would, and refused where it cannot be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .events import CancelException, Scope

__all__ = [
    "Epochs",
    "batches_of",
    "check_loader",
    "first_batch",
    "is_function",
    "loader_length",
    "pair_of_loaders",
    "refuse_one_shot",
    "rereadable",
]

_END = object()


class Epochs:
    """A loader as an engine reads it, one epoch at a time, just as a plain ``for`` would.

    ``iter(loader)`` is not called before the first batch is needed, and the loader's own end is reached, as both move
    the random generators. Ignite 0.5.5 begins a loader anew when it ends early, cuts it when its length grows, and
    stops one ``next`` short.
    """

    def __init__(self, engine: Any, loader: Any, *, whole: bool):
        self.engine, self.loader, self.whole = engine, loader, whole  # whole: an epoch is the loader from end to end
        self.batches: Iterator[Any] | None = None

    def __len__(self) -> int:
        length = loader_length(self.loader)
        if not length and self.engine.ranks is not None:
            raise TypeError("Ignite refuses a loader of length 0, which a rank may have in evaluation; not one without")
        return length

    def __getattr__(self, name: str) -> Any:
        """The loader's own attributes: Ignite's handlers read ``engine.state.dataloader.sampler``."""
        if "loader" not in vars(self):  # a copy in the making
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        engine = self.engine
        try:
            if not engine.cancelled:
                engine.measure_epoch()  # again: a callback may just have changed the loader
                self.batches = engine.open_loader(self)
                for batch in self.batches:
                    engine.place += 1
                    engine.cancelled = 0  # a batch that was cancelled is over now
                    yield batch
                    if engine.wish:  # an evaluator's; a trainer's ranks have agreed by now
                        break
        except CancelException as request:  # raised by the loader itself
            engine.cancel(request, Scope.EPOCH)
        except Exception as error:
            engine.annotate(error, "the loader", ahead=1)
            raise
        self.batches = None
        if engine.cancelled == Scope.EPOCH:  # by the loader, or before a first batch: there Ignite can end no epoch
            engine.end_epoch()
        if engine.cancelled >= Scope.EPOCH:
            yield None  # Ignite looks at its flags once it has a batch
        if self.whole:
            engine.state.epoch_length = None  # for Ignite the epoch is then over

    def finish(self) -> None:
        """Reach the loader's own end, as a ``for`` does; an epoch without a single batch is an error."""
        engine = self.engine
        if self.batches is not None:
            try:
                end = next(self.batches, _END)
            except CancelException as request:
                engine.cancel(request, Scope.EPOCH)
                return
            if end is not _END:
                raise ValueError(
                    f"a loader gives as many batches as its len() says; the {engine.phase} loader says "
                    f"{engine.state.epoch_length} and goes on: correct its __len__ or leave it out"
                )
            self.batches = None
        engine.state.epoch_length = engine.place + 1
        if engine.place < 0 and engine.ranks is None:
            used_up = is_function(self.loader) and engine.loop.epoch > 0
            way_out = ": have the function make a new one each time" if used_up else ""
            raise ValueError(
                f"a loader gives at least one batch an epoch; the {engine.phase} loader gave none{way_out}"
            )


def batches_of(loader: Any) -> Iterator[Any]:
    """An iterator over one epoch of a loader; of a function, over what it returns."""
    return iter(loader() if is_function(loader) else loader)


def rereadable(loader: Any) -> Any:
    """A loader to read before or during a fit, without a trace in the loader itself.

    A stock ``DataLoader`` that keeps its workers, alone or within a ``SampleLoader``, would use these workers and their
    random states, and restart them while the fit still iterates over them: so a copy of it is returned.
    """
    if isinstance(loader, DataLoader):
        other = copy.copy(loader)
        vars(other)["_iterator"] = None
        return other
    if isinstance(getattr(loader, "stock", None), DataLoader):
        other = copy.copy(loader)
        vars(other)["stock"] = rereadable(loader.stock)
        return other
    return loader


def first_batch(loader: Any) -> Any:
    """What a loader gives first.

    Raises:
        ValueError: it gives nothing.
    """
    for batch in batches_of(rereadable(loader)):
        return batch
    raise ValueError("a loader gives at least one batch an epoch; this one gave none")


def refuse_one_shot(loader: Any, rule: str, called: str = "this one") -> None:
    """Refuse an iterator, of which what is read is gone.

    Args:
        loader: a loader.
        rule, called: for the message.

    Raises:
        TypeError: it is one.
    """
    if hasattr(loader, "__next__"):
        raise TypeError(
            f"{rule}; {called} is a one-shot {type(loader).__name__}: give a list, a DataLoader, or the function that "
            "makes it"
        )


def is_function(loader: Any) -> bool:
    """Whether a loader is a function that returns one for each epoch."""
    return callable(loader) and not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__")


def loader_length(loader: Any) -> int:
    """The number of batches of a loader; TypeError where that is not known (an iterable dataset's is a guess)."""
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
        raise TypeError("the length of a loader over an iterable dataset is a guess")
    return len(loader)


def pair_of_loaders(dls: Any) -> tuple[Any, Any]:
    """``(train, valid)`` of a pair, or of an object with those two; ``valid`` may be None.

    Raises:
        TypeError: it is neither.
    """
    if hasattr(dls, "train") and hasattr(dls, "valid"):
        return dls.train, dls.valid
    if isinstance(dls, (tuple, list)) and len(dls) == 2:
        return dls[0], dls[1]
    raise TypeError(
        "dls is a pair of loaders (train, valid), or an object with .train and .valid, of which valid may be None; "
        f"got a {type(dls).__name__}" + (f" of {len(dls)}" if isinstance(dls, (tuple, list)) else "")
    )


def check_loader(loader: Any, n_epochs: int, phase: str) -> None:
    """Refuse what cannot be iterated, iterated again, or is empty.

    Args:
        loader: an iterable of batches, or a function that returns one.
        n_epochs: how often it is to be gone through.
        phase: "training" or "validation", for the message.

    Raises:
        TypeError: not iterable, a dataset or a tensor, or a one-shot iterator for more than one epoch.
        ValueError: its length is 0.
    """
    if is_function(loader):
        return
    if isinstance(loader, Tensor) or (isinstance(loader, Dataset) and not isinstance(loader, IterableDataset)):
        raise TypeError(
            f"a loader gives batches; the {phase} loader is a {type(loader).__name__}, which gives samples: "
            "take DataLoader(dataset, batch_size), or TensorLoader for tensors"
        )
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise TypeError(
            f"a loader is an iterable of batches, or a function that returns one; "
            f"the {phase} loader is a {type(loader).__name__}"
        )
    if n_epochs > 1:
        refuse_one_shot(loader, f"a loader is gone through once an epoch, {n_epochs} times here", f"the {phase} loader")
    if hasattr(loader, "__len__"):
        try:
            length = len(loader)
        except TypeError:
            return
        if length == 0:
            raise ValueError(f"a loader gives at least one batch an epoch; the {phase} loader is empty")
