"""``fit``: the documents' function, a Learner that trains a classifier and prints a line for each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import check_parts, is_whole
from .distributed import is_main
from .learner import Learner
from .metrics import Accuracy

__all__ = ["fit"]


def fit(
    epochs: int,
    model: nn.Module,
    optimizer: Any,
    loss_fn: Callable[[Any, Any], Tensor],
    train_dl: Any,
    valid_dl: Any,
    *,
    cbs: Iterable[Any] = (),
) -> tuple[float, float]:
    """Train a classifier, validate after each epoch, print a line for each; stays on the model's device.

    Args:
        epochs: at least 1.
        model: gives scores, (N, classes).
        optimizer: anything with ``step`` and ``zero_grad``.
        loss_fn: (preds, y) → a 0-d tensor.
        train_dl: batches ``(x, y)``, y class numbers.
        valid_dl: likewise.
        cbs: callbacks.

    Returns:
        The last validation's loss, weighted by batch sizes, and accuracy; NaN if there was none or it was cancelled.

    Raises:
        ValueError: ``epochs`` < 1, no ``valid_dl``, or targets that are not class numbers.
        TypeError: arguments in the wrong place.

    Source: ``fit`` as introductions to PyTorch define it ("the documents" of docs/from_your_loop.md).

    >>> from torch import optim
    >>> data = [(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))]
    >>> model = nn.Linear(1, 2)
    >>> _ = nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    >>> loss, accuracy = fit(1, model, optim.SGD(model.parameters(), lr=1.0), nn.CrossEntropyLoss(), data, data)
    0 loss = 0.31326165795326233, accuracy = 1.0
    """
    if not is_whole(epochs) or epochs < 1:
        raise ValueError(f"epochs is the number of epochs, so at least 1; got {epochs!r}")
    if valid_dl is None:
        raise ValueError(
            "fit prints each epoch's validation, so valid_dl is a loader; got None: Learner trains without"
        )
    check_parts(model, loss_fn, None, cbs, call="fit(epochs, model, optimizer, loss_fn, train_dl, valid_dl)")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    learn = Learner(
        model,
        (train_dl, valid_dl),
        loss_fn,
        cbs=[*cbs, _Line()],
        optimizer=optimizer,
        metrics={"accuracy": Accuracy()},
        device=device,
    )
    results = learn.fit(int(epochs))
    return results.get("loss", math.nan), results.get("accuracy", math.nan)


class _Line:
    """The documents' line for each epoch."""

    order = 70

    def after_validate(self, learn: Learner) -> None:
        row = learn.history[-1]
        if is_main():
            print(f"{learn.epoch} loss = {row['valid_loss']}, accuracy = {row['valid_accuracy']}")
