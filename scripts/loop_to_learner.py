"""From a loop over slices of tensors to the Learner, in six steps that train the same model to the same weights.

    python scripts/loop_to_learner.py

A table, exit code 1 where a row does not hold. ``p -= p.grad * lr`` rounds twice and torch's SGD once, so that these
two agree to 1e-6; all else is equal to the last bit. Made to be read and copied.
"""

import sys

import torch
import tyro
from torch import nn, optim

from ignite_trainer import Learner, fashion_mnist
from ignite_trainer.models import mlp

LR = 0.1  # with 0.5, or any power of two, nothing is rounded twice: all six are then equal to the last bit


class Optimizer:
    """Gradient descent: all that a Learner asks of an optimizer."""

    def __init__(self, params, lr=0.5):
        self.params, self.lr = list(params), lr

    def step(self):
        with torch.no_grad():
            for p in self.params:
                p -= p.grad * self.lr

    def zero_grad(self):
        for p in self.params:
            p.grad = None


class Dataset:
    """Inputs and labels; an index gives one pair, a slice a batch."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class DataLoader:
    """The batches of a dataset, as slices."""

    def __init__(self, ds, bs):
        self.ds, self.bs = ds, bs

    def __iter__(self):
        for i in range(0, len(self.ds), self.bs):
            yield self.ds[i : min(len(self.ds), i + self.bs)]


def report(loss, preds, yb):
    """A line on a batch."""
    print(f"    {loss:.4f}, accuracy {(preds.argmax(dim=1) == yb).float().mean():.2f}")


def by_hand(model, x, y, bs, epochs):
    """The loop as it is first written."""
    for _ in range(epochs):
        for i in range(0, len(x), bs):
            s = slice(i, min(len(x), i + bs))
            preds = model(x[s])
            loss = nn.functional.cross_entropy(preds, y[s])
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= p.grad * LR
                    p.grad.zero_()
        report(loss, preds, y[s])


def with_optimizer(opt_func):
    """The loop over a DataLoader, the weights moved by an optimizer."""

    def loop(model, x, y, bs, epochs):
        opt = opt_func(model.parameters(), lr=LR)
        for _ in range(epochs):
            for xb, yb in DataLoader(Dataset(x, y), bs):
                preds = model(xb)
                loss = nn.functional.cross_entropy(preds, yb)
                loss.backward()
                opt.step()
                opt.zero_grad()
            report(loss, preds, yb)

    return loop


class Report:
    """Each epoch's last batch, as the loops report it."""

    def after_loss(self, learn):
        self.last = learn.loss, learn.preds, learn.batch[1]

    def after_epoch(self, learn):
        report(*self.last)


def with_learner(opt_func, loader=DataLoader):
    """No loop: a Learner."""

    def loop(model, x, y, bs, epochs):
        dls = loader(Dataset(x, y), bs), None
        Learner(model, dls, nn.functional.cross_entropy, LR, [Report()], opt_func, device="cpu").fit(epochs)

    return loop


STEPS = {
    "by hand": by_hand,
    "Optimizer": with_optimizer(Optimizer),
    "Learner(opt_func=Optimizer)": with_learner(Optimizer),
    "optim.SGD": with_optimizer(optim.SGD),
    "Learner(opt_func=optim.SGD)": with_learner(optim.SGD),
    "Learner, torch's DataLoader": with_learner(optim.SGD, torch.utils.data.DataLoader),
}


def weights(loop, x, y, bs, epochs):
    """All weights that a loop ends with, in one vector."""
    torch.manual_seed(0)
    model = mlp(784, 50, 10)
    loop(model, x, y, bs, epochs)
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def compare(x, y, bs=50, epochs=1):
    """For each step its name, the largest difference of a weight to the loop by hand, and whether that is allowed."""
    ends = {}
    for name, loop in STEPS.items():
        print(name)
        ends[name] = weights(loop, x, y, bs, epochs)
    rows = []
    for number, (name, end) in enumerate(ends.items()):
        twin = ends["by hand" if number < 3 else "optim.SGD"]
        difference = (end - ends["by hand"]).abs().max().item()
        rows.append((name, difference, torch.equal(end, twin) and difference <= 1e-6))
    return rows


def main(images: int = 5000, bs: int = 50, epochs: int = 1, root: str = "data") -> None:
    """Train by hand, with an own optimizer, with torch's and with the Learner, and compare the weights.

    Args:
        images: how many training images of Fashion-MNIST to use.
        bs: images in a batch.
        epochs: times through them; roundings grow with them.
        root: folder of the images.
    """
    torch.set_num_threads(1)  # one order of additions everywhere
    train, _ = fashion_mnist(root)
    x, y = train.data[:images].flatten(1) / 255, train.targets[:images]
    rows = compare(x, y, bs, epochs)
    for name, difference, holds in rows:
        print(f"{name:30} difference {difference:.1e} {'holds' if holds else 'DOES NOT HOLD'}")
    sys.exit(not all(holds for _, _, holds in rows))


if __name__ == "__main__":
    tyro.cli(main)
