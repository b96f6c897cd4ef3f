"""What reading the data shows: numbers that are none, labels without outputs, images in both parts, scales."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..data import OrderedLoader
from ..epochs import batches_of, rereadable
from ..loss_size import first_dimension, labels_that_count
from ..nests import tensors_in
from .findings import Finding, listed
from .losses import ClassLoss
from .steps import labels_text, outside

__all__ = ["Reading", "in_both"]

_BATCHES_FOR_SCALE = 50


class Reading:
    """One pass over a loader, as far as it is looked at.

    Args:
        loader: in a trial, so that it may be moved.
        phase: "training" or "validation".
        prepare: a batch of the loader → ``(x, y)``.
        n_batches: how many are read at most.
        handles_nan: a batch with NaN → whether the job's own loss is a number on it; then NaN is what the job expects.
        loss: what is known of the loss; None: its labels are not looked at.
        n_classes: outputs of the model; None: likewise.
        in_memory: a ``TensorLoader``'s images are compared as they lie there, before its transform.
    """

    def __init__(
        self,
        loader: Any,
        phase: str,
        prepare: Callable[[Any], tuple[Any, Any]],
        n_batches: int,
        *,
        handles_nan: Callable[[Any], bool],
        loss: ClassLoss | None,
        n_classes: int | None,
        in_memory: bool,
    ):
        self.loader, self.phase, self.n_batches = loader, phase, n_batches
        self.loss, self.n_classes = loss, n_classes
        self.n_samples = self.n_read = 0
        self.whole = True
        self.numbered = True
        self.digests: list[tuple[bytes, int]] = []
        self._nan: dict[str, list[int]] = {}
        self._outside: dict[int, None] = {}  # samples with a label that has no output
        self._outside_labels: set[int] = set()
        self._lowest, self._highest = math.inf, -math.inf
        self._scales: dict[str, list[float]] = {}
        self._handles_nan, self._nan_expected = handles_nan, False
        self._in_memory = in_memory
        for batch, samples in itertools.islice(_numbered(loader), n_batches + 1):
            if self.n_read == n_batches:
                self.whole = False
                break
            self._see(batch, prepare, samples)
        if in_memory:
            self.digests = list(_digests([loader.tensors[0]], range(len(loader.tensors[0]))))

    def findings(self) -> Iterator[Finding]:
        """Facts and hints of this loader alone."""
        for path, samples in self._nan.items():
            yield Finding(
                "nan",
                f"the {self.phase} data is numbers; {path} has NaN in {len(samples)} of {self.n_samples} samples "
                f"({self._named(samples)}): leave these samples out, or fill them",
                True,
            )
        if self._outside and self.n_classes is not None:
            where = f"the {self.phase} data ({self._named(self._outside)})"
            text = labels_text(self.n_classes, sorted(self._outside_labels), where)
            yield Finding("labels outside the outputs", text, True)
        if self.phase == "training":
            yield from self._hints()

    def _hints(self) -> Iterator[Finding]:
        for path, (n, total, squares) in self._scales.items():
            mean = total / n if n else 0.0
            deviation = math.sqrt(max(0.0, squares / max(n, 1) - mean**2))
            if abs(mean) > 10 or deviation > 10 or 0 < deviation < 0.01:
                yield Finding(
                    "unscaled inputs",
                    f"inputs train best with mean 0 and standard deviation 1; {path} has mean {mean:.3g} and standard "
                    f"deviation {deviation:.3g}: scale it (images from bytes: divide by 255 once)",
                    False,
                )
        if self._lowest == self._highest and self.n_samples > 1:
            yield Finding(
                "constant labels",
                f"labels differ, or there is nothing to learn; all of {self.n_samples} training samples have "
                f"{self._lowest:g}: look at where the labels come from",
                False,
            )

    def _see(self, batch: Any, prepare: Callable[[Any], tuple[Any, Any]], samples: list[int] | None) -> None:
        x, y = prepare(batch)
        tensors = [(path, tensor) for name, part in (("x", x), ("y", y)) for path, tensor in tensors_in(part, name)]
        try:
            n = first_dimension(x, y)
        except TypeError:  # nothing in either tells
            n = 1
        if samples is None or len(samples) != n:
            self.numbered, samples = False, list(range(self.n_samples, self.n_samples + n))
        self.n_samples, self.n_read = self.n_samples + n, self.n_read + 1
        if isinstance(y, Tensor) and y.numel():
            self._see_labels(y, samples)
        for path, tensor in tensors:
            self._see_nan(path, tensor, samples, batch)
            if path.startswith("x") and self.n_read <= _BATCHES_FOR_SCALE:
                self._see_scale(path, tensor)
        if not self._in_memory:
            self.digests += _digests([tensor for path, tensor in tensors if path.startswith("x")], samples)

    def _see_nan(self, path: str, tensor: Tensor, samples: list[int], batch: Any) -> None:
        if self._nan_expected or not tensor.is_floating_point():
            return
        bad = tensor.isnan()
        if not bad.any():
            return
        if not self._nan and not self._outside and self._handles_nan(batch):
            self._nan_expected = True
            return
        rows = bad.flatten(1).any(1) if bad.ndim > 1 else bad.view(-1)
        places = rows.nonzero()[:, 0].tolist() if len(rows) == len(samples) else range(len(samples))
        self._nan.setdefault(path, []).extend(samples[place] for place in places)

    def _see_scale(self, path: str, tensor: Tensor) -> None:
        if tensor.is_floating_point():
            values = tensor.detach()[tensor.isfinite()].double()
            sums = self._scales.setdefault(path, [0.0, 0.0, 0.0])
            if values.numel():
                seen = (values.numel(), float(values.sum()), float(values.square().sum()))
                self._scales[path] = [a + b for a, b in zip(sums, seen, strict=True)]

    def _see_labels(self, y: Tensor, samples: list[int]) -> None:
        if self.loss is not None and not y.is_floating_point():
            if self.n_classes is not None:
                bad = outside(y, self.loss, self.n_classes)
                if bad is not None and bad.any():
                    places = bad.nonzero()[:, 0].tolist() if y.ndim else [0]
                    self._outside.update((samples[place], None) for place in places)
                    self._outside_labels.update(y[bad].tolist())
            y = y[labels_that_count(y, self.loss.ignore_index)]
        if y.numel() and not y.is_complex():
            self._lowest = min(self._lowest, float(y.min()))
            self._highest = max(self._highest, float(y.max()))

    def _named(self, samples: Iterable[int]) -> str:
        names = listed([str(sample) for sample in dict.fromkeys(samples)])
        return f"samples {names}" if self.numbered else f"samples {names} in the loader's order"


def in_both(training: Reading, validation: Reading) -> Iterator[Finding]:
    """The fact that images lie in the training and in the validation data."""
    of_training: dict[bytes, int] = {}
    for digest, sample in training.digests:
        of_training.setdefault(digest, sample)
    both = [(of_training[digest], sample) for digest, sample in validation.digests if digest in of_training]
    if both:
        pairs = listed([f"{a} and {b}" for a, b in both], 3)
        yield Finding(
            "same image",
            f"no image is in training and in validation; {len(both)} of {validation.n_samples} validation images are "
            f"among the training ones (training and validation sample {pairs}): split the data so that each is in one",
            True,
        )


def _numbered(loader: Any) -> Iterator[tuple[Any, list[int] | None]]:
    """The batches, each with the places of its samples in the dataset; None where those are not known."""
    if isinstance(loader, OrderedLoader):
        loader.set_epoch(0)
        order, indices = loader.order, loader.order.indices(0)
        for i, batch in enumerate(loader):
            yield batch, indices[order.share(i)].tolist()
    elif _samples(loader):
        noted, other = _Noted(loader.batch_sampler), rereadable(loader)
        vars(other)["batch_sampler"] = noted  # a DataLoader refuses to have it assigned
        for i, batch in enumerate(other):
            yield batch, noted.batches[i]
    else:
        for batch in batches_of(loader):
            yield batch, None


def _samples(loader: Any) -> bool:
    """Whether it is a stock loader that draws places in a dataset (its sampler may have no length, so no truth)."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    return loader.batch_sampler is not None


