"""The documents' Learner in plain Python, without Ignite: what ours is compared with, call by call.

It imports nothing of the package, and is written to be read: every rule of cancelling is a plain ``try`` here.
"""

from collections import defaultdict
from contextlib import suppress
from operator import attrgetter

import torch
from torch import optim


class CancelFitException(Exception):
    """Skip what remains of the fit."""


class CancelEpochException(Exception):
    """Skip what remains of this phase's epoch."""


class CancelBatchException(Exception):
    """Skip what remains of the batch."""


def run_cbs(cbs, method_name, *args):
    """Call the method on each callback that has it, sorted by order; sorting is stable, so ties keep their place."""
    for cb in sorted(cbs, key=attrgetter("order")):
        method = getattr(cb, method_name, None)
        if method is not None:
            method(*args)


class Learner:
    """The documents' loop, with three additions: ``after_validate``, ``cleanup_fit`` and native handlers.

    ``natives[phase, point]`` stands for the handlers attached to the Ignite event of that point on the trainer
    ("train") or on the evaluator ("valid"); they are called without arguments, after the callbacks of the same point.
    """

    def __init__(self, model, dls, loss_func, lr, cbs=(), opt_func=optim.SGD):
        self.model, self.dls, self.loss_func, self.lr = model, dls, loss_func, lr
        self.cbs, self.opt_func = list(cbs), opt_func
        self.natives = defaultdict(list)

    def fit(self, n_epochs):
        self.n_epochs, self.epochs = n_epochs, range(n_epochs)
        self.opt = self.opt_func(self.model.parameters(), self.lr)
        self.opt.zero_grad()
        escaped = None
        try:
            self._reach("train", "before_fit")
            for self.epoch in self.epochs:  # noqa: B020
                self._train_and_validate()
            self._reach("train", "after_fit")
        except CancelFitException:
            pass
        except BaseException as exception:
            escaped = exception
            raise
        finally:
            run_cbs(self.cbs, "cleanup_fit", self, escaped)

    def _train_and_validate(self):
        completed = self.one_epoch(True)
        if self.dls.valid is not None:
            self.one_epoch(False)
        if completed:
            with suppress(CancelEpochException):
                self._natives("train", "after_epoch")  # after the validation, whose metrics they may look at
        self._reach("train", "after_validate")

    def one_epoch(self, train):
        """One phase; whether it came to its end."""
        phase = "train" if train else "valid"
        self.dl = self.dls.train if train else self.dls.valid
        self.model.train(train)
        with torch.set_grad_enabled(train):
            try:
                self._reach(phase, "before_epoch")
                for self.iter, self.batch in enumerate(self.dl):  # noqa: B020
                    try:
                        self._reach(phase, "before_batch")
                        self.one_batch(phase)
                        self._reach(phase, "after_batch")
                    except CancelBatchException:
                        pass
                self.callback("after_epoch")
                if not train:
                    self._natives(phase, "after_epoch")
            except CancelEpochException:
                return False
        return True

    def one_batch(self, phase):
        self.preds = self.model(self.batch[0])
        self._reach(phase, "after_predict")
        self.loss = self.loss_func(self.preds, self.batch[1])
        self._reach(phase, "after_loss")
        if phase == "train":
            self.loss.backward()
            self._reach(phase, "after_backward")
            self.opt.step()
            self._reach(phase, "after_step")
            self.opt.zero_grad()

    def callback(self, point):
        run_cbs(self.cbs, point, self)

    def _reach(self, phase, point):
        self.callback(point)
        self._natives(phase, point)

    def _natives(self, phase, point):
        for handler in self.natives[phase, point]:
            handler()
