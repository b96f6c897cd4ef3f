"""Exact means over an epoch: Ignite metrics for loss, accuracy and functions of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import Tensor

from .distributed import sum_float64
from .loss_size import FEW, LossSize, Marked, counted, first_dimension

__all__ = ["Accuracy", "BatchMean", "Loss", "Ratio", "UpdatedMetric", "accuracy"]

AT_ONCE = 64
"""So many batches' numbers are added up at once on a device."""

_KEPT = 4096  # of so many samples it is kept which are right, or which count; of more, how many


def accuracy(preds: Tensor, y: Tensor) -> Tensor:
    """The share of rows whose largest prediction is at the label: a 0-d tensor.

    Args:
        preds: scores, (N, classes).
        y: class numbers, (N,).

    Source: the documents' ``accuracy(out, yb)``.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(0.5000)
    """
    return (preds.argmax(dim=1) == y).float().mean()


class OfOutput(Metric):
    """A metric of an evaluator's outputs ``(preds, y)`` as they are; Ignite looks for a transform at each batch."""

    def iteration_completed(self, engine: Engine) -> None:
        """Take the output of a batch."""
        self.update(engine.state.output)


class Ratio(Metric):
    """A metric that is one sum divided by another, over all ranks."""

    def reset(self) -> None:
        """Forget all batches."""
        self.of_all_ranks: tuple[float, float] | None = None  # where a learner has added up several metrics at once

    def sums(self) -> tuple[float, float]:
        """What this rank has added up."""
        raise NotImplementedError

    def compute(self) -> float:
        """The mean so far, NaN where nothing was added; waits for the device, and every rank has to call it."""
        total, n = self.of_all_ranks or sum_float64(torch.tensor(self.sums(), dtype=torch.float64)).tolist()
        return total / n if n else math.nan


class WeightedMean(Ratio):
    """Σ value·n / Σ n in float64. Values on the CPU are summed on the host, others on their device, read at the end.

    A device's numbers are added up 64 at a time, because starting a kernel takes the host 5 to 20 µs, and six for each
    batch were a tenth of a small model's step. mps has no float64: there the sum is a float32, and what its additions
    round off is kept in a second one.
    """

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._total: float | Tensor = 0.0
        self._n: int | float | Tensor = 0
        self._rounded_off: float | Tensor = 0.0
        self._later: list[tuple[Tensor, int | float | Tensor]] = []

    def add(self, value: Tensor, n: float | Tensor | Marked) -> None:
        """Add a batch: its mean, a 0-d tensor, and how many samples that stands for."""
        if value.is_cpu:  # there is no device to wait for: 0.3 µs, where tensors take 3
            n = n if isinstance(n, (int, float)) else counted(n).item()  # type: ignore[union-attr]
            if n:  # a batch of ignored labels alone has NaN for its loss
                self._total += value.item() * n
            self._n += n
        elif value.device.type == "mps":
            n = counted(n)
            if isinstance(n, Tensor) or n:
                weighted = value.detach().to(torch.float32) * n
                self.add_compensated(torch.where(n > 0, weighted, 0.0) if isinstance(n, Tensor) else weighted)
            self._n += n
        else:
            self.add_later(value, n)

    def add_later(self, value: Tensor, n: float | Tensor | Marked) -> None:
        """Keep a batch where it lies until there are as many as are added up at once; nothing waits for a device."""
        if isinstance(n, Marked):
            n = n.marks if n.marks.numel() <= _KEPT else n.marks.sum()
        elif isinstance(n, Tensor) and n.is_cpu:
            n = n.item()
        elif isinstance(n, Tensor) and (n.ndim or n._is_view()):
            n = n.reshape(()).clone()
        self._later.append((value.detach().to(torch.float64, copy=True), n))  # its place may be used again
        if len(self._later) >= AT_ONCE:
            self._total, self._n = self._added_up()
            self._later = []

    def _added_up(self) -> tuple[float | Tensor, float | Tensor]:
        """Σ value·n and Σ n including the kept batches, which stay kept: so looking at a mean changes no bit of it."""
        total, n_samples = self._total, self._n
        for n, batches in groupby(self._later, lambda batch: None if isinstance(batch[1], Tensor) else batch[1]):
            values, sizes = zip(*batches, strict=True)
            if n is None:
                weights = _numbers(sizes)
                total = total + torch.where(weights > 0, torch.stack(values) * weights, 0.0).sum()
                n_samples = n_samples + weights.sum()
            elif n:
                total = total + torch.stack(values).sum() * n
                n_samples = n_samples + n * len(values)
        return total, n_samples

    def add_compensated(self, value: Tensor) -> None:
        """Add to the sum, and keep what that rounds off. Source: Knuth's two-sum."""
        total = self._total + value
        added = total - self._total
        self._rounded_off += (self._total - (total - added)) + (value - added)
        self._total = total

    def state(self) -> list[Any]:
        """What was added so far, as plain data."""
        values, sizes = zip(*self._later, strict=True) if self._later else ((), ())
        sizes = tuple(n.sum() if isinstance(n, Tensor) and n.dtype is torch.bool else n for n in sizes)
        of_tensors = bool(sizes) and all(isinstance(n, Tensor) for n in sizes)
        later = [torch.stack(values) if values else [], torch.stack(sizes) if of_tensors else list(sizes)]
        return [self._total, self._n, self._rounded_off, *later]

    def load(self, state: list[Any], device: torch.device) -> None:
        """Go on from a ``state``, on this device."""

        def moved(part: Any) -> Any:
            return part.to(device) if isinstance(part, Tensor) else part

        self._total, self._n, self._rounded_off = map(moved, (*state, 0.0)[:3])  # older ones have fewer parts
        self._later = [(moved(value), moved(n)) for value, n in zip(*state[3:], strict=True)]

    def sums(self) -> tuple[float, float]:
        """Σ value·n and Σ n as numbers; waits for the device."""
        total, n = self._added_up()
        if not isinstance(total, Tensor):
            return total, float(n)
        parts = [torch.as_tensor(part).to(total) for part in (total, self._rounded_off, n)]
        added, rounded_off, n_samples = torch.stack(parts).tolist()  # one wait
        return added + rounded_off, n_samples if isinstance(n, Tensor) else float(n)


