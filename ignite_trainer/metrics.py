"""Exact means over an epoch: Ignite metrics for loss, accuracy and functions of a batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from ignite.metrics import EpochMetric, MeanAveragePrecision, Metric, ObjectDetectionAvgPrecisionRecall, RunningAverage
from ignite.metrics.regression.geometric_mean_relative_absolute_error import GeometricMeanRelativeAbsoluteError
from torch import Tensor

from .distributed import sum_float64
from .steps import Size, first_dimension

__all__ = [
    "Accuracy",
    "BatchMean",
    "Loss",
    "UpdatedMetric",
    "accuracy",
    "attach_metrics",
    "check_for_ranks",
    "is_foreign",
    "metrics_from",
]


_AS_ARRAYS = frozenset((torch.float32, torch.float64))


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


_GATHERING = (
    EpochMetric,
    GeometricMeanRelativeAbsoluteError,
    MeanAveragePrecision,
    ObjectDetectionAvgPrecisionRecall,
    RunningAverage,
)


class _Mean:
    """Σ value·n / Σ n in float64: on the host for values on the CPU, else on their device, read once, at the end."""

    def __init__(self) -> None:
        self.total: float | Tensor = 0.0
        self.n: int | float | Tensor = 0

    def add(self, value: Tensor, n: int | Tensor) -> None:
        if value.is_cpu:  # there is no device to wait for: 0.3 µs, where tensors take 3
            n = n.item() if isinstance(n, Tensor) else n  # type: ignore[assignment]
            if n:  # a batch of ignored labels alone has NaN for its loss
                self.total += value.item() * n
        else:
            weighted = value.detach().double() * n
            self.total += torch.where(n > 0, weighted, 0.0) if isinstance(n, Tensor) else weighted
        self.n += n

    def state(self) -> list[Any]:
        """What was added so far, as plain data."""
        return [self.total, self.n]

    def load(self, state: list[Any], device: torch.device) -> None:
        """Go on from a ``state``."""
        self.total, self.n = (part.to(device) if isinstance(part, Tensor) else part for part in state)

    def sums(self) -> tuple[float, float]:
        """Σ value·n and Σ n as numbers; waits for the device."""
        if isinstance(self.total, Tensor):
            n = torch.as_tensor(self.n, dtype=torch.float64, device=self.total.device)
            total, count = torch.stack((self.total, n)).tolist()
            return total, count
        return self.total, float(self.n)


class _Share(Metric):
    """A metric that is one sum divided by another, over all ranks once ``share_sums`` has added them up."""

    def reset(self) -> None:
        """Forget all batches."""
        self.of_all_ranks: tuple[float, float] | None = None

    def sums(self) -> tuple[float, float]:
        """What this rank has added up."""
        raise NotImplementedError

    def compute(self) -> float:
        """The mean so far, NaN where nothing was added; waits for the device."""
        total, n = self.of_all_ranks or self.sums()
        return total / n if n else math.nan


class Loss(_Share):
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

    def __init__(self, size: Size = first_dimension):
        self.size = size
        super().__init__()

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._mean = _Mean()

    def update(self, output: tuple[Tensor, int | Tensor]) -> None:
        """Add a batch: its mean loss, a 0-d tensor, and how many samples that stands for."""
        self._mean.add(*output)

    def sums(self) -> tuple[float, float]:
        """Σ loss·n and Σ n."""
        return self._mean.sums()

    def state(self) -> list[Any]:
        """The sums so far, as plain data."""
        return self._mean.state()

    def load(self, state: list[Any], device: torch.device) -> None:
        """Go on from a ``state``, on this device."""
        self._mean.load(state, device)

    def iteration_completed(self, engine: Engine) -> None:
        """Take the loss of the batch that an engine of this package has just done."""
        loop = engine.loop  # type: ignore[attr-defined]
        self._mean.add(loop.loss, self.size(loop.preds, engine.state.batch[1]))  # type: ignore[index]


class Accuracy(_Share):
    """The share of samples whose largest prediction is at the label, counted in integers: exact.

    ``update`` takes ``(preds, y)``: scores (N, classes, ...) and class numbers (N, ...). NaN where no batch was seen.

    Raises:
        ValueError: on ``update``, where y are no class numbers that fit the predictions.

    >>> metric = Accuracy()
    >>> metric.update((torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), torch.tensor([1, 1, 1])))
    >>> metric.compute() == 2 / 3
    True
    """

    def __init__(self) -> None:
        super().__init__()

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._correct: int | Tensor = 0
        self._n = 0

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Add a batch ``(preds, y)``."""
        preds, y = output
        on_host = preds.is_cpu and y.is_cpu and preds.dtype in _AS_ARRAYS and not y.dtype.is_floating_point
        if on_host and preds.ndim == 2:  # 2.3 µs for 32 rows, not 7
            scores = preds.detach() if preds.requires_grad else preds
            best, labels = scores.numpy().argmax(axis=1), y.numpy()
            if best.shape != labels.shape:
                self.check(preds, y)
            self._correct += (best == labels).tobytes().count(True)
        else:  # nothing waits for a device
            self.check(preds, y)
            self._correct = self._correct + (preds.argmax(dim=1) == y).sum()
        self._n += y.numel()

    @staticmethod
    def check(preds: Tensor, y: Tensor) -> None:
        """Raise where y are no class numbers that fit the predictions."""
        if preds.ndim < 2 or y.shape != preds.shape[:1] + preds.shape[2:] or y.is_floating_point():
            raise ValueError(
                "accuracy compares scores (N, classes) with class numbers (N,); got "
                f"{tuple(preds.shape)} and {tuple(y.shape)} of {y.dtype}: for a regression use Learner without it, for "
                "two classes by one output a function (preds, y)"
            )

    def sums(self) -> tuple[float, float]:
        """The right ones and all: whole numbers, which float64 holds exactly up to 2**53."""
        return float(self._correct), float(self._n)

    def iteration_completed(self, engine: Engine) -> None:
        """Take the output ``(preds, y)`` of an evaluator."""
        self.update(engine.state.output)  # type: ignore[arg-type]


