"""Train torchvision's ResNet18, from random weights, on a folder that has one folder of images for each class.

    python scripts/resnet18_folder.py demo --demo

Made to be read and copied. ``--demo`` first writes the folder, 50 drawings each of three shapes, where nothing is yet.
"""

from pathlib import Path

import torch
import tyro
from torch import nn, optim

from ignite_trainer import DataLoaders, Learner, Progress, accuracy, glyphs, image_folder, random_split
from ignite_trainer.vision import import_torchvision


def make_demo(folder: Path) -> None:
    """Write 150 images, in a folder for each class."""
    folder.mkdir(parents=True)
    drawings = glyphs(500)
    to_image = import_torchvision().transforms.ToPILImage()
    for index, (image, label) in enumerate(zip(drawings.data, drawings.targets, strict=True)):
        if label < 3:
            path = folder / drawings.classes[label] / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            to_image(image).save(path)


def main(
    folder: tyro.conf.Positional[Path],
    epochs: int = 3,
    batch_size: int = 16,
    lr: float = 1e-3,
    size: int = 64,
    seed: int = 0,
    demo: bool = False,
) -> None:
    """Train a ResNet18 on a folder of classes, a fifth of the images kept for validation.

    Args:
        folder: has one folder of images for each class.
        epochs: times through the training images.
        batch_size: images in a batch.
        lr: learning rate of Adam.
        size: pixels; every image is made a square of that many.
        seed: of the split, the weights and the order.
        demo: first write a folder of drawings.
    """
    if demo:
        make_demo(folder)
    transforms = import_torchvision().transforms
    images = image_folder(folder, transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()]))
    parts = random_split(images, [0.8, 0.2], seed=seed)
    dls = DataLoaders.from_datasets(*parts, batch_size=batch_size, seed=seed)
    print(f"{len(parts[0])} training and {len(parts[1])} validation images of {', '.join(images.classes)}")

    torch.manual_seed(seed)
    model = import_torchvision().models.resnet18(weights=None, num_classes=len(images.classes))
    metrics = {"accuracy": accuracy}
    Learner(model, dls, nn.CrossEntropyLoss(), lr, [Progress()], optim.Adam, metrics=metrics).fit(epochs)


if __name__ == "__main__":
    tyro.cli(main)
