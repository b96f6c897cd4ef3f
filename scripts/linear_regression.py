"""The documents' linear regression: full-batch descent by hand and with the Learner, no validation.

    python scripts/linear_regression.py

X is 20×5, uniform; y = X·(0.3, 4, 0.2, 2.5, 18) + 17; one Linear(5, 1), squeezed; mean squared error; lr 1e-3.
"""

import torch
import tyro
from torch import nn, optim

from ignite_trainer import Callback, DataLoaders, Learner


class Squeezed(nn.Linear):
    """A linear layer whose single output is (N,), like the targets: (N, 1) against (N,) would be broadcast."""

    def forward(self, x):
        return super().forward(x).squeeze(1)


class Print(Callback):
    def after_validate(self, learn):
        print(f"{learn.epoch}: {learn.history[-1]['train_loss']:.4f}")


def data():
    torch.manual_seed(0)
    x = torch.rand(20, 5)
    return x, x @ torch.tensor([0.3, 4, 0.2, 2.5, 18]) + 17


def by_hand(epochs, lr):
    """The loop written by hand: the loss of each epoch."""
    (x, y), model, loss_func = data(), Squeezed(5, 1), nn.MSELoss()
    opt, losses = optim.SGD(model.parameters(), lr), []
    for _ in range(epochs):
        loss = loss_func(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return losses


def main(epochs: int = 10, lr: float = 1e-3) -> list[float]:
    """Fit a line to 20 points.

    Args:
        epochs: steps, as each sees all points.
        lr: learning rate.
    """
    (x, y), model = data(), Squeezed(5, 1)
    learn = Learner(model, DataLoaders([(x, y)]), nn.MSELoss(), lr, [Print()], optim.SGD, device="cpu")
    learn.fit(epochs)
    return [row["train_loss"] for row in learn.history]


if __name__ == "__main__":
    tyro.cli(main)