class _Noted:
    """A batch sampler that notes what it gives: workers are ahead of the batch that is read."""

    def __init__(self, batch_sampler: Any):
        self.batch_sampler = batch_sampler
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[Any]:
        for indices in self.batch_sampler:
            self.batches.append([*indices])
            yield indices


def _digests(tensors: list[Tensor], samples: Any) -> Iterator[tuple[bytes, int]]:
    """16 bytes for each sample with an image that is not all of one colour; equal for equal samples only."""
    n = len(samples)
    tensors = [tensor for tensor in tensors if tensor.ndim and len(tensor) == n]
    images = [t for t in tensors if t.ndim >= 3 and min(t.shape[-2:]) >= 4 and not t.is_complex()]
    if not images:
        return
    flat = images[0].flatten(1)
    drawn = (flat.amax(1) != flat.amin(1)).tolist()
    rows = [_bytes(tensor) for tensor in tensors]
    for i, sample in enumerate(samples):
        if drawn[i]:
            digest = blake2b(digest_size=16)
            for row in rows:
                digest.update(row[i])
            yield digest.digest(), int(sample)


def _bytes(tensor: Tensor) -> Any:
    """(N, bytes) uint8, an array."""
    rows = tensor.detach().cpu().reshape(len(tensor), -1).contiguous()
    return rows.view(torch.uint8).numpy()
