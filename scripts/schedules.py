"""Momentum, a rate for each part of a model, and a rate that changes: one-cycle over two parameter groups.

    python scripts/schedules.py --picture lr.png

Writes the learning rates of the run as a picture. Made to be read and copied.
"""

from functools import partial

import torch
import tyro
from matplotlib.figure import Figure
from torch import nn, optim

from ignite_trainer import Callback, DataLoaders, Learner, Progress, Schedule, one_cycle, param_groups
from ignite_trainer.models import mlp


class Rates(Callback):
    """Keeps the rate of each group at each optimizer step."""

    order = 5  # before Schedule moves on

    def before_fit(self, learn):
        self.rates = []

    def after_step(self, learn):
        self.rates.append([group["lr"] for group in learn.opt.param_groups])


def main(epochs: int = 5, lr: float = 0.1, head_lr: float = 0.5, picture: str = "lr.png") -> None:
    """Train a small network with momentum, two groups and one-cycle.

    Args:
        epochs: times through the data.
        lr: highest rate of the first layer.
        head_lr: highest rate of the last layer.
        picture: file of the picture.
    """
    torch.manual_seed(0)
    x = torch.randn(1000, 20)
    train = x, (x[:, :2].sum(1) > 0).long()
    model = mlp(20, 32, 2)

    groups = param_groups(model, lr=lr, overrides={"l2": {"lr": head_lr}})
    cbs = [rates := Rates(), Schedule(one_cycle()), Progress()]
    dls = DataLoaders.from_tensors(train, batch_size=50)
    momentum = partial(optim.SGD, momentum=0.9)
    Learner(model, dls, nn.CrossEntropyLoss(), cbs=cbs, opt_func=momentum, param_groups=groups).fit(epochs)

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates.rates, label=[f"group {i}" for i in range(len(groups))])
    axes.set(xlabel="optimizer step", ylabel="learning rate")
    axes.legend()
    figure.savefig(picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    tyro.cli(main)
