"""The one table of callback points, the events of a step, and the three exceptions that cancel."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, NamedTuple

from ignite.engine import EventEnum, Events

__all__ = [
    "POINTS",
    "CancelBatchException",
    "CancelEpochException",
    "CancelException",
    "CancelFitException",
    "Point",
    "Scope",
    "TrainEvents",
]


class TrainEvents(EventEnum):
    """The events inside a step, and the end of an epoch with its validation.

    They are registered on the trainer and the evaluator, beside Ignite's own ``Events``.

    >>> TrainEvents.LOSS_COMPUTED.value
    'loss_computed'
    """

    PREDICTED = "predicted"
    LOSS_COMPUTED = "loss_computed"
    BACKWARD_COMPLETED = "backward_completed"
    STEPPED = "stepped"
    VALIDATED = "validated"


class Scope(IntEnum):
    """What an event is part of, narrow to wide; a cancel of one scope silences its events and all narrower ones."""

    BATCH = 1
    EPOCH = 2
    FIT = 3


class Point(NamedTuple):
    """One row of the table: where the engines meet the callbacks.

    Args:
        event: the Ignite event that the point is; None for ``cleanup_fit``, which is called in ``finally``.
        scope: what the event is part of, and so which cancels are caught there: this scope's and wider ones.
        evaluator: whether it fires on the evaluator too, and not on the trainer alone.
    """

    event: EventEnum | None
    scope: Scope
    evaluator: bool


POINTS: dict[str, Point] = {
    "before_fit": Point(Events.STARTED, Scope.FIT, False),
    "before_epoch": Point(Events.EPOCH_STARTED, Scope.EPOCH, True),
    "before_batch": Point(Events.ITERATION_STARTED, Scope.BATCH, True),
    "after_predict": Point(TrainEvents.PREDICTED, Scope.BATCH, True),
    "after_loss": Point(TrainEvents.LOSS_COMPUTED, Scope.BATCH, True),
    "after_backward": Point(TrainEvents.BACKWARD_COMPLETED, Scope.BATCH, False),
    "after_step": Point(TrainEvents.STEPPED, Scope.BATCH, False),  # after step, before zero_grad
    "after_batch": Point(Events.ITERATION_COMPLETED, Scope.BATCH, True),
    "after_epoch": Point(Events.EPOCH_COMPLETED, Scope.EPOCH, True),
    "after_validate": Point(TrainEvents.VALIDATED, Scope.FIT, False),
    "after_fit": Point(Events.COMPLETED, Scope.FIT, False),
    "cleanup_fit": Point(None, Scope.FIT, False),
}
"""All points of callbacks, in the order in which a fit reaches them. Source: fastai's points, Ignite's events."""


class CancelException(Exception):
    """The base class of the three cancel exceptions; raise one of those."""

    scope: ClassVar[Scope]


class CancelBatchException(CancelException):
    """Skip the rest of this batch: its remaining callbacks and handlers, backward, step, ``after_batch``.

    Raised after the backward, it leaves the batch's gradients to be added to the next batch's, as in the loop written
    by hand; call ``learn.opt.zero_grad()`` first to drop them. With ``accumulate`` or on several ranks they are dropped
    in any case.

    >>> import torch
    >>> from ignite_trainer import Callback, CancelBatchException, Learner
    >>> class Skip(Callback):
    ...     def before_batch(self, learn):
    ...         if not len(learn.batch[1]):
    ...             raise CancelBatchException
    >>> sizes = [4, 0, 4]
    >>> data = [(torch.ones(n, 2), torch.ones(n, 1)) for n in sizes]
    >>> learn = Learner(torch.nn.Linear(2, 1), (data, None), torch.nn.MSELoss(), 0.1, [Skip()], device="cpu")
    >>> results = learn.fit(1)
    >>> learn.step
    2
    """

    scope = Scope.BATCH


class CancelEpochException(CancelException):
    """Skip the rest of this phase's epoch and its ``after_epoch``; validation still follows a training phase.

    >>> import torch
    >>> from ignite.engine import Events
    >>> from ignite_trainer import CancelEpochException, Learner
    >>> data = [(torch.ones(4, 2), torch.ones(4, 1))] * 5
    >>> learn = Learner(torch.nn.Linear(2, 1), (data, None), torch.nn.MSELoss(), 0.1, device="cpu")
    >>> @learn.trainer.on(Events.ITERATION_COMPLETED)
    ... def two_batches_are_enough():
    ...     if learn.iter == 1:
    ...         raise CancelEpochException
    >>> results = learn.fit(3)
    >>> learn.step
    6
    """

    scope = Scope.EPOCH


class CancelFitException(CancelException):
    """Skip all that remains of the fit, ``after_fit`` too; ``fit`` returns as usual.

    >>> import torch
    >>> from ignite_trainer import Callback, CancelFitException, Learner
    >>> class ThreeSteps(Callback):
    ...     def after_step(self, learn):
    ...         if learn.step == 3:
    ...             raise CancelFitException
    >>> data = [(torch.ones(4, 2), torch.ones(4, 1))] * 5
    >>> learn = Learner(torch.nn.Linear(2, 1), (data, None), torch.nn.MSELoss(), 0.1, [ThreeSteps()], device="cpu")
    >>> learn.fit(3), learn.step
    ({}, 3)
    """

    scope = Scope.FIT
