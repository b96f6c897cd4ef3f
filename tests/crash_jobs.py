"""Jobs that break in the middle; ``python -m tests.crash_jobs NAME FOLDER`` runs one."""

import sys
from pathlib import Path

import torch
from torch import nn, optim
from torch.nn.utils.rnn import pack_sequence

from ignite_trainer import (
    EMA,
    Callback,
    Checkpoint,
    DataLoaders,
    Learner,
    NaNGuard,
    RunFiles,
    TensorBoard,
    seed_everything,
)
from tests.tiny import blobs, dropout_net

DEVICE = "cpu"


class Break(Callback):
    """Raises at one point of one batch, and says what the loss is there: the bits of weights and random numbers."""

    def __init__(self, point, training=True):
        self.training = training
        setattr(self, point, self.raise_it)

    def raise_it(self, learn):
        if learn.epoch == 1 and learn.iter == 2 and learn.model.training == self.training:
            raise ValueError(f"it breaks at {learn.loss.item()!r}")


class Poison(Callback):
    """Makes one batch infinite."""

    def before_batch(self, learn):
        if learn.model.training and learn.epoch == 1 and learn.iter == 2:
            learn.batch = (learn.batch[0] * torch.inf, learn.batch[1])


def loss_that_breaks(preds, y):
    if preds.requires_grad and len(y) == 4:  # the epoch's last
        raise RuntimeError(f"no loss for {preds.sum().item()!r}")
    return nn.functional.cross_entropy(preds, y)


def make(folder, cbs=(), loss_func=None, n=44, **how):
    seed_everything(5)
    return Learner(
        dropout_net(),
        DataLoaders.from_tensors(blobs(n, seed=1), blobs(20, seed=2), 8),
        loss_func or nn.CrossEntropyLoss(),
        0.01,
        [EMA(0.8), Checkpoint(), *cbs],
        optim.Adam,
        device=DEVICE,
        folder=folder,
        **how,
    ), 3


def in_training(folder):
    return make(folder, [Break("after_backward")])


def in_training_with_files(folder):
    return make(folder, [Break("after_backward"), RunFiles(), TensorBoard()])


def in_a_packed_batch(folder):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            if x.data.shape == (4, 2):
                raise ValueError("no outputs for these")
            return self.layer(x.data)

    batches = [(pack_sequence([torch.ones(n, 2)]), torch.zeros(n, dtype=torch.int64)) for n in (2, 3, 4)]
    cbs = [Checkpoint()]
    return Learner(Last(), (batches, None), nn.CrossEntropyLoss(), 0.1, cbs, device=DEVICE, folder=folder), 1


def after_the_step(folder):
    return make(folder, [Break("after_batch")])


def in_validation(folder):
    return make(folder, [Break("after_loss", training=False)])


def in_the_loss(folder):
    return make(folder, loss_func=loss_that_breaks)


def in_a_handler(folder):
    learn, n_epochs = make(folder)

    def breaks(engine):
        if engine.state.iteration == 9:
            raise KeyError("no such key")

    from ignite_trainer import TrainEvents

    learn.trainer.add_event_handler(TrainEvents.LOSS_COMPUTED, breaks)
    return learn, n_epochs


def in_a_metric(folder):
    def of_the_last(preds, y):
        if len(y) == 4:  # the validation's last batch
            raise ZeroDivisionError(f"no share of {preds.sum().item()!r}")
        return preds.mean()

    return make(folder, metrics={"share": of_the_last})


def in_before_fit(folder):
    return make(folder, [Break("before_fit")])


def not_finite(folder):
    return make(folder, [Poison(), NaNGuard(every_steps=1)])


def not_finite_later(folder):
    return make(folder, [Poison(), NaNGuard("raise", every_steps=50)])


def not_finite_at_the_end(folder):
    return make(folder, [Poison(), NaNGuard(every_steps=50)])


def mended(folder):
    return make(folder)


def with_other_data(folder):
    return make(folder, n=48)


if __name__ == "__main__":
    learner, epochs = globals()[sys.argv[1]](Path(sys.argv[2]))
    learner.fit(epochs)
