"""Fashion-MNIST in batches of 64, and the first 25 training images with their names in a grid of 10×10 inches.

    python scripts/show_images.py --out grid.png

Made to be read and copied.
"""

import torch
import tyro
from torch.utils.data import DataLoader

from ignite_trainer import fashion_mnist, show_images
from ignite_trainer.vision import import_torchvision


def main(out: str = "grid.png", seed: int = 0, dpi: int = 100, root: str = "data") -> None:
    """Draw 25 training images of Fashion-MNIST in a grid.

    Args:
        out: the picture's file.
        seed: of the order, and so of which images are first.
        dpi: pixels an inch; the picture has ten inches.
        root: folder of the images.
    """
    torch.manual_seed(seed)
    train, test = fashion_mnist(root, import_torchvision().transforms.ToTensor())
    train_dl, test_dl = DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=64)
    images, labels = next(iter(train_dl))
    print(f"{len(train_dl)} training and {len(test_dl)} test batches; images {list(images.shape)}")

    names = [train.classes[label] for label in labels[:25]]
    show_images(images[:25], names, rows=5, cols=5).savefig(out, dpi=dpi)
    print(f"25 of them: {out}")


if __name__ == "__main__":
    tyro.cli(main)
