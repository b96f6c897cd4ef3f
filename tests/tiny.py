"""Small real things for the tests: models, data and the loop written by hand."""

import gc
import sys

import torch
from torch import nn

from ignite_trainer import Learner


def blobs(n=100, n_features=6, n_classes=3, seed=0):
    """n points in as many clouds as classes: (n, n_features) float32 and (n,) int64."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(n_classes, (n,), generator=generator)
    centres = 2 * torch.randn(n_classes, n_features, generator=generator)
    return centres[y] + torch.randn(n, n_features, generator=generator), y


def ready(n=40, batch_size=10):
    """The points of ``blobs`` as a list of batches."""
    x, y = blobs(n)
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


def seeded_learner(cbs=(), *, model=None, data=None, loss_func=None, **how):
    """A Learner over ``ready`` batches, or other loaders, on the CPU; its rate is 0.1, unless an optimizer is given."""
    torch.manual_seed(0)
    dls = (ready(), ready()) if data is None else data
    rate = {} if "optimizer" in how else {"lr": 0.1}
    return Learner(model or mlp(), dls, loss_func or nn.CrossEntropyLoss(), cbs=cbs, device="cpu", **rate, **how)


def mlp(n_features=6, n_classes=3):
    """Two linear layers."""
    return nn.Sequential(nn.Linear(n_features, 16), nn.ReLU(), nn.Linear(16, n_classes))


def dropout_net(n_features=6, n_classes=3):
    """Batch norm and dropout: buffers and random numbers."""
    return nn.Sequential(
        nn.Linear(n_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, n_classes)
    )


def own_step(learn):
    """The plainest step of one's own."""
    learn.preds = learn.model(learn.batch[0])
    learn.loss = learn.loss_func(learn.preds, learn.batch[1])
    learn.loss.backward()
    learn.opt.step()
    learn.opt.zero_grad()


def hand_fit(epochs, model, optimizer, loss_fn, train_dl, valid_dl):
    """The loop written by hand: returns each epoch's (validation loss, count of right answers, samples)."""
    results = []
    for _ in range(epochs):
        model.train()
        for xb, yb in train_dl:
            loss = loss_fn(model(xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        total, right, n = 0.0, 0, 0
        with torch.no_grad():
            for xb, yb in valid_dl:
                preds = model(xb)
                total += loss_fn(preds, yb).item() * len(yb)
                right += (preds.argmax(dim=1) == yb).sum().item()
                n += len(yb)
        results.append((total / n, right, n))
    return results


def same_state(a, b):
    """Whether two state dicts hold the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def count_calls(job, of=None):
    """Python calls that a job makes: all, or those of a code object."""
    count = 0

    def count_call(frame, event, argument):
        nonlocal count
        count += event == "call" and of in (None, frame.f_code)

    gc.disable()  # hypothesis has a Python function called at every collection
    sys.setprofile(count_call)
    try:
        job()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


class Centred(nn.Module):
    """A loss that follows the mean of the predictions, as one with a centre or a memory does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(3))

    def forward(self, preds, y):
        if torch.is_grad_enabled():
            self.centre.mul_(0.9).add_(preds.detach().mean(0), alpha=0.1)
        return nn.functional.cross_entropy(preds - self.centre, y)
