"""Random changes of training images: flips and shifts, of a batch of tensors or of one image of a dataset."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

__all__ = ["AUGMENTATIONS", "Augmented"]

_PART = 12  # an image is moved by up to a twelfth of its size: 2 pixels of 28


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Left and right swapped in every second image or so of a batch (B, C, H, W).

    >>> x = torch.arange(2.0).expand(8, 1, 1, 2)
    >>> flip(x, torch.Generator().manual_seed(0))[:, 0, 0, 0].tolist()
    [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    """
    chosen = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(chosen, x.flip(-1), x)


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of a batch (B, C, H, W) moved by up to a twelfth of its size, at least a pixel; zeros come in.

    >>> x = torch.ones(8, 1, 3, 3)
    >>> shift(x, torch.Generator().manual_seed(0)).sum(dim=(1, 2, 3)).unique().tolist()
    [4.0, 6.0, 9.0]
    """
    n, _, *size = x.shape
    steps = [max(1, length // _PART) for length in size]
    padded = F.pad(x, (steps[1], steps[1], steps[0], steps[0]))
    rows, columns = (
        torch.randint(2 * step + 1, (n, 1), generator=generator, device=x.device)
        + torch.arange(length, device=x.device)
        for step, length in zip(steps, size, strict=True)
    )
    samples = torch.arange(n, device=x.device).view(-1, 1, 1)
    return padded[samples, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()


def _shift_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    return flip(shift(x, generator), generator)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "flip": flip,
    "shift": shift,
    "shift-flip": _shift_flip,
}
"""Functions (batch (B, C, H, W), generator) → batch, by name; as ``transform`` of a `TensorLoader`."""


class Augmented(Dataset[tuple[Tensor, Any]]):
    """A dataset whose images are changed at random when they are read, with torch's global generator.

    Args:
        dataset: its items are (image (C, H, W), label).
        change: one of ``AUGMENTATIONS``.

    >>> len(Augmented([(torch.ones(1, 3, 3), 0)], shift))
    1
    """

    def __init__(self, dataset: Any, change: Callable[[Tensor, torch.Generator], Tensor]):
        self.dataset, self.change = dataset, change

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        x, y = self.dataset[index]
        return self.change(x.unsqueeze(0), torch.default_generator)[0], y