def _numbers(sizes: tuple[Tensor, ...]) -> Tensor:
    """Numbers, and of marks how many are True, in float64; neighbours of one shape and type are read together."""
    alike = [torch.stack(tuple(group)) for _, group in groupby(sizes, lambda n: (n.shape, n.dtype))]
    return torch.cat([stacked.reshape(len(stacked), -1).sum(dim=1).to(torch.float64) for stacked in alike])


class Loss(WeightedMean):
    """The mean loss over an epoch's samples, from the losses that the step has computed anyway.

    On a trainer or evaluator of this package it takes each batch's loss as callbacks left it. Elsewhere it is an Ignite
    metric whose ``update`` takes ``(loss, n)``: the mean loss of a batch and how many samples it stands for. NaN where
    no batch was seen.

    Args:
        size: (preds, y) → the weight of a batch's loss; default: the first dimension of y.

    >>> loss = Loss()
    >>> loss.update((torch.tensor(1.0), 3)); loss.update((torch.tensor(2.0), 1))
    >>> loss.compute()
    1.25
    """

    def __init__(self, size: LossSize = first_dimension):
        self.size = size
        super().__init__()

    def update(self, output: tuple[Tensor, int | Tensor | Marked]) -> None:
        """Add a batch: its mean loss, a 0-d tensor, and how many samples that stands for."""
        self.add(*output)

    def iteration_completed(self, engine: Engine) -> None:
        """Take the loss of the batch that an engine of this package has just done."""
        loop = engine.loop  # type: ignore[attr-defined]
        self.add(loop.loss, self.size(loop.preds, engine.state.batch[1]))  # type: ignore[index]


