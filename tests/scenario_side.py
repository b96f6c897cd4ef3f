"""One side of a comparison: the objects of a scenario around one learner, and the trace of every call."""

import copy
import random
import traceback
import zlib
from functools import partial

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader

from tests.scenario_parts import Net, PlainOptimizer, Rows, SizedLoader, UnsizedLoader
from tests.scenarios import IN_BATCH, SIZES


class Foreign(Exception):
    """Neither side has heard of it."""


class ForeignBase(BaseException):
    """The same beside `Exception`, as KeyboardInterrupt is, which stays the tester's own."""


class Side:
    """One of the two learners with the objects of a scenario, and what came of it.

    ``trace`` has every call, ``ends`` the state after each fit, ``raised`` every (kind, phase, point, exception).
    """

    def __init__(self, scenario, cancels):
        self.scenario, self.fit = scenario, 0
        self.trace, self.ends, self.raised, self.tracebacks = [], [], [], []
        own = [type(f"My{cancel.__name__}", (cancel,), {}) for cancel in cancels]
        self.exceptions = {kind.__name__: kind for kind in (*cancels, *own, Foreign, ForeignBase, StopIteration)}
        self._seed()
        self.generator = torch.Generator().manual_seed(scenario.number) if scenario.own_generator else None
        self.rows = {phase: Rows(size) for phase, size in scenario.sizes.items() if size}
        self.loaders = {phase: self._loader(phase) for phase in self.rows}
        self.model = Net(self.visit, scenario.model == "batch_norm")
        self.weights = [*self.model.parameters(), *self.model.buffers()]
        self.opt_func = {
            "sgd": optim.SGD,
            "momentum": partial(optim.SGD, momentum=0.9),
            "adam": optim.Adam,
            "plain": partial(PlainOptimizer, self.visit),
        }[scenario.optimizer]

    def loss_func(self, preds, y):
        self.visit("loss_func", "train" if self.model.training else "valid", "loss")
        return nn.functional.mse_loss(preds, y)

    def callback(self, actor, base):
        """An object with a method for each of the actor's points, and ``cleanup_fit``."""

        def method_of(point):
            def method(callback, learn):
                self.visit(actor.name, _phase(learn, point), point, actor=actor)

            return method

        def cleanup_fit(callback, learn, exception):
            self.visit(actor.name, type(exception).__name__, "cleanup_fit")

        methods = {point: method_of(point) for point in actor.places}
        return type(actor.name, (base,), {"order": actor.order, "cleanup_fit": cleanup_fit, **methods})()

    def native(self, actor):
        phase, points = actor.places
        return partial(self.visit, actor.name, phase, "|".join(points), actor=actor)

    def visit(self, name, phase, point, n_given=None, actor=None):
        """Write down the call, do what the actor does at this point, raise if it is to raise here and now."""
        learn, points = self.learn, point.split("|")
        epoch = None if points[0] in ("before_fit", "after_fit", "cleanup_fit") else learn.epoch
        in_batch = points[0] in (*IN_BATCH, "forward", "loss", "step")
        iteration = learn.iter if in_batch else n_given
        self.trace.append((self.fit, name, phase, point, epoch, iteration, *self._seen(phase, points[0])))
        for where, habit in actor.habits if actor else ():
            if where in points:
                getattr(self, f"_{habit}")(learn)
        exception = self.scenario.raises.get((self.fit, name, phase, point, epoch, iteration))
        if exception is not None:
            kind = name.rstrip("0123456789") if actor else "inside"
            self.raised.append((kind, phase, points[0], exception))
            raise self.exceptions[exception](f"{name} in {point} of {phase}, epoch {epoch}, batch {iteration}")

    def play(self, learn, before_fit):
        """Every fit in a row, whatever the ones before came to; ``before_fit`` attaches and removes what is due."""
        self.learn = learn
        for fit, n_epochs in enumerate(self.scenario.n_epochs):
            self.fit, escaped = fit, None
            try:
                before_fit(fit)
                learn.fit(n_epochs)
            except (Exception, ForeignBase) as exception:
                escaped = f"{type(exception).__name__}: {exception}"
                self.tracebacks.append("".join(traceback.format_exception(exception)[-12:]))
            self.trace.append((self.fit, "escaped from fit", escaped))
            self.ends.append(self._state())
        return self

    def _seed(self):
        random.seed(self.scenario.number)
        np.random.seed(self.scenario.number)
        torch.manual_seed(self.scenario.number)

    def _loader(self, phase):
        scenario = self.scenario
        loader = DataLoader(
            self.rows[phase],
            batch_size=4,
            shuffle=scenario.shuffle,
            drop_last=scenario.drop_last,
            num_workers=scenario.workers,
            generator=self.generator,
        )
        wrapper = {"stock": None, "sized": SizedLoader, "unsized": UnsizedLoader}[scenario.loader]
        return loader if wrapper is None else wrapper(self.visit, phase, loader)

    def _seen(self, phase, point):
        """What a call sees of mode, gradient mode, loader and loss, and checksums of weights and gradients."""
        learn = self.learn
        mode = dl = grad = loss = None
        if point in (*IN_BATCH, "before_epoch", "after_epoch") and (phase, point) != ("train", "after_epoch"):
            mode, grad = self.model.training, torch.is_grad_enabled()
            dl = learn.dl is self.loaders[phase]
        if point in ("after_loss", "after_backward", "after_step", "after_batch"):
            loss = learn.loss.item()
        grads = [weight.grad for weight in self.weights if weight.grad is not None]
        return mode, grad, dl, loss, _checksum(self.weights), _checksum(grads)

    def _draw(self, learn):
        torch.rand(1), np.random.rand(), random.random()

    def _new_batch(self, learn):
        x, y = learn.batch
        learn.batch = x + torch.rand(1), y.flip(0)

    def _new_preds(self, learn):
        learn.preds = learn.preds * 0.5

    def _new_loss(self, learn):
        learn.loss = learn.loss * 2

    def _new_grads(self, learn):
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)

    def _resize_train(self, learn):
        self._resize("train")

    def _resize_valid(self, learn):
        self._resize("valid")

    def _resize(self, phase):
        if phase in self.rows:
            self.rows[phase].size = SIZES[(SIZES.index(self.rows[phase].size) + 1) % len(SIZES)]

    def _state(self):
        state_dict = getattr(self.learn.opt, "state_dict", dict)()
        return copy.deepcopy(
            {
                "weights": dict(self.model.state_dict()),
                "optimizer": state_dict,
                "torch's random state": torch.get_rng_state(),
                "python's random state": random.getstate(),
                "numpy's random state": np.random.get_state()[1:],
                "the loaders' generator": self.generator.get_state() if self.generator else None,
            }
        )


def _phase(learn, point):
    if point in ("before_fit", "after_fit", "after_validate") or learn.model.training:
        return "train"
    return "valid"


def _checksum(tensors):
    return zlib.crc32(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors))
