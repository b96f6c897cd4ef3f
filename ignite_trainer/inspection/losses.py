"""What is known of a loss function by its kind: whether it takes classes, and from which value it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..loss_size import TORCHS_FORWARDS, kind_of

__all__ = ["ClassLoss", "class_loss"]


@dataclass(frozen=True)
class ClassLoss:
    """A loss over class numbers.

    Args:
        from_logits: cross-entropy, which takes scores; False: NLL, which takes log-probabilities.
        ignore_index: the label that counts for nothing.
        label_smoothing: as in torch.
        is_mean: whether it is the mean over samples.
    """

    from_logits: bool
    ignore_index: int = -100
    label_smoothing: float = 0.0
    is_mean: bool = True

    def lowest(self, n_classes: int, y: Any = None) -> float:
        """The loss of perfect predictions: the entropy of the targets, 0 for class numbers without smoothing.

        Args:
            n_classes: outputs of the model.
            y: a batch of targets; None: class numbers.
        """
        is_soft = isinstance(y, Tensor) and y.is_floating_point()
        targets = y.detach().float() if is_soft else torch.eye(1, n_classes)
        smoothed = (1 - self.label_smoothing) * targets + self.label_smoothing / n_classes
        return float(torch.special.entr(smoothed).sum(dim=1).mean())


def class_loss(loss_func: Any) -> ClassLoss | None:
    """What kind of loss over classes this is; None for any other loss.

    >>> class_loss(nn.CrossEntropyLoss(label_smoothing=0.1)).label_smoothing
    0.1
    >>> class_loss(nn.MSELoss()) is None
    True
    """
    loss_func, of_classes, options = kind_of(loss_func)
    if not of_classes or (isinstance(loss_func, nn.Module) and type(loss_func).forward not in TORCHS_FORWARDS):
        return None
    return ClassLoss(
        isinstance(loss_func, nn.CrossEntropyLoss) or loss_func is F.cross_entropy,
        options.get("ignore_index", -100),
        options.get("label_smoothing", 0.0),
        options.get("reduction", "mean") == "mean",
    )
