"""The Ignite engine whose handlers may cancel the batch, the epoch or the fit.

All private names of Ignite that the package touches are in this file: ``_fire_event``, ``_compare_handlers``,
``_is_done``, ``_get_data_length``, ``_event_handlers``, ``_handle_exception``, ``_maybe_terminate_legacy``,
``_dataloader_iter`` (pinned by ``tests/test_engines.py``). The one exception is the mark of a filtered handler,
``_parent``, which ``handler_calls.py`` looks for.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from ignite.engine import Engine, Events, State
from ignite.engine.events import EventsList, RemovableEventHandle

from .epochs import Epochs, batches_of, check_loader
from .events import POINTS, CancelBatchException, CancelException, Scope, TrainEvents
from .handler_calls import Call, HandlerCalls, always, unfiltered
from .steps import Step, TrainStep

__all__ = ["CancellableEngine", "always"]

Handler = TypeVar("Handler", bound=Callable[..., Any])

_ITERATION_COMPLETED = Events.ITERATION_COMPLETED
_BATCH_TO_COME = (Events.GET_BATCH_COMPLETED, Events.ITERATION_STARTED)
_IN_STEP = tuple(event for event in TrainEvents if event is not TrainEvents.VALIDATED)


class _BatchOver(Exception):
    """A handler cancelled in the middle of a step: leave it."""


def _no_errors(record: logging.LogRecord) -> bool:
    return record.levelno != logging.ERROR


class CancellableEngine(Engine):
    """An Ignite ``Engine`` in which callbacks and handlers may cancel the batch, the epoch or the fit.

    It runs a step on each batch of a loader, epoch after epoch. When a handler raises a ``Cancel…Exception``, the
    engine catches it and calls no handlers for the rest of what was cancelled. An epoch ends when its loader does,
    whatever its length. A run that is left before its last epoch, by an exception too, is gone on with by the next
    ``run`` at the epoch that follows, as in Ignite after ``terminate``; ``state.max_epochs = None`` makes it a new one.

    Args:
        step: called with ``loop`` for each batch; what it returns is ``state.output``.
        loop: what the step works on: the learner, or a ``Loop``, whose ``engine`` has to be set to this engine.
        training: True for a trainer; False for an evaluator, whose run is one epoch without gradients.
        ranks: a ``Ranks`` where the run has several processes.

    Attributes:
        predicted, loss_computed, backward_completed, stepped: whether anyone listens to that event.
        place: index of the batch in this epoch, from 0; -1 before the first.
        cancelled: the ``Scope`` that was cancelled, 0 for none.
        widest: the widest scope that is running here; a cancel of a wider one escapes.
        around: a context manager for each run, called with the engine.
        before_loader: called with the loader just before an epoch's iterator is made; None: nothing is.
        opener: makes the next epoch's iterator in place of the loader, once; None: the loader makes it.
        partners: the engines that a cancelled fit ends.
        ranks: the other processes of the run, with which every ending is agreed on; None: there are none.
        wish: on several ranks, the scope that was cancelled here and that the others do not know of yet.

    Source: fastai's cancel exceptions, on Ignite's events.

    >>> from ignite_trainer.steps import Loop
    >>> loop = Loop(torch.nn.Identity(), torch.nn.MSELoss())
    >>> loop.engine = CancellableEngine(lambda loop: loop.batch * 2, loop, training=True)
    >>> @loop.engine.on(Events.ITERATION_STARTED)
    ... def without_negative_ones(engine):
    ...     if engine.state.batch < 0:
    ...         raise CancelBatchException
    >>> handle = loop.engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: print(loop.engine.state.output))
    >>> state = loop.engine.run([1, -2, 3], max_epochs=1)
    2
    6
    """

    interrupt_resume_enabled = False  # 0.5.5: a run after one that raised would return None, untrained
    predicted = loss_computed = backward_completed = stepped = False

    def __init__(self, step: Step, loop: Any, *, training: bool, ranks: Any = None):
        super().__init__(self._run_step if ranks is None or not training else self._run_step_of_ranks)
        self._handlers = HandlerCalls(training=training)
        self._calls = self._handlers.at
        self.logger = logging.getLogger("ignite_trainer.engine")
        self.logger.addFilter(_no_errors)  # 0.5.5 logs two ERROR lines for an exception that it then raises
        self.state: Any  # Ignite types state.batch and state.output as int
        self.step, self.loop, self.training, self.ranks, self.wish = step, loop, training, ranks, 0
        self.phase = "training" if training else "validation"
        self.place, self.cancelled, self.widest = -1, 0, Scope.FIT
        self.partners: tuple[CancellableEngine, ...] = (self,)
        self._request: CancelException | None = None
        self._ends_after_batch = self._has_told = False
        self._epochs: Epochs | None = None
        self.around: Callable[[CancellableEngine], AbstractContextManager[None]] = lambda engine: nullcontext()
        self.before_loader: Callable[[Any], None] | None = None
        self.opener: Callable[[Epochs], Iterator[Any]] | None = None
        counters = dict.fromkeys(_IN_STEP, "iteration") | {TrainEvents.VALIDATED: "epoch"}
        self.register_events(*TrainEvents, event_to_attr=counters)
        self.add_event_handler(Events.STARTED, always(self._begin_run))
        self.add_event_handler(Events.EPOCH_STARTED, always(self._begin_epoch))
        self.add_event_handler(Events.EPOCH_COMPLETED, always(self._finish_loader))
        self.add_event_handler(Events.TERMINATE_SINGLE_EPOCH, always(self._drop_loader))
        if isinstance(step, TrainStep) and step.window is not None:  # its windows end with the epochs
            self.add_event_handler(Events.EPOCH_STARTED, always(step.window.reset))
            self.add_event_handler(Events.EPOCH_COMPLETED, always(step.window.flush), loop)

    # ---- running -------------------------------------------------------------------------------------------------

    def run(
        self,
        data: Any = None,
        max_epochs: int | None = None,
        max_iters: int | None = None,
        epoch_length: int | None = None,
    ) -> State:
        """Ignite's ``run``; each epoch has as many batches as the loader gives, unless ``epoch_length`` is given.

        Args:
            data: an iterable of batches, with or without ``len``, or a function that returns one for each epoch.
            max_epochs: the number of epochs.
            max_iters: the number of batches in all, instead of ``max_epochs``.
            epoch_length: batches in an epoch; a loader that ends earlier is begun again, as in Ignite.

        Raises:
            TypeError: ``data`` cannot be iterated, or only once and there are several epochs.
            ValueError: ``data`` is empty, or gives more batches than its ``len`` says.
            RuntimeError: this engine is running already.
        """
        if self._epochs is not None:
            raise RuntimeError(f"an engine runs once at a time; this {self.phase} engine is in the middle of a run")
        if self.ranks is None:  # else it is looked at before it is shared out: a share may be empty
            check_loader(data, (max_epochs or 1) if epoch_length is None else 1, self.phase)
        self._has_told = False
        self._epochs = Epochs(self, data, whole=epoch_length is None and max_iters is None)
        if self._epochs.whole:
            self.state.epoch_length = None
        try:
            with torch.set_grad_enabled(self.training), self.around(self):
                return super().run(self._epochs, max_epochs=max_epochs, max_iters=max_iters, epoch_length=epoch_length)
        finally:
            self._epochs.batches = None  # state.dataloader keeps the rest, and this would keep the loader's workers
            self._epochs = None

    def _handle_exception(self, e: BaseException) -> None:
        """Tell the handlers of EXCEPTION_RAISED, once a run; then the exception goes on, unless they end the run.

        0.5.5 swallows it wherever there is such a handler, or was one, and goes on with the next epoch.
        """
        if self._has_told:
            raise e
        self._has_told, had_ended = True, self.should_terminate
        self._fire_event(Events.EXCEPTION_RAISED, e)
        if had_ended or not self.should_terminate:
            raise e
        self.should_terminate = "skip_completed"  # neither the epoch nor the run is, and nothing is to be saved as done
        if self._dataloader_iter is not None:  # within an epoch
            self._maybe_terminate_legacy()

    def announce(self, event: TrainEvents) -> None:
        """Fire an event inside the step; where a handler cancels, the step is left.

        The public ``fire_event`` of 0.5.5 searches a list of all events for it: 3 to 5 µs more.
        """
        self._fire_event(event)
        if self.cancelled:
            raise _BatchOver from self._request

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        """As Ignite's, and each handler may cancel. 0.5.5 formats a debug line and hashes in Python at each event."""
        self.last_event_name = event_name
        name = event_name if isinstance(event_name, str) else event_name._name_
        for handler, args, kwargs, scope, takes_engine in self._calls[name]:
            if scope and self.cancelled >= scope:
                continue
            if event_args or event_kwargs:
                args = (*args[:takes_engine], *event_args, *args[takes_engine:])
                kwargs = {**kwargs, **event_kwargs}
            try:
                handler(*args, **kwargs)
            except CancelException as request:
                if not scope:
                    raise
                self.cancel(request, scope)
            except Exception as error:
                if scope:
                    self.annotate(error, f"{getattr(handler, '__qualname__', handler)} at {name}")
                raise
        if self.ranks is not None:
            self.ranks.after(self, event_name)
        if event_name is _ITERATION_COMPLETED:
            self.last_event_name = None  # 0.5.5 compares it next, which with an event takes 0.5 µs, then sets it again
            if self._ends_after_batch:
                self.end_run(skip_completed=False)

    def _run_step_of_ranks(self, engine: Engine, batch: Any) -> Any:
        """Every rank comes to the boundary of every batch, also where the batch was cancelled on it."""
        window: Any = self.step.window  # type: ignore[attr-defined]
        window.passed = False
        output = self._run_step(engine, batch)
        window.pass_over(self.loop)
        return output

    def _run_step(self, engine: Engine, batch: Any) -> Any:
        if self.cancelled:
            return None
        try:
            return self.step(self.loop)
        except _BatchOver:
            return None
        except CancelException as request:
            self.cancel(request, Scope.BATCH)
            return None
        except Exception as error:
            self.annotate(error, "the step")
            raise

    def set_data(self, data: Any) -> None:
        """Ignite's ``set_data``, which gives a run another loader: refused, as a resume would not know of it.

        Raises:
            RuntimeError: a run is going on.
        """
        if self._epochs is not None and data is not self._epochs:
            raise RuntimeError(
                f"a run goes through the loader that it was given; set_data gave this {self.phase} engine another in "
                "the middle of one: give run a function that returns the loader of each epoch"
            )
        super().set_data(data)

    @property
    def loader(self) -> Any:
        """What is gone through now; None where no run is going on."""
        return None if self._epochs is None else self._epochs.loader

    @property
    def running(self) -> bool:
        """Whether a run is going on."""
        return self._epochs is not None

    def run_step_alone(self) -> Any:
        """The step on ``loop.batch`` outside a run; whatever is cancelled escapes to the caller."""
        widest, self.widest, self.cancelled = self.widest, Scope.BATCH, 0
        window = getattr(self.step, "window", None) if self.ranks is not None else None
        if window is not None:
            window.passed = False
        try:
            with torch.set_grad_enabled(self.training):
                return self.step(self.loop)
        except _BatchOver as over:
            if window is not None:
                window.pass_over(self.loop)
            raise (over.__cause__ or CancelBatchException()) from None
        except CancelException:
            if window is not None:
                window.pass_over(self.loop)
            raise
        finally:
            self.widest, self.cancelled = widest, 0

    @staticmethod
    def _is_done(state: State) -> bool:
        """Epochs are counted; 0.5.5 compares iterations with this epoch's length, which may differ from the last's."""
        iterations_done = state.max_iters is not None and state.iteration >= state.max_iters
        return iterations_done or (state.max_epochs is not None and state.epoch >= state.max_epochs)

    # ---- handlers ------------------------------------------------------------------------------------------------

    def add_event_handler(self, event_name: Any, handler: Any, *args: Any, **kwargs: Any) -> RemovableEventHandle:
        """Ignite's ``add_event_handler``; the handler may raise the three Cancel exceptions."""
        if isinstance(event_name, EventsList):
            return super().add_event_handler(event_name, handler, *args, **kwargs)  # comes back here, one by one
        scope: int = self._handlers.scope_of(event_name)
        if isinstance(handler, always):
            handler, scope = handler.handler, 0
        handle = super().add_event_handler(event_name, handler, *args, **kwargs)
        self._handlers.add(event_name, self._last_attached(event_name, scope))
        self._update_listeners()
        return handle

    def on(self, event_name: Any, *args: Any, **kwargs: Any) -> Callable[[Handler], Handler]:
        """Ignite's ``on``, ``add_event_handler`` as a decorator; here the handler keeps its type."""
        return super().on(event_name, *args, **kwargs)

    def remove_event_handler(self, handler: Any, event_name: Any) -> None:
        """Ignite's ``remove_event_handler``."""
        super().remove_event_handler(handler, event_name)
        self._handlers.remove(event_name, handler)
        self._update_listeners()

    def attach_points(self, dispatch: Callable[[str], None]) -> None:
        """Call ``dispatch(point)`` at each point of this engine, before all handlers that are attached later."""
        for name, point in POINTS.items():
            if point.event is not None and (self.training or point.evaluator):
                super().add_event_handler(point.event, dispatch, name)
                call = self._last_attached(point.event, self._handlers.scope_of(point.event))
                self._handlers.add_dispatcher(point.event, call)

    def attach_last(self, event: Any, handler: Callable[[], None]) -> None:
        """Call a handler after all others of an event, those attached later too; nothing skips it."""
        super().add_event_handler(event, handler)
        self._handlers.add_last(event, self._last_attached(event, scope=0))

    def natives(self, event: Any) -> list[Any]:
        """The handlers that were attached to an event after the points, in their order."""
        return self._handlers.natives(event)

    def all_natives(self) -> list[Any]:
        """Those of all events."""
        return [handler for name in self._handlers.at for handler in self._handlers.natives(name)]

    def listen_for(self, points: Iterable[str]) -> None:
        """Say at which points there are callbacks: where there are none, nothing is called for each batch."""
        if self._handlers.listen_for(frozenset(points)):
            self._update_listeners()

    def _update_listeners(self) -> None:
        for event in _IN_STEP:
            setattr(self, event.value, self._handlers.heard(event))

    @staticmethod
    def _compare_handlers(user_handler: Any, registered_handler: Any) -> bool:
        return bool(unfiltered(registered_handler) == unfiltered(user_handler))

    def _last_attached(self, event: Any, scope: int) -> Call:
        """What Ignite has just put into its own list, from which nothing is called here."""
        handler, args, kwargs = self._event_handlers[event][-1]
        takes_engine = bool(args) and isinstance(args[0], weakref.ref)
        return Call(handler, (self, *args[1:]) if takes_engine else args, kwargs, scope, takes_engine)

    def annotate(self, error: BaseException, who: str, *, ahead: int = 0) -> None:
        """Add one line to an exception: who raised it, in which phase, epoch and batch. The first call counts.

        Args:
            error: gets the note (Python 3.11) and an attribute ``raised_by`` that says who.
            who: callback and point, handler and event, or a part of the loop.
            ahead: how many batches after the last that came.
        """
        if hasattr(error, "raised_by"):
            return
        error.raised_by = who  # type: ignore[attr-defined]
        batch = self.place + ahead
        place = f"epoch {self.loop.epoch}" + (f", batch {batch}" if batch >= 0 else "")
        text = f"raised by {who}: {self.phase}, {place} (from 0)"
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(text)

    # ---- cancelling ----------------------------------------------------------------------------------------------

    def cancel(self, request: CancelException, scope: int) -> None:
        """Skip what was asked for by ``request``, raised at an event of ``scope``; re-raise it where none catches."""
        if not scope <= request.scope <= self.widest:
            if hasattr(request, "add_note"):  # Python 3.11
                what = "an epoch" if request.scope is Scope.EPOCH else f"a {request.scope.name.lower()}"
                request.add_note(f"{type(request).__name__} leaves {what}; it was raised where none is running")
            raise request
        self.cancelled, self._request = request.scope, request
        if self.ranks is not None and self.running and request.scope > Scope.BATCH:
            self.wish = max(self.wish, request.scope)  # silent from here on; it ends once the other ranks know
            return
        self.leave(request.scope)

    def leave(self, scope: Scope) -> None:
        """Have Ignite leave what was cancelled."""
        if scope is Scope.FIT:
            for engine in self.partners:
                engine.cancelled = Scope.FIT
                engine.end_run(skip_completed=True)
        elif scope is Scope.EPOCH and (self.place >= 0 or not self.training):
            self.end_epoch()

    def end_epoch(self) -> None:
        """Have Ignite leave this epoch. 0.5.5 refuses that at EPOCH_STARTED: there it waits for the first batch."""
        if self.wish:
            return
        if self.training:
            super().terminate_epoch(skip_epoch_completed=True)
        else:
            self.end_run(skip_completed=True)

    def end_run(self, skip_completed: bool) -> None:
        """Have Ignite leave this run, on this rank."""
        super().terminate(skip_completed)

    def terminate(self, skip_completed: bool = False) -> None:
        """Ignite's ``terminate``; on several ranks all of them end, as soon as they have told each other."""
        if self.ranks is None or not self.running:
            self.end_run(skip_completed)
        elif self.training:
            self.ranks.ask_to_stop(skip_completed)
        else:
            self.terminate_epoch()

    def terminate_after_batch(self) -> None:
        """End the run once the batch that has come is done; 0.5.5's ``terminate`` drops one that is not begun yet."""
        if self.ranks is None and self.running and self.last_event_name in _BATCH_TO_COME:
            self._ends_after_batch = True
        else:
            self.terminate()

    def terminate_epoch(self, skip_epoch_completed: bool = False) -> None:
        """Ignite's ``terminate_epoch``; on several ranks the epoch is cancelled on all of them after this batch."""
        if self.ranks is not None and self.running:
            self.wish = max(self.wish, Scope.EPOCH)
        else:
            super().terminate_epoch(skip_epoch_completed)

    def _begin_run(self) -> None:
        self.cancelled, self.place, self.wish, self._ends_after_batch = 0, -1, 0, False

    def _begin_epoch(self) -> None:
        self.cancelled, self.place = 0, -1
        if self._epochs is not None and self._epochs.whole:
            self.measure_epoch()
            self.set_data(self._epochs)

    def open_loader(self, epochs: Epochs) -> Iterator[Any]:
        """The batches of the epoch that begins; an ``opener``, if there is one, makes its iterator, this once."""
        opener, self.opener = self.opener, None
        if self.before_loader is not None:
            self.before_loader(epochs.loader)
        return batches_of(epochs.loader) if opener is None else opener(epochs)

    def measure_epoch(self) -> None:
        """Have ``state.epoch_length`` say how many batches the loader has now; None where that is not known."""
        if self._epochs is not None and self._epochs.whole:
            self.state.epoch_length = self._get_data_length(self._epochs)

    def _finish_loader(self) -> None:
        if self._epochs is not None and self._epochs.whole and not self.should_terminate_single_epoch:
            self._epochs.finish()

    def _drop_loader(self, iter_counter: int) -> None:
        if self._epochs is not None:
            self._epochs.batches = None
