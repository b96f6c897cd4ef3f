"""The metrics of a learner, by name: made of what users give, and attached to its engines."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from ignite.metrics import (
    EpochMetric,
    MeanAveragePrecision,
    Metric,
    MetricsLambda,
    ObjectDetectionAvgPrecisionRecall,
    RunningAverage,
)
from ignite.metrics.regression.geometric_mean_relative_absolute_error import GeometricMeanRelativeAbsoluteError
from torch import Tensor

from .collectives import sum_float64
from .engines import CancellableEngine, always
from .means import Ratio
from .metrics import Accuracy, BatchMean, Loss, UpdatedMetric, accuracy

__all__ = ["attach_metrics", "check_for_ranks", "metrics_from", "needs_a_batch"]

_GATHERING = (
    EpochMetric,
    GeometricMeanRelativeAbsoluteError,
    MeanAveragePrecision,
    ObjectDetectionAvgPrecisionRecall,
    RunningAverage,
)


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
        if not isinstance(name, str):
            raise TypeError(f"metrics is a dict, name → metric, and a name is a string; got {name!r}")
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
        gathering = [part for part in _parts_of(metric) if isinstance(part, _GATHERING)]
        if gathering:
            raise TypeError(
                f"a metric on several ranks adds up sums; {name!r}, Ignite's {type(gathering[0]).__name__}, gathers "
                "batches of equal number and size: compute it from learn.predict, or evaluate in one process"
            )


def _parts_of(metric: Metric) -> Iterator[Metric]:
    """A metric, and those that a ``MetricsLambda`` is made of."""
    yield metric
    if isinstance(metric, MetricsLambda):  # asked of others for their args, Ignite makes a function
        for part in metric.args:
            if isinstance(part, Metric):
                yield from _parts_of(part)


def needs_a_batch(metric: Metric) -> bool:
    """Whether a metric combines ranks itself, and each of them has to have seen a batch for that."""
    return metric.gathers if isinstance(metric, UpdatedMetric) else _is_foreign(metric)


def _is_foreign(metric: Metric) -> bool:
    """Whether a metric is Ignite's own or a user's, which adds up its ranks itself."""
    return not isinstance(metric, (Ratio, UpdatedMetric))


def attach_metrics(engine: CancellableEngine, metrics: Mapping[str, Metric], *, several_ranks: bool) -> None:
    """Attach metrics to an engine's epochs; on several ranks those of this package take one reduction together."""
    if several_ranks:
        ours = [metric for metric in metrics.values() if isinstance(metric, Ratio)]
        engine.add_event_handler(Events.EPOCH_COMPLETED, always(_share_sums), ours)  # a cancel may be this rank's alone
    for name, metric in metrics.items():
        _attach_metric(engine, name, metric)


def _share_sums(metrics: list[Ratio]) -> None:
    sums = torch.tensor([metric.sums() for metric in metrics], dtype=torch.float64)
    for metric, (total, n) in zip(metrics, sum_float64(sums).tolist(), strict=True):
        metric.of_all_ranks = total, n


def _attach_metric(engine: Engine, name: str, metric: Metric) -> None:
    """Attach a metric to an engine's epochs; without a single batch its value is NaN instead of an error.

    An exception gets a note of the metric's name and the event, but for the updates of ``Loss``, of ``Accuracy`` and of
    the parts of a ``MetricsLambda``.

    Raises:
        TypeError: at an epoch's end: the metric has computed something else than one number.
    """

    def update(engine: Any) -> None:
        try:
            metric.iteration_completed(engine)
        except Exception as error:
            engine.annotate(error, f"the metric {name!r} at {Events.ITERATION_COMPLETED.name}")
            raise

    def completed(engine: Any) -> None:
        try:
            metric.completed(engine, name)
            value = engine.state.metrics[name]
            if not isinstance(value, Real):
                shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
                by_itself = ", or attach it with attach(learn.evaluator, name)" if _is_foreign(metric) else ""
                raise TypeError(
                    f"a metric is one number an epoch; {name!r} computed a {type(value).__name__}{shape}: have it "
                    f"averaged, give a metric for each number{by_itself}"
                )
            if hasattr(value, "item"):  # NumPy's: the history and checkpoints are plain data
                engine.state.metrics[name] = value.item()
        except NotComputableError:
            engine.state.metrics[name] = math.nan
        except Exception as error:
            engine.annotate(error, f"the metric {name!r} at {Events.EPOCH_COMPLETED.name}")
            raise

    if isinstance(metric, MetricsLambda):  # its parts take the batches, each as it transforms them, and once
        metric.attach(engine, name)
        engine.remove_event_handler(metric.completed, Events.EPOCH_COMPLETED)
        engine.add_event_handler(Events.EPOCH_COMPLETED, completed)
        return
    engine.add_event_handler(Events.EPOCH_STARTED, metric.started)
    counted_here = type(metric) in (Loss, Accuracy)  # these two without a frame more for each batch
    engine.add_event_handler(Events.ITERATION_COMPLETED, metric.iteration_completed if counted_here else update)
    engine.add_event_handler(Events.EPOCH_COMPLETED, completed)
