"""Ten classes of small pictures drawn by the package itself: data to train on where there is none."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import is_whole
from .tensors import ImageTensors

__all__ = ["glyphs"]

_SIZE = 28  # pixels
_EDGE = 2 * 2 / _SIZE  # two pixels, in the units of the shapes: the picture goes from -1 to 1


def glyphs(n: int, seed: int = 0) -> ImageTensors:
    """Grey pictures of 28×28 pixels of ten shapes, each turned, shifted, larger or smaller, and noisy at random.

    As easy as MNIST, and the same everywhere: nothing is downloaded. Two seeds give a training and a test set.

    Args:
        n: how many; the classes take turns, so that their numbers of pictures differ by at most one.
        seed: of everything that is random.

    Returns:
        an `ImageTensors`: ``.data`` uint8 (n, 28, 28), ``.targets``, and ``.classes``, the names of the shapes.

    Raises:
        ValueError: ``n`` is less than 1.

    >>> dataset = glyphs(100)
    >>> dataset.classes[dataset.targets[3]], dataset[3][0].shape
    ('frame', torch.Size([1, 28, 28]))
    """
    if not is_whole(n) or n < 1:
        raise ValueError(f"n is the number of pictures, so at least 1; got {n!r}")
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, generator=generator) * (high - low) + low

    angle, size = uniform(-0.35, 0.35), uniform(0.55, 0.8)  # radians; half the picture is 1
    right, down = uniform(-0.2, 0.2), uniform(-0.2, 0.2)
    ink, paper = uniform(0.6, 1.0), uniform(0.0, 0.2)
    axis = (torch.arange(_SIZE) + 0.5) * 2 / _SIZE - 1
    x, y = axis.expand(_SIZE, _SIZE) - right, axis.unsqueeze(1).expand(_SIZE, _SIZE) - down
    x, y = (x * angle.cos() + y * angle.sin()) / size, (y * angle.cos() - x * angle.sin()) / size
    targets = torch.arange(n) % len(_SHAPES)
    distance = torch.empty(n, _SIZE, _SIZE)
    for number, shape in enumerate(_SHAPES.values()):
        rows = targets == number
        distance[rows] = shape(x[rows], y[rows])
    coverage = (0.5 - distance * size / _EDGE).clamp(0, 1)  # a soft edge, as in scanned letters
    noise = 0.06 * torch.randn(n, _SIZE, _SIZE, generator=generator)
    images = (paper + (ink - paper) * coverage + noise).clamp(0, 1)
    return ImageTensors((255 * images).round().to(torch.uint8), targets, list(_SHAPES))


def _disc(x: Tensor, y: Tensor, radius: float) -> Tensor:
    return torch.hypot(x, y) - radius


def _box(x: Tensor, y: Tensor, width: float, height: float) -> Tensor:
    return torch.maximum(x.abs() - width, y.abs() - height)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    slope = math.sqrt(0.75)
    return torch.maximum(y - 0.7, slope * x.abs() - 0.5 * y - 0.45)


# each is the distance to the edge, negative inside; y points down
_SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": lambda x, y: _disc(x, y, 0.9),
    "ring": lambda x, y: _disc(x, y, 0.75).abs() - 0.18,
    "square": lambda x, y: _box(x, y, 0.8, 0.8),
    "frame": lambda x, y: _box(x, y, 0.7, 0.7).abs() - 0.15,
    "triangle": _triangle,
    "plus": lambda x, y: torch.minimum(_box(x, y, 0.9, 0.2), _box(x, y, 0.2, 0.9)),
    "bar": lambda x, y: _box(x, y, 0.2, 1.0),
    "equals": lambda x, y: _box(x, y.abs() - 0.5, 0.9, 0.2),
    "corner": lambda x, y: torch.minimum(_box(x + 0.6, y, 0.2, 0.8), _box(x, y - 0.6, 0.8, 0.2)),
    "moon": lambda x, y: torch.maximum(_disc(x, y, 0.95), -_disc(x - 0.5, y, 0.8)),
}