class BatchMean(_Share):
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
        self._function = function
        super().__init__()

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._mean = _Mean()

    def update(self, output: tuple[Any, Any]) -> None:
        """Add a batch ``(preds, y)``."""
        preds, y = output
        value = torch.as_tensor(self._function(preds, y))
        if value.numel() != 1:
            raise ValueError(
                f"a metric function gives its mean over the batch, one number; got a tensor of shape "
                f"{tuple(value.shape)}: take its mean"
            )
        self._mean.add(value.reshape(()), first_dimension(preds, y))

    def sums(self) -> tuple[float, float]:
        """Σ value·n and Σ n."""
        return self._mean.sums()

    def iteration_completed(self, engine: Engine) -> None:
        """Take the output ``(preds, y)`` of an evaluator."""
        self.update(engine.state.output)  # type: ignore[arg-type]


class UpdatedMetric(Metric):
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

    def iteration_completed(self, engine: Engine) -> None:
        """Take the output ``(preds, y)`` of an evaluator."""
        self.update(engine.state.output)  # type: ignore[arg-type]


def metrics_from(metrics: Mapping[str, Any] | None) -> dict[str, Metric]:
    """Metrics by name as Ignite metrics.

    Args:
        metrics: a name → an Ignite metric, an object with ``update``, ``compute`` and ``reset`` as in torchmetrics (of
            both a copy is used), or a plain function (preds, y) → mean over the batch. The package's own ``accuracy``
            is counted exactly, by ``Accuracy``. None: no metrics.

    Raises:
        TypeError: no mapping; a value is neither, or a running average of a metric, which is computed at each batch.
        ValueError: a metric is called "loss".
    """
    has_items = hasattr(metrics, "items") and not isinstance(metrics, type)  # torchmetrics' collection is no Mapping
    if metrics is not None and not has_items:
        raise TypeError(f"metrics is a dict, name → metric; got {metrics!r}")
    result: dict[str, Metric] = {}
    for name, metric in (metrics or {}).items():
        if name == "loss":
            raise ValueError("'loss' is the name of the loss itself; give the metric another")
        if metric is accuracy:
            result[name] = Accuracy()
        elif isinstance(metric, RunningAverage) and isinstance(metric.src, Metric):
            raise TypeError(
                f"a metric is computed once an evaluation; {name!r}, Ignite's RunningAverage of a metric, is computed "
                "at each batch: attach it with attach(learn.evaluator, name), or give the metric itself"
            )
        elif isinstance(metric, Metric):
            result[name] = copy.deepcopy(metric)
        elif not isinstance(metric, type) and all(hasattr(metric, part) for part in ("update", "compute", "reset")):
            result[name] = UpdatedMetric(copy.deepcopy(metric))
        elif callable(metric) and not isinstance(metric, type):
            result[name] = BatchMean(metric)
        else:
            raise TypeError(
                f"a metric is a function (preds, y), an Ignite Metric or one of torchmetrics; {name!r} is {metric!r}"
                + (": make an instance of it" if isinstance(metric, type) else "")
            )
    return result


