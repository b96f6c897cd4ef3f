"""Callbacks: the base class, and how a list of them is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from types import FunctionType
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from .arguments import is_number, takes
from .events import POINTS, CancelException
from .learner_like import LearnerLike
from .user_warnings import warn_user

__all__ = ["Callback", "Dispatcher", "has_point", "in_order", "run_cbs", "warn_of_uncalled"]

_OF_OTHERS = re.compile(
    r"on_\w+_(begin|start|end)"  # Keras, Lightning, HF Trainer
    r"|before_validate|after_(pred|create|cancel_\w+)"  # fastai, but for names that one gives to points of one's own
)


class Callback:
    """Base class of callbacks: a method named after a point of ``POINTS`` is called at that point of a fit.

    A method takes the learner, ``def after_batch(self, learn)``, and may assign ``learn.batch``, ``learn.preds`` and
    ``learn.loss``; ``cleanup_fit(self, learn, error)`` is called however a fit ends, with the exception or None.
    Points that the evaluator has too, such as ``before_batch`` and ``after_epoch``, are called in training and in
    validation: ``learn.engine.training`` tells which. Callbacks run sorted by ``order``, then by their place in
    ``learn.cbs``. This base class is a convenience: any object with such methods works.

    Raises:
        TypeError: when the class is defined, for a method that is one slip away from a point.

    Source: fastai's Callback (course22p2 miniai).

    >>> class Bad(Callback):
    ...     def after_bacth(self, learn): ...
    Traceback (most recent call last):
    TypeError: Bad.after_bacth is not a callback point; did you mean after_batch?
    """

    order: int = 0
    _points_left_out: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if name.startswith("_") or name in POINTS or not callable(value):
                continue
            for point in get_close_matches(name, POINTS, n=1, cutoff=0.86):
                raise TypeError(f"{cls.__name__}.{name} is not a callback point; did you mean {point}?")

    def _leave_out(self, *points: str) -> None:
        """Stop calling this package's own methods at these points, as each call costs something for each batch.

        A method that a subclass defines there is still called.
        """
        owners = {point: next(kind for kind in type(self).__mro__ if point in vars(kind)) for point in points}
        ours = {point for point, owner in owners.items() if owner.__module__.startswith(f"{__package__}.")}
        self._points_left_out = self._points_left_out | ours


def in_order(cbs: Iterable[Any]) -> list[Any]:
    """The callbacks, and those that they bring along (``brings``), by ``order`` (0 for none), ties by their place."""
    cbs = list(cbs)
    for cb in cbs:
        if isinstance(cb, type):
            raise TypeError(f"a callback is an object; got the class {cb.__name__}: make an instance of it")
        if not is_number(getattr(cb, "order", 0)):
            raise TypeError(
                f"a callback's order is a number, by which they are sorted; {type(cb).__name__} has {cb.order!r}"
            )
    return sorted(
        [*cbs, *(other for cb in cbs for other in getattr(cb, "brings", ()))], key=lambda cb: getattr(cb, "order", 0)
    )


def run_cbs(cbs: Iterable[Any], method_name: str, learn: Any = None) -> None:
    """Call a method on every callback that has it, sorted by ``order``, then by place.

    Args:
        cbs: the callbacks, any objects; those without the method are passed by.
        method_name: a point of ``POINTS`` or any name of one's own.
        learn: what the methods are given.

    >>> class Hello:
    ...     def __init__(self, order): self.order = order
    ...     def before_fit(self, learn): print("hello from", self.order)
    >>> run_cbs([Hello(2), Hello(1)], "before_fit")
    hello from 1
    hello from 2
    """
    for cb in in_order(cbs):
        if has_point(cb, method_name):
            getattr(cb, method_name)(learn)


class Dispatcher:
    """Calls a learner's callbacks at the points of its engines: who has which method is found once, before a run.

    Args:
        learn: the Learner.
        also: engine → points at which something else listens.
    """

    def __init__(self, learn: LearnerLike, also: Callable[[Any], set[str]]):
        self.learn, self.also = learn, also
        self.methods: dict[str, list[tuple[Any, Callable[[Any], None]]]] = {}

    def gather(self, *, in_fit: bool = False) -> None:
        """Find which callback has a method at which point, in order.

        Args:
            in_fit: for a fit; else ``before_fit`` and ``after_fit`` are called on nobody.

        Raises:
            TypeError: a function among them, or a method that does not take the learner.

        Warns:
            UserWarning: one that has the hooks of another framework, and none of ours.
        """
        cbs = in_order(self.learn.cbs)
        for cb in cbs:
            _check_callback(cb)
        self.methods = {name: [(cb, getattr(cb, name)) for cb in cbs if has_point(cb, name)] for name in POINTS}
        if not in_fit:
            self.methods |= {"before_fit": [], "after_fit": []}
        for engine in (self.learn.trainer, self.learn.evaluator):
            self.listen(engine)

    def listen(self, engine: Any) -> None:
        """Tell an engine at which points somebody listens; it is silent at the others."""
        engine.listen_for({name for name, methods in self.methods.items() if methods} | self.also(engine))

    def __call__(self, point: str) -> None:
        """Call them at a point; an exception gets a note of who raised it."""
        request: CancelException | None = None
        for cb, method in self.methods[point]:
            try:
                method(self.learn)
            except CancelException as cancel:
                if self.learn.ranks is None or point != "after_step":
                    raise
                # the weights have moved on all ranks, and with them schedules and averages have to
                request = cancel if request is None or cancel.scope > request.scope else request
            except Exception as error:
                self.learn.engine.annotate(error, f"{type(cb).__name__}.{point}")
                raise
        if request is not None:
            raise request


def warn_of_uncalled(cbs: Iterable[Any], called: set[str]) -> None:
    """After an epoch of a user's own step, warn of callbacks that have waited for points which ``TrainStep`` calls.

    Args:
        cbs: the callbacks.
        called: the points that the step has called itself.

    Warns:
        UserWarning: a callback that has nothing else to do for a batch.
    """
    for cb in cbs:
        unheard = [point for point in ("after_backward", "after_step") if has_point(cb, point) and point not in called]
        if unheard and not has_point(cb, "after_batch"):
            warn_user(
                f"points within TrainStep are not called by a step of one's own; {type(cb).__name__} has waited for "
                f"{' and '.join(unheard)}: have the step call learn.callback({unheard[-1]!r})"
            )


def has_point(cb: Any, name: str) -> bool:
    """Whether a callback is called at a point: it has something there, not None, and does not leave it out."""
    left_out = name in getattr(cb, "_points_left_out", ()) and name not in vars(cb)
    return getattr(cb, name, None) is not None and not left_out


def _refuse_what_goes_elsewhere(cb: Any) -> None:
    """Refuse things that a fit would never call; an object whose only points are custom ones is let through."""
    kind = type(cb)
    if isinstance(cb, LRScheduler):
        raise TypeError(
            f"a callback is an object with methods named after points; got the scheduler {kind.__name__}: give "
            f"Schedule(lambda opt: {kind.__name__}(opt, ...))"
        )
    if kind.__module__.partition(".")[0] == "ignite":
        raise TypeError(
            f"a callback is an object with methods named after points; got Ignite's {kind.__name__}: attach it to "
            "learn.trainer or learn.evaluator"
        )
    if kind.__module__ == "builtins":
        raise TypeError(f"a callback is an object with methods named after points; got {cb!r}: leave it out")


def _check_callback(cb: Any) -> None:
    if isinstance(cb, FunctionType):
        raise TypeError(
            f"a callback is an object with methods named after points; got the function {cb.__name__}: attach "
            "it with learn.trainer.add_event_handler(event, function)"
        )
    points = [name for name in POINTS if has_point(cb, name)]
    if not points:
        _refuse_what_goes_elsewhere(cb)
        hook = next(filter(_OF_OTHERS.fullmatch, dir(cb)), None)
        if hook is not None:
            warn_user(
                f"a callback is called at the points that it has methods of, {', '.join(POINTS)}; "
                f"{type(cb).__name__} has none of them, and a fit calls no {hook}"
            )
    for name in points:
        arguments = ("learn", "error") if name == "cleanup_fit" else ("learn",)
        if not takes(getattr(cb, name), *arguments):
            raise TypeError(
                f"a callback's {name} is called with {' and '.join(arguments)}; that of {type(cb).__name__} does not "
                f"take so many: def {name}(self, {', '.join(arguments)})"
            )
