"""Exact means over an epoch: Ignite metrics for loss, accuracy and functions of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import Tensor

from .loss_size import FEW, LossSize, first_dimension, labels_that_count
from .means import AT_ONCE, KEPT, Ratio, WeightedMean

__all__ = ["Accuracy", "BatchMean", "Loss", "UpdatedMetric", "accuracy"]


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


class Loss(WeightedMean):
    """The mean loss over an epoch's samples, from the losses that the step has computed anyway.

    On a trainer or evaluator of this package it takes each batch's loss as callbacks left it. On another engine it
    takes the output, which is ``(loss, n)``, as ``update`` does: the mean loss of a batch and how many samples it
    stands for. NaN where no batch was seen.

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

    def update(self, output: tuple[Tensor, int | Tensor]) -> None:
        """Add a batch: its mean loss, a 0-d tensor, and how many samples that stands for."""
        self.add(*output)

    def iteration_completed(self, engine: Engine) -> None:
        """Take the loss of the batch that an engine has just done; of another engine its output, ``(loss, n)``."""
        loop = getattr(engine, "loop", None)
        if loop is None:
            return super().iteration_completed(engine)
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
        self._checked = False

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Add a batch ``(preds, y)``."""
        preds, y = output
        if preds.ndim < 2 or not self._checked:
            self.check(preds, y)
            self._checked = True
        best = preds.argmax(dim=1)
        if best.shape != y.shape or y.is_floating_point():
            self.check(preds, y)
        right, n = best == y, y.numel()
        if self.ignore_index is not None:
            known = labels_that_count(y, self.ignore_index)
            self._correct += (right & known).sum()
            self._n += known.sum()
            return
        if not right.is_cpu:  # nothing waits for a device
            self._later.append(right if n <= KEPT and right.ndim == 1 else right.sum().reshape(1))
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
        of_classes = preds.ndim > 1 and preds.shape[1] > 1
        if not of_classes or y.shape != preds.shape[:1] + preds.shape[2:] or y.is_floating_point():
            way_out = "for a regression use Learner without it, for two classes by one output a function (preds, y)"
            if preds.ndim > 2 and y.shape == preds.shape[:-1]:
                way_out = "the classes are the second dimension, so give a function of preds.movedim(-1, 1) and y"
            raise ValueError(
                "accuracy compares scores (N, classes), of 2 classes or more, with class numbers (N,); got "
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
        TypeError: likewise, where it returns None.

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

    @property
    def gathers(self) -> bool:
        """Whether what it keeps is in lists, of which ranks have to have some each: those of torchmetrics."""
        parts = self._metric.modules() if isinstance(self._metric, torch.nn.Module) else ()
        return any(isinstance(state, list) for part in parts for state in getattr(part, "_defaults", {}).values())

    def compute(self) -> Any:
        """What the object computes; a tensor of one number as a number."""
        value = self._metric.compute()
        return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
