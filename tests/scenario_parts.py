"""What scenarios are made of: a model, an optimizer, data and loaders that write down each call and may raise in it."""

import torch
from torch import nn
from torch.utils.data import Dataset


class Rows(Dataset):
    """Random rows, of which the first ``size`` are there; the size may change between epochs."""

    def __init__(self, size):
        self.x, self.y, self.size = torch.randn(16, 3), torch.randn(16, 2), size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Net(nn.Module):
    """A perceptron whose dropout draws random numbers and whose forward pass may raise."""

    def __init__(self, visit, batch_norm):
        super().__init__()
        self.visit = visit
        norm = nn.BatchNorm1d(4) if batch_norm else nn.Identity()
        self.layers = nn.Sequential(nn.Linear(3, 4), norm, nn.ReLU(), nn.Dropout(0.3), nn.Linear(4, 2))

    def forward(self, x):
        self.visit("model", "train" if self.training else "valid", "forward")
        return self.layers(x)


class PlainOptimizer:
    """The documents' optimizer, with ``step`` and ``zero_grad`` and nothing else; its step may raise, half done."""

    def __init__(self, visit, parameters, lr):
        self.visit, self.parameters, self.lr = visit, list(parameters), lr

    def step(self):
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                if i == 1:
                    self.visit("optimizer", "train", "step")
                if parameter.grad is not None:
                    parameter -= parameter.grad * self.lr

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None


class SizedLoader:
    """A loader of one's own around a stock one; what is asked of it stands in the trace."""

    def __init__(self, visit, phase, loader):
        self.visit, self.phase, self.loader = visit, phase, loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return Batches(self)


class Batches:
    """The iterator of a `SizedLoader`."""

    def __init__(self, owner):
        owner.visit("loader", owner.phase, "iter")
        self.owner, self.batches, self.n_given = owner, iter(owner.loader), 0

    def __iter__(self):
        return self

    def __next__(self):
        self.owner.visit("loader", self.owner.phase, "next", self.n_given)
        batch = next(self.batches)
        self.n_given += 1
        return batch


class UnsizedLoader:
    """The same as a generator function, without a length."""

    def __init__(self, visit, phase, loader):
        self.visit, self.phase, self.loader = visit, phase, loader

    def __iter__(self):
        yield from Batches(self)