class Accuracy(OfOutput, Ratio):
    """The share of samples whose largest prediction is at the label, counted in integers: exact.

    ``update`` takes ``(preds, y)``: scores (N, classes, ...) and class numbers (N, ...). NaN where no batch was seen.

    Args:
        ignore_index: a label that is not counted, such as the one that the loss ignores; None: all are counted.

    Raises:
        ValueError: on ``update``, if ``y`` does not hold class numbers that fit the predictions.

    >>> metric = Accuracy()
    >>> metric.update((torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), torch.tensor([1, 1, 1])))
    >>> metric.compute() == 2 / 3
    True
    """

    def __init__(self, ignore_index: int | None = None):
        self.ignore_index = ignore_index
        super().__init__()

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._correct: int | Tensor = 0
        self._n: int | Tensor = 0
        self._later: list[Tensor] = []

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Add a batch ``(preds, y)``."""
        preds, y = output
        if preds.ndim < 2:
            self.check(preds, y)
        best = preds.argmax(dim=1)
        if best.shape != y.shape or y.is_floating_point():
            self.check(preds, y)
        right, n = best == y, y.numel()
        if self.ignore_index is not None:
            known = y != self.ignore_index
            self._correct += (right & known).sum()
            self._n += known.sum()
            return
        if not right.is_cpu:  # nothing waits for a device
            self._later.append(right if n <= _KEPT and right.ndim == 1 else right.sum().reshape(1))
            if len(self._later) >= AT_ONCE:
                self._add_up()
        elif n <= FEW and right.ndim == 1:  # 2 µs less than the next line
            self._correct += right.tolist().count(True)
        else:
            self._correct += int(right.count_nonzero())
        self._n += n

    def _add_up(self) -> None:
        if self._later:
            self._correct += torch.cat(self._later).sum()
            self._later = []

    @staticmethod
    def check(preds: Tensor, y: Tensor) -> None:
        """Raise where y are no class numbers that fit the predictions."""
        if preds.ndim < 2 or y.shape != preds.shape[:1] + preds.shape[2:] or y.is_floating_point():
            way_out = "for a regression use Learner without it, for two classes by one output a function (preds, y)"
            if preds.ndim > 2 and y.shape == preds.shape[:-1]:
                way_out = "the classes are the second dimension, so give a function of preds.movedim(-1, 1) and y"
            raise ValueError(
                "accuracy compares scores (N, classes) with class numbers (N,); got "
                f"{tuple(preds.shape)} and {tuple(y.shape)} of {y.dtype}: {way_out}"
            )

    def sums(self) -> tuple[float, float]:
        """The right ones and all: whole numbers, which float64 holds exactly up to 2**53."""
        self._add_up()
        return float(self._correct), float(self._n)


class BatchMean(OfOutput, WeightedMean):
    """A function of a batch, averaged over an epoch with the batch sizes as weights.

    Args:
        function: (preds, y) → its mean over the batch, a 0-d tensor or a number.

    Raises:
        ValueError: on ``update``, where the function gives more than one number.

    >>> error = BatchMean(lambda preds, y: (preds - y).abs().mean())
    >>> error.update((torch.zeros(2), torch.ones(2))); error.update((torch.zeros(1), torch.tensor([4.0])))
    >>> error.compute()
    2.0
    """

    def __init__(self, function: Callable[[Any, Any], Any]):
        self.function = function
        super().__init__()

    def update(self, output: tuple[Any, Any]) -> None:
        """Add a batch ``(preds, y)``."""
        preds, y = output
        value = self.function(preds, y)
        if value is None:
            raise TypeError("a metric function gives its mean over the batch, one number; got None: return it")
        value = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
        if value.numel() != 1:
            raise ValueError(
                f"a metric function gives its mean over the batch, one number; got a tensor of shape "
                f"{tuple(value.shape)}: take its mean"
            )
        self.add(value.reshape(()), first_dimension(preds, y))


class UpdatedMetric(OfOutput):
    """A metric object of another library, with ``update(preds, y)``, ``compute()`` and ``reset()``, as in torchmetrics.

    Args:
        metric: such an object; an ``nn.Module`` is moved to the predictions' device.
    """

    def __init__(self, metric: Any):
        self._metric = metric
        super().__init__()

    def reset(self) -> None:
        """Forget all batches."""
        self._metric.reset()
        self._moved = not isinstance(self._metric, torch.nn.Module)

    def update(self, output: tuple[Any, Any]) -> None:
        """Add a batch ``(preds, y)``."""
        preds, y = output
        if not self._moved:
            self._metric.to(preds.device)
            self._moved = True
        self._metric.update(preds, y)

    def compute(self) -> Any:
        """What the object computes; a tensor of one number as a number."""
        value = self._metric.compute()
        return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
