"""Data and models that tests name on the command line: right ones, and each with one thing wrong."""

import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from ignite_trainer.data import ImageTensors

CLASSES = ["bag", "coat", "shoe"]


def images(n, seed):
    """Grey pictures of 8×8 whose brightness tells their class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = (60 * y.view(-1, 1, 1) + torch.randint(80, (n, 8, 8), generator=generator)).to(torch.uint8)
    return ImageTensors(x, y, CLASSES)


def tiny():
    return images(60, 1), images(30, 2), images(21, 3)


def drawn():
    """A split that is drawn from NumPy's generator."""
    whole = images(60, 1)
    rows = np.random.permutation(60).tolist()
    return Subset(whole, rows[:40]), Subset(whole, rows[40:])


def noise():
    """Labels that nothing tells: the longer one learns them the worse."""
    parts = tiny()
    for seed, part in enumerate(parts):
        part.targets = part.targets[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))]
    return parts


class Slow(Dataset):
    """The same, read one by one, so slowly that a signal falls into an epoch."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        time.sleep(0.002)
        return self.dataset[index]


def slow():
    return Slow(images(200, 1)), images(30, 2), images(21, 3)


def clouds():
    """Points, no images; nobody names their classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    data = TensorDataset(torch.randn(60, 5, generator=generator) + y.unsqueeze(1), y)
    return data, data


def tokens(dtype=torch.int64):
    """Seven tokens a sample, of which the first tells the class."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(30, (60, 7), generator=generator)
    data = TensorDataset(x.to(dtype), x[:, 0] // 10)
    return data, data, data


def wide():
    """The same as numbers of twice the width that weights have."""
    return tokens(torch.float64)


def one_more():
    """Of which one sample is left over by batches of 20."""
    return images(61, 1), images(30, 2)


def two_more():
    """Of which two are left over."""
    return images(62, 1), images(30, 2)


def regression():
    data = TensorDataset(torch.rand(20, 3), torch.rand(20))
    return data, data


def ragged():
    data = [(torch.rand(3), 0)] * 20
    return (Ragged(data),) * 2


class Ragged(list):
    targets = ([0, 1], [2])


def raises():
    raise RuntimeError("no data\nhere")


def one_dataset():
    return images(9, 1)


def empty():
    return [], images(9, 1)


class Broken(Slow):
    def __getitem__(self, index):
        if index == 7:
            raise OSError("image 7 is no image")
        return self.dataset[index]


def unreadable():
    return Broken(images(60, 1)), images(30, 2)


def labels_outside():
    dataset = images(60, 1)
    dataset.classes = CLASSES[:2]
    return dataset, dataset


def triples():
    dataset = [(torch.ones(1, 8, 8), 0, 1)] * 6
    return Triples(dataset), Triples(dataset)


class Triples(list):
    classes = CLASSES


def no_test():
    return images(60, 1), images(30, 2)


def larger():
    """Its validation data make larger inputs of a picture than the model takes."""
    parts = tiny()
    parts[1].transform = lambda picture: torch.zeros(1, 9, 9)
    return parts


class Net(nn.Sequential):
    """Dropout and batch norm: random numbers and buffers."""

    def __init__(self, n_in, num_classes):
        super().__init__(
            nn.Flatten(),
            nn.Linear(n_in, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(16, num_classes),
        )


class Buggy(Net):
    """A genuine bug, which shows in training alone."""

    def forward(self, x):
        return super().forward(x) * int("one" if self.training else "1")


class NoModel:
    pass


class Words(nn.Module):
    """Takes tokens alone."""

    def __init__(self, n_out):
        super().__init__()
        self.table, self.out = nn.Embedding(30, 8), nn.Linear(8, n_out)

    def forward(self, x):
        return self.out(self.table(x).mean(dim=1))


class Squeezed(Net):
    """Loses the dimension of the batch where it has one sample."""

    def __init__(self, n_in, num_classes):
        super().__init__(n_in, num_classes)
        del self[2]  # batch norm

    def forward(self, x):
        return super().forward(x).squeeze()


class WrongOutputs(nn.Module):
    def forward(self, x):
        return x
