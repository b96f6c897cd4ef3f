"""The documents' models: a perceptron written in two ways, a classifier of flat images, a small CNN."""

from collections import OrderedDict

import torch
from torch import nn

__all__ = ["MLP", "SimpleNN", "SmallCNN", "mlp"]


class MLP(nn.Module):
    """Two linear layers with a ReLU between them, as a class.

    Args:
        n_in: features of an input, whose shape is (N, n_in).
        n_hidden: features between the layers.
        n_out: features of the output, whose shape is (N, n_out).

    Source: the nn.Module of "What is torch.nn really?" with a hidden layer.

    >>> MLP(4, 8, 3)(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, n_in: int, n_hidden: int, n_out: int) -> None:
        super().__init__()
        self.l1 = nn.Linear(n_in, n_hidden)
        self.l2 = nn.Linear(n_hidden, n_out)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of shape (N, n_out)."""
        out: torch.Tensor = self.l2(self.relu(self.l1(x)))
        return out


def mlp(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """The `MLP` as a `nn.Sequential`: the same layers, drawn in the same order and under the same names.

    So from one seed both start from equal weights, and the state dict of one loads into the other.

    Args:
        n_in: features of an input, whose shape is (N, n_in).
        n_hidden: features between the layers.
        n_out: features of the output, whose shape is (N, n_out).

    >>> _ = mlp(4, 8, 3).load_state_dict(MLP(4, 8, 3).state_dict())
    """
    layers = OrderedDict[str, nn.Module](l1=nn.Linear(n_in, n_hidden), relu=nn.ReLU(), l2=nn.Linear(n_hidden, n_out))
    return nn.Sequential(layers)


class SimpleNN(nn.Module):
    """A classifier of flattened images: 784-128-10 with a ReLU, for MNIST and Fashion-MNIST.

    Args:
        n_in: numbers in one input; an input of any shape (N, ...) with as many is flattened.
        n_hidden: features between the layers.
        n_out: classes; the output is scores (no softmax) of shape (N, n_out), as `nn.CrossEntropyLoss` wants them.

    >>> SimpleNN()(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    def __init__(self, n_in: int = 784, n_hidden: int = 128, n_out: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_in, n_hidden)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(n_hidden, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of shape (N, n_out)."""
        out: torch.Tensor = self.fc2(self.relu(self.fc1(x.flatten(1))))
        return out


class SmallCNN(nn.Module):
    """A convolutional classifier of small images, made to learn with plain SGD, lr 0.1 and `nn.CrossEntropyLoss`.

    Two convolutions that halve the image, to 7×7 for MNIST and averaged to that for any other size, then one linear
    layer. No dropout and no batch norm: it computes the same in training and evaluation.

    Args:
        n_channels: channels of an image; an input is (N, n_channels, height, width), 28×28 or any other size.
        n_out: classes; the output is scores (no softmax) of shape (N, n_out).

    >>> SmallCNN()(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    def __init__(self, n_channels: int = 1, n_out: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_channels, 16, kernel_size=5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(7)
        self.fc = nn.Linear(32 * 7 * 7, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of shape (N, n_out)."""
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        out: torch.Tensor = self.fc(self.pool(x).flatten(1))
        return out
