"""The first batch of each loader, looked at once: on every batch it would cost a wait for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .metrics import Accuracy

__all__ = ["FirstBatchChecks", "check_loss", "check_predictions"]

# a subclass with a forward of its own may take other shapes
_CLASS_LOSSES = (F.cross_entropy, F.nll_loss, nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)
_BINARY_LOSSES = (
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits),
    *(nn.BCELoss.forward, nn.BCEWithLogitsLoss.forward),
)


class FirstBatchChecks:
    """Looks at predictions, targets and loss of the first batch that each engine does in a run.

    Args:
        learn: the Learner.

    Attributes:
        once_checked: called with the engine when its batch has been looked at.
    """

    def __init__(self, learn: Any):
        self.learn = learn
        self.once_checked: Callable[[Any], None] = lambda engine: None
        self._expected: set[Any] = set()

    def expect(self, *engines: Any) -> None:
        """Look at the next batch of these engines."""
        self._expected.update(engines)

    def points(self, engine: Any) -> set[str]:
        """The points at which an engine's batch is to be looked at; none once that is done."""
        return {"after_predict", "after_loss"} if engine in self._expected else set()

    def check_predictions(self, engine: Any) -> None:
        """At PREDICTED: labels and shapes."""
        if engine in self._expected:
            learn = self.learn
            check_predictions(learn.loss_func, learn.preds, learn.batch[1], engine.phase)
            if any(isinstance(metric, Accuracy) for metric in learn.metrics.values()):
                Accuracy.check(learn.preds, learn.batch[1])

    def check_loss(self, engine: Any) -> None:
        """At LOSS_COMPUTED: the loss itself; then the batch has been looked at."""
        if engine in self._expected:
            check_loss(self.learn.loss)
            self._expected.discard(engine)
            self.once_checked(engine)


def check_predictions(loss_func: Any, preds: Any, y: Any, phase: str) -> None:
    """Look at predictions and targets before the loss sees them.

    Args:
        loss_func: the loss; targets are checked where it is torch's cross-entropy, NLL or binary cross-entropy.
        preds: the model's output.
        y: the targets.
        phase: "training" or "validation", for the message.

    Raises:
        ValueError: a label that the model has no output for, targets of a shape or type that the loss does not take,
            or shapes that it would broadcast silently.
    """
    if not isinstance(preds, Tensor) or not isinstance(y, Tensor):
        return
    rule = getattr(type(loss_func), "forward", loss_func)
    if rule in _CLASS_LOSSES:
        if preds.shape != y.shape or not y.is_floating_point():  # else they are probabilities
            _check_form_of_labels(preds, y, phase)
            _check_labels(getattr(loss_func, "ignore_index", -100), preds, y, phase)
    elif rule in _BINARY_LOSSES and not y.is_floating_point():
        raise ValueError(
            f"binary cross-entropy takes targets as floats; the first {phase} batch has {y.dtype}: give y.float()"
        )
    elif y.is_floating_point() and preds.shape != y.shape and preds.numel() == y.numel() and preds.numel() > 1:
        _check_broadcast(loss_func, preds, y, phase)


def check_loss(loss: Any) -> None:
    """Refuse a loss that is no 0-d tensor.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has dimensions.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"a loss is a 0-d tensor; loss_func gave a {type(loss).__name__}")
    if loss.ndim:
        raise ValueError(
            f"a loss is a 0-d tensor; loss_func gave one of shape {tuple(loss.shape)}: take its mean (reduction='mean')"
        )


def _check_form_of_labels(preds: Tensor, y: Tensor, phase: str) -> None:
    if preds.ndim < 2:
        raise ValueError(
            f"a batch has a first dimension of samples; the first {phase} batch gave predictions of shape "
            f"{tuple(preds.shape)}, one sample's: take DataLoader(samples, batch_size) as the loader"
        )
    shape = (*preds.shape[:1], *preds.shape[2:])
    if y.shape != shape or y.dtype not in (torch.int64, torch.uint8):
        way_out = (
            "give y.squeeze(1)" if y.ndim > len(shape) else "give y.long()" if y.shape == shape else "look at both"
        )
        raise ValueError(
            f"class numbers are int64 of shape {shape} for predictions of shape {tuple(preds.shape)}; the first "
            f"{phase} batch has {y.dtype} of shape {tuple(y.shape)}: {way_out}"
        )


def _check_labels(ignore_index: int, preds: Tensor, y: Tensor, phase: str) -> None:
    n_classes = preds.shape[1]
    labels = y[y != ignore_index]
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())  # waits for the device
    if low < 0 or high >= n_classes:
        raise ValueError(
            f"labels are class numbers from 0 to {n_classes - 1} for a model of {n_classes} outputs; the first "
            f"{phase} batch has {high if high >= n_classes else low}: number the classes from 0, or give the model "
            "more outputs"
        )


def _check_broadcast(loss_func: Any, preds: Tensor, y: Tensor, phase: str) -> None:
    """As many elements in another shape: fine for a loss that lines them up itself, silently wrong otherwise."""
    try:
        torch.broadcast_shapes(preds.shape, y.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return  # the loss says so itself
    elementwise = isinstance(loss_func, nn.Module) and type(loss_func).__module__ == "torch.nn.modules.loss"
    if not elementwise and _depends_on_order(loss_func, preds, y):
        return
    raise ValueError(
        f"predictions and targets have one shape, or the loss broadcasts them silently; the first {phase} batch has "
        f"{tuple(preds.shape)} against {tuple(y.shape)}: squeeze the one or unsqueeze the other"
    )


def _depends_on_order(loss_func: Any, preds: Tensor, y: Tensor) -> bool:
    """Whether a loss changes with the order of the targets alone; one that broadcasts, all against all, does not."""
    if torch.equal(y, y.flip(0)):
        return True  # cannot be seen with such targets
    other = torch.rand(preds.shape, generator=torch.Generator().manual_seed(0), dtype=preds.dtype).to(preds.device)
    with torch.no_grad(), torch.random.fork_rng():
        return not torch.isclose(loss_func(other, y), loss_func(other, y.flip(0)))
