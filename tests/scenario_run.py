"""Plays a scenario with the reference and with ours, and says where the two first differ.

``python -m tests.scenario_run FIRST COUNT`` plays that many scenarios and ends with 1 at the first that differs.
"""

import functools
import itertools
import operator
import reprlib
import sys
from types import SimpleNamespace

import numpy as np
import torch
from ignite.engine import Events

import ignite_trainer as ours
from tests import reference
from tests.scenario_side import Side
from tests.scenarios import make_scenario

EVENTS = {
    "before_fit": Events.STARTED,
    "before_epoch": Events.EPOCH_STARTED,
    "before_batch": Events.ITERATION_STARTED,
    "after_predict": ours.TrainEvents.PREDICTED,
    "after_loss": ours.TrainEvents.LOSS_COMPUTED,
    "after_backward": ours.TrainEvents.BACKWARD_COMPLETED,
    "after_step": ours.TrainEvents.STEPPED,
    "after_batch": Events.ITERATION_COMPLETED,
    "after_epoch": Events.EPOCH_COMPLETED,
    "after_validate": ours.TrainEvents.VALIDATED,
    "after_fit": Events.COMPLETED,
}

COLUMNS = "    (fit, who, phase, point, epoch, batch, training, grad enabled, own loader, loss, weights, gradients)"


def play_reference(scenario):
    """The scenario with the documents' loop."""
    cancels = (reference.CancelBatchException, reference.CancelEpochException, reference.CancelFitException)
    side = Side(scenario, cancels)
    dls = SimpleNamespace(train=side.loaders["train"], valid=side.loaders.get("valid"))
    learn = reference.Learner(side.model, dls, side.loss_func, 0.05, opt_func=side.opt_func)
    callbacks = [side.callback(actor, object) for actor in scenario.callbacks]
    handlers = [side.native(actor) for actor in scenario.natives]

    def before_fit(fit):
        learn.cbs = _attached(callbacks, scenario.callbacks, fit)
        for actor, handler in zip(scenario.natives, handlers, strict=True):
            phase, points = actor.places
            for point in points:
                if fit == actor.fits.start and fit in actor.fits:
                    learn.natives[phase, point].append(handler)
                if fit == actor.fits.stop and actor.fits:
                    learn.natives[phase, point].remove(handler)

    return side.play(learn, before_fit)


def play_ours(scenario):
    """The scenario with ours; handlers are attached to and removed from its engines as Ignite's users do it."""
    side = Side(scenario, (ours.CancelBatchException, ours.CancelEpochException, ours.CancelFitException))
    pair = side.loaders["train"], side.loaders.get("valid")
    dls = {"DataLoaders": ours.DataLoaders, "object": _Loaders, "pair": lambda *pair: pair}[scenario.dls](*pair)
    callbacks = [side.callback(actor, object if actor.duck else ours.Callback) for actor in scenario.callbacks]
    handlers = [_with_engine(side.native(actor), actor.duck) for actor in scenario.natives]
    cbs = _attached(callbacks, scenario.callbacks, 0)
    learn = ours.Learner(side.model, dls, side.loss_func, 0.05, cbs, side.opt_func, device="cpu")
    engines = {"train": learn.trainer, "valid": learn.evaluator}

    def before_fit(fit):
        if fit > 0:
            learn.cbs[:] = _attached(callbacks, scenario.callbacks, fit)
        for actor, handler in zip(scenario.natives, handlers, strict=True):
            phase, points = actor.places
            events = [EVENTS[point] for point in points]
            if fit == actor.fits.start and fit in actor.fits:
                engines[phase].add_event_handler(functools.reduce(operator.or_, events), handler)
            if fit == actor.fits.stop and actor.fits:
                for event in events:
                    engines[phase].remove_event_handler(handler, event)

    return side.play(learn, before_fit)


def difference(number):
    """What first differs in the scenario with this number, as text, or None."""
    scenario = make_scenario(number)
    expected, got = play_reference(scenario), play_ours(scenario)
    found = _first_call(expected.trace, got.trace) or _first_state(expected.ends, got.ends)
    if found is not None:
        found = f"scenario {number}: {found}\n{scenario}\nour last exception:\n{''.join(got.tracebacks[-1:])}"
    return found


def main(first, count):
    """Play these scenarios; the exit status says whether ours was equal in all."""
    torch.set_num_threads(1)
    for number in range(first, first + count):
        found = difference(number)
        if found is not None:
            sys.exit(found)


def _first_call(expected, got):
    for i, (wanted, came) in enumerate(itertools.zip_longest(expected, got)):
        if wanted != came:
            before = [f"    {call}" for call in expected[max(0, i - 6) : i]]
            wanted = [f"  - {call}" for call in expected[i : i + 3]]
            came = [f"  + {call}" for call in got[i : i + 3]]
            return "\n".join([f"call {i} differs (- reference, + ours)", COLUMNS, *before, *wanted, *came])
    return None


def _first_state(expected, got):
    for fit, (wanted, came) in enumerate(zip(expected, got, strict=True)):
        for name in wanted:
            if not _same(wanted[name], came[name]):
                return (
                    f"after fit {fit}, {name}: reference {reprlib.repr(wanted[name])}, ours {reprlib.repr(came[name])}"
                )
    return None


def _same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a == b


def _attached(objects, actors, fit):
    return [thing for thing, actor in zip(objects, actors, strict=True) if fit in actor.fits]


def _with_engine(handler, without):
    return (lambda: handler()) if without else (lambda engine: handler())


class _Loaders:
    """Any object with ``train`` and ``valid``."""

    def __init__(self, train, valid):
        self.train, self.valid = train, valid


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
