"""The two engines by themselves, for people who attach Ignite handlers of their own and need no learner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Events
from torch import nn

from .arguments import check_parts
from .engines import CancellableEngine, always
from .gradients import check_gradient_options, window_for
from .loss_size import loss_size_of
from .optim import check_optimizer
from .steps import EvalStep, Loop, Prepare, Step, TrainStep, autocast_for, preparation

__all__ = ["create_evaluator", "create_trainer"]


def create_trainer(
    model: nn.Module,
    optimizer: Any,
    loss_fn: Any,
    *,
    device: Any = None,
    prepare_batch: Callable[[Any], Any] | None = None,
    precision: str = "fp32",
    accumulate: int = 1,
    clip_norm: float | None = None,
) -> CancellableEngine:
    """An engine that trains a model, for people with Ignite handlers of their own and no learner.

    Like ``ignite.engine.create_supervised_trainer``, but its handlers may cancel, ``TrainEvents`` are fired, steps over
    several batches (``accumulate``) are exact, and the model is put into training mode where it is not in it: at an
    epoch's start, and after an evaluation within one. ``state.output`` is the detached loss.

    Args:
        model: moved to ``device``.
        optimizer: anything with ``step`` and ``zero_grad``.
        loss_fn: (preds, y) → a 0-d tensor.
        device: None leaves the model and the batches where they are.
        prepare_batch: a batch of the loader → ``(x, y)``; None: it is that pair.
        precision, accumulate, clip_norm: as for ``Learner``.

    Raises:
        TypeError: a part that is a class, or stands in another's place.

    Warns:
        UserWarning: a loss that sums over the batch.

    >>> model = nn.Linear(2, 1)
    >>> trainer = create_trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    >>> trainer.run([(torch.ones(4, 2), torch.ones(4, 1))] * 3, max_epochs=2).iteration
    6
    """
    check_parts(model, loss_fn, None, [], call="create_trainer(model, optimizer, loss_fn)")
    check_optimizer(optimizer, "make one of it, optim.SGD(model.parameters(), lr=0.1)")
    check_gradient_options(accumulate, clip_norm)
    place = _device_of(model, device)
    window = window_for(place, loss_size_of(loss_fn), precision=precision, accumulate=accumulate, clip_norm=clip_norm)
    step = TrainStep(_preparation(device, prepare_batch), autocast_for(precision, place), window)
    return _create_engine(Loop(model, loss_fn, optimizer), step, device, training=True)


def create_evaluator(
    model: nn.Module,
    loss_fn: Any,
    *,
    device: Any = None,
    prepare_batch: Callable[[Any], Any] | None = None,
    precision: str = "fp32",
) -> CancellableEngine:
    """An engine that evaluates a model without gradients; ``state.output`` is ``(preds, y)``, as Ignite's metrics want.

    Args:
        model: moved to ``device``; put into eval mode at each epoch's start, and left so.
        loss_fn: (preds, y) → a 0-d tensor.
        device: None leaves the model and the batches where they are.
        prepare_batch: a batch of the loader → ``(x, y)``; None: it is that pair.
        precision: as for ``Learner``.

    Raises:
        TypeError: a part that is a class, or stands in another's place.

    >>> from ignite.metrics import MeanSquaredError
    >>> evaluator = create_evaluator(nn.Identity(), nn.MSELoss())
    >>> MeanSquaredError().attach(evaluator, "mse")
    >>> evaluator.run([(torch.zeros(4, 1), torch.ones(4, 1))]).metrics["mse"]
    1.0
    """
    check_parts(model, loss_fn, None, [], call="create_evaluator(model, loss_fn)")
    autocast = autocast_for(precision, _device_of(model, device))
    step = EvalStep(_preparation(device, prepare_batch), autocast)
    return _create_engine(Loop(model, loss_fn), step, device, training=False)


def _device_of(model: nn.Module, device: Any) -> torch.device:
    """Where the model computes: on the device that is asked for, else where it lies."""
    if device is not None:
        return torch.device(device)
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _preparation(device: Any, prepare_batch: Callable[[Any], Any] | None) -> Prepare:
    return preparation(torch.device(device or "cpu"), prepare_batch)  # for the CPU nothing is moved


def _create_engine(loop: Loop, step: Step, device: Any, *, training: bool) -> CancellableEngine:
    if device is not None:
        loop.model.to(device)
    engine = loop.engine = CancellableEngine(step, loop, training=training)
    engine.add_event_handler(Events.EPOCH_STARTED, always(lambda: loop.model.train(training)))
    if training:

        def train_again() -> None:
            if not loop.model.training:
                loop.model.train()

        engine.add_event_handler(Events.ITERATION_STARTED, always(train_again))
    return engine
