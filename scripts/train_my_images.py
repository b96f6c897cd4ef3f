"""Train a classifier on images of one's own: a CSV file of names and labels, and the folder of the images.

    python scripts/train_my_images.py demo/labels.csv demo --demo

Made to be read and copied.
"""

from pathlib import Path

import torch
import tyro
from torch import nn

from ignite_trainer import CSVImages, DataLoaders, Learner, Progress, accuracy, fashion_mnist, random_split
from ignite_trainer.models import SmallCNN
from ignite_trainer.vision import import_torchvision


def make_demo(csv: Path, folder: Path) -> None:
    folder.mkdir(parents=True)  # an error where it is: nothing is overwritten
    images, _ = fashion_mnist()
    with csv.open("x") as table:
        for index in range(100):
            image, label = images[index]
            image.save(folder / f"{index}.png")
            print(f"{index}.png,{images.classes[label]}", file=table)


def main(csv: tyro.conf.Positional[Path], folder: tyro.conf.Positional[Path], epochs: int = 3, demo: bool = False):
    """Train on the images that CSV names (column 1: the file, column 2: the label) and that lie in FOLDER.

    With --demo both are made first, of 100 images of Fashion-MNIST.
    """
    if demo:
        make_demo(csv, folder)
    transforms = import_torchvision().transforms
    images = CSVImages(csv, folder, transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]))
    dls = DataLoaders.from_datasets(*random_split(images, [0.8, 0.2]), batch_size=4, num_workers=2)
    for number, (xb, yb) in zip(range(3), dls.valid, strict=False):
        print(number, list(xb.shape), list(yb.shape))

    torch.manual_seed(0)
    model = SmallCNN(n_channels=len(xb[0]), n_out=len(images.classes))
    Learner(model, dls, nn.CrossEntropyLoss(), 0.02, [Progress()], metrics={"accuracy": accuracy}).fit(epochs)


if __name__ == "__main__":
    tyro.cli(main)
