"""What an engine calls at its events: handlers and callbacks in their order, and what a cancel skips of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from ignite.engine import Events

from .events import POINTS, Scope

__all__ = ["Call", "HandlerCalls", "always", "name_of", "unfiltered"]

_SCOPES: dict[Any, Scope] = {row.event: row.scope for row in POINTS.values() if row.event is not None} | {
    Events.GET_BATCH_STARTED: Scope.EPOCH,
    Events.GET_BATCH_COMPLETED: Scope.BATCH,
    Events.DATALOADER_STOP_ITERATION: Scope.EPOCH,
}


class always:  # noqa: N801  reads as a word: add_event_handler(event, always(handler))
    """A handler that runs even where a cancel skips the other handlers of its event; it may not cancel itself.

    After a cancel in a batch its ITERATION_COMPLETED is still fired, for such handlers only. After a cancelled epoch or
    fit, EPOCH_COMPLETED or COMPLETED is not fired at all.

    >>> from torch import nn
    >>> from ignite_trainer import create_evaluator
    >>> evaluator = create_evaluator(nn.Identity(), nn.MSELoss())
    >>> handle = evaluator.add_event_handler(Events.EPOCH_COMPLETED, always(lambda: print("it is over")))
    """

    def __init__(self, handler: Callable[..., Any]):
        self.handler = handler


class Call(NamedTuple):
    """A handler as it is called at its event; ``scope`` is the event's, 0 for one that nothing skips."""

    handler: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    scope: int
    takes_engine: bool


class HandlerCalls:
    """The calls of one engine by event. What is attached before the callbacks' points is the learner's own.

    Args:
        training: a trainer's; False: an evaluator's, whose whole run is one epoch.

    Attributes:
        at: name of an event → its calls, in order.
    """

    def __init__(self, *, training: bool):
        self.training = training
        self.at: dict[str, list[Call]] = defaultdict(list)
        self._with_last: set[str] = set()  # events of which one call stays behind all others
        self._dispatchers: dict[str, tuple[int, Call]] = {}  # by event: the call of the callbacks, and its place
        self._points: frozenset[str] | None = None  # at which there are callbacks; None: nobody has said so yet
        self._with_callbacks: frozenset[str] = frozenset()  # their events

    def scope_of(self, event: Any) -> Scope:
        """What an event is part of, and so which cancels skip its handlers."""
        scope = _SCOPES.get(event, Scope.FIT)
        return scope if self.training else min(scope, Scope.EPOCH)

    def add(self, event: Any, call: Call) -> None:
        """Append a call to an event; if the event is being fired, it is called this time already."""
        calls = self.at[name_of(event)]
        calls.insert(len(calls) - (name_of(event) in self._with_last), call)

    def add_last(self, event: Any, call: Call) -> None:
        """Call it after all that is there, and all that is attached later."""
        self.add(event, call)
        self._with_last.add(name_of(event))

    def add_dispatcher(self, event: Any, call: Call) -> None:
        """Append the call of the callbacks; what is attached later is the users'."""
        self._dispatchers[name_of(event)] = len(self.at[name_of(event)]), call
        self.add(event, call)

    def remove(self, event: Any, handler: Any) -> None:
        """Remove a handler; if its event is being fired, from the next time on, as the list in use stays as it is."""
        name = name_of(event)
        self.at[name] = [call for call in self.at[name] if unfiltered(call.handler) != unfiltered(handler)]

    def natives(self, event: Any) -> list[Any]:
        """The users' handlers of an event, in their order."""
        name = name_of(event)
        place, dispatcher = self._dispatchers.get(name, (0, None))
        calls = self.at[name][place:]
        return [unfiltered(call.handler) for call in calls if call.scope and call is not dispatcher]

    def listen_for(self, points: frozenset[str]) -> bool:
        """Say at which points there are callbacks: where there are none, nothing is called for each batch.

        Returns:
            whether they are others than before.
        """
        if points == self._points:
            return False
        self._points = points
        self._with_callbacks = frozenset(name_of(POINTS[point].event) for point in points if POINTS[point].event)
        for name in (Events.ITERATION_STARTED.name, Events.ITERATION_COMPLETED.name):
            place, dispatcher = self._dispatchers[name]
            calls = self.at[name]
            attached = calls[place : place + 1] == [dispatcher]
            if attached and name not in self._with_callbacks:
                del calls[place]
            elif not attached and name in self._with_callbacks:
                calls.insert(place, dispatcher)
        return True

    def heard(self, event: Any) -> bool:
        """Whether there is a callback or a user's handler at an event."""
        return name_of(event) in self._with_callbacks or bool(self.natives(event))


def name_of(event: Any) -> str:
    """What Ignite tells events apart by."""
    return event if isinstance(event, str) else str(event._name_)


def unfiltered(handler: Any) -> Any:
    """The user's handler, also inside the wrapper of a filter, which knows of a method only weakly."""
    return handler.__wrapped__ if hasattr(handler, "_parent") else handler
