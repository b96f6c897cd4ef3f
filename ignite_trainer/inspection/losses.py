"""What is known of a loss function by its kind: whether it takes classes, and from which value it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import functional as F

from ..loss_size import kind_of

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

    def lowest(self, n_classes: int) -> float:
        """The loss of perfect predictions: 0 without smoothing."""
        rest = self.label_smoothing / n_classes
        right = 1 - self.label_smoothing + rest
        return -sum(p * math.log(p) for p in (right, *[rest] * (n_classes - 1)) if p > 0)


def class_loss(loss_func: Any) -> ClassLoss | None:
    """What kind of loss over classes this is; None for any other loss.

    >>> class_loss(nn.CrossEntropyLoss(label_smoothing=0.1)).label_smoothing
    0.1
    >>> class_loss(nn.MSELoss()) is None
    True
    """
    loss_func, of_classes, options = kind_of(loss_func)
    if not of_classes:
        return None
    return ClassLoss(
        isinstance(loss_func, nn.CrossEntropyLoss) or loss_func is F.cross_entropy,
        options.get("ignore_index", -100),
        options.get("label_smoothing", 0.0),
        options.get("reduction", "mean") == "mean",
    )
