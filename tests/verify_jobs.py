"""Jobs and loops as users of ``ignite-trainer verify`` write them: right ones, and each with one thing wrong."""

import random

from torch import nn, optim

from ignite_trainer import Callback, Checkpoint, DataLoaders, Learner, TensorBoard, seed_everything
from tests.tiny import blobs, dropout_net, hand_fit


def make(folder, cbs=()):
    """A small run that can be resumed."""
    seed_everything(1)
    dls = DataLoaders.from_tensors(blobs(40, seed=1), blobs(16, seed=2), 8)
    cbs = [TensorBoard(), Checkpoint(every_steps=1), *cbs]
    return Learner(dropout_net(), dls, nn.CrossEntropyLoss(), 0.1, cbs, device="cpu", folder=folder), 3


def make_unseeded(folder):
    """As a script would without ``seed_everything``."""
    dls = DataLoaders.from_tensors(blobs(40, seed=1), blobs(16, seed=2), 8)
    return Learner(dropout_net(), dls, nn.CrossEntropyLoss(), 0.1, [Checkpoint()], device="cpu", folder=folder), 2


class Forgetful(Callback):
    """Draws from a generator of its own, and saves no state of it."""

    def __init__(self):
        self.generator = random.Random(0)

    def after_loss(self, learn):
        if learn.model.training:
            learn.loss = learn.loss * (1 + self.generator.random())


def make_forgetful(folder):
    return make(folder, [Forgetful()])


def make_without_checkpoint(folder):
    learn, n_epochs = make(folder)
    learn.cbs.clear()
    return learn, n_epochs


def make_elsewhere(folder):
    return make(folder.parent / "elsewhere")


def make_learner_alone(folder):
    return make(folder)[0]


def make_nothing(folder):
    raise RuntimeError("no data\nhere")


def forgets_zero_grad(model, optimizer, loss_fn, train_dl, valid_dl, epochs):
    """The gradients add up."""
    optimizer.zero_grad = lambda: None
    hand_fit(epochs, model, optimizer, loss_fn, train_dl, valid_dl)


def by_names(model, optimizer, loss_fn, train_dl, valid_dl, epochs):
    hand_fit(epochs, model, optimizer, loss_fn, train_dl, valid_dl)


def forgets_eval(model, optimizer, loss_fn, train_dl, valid_dl, epochs):
    """Validates in training mode at the very end: only the buffers and the generators know."""
    hand_fit(epochs, model, optimizer, loss_fn, train_dl, valid_dl)
    model.train()
    for xb, _ in valid_dl:
        model(xb)


def stops_early(model, optimizer, loss_fn, train_dl, valid_dl, epochs):
    hand_fit(epochs - 1, model, optimizer, loss_fn, train_dl, valid_dl)


def draws_anew(model, optimizer, loss_fn, train_dl, valid_dl, epochs):
    """Seeds itself by chance."""
    seed_everything(random.SystemRandom().randrange(2**32))
    hand_fit(epochs, model, optimizer, loss_fn, train_dl, valid_dl)


def never_steps(model, optimizer, loss_fn, train_dl, valid_dl, epochs):
    return None


class Versioned(nn.Sequential):
    """Its state has a part that is no tensor."""

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        assert state == {"version": 1}


def job():
    """What the loops train."""
    dls = DataLoaders.from_tensors(blobs(40, seed=1), blobs(16, seed=2), 8)
    return Versioned(*dropout_net()), lambda parameters: optim.Adam(parameters, 0.01), nn.CrossEntropyLoss(), *dls, 2
