"""Train a classifier on Fashion-MNIST: 784-128-10, Adam, validation after every epoch, early stopping, TensorBoard.

    python scripts/train_fashion_mnist.py --epochs 5 --lr 0.001
    torchrun --nproc-per-node 2 scripts/train_fashion_mnist.py    # the same numbers on two processes

Made to be read and copied.
"""

from dataclasses import dataclass

import torch
import tyro
from torch import nn, optim

from ignite_trainer import DataLoaders, EarlyStopping, Learner, Progress, TensorBoard, accuracy
from ignite_trainer.data import TensorLoader, fashion_mnist, random_split
from ignite_trainer.distributed import is_main
from ignite_trainer.models import SimpleNN


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
    train, test = fashion_mnist(options.root)
    train, valid = random_split(train, [50_000, 10_000], seed=options.seed)
    dls = DataLoaders.from_datasets(train, valid, options.batch_size, seed=options.seed)

    torch.manual_seed(options.seed)
    cbs = [Progress(), EarlyStopping(patience=options.patience), TensorBoard()]
    metrics = {"accuracy": accuracy}
    learn = Learner(SimpleNN(), dls, nn.CrossEntropyLoss(), options.lr, cbs, optim.Adam, metrics=metrics)
    learn.fit(options.epochs)

    test_dl = TensorLoader(test.data, test.targets, batch_size=options.batch_size, images=True)
    test_accuracy = learn.evaluate(test_dl)["accuracy"]  # every rank has its share in it
    if is_main():
        print(f"Test Accuracy: {test_accuracy:.2%}")
        print("The dashboard: .venv/bin/tensorboard --logdir runs")


if __name__ == "__main__":
    main(tyro.cli(Options))
