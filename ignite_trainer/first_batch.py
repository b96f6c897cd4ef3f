"""The first batch of each loader, looked at once: on every batch it would cost a wait for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .callbacks import has_point, in_order
from .events import TrainEvents
from .learner_like import LearnerLike
from .loss_size import TORCHS_FORWARDS, ignored_label, kind_of, labels_that_count
from .metrics import Accuracy, BatchMean
from .repeatable import repeatable
from .rng import rng_kept
from .steps import TrainStep
from .user_warnings import warn_user

__all__ = ["FirstBatchChecks", "check_broadcast", "check_loss", "check_predictions"]

_CLASS_LOSSES = (F.cross_entropy, F.nll_loss, *TORCHS_FORWARDS)
_BINARY_LOSSES = (
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits),
    *(nn.BCELoss.forward, nn.BCEWithLogitsLoss.forward),
)


class FirstBatchChecks:
    """Looks at predictions, targets and loss of the first batch that each engine does in a run.

    Args:
        learn: the Learner.

    Attributes:
        changed: called with an engine whose batch is to be looked at from now on, or no longer.
    """

    def __init__(self, learn: LearnerLike):
        self.learn = learn
        self.changed: Callable[[Any], None] = lambda engine: None
        self._expected: set[Any] = set()

    def expect(self, *engines: Any) -> None:
        """Look at the next batch of these engines."""
        for engine in engines:
            self._expected.add(engine)
            self.changed(engine)

    def points(self, engine: Any) -> set[str]:
        """The points at which an engine's batch is to be looked at; none once that is done."""
        return {"after_predict", "after_loss"} if engine in self._expected else set()

    def check_predictions(self, engine: Any) -> None:
        """At PREDICTED, after the callbacks: labels and shapes."""
        if engine not in self._expected or engine.cancelled:
            return
        learn, (preds, y) = self.learn, (self.learn.preds, self.learn.batch[1])
        counted = any(type(metric) is Accuracy for metric in learn.metrics.values())
        if counted and not engine.training and not self._may_be_replaced(engine):
            way_out = "give a function (preds, y) as the metric, which takes the"
            if not isinstance(preds, Tensor):
                raise TypeError(
                    f"accuracy compares scores, a tensor (N, classes); the model gives a {type(preds).__name__}: "
                    f"{way_out} scores out"
                )
            if not isinstance(y, Tensor):
                raise TypeError(
                    f"accuracy compares scores with class numbers, a tensor (N,); y is a {type(y).__name__}: "
                    f"{way_out} labels out"
                )
        if not isinstance(preds, Tensor) or not isinstance(y, Tensor):
            return
        check_predictions(learn.loss_func, preds, y, engine.phase)
        if not engine.training:
            self._check_metrics(preds, y)
        compared = not engine.training or preds.ndim < 2 or preds.shape[1] == 1  # training may mix its targets
        if compared and counted:
            Accuracy.check(preds, y)

    def _check_metrics(self, preds: Tensor, y: Tensor) -> None:
        """Numbers that look right and are not: labels that the loss leaves out, and shapes that a function lines up."""
        ignored = ignored_label(self.learn.loss_func)
        for name, metric in self.learn.metrics.items():
            counts_all = isinstance(metric, Accuracy) and metric.ignore_index is None
            if counts_all and ignored is not None and not labels_that_count(y, ignored).all():
                warn_user(
                    "accuracy counts every label; the first validation batch has some that the loss ignores: leave "
                    f"them out with metrics={{{name!r}: Accuracy(ignore_index={ignored})}}"
                )
            if isinstance(metric, BatchMean) and _may_broadcast(preds, y):
                function = repeatable(metric.function)
                if function is None:
                    continue
                with rng_kept():
                    value = torch.as_tensor(function(preds, y))
                check_broadcast(metric.function, preds, y, value, "validation", f"the metric {name!r}")

    def check_loss(self, engine: Any) -> None:
        """At LOSS_COMPUTED, before the callbacks: the loss itself; then the batch has been looked at."""
        if engine in self._expected and not engine.cancelled:
            learn = self.learn
            check_loss(learn.loss)
            if type(engine.step) is TrainStep and not learn.loss.requires_grad and not self._may_be_replaced(engine):
                raise ValueError(
                    "a training step goes down the gradient of the loss; this loss has none: thaw parameters with "
                    "requires_grad_(), detach neither predictions nor loss, and leave no_grad and inference_mode"
                )
            with learn.autocast():
                check_broadcast(learn.loss_func, learn.preds, learn.batch[1], learn.loss, engine.phase)
            self._expected.discard(engine)
            self.changed(engine)

    def _may_be_replaced(self, engine: Any) -> bool:
        """Whether a callback or a handler is still to see the loss, and may assign another."""
        return any(has_point(cb, "after_loss") for cb in in_order(self.learn.cbs)) or bool(
            engine.natives(TrainEvents.LOSS_COMPUTED)
        )


