"""Train a classifier on Fashion-MNIST: 784-128-10, Adam, validation after every epoch, early stopping, TensorBoard.

    python scripts/train_fashion_mnist.py --epochs 5 --lr 0.001

Made to be read and copied.
"""

from dataclasses import dataclass

import torch
import tyro
from torch import nn, optim
from torch.utils.data import DataLoader, random_split

from ignite_trainer import EarlyStopping, Learner, Progress, TensorBoard, accuracy
from ignite_trainer.data.images import fashion_mnist
from ignite_trainer.models import SimpleNN
from ignite_trainer.vision import import_torchvision


@dataclass
class Options:
    """Train a classifier on Fashion-MNIST."""

    epochs: int = 5
    """times through the 50,000 training images"""
    batch_size: int = 32
    """images in a batch"""
    lr: float = 1e-3
    """learning rate of Adam"""
    patience: int = 3
    """epochs without a better validation loss after which to stop"""
    seed: int = 0
    """of the split, the weights and the order"""
    root: str = "data"
    """folder of the images"""


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    train, test = fashion_mnist(options.root, import_torchvision().transforms.ToTensor())
    train, valid = random_split(train, [50_000, 10_000])
    train_dl = DataLoader(train, options.batch_size, shuffle=True)
    valid_dl, test_dl = DataLoader(valid, options.batch_size), DataLoader(test, options.batch_size)

    cbs = [Progress(), EarlyStopping(patience=options.patience), TensorBoard()]
    metrics = {"accuracy": accuracy}
    learn = Learner(
        SimpleNN(), (train_dl, valid_dl), nn.CrossEntropyLoss(), options.lr, cbs, optim.Adam, metrics=metrics
    )
    learn.fit(options.epochs)

    print(f"Test Accuracy: {learn.evaluate(test_dl)['accuracy']:.2%}")
    print("The dashboard: .venv/bin/tensorboard --logdir runs")


if __name__ == "__main__":
    main(tyro.cli(Options))
