"""Train a small residual network on Fashion-MNIST in minutes on two cores: augmentation, one-cycle, averaged weights.

    python scripts/fashion_mnist_best.py --seed 0

It trains on all 60,000 training images and looks at the test images once, at the end. Settings are chosen without them:
``--validation 10000`` keeps that many training images back and reports these instead. Made to be read and copied.
"""

import time
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from torch import nn, optim

from ignite_trainer import EMA, DataLoaders, Learner, Progress, Schedule, accuracy, one_cycle, param_groups
from ignite_trainer.data import TensorLoader, fashion_mnist
from ignite_trainer.data.augment import flip, shift


@dataclass
class Options:
    """Train a small residual network on Fashion-MNIST."""

    epochs: int = 15
    """times through the training images"""
    batch_size: int = 128
    """images in a batch"""
    lr: float = 0.1
    """highest learning rate of SGD"""
    weight_decay: float = 5e-4
    """of the weights, not of biases and norms"""
    precision: str = "bf16"
    """fp32 is faster where the processor has no bfloat16"""
    seed: int = 0
    """of the weights, the order and the augmentation"""
    validation: int = 0
    """training images kept back to choose settings by; the test images then stay untouched"""
    images: int = 60_000
    """training images to use, of 60,000"""
    test_images: int = 10_000
    """test images to look at, of 10,000"""
    threads: int = 2
    """cores to use; 1 where other programs use them too, as threads that wait for each other waste time"""
    root: str = "data"
    """folder of the images"""


def conv(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    """A 3×3 convolution with batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


class Residual(nn.Sequential):
    """Layers whose output is added to their input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class Net(nn.Module):
    """Seven convolutions at 28×28, 14×14 and 7×7; in evaluation the mean of the scores of an image and its mirror."""

    def __init__(self) -> None:
        super().__init__()
        stem = conv(1, 32)
        middle = conv(32, 64, stride=2), Residual(conv(64, 64), conv(64, 64))
        last = conv(64, 128, stride=2), Residual(conv(128, 128), conv(128, 128))
        self.body = nn.Sequential(stem, *middle, *last, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.head(self.body(x)) / 4
        return scores if self.training else (scores + self.head(self.body(x.flip(-1))) / 4) / 2


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shifted by up to 2 pixels, half of them mirrored."""
    return flip(shift(x, generator), generator)


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    began, cpu_began = time.perf_counter(), time.process_time()
    train, test = fashion_mnist(options.root)
    images, labels = train.data[: options.images], train.targets[: options.images]
    n = len(images) - options.validation
    valid = (images[n:], labels[n:]) if options.validation else None
    pixels = {"images": True, "mean": [0.286], "std": [0.353]}
    dls = DataLoaders.from_tensors(
        (images[:n], labels[:n]), valid, options.batch_size, seed=options.seed, transform=augment, **pixels
    )

    torch.manual_seed(options.seed)
    model = Net().to(memory_format=torch.channels_last)
    learn = Learner(
        model,
        dls,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        cbs=[Progress(), Schedule(one_cycle(pct_start=0.25, cycle_momentum=False)), EMA(0.99)],
        opt_func=partial(optim.SGD, momentum=0.9, nesterov=True),
        param_groups=param_groups(model, lr=options.lr, weight_decay=options.weight_decay),
        precision=options.precision,
        metrics={"accuracy": accuracy},
    )
    learn.fit(options.epochs)
    if not options.validation:
        n = options.test_images
        test_dl = TensorLoader(test.data[:n], test.targets[:n], batch_size=500, **pixels)
        print(f"Test Accuracy: {learn.evaluate(test_dl)['accuracy']:.2%}")
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    print(f"{wall:.0f} seconds, {cpu:.0f} of processor time")


if __name__ == "__main__":
    main(tyro.cli(Options))