def check_predictions(loss_func: Any, preds: Tensor, y: Tensor, phase: str) -> None:
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
    loss_func, _, options = kind_of(loss_func)  # within a partial, too
    rule = getattr(type(loss_func), "forward", loss_func)
    if rule in _CLASS_LOSSES:
        if preds.shape != y.shape or not y.is_floating_point():  # else they are probabilities
            _check_form_of_labels(preds, y, phase)
            _check_labels(options.get("ignore_index", -100), preds, y, phase)
    elif rule in _BINARY_LOSSES and not y.is_floating_point():
        raise ValueError(
            f"binary cross-entropy takes targets as floats; the first {phase} batch has {y.dtype}: give y.float()"
        )
    elif _is_elementwise(loss_func) and _may_broadcast(preds, y):
        raise _broadcasts(preds, y, phase)


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


def check_broadcast(loss_func: Any, preds: Any, y: Any, loss: Tensor, phase: str, called: str = "the loss") -> None:
    """Refuse a user's own loss, or a metric, that has broadcast predictions and targets, all against all.

    To see that, it is given the predictions in the shape of the targets: a loss that aligns the two itself gives the
    same value then, or fails. One that might notice that it is called is left alone.

    Raises:
        ValueError: it gives another value.
    """
    if not isinstance(preds, Tensor) or not isinstance(y, Tensor) or not _may_broadcast(preds, y):
        return
    function = repeatable(loss_func)
    if function is None:
        return
    try:
        with torch.no_grad(), rng_kept():
            aligned = torch.as_tensor(function(preds.detach().reshape(y.shape), y))
    except Exception:  # whatever a loss raises where it is given another shape than it is made for
        return
    if not aligned.ndim and not loss.ndim and not torch.isclose(aligned, loss.detach(), equal_nan=True):
        raise _broadcasts(preds, y, phase, called)


def _shape_of_labels(preds: Tensor) -> tuple[int, ...]:
    return (*preds.shape[:1], *preds.shape[2:])


def _check_form_of_labels(preds: Tensor, y: Tensor, phase: str) -> None:
    if preds.ndim < 2:
        found = "one number a sample: give the model an output for each class"
        if y.ndim == 0:
            found = "one sample's: take DataLoader(samples, batch_size) as the loader"
        raise ValueError(
            "cross-entropy compares a row of scores a sample; the first "
            f"{phase} batch gave predictions of shape {tuple(preds.shape)}, {found}"
        )
    shape, dtypes = _shape_of_labels(preds), (torch.int64, torch.uint8) if preds.ndim == 2 else (torch.int64,)
    if y.shape == shape and y.dtype in dtypes:
        return
    if y.shape == preds.shape:
        way_out = "give y.argmax(1)"
    elif y.ndim == len(shape) + 1 and y.squeeze(1).shape == shape:
        way_out = "give y.squeeze(1)"
    elif preds.ndim > 2 and y.shape == preds.shape[:-1]:
        way_out = "move the classes to the second dimension, preds.movedim(-1, 1)"
    else:
        way_out = "give y.long()" if y.shape == shape else "look at both"
    raise ValueError(
        f"class numbers are int64 of shape {shape} for predictions of shape {tuple(preds.shape)}; the first "
        f"{phase} batch has {y.dtype} of shape {tuple(y.shape)}: {way_out}"
    )


def _check_labels(ignore_index: int, preds: Tensor, y: Tensor, phase: str) -> None:
    n_classes = preds.shape[1]
    labels = y[labels_that_count(y, ignore_index)]
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())  # waits for the device
    if low < 0 or high >= n_classes:
        raise ValueError(
            f"labels are class numbers from 0 to {n_classes - 1} for a model of {n_classes} outputs; the first "
            f"{phase} batch has {high if high >= n_classes else low}: number the classes from 0, or give the model "
            "more outputs"
        )


def _is_elementwise(loss_func: Any) -> bool:
    """Whether it is a loss of torch's, which does not line up shapes."""
    if isinstance(loss_func, nn.Module):
        return type(loss_func).__module__ == "torch.nn.modules.loss"
    return getattr(loss_func, "__module__", None) == "torch.nn.functional"


def _may_broadcast(preds: Tensor, y: Tensor) -> bool:
    """Whether shapes of as many elements broadcast to one of more: fine for a loss that aligns them itself."""
    if preds.shape == y.shape or preds.numel() != y.numel() or preds.numel() < 2:
        return False
    try:
        shape: torch.Size = torch.broadcast_shapes(preds.shape, y.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:  # the loss says so itself
        return False
    return shape.numel() > preds.numel()


def _broadcasts(preds: Tensor, y: Tensor, phase: str, called: str = "the loss") -> ValueError:
    return ValueError(
        f"predictions and targets have one shape, or {called} broadcasts them silently; the first {phase} batch has "
        f"{tuple(preds.shape)} against {tuple(y.shape)}: squeeze the one or unsqueeze the other"
    )
