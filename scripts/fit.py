"""The documents' fit: a small CNN, cross-entropy, SGD with lr 0.1, one line an epoch.

    python scripts/fit.py --epochs 2

Made to be read and copied.
"""

import torch
import tyro
from torch import nn, optim
from torch.utils.data import DataLoader, Subset

from ignite_trainer import fit
from ignite_trainer.data.images import fashion_mnist
from ignite_trainer.models import SmallCNN
from ignite_trainer.vision import import_torchvision


def main(epochs: int = 2, lr: float = 0.1, batch_size: int = 64, images: int = 60_000, root: str = "data") -> None:
    """Train a small CNN on Fashion-MNIST with `fit`.

    Args:
        epochs: times through the training images.
        lr: learning rate of SGD.
        batch_size: images in a batch.
        images: how many of the 60,000 training images to use.
        root: folder of the images.
    """
    torch.manual_seed(0)
    train, valid = fashion_mnist(root, import_torchvision().transforms.ToTensor())
    train_dl = DataLoader(Subset(train, range(images)), batch_size, shuffle=True)
    valid_dl = DataLoader(valid, batch_size)

    model = SmallCNN()
    loss, accuracy = fit(epochs, model, optim.SGD(model.parameters(), lr), nn.CrossEntropyLoss(), train_dl, valid_dl)
    print(f"after {epochs} epochs: loss {loss:.4f}, accuracy {accuracy:.2%}")


if __name__ == "__main__":
    tyro.cli(main)