def check_for_ranks(metrics: Mapping[str, Metric]) -> None:
    """Refuse metrics that gather what each rank saw, or reduce at each batch, where ranks have unequal shares.

    Raises:
        TypeError: one of Ignite's that does so.
    """
    for name, metric in metrics.items():
        if isinstance(metric, _GATHERING):
            raise TypeError(
                f"a metric on several ranks adds up sums; {name!r}, Ignite's {type(metric).__name__}, gathers batches "
                "of equal number and size: compute it from learn.predict, or evaluate in one process"
            )


def is_foreign(metric: Metric) -> bool:
    """Whether a metric is Ignite's own or a user's, which adds up its ranks itself."""
    return not isinstance(metric, (_Share, UpdatedMetric))


def attach_metrics(engine: Engine, metrics: Mapping[str, Metric], *, several_ranks: bool) -> None:
    """Attach metrics to an engine's epochs; on several ranks those of this package take one reduction together."""
    if several_ranks:
        ours = [metric for metric in metrics.values() if isinstance(metric, _Share)]
        engine.add_event_handler(Events.EPOCH_COMPLETED, _share_sums, ours)
    for name, metric in metrics.items():
        _attach_metric(engine, name, metric)


def _share_sums(metrics: list[_Share]) -> None:
    sums = torch.tensor([metric.sums() for metric in metrics], dtype=torch.float64)
    for metric, (total, n) in zip(metrics, sum_float64(sums).tolist(), strict=True):
        metric.of_all_ranks = total, n


def _attach_metric(engine: Engine, name: str, metric: Metric) -> None:
    """Attach a metric to an engine's epochs; without a single batch its value is NaN instead of an error.

    An exception gets a note of the metric's name, but for the updates of ``Loss`` and ``Accuracy``.

    Raises:
        TypeError: at an epoch's end: the metric has computed something else than one number.
    """

    def update(engine: Any) -> None:
        try:
            metric.iteration_completed(engine)
        except Exception as error:
            engine.annotate(error, f"the metric {name!r}")
            raise

    def completed(engine: Any) -> None:
        try:
            metric.completed(engine, name)
        except NotComputableError:
            engine.state.metrics[name] = math.nan
        except Exception as error:
            engine.annotate(error, f"the metric {name!r}")
            raise
        value = engine.state.metrics[name]
        if isinstance(value, Real) and hasattr(value, "item"):  # NumPy's: the history and checkpoints are plain data
            engine.state.metrics[name] = value.item()
        if not isinstance(value, Real):
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise TypeError(
                f"a metric is one number an epoch; {name!r} computed a {type(value).__name__}{shape}: have it "
                "averaged, or give a metric for each number"
            )

    engine.add_event_handler(Events.EPOCH_STARTED, metric.started)
    counted_here = type(metric) in (Loss, Accuracy)  # these two without a frame more for each batch
    engine.add_event_handler(Events.ITERATION_COMPLETED, metric.iteration_completed if counted_here else update)
    engine.add_event_handler(Events.EPOCH_COMPLETED, completed)
